// Family gemm: C[batch.., m, n] = sum over k of A[batch.., m, k] * B[batch.., k, n], register-tiled: what all products
// share, and those of floats, where a tile has its accumulators in registers over the whole of k, or over a block of it
// (GemmSpec::k_block) between two of which they lie in scratch.
//
// Of weights packed in pairs of bf16 (and rows of bf16) k runs by pairs: one instruction multiplies and adds both where
// the target has it; elsewhere the first halves of the pairs are multiplied, then the second ones.
#include <algorithm>

#include "backend/gemm_emitter.h"

namespace sinter {

GemmEmitter::GemmEmitter(const KernelSpec& kernel, const Tile& tile, VectorBuilder& b)
    : kernel_(kernel),
      spec_(*kernel.gemm),
      tile_(tile),
      b_(b),
      m_(b.Dim(spec_.m)),
      n_(b.Dim(spec_.n)),
      k_(b.Dim(spec_.k)),
      k_block_(spec_.k_block(tile.columns)),
      k_from_(b.Const(0)),
      k_to_(k_) {
  const size_t batch = spec_.batch.size();
  am_ = b.Dim(spec_.a.strides[batch]);
  ak_ = b.Dim(spec_.a.strides[batch + 1]);
  bk_ = b.Dim(spec_.b.strides[batch]);
  bn_ = b.Dim(spec_.b.strides[batch + 1]);
  cm_ = b.Dim(spec_.c.strides[batch]);
}

namespace {

// Rows left by whole tiles go two at a time: one alone would read a panel for one multiply-add a load, and blocks of
// an even number of rows leave no other rest of the usual lengths of a prompt.
constexpr int kRestRows = 2, kRestRowsOfBlocks = 4;

}  // namespace

// Few rows of blocks that would leave half of a tile empty go in a rest instead: that half would be computed, too.
int GemmEmitter::RestRows() const {
  const bool blocks = spec_.packing != nullptr && spec_.packing->blocks;
  if (IsFew() && (!blocks || tile_.rows <= kRestRowsOfBlocks)) return tile_.rows;
  return std::min(blocks ? kRestRowsOfBlocks : kRestRows, tile_.rows);
}

void GemmEmitter::Emit() {
  ForGrains(b_, kernel_, [&](std::vector<Int> index) {
    const Int n0 = b_.Mul(index.back(), b_.Const(spec_.n_block));
    index.pop_back();
    const Int m0 = b_.Mul(index.back(), b_.Const(spec_.m_block));
    index.pop_back();
    a_ = AddressOf(b_, spec_.a, index);
    bb_ = AddressOf(b_, spec_.b, index);
    c_ = AddressOf(b_, spec_.c, index);
    const Int rows = RestOf(b_, m_, m0, spec_.m_block), columns = RestOf(b_, n_, n0, spec_.n_block);
    m_end_ = b_.Add(m0, rows);
    // Whole tiles of columns, then narrow ones, the last of which is masked.
    const int narrow = tile_.shape == TileShape::kDot ? 1
                       : spec_.packing != nullptr     ? spec_.packing->panel
                                                      : b_.lanes();
    int64_t all;
    const bool ragged = tile_.shape != TileShape::kDot && !(b_.IsConst(n_, &all) && all % narrow == 0);
    const int wide = static_cast<int>(std::min<int64_t>(tile_.columns, spec_.n_block));
    Steps(columns, {wide, narrow}, ragged, [&](Int n, int width, bool masked) {
      const Int left = b_.Sub(columns, n);
      if (tile_.shape == TileShape::kDot) {
        return Steps(rows, {tile_.rows, 1}, false, [&](Int m, int height, bool) {
          TileAt({b_.Add(m0, m), b_.Add(n0, n), height, width}, masked ? &left : nullptr);
        });
      }
      const int rest = RestRows();
      // Of few rows all go in whole tiles, which may reach past the last, or all in rests.
      const Int whole = !IsFew()            ? WholeTiles(rows)
                        : rest < tile_.rows ? b_.Mul(rows, IsPositive(b_.Sub(rows, b_.Const(rest))))
                                            : b_.Const(0);
      const auto tiles = [&](const std::function<void(const Place&, Ptr sums)>& body) {
        const auto at = [&](Int m, int height, bool is_rest) {
          const Ptr sums = k_block_ == 0 ? Ptr{} : b_.Offset(b_.Scratch(), DType::kF32, b_.Mul(m, b_.Const(width)));
          body({b_.Add(m0, m), b_.Add(n0, n), height, width, is_rest}, sums);
        };
        b_.For(b_.Const(0), whole, tile_.rows, {}, [&](Int m) { at(m, tile_.rows, IsFew()); });
        b_.For(whole, rows, rest, {}, [&](Int m) { at(m, rest, true); });
      };
      if (k_block_ == 0) return tiles([&](const Place& at, Ptr) { TileAt(at, masked ? &left : nullptr); });
      tiles([&](const Place& at, Ptr sums) { StoreSums(sums, Zeros(at)); });
      b_.For(b_.Const(0), k_, static_cast<int>(k_block_), {}, [&](Int k) {
        k_from_ = k;
        k_to_ = b_.Min(b_.Add(k, b_.Const(k_block_)), k_);
        tiles([&](const Place& at, Ptr sums) {
          std::vector<Vec> c = LoadSums(sums, at);
          Sum(at, {}, c);
          StoreSums(sums, c);
        });
      });
      tiles([&](const Place& at, Ptr sums) { StoreTile(at, LoadSums(sums, at), masked ? &left : nullptr); });
    });
  });
}

// Covers [0, size) by steps of sizes[0] while they fit, then of the next size, and so on. `ragged`: the last size
// also covers what is left of it, masked.
void GemmEmitter::Steps(Int size, std::vector<int> sizes, bool ragged,
                        const std::function<void(Int, int, bool)>& body) {
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

Int GemmEmitter::WholeTiles(Int rows) {
  const Int height = b_.Const(tile_.rows);
  return b_.Mul(b_.Div(rows, height), height);
}

// Whether a tile may reach past the last row of its grain: such rows are computed as the last and not stored, for the
// next grain's may be another thread's, and done.
bool GemmEmitter::Overhangs(const Place& at) const {
  if (!at.rest || at.height == 1) return false;
  const auto fits = [&](int64_t rows) {  // of a block, what whole tiles leave
    const int64_t whole = IsFew() ? 0 : rows / tile_.rows * tile_.rows;
    return (rows - whole) % at.height == 0;
  };
  int64_t rows;
  return !(b_.IsConst(m_, &rows) && fits(std::min(rows, spec_.m_block)) && fits(rows % spec_.m_block));
}

Int GemmEmitter::RowOfTile(const Place& at, int r) {
  if (!Overhangs(at)) return b_.Const(r);
  return b_.Min(b_.Const(r), b_.Sub(b_.Sub(m_end_, b_.Const(1)), at.m));
}

GemmEmitter::NextPanels GemmEmitter::PanelsAfter(const Place& at, Ptr next, int64_t apart, int64_t step) {
  const int64_t panels = at.width / spec_.packing->panel, tiles = IsFew() ? 1 : std::min<int64_t>(2, panels);
  const Int rows = b_.Const(spec_.m_block), one = b_.Const(1);
  const Int tile = b_.Div(b_.Rem(at.m, rows), b_.Const(at.height));
  const Int blocks_left = b_.Sub(b_.Div(b_.Sub(m_, one), rows), b_.Div(at.m, rows));
  const Int asks = b_.Mul(IsPositive(b_.Sub(b_.Const(tiles), tile)), IsPositive(b_.Sub(one, blocks_left)));
  NextPanels after;
  after.panels = panels / tiles;
  after.apart = apart;
  after.lines = CeilDiv(step, kLineBytes);
  after.from = b_.Offset(next, DType::kI8, b_.Mul(tile, b_.Const(after.panels * apart)));
  after.step = b_.Mul(asks, b_.Const(step));
  return after;
}

void GemmEmitter::Fetch(NextPanels& next) {
  for (int64_t panel = 0; panel < next.panels; ++panel) {
    for (int64_t line = 0; line < next.lines; ++line)
      b_.Prefetch(b_.Offset(next.from, DType::kI8, b_.Const(panel * next.apart + line * kLineBytes)));
  }
  next.from = b_.Offset(next.from, DType::kI8, next.step);
}

void GemmEmitter::TileAt(const Place& at, const Int* left) {
  std::vector<Vec> c = Zeros(at);
  Sum(at, spec_.packing == nullptr ? MasksOf(at, left) : std::vector<Mask>(), c);
  StoreTile(at, c, left);
}

// Made where they are used: masks would take registers from the loop over k.
std::vector<Mask> GemmEmitter::MasksOf(const Place& at, const Int* left) {
  std::vector<Mask> masks;
  for (int v = 0; left != nullptr && v < Vectors(at); ++v)
    masks.push_back(b_.FirstLanes(b_.Sub(*left, b_.Const(v * b_.lanes()))));
  return masks;
}

std::vector<Vec> GemmEmitter::Zeros(const Place& at) {
  return std::vector<Vec>(static_cast<size_t>(at.height * Vectors(at)), b_.Splat(0.0));
}

Ptr GemmEmitter::SumAt(Ptr sums, size_t vector) {
  return b_.Offset(sums, DType::kF32, b_.Const(static_cast<int64_t>(vector) * b_.lanes()));
}

void GemmEmitter::StoreSums(Ptr sums, const std::vector<Vec>& c) {
  for (size_t i = 0; i < c.size(); ++i) b_.Store(DType::kF32, SumAt(sums, i), c[i]);
}

std::vector<Vec> GemmEmitter::LoadSums(Ptr sums, const Place& at) {
  std::vector<Vec> c(static_cast<size_t>(at.height * Vectors(at)));
  for (size_t i = 0; i < c.size(); ++i) c[i] = b_.Load(DType::kF32, SumAt(sums, i));
  return c;
}

void GemmEmitter::StoreTile(const Place& at, const std::vector<Vec>& c, const Int* left) {
  const std::vector<Mask> masks = MasksOf(at, left);
  for (int r = 0; r < at.height; ++r) {
    const auto store = [&] {
      for (int v = 0; v < Vectors(at); ++v) {
        const Ptr to = ElementOfC(b_.Add(at.m, b_.Const(r)), b_.Add(at.n, b_.Const(v * b_.lanes())));
        b_.Store(spec_.c.dtype, to, c[static_cast<size_t>(r * Vectors(at) + v)],
                 masks.empty() ? nullptr : &masks[static_cast<size_t>(v)]);
      }
    };
    if (Overhangs(at) && r > 0) {
      b_.If(b_.Less(b_.Add(at.m, b_.Const(r)), m_end_), store);
    } else {
      store();
    }
  }
}

namespace {

class FloatGemm final : public GemmEmitter {
 public:
  FloatGemm(const KernelSpec& kernel, const Tile& tile, VectorBuilder& b)
      : GemmEmitter(kernel, tile, b),
        depth_(spec_.packing == nullptr ? 1 : spec_.packing->depth),
        halves_(depth_ > 1 && !MultipliesPairs(b.target()) ? 2 : 1) {}

 private:
  void TileAt(const Place& at, const Int* left) override {
    if (tile_.shape != TileShape::kDot) return GemmEmitter::TileAt(at, left);
    DotTile(at.m, at.n, at.height, at.width);
  }

  void Sum(const Place& at, const std::vector<Mask>& masks, std::vector<Vec>& c) override {
    const int vectors = Vectors(at), height = at.height;
    // Both matrices are walked by pointers; what a row of A or a vector of B is away from them does not change along k.
    Ptr a = b_.Offset(a_, spec_.a.dtype, b_.Add(b_.Mul(at.m, am_), b_.Mul(k_from_, ak_)));
    Ptr panel = b_.Offset(PanelAt(at.n), spec_.b.dtype,
                          b_.Mul(k_from_, spec_.packing == nullptr ? bk_ : b_.Const(spec_.packing->panel)));
    std::vector<Int> rows, lanes;
    for (int r = 0; r < height; ++r) rows.push_back(b_.Mul(RowOfTile(at, r), am_));
    for (int v = 0; v < vectors; ++v) lanes.push_back(LaneOfPanel(v * b_.lanes()));
    std::vector<Handle*> carried = Carry(c);
    carried.push_back(&a);
    carried.push_back(&panel);
    NextPanels next;
    // With more rows it brings nothing: so much is computed with a panel that the CPU looks far enough ahead.
    const bool fetches = IsFew() && spec_.packing != nullptr && spec_.k.is_const();
    if (fetches) {
      const int64_t row = ElemBytes(spec_.b.dtype, spec_.packing->panel), apart = spec_.k.constant() * row;
      next = PanelsAfter(at, b_.Offset(panel, DType::kI8, b_.Const(at.width / spec_.packing->panel * apart)), apart,
                         depth_ * row);
      carried.push_back(&next.from);
    }
    b_.For(k_from_, k_to_, depth_, carried, [&](Int) {
      if (fetches) Fetch(next);
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
  }

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

  // height x width dot products; both matrices are contiguous along k.
  void DotTile(Int m, Int n, int height, int width) {
    std::vector<Vec> c(static_cast<size_t>(height * width), b_.Splat(0.0));
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
        const Vec sum = b_.ReduceAdd(c[static_cast<size_t>(r * width + w)]);
        b_.StoreFirst(spec_.c.dtype, ElementOfC(b_.Add(m, b_.Const(r)), b_.Add(n, b_.Const(w))), sum);
      }
    }
  }

  int depth_;   // of k that the packing keeps side by side
  int halves_;  // one after the other: of a pair that the target cannot multiply at once
};

}  // namespace

void EmitGemm(const KernelSpec& spec, const Tile& tile, VectorBuilder& b) {
  if (spec.gemm->packing != nullptr && spec.gemm->packing->blocks) return EmitBlocksGemm(spec, tile, b);
  FloatGemm(spec, tile, b).Emit();
}

}  // namespace sinter
