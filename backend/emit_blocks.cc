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
#include <cstddef>

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
    Ptr chunk;                 // of the first panel
    Ptr unit;                  // where d lies
    std::vector<Int> columns;  // bytes from the first panel to the one of each vector
  };

  int LaneOf(int vector) const { return vector * b_.lanes() % static_cast<int>(PackedBlocks::kColumns); }
  Ptr Bytes(Ptr base, int64_t bytes) { return b_.Offset(base, DType::kI8, b_.Const(bytes)); }
  Ptr Bytes(Ptr base, Int bytes) { return b_.Offset(base, DType::kI8, bytes); }

  void Sum(const Place& at, const std::vector<Mask>&, std::vector<Vec>& c) override {
    const int64_t row_chunk = ElemBytes(spec_.a.dtype, PackedBlocks::kChunk);
    const int64_t chunks = format_.block() / PackedBlocks::kChunk;
    const int64_t units = spec_.k.constant() / format_.block(), panel_bytes = units * layout_.unit_bytes;
    std::vector<Int> columns;
    columns.reserve(static_cast<size_t>(Vectors(at)));
    rows_.clear();
    for (int v = 0; v < Vectors(at); ++v)
      columns.push_back(b_.Const(v * b_.lanes() / PackedBlocks::kColumns * panel_bytes));
    for (int r = 0; r < at.height; ++r) {
      const Int elems = b_.Mul(RowOfTile(at, r), am_);
      rows_.push_back(b_.Mul(b_.Div(elems, b_.Const(PackedBlocks::kChunk)), b_.Const(row_chunk)));
    }
    Ptr a = b_.Offset(a_, spec_.a.dtype, b_.Mul(at.m, am_));
    Ptr unit = Bytes(bb_, b_.Mul(b_.Div(at.n, b_.Const(PackedBlocks::kColumns)), b_.Const(panel_bytes)));
    std::vector<Handle*> carried;
    if (InScratch(at)) {
      for (size_t i = 0; i < c.size(); ++i) b_.Store(DType::kF32, ScratchOf(i), c[i]);
    } else {
      carried = Carry(c);
    }
    carried.push_back(&a);
    const int64_t panels = at.width / PackedBlocks::kColumns;
    NextPanels next;
    if (at.height > 1) {
      next = PanelsAfter(at, Bytes(unit, panels * panel_bytes), panel_bytes, ChunkShare());
      carried.push_back(&next.from);
    }
    std::vector<Handle*> of_units = carried;
    of_units.push_back(&unit);
    const auto pass = [&](int64_t first, int64_t end, int64_t ahead) {
      b_.For(b_.Const(first), b_.Const(end), 1, of_units, [&](Int) {
        Ptr chunk = Bytes(unit, layout_.chunks);
        std::vector<Handle*> of_chunks = carried;
        of_chunks.push_back(&chunk);
        b_.For(b_.Const(0), b_.Const(chunks), 1, of_chunks, [&](Int) {
          if (at.height == 1) {
            FetchAhead(chunk, panels, panel_bytes, ahead);
          } else {
            Fetch(next);
          }
          for (int g = 0; g < PackedBlocks::kChunk / format_.group; ++g) AddGroup(at, {g, chunk, unit, columns}, a, c);
          a = Bytes(a, row_chunk);
          chunk = Bytes(chunk, layout_.chunk_bytes);
        });
        unit = Bytes(unit, layout_.unit_bytes);
      });
    };
    if (at.height > 1 || panels == 1 || !AsksMemoryAhead()) {
      pass(0, units, kAheadBytes);
    } else {  // where a panel ends, its stream goes on in the next tile, past the others
      const int64_t ahead = std::min(units, CeilDiv(kAheadBytesOfMany, layout_.unit_bytes));
      pass(0, units - ahead, ahead * layout_.unit_bytes);
      pass(units - ahead, units, ahead * layout_.unit_bytes + (panels - 1) * panel_bytes);
    }
    if (!InScratch(at)) return;
    for (size_t i = 0; i < c.size(); ++i) c[i] = b_.Load(DType::kF32, ScratchOf(i));
  }

  // Whether c of a tile lies in scratch, and not in registers, while groups are added.
  virtual bool InScratch(const Place&) const { return false; }
  Ptr ScratchOf(size_t vector) {
    return b_.Offset(b_.Scratch(), DType::kF32, b_.Const(static_cast<int64_t>(vector) * b_.lanes()));
  }

  // Bytes of a unit for each of its chunks.
  int64_t ChunkShare() const { return CeilDiv(layout_.unit_bytes * PackedBlocks::kChunk, format_.block()); }

  // One row takes so little time that memory must be asked well before, and for every line of it, what units hold
  // beside chunks included: with one line in nine left out it is slower than unasked. The panels of a tile are as many
  // streams.
  static constexpr int64_t kAheadBytes = 4096, kAheadBytesOfMany = 2048;
  void FetchAhead(Ptr chunk, int64_t panels, int64_t panel_bytes, int64_t ahead) {
    if (!AsksMemoryAhead()) return;
    for (int64_t at = ahead; at < ahead + panels * panel_bytes; at += panel_bytes) {
      for (int64_t line = 0; line < ChunkShare(); line += kLineBytes)
        b_.Prefetch(Bytes(chunk, at + line), /*once=*/true);
    }
  }

  virtual void AddGroup(const Place& at, const Group& g, Ptr a, std::vector<Vec>& c) = 0;

  // Of vector v: w, and m where the format has minima.
  Vec Scale(const Group& g, int v) { return Factor(g, v, 0, 0); }
  Vec Minimum(const Group& g, int v) { return Factor(g, v, layout_.dmin, layout_.mins); }
  Vec Factor(const Group& g, int v, int64_t halves, int64_t integers) {
    const Int column = g.columns[static_cast<size_t>(v)];
    const Vec d = b_.Load(DType::kF16, Bytes(Bytes(g.unit, column), halves + LaneOf(v) * int64_t{2}));
    if (!format_.integer_scales) return d;
    const int64_t own = integers + g.index * PackedBlocks::kColumns + LaneOf(v);
    return b_.Mul(d, b_.ToFloat(DType::kI8, b_.LoadInts(DType::kI8, Bytes(Bytes(g.chunk, column), own))));
  }

  int HighBits() const { return format_.bits < 8 ? format_.bits - 4 : 0; }

  // Quads are met in runs of steps: in step s of a run those numbered quads[i] + s * stride of the chunk. Two make a
  // step, of which nibbles share a row if they are of one group; where registers are few, one does, but of 4 bits.
  struct Run {
    std::vector<int> quads;
    int stride, steps;
  };
  std::vector<Run> RunsOf(int group) const {
    const int first = group * quads_;
    const bool nibbles = format_.bits < 8;
    if (!b_.target().HasManyRegisters() && format_.bits > 4) {
      if (!nibbles) return {{{first}, 1, quads_}};
      std::vector<Run> runs;
      for (int quad = first; quad < first + quads_; quad += kNibbleRows) runs.push_back({{quad}, 1, kNibbleRows});
      return runs;
    }
    if (nibbles && quads_ > kNibbleRows) return {{{first, first + kNibbleRows}, 1, kNibbleRows}};
    return {{{first, first + 1}, 2, quads_ / 2}};
  }

  // What a step takes of vector v. `high`: the row of bits above the nibbles, shifted so that those of the step are
  // where those of step `at` were.
  std::vector<Quads> QuantaOf(const Group& g, const Run& run, Int step, int v, Quads high, int at) {
    std::vector<Quads> quanta;
    const int bits = HighBits();
    for (const int quad : run.quads) {
      const int row = format_.bits == 8 ? quad : quad % kNibbleRows;
      const Int away = b_.Mul(step, b_.Const(run.stride * PackedBlocks::kRow));
      Quads q = b_.LoadQuads(Bytes(Bytes(Column(g, v), layout_.low + row * PackedBlocks::kRow), away));
      if (format_.bits < 8) q = b_.BitsOf(q, quad / kNibbleRows * 4, 4, 0);
      if (bits > 0) q = b_.Or(q, b_.BitsOf(high, (quad + at * run.stride) * bits % 8, bits, 4));
      quanta.push_back(q);
    }
    return quanta;
  }

  // Calls `body` for each step with the quanta [vector][quad] of it, of `count` vectors from `first` on, and, of each
  // quad, how many elements it is from the start of a row's chunk. What it changes is `carried` by the loop. One row
  // needs none: it leaves registers enough.
  using Quanta = std::vector<std::vector<Quads>>;
  void ForSteps(const Place& at, const Group& g, int first, int count, const std::vector<Handle*>& carried,
                const std::function<void(const std::vector<Int>& elems, Quanta)>& body) {
    for (const Run& run : RunsOf(g.index)) {
      std::vector<Quads> high;
      for (int v = first; HighBits() > 0 && v < first + count; ++v) {
        const int64_t row = run.quads[0] * HighBits() / 8;
        high.push_back(b_.LoadQuads(Bytes(Column(g, v), layout_.high + row * PackedBlocks::kRow)));
      }
      const auto visit = [&](Int step, int in_high) {
        std::vector<Int> elems;
        for (const int quad : run.quads) {
          const Int number = b_.Add(b_.Const(quad), b_.Mul(step, b_.Const(run.stride)));
          elems.push_back(b_.Mul(number, b_.Const(PackedBlocks::kQuad)));
        }
        Quanta quanta;
        for (int v = first; v < first + count; ++v) {
          const Quads upper = high.empty() ? Quads{} : high[static_cast<size_t>(v - first)];
          quanta.push_back(QuantaOf(g, run, step, v, upper, in_high));
        }
        body(elems, std::move(quanta));
      };
      if (at.height == 1 && b_.target().HasManyRegisters()) {
        for (int step = 0; step < run.steps; ++step) visit(b_.Const(step), step);
        continue;
      }
      std::vector<Handle*> all = carried;
      for (Quads& h : high) all.push_back(&h);
      b_.For(b_.Const(0), b_.Const(run.steps), 1, all, [&](Int step) {
        visit(step, 0);
        for (Quads& h : high) h = b_.ShiftRight(h, HighBits() * run.stride);
      });
    }
  }

  // The chunk's quanta in the columns of vector v.
  Ptr Column(const Group& g, int v) {
    return Bytes(Bytes(g.chunk, g.columns[static_cast<size_t>(v)]), LaneOf(v) * PackedBlocks::kQuad);
  }
  static constexpr int kNibbleRows = 4;

  const QuantFormat& format_;
  const PackedBlocks layout_;
  const int quads_;        // of a group
  std::vector<Int> rows_;  // bytes from the first row of the tile to each
};

class BytesGemm final : public BlocksGemm {
 public:
  using BlocksGemm::BlocksGemm;

 private:
  static constexpr int64_t kSums = offsetof(RowBlock, sums), kQuanta = offsetof(RowBlock, quanta);

  // Sums of integers and of floats, what a step takes, and bits above nibbles.
  bool InScratch(const Place& at) const override {
    const int step = Vectors(at) + 3 + (HighBits() > 0 ? 2 * Vectors(at) : 0);
    return 2 * at.height * Vectors(at) + step > b_.target().registers;
  }

  void AddGroup(const Place& at, const Group& g, Ptr a, std::vector<Vec>& c) override {
    const int vectors = Vectors(at), zero = format_.zero - b_.BiasOf(format_.bits);
    const auto sum_of_row = [&](int r) {  // of its quanta in the group
      const Ptr sums = Bytes(Bytes(a, rows_[static_cast<size_t>(r)]), kSums);
      const Int sum = b_.LoadIndex(DType::kI32, Bytes(sums, g.index * 4));
      return format_.group == PackedBlocks::kChunk ? b_.Add(sum, b_.LoadIndex(DType::kI32, Bytes(sums, 4))) : sum;
    };
    const auto first = [&](int r) { return zero == 0 ? b_.Const(0) : b_.Mul(sum_of_row(r), b_.Const(-zero)); };
    std::vector<Sums> sums;
    for (int r = 0; r < at.height; ++r)
      sums.insert(sums.end(), static_cast<size_t>(vectors), b_.StartSums(first(r), format_.bits));
    std::vector<Handle*> carried(sums.size());
    std::transform(sums.begin(), sums.end(), carried.begin(), [](Sums& sum) { return &sum; });
    ForSteps(at, g, 0, vectors, carried, [&](const std::vector<Int>& elems, const Quanta& weights) {
      for (int r = 0; r < at.height; ++r) {
        const Ptr row = Bytes(Bytes(a, rows_[static_cast<size_t>(r)]), kQuanta);
        std::vector<Quads> x(elems.size());
        std::transform(elems.begin(), elems.end(), x.begin(),
                       [&](Int at_quad) { return b_.LoadQuadSplat(Bytes(row, at_quad)); });
        for (size_t v = 0; v < weights.size(); ++v) {
          Sums& sum = sums[static_cast<size_t>(r * vectors) + v];
          sum = b_.DotQuads(weights[v], x, sum, format_.bits);
        }
      }
    });
    std::vector<Vec> scales(static_cast<size_t>(vectors)), minima(scales);
    const auto load = [&](int v) {
      scales[static_cast<size_t>(v)] = Scale(g, v);
      if (format_.has_min) minima[static_cast<size_t>(v)] = Minimum(g, v);
    };
    const auto finish = [&](int r, int v) {
      const size_t i = static_cast<size_t>(r * vectors) + static_cast<size_t>(v);
      const Vec scale = b_.LoadSplat(DType::kF32, Bytes(a, rows_[static_cast<size_t>(r)]));
      const Sums sum = b_.FinishSums(sums[i], first(r), format_.bits);
      Vec out = InScratch(at) ? b_.Load(DType::kF32, ScratchOf(i)) : c[i];
      out = b_.Fma(b_.ToFloat(sum), b_.Mul(scales[static_cast<size_t>(v)], scale), out);
      if (format_.has_min) {
        const Vec of_row = b_.Neg(b_.Mul(scale, b_.FromInt(sum_of_row(r))));
        out = b_.Fma(minima[static_cast<size_t>(v)], of_row, out);
      }
      if (InScratch(at)) {
        b_.Store(DType::kF32, ScratchOf(i), out);
      } else {
        c[i] = out;
      }
    };
    const auto each = [](int count, const std::function<void(int)>& body) {
      for (int i = 0; i < count; ++i) body(i);
    };
    if (!b_.target().HasManyRegisters()) {  // the scales of one vector at a time
      each(vectors, [&](int v) {
        load(v);
        each(at.height, [&](int r) { finish(r, v); });
      });
    } else {
      each(vectors, load);
      each(at.height, [&](int r) { each(vectors, [&](int v) { finish(r, v); }); });
    }
  }
};

class DecodedGemm final : public BlocksGemm {
 public:
  using BlocksGemm::BlocksGemm;

 private:
  void AddGroup(const Place& at, const Group& g, Ptr a, std::vector<Vec>& c) override {
    const int vectors = Vectors(at), together = b_.target().HasManyRegisters() ? vectors : 1;
    for (int first = 0; first < vectors; first += together) AddVectors(at, g, first, together, a, c);
  }

  // The same of `count` vectors from `first` on.
  void AddVectors(const Place& at, const Group& g, int first, int count, Ptr a, std::vector<Vec>& c) {
    std::vector<Vec> scales, offsets;
    std::vector<Handle*> sums;
    for (int v = first; v < first + count; ++v) {
      scales.push_back(Scale(g, v));
      offsets.push_back(format_.has_min ? b_.Neg(Minimum(g, v)) : b_.Mul(scales.back(), b_.Splat(-format_.zero)));
      for (int r = 0; r < at.height; ++r)
        sums.push_back(&c[static_cast<size_t>(r * Vectors(at)) + static_cast<size_t>(v)]);
    }
    ForSteps(at, g, first, count, sums, [&](const std::vector<Int>& elems, Quanta quanta) {
      for (size_t i = 0; i < elems.size(); ++i) {
        std::vector<Handle*> carried = sums;
        for (std::vector<Quads>& of_vector : quanta) carried.push_back(&of_vector[i]);
        b_.For(b_.Const(0), b_.Const(PackedBlocks::kQuad), 1, carried, [&](Int byte) {
          std::vector<Vec> weights;
          for (size_t v = 0; v < quanta.size(); ++v) {
            weights.push_back(b_.Fma(b_.FirstOfQuads(quanta[v][i]), scales[v], offsets[v]));
            quanta[v][i] = b_.ShiftRight(quanta[v][i], 8);
          }
          const Int k = b_.Add(elems[i], byte);
          for (int r = 0; r < at.height; ++r) {
            const Ptr row = Bytes(a, rows_[static_cast<size_t>(r)]);
            const Vec x = b_.LoadSplat(spec_.a.dtype, b_.Offset(row, spec_.a.dtype, k));
            for (size_t v = 0; v < weights.size(); ++v) {
              Vec& out = c[static_cast<size_t>(r * Vectors(at) + first) + v];
              out = b_.Fma(x, weights[v], out);
            }
          }
        });
      }
    });
  }
};

}  // namespace

void EmitBlocksGemm(const KernelSpec& spec, const Tile& tile, VectorBuilder& b) {
  if (spec.gemm->a.dtype == DType::kQ8_R) return BytesGemm(spec, tile, b).Emit();
  DecodedGemm(spec, tile, b).Emit();
}

}  // namespace sinter
