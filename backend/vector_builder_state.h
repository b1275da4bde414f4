// What VectorBuilder keeps while it emits a function, and how it makes LLVM's values: internal to vector_builder.cc and
// vector_builder_blocks.cc, the two files that its methods stand in.
//
// Vectors have the target's lanes. bf16 and f16 are loaded and stored as 16-bit integers; Widen and Narrow convert them
// from and to f32, scalars and vectors alike. Insertion is at the end of the block that `b` is in, but for what AtTop
// makes: it stands at the end of the entry block, so that every block may use it.
#pragma once

#include <llvm/Analysis/VectorUtils.h>
#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/LLVMContext.h>
#include <llvm/IR/Module.h>

#include <map>
#include <utility>
#include <vector>

#include "backend/vector_builder.h"

namespace sinter {

using llvm::BasicBlock;
using llvm::FixedVectorType;
using llvm::Value;

struct VectorBuilder::State {
  const Target& target;
  const DimTable& dims;
  Emitted& out;
  llvm::IRBuilder<> b;
  llvm::Function* function = nullptr;
  BasicBlock* entry = nullptr;  // loads of operands and dims, at the top of the function
  std::map<uint32_t, Value*> operands, pages;
  std::vector<std::pair<DimExpr, Value*>> sizes;
  Value* scratch = nullptr;
  Int begin, end;

  State(Emitted& into, const Target& t, const DimTable& d) : target(t), dims(d), out(into), b(*into.context) {}

  // Runs `make` with the insertion point at the end of the entry block.
  template <typename Make>
  Value* AtTop(const Make& make) {
    llvm::IRBuilder<>::InsertPointGuard guard(b);
    b.SetInsertPoint(entry->getTerminator());
    return make();
  }
  Value* Field(size_t offset, llvm::Type* type) {
    return b.CreateLoad(type, b.CreateConstInBoundsGEP1_64(b.getInt8Ty(), function->getArg(0), offset));
  }
  FixedVectorType* Lanes(llvm::Type* element) const {
    return FixedVectorType::get(element, static_cast<unsigned>(target.lanes()));
  }
  FixedVectorType* Floats() { return Lanes(b.getFloatTy()); }
  Value* SplatOf(Value* scalar) { return b.CreateVectorSplat(static_cast<unsigned>(target.lanes()), scalar); }
  // Of splats a splat of one number: a whole vector of roots or quotients takes several times as long.
  Value* Arithmetic(llvm::Instruction::BinaryOps op, Value* x, Value* y) {
    Value* const scalar = llvm::getSplatValue(x);
    Value* const other = scalar == nullptr ? nullptr : llvm::getSplatValue(y);
    return other == nullptr ? b.CreateBinOp(op, x, y) : SplatOf(b.CreateBinOp(op, scalar, other));
  }
  Value* Call(llvm::Intrinsic::ID id, llvm::ArrayRef<llvm::Type*> types, llvm::ArrayRef<Value*> args) {
    return b.CreateIntrinsic(id, types, args);
  }

  // The type in which elements of `dtype` are loaded and stored. bf16 and f16 travel as 16-bit integers.
  llvm::Type* StorageType(DType dtype) {
    switch (Info(dtype).block_bytes) {
      case 1:
        return b.getInt8Ty();
      case 2:
        return b.getInt16Ty();
      case 8:
        return b.getInt64Ty();
      default:
        return dtype == DType::kF32 ? b.getFloatTy() : static_cast<llvm::Type*>(b.getInt32Ty());
    }
  }
  llvm::Align AlignOf(DType dtype) const { return llvm::Align(static_cast<uint64_t>(Info(dtype).block_bytes)); }

  // Storage to float, for scalars and vectors alike.
  Value* Widen(DType dtype, Value* raw) {
    llvm::Type* type = raw->getType();
    const auto same_shape = [&](llvm::Type* element) -> llvm::Type* {
      return type->isVectorTy() ? Lanes(element) : element;
    };
    if (dtype == DType::kF16) {
      return b.CreateFPExt(b.CreateBitCast(raw, same_shape(b.getHalfTy())), same_shape(b.getFloatTy()));
    }
    if (dtype == DType::kBF16) {
      Value* bits = b.CreateShl(b.CreateZExt(raw, same_shape(b.getInt32Ty())), 16);
      return b.CreateBitCast(bits, same_shape(b.getFloatTy()));
    }
    return raw;
  }
  Value* Narrow(DType dtype, Value* value) {
    llvm::Type* type = value->getType();
    const auto same_shape = [&](llvm::Type* element) -> llvm::Type* {
      return type->isVectorTy() ? Lanes(element) : element;
    };
    if (dtype == DType::kF16) {
      return b.CreateBitCast(b.CreateFPTrunc(value, same_shape(b.getHalfTy())), same_shape(b.getInt16Ty()));
    }
    if (dtype == DType::kBF16) {
      // Nearest even: add 0x7fff and the lowest kept bit; of a NaN all bits are set. Without constants, which would
      // take registers: 0x7fff is what a comparison that holds has in its lower half, but for one bit.
      llvm::Type* i32 = same_shape(b.getInt32Ty());
      Value* bits = b.CreateBitCast(value, i32);
      Value* lowest = b.CreateLShr(b.CreateShl(bits, 15), 31);
      Value* half = b.CreateLShr(b.CreateSExt(b.CreateFCmpORD(value, value), i32), 17);
      Value* rounded = b.CreateAdd(b.CreateAdd(bits, half), lowest);
      Value* chosen = b.CreateOr(rounded, b.CreateSExt(b.CreateFCmpUNO(value, value), i32));
      return b.CreateTrunc(b.CreateLShr(chosen, 16), same_shape(b.getInt16Ty()));
    }
    return value;
  }
  Value* LoadVector(llvm::Type* element, llvm::Align align, Value* at, Value* mask) {
    FixedVectorType* type = Lanes(element);
    if (mask == nullptr) return b.CreateAlignedLoad(type, at, align);
    return b.CreateMaskedLoad(type, at, align, mask, llvm::Constant::getNullValue(type));
  }
  void StoreVector(Value* value, llvm::Align align, Value* at, Value* mask) {
    if (mask == nullptr) {
      b.CreateAlignedStore(value, at, align);
    } else {
      b.CreateMaskedStore(value, at, align, mask);
    }
  }
};

}  // namespace sinter
