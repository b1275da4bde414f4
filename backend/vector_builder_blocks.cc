// Elements in blocks that share scales, as vectors.
#include <limits>

#include "backend/packed_blocks.h"
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

// d * s * (quantum - zero) - dmin * m, rounded once: the products of scales are exact.
Vec VectorBuilder::LoadOfUnit(const PackedBlocks& layout, Ptr unit, Int column, Int first) {
  constexpr int64_t kQuad = PackedBlocks::kQuad, kHalf = PackedBlocks::kChunk / 2;
  llvm::IRBuilder<>& b = s_->b;
  const QuantFormat& format = *layout.format;
  const auto at = [&](int64_t field, Int offset) { return Offset(unit, DType::kU8, Add(offset, Const(field))).v; };

  const Int group = Div(first, Const(format.group));
  const Int of_group = Add(Mul(group, Const(PackedBlocks::kColumns)), column), of_block = Mul(column, Const(2));
  const auto scaled = [&](int64_t half_field, int64_t int_field) {
    Value* half = s_->Widen(DType::kF16, b.CreateAlignedLoad(b.getInt16Ty(), at(half_field, of_block), llvm::Align(1)));
    if (!format.integer_scales) return half;
    return b.CreateFMul(half, b.CreateSIToFP(b.CreateLoad(b.getInt8Ty(), at(int_field, of_group)), b.getFloatTy()));
  };

  // Quads as bytes, widened: `count` different ones, repeated to fill the lanes.
  const Int in_chunk = Rem(first, Const(PackedBlocks::kChunk));
  const Int chunk =
      Add(Mul(Div(first, Const(PackedBlocks::kChunk)), Const(layout.chunk_bytes)), Mul(column, Const(kQuad)));
  const auto quads_from = [&](int64_t field, Int row, int count) {
    const int quads = lanes() / static_cast<int>(kQuad);
    std::vector<Value*> loaded;
    for (int i = 0; i < count; ++i) {
      const Int offset = Add(chunk, Mul(Add(row, Const(i)), Const(PackedBlocks::kRow)));
      loaded.push_back(b.CreateAlignedLoad(b.getInt32Ty(), at(layout.chunks + field, offset), llvm::Align(1)));
    }
    Value* all = llvm::PoisonValue::get(FixedVectorType::get(b.getInt32Ty(), static_cast<unsigned>(quads)));
    for (int i = 0; i < quads; ++i) {
      all = b.CreateInsertElement(all, loaded[static_cast<size_t>(i % count)], static_cast<uint64_t>(i));
    }
    return b.CreateZExt(b.CreateBitCast(all, s_->Lanes(b.getInt8Ty())), s_->Lanes(b.getInt32Ty()));
  };
  // Bits of each lane from `shift` + `step` * (the number of its quad) on.
  const auto bits_at = [&](Value* values, Int shift, int step, uint32_t mask) {
    std::vector<uint32_t> steps;
    for (int i = 0; i < lanes(); ++i) steps.push_back(static_cast<uint32_t>(i / static_cast<int>(kQuad) * step));
    Value* shifts = b.CreateAdd(s_->SplatOf(b.CreateTrunc(shift.v, b.getInt32Ty())),
                                llvm::ConstantDataVector::get(b.getContext(), steps));
    return b.CreateAnd(b.CreateLShr(values, shifts), mask);
  };

  const int all_quads = lanes() / static_cast<int>(kQuad);
  const Int half = Div(in_chunk, Const(kHalf)), quad = Div(in_chunk, Const(kQuad));
  const Int quad_of_half = Div(Rem(in_chunk, Const(kHalf)), Const(kQuad));
  Value* quanta;
  if (format.bits == 8) {
    quanta = quads_from(0, quad, all_quads);
  } else {
    quanta = bits_at(quads_from(0, quad_of_half, all_quads), Mul(half, Const(4)), 0, 15);
  }
  if (format.bits == 5) {
    Value* fifth = bits_at(quads_from(PackedBlocks::kHigh, Const(0), 1), quad, 1, 1);
    quanta = b.CreateOr(quanta, b.CreateShl(fifth, 4));
  }
  if (format.bits == 6) {
    Value* upper = bits_at(quads_from(PackedBlocks::kHigh, half, 1), Mul(quad_of_half, Const(2)), 2, 3);
    quanta = b.CreateOr(quanta, b.CreateShl(upper, 4));
  }
  Value* zero = llvm::ConstantInt::get(quanta->getType(), static_cast<uint64_t>(format.zero));
  const Vec q{b.CreateSIToFP(b.CreateSub(quanta, zero), s_->Floats())};
  const Vec scale{s_->SplatOf(scaled(0, layout.scales))};
  if (!format.has_min) return Mul(q, scale);
  return Fma(q, scale, Neg(Vec{s_->SplatOf(scaled(layout.dmin, layout.mins))}));
}

}  // namespace sinter
