// What emitters share: where an access points, and how grains are cut.
#include "backend/emit.h"

namespace sinter {

Ptr AddressOf(VectorBuilder& b, const Access& access, const std::vector<Int>& indices) {
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
  return b.Offset(b.Operand(access.operand, access.state), access.dtype, at);
}

std::vector<Int> SplitGrain(VectorBuilder& b, Int grain, const std::vector<Int>& sizes) {
  std::vector<Int> indices(sizes.size());
  for (size_t i = sizes.size(); i-- > 0;) {
    int64_t size;
    const bool one = b.IsConst(sizes[i], &size) && size == 1;
    bool last = true;  // no factor before this one has more than one grain
    for (size_t j = 0; j < i; ++j) last &= b.IsConst(sizes[j], &size) && size == 1;
    indices[i] = one ? b.Const(0) : last ? grain : b.Rem(grain, sizes[i]);
    if (!one && !last) grain = b.Div(grain, sizes[i]);
  }
  return indices;
}

Int BlocksOf(VectorBuilder& b, Int size, int64_t block) {
  return block == 1 ? size : b.Div(b.Add(size, b.Const(block - 1)), b.Const(block));
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
