// Elements in blocks that share scales, as vectors.
#include <limits>

#include "backend/vector_builder.h"
#include "backend/vector_builder_state.h"

namespace sinter {

Vec VectorBuilder::LoadOfBlock(Ptr block, Int first) {
  // f16 scale, then 32 x i8.
  Value* scale = s_->Widen(DType::kF16, s_->b.CreateAlignedLoad(s_->b.getInt16Ty(), block.v, llvm::Align(1)));
  const Ptr at = Offset(block, DType::kI8, Add(first, Const(2)));
  Value* quanta = s_->b.CreateSIToFP(s_->LoadVector(s_->b.getInt8Ty(), llvm::Align(1), at.v, nullptr), s_->Floats());
  return Mul(Vec{quanta}, Vec{s_->SplatOf(scale)});
}
void VectorBuilder::StoreBlock(Ptr block, const std::vector<Vec>& values) {
  Vec largest = Abs(values[0]);
  for (size_t i = 1; i < values.size(); ++i) largest = Max(largest, Abs(values[i]));
  largest = ReduceMax(largest);
  // What is not finite leaves no scale; no quantum is made of it.
  const Vec finite = Select(LessThan(largest, Splat(std::numeric_limits<float>::infinity())), largest,
                            Splat(std::numeric_limits<double>::quiet_NaN()));
  const Vec scale = Div(finite, Splat(127));
  Value* half = s_->Narrow(DType::kF16, s_->b.CreateExtractElement(scale.v, uint64_t{0}));
  s_->b.CreateAlignedStore(half, block.v, llvm::Align(1));
  const Mask some = LessThan(Splat(0), scale);
  for (size_t i = 0; i < values.size(); ++i) {
    // Adding 1.5 * 2^23 rounds to nearest even and leaves the integer in the low bits.
    const Vec rounded = Add(Select(some, Div(values[i], scale), Splat(0)), Splat(12582912.0));
    Value* bits = s_->b.CreateBitCast(rounded.v, s_->Lanes(s_->b.getInt32Ty()));
    Value* quanta = s_->b.CreateTrunc(bits, s_->Lanes(s_->b.getInt8Ty()));
    const Ptr at = Offset(block, DType::kI8, Const(2 + static_cast<int64_t>(i) * lanes()));
    s_->StoreVector(quanta, llvm::Align(1), at.v, nullptr);
  }
}

}  // namespace sinter
