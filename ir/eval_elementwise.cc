// The meaning of sources and elementwise ops. Rounding to the result's type happens after each op, in the evaluator.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "ir/eval_internal.h"

namespace sinter {
namespace {

template <typename F>
absl::Status Map(EvalContext& ctx, ValueId x, F f) {
  Tensor& out = ctx.results[0];
  const Broadcasted in(ctx.tensor(x), out.dims);
  for (int64_t i = 0; i < out.elems(); ++i) out.values[static_cast<size_t>(i)] = f(in[i]);
  return absl::OkStatus();
}

template <typename F>
absl::Status Map(EvalContext& ctx, ValueId a, ValueId b, F f) {
  Tensor& out = ctx.results[0];
  const Broadcasted left(ctx.tensor(a), out.dims), right(ctx.tensor(b), out.dims);
  for (int64_t i = 0; i < out.elems(); ++i) out.values[static_cast<size_t>(i)] = f(left[i], right[i]);
  return absl::OkStatus();
}

// A NaN on either side stays visible.
double Larger(double a, double b) { return std::isnan(a) || a > b ? a : b; }
double Smaller(double a, double b) { return std::isnan(a) || a < b ? a : b; }

// Truncated and within the range of an integer type. The largest i64 is not a double; the largest double below it is.
double Saturate(DType dtype, double value) {
  if (std::isnan(value)) return 0;
  const int bits = static_cast<int>(8 * Info(dtype).block_bytes);
  const double low = dtype == DType::kU8 ? 0 : -std::ldexp(1.0, bits - 1);
  const double end = std::ldexp(1.0, dtype == DType::kU8 ? bits : bits - 1);
  return std::clamp(std::trunc(value), low, bits == 64 ? std::nextafter(end, 0.0) : end - 1);
}

double GeluTanh(double x) {
  constexpr double kRootTwoOverPi = 0.79788456080286535588;
  return x * (1 + std::tanh(kRootTwoOverPi * (x + 0.044715 * x * x * x))) / 2;
}
double GeluErf(double x) { return x * (1 + std::erf(x / std::numbers::sqrt2)) / 2; }

}  // namespace

absl::Status Eval(const ops::Weight& op, EvalContext& ctx) {
  if (!ctx.options.weights) return absl::InvalidArgumentError("the graph reads a weight file, and none is given");
  SINTER_ASSIGN_OR_RETURN(Tensor tensor, ctx.options.weights(op.name));
  Tensor& out = ctx.results[0];
  const bool rounds = IsFloat(tensor.dtype) && IsFloat(out.dtype);
  if ((tensor.dtype != out.dtype && !rounds) || tensor.dims != out.dims || tensor.elems() != out.elems()) {
    return absl::InvalidArgumentError(absl::StrCat("expected ", Info(out.dtype).name, "[", absl::StrJoin(out.dims, ","),
                                                   "]; the weight file has ", Info(tensor.dtype).name, "[",
                                                   absl::StrJoin(tensor.dims, ","), "]"));
  }
  out.values = std::move(tensor.values);
  return absl::OkStatus();
}

absl::Status Eval(const ops::Constant& op, EvalContext& ctx) {
  Tensor& out = ctx.results[0];
  const size_t n = op.values.size();
  if (n != 1 && n != out.values.size()) {
    return absl::InvalidArgumentError(absl::StrCat("expected one value or ", out.values.size(), "; found ", n));
  }
  for (size_t i = 0; i < out.values.size(); ++i) {
    const double value = op.values[n == 1 ? 0 : i];
    out.values[i] = IsInt(out.dtype) ? Saturate(out.dtype, value) : value;
  }
  return absl::OkStatus();
}

void RopeRow(int64_t position, int64_t width, double base, double scale, absl::string_view style,
             absl::Span<const double> factors, absl::Span<double> out) {
  for (int64_t i = 0; i < width / 2; ++i) {
    const double factor = factors.empty() ? 1.0 : factors[static_cast<size_t>(i)];
    const double theta = static_cast<double>(position) * scale *
                         std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(width)) / factor;
    const bool neox = style == "neox";
    const auto first = static_cast<size_t>(neox ? i : 2 * i),
               second = static_cast<size_t>(neox ? i + width / 2 : 2 * i + 1);
    const auto sines = static_cast<size_t>(width);
    out[first] = out[second] = std::cos(theta);
    out[sines + first] = -std::sin(theta);
    out[sines + second] = std::sin(theta);
  }
}

absl::Status Eval(const ops::RopeTable& op, EvalContext& ctx) {
  Tensor& out = ctx.results[0];
  const int64_t width = out.dims[1] / 2;
  const absl::Span<const double> factors =
      op.factors.valid() ? absl::MakeConstSpan(ctx.tensor(op.factors).values) : absl::Span<const double>();
  for (int64_t p = 0; p < out.dims[0]; ++p) {
    RopeRow(p, width, op.base, op.scale, op.style, factors,
            absl::MakeSpan(out.values).subspan(static_cast<size_t>(p * 2 * width), static_cast<size_t>(2 * width)));
  }
  return absl::OkStatus();
}

absl::Status Eval(const ops::Add& op, EvalContext& ctx) { return Map(ctx, op.a, op.b, std::plus<>()); }
absl::Status Eval(const ops::Sub& op, EvalContext& ctx) { return Map(ctx, op.a, op.b, std::minus<>()); }
absl::Status Eval(const ops::Mul& op, EvalContext& ctx) { return Map(ctx, op.a, op.b, std::multiplies<>()); }
absl::Status Eval(const ops::Div& op, EvalContext& ctx) {
  return Map(ctx, op.a, op.b, [](double a, double b) {
    static_assert(std::numeric_limits<double>::is_iec559);  // division by zero is an infinity or a NaN
    return a / b;
  });
}
absl::Status Eval(const ops::Maximum& op, EvalContext& ctx) { return Map(ctx, op.a, op.b, Larger); }
absl::Status Eval(const ops::Minimum& op, EvalContext& ctx) { return Map(ctx, op.a, op.b, Smaller); }
absl::Status Eval(const ops::Neg& op, EvalContext& ctx) { return Map(ctx, op.x, std::negate<>()); }
absl::Status Eval(const ops::Exp& op, EvalContext& ctx) {
  return Map(ctx, op.x, [](double x) { return std::exp(x); });
}
absl::Status Eval(const ops::Log& op, EvalContext& ctx) {
  return Map(ctx, op.x, [](double x) { return std::log(x); });
}
absl::Status Eval(const ops::Sqrt& op, EvalContext& ctx) {
  return Map(ctx, op.x, [](double x) { return std::sqrt(x); });
}
absl::Status Eval(const ops::Rsqrt& op, EvalContext& ctx) {
  return Map(ctx, op.x, [](double x) { return 1 / std::sqrt(x); });
}
absl::Status Eval(const ops::Tanh& op, EvalContext& ctx) {
  return Map(ctx, op.x, [](double x) { return std::tanh(x); });
}
absl::Status Eval(const ops::Erf& op, EvalContext& ctx) {
  return Map(ctx, op.x, [](double x) { return std::erf(x); });
}

absl::Status Eval(const ops::Select& op, EvalContext& ctx) {
  Tensor& out = ctx.results[0];
  const Broadcasted mask(ctx.tensor(op.mask), out.dims), a(ctx.tensor(op.a), out.dims), b(ctx.tensor(op.b), out.dims);
  for (int64_t i = 0; i < out.elems(); ++i) out.values[static_cast<size_t>(i)] = mask[i] != 0 ? a[i] : b[i];
  return absl::OkStatus();
}

absl::Status Eval(const ops::Convert& op, EvalContext& ctx) {
  const DType dtype = ctx.results[0].dtype;
  if (!IsInt(dtype)) return Map(ctx, op.x, [](double x) { return x; });
  return Map(ctx, op.x, [dtype](double x) { return Saturate(dtype, x); });
}

// A quantized tensor holds its decoded values.
absl::Status Eval(const ops::Dequantize& op, EvalContext& ctx) {
  return Map(ctx, op.x, [](double x) { return x; });
}

absl::Status Eval(const ops::Quantize& op, EvalContext& ctx) {
  Tensor& out = ctx.results[0];
  out.values = ctx.tensor(op.x).values;
  if (ctx.options.precision == Precision::kUnrounded) return absl::OkStatus();
  std::vector<uint8_t> bytes(static_cast<size_t>(ElemBytes(out.dtype, out.elems())));
  Encode(out.dtype, out.values, bytes.data());
  Decode(out.dtype, bytes.data(), absl::MakeSpan(out.values));
  return absl::OkStatus();
}

absl::Status Eval(const ops::Gelu& op, EvalContext& ctx) {
  return Map(ctx, op.x, op.form == "erf" ? GeluErf : GeluTanh);
}
absl::Status Eval(const ops::Swiglu& op, EvalContext& ctx) {
  return Map(ctx, op.gate, op.up, [](double gate, double up) { return gate / (1 + std::exp(-gate)) * up; });
}

absl::Status Eval(const ops::CausalMask& op, EvalContext& ctx) {
  const Tensor& pos = ctx.tensor(op.pos);
  Tensor& out = ctx.results[0];
  const auto len = static_cast<size_t>(ctx.Dim(op.len));
  for (size_t i = 0; i < out.values.size(); ++i)
    out.values[i] = static_cast<double>(i % len) <= pos.values[i / len] ? 1 : 0;
  return absl::OkStatus();
}

}  // namespace sinter
