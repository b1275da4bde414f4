// What the emitters of products share: grains, blocks of rows and columns, tiles, and how a tile is stored. An emitter
// says how a tile is summed over k. Included by emit_gemm.cc and emit_blocks.cc alone.
//
// A grain is a block of rows and columns of one batch index. Inside it, tiles of columns are the outer loop, so that a
// panel of B stays in cache while the tiles of rows pass over it. Each element of C is summed in the order of k
// whatever tile it falls into, so results do not depend on how rows and columns are cut.
#pragma once

#include <functional>
#include <vector>

#include "backend/emit.h"

namespace sinter {

class GemmEmitter {
 public:
  GemmEmitter(const KernelSpec& kernel, const Tile& tile, VectorBuilder& b);
  virtual ~GemmEmitter() = default;
  void Emit();

 protected:
  // A tile of C: `height` rows from m on by `width` columns from n on.
  struct Place {
    Int m, n;
    int height, width;
    bool rest = false;  // it may reach past the last row of the grain
  };

  // Adds the products of a tile over the block of k at hand to c, [height][width / lanes]. `masks`: of the vectors of
  // columns, where they may reach past the last column and B is not packed; empty elsewhere.
  virtual void Sum(const Place& at, const std::vector<Mask>& masks, std::vector<Vec>& c) = 0;
  int Vectors(const Place& at) const { return at.width / b_.lanes(); }
  // One tile, summed over all of k and stored. `left`: how many columns there are from n on, when that may be fewer
  // than the tile's.
  virtual void TileAt(const Place& at, const Int* left);

  // The panels of B that come next, which tiles of several rows ask memory for while they use others: or the first rows
  // that pass over a panel would wait for it. The first tiles of the last block of rows do, a part of the panels each.
  struct NextPanels {
    Ptr from;                                  // what is asked for next, of the first panel of the part
    Int step;                                  // bytes on from there each time, 0 where a tile asks for nothing
    int64_t panels = 0, apart = 0, lines = 0;  // of the part; bytes between panels; asked for at a time, of each
  };
  // `next`: the first of them, `step`: bytes of a panel that a tile uses between two calls of Fetch.
  NextPanels PanelsAfter(const Place& at, Ptr next, int64_t apart, int64_t step);
  void Fetch(NextPanels& next);
  static constexpr int64_t kLineBytes = 64;
  bool IsFew() const { return tile_.shape == TileShape::kFew || tile_.shape == TileShape::kBlocksFew; }

  // Row r of a tile: rows past the last of the grain are computed as the last and not stored.
  Int RowOfTile(const Place& at, int r);
  Ptr ElementOfC(Int m, Int n) { return b_.Offset(c_, spec_.c.dtype, b_.Add(b_.Mul(m, cm_), n)); }

  const KernelSpec& kernel_;
  const GemmSpec& spec_;
  const Tile& tile_;
  VectorBuilder& b_;
  Int m_, n_, k_;
  Int m_end_;  // past the rows of the grain at hand
  int64_t k_block_;
  Int k_from_, k_to_;  // of the block of k at hand: all of it where k_block_ is 0
  Int am_, ak_, bk_, bn_, cm_;
  Ptr a_, bb_, c_;  // of the batch index at hand

 private:
  void Steps(Int size, std::vector<int> sizes, bool ragged, const std::function<void(Int, int, bool)>& body);
  Int WholeTiles(Int rows);
  int RestRows() const;
  Int IsPositive(Int n) { return b_.Max(b_.Min(n, b_.Const(1)), b_.Const(0)); }  // 1 or 0
  bool Overhangs(const Place& at) const;
  std::vector<Mask> MasksOf(const Place& at, const Int* left);
  std::vector<Vec> Zeros(const Place& at);
  // Sums of a tile in scratch, between blocks of k.
  Ptr SumAt(Ptr sums, size_t vector);
  void StoreSums(Ptr sums, const std::vector<Vec>& c);
  std::vector<Vec> LoadSums(Ptr sums, const Place& at);
  void StoreTile(const Place& at, const std::vector<Vec>& c, const Int* left);
};

}  // namespace sinter
