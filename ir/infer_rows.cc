// Reductions, softmax and norms.
#include "base/status.h"
#include "ir/infer_util.h"

namespace sinter {
namespace {

absl::Status InferReduction(InferContext& ctx, ValueId x, int64_t axis) {
  Type result = ctx.type(x);
  const std::optional<size_t> at = AxisOf(axis, result.rank());
  if (!at) return Fail(ctx, 1, "expected an axis of ", Show(ctx, x), "; found axis ", axis);
  result.dims[*at] = 1;
  ctx.results.push_back(std::move(result));
  return absl::OkStatus();
}

// gamma and beta are one row of x.
absl::Status CheckRow(InferContext& ctx, int constraint, absl::string_view what, ValueId x, ValueId row) {
  const Type expected{ctx.type(x).dtype, {ctx.type(x).dims.back()}};
  if (ctx.type(row) == expected) return absl::OkStatus();
  return Fail(ctx, constraint, "expected ", what, " of type ", Show(ctx, expected), ", a row of ", Show(ctx, x),
              "; found ", Show(ctx, row));
}

}  // namespace

absl::Status Infer(const ops::Sum& op, InferContext& ctx) { return InferReduction(ctx, op.x, op.axis); }
absl::Status Infer(const ops::Mean& op, InferContext& ctx) { return InferReduction(ctx, op.x, op.axis); }
absl::Status Infer(const ops::Max& op, InferContext& ctx) { return InferReduction(ctx, op.x, op.axis); }

absl::Status Infer(const ops::Softmax& op, InferContext& ctx) {
  const Type& x = ctx.type(op.x);
  if (op.mask.valid()) {
    const absl::StatusOr<Dims> dims = Broadcast(x.dims, ctx.type(op.mask).dims, ctx.dims());
    if (!dims.ok() || *dims != x.dims) {
      return Fail(ctx, 1, "expected a mask that broadcasts to ", Show(ctx, op.x), "; found ", Show(ctx, op.mask));
    }
  }
  ctx.results.push_back(x);
  return absl::OkStatus();
}

absl::Status Infer(const ops::LayerNorm& op, InferContext& ctx) {
  if (op.gamma.valid()) SINTER_RETURN_IF_ERROR(CheckRow(ctx, 1, "gamma", op.x, op.gamma));
  if (op.beta.valid()) SINTER_RETURN_IF_ERROR(CheckRow(ctx, 2, "beta", op.x, op.beta));
  if (op.eps < 0) return Fail(ctx, 3, "expected eps >= 0; found ", op.eps);
  ctx.results.push_back(ctx.type(op.x));
  return absl::OkStatus();
}

absl::Status Infer(const ops::RmsNorm& op, InferContext& ctx) {
  if (op.gamma.valid()) SINTER_RETURN_IF_ERROR(CheckRow(ctx, 1, "gamma", op.x, op.gamma));
  if (op.eps < 0) return Fail(ctx, 2, "expected eps >= 0; found ", op.eps);
  ctx.results.push_back(ctx.type(op.x));
  return absl::OkStatus();
}

}  // namespace sinter
