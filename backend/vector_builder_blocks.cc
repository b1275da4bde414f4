// Elements in blocks that share scales, as vectors.
#include <llvm/IR/IntrinsicsX86.h>

#include <cstddef>
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

// As Encode has it. Magnitudes are compared as integers, of which NaN is the largest.
void VectorBuilder::StoreBlock(DType dtype, Ptr block, const std::vector<Vec>& values) {
  llvm::IRBuilder<>& b = s_->b;
  llvm::Type *const ints = s_->Lanes(b.getInt32Ty()), *const f32 = b.getFloatTy();
  const auto number = [&](double value) { return llvm::ConstantFP::get(f32, value); };
  const bool rows = dtype == DType::kQ8_R;
  Value* magnitude = nullptr;
  for (const Vec& v : values) {
    Value* const bits = b.CreateAnd(b.CreateBitCast(v.v, ints), llvm::ConstantInt::get(ints, 0x7fffffff));
    magnitude = magnitude == nullptr ? bits : b.CreateBinaryIntrinsic(llvm::Intrinsic::umax, magnitude, bits);
  }
  Value* const bits = b.CreateIntMaxReduce(magnitude);
  Value* const largest = b.CreateBitCast(bits, f32);
  // What is not finite leaves no scale; its quanta do not matter.
  Value* const finite = b.CreateICmpULT(bits, b.getInt32(0x7f800000));
  Value* scale = b.CreateSelect(finite, b.CreateFDiv(largest, number(127)), llvm::ConstantFP::getNaN(f32));
  Value* inverse = nullptr;
  if (rows) {
    Value* const some = b.CreateFCmpOGE(largest, number(kLeastQuantized));
    inverse = b.CreateSelect(some, b.CreateFDiv(number(127), largest), number(0));
    scale = b.CreateSelect(b.CreateFCmpOLT(largest, number(kLeastQuantized)), number(0), scale);
  }
  b.CreateAlignedStore(s_->Narrow(rows ? DType::kF32 : DType::kF16, scale), block.v, llvm::Align(1));
  const Mask some = LessThan(Splat(0), Vec{s_->SplatOf(scale)});
  const int64_t quanta_at = Info(dtype).block_bytes - Info(dtype).block_elems;
  std::vector<Value*> halves;  // sums of the quanta of 16 elements
  for (size_t i = 0; i < values.size(); ++i) {
    const Vec scaled = rows ? Mul(values[i], Vec{s_->SplatOf(inverse)})
                            : Select(some, Div(values[i], Vec{s_->SplatOf(scale)}), Splat(0));
    // Adding 1.5 * 2^23 rounds to nearest even and leaves the integer in the low bits.
    Value* const quanta =
        b.CreateSub(b.CreateBitCast(Add(scaled, Splat(12582912.0)).v, ints), llvm::ConstantInt::get(ints, 0x4b400000));
    const Ptr at = Offset(block, DType::kI8, Const(quanta_at + static_cast<int64_t>(i) * lanes()));
    s_->StoreVector(b.CreateTrunc(quanta, s_->Lanes(b.getInt8Ty())), llvm::Align(1), at.v, nullptr);
    if (static_cast<int64_t>(i) * lanes() % 16 == 0) {
      halves.push_back(quanta);
    } else {
      halves.back() = b.CreateAdd(halves.back(), quanta);
    }
  }
  if (!rows) return;
  for (size_t i = 0; i < halves.size(); ++i) {
    const Ptr at =
        Offset(block, DType::kI8, Const(static_cast<int64_t>(offsetof(RowBlock, sums) + i * sizeof(int32_t))));
    b.CreateAlignedStore(b.CreateAddReduce(halves[i]), at.v, llvm::Align(1));
  }
}

Quads VectorBuilder::LoadQuads(Ptr at) {
  return {s_->b.CreateAlignedLoad(s_->Lanes(s_->b.getInt32Ty()), at.v, llvm::Align(1))};
}
Quads VectorBuilder::LoadQuadSplat(Ptr at) {
  return {s_->SplatOf(s_->b.CreateAlignedLoad(s_->b.getInt32Ty(), at.v, llvm::Align(1)))};
}
Quads VectorBuilder::BitsOf(Quads a, int first, int count, int to) {
  Value* moved = a.v;
  if (first > to) moved = s_->b.CreateLShr(moved, static_cast<uint64_t>(first - to));
  if (first < to) moved = s_->b.CreateShl(moved, static_cast<uint64_t>(to - first));
  // Bits that came from a neighbouring byte are outside of the mask.
  const uint32_t mask = ((1U << count) - 1) << to;
  return {s_->b.CreateAnd(moved, llvm::ConstantInt::get(moved->getType(), mask * 0x01010101U))};
}
Quads VectorBuilder::Or(Quads a, Quads b) { return {s_->b.CreateOr(a.v, b.v)}; }
Quads VectorBuilder::ShiftRight(Quads a, int bits) { return {s_->b.CreateLShr(a.v, static_cast<uint64_t>(bits))}; }
Sums VectorBuilder::StartSums(Int first, int bits) {
  if (KeepsHalves(bits)) first = Const(0);
  return {s_->SplatOf(s_->b.CreateTrunc(first.v, s_->b.getInt32Ty()))};
}
Sums VectorBuilder::DotQuads(const std::vector<Quads>& a, const std::vector<Quads>& b, Sums sum, int bits) {
  using namespace llvm::Intrinsic;
  llvm::IRBuilder<>& ir = s_->b;
  const bool wide = lanes() == 16;
  if (MultipliesBytes(target())) {
    const ID dot = wide ? x86_avx512_vpdpbusd_512 : x86_avx512_vpdpbusd_256;
    for (size_t i = 0; i < a.size(); ++i) sum.v = s_->Call(dot, {}, {sum.v, a[i].v, b[i].v});
    return sum;
  }
  const auto count = static_cast<unsigned>(lanes());
  llvm::Type* const bytes = FixedVectorType::get(ir.getInt8Ty(), 4 * count);
  llvm::Type* const halves = FixedVectorType::get(ir.getInt16Ty(), 2 * count);
  Value* products = nullptr;  // sums of two, in 16 bits, where so many fit
  const auto add = [&](Value* x, Value* y) {
    Value* const pairs = s_->Call(wide ? x86_avx512_pmaddubs_w_512 : x86_avx2_pmadd_ub_sw, {}, {x, y});
    products = products == nullptr ? pairs : ir.CreateAdd(products, pairs);
  };
  const auto settle = [&] {
    Value* const ones = llvm::ConstantInt::get(halves, 1);
    sum.v = ir.CreateAdd(sum.v, s_->Call(wide ? x86_avx512_pmaddw_d_512 : x86_avx2_pmadd_wd, {}, {products, ones}));
    products = nullptr;
  };
  for (size_t i = 0; i < a.size(); ++i) {
    Value *const x = ir.CreateBitCast(a[i].v, bytes), *const y = ir.CreateBitCast(b[i].v, bytes);
    if (BiasOf(bits) == 0) {
      add(x, y);
      continue;
    }
    // Sums of two products of full bytes pass 16 bits; those of a - 128, whose sign goes to b, do not.
    Value* const zero = llvm::Constant::getNullValue(bytes);
    Value* const less = ir.CreateXor(x, llvm::ConstantInt::get(bytes, 0x80));
    add(ir.CreateBinaryIntrinsic(llvm::Intrinsic::abs, less, ir.getFalse()),
        wide ? ir.CreateSelect(ir.CreateICmpSLT(less, zero), ir.CreateSub(zero, y), y)
             : s_->Call(x86_avx2_psign_b, {}, {y, less}));
    settle();
  }
  if (KeepsHalves(bits))
    return {ir.CreateBitCast(ir.CreateAdd(ir.CreateBitCast(sum.v, halves), products), sum.v->getType())};
  if (products != nullptr) settle();
  return sum;
}
Sums VectorBuilder::FinishSums(Sums sums, Int first, int bits) {
  if (!KeepsHalves(bits)) return sums;
  llvm::IRBuilder<>& ir = s_->b;
  llvm::Type* const halves = FixedVectorType::get(ir.getInt16Ty(), 2 * static_cast<unsigned>(lanes()));
  Value* const joined =
      s_->Call(lanes() == 16 ? llvm::Intrinsic::x86_avx512_pmaddw_d_512 : llvm::Intrinsic::x86_avx2_pmadd_wd, {},
               {ir.CreateBitCast(sums.v, halves), llvm::ConstantInt::get(halves, 1)});
  return {ir.CreateAdd(joined, s_->SplatOf(ir.CreateTrunc(first.v, ir.getInt32Ty())))};
}
Vec VectorBuilder::ToFloat(Sums sums) { return {s_->b.CreateSIToFP(sums.v, s_->Floats())}; }
Vec VectorBuilder::FirstOfQuads(Quads a) {
  return {s_->b.CreateSIToFP(s_->b.CreateAnd(a.v, llvm::ConstantInt::get(a.v->getType(), 0xff)), s_->Floats())};
}

// d * s * (quantum - zero) - dmin * m, rounded once: the products of scales are exact.
Vec VectorBuilder::LoadOfUnit(const PackedBlocks& layout, Ptr unit, Int column, Int first) {
  constexpr int64_t kQuad = PackedBlocks::kQuad, kHalf = PackedBlocks::kChunk / 2;
  llvm::IRBuilder<>& b = s_->b;
  const QuantFormat& format = *layout.format;
  const auto at = [&](int64_t field, Int offset) { return Offset(unit, DType::kU8, Add(offset, Const(field))).v; };

  const Int chunk = Add(Mul(Div(first, Const(PackedBlocks::kChunk)), Const(layout.chunk_bytes)), Const(layout.chunks));
  const Int in_chunk = Rem(first, Const(PackedBlocks::kChunk));
  const Int of_group = Add(chunk, Add(Mul(Div(in_chunk, Const(format.group)), Const(PackedBlocks::kColumns)), column));
  const auto scaled = [&](int64_t half_field, int64_t int_field) {
    Value* const half_at = at(half_field, Mul(column, Const(2)));
    Value* half = s_->Widen(DType::kF16, b.CreateAlignedLoad(b.getInt16Ty(), half_at, llvm::Align(1)));
    if (!format.integer_scales) return half;
    return b.CreateFMul(half, b.CreateSIToFP(b.CreateLoad(b.getInt8Ty(), at(int_field, of_group)), b.getFloatTy()));
  };

  // Quads as bytes, widened: `count` different ones, repeated to fill the lanes.
  const Int quads_at = Add(chunk, Mul(column, Const(kQuad)));
  const auto quads_from = [&](int64_t field, Int row, int count) {
    const int quads = lanes() / static_cast<int>(kQuad);
    std::vector<Value*> loaded;
    for (int i = 0; i < count; ++i) {
      const Int offset = Add(quads_at, Mul(Add(row, Const(i)), Const(PackedBlocks::kRow)));
      loaded.push_back(b.CreateAlignedLoad(b.getInt32Ty(), at(field, offset), llvm::Align(1)));
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
    quanta = quads_from(layout.low, quad, all_quads);
  } else {
    quanta = bits_at(quads_from(layout.low, quad_of_half, all_quads), Mul(half, Const(4)), 0, 15);
  }
  if (format.bits == 5) {
    Value* fifth = bits_at(quads_from(layout.high, Const(0), 1), quad, 1, 1);
    quanta = b.CreateOr(quanta, b.CreateShl(fifth, 4));
  }
  if (format.bits == 6) {
    Value* upper = bits_at(quads_from(layout.high, half, 1), Mul(quad_of_half, Const(2)), 2, 3);
    quanta = b.CreateOr(quanta, b.CreateShl(upper, 4));
  }
  Value* zero = llvm::ConstantInt::get(quanta->getType(), static_cast<uint64_t>(format.zero));
  const Vec q{b.CreateSIToFP(b.CreateSub(quanta, zero), s_->Floats())};
  const Vec scale{s_->SplatOf(scaled(0, 0))};
  if (!format.has_min) return Mul(q, scale);
  return Fma(q, scale, Neg(Vec{s_->SplatOf(scaled(layout.dmin, layout.mins))}));
}

}  // namespace sinter
