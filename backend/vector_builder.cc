#include "backend/vector_builder.h"

#include <llvm/IR/IntrinsicInst.h>
#include <llvm/IR/IntrinsicsX86.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backend/vector_builder_state.h"
#include "runtime/abi.h"
#include "runtime/features.h"

namespace sinter {

Emitted::Emitted()
    : context(std::make_unique<llvm::LLVMContext>()), module(std::make_unique<llvm::Module>("kernel", *context)) {}
Emitted::~Emitted() { module.reset(); }

VectorBuilder::VectorBuilder(Emitted& out, const Target& target, const std::string& symbol, const DimTable& dims)
    : s_(std::make_unique<State>(out, target, dims)) {
  llvm::IRBuilder<>& b = s_->b;
  llvm::Type* params[] = {b.getPtrTy(), b.getInt64Ty(), b.getInt64Ty()};
  s_->function = llvm::Function::Create(llvm::FunctionType::get(b.getVoidTy(), params, false),
                                        llvm::Function::ExternalLinkage, symbol, *s_->out.module);
  s_->function->addFnAttr(llvm::Attribute::NoUnwind);
  s_->function->addFnAttr("target-cpu", {target.llvm_cpu.data(), target.llvm_cpu.size()});
  s_->function->addFnAttr("target-features", LlvmFeatures(target.features));
  s_->entry = BasicBlock::Create(*s_->out.context, "entry", s_->function);
  BasicBlock* start = BasicBlock::Create(*s_->out.context, "start", s_->function);
  b.SetInsertPoint(s_->entry);
  b.CreateBr(start);
  b.SetInsertPoint(start);
  s_->begin.v = s_->function->getArg(1);
  s_->end.v = s_->function->getArg(2);
}

VectorBuilder::~VectorBuilder() = default;

void VectorBuilder::Finish() { s_->b.CreateRetVoid(); }

const Target& VectorBuilder::target() const { return s_->target; }

Int VectorBuilder::Const(int64_t value) { return {s_->b.getInt64(static_cast<uint64_t>(value))}; }
Int VectorBuilder::Begin() { return s_->begin; }
Int VectorBuilder::End() { return s_->end; }
void VectorBuilder::SetGrains(Int begin, Int end) {
  s_->begin = begin;
  s_->end = end;
}

Int VectorBuilder::Dim(const DimExpr& expr) {
  if (expr.is_const()) return Const(expr.constant());
  for (const auto& [known, value] : s_->sizes) {
    if (known == expr) return {value};
  }
  Value* value = s_->AtTop([&] {
    Value* dims = s_->Field(offsetof(SinterKernelArgs, dims), s_->b.getPtrTy());
    Int sum = Const(0);
    for (const DimExpr::Term& term : expr.terms()) {
      Int product = Const(term.coefficient);
      for (DimId symbol : term.symbols) {
        Value* at = s_->b.CreateConstInBoundsGEP1_64(s_->b.getInt64Ty(), dims, symbol.value);
        product = Mul(product, Int{s_->b.CreateLoad(s_->b.getInt64Ty(), at)});
      }
      sum = Add(sum, product);
    }
    return sum.v;
  });
  s_->sizes.emplace_back(expr, value);
  return {value};
}

// Light code generation folds nothing: neutral operands are left out here.
Int VectorBuilder::Add(Int a, Int b) {
  int64_t c;
  if (IsConst(a, &c) && c == 0) return b;
  if (IsConst(b, &c) && c == 0) return a;
  return {s_->b.CreateNSWAdd(a.v, b.v)};
}
Int VectorBuilder::Sub(Int a, Int b) { return {s_->b.CreateNSWSub(a.v, b.v)}; }
Int VectorBuilder::Mul(Int a, Int b) {
  int64_t c;
  if ((IsConst(a, &c) && c == 0) || (IsConst(b, &c) && c == 0)) return Const(0);
  if (IsConst(a, &c) && c == 1) return b;
  if (IsConst(b, &c) && c == 1) return a;
  return {s_->b.CreateNSWMul(a.v, b.v)};
}
Int VectorBuilder::Div(Int a, Int b) { return {s_->b.CreateUDiv(a.v, b.v)}; }
Int VectorBuilder::Rem(Int a, Int b) { return {s_->b.CreateURem(a.v, b.v)}; }
// Unsigned, a negative number is past every end.
Int VectorBuilder::Within(Int a, Int end) {
  return {s_->b.CreateBinaryIntrinsic(llvm::Intrinsic::umin, a.v, Sub(end, Const(1)).v)};
}
Int VectorBuilder::Min(Int a, Int b) {
  int64_t x, y;
  if (IsConst(a, &x) && IsConst(b, &y)) return Const(std::min(x, y));
  return {s_->b.CreateBinaryIntrinsic(llvm::Intrinsic::smin, a.v, b.v)};
}
Int VectorBuilder::Max(Int a, Int b) {
  int64_t x, y;
  if (IsConst(a, &x) && IsConst(b, &y)) return Const(std::max(x, y));
  return {s_->b.CreateBinaryIntrinsic(llvm::Intrinsic::smax, a.v, b.v)};
}
Cond VectorBuilder::Less(Int a, Int b) { return {s_->b.CreateICmpSLT(a.v, b.v)}; }
bool VectorBuilder::IsConst(Int a, int64_t* value) const {
  const auto* constant = llvm::dyn_cast<llvm::ConstantInt>(a.v);
  if (constant != nullptr) *value = constant->getSExtValue();
  return constant != nullptr;
}

// A guard and a do-while loop: the form whose induction variables code generation folds into addresses.
void VectorBuilder::For(Int begin, Int end, int64_t step, std::vector<Handle*> carried,
                        const std::function<void(Int)>& body) {
  int64_t first, last;
  const bool known = IsConst(begin, &first) && IsConst(end, &last);
  if (known && first >= last) return;
  if (known && first + step >= last) return body(begin);  // one round needs no loop
  llvm::IRBuilder<>& b = s_->b;
  llvm::LLVMContext& context = *s_->out.context;
  BasicBlock* before = b.GetInsertBlock();
  BasicBlock* loop = BasicBlock::Create(context, "loop", s_->function);
  BasicBlock* exit = BasicBlock::Create(context, "exit");
  if (known) {
    b.CreateBr(loop);
  } else {
    b.CreateCondBr(Less(begin, end).v, loop, exit);
  }
  b.SetInsertPoint(loop);
  llvm::PHINode* index = b.CreatePHI(b.getInt64Ty(), 2);
  index->addIncoming(begin.v, before);
  std::vector<Value*> initial;
  std::vector<llvm::PHINode*> phis;
  for (Handle* handle : carried) {
    initial.push_back(handle->v);
    phis.push_back(b.CreatePHI(handle->v->getType(), 2));
    phis.back()->addIncoming(handle->v, before);
    handle->v = phis.back();
  }
  body(Int{index});
  BasicBlock* latch = b.GetInsertBlock();
  Value* next = b.CreateNSWAdd(index, b.getInt64(static_cast<uint64_t>(step)));
  index->addIncoming(next, latch);
  for (size_t i = 0; i < carried.size(); ++i) phis[i]->addIncoming(carried[i]->v, latch);
  s_->function->insert(s_->function->end(), exit);
  b.CreateCondBr(b.CreateICmpSLT(next, end.v), loop, exit);
  b.SetInsertPoint(exit);
  if (known) return;  // the loop ran: what it left holds
  for (size_t i = 0; i < carried.size(); ++i) {
    llvm::PHINode* out = b.CreatePHI(initial[i]->getType(), 2);
    out->addIncoming(initial[i], before);
    out->addIncoming(carried[i]->v, latch);
    carried[i]->v = out;
  }
}

void VectorBuilder::If(Cond condition, const std::function<void()>& body) {
  if (auto* constant = llvm::dyn_cast<llvm::ConstantInt>(condition.v)) {
    if (constant->isOne()) body();
    return;
  }
  llvm::IRBuilder<>& b = s_->b;
  BasicBlock* then = BasicBlock::Create(*s_->out.context, "then", s_->function);
  BasicBlock* exit = BasicBlock::Create(*s_->out.context, "endif");
  b.CreateCondBr(condition.v, then, exit);
  b.SetInsertPoint(then);
  body();
  b.CreateBr(exit);
  s_->function->insert(s_->function->end(), exit);
  b.SetInsertPoint(exit);
}

Ptr VectorBuilder::Operand(uint32_t index, bool state) {
  Value*& operand = s_->operands[index];
  if (operand == nullptr) {
    operand = s_->AtTop([&] {
      Value* table = s_->Field(offsetof(SinterKernelArgs, operands), s_->b.getPtrTy());
      return s_->b.CreateLoad(s_->b.getPtrTy(), s_->b.CreateConstInBoundsGEP1_64(s_->b.getPtrTy(), table, index));
    });
  }
  if (!state) return {operand};
  Value*& page = s_->pages[index];
  if (page == nullptr) {
    page = s_->AtTop([&] {
      Value* pages = s_->b.CreateLoad(
          s_->b.getPtrTy(), s_->b.CreateConstInBoundsGEP1_64(s_->b.getInt8Ty(), operand, offsetof(SinterState, pages)));
      return s_->b.CreateLoad(s_->b.getPtrTy(), pages);
    });
  }
  return {page};
}

Ptr VectorBuilder::Scratch() {
  if (s_->scratch == nullptr) {
    s_->scratch = s_->AtTop([&] { return s_->Field(offsetof(SinterKernelArgs, scratch), s_->b.getPtrTy()); });
  }
  return {s_->scratch};
}

Ptr VectorBuilder::Offset(Ptr base, DType dtype, Int elems) {
  int64_t constant;
  const bool known = IsConst(elems, &constant);
  if (known && constant == 0) return base;
  if (IsQuantized(dtype)) {
    const DTypeInfo& info = Info(dtype);
    const Int bytes = known ? Const(constant / info.block_elems * info.block_bytes)
                            : Mul(Div(elems, Const(info.block_elems)), Const(info.block_bytes));
    return Offset(base, DType::kI8, bytes);
  }
  llvm::Type* unit = dtype == DType::kBool ? s_->b.getInt8Ty() : s_->StorageType(dtype);
  return {s_->b.CreateInBoundsGEP(unit, base.v, elems.v)};
}

Int VectorBuilder::LoadIndex(DType dtype, Ptr at) {
  constexpr int64_t kFar = int64_t{1} << 62;  // sums with sizes do not overflow
  if (dtype == DType::kI64) return Max(Min({s_->b.CreateLoad(s_->b.getInt64Ty(), at.v)}, Const(kFar)), Const(-kFar));
  return {s_->b.CreateSExt(s_->b.CreateLoad(s_->b.getInt32Ty(), at.v), s_->b.getInt64Ty())};
}

Vec VectorBuilder::Load(DType dtype, Ptr at, const Mask* mask) {
  return {s_->Widen(dtype, s_->LoadVector(s_->StorageType(dtype), s_->AlignOf(dtype), at.v, mask ? mask->v : nullptr))};
}
Vec VectorBuilder::LoadTwice(DType dtype, Ptr at) {
  const int half = lanes() / 2;
  llvm::Type* type = FixedVectorType::get(s_->StorageType(dtype), static_cast<unsigned>(half));
  std::vector<int> twice;
  for (int i = 0; i < lanes(); ++i) twice.push_back(i % half);
  return {s_->Widen(dtype, s_->b.CreateShuffleVector(s_->b.CreateAlignedLoad(type, at.v, s_->AlignOf(dtype)), twice))};
}
Vec VectorBuilder::LoadSplat(DType dtype, Ptr at) {
  return {s_->SplatOf(s_->Widen(dtype, s_->b.CreateAlignedLoad(s_->StorageType(dtype), at.v, s_->AlignOf(dtype))))};
}
Vec VectorBuilder::LoadStrided(DType dtype, Ptr at, Int stride, Int count) {
  llvm::IRBuilder<>& b = s_->b;
  Handle lanes{llvm::Constant::getNullValue(s_->Floats())};
  For(Const(0), Min(count, Const(this->lanes())), 1, {&lanes}, [&](Int i) {
    Value* raw = b.CreateAlignedLoad(s_->StorageType(dtype), Offset(at, dtype, Mul(i, stride)).v, s_->AlignOf(dtype));
    lanes.v = b.CreateInsertElement(lanes.v, s_->Widen(dtype, raw), i.v);
  });
  return {lanes.v};
}
void VectorBuilder::Prefetch(Ptr at, bool once) {
  constexpr unsigned kRead = 0, kOnce = 0, kSecondLevel = 2, kData = 1;
  s_->Call(llvm::Intrinsic::prefetch, {s_->b.getPtrTy()},
           {at.v, s_->b.getInt32(kRead), s_->b.getInt32(once ? kOnce : kSecondLevel), s_->b.getInt32(kData)});
}
void VectorBuilder::Store(DType dtype, Ptr at, Vec value, const Mask* mask) {
  s_->StoreVector(s_->Narrow(dtype, value.v), s_->AlignOf(dtype), at.v, mask ? mask->v : nullptr);
}
void VectorBuilder::StoreFirst(DType dtype, Ptr at, Vec value) {
  Value* first = s_->b.CreateExtractElement(value.v, uint64_t{0});
  s_->b.CreateAlignedStore(s_->Narrow(dtype, first), at.v, s_->AlignOf(dtype));
}
void VectorBuilder::StoreStrided(DType dtype, Ptr at, Int stride, Int count, Vec value) {
  For(Const(0), Min(count, Const(lanes())), 1, {}, [&](Int i) {
    Value* lane = s_->b.CreateExtractElement(value.v, i.v);
    s_->b.CreateAlignedStore(s_->Narrow(dtype, lane), Offset(at, dtype, Mul(i, stride)).v, s_->AlignOf(dtype));
  });
}
Mask VectorBuilder::LoadMask(Ptr at, const Mask* mask) {
  Value* raw = s_->LoadVector(s_->b.getInt8Ty(), llvm::Align(1), at.v, mask ? mask->v : nullptr);
  return {s_->b.CreateICmpNE(raw, llvm::Constant::getNullValue(raw->getType()))};
}
Mask VectorBuilder::LoadMaskSplat(Ptr at) {
  Value* raw = s_->b.CreateLoad(s_->b.getInt8Ty(), at.v);
  return {s_->SplatOf(s_->b.CreateICmpNE(raw, s_->b.getInt8(0)))};
}
void VectorBuilder::StoreMask(Ptr at, Mask value, const Mask* mask) {
  s_->StoreVector(s_->b.CreateZExt(value.v, s_->Lanes(s_->b.getInt8Ty())), llvm::Align(1), at.v,
                  mask ? mask->v : nullptr);
}
Vec VectorBuilder::LoadPairs(Ptr at, bool anew) {
  return {s_->b.CreateAlignedLoad(s_->Floats(), at.v, s_->AlignOf(DType::kBF16), /*isVolatile=*/anew)};
}
Vec VectorBuilder::LoadPairSplat(Ptr at) {
  return {s_->SplatOf(s_->b.CreateAlignedLoad(s_->b.getFloatTy(), at.v, s_->AlignOf(DType::kBF16)))};
}
Vec VectorBuilder::DotPairs(Vec a, Vec b, Vec c) {
  llvm::Type* pairs = FixedVectorType::get(s_->b.getBFloatTy(), 2 * static_cast<unsigned>(lanes()));
  return {s_->Call(llvm::Intrinsic::x86_avx512bf16_dpbf16ps_512, {},
                   {c.v, s_->b.CreateBitCast(a.v, pairs), s_->b.CreateBitCast(b.v, pairs)})};
}
Vec VectorBuilder::FromPairs(Vec pairs, int which) {
  llvm::Type* ints = s_->Lanes(s_->b.getInt32Ty());
  Value* bits = s_->b.CreateBitCast(pairs.v, ints);
  Value* high =
      which == 0 ? s_->b.CreateShl(bits, 16) : s_->b.CreateAnd(bits, llvm::ConstantInt::get(ints, 0xffff0000));
  return {s_->b.CreateBitCast(high, s_->Floats())};
}
IntVec VectorBuilder::LoadInts(DType dtype, Ptr at, const Mask* mask) {
  return {s_->LoadVector(s_->StorageType(dtype), s_->AlignOf(dtype), at.v, mask ? mask->v : nullptr)};
}
IntVec VectorBuilder::LoadIntsSplat(DType dtype, Ptr at) {
  return {s_->SplatOf(s_->b.CreateAlignedLoad(s_->StorageType(dtype), at.v, s_->AlignOf(dtype)))};
}
void VectorBuilder::StoreInts(DType dtype, Ptr at, IntVec value, const Mask* mask) {
  s_->StoreVector(value.v, s_->AlignOf(dtype), at.v, mask ? mask->v : nullptr);
}
Vec VectorBuilder::ToFloat(DType dtype, IntVec value) {
  if (dtype == DType::kU8) return {s_->b.CreateUIToFP(value.v, s_->Floats())};
  return {s_->b.CreateSIToFP(value.v, s_->Floats())};
}

Vec VectorBuilder::Splat(double value) {
  return {llvm::ConstantFP::get(s_->Floats(), static_cast<double>(static_cast<float>(value)))};
}

namespace {

// 0, 1, 2, .. as a vector.
Value* Iota(llvm::IRBuilder<>& b, int lanes) {
  std::vector<uint32_t> values;
  for (int i = 0; i < lanes; ++i) values.push_back(static_cast<uint32_t>(i));
  return llvm::ConstantDataVector::get(b.getContext(), values);
}

}  // namespace

Mask VectorBuilder::FirstLanes(Int count) {
  // Clamped to the vector before it narrows: counts are differences of sizes and may pass 2^31 either way.
  Value* clamped = s_->b.CreateBinaryIntrinsic(llvm::Intrinsic::smax, Min(count, Const(lanes())).v, s_->b.getInt64(0));
  Value* n = s_->b.CreateTrunc(clamped, s_->b.getInt32Ty());
  return {s_->b.CreateICmpSLT(Iota(s_->b, lanes()), s_->SplatOf(n))};
}
Mask VectorBuilder::LanesAtMost(Int base, Int limit) { return FirstLanes(Add(Sub(limit, base), Const(1))); }

Vec VectorBuilder::Add(Vec a, Vec b) { return {s_->Arithmetic(llvm::Instruction::FAdd, a.v, b.v)}; }
Vec VectorBuilder::Sub(Vec a, Vec b) { return {s_->Arithmetic(llvm::Instruction::FSub, a.v, b.v)}; }
Vec VectorBuilder::Mul(Vec a, Vec b) { return {s_->Arithmetic(llvm::Instruction::FMul, a.v, b.v)}; }
Vec VectorBuilder::Div(Vec a, Vec b) { return {s_->Arithmetic(llvm::Instruction::FDiv, a.v, b.v)}; }
Vec VectorBuilder::Max(Vec a, Vec b) {
  // b when a < b or b is NaN; a NaN in `a` fails the comparison and stays.
  return {s_->b.CreateSelect(s_->b.CreateOr(s_->b.CreateFCmpOLT(a.v, b.v), s_->b.CreateFCmpUNO(b.v, b.v)), b.v, a.v)};
}
Vec VectorBuilder::Min(Vec a, Vec b) {
  return {s_->b.CreateSelect(s_->b.CreateOr(s_->b.CreateFCmpOLT(b.v, a.v), s_->b.CreateFCmpUNO(b.v, b.v)), b.v, a.v)};
}
Vec VectorBuilder::Neg(Vec a) { return {s_->b.CreateFNeg(a.v)}; }
Vec VectorBuilder::Abs(Vec a) { return {s_->b.CreateUnaryIntrinsic(llvm::Intrinsic::fabs, a.v)}; }
Vec VectorBuilder::Sqrt(Vec a) {
  Value* const scalar = llvm::getSplatValue(a.v);
  Value* const root = s_->b.CreateUnaryIntrinsic(llvm::Intrinsic::sqrt, scalar == nullptr ? a.v : scalar);
  return {scalar == nullptr ? root : s_->SplatOf(root)};
}
Vec VectorBuilder::Fma(Vec a, Vec b, Vec c) {
  return {s_->Call(llvm::Intrinsic::fma, {a.v->getType()}, {a.v, b.v, c.v})};
}
Vec VectorBuilder::CopySign(Vec magnitude, Vec sign) {
  return {s_->b.CreateBinaryIntrinsic(llvm::Intrinsic::copysign, magnitude.v, sign.v)};
}
Vec VectorBuilder::RoundTo(DType dtype, Vec a) { return {s_->Widen(dtype, s_->Narrow(dtype, a.v))}; }
Mask VectorBuilder::LessThan(Vec a, Vec b) { return {s_->b.CreateFCmpOLT(a.v, b.v)}; }
Mask VectorBuilder::IsNan(Vec a) { return {s_->b.CreateFCmpUNO(a.v, a.v)}; }
Vec VectorBuilder::Select(Mask mask, Vec a, Vec b) { return {s_->b.CreateSelect(mask.v, a.v, b.v)}; }
Mask VectorBuilder::And(Mask a, Mask b) { return {s_->b.CreateAnd(a.v, b.v)}; }
Mask VectorBuilder::AndNot(Mask a, Mask b) { return {s_->b.CreateAnd(a.v, s_->b.CreateNot(b.v))}; }
Vec VectorBuilder::FromInt(Int value) { return {s_->SplatOf(s_->b.CreateSIToFP(value.v, s_->b.getFloatTy()))}; }

Vec VectorBuilder::AddExponent(Vec a, Vec n) {
  llvm::Type* ints = s_->Lanes(s_->b.getInt32Ty());
  Value* shifted = s_->b.CreateShl(s_->b.CreateBitCast(n.v, ints), 23);
  return {s_->b.CreateBitCast(s_->b.CreateAdd(s_->b.CreateBitCast(a.v, ints), shifted), s_->Floats())};
}
void VectorBuilder::SplitExponent(Vec x, Vec* mantissa, Vec* exponent) {
  llvm::Type* ints = s_->Lanes(s_->b.getInt32Ty());
  Value* bits = s_->b.CreateBitCast(x.v, ints);
  Value* biased = s_->b.CreateLShr(bits, 23);
  exponent->v = s_->b.CreateSIToFP(s_->b.CreateSub(biased, llvm::ConstantInt::get(ints, 126)), s_->Floats());
  Value* fraction = s_->b.CreateAnd(bits, llvm::ConstantInt::get(ints, 0x007fffff));
  mantissa->v = s_->b.CreateBitCast(s_->b.CreateOr(fraction, llvm::ConstantInt::get(ints, 0x3f000000)), s_->Floats());
}
Vec VectorBuilder::SwapPairs(Vec a) {
  std::vector<int> order;
  for (int i = 0; i < lanes(); ++i) order.push_back(i ^ 1);
  return {s_->b.CreateShuffleVector(a.v, order)};
}
Vec VectorBuilder::ReduceAdd(Vec a) {
  llvm::IRBuilder<>::FastMathFlagGuard guard(s_->b);
  llvm::FastMathFlags flags;
  flags.setAllowReassoc();
  s_->b.setFastMathFlags(flags);
  Value* sum = s_->b.CreateFAddReduce(llvm::ConstantFP::getNegativeZero(s_->b.getFloatTy()), a.v);
  return {s_->SplatOf(sum)};
}
namespace {

// By halves: each lane and the one whose index differs in one bit, from the highest down to `apart`.
Vec FoldLanes(llvm::IRBuilder<>& b, int lanes, Vec a, int64_t apart, const std::function<Vec(Vec, Vec)>& join) {
  std::vector<int> order(static_cast<size_t>(lanes));
  for (int half = lanes / 2; half >= apart; half /= 2) {
    for (int i = 0; i < lanes; ++i) order[static_cast<size_t>(i)] = i ^ half;
    a = join(a, Vec{b.CreateShuffleVector(a.v, order)});
  }
  return a;
}

}  // namespace

Vec VectorBuilder::ReduceAdd(Vec a, int64_t apart) {
  return FoldLanes(s_->b, lanes(), a, apart, [&](Vec x, Vec y) { return Add(x, y); });
}
Vec VectorBuilder::ReduceMax(Vec a, int64_t apart) {  // NaN travels as Max has it
  return FoldLanes(s_->b, lanes(), a, apart, [&](Vec x, Vec y) { return Max(x, y); });
}
Vec VectorBuilder::ReduceAddRows(std::vector<Vec> rows, int64_t set) {
  // Of each two rows neighbouring lanes are added: the even ones of both, then the odd ones, first within quarters of
  // 128 bits, where that is one instruction each, then whole quarters. A part's sum is taken in the same order in every
  // row.
  constexpr int kQuarter = 4;
  const int n = lanes(), parts = n / static_cast<int>(rows.size());
  std::vector<int> even(static_cast<size_t>(n)), odd(even);
  const auto halve = [&](int unit, int within) {
    for (int i = 0; i < n; ++i) {
      const int block = i / within * within, half = within / 2, at = i % within;
      const int from = block + at % half / unit * 2 * unit + at % unit;
      even[static_cast<size_t>(i)] = from + (at >= half ? n : 0);
      odd[static_cast<size_t>(i)] = even[static_cast<size_t>(i)] + unit;
    }
    for (size_t i = 0; 2 * i < rows.size(); ++i) {
      llvm::Value *const a = rows[2 * i].v, *const b = rows[2 * i + 1].v;
      rows[i] = Add(Vec{s_->b.CreateShuffleVector(a, b, even)}, Vec{s_->b.CreateShuffleVector(a, b, odd)});
    }
    rows.resize(rows.size() / 2);
  };
  for (int level = 0; level < 2; ++level) halve(1, kQuarter);
  while (rows.size() > 1) halve(kQuarter, n);
  // Now of each four rows the first parts, then the second ones.
  std::vector<int> order(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) {
    const int s = static_cast<int>(set), row = i / (s * parts) * s + i % s, part = i / s % parts;
    order[static_cast<size_t>(i)] = row / kQuarter * kQuarter * parts + part * kQuarter + row % kQuarter;
  }
  if (parts == 1 || std::is_sorted(order.begin(), order.end())) return rows[0];
  return {s_->b.CreateShuffleVector(rows[0].v, order)};
}

}  // namespace sinter
