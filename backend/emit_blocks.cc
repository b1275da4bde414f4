// Products with weights in blocks (packing blocks16): rows of q8_r meet them as bytes, rows of floats as floats.
//
// Of bytes: inside a group of elements that share a scale the quanta of both sides are multiplied and added as
// integers, exactly; the group's sum times both scales is added to C. With row scale a, column scale w and minimum m of
// a group:
//   C += a * w * (sum(qw * qa) - zero * sum(qa)) - m * a * sum(qa)
// where sum(qa) stands beside the row's quanta, so that zero costs an initial value of the sum. One instruction
// multiplies and adds four bytes where the target has it (vpdpbusd: weights are its unsigned operand); elsewhere
// VectorBuilder widens.
//
// Of floats: four elements of a column at a time become w * q - (w * zero + m), which is exact as Decode is, and are
// multiplied with the row's.
#include <algorithm>

#include "backend/gemm_emitter.h"
#include "backend/packed_blocks.h"

namespace sinter {
namespace {

class BlocksGemm : public GemmEmitter {
 public:
  BlocksGemm(const KernelSpec& kernel, const Tile& tile, VectorBuilder& b)
      : GemmEmitter(kernel, tile, b),
        format_(*FindQuantFormat(spec_.b.dtype)),
        layout_(format_),
        quads_(format_.group / static_cast<int>(PackedBlocks::kQuad)) {}

 protected:
  // A group of the columns of a tile, and where in a row's chunk of 32 elements it lies.
  struct Group {
    int index;                 // in the chunk
    Ptr scales;                // of the first column, minima `mins_away` further
    Ptr chunk;                 // its quanta
    Ptr unit;                  // where d lies
    std::vector<Int> columns;  // bytes from the first panel to the one of each vector
  };

  int Vectors(const Place& at) const { return at.width / b_.lanes(); }
  int LaneOf(int vector) const { return vector * b_.lanes() % static_cast<int>(PackedBlocks::kColumns); }
  Ptr Bytes(Ptr base, int64_t bytes) { return b_.Offset(base, DType::kI8, b_.Const(bytes)); }
  Ptr Bytes(Ptr base, Int bytes) { return b_.Offset(base, DType::kI8, bytes); }

  void Sum(const Place& at, const std::vector<Mask>&, std::vector<Vec>& c) override {
    const int64_t row_chunk = ElemBytes(spec_.a.dtype, PackedBlocks::kChunk);
    const int64_t chunks = format_.block() / PackedBlocks::kChunk;
    const int64_t units = spec_.k.constant() / format_.block(), panel_bytes = units * layout_.unit_bytes;
    std::vector<Int> columns;
    rows_.clear();
    for (int v = 0; v < Vectors(at); ++v)
      columns.push_back(b_.Const(v * b_.lanes() / PackedBlocks::kColumns * panel_bytes));
    for (int r = 0; r < at.height; ++r) {
      const Int elems = b_.Mul(RowOfTile(at, r), am_);
      rows_.push_back(b_.Mul(b_.Div(elems, b_.Const(PackedBlocks::kChunk)), b_.Const(row_chunk)));
    }
    Ptr a = b_.Offset(a_, spec_.a.dtype, b_.Mul(at.m, am_));
    Ptr unit = Bytes(bb_, b_.Mul(b_.Div(at.n, b_.Const(PackedBlocks::kColumns)), b_.Const(panel_bytes)));
    std::vector<Handle*> carried = Carry(c);
    carried.push_back(&a);
    std::vector<Handle*> of_units = carried;
    of_units.push_back(&unit);
    b_.For(b_.Const(0), b_.Const(units), 1, of_units, [&](Int) {
      Ptr scales = Bytes(unit, layout_.scales), chunk = Bytes(unit, layout_.chunks);
      std::vector<Handle*> of_chunks = carried;
      of_chunks.push_back(&scales);
      of_chunks.push_back(&chunk);
      b_.For(b_.Const(0), b_.Const(chunks), 1, of_chunks, [&](Int) {
        for (int g = 0; g < PackedBlocks::kChunk / format_.group; ++g)
          AddGroup(at, {g, scales, chunk, unit, columns}, a, c);
        a = Bytes(a, row_chunk);
        chunk = Bytes(chunk, layout_.chunk_bytes);
        scales = Bytes(scales, PackedBlocks::kChunk / format_.group * PackedBlocks::kColumns);
      });
      unit = Bytes(unit, layout_.unit_bytes);
    });
  }

  virtual void AddGroup(const Place& at, const Group& g, Ptr a, std::vector<Vec>& c) = 0;

  // Of vector v: w, and m where the format has minima.
  Vec Scale(const Group& g, int v) { return Factor(g, v, 0, 0); }
  Vec Minimum(const Group& g, int v) { return Factor(g, v, layout_.dmin, layout_.mins - layout_.scales); }
  Vec Factor(const Group& g, int v, int64_t halves, int64_t integers) {
    const Int column = g.columns[static_cast<size_t>(v)];
    const Vec d = b_.Load(DType::kF16, Bytes(Bytes(g.unit, column), halves + LaneOf(v) * int64_t{2}));
    if (!format_.integer_scales) return d;
    const int64_t own = integers + g.index * PackedBlocks::kColumns + LaneOf(v);
    return b_.Mul(d, b_.ToFloat(DType::kI8, b_.LoadInts(DType::kI8, Bytes(Bytes(g.scales, column), own))));
  }

  // The quanta of quad `quad` of the group, in the columns of vector v.
  Quads QuantaOf(const Group& g, int quad, int v) {
    const Ptr chunk = Bytes(Bytes(g.chunk, g.columns[static_cast<size_t>(v)]), LaneOf(v) * PackedBlocks::kQuad);
    const int q = g.index * quads_ + quad;
    if (format_.bits == 8) return b_.LoadQuads(Bytes(chunk, q * PackedBlocks::kRow));
    const Quads low = b_.BitsOf(b_.LoadQuads(Bytes(chunk, q % 4 * PackedBlocks::kRow)), q / 4 * 4, 4, 0);
    if (format_.bits == 4) return low;
    const int high_bits = format_.bits - 4, in_row = 8 / high_bits;
    const Quads high = b_.LoadQuads(Bytes(chunk, PackedBlocks::kHigh + q / in_row * PackedBlocks::kRow));
    return b_.Or(low, b_.BitsOf(high, q % in_row * high_bits, high_bits, 4));
  }

  const QuantFormat& format_;
  const PackedBlocks layout_;
  const int quads_;        // of a group
  std::vector<Int> rows_;  // bytes from the first row of the tile to each
};

class BytesGemm final : public BlocksGemm {
 public:
  using BlocksGemm::BlocksGemm;

 private:
  // Offsets in a block of q8_r.
  static constexpr int64_t kSums = 4, kQuanta = 12;

  void AddGroup(const Place& at, const Group& g, Ptr a, std::vector<Vec>& c) override {
    const int vectors = Vectors(at);
    const auto sum_of_row = [&](int r) {  // of its quanta in the group
      const Ptr sums = Bytes(Bytes(a, rows_[static_cast<size_t>(r)]), kSums);
      const Int sum = b_.LoadIndex(DType::kI32, Bytes(sums, g.index * 4));
      return format_.group == PackedBlocks::kChunk ? b_.Add(sum, b_.LoadIndex(DType::kI32, Bytes(sums, 4))) : sum;
    };
    const int zero = format_.zero - b_.BiasOf(format_.bits);
    std::vector<Sums> sums;
    for (int r = 0; r < at.height; ++r) {
      const Sums first = b_.SplatSum(zero == 0 ? b_.Const(0) : b_.Mul(sum_of_row(r), b_.Const(-zero)));
      sums.insert(sums.end(), static_cast<size_t>(vectors), first);
    }
    for (int q = 0; q < quads_; ++q) {
      std::vector<Quads> weights;
      for (int v = 0; v < vectors; ++v) weights.push_back(QuantaOf(g, q, v));
      for (int r = 0; r < at.height; ++r) {
        const int64_t quad = kQuanta + (g.index * quads_ + q) * PackedBlocks::kQuad;
        const Quads x = b_.LoadQuadSplat(Bytes(Bytes(a, rows_[static_cast<size_t>(r)]), quad));
        for (int v = 0; v < vectors; ++v) {
          Sums& sum = sums[static_cast<size_t>(r * vectors + v)];
          sum = b_.DotQuads(weights[static_cast<size_t>(v)], x, sum, format_.bits);
        }
      }
    }
    std::vector<Vec> scales, minima;
    for (int v = 0; v < vectors; ++v) {
      scales.push_back(Scale(g, v));
      if (format_.has_min) minima.push_back(b_.Neg(Minimum(g, v)));
    }
    for (int r = 0; r < at.height; ++r) {
      const Vec scale = b_.LoadSplat(DType::kF32, Bytes(a, rows_[static_cast<size_t>(r)]));
      const Vec of_row = format_.has_min ? b_.Mul(scale, b_.FromInt(sum_of_row(r))) : scale;
      for (int v = 0; v < vectors; ++v) {
        Vec& out = c[static_cast<size_t>(r * vectors + v)];
        const Vec sum = b_.ToFloat(sums[static_cast<size_t>(r * vectors + v)]);
        out = b_.Fma(sum, b_.Mul(scales[static_cast<size_t>(v)], scale), out);
        if (format_.has_min) out = b_.Fma(minima[static_cast<size_t>(v)], of_row, out);
      }
    }
  }
};

class DecodedGemm final : public BlocksGemm {
 public:
  using BlocksGemm::BlocksGemm;

 private:
  void AddGroup(const Place& at, const Group& g, Ptr a, std::vector<Vec>& c) override {
    const int vectors = Vectors(at);
    std::vector<Vec> scales, offsets;
    for (int v = 0; v < vectors; ++v) {
      scales.push_back(Scale(g, v));
      offsets.push_back(format_.has_min ? b_.Neg(Minimum(g, v)) : b_.Mul(scales.back(), b_.Splat(-format_.zero)));
    }
    for (int q = 0; q < quads_; ++q) {
      std::vector<Quads> quanta;
      for (int v = 0; v < vectors; ++v) quanta.push_back(QuantaOf(g, q, v));
      for (int i = 0; i < PackedBlocks::kQuad; ++i) {
        std::vector<Vec> weights;
        for (int v = 0; v < vectors; ++v) {
          const auto at_v = static_cast<size_t>(v);
          weights.push_back(b_.Fma(b_.FromQuads(quanta[at_v], i), scales[at_v], offsets[at_v]));
        }
        const Int k = b_.Const(g.index * format_.group + q * PackedBlocks::kQuad + i);
        for (int r = 0; r < at.height; ++r) {
          const Ptr row = Bytes(a, rows_[static_cast<size_t>(r)]);
          const Vec x = b_.LoadSplat(spec_.a.dtype, b_.Offset(row, spec_.a.dtype, k));
          for (int v = 0; v < vectors; ++v) {
            Vec& out = c[static_cast<size_t>(r * vectors + v)];
            out = b_.Fma(x, weights[static_cast<size_t>(v)], out);
          }
        }
      }
    }
  }
};

}  // namespace

void EmitBlocksGemm(const KernelSpec& spec, const Tile& tile, VectorBuilder& b) {
  if (spec.gemm->a.dtype == DType::kQ8_R) return BytesGemm(spec, tile, b).Emit();
  DecodedGemm(spec, tile, b).Emit();
}

}  // namespace sinter
