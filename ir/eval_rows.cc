// The meaning of ops that reduce rows.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ir/eval_internal.h"

namespace sinter {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// out = fold of f over an axis, from `start`, then finish(folded, number of elements).
template <typename F, typename Finish>
absl::Status Reduce(EvalContext& ctx, ValueId x, int64_t axis, double start, F f, Finish finish) {
  const Tensor& in = ctx.tensor(x);
  Tensor& out = ctx.results[0];
  const AxisSplit split = SplitAt(in.dims, axis);
  for (int64_t o = 0; o < split.outer; ++o) {
    for (int64_t j = 0; j < split.inner; ++j) {
      double folded = start;
      for (int64_t i = 0; i < split.n; ++i) {
        folded = f(folded, in.values[static_cast<size_t>((o * split.n + i) * split.inner + j)]);
      }
      out.values[static_cast<size_t>(o * split.inner + j)] = finish(folded, split.n);
    }
  }
  return absl::OkStatus();
}

// Calls row(begin, n) for the rows of the last axis; begin is the first element.
template <typename F>
void ForEachRow(const Tensor& x, F row) {
  const int64_t n = x.dims.back();
  for (int64_t begin = 0; begin < x.elems(); begin += n) row(begin, n);
}

// The result times gamma, a row of it, if there is one.
void ScaleRows(EvalContext& ctx, ValueId gamma) {
  if (!gamma.valid()) return;
  Tensor& out = ctx.results[0];
  const Broadcasted factor(ctx.tensor(gamma), out.dims);
  for (int64_t i = 0; i < out.elems(); ++i) out.values[static_cast<size_t>(i)] *= factor[i];
}

double MeanOf(const double* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  return sum / static_cast<double>(n);
}

}  // namespace

absl::Status Eval(const ops::Sum& op, EvalContext& ctx) {
  return Reduce(ctx, op.x, op.axis, 0.0, std::plus<>(), [](double sum, int64_t) { return sum; });
}

absl::Status Eval(const ops::Mean& op, EvalContext& ctx) {
  return Reduce(ctx, op.x, op.axis, 0.0, std::plus<>(),
                [](double sum, int64_t n) { return sum / static_cast<double>(n); });
}

absl::Status Eval(const ops::Max& op, EvalContext& ctx) {
  const auto larger = [](double a, double b) { return std::isnan(a) || a > b ? a : b; };  // a NaN stays visible
  return Reduce(ctx, op.x, op.axis, -kInfinity, larger, [](double max, int64_t) { return max; });
}

absl::Status Eval(const ops::Softmax& op, EvalContext& ctx) {
  const Tensor& x = ctx.tensor(op.x);
  Tensor& out = ctx.results[0];
  for (int64_t i = 0; i < x.elems(); ++i)
    out.values[static_cast<size_t>(i)] = op.scale * x.values[static_cast<size_t>(i)];
  if (op.mask.valid()) {
    const Broadcasted mask(ctx.tensor(op.mask), x.dims);
    for (int64_t i = 0; i < x.elems(); ++i) {
      if (mask[i] == 0) out.values[static_cast<size_t>(i)] = -kInfinity;
    }
  }
  ForEachRow(out, [&](int64_t begin, int64_t n) {
    double* row = out.values.data() + begin;
    if (std::all_of(row, row + n, [](double v) { return v == -kInfinity; })) {
      std::fill(row, row + n, 0.0);
      return;
    }
    const double max = *std::max_element(row, row + n);
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += row[i] = std::exp(row[i] - max);
    for (int64_t i = 0; i < n; ++i) row[i] /= sum;
  });
  return absl::OkStatus();
}

absl::Status Eval(const ops::LayerNorm& op, EvalContext& ctx) {
  const Tensor& x = ctx.tensor(op.x);
  Tensor& out = ctx.results[0];
  ForEachRow(x, [&](int64_t begin, int64_t n) {
    const double* row = x.values.data() + begin;
    const double mean = MeanOf(row, n);
    double squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += (row[i] - mean) * (row[i] - mean);
    const double deviation = std::sqrt(squares / static_cast<double>(n) + op.eps);
    for (int64_t i = begin; i < begin + n; ++i) {
      out.values[static_cast<size_t>(i)] = (x.values[static_cast<size_t>(i)] - mean) / deviation;
    }
  });
  ScaleRows(ctx, op.gamma);
  if (op.beta.valid()) {
    const Broadcasted beta(ctx.tensor(op.beta), x.dims);
    for (int64_t i = 0; i < x.elems(); ++i) out.values[static_cast<size_t>(i)] += beta[i];
  }
  return absl::OkStatus();
}

absl::Status Eval(const ops::RmsNorm& op, EvalContext& ctx) {
  const Tensor& x = ctx.tensor(op.x);
  Tensor& out = ctx.results[0];
  ForEachRow(x, [&](int64_t begin, int64_t n) {
    const double* row = x.values.data() + begin;
    double squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += row[i] * row[i];
    const double rms = std::sqrt(squares / static_cast<double>(n) + op.eps);
    for (int64_t i = begin; i < begin + n; ++i) {
      out.values[static_cast<size_t>(i)] = x.values[static_cast<size_t>(i)] / rms;
    }
  });
  ScaleRows(ctx, op.gamma);
  return absl::OkStatus();
}

}  // namespace sinter
