// What emitters share: where an access points, and how grains are cut.
#include "backend/emit.h"

#include <algorithm>
#include <utility>

namespace sinter {

Int PlaceOf(VectorBuilder& b, const Access& access, const std::vector<Int>& indices) {
  Int at = b.Dim(access.offset);
  for (size_t i = 0; i < indices.size(); ++i) at = b.Add(at, b.Mul(indices[i], b.Dim(access.strides[i])));
  if (access.gather) {
    Int index = b.Dim(access.gather->offset);
    for (size_t i = 0; i < indices.size(); ++i)
      index = b.Add(index, b.Mul(indices[i], b.Dim(access.gather->strides[i])));
    const Ptr element = b.Offset(b.Operand(access.gather->operand, false), access.gather->dtype, index);
    const Int row = b.Within(b.LoadIndex(access.gather->dtype, element), b.Dim(access.gather->rows));
    at = b.Add(at, b.Mul(row, b.Dim(access.gather->row_stride)));
  }
  return at;
}

Ptr AddressOf(VectorBuilder& b, const Access& access, const std::vector<Int>& indices) {
  return b.Offset(b.Operand(access.operand, access.state), access.dtype, PlaceOf(b, access, indices));
}

RowOfBlocks::RowOfBlocks(VectorBuilder& b, const Access& access, int64_t elems, const std::vector<Int>& indices)
    : layout_(*FindQuantFormat(access.dtype)) {
  const Int row = b.Div(PlaceOf(b, access, indices), b.Const(elems)), width = b.Const(PackedBlocks::kColumns);
  const Int panel_bytes = b.Const(elems / layout_.format->block() * layout_.unit_bytes);
  panel_ = b.Offset(b.Operand(access.operand, false), DType::kU8, b.Mul(b.Div(row, width), panel_bytes));
  column_ = b.Rem(row, width);
}

Vec RowOfBlocks::Load(VectorBuilder& b, Int at) const {
  const Int block = b.Const(layout_.format->block());
  const Ptr unit = b.Offset(panel_, DType::kU8, b.Mul(b.Div(at, block), b.Const(layout_.unit_bytes)));
  return b.LoadOfUnit(layout_, unit, column_, b.Rem(at, block));
}

namespace {

// How many blocks each factor has, the last perhaps a part of one.
std::vector<Int> BlocksOf(VectorBuilder& b, const std::vector<ExtentFactor>& extent) {
  std::vector<Int> blocks;
  for (const ExtentFactor& f : extent) {
    const Int size = b.Dim(f.expr);
    blocks.push_back(f.block == 1 ? size : b.Div(b.Add(size, b.Const(f.block - 1)), b.Const(f.block)));
  }
  return blocks;
}

}  // namespace

Int GrainsOf(VectorBuilder& b, const KernelSpec& spec) {
  Int grains = b.Const(1);
  for (const Int blocks : BlocksOf(b, spec.extent)) grains = b.Mul(grains, blocks);
  return grains;
}

void ForGrainsTogether(VectorBuilder& b, const KernelSpec& spec, int together,
                       const std::function<void(std::vector<std::vector<Int>> blocks)>& body) {
  const std::vector<Int> blocks = BlocksOf(b, spec.extent);
  const auto is_one = [&](size_t i) {
    int64_t count;
    return b.IsConst(blocks[i], &count) && count == 1;
  };
  std::vector<size_t> cut;  // factors of more than one block, slow ones first
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (!is_one(i)) cut.push_back(i);
  }
  std::stable_partition(cut.begin(), cut.end(), [&](size_t i) { return !spec.extent[i].fastest; });
  const auto block_of = [&](Int grain) {
    std::vector<Int> block(blocks.size(), b.Const(0));
    for (size_t i = cut.size(); i-- > 0;) {
      block[cut[i]] = i == 0 ? grain : b.Rem(grain, blocks[cut[i]]);
      if (i > 0) grain = b.Div(grain, blocks[cut[i]]);
    }
    return block;
  };
  const auto groups_of = [&](int count, Int begin, Int end) {
    b.For(begin, end, count, {}, [&](Int grain) {
      std::vector<std::vector<Int>> group;
      for (int i = 0; i < count; ++i) group.push_back(block_of(b.Add(grain, b.Const(i))));
      body(std::move(group));
    });
  };
  Int rest = b.Begin();
  if (together > 1 && !cut.empty()) {
    rest = b.Sub(b.End(), b.Rem(b.Sub(b.End(), b.Begin()), b.Const(together)));
    groups_of(together, b.Begin(), rest);
  }
  groups_of(1, rest, b.End());
}

void ForGrains(VectorBuilder& b, const KernelSpec& spec, const std::function<void(std::vector<Int> block)>& body) {
  ForGrainsTogether(b, spec, 1, [&](std::vector<std::vector<Int>> blocks) { body(std::move(blocks[0])); });
}

Int RestOf(VectorBuilder& b, Int size, Int first, int64_t block) {
  int64_t known;
  if (b.IsConst(size, &known) && known % block == 0) return b.Const(block);
  if (b.IsConst(size, &known) && known < block) return size;
  return block == 1 ? b.Const(1) : b.Min(b.Sub(size, first), b.Const(block));
}

std::vector<Handle*> Carry(std::vector<Vec>& values) {
  std::vector<Handle*> carried;
  for (Vec& v : values) carried.push_back(&v);
  return carried;
}

}  // namespace sinter
