// Family gemm: C[batch.., m, n] = sum over k of A[batch.., m, k] * B[batch.., k, n], register-tiled.
//
// A grain is a block of rows and columns of one batch index. Inside it, tiles of columns are the outer loop, so that a
// panel of B stays in cache while the tiles of rows pass over it; every tile runs the whole of k with its accumulators
// in registers. Each element of C is summed in the order of k whatever tile it falls into, so results do not depend on
// how rows and columns are cut.
//
// Of weights packed in pairs of bf16 (and rows of bf16) k runs by pairs: one instruction multiplies and adds both where
// the target has it; elsewhere the first halves of the pairs are multiplied, then the second ones.
#include <algorithm>
#include <functional>

#include "backend/emit.h"

namespace sinter {
namespace {

class GemmEmitter {
 public:
  GemmEmitter(const KernelSpec& kernel, const Tile& tile, VectorBuilder& b)
      : kernel_(kernel),
        spec_(*kernel.gemm),
        tile_(tile),
        b_(b),
        m_(b.Dim(spec_.m)),
        n_(b.Dim(spec_.n)),
        k_(b.Dim(spec_.k)),
        depth_(spec_.packing == nullptr ? 1 : spec_.packing->depth),
        halves_(depth_ > 1 && !MultipliesPairs(b.target()) ? 2 : 1) {
    const size_t batch = spec_.batch.size();
    am_ = b.Dim(spec_.a.strides[batch]);
    ak_ = b.Dim(spec_.a.strides[batch + 1]);
    bk_ = b.Dim(spec_.b.strides[batch]);
    bn_ = b.Dim(spec_.b.strides[batch + 1]);
    cm_ = b.Dim(spec_.c.strides[batch]);
    cn_ = b.Dim(spec_.c.strides[batch + 1]);
  }

  void Emit() {
    ForGrains(b_, kernel_, [&](std::vector<Int> index) {
      const Int n0 = b_.Mul(index.back(), b_.Const(spec_.n_block));
      index.pop_back();
      const Int m0 = b_.Mul(index.back(), b_.Const(spec_.m_block));
      index.pop_back();
      a_ = AddressOf(b_, spec_.a, index);
      bb_ = AddressOf(b_, spec_.b, index);
      c_ = AddressOf(b_, spec_.c, index);
      const Int rows = RestOf(b_, m_, m0, spec_.m_block), columns = RestOf(b_, n_, n0, spec_.n_block);
      // Whole tiles of columns, then narrow ones, the last of which is masked.
      const int narrow = tile_.shape == TileShape::kDot ? 1
                         : spec_.packing != nullptr     ? spec_.packing->panel
                                                        : b_.lanes();
      int64_t all;
      const bool ragged = tile_.shape != TileShape::kDot && !(b_.IsConst(n_, &all) && all % narrow == 0);
      const int wide = static_cast<int>(std::min<int64_t>(tile_.columns, spec_.n_block));
      Steps(columns, {wide, narrow}, ragged, [&](Int n, int width, bool masked) {
        const Int left = b_.Sub(columns, n);
        const auto tile = [&](Int m, int height) {
          TileAt(b_.Add(m0, m), b_.Add(n0, n), height, width, masked ? &left : nullptr);
        };
        if (tile_.shape == TileShape::kDot) {
          return Steps(rows, {tile_.rows, 1}, false, [&](Int m, int height, bool) { tile(m, height); });
        }
        const Int whole = tile_.shape == TileShape::kFew ? b_.Const(0) : WholeTiles(rows);
        b_.For(b_.Const(0), whole, tile_.rows, {}, [&](Int m) { tile(m, tile_.rows); });
        const int rest = tile_.shape == TileShape::kFew ? tile_.rows : std::min(kRestRows, tile_.rows);
        b_.For(whole, rows, rest, {}, [&](Int m) { tile(m, rest); });
      });
    });
  }

 private:
  // Rows left by whole tiles go two at a time: one alone would read a panel for one multiply-add a load, and blocks of
  // an even number of rows leave no other rest of the usual lengths of a prompt.
  static constexpr int kRestRows = 2;

  // Covers [0, size) by steps of sizes[0] while they fit, then of the next size, and so on. `ragged`: the last size
  // also covers what is left of it, masked.
  void Steps(Int size, std::vector<int> sizes, bool ragged, const std::function<void(Int, int, bool)>& body) {
    Int done = b_.Const(0);
    int last = 0;
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (sizes[i] == last || sizes[i] == 0) continue;
      last = sizes[i];
      const Int step = b_.Const(last);
      const Int end = b_.Add(done, b_.Mul(b_.Div(b_.Sub(size, done), step), step));
      int64_t d, e;
      if (b_.IsConst(done, &d) && b_.IsConst(end, &e) && d == e) continue;
      const int width = last;
      b_.For(done, end, width, {}, [&](Int at) { body(at, width, false); });
      done = end;
    }
    int64_t known;
    if (ragged && !(b_.IsConst(size, &known) && known % last == 0)) {
      const int width = last;
      b_.For(done, size, width, {}, [&](Int at) { body(at, width, true); });
    }
  }

  Int WholeTiles(Int rows) {
    const Int height = b_.Const(tile_.rows);
    return b_.Mul(b_.Div(rows, height), height);
  }

  // Whether a tile of so many rows may reach past the last of the matrix: those are computed as the last and not
  // stored.
  bool Overhangs(int height) const {
    int64_t rows;
    return height > 1 && (height != tile_.rows || tile_.shape == TileShape::kFew) &&
           !(b_.IsConst(m_, &rows) && rows % height == 0);
  }

  // One tile of C at (m, n). `left`: how many columns there are from n on, when that may be fewer than the tile's.
  void TileAt(Int m, Int n, int height, int width, const Int* left) {
    if (tile_.shape == TileShape::kDot) return DotTile(m, n, height, width);
    const int vectors = width / b_.lanes();
    std::vector<Mask> masks;
    const auto make_masks = [&] {
      for (int v = 0; left != nullptr && v < vectors; ++v)
        masks.push_back(b_.FirstLanes(b_.Sub(*left, b_.Const(v * b_.lanes()))));
    };
    if (spec_.packing == nullptr) make_masks();
    std::vector<Vec> c = InitC(height * vectors);
    // Both matrices are walked by pointers; what a row of A or a vector of B is away from them does not change along k.
    Ptr a = b_.Offset(a_, spec_.a.dtype, b_.Mul(m, am_)), panel = PanelAt(n);
    std::vector<Int> rows, lanes;
    for (int r = 0; r < height; ++r) rows.push_back(b_.Mul(RowOfTile(m, r, height), am_));
    for (int v = 0; v < vectors; ++v) lanes.push_back(LaneOfPanel(v * b_.lanes()));
    std::vector<Handle*> carried = Carry(c);
    carried.push_back(&a);
    carried.push_back(&panel);
    b_.For(b_.Const(0), k_, depth_, carried, [&](Int) {
      const auto b_at = [&](int v) { return b_.Offset(panel, spec_.b.dtype, lanes[static_cast<size_t>(v)]); };
      if (height == 1) {
        std::vector<Vec> x;
        for (int half = 0; half < halves_; ++half) x.push_back(LoadA(b_.Offset(a, spec_.a.dtype, rows[0]), half));
        for (int v = 0; v < vectors; ++v) {
          const Vec row = LoadB(b_at(v), v, masks);
          for (int half = 0; half < halves_; ++half)
            Product(x[static_cast<size_t>(half)], Half(row, half), c[static_cast<size_t>(v)]);
        }
      }
      for (int half = 0; half < halves_ && height > 1; ++half) {
        std::vector<Vec> row;
        for (int v = 0; v < vectors; ++v) row.push_back(Half(LoadB(b_at(v), v, masks, /*anew=*/true), half));
        for (int r = 0; r < height; ++r) {
          const Vec x = LoadA(b_.Offset(a, spec_.a.dtype, rows[static_cast<size_t>(r)]), half);
          for (int v = 0; v < vectors; ++v)
            Product(x, row[static_cast<size_t>(v)], c[static_cast<size_t>(r * vectors + v)]);
        }
      }
      a = b_.Offset(a, spec_.a.dtype, b_.Mul(ak_, b_.Const(depth_)));
      panel = b_.Offset(panel, spec_.b.dtype, spec_.packing == nullptr ? bk_ : b_.Const(spec_.packing->panel * depth_));
    });
    if (spec_.packing != nullptr) make_masks();  // not before: they would take registers from the loop
    for (int r = 0; r < height; ++r) {
      const auto store = [&] {
        for (int v = 0; v < vectors; ++v)
          StoreC(m, n, r, v, Finish(c[static_cast<size_t>(r * vectors + v)]), left, masks);
      };
      if (Overhangs(height) && r > 0) {
        b_.If(b_.Less(b_.Add(m, b_.Const(r)), m_), store);
      } else {
        store();
      }
    }
  }

  // Row r of a tile at m.
  Int RowOfTile(Int m, int r, int height) {
    if (!Overhangs(height)) return b_.Const(r);
    return b_.Min(b_.Const(r), b_.Sub(b_.Sub(m_, b_.Const(1)), m));
  }

  std::vector<Vec> InitC(int count) { return std::vector<Vec>(static_cast<size_t>(count), b_.Splat(0.0)); }

  // Where the columns from n on begin, for k = 0.
  Ptr PanelAt(Int n) {
    if (spec_.packing == nullptr) return b_.Offset(bb_, spec_.b.dtype, b_.Mul(n, bn_));
    return b_.Offset(bb_, spec_.b.dtype, b_.Mul(n, k_));  // [N/panel][K][panel]: n is a multiple of the panel
  }

  // Where column `lane` of a tile lies, from column 0 on.
  Int LaneOfPanel(int lane) {
    if (spec_.packing == nullptr) return b_.Const(lane);
    const int width = spec_.packing->panel;
    return b_.Add(b_.Mul(b_.Const(int64_t{lane / width} * width), k_), b_.Const(int64_t{lane % width} * depth_));
  }

  // Of pairs both, or the half that is multiplied now.
  Vec LoadA(Ptr at, int half) {
    return depth_ > halves_ ? b_.LoadPairSplat(at)
                            : b_.LoadSplat(spec_.a.dtype, b_.Offset(at, spec_.a.dtype, b_.Const(half)));
  }

  // Vector v of a row of B; panels are padded and need no mask. Both halves of pairs; `anew`: for one half alone, where
  // tiles leave no registers that would hold them for the other.
  Vec LoadB(Ptr at, int v, const std::vector<Mask>& masks, bool anew = false) {
    if (depth_ > 1) return b_.LoadPairs(at, anew && halves_ > 1);
    const bool masked = spec_.packing == nullptr && !masks.empty();
    return b_.Load(spec_.b.dtype, at, masked ? &masks[static_cast<size_t>(v)] : nullptr);
  }
  Vec Half(Vec row, int half) { return halves_ > 1 ? b_.FromPairs(row, half) : row; }

  void Product(Vec a, Vec row, Vec& c) { c = depth_ > halves_ ? b_.DotPairs(a, row, c) : b_.Fma(a, row, c); }

  // Where an epilogue has its place: what is stored of a finished sum.
  Vec Finish(Vec c) { return c; }

  void StoreC(Int m, Int n, int r, int v, Vec c, const Int* left, const std::vector<Mask>& masks) {
    const Int column = b_.Add(n, b_.Const(v * b_.lanes()));
    const Ptr at = ElementOfC(b_.Add(m, b_.Const(r)), column);
    int64_t stride;
    if (b_.IsConst(cn_, &stride) && stride == 1) {
      b_.Store(spec_.c.dtype, at, c, masks.empty() ? nullptr : &masks[static_cast<size_t>(v)]);
    } else {
      b_.StoreStrided(spec_.c.dtype, at, cn_,
                      left == nullptr ? b_.Const(b_.lanes()) : b_.Sub(*left, b_.Const(v * b_.lanes())), c);
    }
  }

  Ptr ElementOfC(Int m, Int n) { return b_.Offset(c_, spec_.c.dtype, b_.Add(b_.Mul(m, cm_), b_.Mul(n, cn_))); }

  // height x width dot products; both matrices are contiguous along k.
  void DotTile(Int m, Int n, int height, int width) {
    std::vector<Vec> c = InitC(height * width);
    const Ptr a = b_.Offset(a_, spec_.a.dtype, b_.Mul(m, am_)), bb = b_.Offset(bb_, spec_.b.dtype, b_.Mul(n, bn_));
    const auto step = [&](Int k, const Mask* mask) {
      std::vector<Vec> rows;
      for (int r = 0; r < height; ++r) {
        rows.push_back(b_.Load(spec_.a.dtype, b_.Offset(a, spec_.a.dtype, b_.Add(b_.Mul(b_.Const(r), am_), k)), mask));
      }
      for (int w = 0; w < width; ++w) {
        const Vec y = b_.Load(spec_.b.dtype, b_.Offset(bb, spec_.b.dtype, b_.Add(b_.Mul(b_.Const(w), bn_), k)), mask);
        for (int r = 0; r < height; ++r)
          Product(rows[static_cast<size_t>(r)], y, c[static_cast<size_t>(r * width + w)]);
      }
    };
    const Int lanes = b_.Const(b_.lanes());
    const Int whole = b_.Mul(b_.Div(k_, lanes), lanes);
    b_.For(b_.Const(0), whole, b_.lanes(), Carry(c), [&](Int k) { step(k, nullptr); });
    int64_t known;
    if (!b_.IsConst(k_, &known) || known % b_.lanes() != 0) {
      b_.For(whole, k_, b_.lanes(), Carry(c), [&](Int k) {
        const Mask mask = b_.FirstLanes(b_.Sub(k_, k));
        step(k, &mask);
      });
    }
    for (int r = 0; r < height; ++r) {
      for (int w = 0; w < width; ++w) {
        const Vec sum = Finish(b_.ReduceAdd(c[static_cast<size_t>(r * width + w)]));
        b_.StoreFirst(spec_.c.dtype, ElementOfC(b_.Add(m, b_.Const(r)), b_.Add(n, b_.Const(w))), sum);
      }
    }
  }

  const KernelSpec& kernel_;
  const GemmSpec& spec_;
  const Tile& tile_;
  VectorBuilder& b_;
  Int m_, n_, k_;
  int depth_;   // of k that the packing keeps side by side
  int halves_;  // one after the other: of a pair that the target cannot multiply at once
  Int am_, ak_, bk_, bn_, cm_, cn_;
  Ptr a_, bb_, c_;  // of the batch index at hand
};

}  // namespace

void EmitGemm(const KernelSpec& spec, const Tile& tile, VectorBuilder& b) { GemmEmitter(spec, tile, b).Emit(); }

}  // namespace sinter
