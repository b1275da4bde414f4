// The meaning of views and moves: each result element is one operand element.
#include <vector>

#include "absl/strings/str_cat.h"
#include "ir/eval_internal.h"

namespace sinter {
namespace {

// result[i] = x[from(i)]
template <typename F>
absl::Status Gather(EvalContext& ctx, ValueId x, F from) {
  const Tensor& in = ctx.tensor(x);
  Tensor& out = ctx.results[0];
  for (int64_t i = 0; i < out.elems(); ++i)
    out.values[static_cast<size_t>(i)] = in.values[static_cast<size_t>(from(i))];
  return absl::OkStatus();
}

}  // namespace

absl::Status Eval(const ops::Heads& op, EvalContext& ctx) {
  const std::vector<int64_t>& dims = ctx.results[0].dims;  // [G,Q,T,D]
  const int64_t t_count = dims[2], width = dims[3], columns = ctx.tensor(op.x).dims[1];
  if (op.first < 0 || op.first > columns - dims[0] * dims[1] * width) {
    return absl::InvalidArgumentError(absl::StrCat("the heads end past the ", columns, " columns"));
  }
  return Gather(ctx, op.x, [&](int64_t i) {
    const int64_t d = i % width, t = i / width % t_count, head = i / width / t_count;
    return t * columns + op.first + head * width + d;
  });
}

absl::Status Eval(const ops::Slice& op, EvalContext& ctx) {
  const AxisSplit in = SplitAt(ctx.tensor(op.x).dims, op.axis), out = SplitAt(ctx.results[0].dims, op.axis);
  const int64_t first = ctx.Dim(op.first);
  if (first < 0 || first > in.n - out.n) {
    return absl::InvalidArgumentError(
        absl::StrCat("positions ", first, " to ", first, "+", out.n, " of an axis of ", in.n));
  }
  return Gather(ctx, op.x, [&](int64_t i) {
    const int64_t j = i % out.inner, at = i / out.inner % out.n, o = i / out.inner / out.n;
    return (o * in.n + first + at) * in.inner + j;
  });
}

absl::Status Eval(const ops::Reshape& op, EvalContext& ctx) {
  if (ctx.tensor(op.x).elems() != ctx.results[0].elems()) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected ", ctx.tensor(op.x).elems(), " elements; found ", ctx.results[0].elems()));
  }
  return Gather(ctx, op.x, [](int64_t i) { return i; });
}

absl::Status Eval(const ops::Transpose& op, EvalContext& ctx) {
  const std::vector<int64_t>& in = ctx.tensor(op.x).dims;
  const std::vector<int64_t>& out = ctx.results[0].dims;
  std::vector<int64_t> strides(in.size());
  int64_t stride = 1;
  for (size_t i = in.size(); i-- > 0; stride *= in[i]) strides[i] = stride;
  return Gather(ctx, op.x, [&](int64_t i) {
    int64_t from = 0;
    for (size_t axis = out.size(); axis-- > 0; i /= out[axis]) {
      from += i % out[axis] * strides[static_cast<size_t>(op.perm[axis])];
    }
    return from;
  });
}

absl::Status Eval(const ops::Repeat& op, EvalContext& ctx) {
  const AxisSplit in = SplitAt(ctx.tensor(op.x).dims, op.axis), out = SplitAt(ctx.results[0].dims, op.axis);
  return Gather(ctx, op.x, [&](int64_t i) {
    const int64_t j = i % out.inner, at = i / out.inner % out.n, o = i / out.inner / out.n;
    return (o * in.n + at / op.times) * in.inner + j;
  });
}

absl::Status Eval(const ops::MergeHeads& op, EvalContext& ctx) {
  const std::vector<int64_t>& dims = ctx.tensor(op.x).dims;  // [G,Q,T,D]
  const int64_t heads = dims[0] * dims[1], t_count = dims[2], width = dims[3];
  return Gather(ctx, op.x, [&](int64_t i) {
    const int64_t d = i % width, head = i / width % heads, t = i / width / heads;
    return (head * t_count + t) * width + d;
  });
}

absl::Status Eval(const ops::Take& op, EvalContext& ctx) {
  const Tensor &table = ctx.tensor(op.table), &rows = ctx.tensor(op.rows);
  for (double row : rows.values) {
    if (RowIndex(row, table.dims[0]) == kOutOfTable) return OutOfTable("row", row, table.dims[0]);
  }
  const int64_t width = table.dims[1];
  return Gather(ctx, op.table, [&](int64_t i) {
    return RowIndex(rows.values[static_cast<size_t>(i / width)], table.dims[0]) * width + i % width;
  });
}

absl::Status Eval(const ops::Rope& op, EvalContext& ctx) {
  const Tensor &x = ctx.tensor(op.x), &pos = ctx.tensor(op.pos), &table = ctx.tensor(op.table);
  Tensor& out = ctx.results[0];
  const auto width = static_cast<size_t>(x.dims.back()), t_count = pos.values.size();
  for (size_t i = 0; i < x.values.size(); ++i) {
    const size_t j = i % width, begin = i - j;
    const double position = pos.values[i / width % t_count];
    const int64_t row = RowIndex(position, table.dims[0]);
    if (row == kOutOfTable) return OutOfTable("position", position, table.dims[0]);
    const double* cosines = table.values.data() + static_cast<size_t>(row) * 2 * width;
    const double* sines = cosines + width;
    const size_t partner = op.style == "neox" ? (j + width / 2) % width : j ^ 1;
    out.values[i] = x.values[i] * cosines[j] + x.values[begin + partner] * sines[j];
  }
  return absl::OkStatus();
}

}  // namespace sinter
