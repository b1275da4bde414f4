// Ops on states.
#include "base/status.h"
#include "ir/infer_util.h"

namespace sinter {
namespace {

absl::Status CheckCache(const InferContext& ctx, ValueId cache) {
  const Type& type = ctx.type(cache);
  if (type.rank() == 4 && type.dims[0] == DimExpr(2)) return absl::OkStatus();
  return Fail(ctx, 1, "expected a cache [2,G,C,D]; found ", Show(ctx, cache));
}

}  // namespace

absl::Status Infer(const ops::KvAppend& op, InferContext& ctx) {
  SINTER_RETURN_IF_ERROR(CheckCache(ctx, op.cache));
  const Type &cache = ctx.type(op.cache), &k = ctx.type(op.k), &pos = ctx.type(op.pos);
  if (IsQuantized(cache.dtype) && cache.dtype != DType::kQ8_0) {
    return Fail(ctx, 1, "expected a cache of q8_0 or of a type that is not quantized; found ", Show(ctx, op.cache));
  }
  if (pos.rank() != 1 || !IsIndex(pos.dtype)) {
    return Fail(ctx, 2, "expected positions i32[T] or i64[T]; found ", Show(ctx, op.pos));
  }
  const DType row = IsQuantized(cache.dtype) ? DType::kF32 : cache.dtype;
  const Type expected{row, {cache.dims[1], 1, pos.dims[0], cache.dims[3]}};
  if (k != expected) return Fail(ctx, 3, "expected k of type ", Show(ctx, expected), "; found ", Show(ctx, op.k));
  if (ctx.type(op.v) != expected) {
    return Fail(ctx, 4, "expected v of type ", Show(ctx, expected), "; found ", Show(ctx, op.v));
  }
  ctx.results.push_back(cache);
  return absl::OkStatus();
}

absl::Status Infer(const ops::KvView& op, InferContext& ctx) {
  SINTER_RETURN_IF_ERROR(CheckCache(ctx, op.cache));
  const Type& cache = ctx.type(op.cache);
  const DimExpr excess = op.len - cache.dims[2];
  if (excess.poisoned() || ctx.dims().Max(excess) > 0) {
    return Fail(ctx, 2, "expected len of at most the ", Show(ctx, cache.dims[2]), " positions of ", Show(ctx, op.cache),
                "; found ", Show(ctx, op.len), ", which can be ", ctx.dims().Max(op.len));
  }
  ctx.results.assign(2, Type{cache.dtype, {cache.dims[1], op.len, cache.dims[3]}});
  return absl::OkStatus();
}

}  // namespace sinter
