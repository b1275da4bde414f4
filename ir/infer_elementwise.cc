// Sources and elementwise ops.
#include <cmath>

#include "base/status.h"
#include "ir/infer_util.h"

namespace sinter {

absl::Status InferElementwise(InferContext& ctx, std::initializer_list<ValueId> operands) {
  Type result = ctx.type(*operands.begin());
  for (ValueId operand : operands) {
    const Type& type = ctx.type(operand);
    if (type.dtype != result.dtype) {
      return Fail(ctx, 1, "expected operands of one element type; found ", Show(ctx, *operands.begin()), " and ",
                  Show(ctx, operand));
    }
    absl::StatusOr<Dims> dims = Broadcast(result.dims, type.dims, ctx.dims());
    if (!dims.ok()) return Fail(ctx, 2, dims.status().message());
    result.dims = *std::move(dims);
  }
  ctx.results.push_back(std::move(result));
  return absl::OkStatus();
}

absl::Status Infer(const ops::Weight& op, InferContext& ctx) {
  if (op.name.empty()) return Fail(ctx, 1, "expected the name of a tensor; found \"\"");
  for (const DimExpr& dim : ctx.declared[0].dims) {
    if (!dim.is_const() || dim.constant() < 1) {
      return Fail(ctx, 2, "expected dims that are positive numbers; found ", Show(ctx, ctx.declared[0]));
    }
  }
  ctx.results.push_back(ctx.declared[0]);
  return absl::OkStatus();
}

namespace {

// Floats are rounded to their type, but must not become infinite by it; integers and bools must be exact.
bool Representable(DType dtype, double value) {
  const double rounded = RoundTo(dtype, value);
  return IsFloat(dtype) ? !std::isfinite(value) || std::isfinite(rounded) : rounded == value;
}

}  // namespace

absl::Status Infer(const ops::Constant& op, InferContext& ctx) {
  const Type& type = ctx.declared[0];
  if (IsQuantized(type.dtype)) return Fail(ctx, 1, "expected a type that is not quantized; found ", Show(ctx, type));
  const DimExpr elems = Product(type.dims);
  if (op.values.size() != 1 && elems != DimExpr(static_cast<int64_t>(op.values.size()))) {
    return Fail(ctx, 2, "expected 1 or ", Show(ctx, elems), " values; found ", op.values.size());
  }
  for (double value : op.values) {
    if (!Representable(type.dtype, value)) {
      return Fail(ctx, 3, "expected values that ", Info(type.dtype).name, " can hold; found ", value);
    }
  }
  ctx.results.push_back(type);
  return absl::OkStatus();
}

absl::Status Infer(const ops::RopeTable& op, InferContext& ctx) {
  const Type& type = ctx.declared[0];
  if (type.dtype != DType::kF32 || type.rank() != 2 || !type.dims[0].is_const() || !type.dims[1].is_const() ||
      type.dims[1].constant() % 4 != 0) {
    return Fail(ctx, 1, "expected f32[positions,2*D] with numbers for positions and D, and D even; found ",
                Show(ctx, type));
  }
  if (op.style != "norm" && op.style != "neox") {
    return Fail(ctx, 2, "expected style \"norm\" or \"neox\"; found \"", op.style, "\"");
  }
  if (!(op.base > 0)) return Fail(ctx, 3, "expected a positive base; found ", op.base);
  if (op.factors.valid()) {
    const Dims& dims = ctx.type(op.factors).dims;
    const DimExpr pairs = type.dims[1].DivideExactly(4);
    if (dims.size() != 1 || dims[0] != pairs) {
      return Fail(ctx, 4, "expected factors [", Show(ctx, pairs), "], one a pair; found ", Show(ctx, op.factors));
    }
  }
  ctx.results.push_back(type);
  return absl::OkStatus();
}

// Rows with nothing to say beyond one element type and shapes that broadcast.
#define SINTER_BINARY(cls) \
  absl::Status Infer(const ops::cls& op, InferContext& ctx) { return InferElementwise(ctx, {op.a, op.b}); }
SINTER_BINARY(Add)
SINTER_BINARY(Sub)
SINTER_BINARY(Mul)
SINTER_BINARY(Div)
SINTER_BINARY(Maximum)
SINTER_BINARY(Minimum)
#undef SINTER_BINARY

#define SINTER_UNARY(cls) \
  absl::Status Infer(const ops::cls& op, InferContext& ctx) { return InferElementwise(ctx, {op.x}); }
SINTER_UNARY(Neg)
SINTER_UNARY(Exp)
SINTER_UNARY(Log)
SINTER_UNARY(Sqrt)
SINTER_UNARY(Rsqrt)
SINTER_UNARY(Tanh)
SINTER_UNARY(Erf)
#undef SINTER_UNARY

absl::Status Infer(const ops::Select& op, InferContext& ctx) {
  SINTER_RETURN_IF_ERROR(InferElementwise(ctx, {op.a, op.b}));
  absl::StatusOr<Dims> dims = Broadcast(ctx.results[0].dims, ctx.type(op.mask).dims, ctx.dims());
  if (!dims.ok()) return Fail(ctx, 2, dims.status().message());
  ctx.results[0].dims = *std::move(dims);
  return absl::OkStatus();
}

absl::Status Infer(const ops::Convert& op, InferContext& ctx) {
  const Type& type = ctx.declared[0];
  if (!IsFloat(type.dtype) && !IsInt(type.dtype)) {
    return Fail(ctx, 1, "expected a float or integer type; found ", Show(ctx, type));
  }
  if (type.dims != ctx.type(op.x).dims) {
    return Fail(ctx, 2, "expected the dims of ", Show(ctx, op.x), "; found ", Show(ctx, type));
  }
  ctx.results.push_back(type);
  return absl::OkStatus();
}

absl::Status Infer(const ops::Dequantize& op, InferContext& ctx) {
  const Type& x = ctx.type(op.x);
  if (!IsQuantized(x.dtype)) return Fail(ctx, 1, "expected a block-quantized tensor; found ", Show(ctx, op.x));
  const Type expected{DType::kF32, x.dims};
  if (ctx.declared[0] != expected) {
    return Fail(ctx, 2, "expected ", Show(ctx, expected), "; found ", Show(ctx, ctx.declared[0]));
  }
  ctx.results.push_back(expected);
  return absl::OkStatus();
}

absl::Status Infer(const ops::Quantize& op, InferContext& ctx) {
  const Type& x = ctx.type(op.x);
  if (!IsReal(x.dtype)) return Fail(ctx, 1, "expected f32, f16 or bf16; found ", Show(ctx, op.x));
  const Type expected{DType::kQ8_R, x.dims};
  if (ctx.declared[0] != expected) {
    return Fail(ctx, 2, "expected ", Show(ctx, expected), "; found ", Show(ctx, ctx.declared[0]));
  }
  ctx.results.push_back(expected);
  return absl::OkStatus();
}

absl::Status Infer(const ops::Gelu& op, InferContext& ctx) {
  if (op.form != "tanh" && op.form != "erf") {
    return Fail(ctx, 3, "expected form \"tanh\" or \"erf\"; found \"", op.form, "\"");
  }
  return InferElementwise(ctx, {op.x});
}

absl::Status Infer(const ops::Swiglu& op, InferContext& ctx) { return InferElementwise(ctx, {op.gate, op.up}); }

absl::Status Infer(const ops::CausalMask& op, InferContext& ctx) {
  const Type& pos = ctx.type(op.pos);
  if (pos.rank() != 1 || !IsIndex(pos.dtype)) {
    return Fail(ctx, 1, "expected positions i32[T] or i64[T]; found ", Show(ctx, op.pos));
  }
  ctx.results.push_back({DType::kBool, {pos.dims[0], op.len}});
  return absl::OkStatus();
}

}  // namespace sinter
