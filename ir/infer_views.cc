// Views and moves.
#include <algorithm>

#include "absl/strings/str_join.h"
#include "base/status.h"
#include "ir/infer_util.h"

namespace sinter {

absl::Status Infer(const ops::Heads& op, InferContext& ctx) {
  const Type &x = ctx.type(op.x), &type = ctx.declared[0];
  if (x.rank() != 2) return Fail(ctx, 1, "expected rows [T,C]; found ", Show(ctx, op.x));
  if (type.rank() != 4 || type.dtype != x.dtype || type.dims[2] != x.dims[0]) {
    return Fail(ctx, 2, "expected ", Info(x.dtype).name, "[G,Q,", Show(ctx, x.dims[0]), ",D]; found ", Show(ctx, type));
  }
  if (op.groups < 1 || type.dims[0] != DimExpr(op.groups)) {
    return Fail(ctx, 3, "expected G to be groups=", op.groups, ", at least 1; found ", Show(ctx, type));
  }
  const DimExpr end = DimExpr(op.first) + type.dims[0] * type.dims[1] * type.dims[3];
  const DimExpr excess = end - x.dims[1];
  if (op.first < 0 || excess.poisoned() || ctx.dims().Max(excess) > 0) {
    return Fail(ctx, 4, "expected columns within ", Show(ctx, op.x), "; found ", op.first, " .. ", Show(ctx, end));
  }
  ctx.results.push_back(type);
  return absl::OkStatus();
}

absl::Status Infer(const ops::Slice& op, InferContext& ctx) {
  Type result = ctx.type(op.x);
  const std::optional<size_t> axis = AxisOf(op.axis, result.rank());
  if (!axis) return Fail(ctx, 1, "expected an axis of ", Show(ctx, op.x), "; found axis ", op.axis);
  const DimExpr end = op.first + op.len, excess = end - result.dims[*axis];
  if (ctx.dims().Min(op.first) < 0 || excess.poisoned() || ctx.dims().Max(excess) > 0) {
    return Fail(ctx, 2, "expected positions that provably lie within axis ", *axis, " of ", Show(ctx, op.x), "; found ",
                Show(ctx, op.first), " .. ", Show(ctx, end));
  }
  const DTypeInfo& info = Info(result.dtype);
  if (*axis + 1 == result.dims.size() && op.first.DivideExactly(info.block_elems).poisoned()) {
    return Fail(ctx, 3, "expected a slice of whole blocks of ", info.block_elems,
                "; found first=", Show(ctx, op.first));
  }
  result.dims[*axis] = op.len;
  ctx.results.push_back(std::move(result));
  return absl::OkStatus();
}

absl::Status Infer(const ops::Reshape& op, InferContext& ctx) {
  const Type &x = ctx.type(op.x), &type = ctx.declared[0];
  if (type.dtype != x.dtype) {
    return Fail(ctx, 1, "expected the element type of ", Show(ctx, op.x), "; found ", Show(ctx, type));
  }
  const DimExpr elems = Product(x.dims);
  if (elems.poisoned() || elems != Product(type.dims)) {
    return Fail(ctx, 2, "expected the ", Show(ctx, elems), " elements of ", Show(ctx, op.x), "; found ",
                Show(ctx, type));
  }
  if (IsQuantized(x.dtype) && type.dims.back() != x.dims.back()) {
    return Fail(ctx, 3, "expected a quantized tensor to keep its last axis; found ", Show(ctx, op.x), " and ",
                Show(ctx, type));
  }
  ctx.results.push_back(type);
  return absl::OkStatus();
}

absl::Status Infer(const ops::Transpose& op, InferContext& ctx) {
  const Type& x = ctx.type(op.x);
  std::vector<int64_t> sorted = op.perm;
  std::sort(sorted.begin(), sorted.end());
  bool permutation = sorted.size() == x.dims.size();
  for (size_t i = 0; i < sorted.size(); ++i) permutation &= sorted[i] == static_cast<int64_t>(i);
  if (!permutation) {
    return Fail(ctx, 1, "expected perm to hold each axis of ", Show(ctx, op.x), " once; found [",
                absl::StrJoin(op.perm, ","), "]");
  }
  if (IsQuantized(x.dtype) && op.perm.back() != x.rank() - 1) {
    return Fail(ctx, 2, "expected a quantized tensor to keep its last axis; found ", Show(ctx, op.x));
  }
  Type result{x.dtype, {}};
  for (int64_t axis : op.perm) result.dims.push_back(x.dims[axis]);
  ctx.results.push_back(std::move(result));
  return absl::OkStatus();
}

absl::Status Infer(const ops::Repeat& op, InferContext& ctx) {
  Type result = ctx.type(op.x);
  const std::optional<size_t> axis = AxisOf(op.axis, result.rank());
  if (!axis) return Fail(ctx, 1, "expected an axis of ", Show(ctx, op.x), "; found axis ", op.axis);
  if (op.times < 1) return Fail(ctx, 2, "expected times >= 1; found ", op.times);
  if (IsQuantized(result.dtype) && *axis + 1 == result.dims.size()) {
    return Fail(ctx, 3, "expected an axis without blocks; found the last of ", Show(ctx, op.x));
  }
  result.dims[*axis] = result.dims[*axis] * DimExpr(op.times);
  ctx.results.push_back(std::move(result));
  return absl::OkStatus();
}

absl::Status Infer(const ops::MergeHeads& op, InferContext& ctx) {
  const Type& x = ctx.type(op.x);
  if (x.rank() != 4) return Fail(ctx, 1, "expected [G,Q,T,D]; found ", Show(ctx, op.x));
  ctx.results.push_back({x.dtype, {x.dims[2], x.dims[0] * x.dims[1] * x.dims[3]}});
  return absl::OkStatus();
}

absl::Status Infer(const ops::Take& op, InferContext& ctx) {
  const Type &table = ctx.type(op.table), &rows = ctx.type(op.rows);
  if (table.rank() != 2) return Fail(ctx, 1, "expected a table [N,E]; found ", Show(ctx, op.table));
  if (rows.rank() != 1 || !IsIndex(rows.dtype)) {
    return Fail(ctx, 2, "expected row numbers i32[R] or i64[R]; found ", Show(ctx, op.rows));
  }
  ctx.results.push_back({table.dtype, {rows.dims[0], table.dims[1]}});
  return absl::OkStatus();
}

absl::Status Infer(const ops::Rope& op, InferContext& ctx) {
  const Type &x = ctx.type(op.x), &pos = ctx.type(op.pos), &table = ctx.type(op.table);
  if (x.rank() < 2 || x.dims.back().DivideExactly(2).poisoned()) {
    return Fail(ctx, 1, "expected x [..,T,D] with D even; found ", Show(ctx, op.x));
  }
  const DimExpr &rows = x.dims[x.dims.size() - 2], width = x.dims.back() * DimExpr(2);
  if (pos.rank() != 1 || !IsIndex(pos.dtype) || pos.dims[0] != rows) {
    return Fail(ctx, 2, "expected positions i32[", Show(ctx, rows), "] or i64; found ", Show(ctx, op.pos));
  }
  if (table.rank() != 2 || table.dtype != DType::kF32 || table.dims[1] != width) {
    return Fail(ctx, 3, "expected a table f32[positions,", Show(ctx, width), "]; found ", Show(ctx, op.table));
  }
  if (op.style != "norm" && op.style != "neox") {
    return Fail(ctx, 4, "expected style \"norm\" or \"neox\"; found \"", op.style, "\"");
  }
  // Sines and cosines of a table lie by lane, which depends on the style.
  const auto source = ctx.graph.DefAs<ops::RopeTable>(op.table);
  if (source && source->style != op.style) {
    return Fail(ctx, 5, "expected the style of the table, \"", source->style, "\"; found \"", op.style, "\"");
  }
  ctx.results.push_back(x);
  return absl::OkStatus();
}

}  // namespace sinter
