// The meaning of each op, against values worked out by hand or by a formula written another way.
#include "ir/eval.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "ir/text.h"

namespace sinter {
namespace {

using ::testing::DoubleEq;
using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pointwise;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

using Values = std::vector<double>;

Tensor F32(std::vector<int64_t> dims, Values values) { return {DType::kF32, std::move(dims), std::move(values)}; }
Tensor F64(std::vector<int64_t> dims, Values values) { return {DType::kF64, std::move(dims), std::move(values)}; }
Tensor I32(Values values) {
  const auto n = static_cast<int64_t>(values.size());
  return {DType::kI32, {n}, std::move(values)};
}
Tensor Bool(std::vector<int64_t> dims, Values values) { return {DType::kBool, std::move(dims), std::move(values)}; }

Values Random(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  Values values(n);
  for (double& v : values) v = static_cast<float>(std::ldexp(static_cast<double>(random()), -31) - 1);
  return values;
}

// Evaluates @main of a module with dims T in 1..8 and P in 0..8 and what `graphs` holds.
absl::StatusOr<std::vector<Tensor>> TryRun(const std::string& graphs, std::vector<Tensor> args,
                                           const EvalOptions& options = {}, const std::string& stage = "") {
  const auto module =
      Parse(absl::StrCat("module @m ", stage, "{ dim T in 1..8 dim P in 0..8 bound P+T <= 10\n", graphs, "}"), "test");
  if (!module.ok()) return module.status();
  return Evaluate(*(*module)->FindGraph("main"), std::move(args), options);
}

Tensor RunMain(const std::string& graphs, std::vector<Tensor> args, const EvalOptions& options = {}) {
  auto results = TryRun(graphs, std::move(args), options);
  EXPECT_TRUE(results.ok()) << results.status().message();
  return results.ok() ? (*results)[0] : Tensor();
}

std::string Message(const absl::Status& status) { return std::string(status.message()); }

// One op on f64[4], so that no rounding stands between the test and the formula.
Values Unary(const std::string& op, Values x) {
  return RunMain(absl::StrCat("graph @main(%x: f64[4]) -> f64[4] { %y = ", op, " %x : f64[4] return %y }"),
                 {F64({4}, std::move(x))})
      .values;
}
Values Binary(const std::string& op, Values a, Values b) {
  return RunMain(
             absl::StrCat("graph @main(%a: f64[4], %b: f64[4]) -> f64[4] { %y = ", op, " %a, %b : f64[4] return %y }"),
             {F64({4}, std::move(a)), F64({4}, std::move(b))})
      .values;
}

TEST(EvalElementwise, Arithmetic) {
  EXPECT_THAT(Binary("add", {1, 2, 3, kInf}, {10, -20, 0.5, 1}), ElementsAre(11, -18, 3.5, kInf));
  EXPECT_THAT(Binary("sub", {1, 2, 3, 4}, {10, -20, 0.5, 4}), ElementsAre(-9, 22, 2.5, 0));
  EXPECT_THAT(Binary("mul", {1, 2, 3, 4}, {10, -20, 0.5, 0}), ElementsAre(10, -40, 1.5, 0));
  EXPECT_THAT(Binary("div", {1, 2, -3, 0}, {4, -8, 0, 5}), ElementsAre(0.25, -0.25, -kInf, 0));
  EXPECT_THAT(Binary("maximum", {1, 2, -3, -kInf}, {4, -8, -3, 5}), ElementsAre(4, 2, -3, 5));
  EXPECT_THAT(Binary("minimum", {1, 2, -3, -kInf}, {4, -8, -3, 5}), ElementsAre(1, -8, -3, -kInf));
  for (const char* op : {"maximum", "minimum"}) {
    for (double v : Binary(op, {kNan, 1, kNan, kNan}, {1, kNan, kNan, kInf})) EXPECT_TRUE(std::isnan(v)) << op;
  }
  EXPECT_THAT(Unary("neg", {1, -2, 0.5, kInf}), ElementsAre(-1, 2, -0.5, -kInf));
}

TEST(EvalElementwise, Functions) {
  EXPECT_THAT(Unary("exp", {0, 1, -kInf, -1}),
              ElementsAre(1, DoubleEq(std::numbers::e), 0, DoubleEq(1 / std::numbers::e)));
  EXPECT_THAT(Unary("log", {1, std::numbers::e, 0, 1024}),
              ElementsAre(0, DoubleEq(1), -kInf, DoubleEq(10 * std::numbers::ln2)));
  EXPECT_THAT(Unary("sqrt", {4, 2, 0, 0.25}), ElementsAre(2, DoubleEq(std::numbers::sqrt2), 0, 0.5));
  EXPECT_THAT(Unary("rsqrt", {4, 2, 0, 0.25}), ElementsAre(0.5, DoubleEq(1 / std::numbers::sqrt2), kInf, 2));
  const double e2 = std::exp(2.0);
  EXPECT_THAT(Unary("tanh", {0, 1, -1, 40}),
              ElementsAre(0, DoubleEq((e2 - 1) / (e2 + 1)), DoubleEq((1 - e2) / (e2 + 1)), 1));
  // Abramowitz and Stegun, table 7.1.
  EXPECT_THAT(Unary("erf", {0, 0.5, -1, 10}),
              ElementsAre(0, DoubleNear(0.5204998778, 1e-10), DoubleNear(-0.8427007929, 1e-10), 1));
}

TEST(EvalElementwise, Activations) {
  const Values x = {-2, -0.5, 0, 3};
  Values tanh_form, erf_form, swiglu;
  for (double v : x) {
    // (1 + tanh(z)) / 2 is the logistic function of 2z.
    const double z = std::sqrt(2 / std::numbers::pi) * (v + 0.044715 * std::pow(v, 3));
    tanh_form.push_back(v / (1 + std::exp(-2 * z)));
    erf_form.push_back(v * 0.5 * std::erfc(-v / std::sqrt(2.0)));
    swiglu.push_back(v * std::exp(v) / (std::exp(v) + 1) * (v + 10));
  }
  EXPECT_THAT(Unary("gelu", x), Pointwise(DoubleNear(1e-14), tanh_form));
  EXPECT_THAT(
      RunMain("graph @main(%x: f64[4]) -> f64[4] { %y = gelu %x {form=\"erf\"} : f64[4] return %y }", {F64({4}, x)})
          .values,
      Pointwise(DoubleNear(1e-14), erf_form));
  EXPECT_THAT(Binary("swiglu", x, {8, 9.5, 10, 13}), Pointwise(DoubleNear(1e-14), swiglu));
}

TEST(EvalElementwise, SelectAndMask) {
  EXPECT_THAT(
      RunMain("graph @main(%m: bool[1,3], %a: f32[2,3], %b: f32[1]) -> f32[2,3] { %y = select %m, %a, %b : f32[2,3] "
              "return %y }",
              {Bool({1, 3}, {1, 0, 1}), F32({2, 3}, {1, 2, 3, 4, 5, 6}), F32({1}, {-9})})
          .values,
      ElementsAre(1, -9, 3, 4, -9, 6));
  const Tensor mask =
      RunMain("graph @main(%pos: i32[T]) -> bool[T,4] { %y = causal_mask %pos {len=4} : bool[T,4] return %y }",
              {I32({2, 0, 7})});
  EXPECT_EQ(mask.dtype, DType::kBool);
  EXPECT_THAT(mask.values, ElementsAre(1, 1, 1, 0, /**/ 1, 0, 0, 0, /**/ 1, 1, 1, 1));
}

TEST(EvalElementwise, BroadcastsAlignAtTheLastAxis) {
  EXPECT_THAT(
      RunMain("graph @main(%a: f32[2,1,3], %b: f32[2,1]) -> f32[2,2,3] { %y = sub %a, %b : f32[2,2,3] return %y }",
              {F32({2, 1, 3}, {1, 2, 3, 4, 5, 6}), F32({2, 1}, {10, 20})})
          .values,
      ElementsAre(-9, -8, -7, -19, -18, -17, -6, -5, -4, -16, -15, -14));
}

TEST(EvalElementwise, Convert) {
  const auto convert = [](const std::string& from, const std::string& to, Tensor x) {
    const std::string dims = absl::StrCat("[", x.elems(), "]");
    return RunMain(absl::StrCat("graph @main(%x: ", from, dims, ") -> ", to, dims, " { %y = convert %x : ", to, dims,
                                " return %y }"),
                   {std::move(x)})
        .values;
  };
  EXPECT_THAT(convert("f32", "i8", F32({6}, {1.9, -1.9, 300, -300, kNan, -kInf})),
              ElementsAre(1, -1, 127, -128, 0, -128));
  EXPECT_THAT(convert("f32", "u8", F32({4}, {255.9, 256, -0.9, -5})), ElementsAre(255, 255, 0, 0));
  EXPECT_THAT(convert("f64", "i32", F64({2}, {1e10, -1e10})), ElementsAre(2147483647, -2147483648.0));
  EXPECT_THAT(convert("f64", "i64", F64({2}, {1e30, -1e30})), ElementsAre(9223372036854774784.0, -std::ldexp(1.0, 63)));
  EXPECT_THAT(convert("i32", "i8", I32({200, -200, 7})), ElementsAre(127, -128, 7));
  EXPECT_THAT(convert("i32", "f32", I32({16777217})), ElementsAre(16777216));
  // Ties to even: 2049 lies between the halves 2048 and 2050; 2051 between 2050 and 2052.
  EXPECT_THAT(convert("f32", "f16", F32({4}, {2049, 2051, 70000, 1e-9})), ElementsAre(2048, 2052, kInf, 0));
  EXPECT_THAT(convert("f32", "bf16", F32({3}, {257, 259, 1.0 + 1.0 / 256})), ElementsAre(256, 260, 1));
}

TEST(EvalElementwise, IntegersAreExactAndWrap) {
  const std::string add = "graph @main(%a: i32[2], %b: i32[2]) -> i32[2] { %y = add %a, %b : i32[2] return %y }";
  EXPECT_THAT(RunMain(add, {I32({16777217, 2147483647}), I32({1, 1})}).values, ElementsAre(16777218, -2147483648.0));
  const Tensor u{DType::kU8, {3}, {200, 0, 16}}, v{DType::kU8, {3}, {100, 1, 16}};
  EXPECT_THAT(
      RunMain("graph @main(%a: u8[3], %b: u8[3]) -> u8[3] { %y = sub %a, %b : u8[3] return %y }", {u, v}).values,
      ElementsAre(100, 255, 0));
  EXPECT_THAT(
      RunMain("graph @main(%a: u8[3], %b: u8[3]) -> u8[3] { %y = mul %a, %b : u8[3] return %y }", {u, v}).values,
      ElementsAre(20000 % 256, 0, 0));
}

TEST(EvalPrecision, RoundsToTheTypeUnlessDouble) {
  const std::string text =
      "graph @main(%x: f32[1], %y: f32[1], %h: f16[1]) -> (f32[1], f16[1]) {"
      "  %s = add %x, %y : f32[1]  %t = mul %h, %h : f16[1]  return %s, %t }";
  const std::vector<Tensor> args = {F32({1}, {1}), F32({1}, {std::ldexp(1.0, -30)}),
                                    Tensor{DType::kF16, {1}, {1.0 + 1.0 / 1024}}};
  const auto typed = TryRun(text, args), in_double = TryRun(text, args, {.precision = Precision::kDouble});
  ASSERT_TRUE(typed.ok() && in_double.ok());
  EXPECT_EQ((*typed)[0].values[0], 1.0);
  EXPECT_EQ((*in_double)[0].values[0], 1 + std::ldexp(1.0, -30));
  EXPECT_EQ((*typed)[1].values[0], 1 + 2.0 / 1024);
  EXPECT_EQ((*in_double)[1].values[0], 1 + 2.0 / 1024);
}

TEST(EvalSources, Constant) {
  EXPECT_THAT(RunMain("graph @main() -> f32[2,2] { %y = constant {values=[0.1]} : f32[2,2] return %y }", {}).values,
              Pointwise(DoubleEq(), Values(4, 0.1f)));
  EXPECT_THAT(RunMain("graph @main() -> i32[3] { %y = constant {values=[1, -2, 3]} : i32[3] return %y }", {}).values,
              ElementsAre(1, -2, 3));
  EXPECT_THAT(RunMain("graph @main() -> bool[2] { %y = constant {values=[0, 1]} : bool[2] return %y }", {}).values,
              ElementsAre(0, 1));
}

TEST(EvalSources, Weight) {
  const std::string text = "graph @main() -> f32[2] { %y = weight \"a.b\" : f32[2] return %y }";
  const auto reader = [](Tensor tensor) {
    return EvalOptions{.weights = [tensor](const std::string& name) -> absl::StatusOr<Tensor> {
      if (name != "a.b") return absl::NotFoundError(name);
      return tensor;
    }};
  };
  EXPECT_THAT(RunMain(text, {}, reader(F32({2}, {3, 4}))).values, ElementsAre(3, 4));
  EXPECT_THAT(Message(TryRun(text, {}).status()), HasSubstr("none is given"));
  EXPECT_THAT(Message(TryRun(text, {}, reader(F32({3}, {3, 4, 5}))).status()),
              HasSubstr("expected f32[2]; the weight file has f32[3]"));
  EXPECT_THAT(Message(TryRun(text, {}, reader(F64({2}, {3, 4}))).status()), HasSubstr("the weight file has f64[2]"));
  EXPECT_EQ(TryRun("graph @main() -> f32[2] { %y = weight \"x\" : f32[2] return %y }", {}, reader({})).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(EvalSources, Dequantize) {
  const Values values = Random(64, 3);
  EXPECT_EQ(RunMain("graph @main(%x: q8_0[2,32]) -> f32[2,32] { %y = dequantize %x : f32[2,32] return %y }",
                    {Tensor{DType::kQ8_0, {2, 32}, values}})
                .values,
            values);
}

TEST(EvalRope, TableHoldsCosinesAndSignedSines) {
  const auto table = [](const std::string& style) {
    return RunMain(absl::StrCat("graph @main() -> f32[3,8] { %f = constant {values=[1, 2]} : f32[2] %y = rope_table %f "
                                "{base=100, scale=0.5, style=\"",
                                style, "\"} : f32[3,8] return %y }"),
                   {}, {.precision = Precision::kDouble})
        .values;
  };
  // Width 4: pair 0 turns by p/2, pair 1 by p/2 * 100^(-1/2) / 2 = p/40.
  const double a = 2 * 0.5, b = 2 * 0.5 * 0.1 / 2;
  const Values norm = table("norm"), neox = table("neox");
  EXPECT_THAT(Values(norm.begin() + 16, norm.end()),
              Pointwise(DoubleNear(1e-15), Values{std::cos(a), std::cos(a), std::cos(b), std::cos(b), -std::sin(a),
                                                  std::sin(a), -std::sin(b), std::sin(b)}));
  EXPECT_THAT(Values(neox.begin() + 16, neox.end()),
              Pointwise(DoubleNear(1e-15), Values{std::cos(a), std::cos(b), std::cos(a), std::cos(b), -std::sin(a),
                                                  -std::sin(b), std::sin(a), std::sin(b)}));
  EXPECT_THAT(Values(norm.begin(), norm.begin() + 8), ElementsAre(1, 1, 1, 1, 0, 0, 0, 0));
}

TEST(EvalRope, TurnsPairsAsComplexNumbers) {
  constexpr int kT = 3, kD = 6;
  const Values x = Random(2 * kT * kD, 5), pos = {4, 0, 2};
  for (const std::string style : {"norm", "neox"}) {
    const Tensor y = RunMain(
        absl::StrCat("graph @main(%x: f32[2,1,T,6], %p: i32[T]) -> f32[2,1,T,6] { %t = rope_table "
                     "{style=\"",
                     style, "\"} : f32[5,12] %y = rope %x, %p, %t {style=\"", style, "\"} : f32[2,1,T,6] return %y }"),
        {F32({2, 1, kT, kD}, x), I32(pos)}, {.precision = Precision::kDouble});
    for (int head = 0; head < 2; ++head) {
      for (int t = 0; t < kT; ++t) {
        for (int i = 0; i < kD / 2; ++i) {
          const int first = style == "norm" ? 2 * i : i, second = style == "norm" ? 2 * i + 1 : i + kD / 2;
          const size_t row = static_cast<size_t>((head * kT + t) * kD);
          const double angle = pos[static_cast<size_t>(t)] / std::pow(10000.0, 2.0 * i / kD);
          const double re = x[row + first], im = x[row + second];
          EXPECT_NEAR(y.values[row + first], re * std::cos(angle) - im * std::sin(angle), 1e-12);
          EXPECT_NEAR(y.values[row + second], re * std::sin(angle) + im * std::cos(angle), 1e-12);
        }
      }
    }
  }
}

TEST(EvalRope, PositionOutsideTheTable) {
  const std::string text =
      "graph @main(%x: f32[T,2], %p: i32[T]) -> f32[T,2] { %t = rope_table : f32[4,4] "
      "%y = rope %x, %p, %t : f32[T,2] return %y }";
  EXPECT_TRUE(TryRun(text, {F32({1, 2}, {1, 2}), I32({3})}).ok());
  for (double position : {4.0, -1.0, 1e9}) {
    const absl::Status status = TryRun(text, {F32({1, 2}, {1, 2}), I32({position})}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(status), HasSubstr("is outside 0..3"));
    EXPECT_THAT(Message(status), HasSubstr("%y = rope %x, %p, %t"));
  }
}

TEST(EvalRows, Reductions) {
  const Tensor x = F64({2, 3, 2}, {1, 2, 3, 4, 5, 6, -1, -2, -3, -4, -5, -6});
  const auto reduce = [&](const std::string& op, const std::string& type) {
    return RunMain(absl::StrCat("graph @main(%x: f64[2,3,2]) -> ", type, " { %y = ", op, " : ", type, " return %y }"),
                   {x})
        .values;
  };
  EXPECT_THAT(reduce("sum %x", "f64[2,3,1]"), ElementsAre(3, 7, 11, -3, -7, -11));
  EXPECT_THAT(reduce("sum %x {axis=1}", "f64[2,1,2]"), ElementsAre(9, 12, -9, -12));
  EXPECT_THAT(reduce("sum %x {axis=-3}", "f64[1,3,2]"), ElementsAre(0, 0, 0, 0, 0, 0));
  EXPECT_THAT(reduce("mean %x {axis=1}", "f64[2,1,2]"), ElementsAre(3, 4, -3, -4));
  EXPECT_THAT(reduce("max %x {axis=1}", "f64[2,1,2]"), ElementsAre(5, 6, -1, -2));
  EXPECT_THAT(reduce("max %x {axis=0}", "f64[1,3,2]"), ElementsAre(1, 2, 3, 4, 5, 6));
}

TEST(EvalRows, SumsAccumulateInDouble) {
  Values values(1 << 12, 1.0);
  values[0] = 16777216;  // in f32, 2^24 + 1 is 2^24
  EXPECT_EQ(RunMain("graph @main(%x: f32[4096]) -> f32[1] { %y = sum %x : f32[1] return %y }", {F32({4096}, values)})
                .values[0],
            static_cast<float>(16777216 + 4095));
}

TEST(EvalRows, Softmax) {
  const std::string text =
      "graph @main(%x: f64[2,T,3], %m: bool[T,3]) -> f64[2,T,3] "
      "{ %y = softmax %x, %m {scale=0.5} : f64[2,T,3] return %y }";
  const Values x = {1, 2, 3, /**/ 4, 5, -kInf, /**/ 1000, 999, 0, /**/ 7, 7, 7};
  const Tensor y = RunMain(text, {F64({2, 2, 3}, x), Bool({2, 3}, {1, 1, 1, 1, 0, 1})});
  const double h = std::exp(0.5), a = 1 + h + h * h;
  EXPECT_THAT(y.values, Pointwise(DoubleNear(1e-15), Values{1 / a, h / a, h * h / a, /**/ 1, 0, 0, /**/ h / (1 + h),
                                                            1 / (1 + h), 0, /**/ 0.5, 0, 0.5}));
}

TEST(EvalRows, SoftmaxOfAFullyMaskedRowIsZeros) {
  EXPECT_THAT(
      RunMain("graph @main(%x: f64[2,2], %m: bool[2,1]) -> f64[2,2] { %y = softmax %x, %m : f64[2,2] return %y }",
              {F64({2, 2}, {1, 2, 3, 3}), Bool({2, 1}, {0, 1})})
          .values,
      ElementsAre(0, 0, 0.5, 0.5));
  // Only -inf masks: the most negative number does not.
  const double low = std::numeric_limits<double>::lowest();
  EXPECT_THAT(RunMain("graph @main(%x: f64[2,2]) -> f64[2,2] { %y = softmax %x : f64[2,2] return %y }",
                      {F64({2, 2}, {-kInf, -kInf, low, low})})
                  .values,
              ElementsAre(0, 0, 0.5, 0.5));
}

TEST(EvalRows, Norms) {
  const Values x = Random(12, 9), gamma = Random(4, 10), beta = Random(4, 11);
  const Tensor layer = RunMain(
      "graph @main(%x: f64[3,4], %g: f64[4], %b: f64[4]) -> f64[3,4] "
      "{ %y = layer_norm %x, %g, %b {eps=0.25} : f64[3,4] return %y }",
      {F64({3, 4}, x), F64({4}, gamma), F64({4}, beta)});
  const Tensor plain =
      RunMain("graph @main(%x: f64[3,4], %g: f64[4]) -> f64[3,4] { %y = layer_norm %x, %g : f64[3,4] return %y }",
              {F64({3, 4}, x), F64({4}, gamma)});
  const Tensor rms = RunMain(
      "graph @main(%x: f64[3,4], %g: f64[4]) -> f64[3,4] "
      "{ %y = rms_norm %x, %g {eps=0.25} : f64[3,4] return %y }",
      {F64({3, 4}, x), F64({4}, gamma)});
  for (size_t r = 0; r < 3; ++r) {
    double sum = 0, squares = 0;
    for (size_t i = 0; i < 4; ++i) sum += x[4 * r + i], squares += x[4 * r + i] * x[4 * r + i];
    const double mean = sum / 4, variance = squares / 4 - mean * mean;  // E[x^2] - E[x]^2
    for (size_t i = 0; i < 4; ++i) {
      const double centered = x[4 * r + i] - mean;
      EXPECT_NEAR(layer.values[4 * r + i], centered / std::sqrt(variance + 0.25) * gamma[i] + beta[i], 1e-12);
      EXPECT_NEAR(plain.values[4 * r + i], centered / std::sqrt(variance + 1e-5) * gamma[i], 1e-12);
      EXPECT_NEAR(rms.values[4 * r + i], x[4 * r + i] / std::sqrt(squares / 4 + 0.25) * gamma[i], 1e-12);
    }
  }
}

TEST(EvalProducts, Gemm) {
  const Tensor a = F32({2, 3}, {1, 2, 3, 4, 5, 6}), b = F32({3, 2}, {1, 0, 2, 1, 0, -1});
  const Tensor at = F32({3, 2}, {1, 4, 2, 5, 3, 6}), bt = F32({2, 3}, {1, 2, 0, 0, 1, -1});
  const auto gemm = [](const std::string& attrs, const Tensor& x, const Tensor& y) {
    const auto type = [](const Tensor& t) { return absl::StrCat("f32[", t.dims[0], ",", t.dims[1], "]"); };
    return RunMain(absl::StrCat("graph @main(%a: ", type(x), ", %b: ", type(y), ") -> f32[2,2] { %y = gemm %a, %b ",
                                attrs, " : f32[2,2] return %y }"),
                   {x, y})
        .values;
  };
  EXPECT_THAT(gemm("", a, b), ElementsAre(5, -1, 14, -1));
  EXPECT_THAT(gemm("{trans_a=true}", at, b), ElementsAre(5, -1, 14, -1));
  EXPECT_THAT(gemm("{trans_b=true}", a, bt), ElementsAre(5, -1, 14, -1));
  EXPECT_THAT(gemm("{trans_a=true, trans_b=true}", at, bt), ElementsAre(5, -1, 14, -1));
}

// [G,Q,T,D] by [G,S,D]: each group's matrix serves its Q heads; a batch axis of 1 serves all.
TEST(EvalProducts, GemmBatches) {
  const Values q = Random(2 * 3 * 2 * 4, 12), k = Random(2 * 5 * 4, 13), one = Random(5 * 4, 14);
  const auto run = [&](const std::string& groups, const Values& b) {
    return RunMain(absl::StrCat("graph @main(%a: f64[2,3,2,4], %b: f64[", groups,
                                ",5,4]) -> f32[2,3,2,5] "
                                "{ %y = gemm %a, %b {trans_b=true} : f32[2,3,2,5] return %y }"),
                   {F64({2, 3, 2, 4}, q), F64({groups == "2" ? 2 : 1, 5, 4}, b)}, {.precision = Precision::kDouble});
  };
  const Tensor y = run("2", k), z = run("1", one);
  EXPECT_EQ(y.dtype, DType::kF32);
  for (size_t head = 0; head < 6; ++head) {
    for (size_t t = 0; t < 2; ++t) {
      for (size_t s = 0; s < 5; ++s) {
        double shared = 0, single = 0;
        for (size_t d = 0; d < 4; ++d) {
          shared += q[(head * 2 + t) * 4 + d] * k[(head / 3 * 5 + s) * 4 + d];
          single += q[(head * 2 + t) * 4 + d] * one[s * 4 + d];
        }
        EXPECT_NEAR(y.values[(head * 2 + t) * 5 + s], shared, 1e-12);
        EXPECT_NEAR(z.values[(head * 2 + t) * 5 + s], single, 1e-12);
      }
    }
  }
}

constexpr char kDot[] = R"(
  graph @dot(%a: f32[4], %b: f32[4]) -> f32[1] { %m = mul %a, %b : f32[4]  %r = sum %m {axis=0} : f32[1]  return %r }
)";

TEST(EvalProducts, LoopOfDotsIsGemm) {
  const Tensor q = F32({2, 3, 2, 4}, Random(48, 15)), k = F32({2, 5, 4}, Random(40, 16));
  const Tensor loop = RunMain(absl::StrCat(kDot,
                                           "graph @main(%q: f32[2,3,T,4], %k: f32[2,5,4]) -> f32[2,3,T,5] { %y = loop "
                                           "@dot(%q, %k) {over=\"g q t s\", slices=[\"g q t .\", \"g s .\"]} : "
                                           "f32[2,3,T,5] return %y }"),
                              {q, k}, {.precision = Precision::kDouble});
  const Tensor gemm = RunMain(
      "graph @main(%q: f32[2,3,T,4], %k: f32[2,5,4]) -> f32[2,3,T,5] "
      "{ %y = gemm %q, %k {trans_b=true} : f32[2,3,T,5] return %y }",
      {q, k}, {.precision = Precision::kDouble});
  EXPECT_THAT(loop.values, Pointwise(DoubleEq(), gemm.values));
}

// The axis that is handed over may be any one, and letters may stand in any order.
TEST(EvalProducts, LoopSlicesAnyAxis) {
  const Values a = Random(4 * 3, 17), b = Random(4 * 2, 18);
  const Tensor y = RunMain(absl::StrCat(kDot,
                                        "graph @main(%a: f32[4,3], %b: f32[2,4]) -> f32[2,3] { %y = loop @dot(%a, %b) "
                                        "{over=\"i j\", slices=[\". j\", \"i .\"]} : f32[2,3] return %y }"),
                           {F32({4, 3}, a), F32({2, 4}, b)}, {.precision = Precision::kDouble});
  for (size_t i = 0; i < 2; ++i) {
    for (size_t j = 0; j < 3; ++j) {
      double sum = 0;
      for (size_t k = 0; k < 4; ++k) sum += a[k * 3 + j] * b[i * 4 + k];
      EXPECT_NEAR(y.values[i * 3 + j], sum, 1e-12);
    }
  }
}

TEST(EvalProducts, LoopRoundsInsideItsBody) {
  const double third = static_cast<float>(1.0 / 3);
  const Tensor x = F32({1, 4}, Values(4, third));
  const std::string text = absl::StrCat(kDot,
                                        "graph @main(%a: f32[1,4]) -> f32[1] { %y = loop @dot(%a, %a) {over=\"i\", "
                                        "slices=[\"i .\", \"i .\"]} : f32[1] return %y }");
  EXPECT_EQ(RunMain(text, {x}).values[0], static_cast<float>(4.0 * static_cast<float>(third * third)));
  EXPECT_EQ(RunMain(text, {x}, {.precision = Precision::kDouble}).values[0], 4 * third * third);
}

TEST(EvalProducts, KernelEvaluatesItsBody) {
  int observed = 0;
  EvalOptions options;
  options.observe = [&](ValueId, const Tensor&) { ++observed; };
  const auto results = TryRun(R"(
    graph @main(%x: f32[T,2]) -> f32[T,1] {
      %s, %n = kernel @both(%x) {family="row"} : f32[T,1], f32[T,2]
      %r = kernel @total(%n) {family="row"} : f32[T,1]
      return %r
    }
    graph @both(%x: f32[T,2]) -> (f32[T,1], f32[T,2]) { %s = sum %x : f32[T,1] %n = neg %x : f32[T,2] return %s, %n }
    graph @total(%x: f32[T,2]) -> f32[T,1] { %s = sum %x : f32[T,1] return %s })",
                              {F32({2, 2}, {1, 2, 3, 4})}, options, "stage kernels");
  ASSERT_TRUE(results.ok()) << results.status().message();
  EXPECT_THAT((*results)[0].values, ElementsAre(-3, -7));
  EXPECT_EQ(observed, 4);  // %x %s %n %r, and nothing of the bodies
}

TEST(EvalViews, Views) {
  const Values x = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const auto view = [&](const std::string& op, const std::string& type) {
    return RunMain(absl::StrCat("graph @main(%x: f32[2,6]) -> ", type, " { %y = ", op, " : ", type, " return %y }"),
                   {F32({2, 6}, x)})
        .values;
  };
  EXPECT_THAT(view("slice %x {axis=1, first=2, len=3}", "f32[2,3]"), ElementsAre(3, 4, 5, 9, 10, 11));
  EXPECT_THAT(view("slice %x {first=1}", "f32[1,6]"), ElementsAre(7, 8, 9, 10, 11, 12));
  EXPECT_THAT(view("transpose %x {perm=[1, 0]}", "f32[6,2]"), ElementsAre(1, 7, 2, 8, 3, 9, 4, 10, 5, 11, 6, 12));
  EXPECT_THAT(view("repeat %x {axis=1, times=2}", "f32[2,12]"),
              ElementsAre(1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12));
  EXPECT_THAT(view("repeat %x {times=2}", "f32[4,6]"),
              ElementsAre(1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 7, 8, 9, 10, 11, 12));
  const Tensor reshaped =
      RunMain("graph @main(%x: f32[2,6]) -> f32[3,4] { %y = reshape %x : f32[3,4] return %y }", {F32({2, 6}, x)});
  EXPECT_EQ(reshaped.values, x);
  EXPECT_THAT(reshaped.dims, ElementsAre(3, 4));
  // Columns 1..5 are two groups of one head of width 2.
  EXPECT_THAT(view("heads %x {first=1, groups=2}", "f32[2,1,2,2]"), ElementsAre(2, 3, 8, 9, 4, 5, 10, 11));
}

TEST(EvalViews, TransposeOfThreeAxes) {
  const Values x = Random(24, 19);
  const Tensor y =
      RunMain("graph @main(%x: f32[2,3,4]) -> f32[4,2,3] { %y = transpose %x {perm=[2, 0, 1]} : f32[4,2,3] return %y }",
              {F32({2, 3, 4}, x)});
  for (size_t i = 0; i < 2; ++i) {
    for (size_t j = 0; j < 3; ++j) {
      for (size_t k = 0; k < 4; ++k) EXPECT_EQ(y.values[(k * 2 + i) * 3 + j], x[(i * 3 + j) * 4 + k]);
    }
  }
}

TEST(EvalViews, MergeHeadsIsTheOppositeOfHeads) {
  const Values x = Random(3 * 12, 20);
  EXPECT_EQ(RunMain("graph @main(%x: f32[3,12]) -> f32[3,12] { %h = heads %x {groups=2} : f32[2,3,3,2] "
                    "%y = merge_heads %h : f32[3,12] return %y }",
                    {F32({3, 12}, x)})
                .values,
            x);
}

TEST(EvalViews, Take) {
  const std::string text =
      "graph @main(%t: f32[3,2], %r: i32[T]) -> f32[T,2] { %y = take %t, %r : f32[T,2] return %y }";
  const Tensor table = F32({3, 2}, {1, 2, 3, 4, 5, 6});
  EXPECT_THAT(RunMain(text, {table, I32({2, 0, 2})}).values, ElementsAre(5, 6, 1, 2, 5, 6));
  for (double row : {3.0, -1.0, kNan}) {
    EXPECT_THAT(Message(TryRun(text, {table, I32({0, row})}).status()), HasSubstr("is outside 0..2"));
  }
}

TEST(EvalState, AppendAndView) {
  const std::string text = R"(
    graph @main(%c: state<f32[2,2,10,1]>, %k: f32[2,1,T,1], %v: f32[2,1,T,1], %p: i32[T], %old: f32[P])
        -> (state<f32[2,2,10,1]>, f32[2,P+T,1], f32[2,P+T,1]) {
      %c1 = kv_append %c, %k, %v, %p : state<f32[2,2,10,1]>
      %K, %V = kv_view %c1 {len=P+T} : f32[2,P+T,1], f32[2,P+T,1]
      return %c1, %K, %V
    })";
  const Tensor empty{DType::kF32, {}, {}};
  auto first = TryRun(
      text, {empty, F32({2, 1, 2, 1}, {1, 2, 3, 4}), F32({2, 1, 2, 1}, {5, 6, 7, 8}), I32({0, 1}), F32({0}, {})});
  ASSERT_TRUE(first.ok()) << first.status().message();
  EXPECT_THAT((*first)[1].values, ElementsAre(1, 2, 3, 4));
  EXPECT_THAT((*first)[2].values, ElementsAre(5, 6, 7, 8));
  EXPECT_THAT((*first)[0].dims, ElementsAre(2, 2, 10, 1));

  // The next step goes on from the state that the first one returned, and may write positions in any order.
  const auto second = TryRun(text, {(*first)[0], F32({2, 1, 2, 1}, {-1, -2, -3, -4}),
                                    F32({2, 1, 2, 1}, {-5, -6, -7, -8}), I32({3, 2}), F32({2}, {0, 0})});
  ASSERT_TRUE(second.ok()) << second.status().message();
  EXPECT_THAT((*second)[1].values, ElementsAre(1, 2, -2, -1, 3, 4, -4, -3));
  EXPECT_THAT((*second)[2].values, ElementsAre(5, 6, -6, -5, 7, 8, -8, -7));

  const auto past =
      TryRun(text, {empty, F32({2, 1, 1, 1}, {1, 2}), F32({2, 1, 1, 1}, {1, 2}), I32({10}), F32({0}, {})});
  EXPECT_THAT(Message(past.status()), HasSubstr("position 10 is outside 0..9"));
}

TEST(EvalDims, BindFromShapes) {
  const auto module = Parse(
      "module @m { dim T in 1..8 dim P in 0..8 dim U in 1..4 bound P+T <= 10\n"
      "graph @main(%s: f32[P+T,2], %x: f32[2*T], %c: state<f32[2,1,T,4]>, %z: f32[P*T+1]) -> f32[2*T] "
      "{ return %x } }",
      "test");
  ASSERT_TRUE(module.ok()) << module.status().message();
  const Graph& graph = *(*module)->FindGraph("main");
  const auto bind = [&](std::vector<std::vector<int64_t>> shapes, IdMap<DimId, int64_t> dims = {}) {
    std::vector<Tensor> args;
    for (auto& shape : shapes) args.push_back({DType::kF32, shape, {}});
    const absl::Status status = BindDims(graph, args, dims);
    return status.ok() ? absl::StrCat("T=", dims[DimId{0}], " P=", dims[DimId{1}], " U=", dims[DimId{2}])
                       : Message(status);
  };
  EXPECT_EQ(bind({{7, 2}, {6}, {}, {13}}), "T=3 P=4 U=-1");
  EXPECT_EQ(bind({{3, 2}, {6}, {}, {1}}), "T=3 P=0 U=-1");
  EXPECT_THAT(bind({{7, 2}, {6}, {}, {14}}),
              HasSubstr("%z: f32[P*T+1]: expected P*T+1 = 13 on axis 0; found the shape [14]"));
  EXPECT_THAT(bind({{7, 2}, {5}, {}, {13}}), HasSubstr("dim P+T is not bound"));
  EXPECT_THAT(bind({{7, 3}, {6}, {}, {13}}), HasSubstr("expected 2 = 2 on axis 1; found the shape [7,3]"));
  EXPECT_THAT(bind({{7}, {6}, {}, {13}}), HasSubstr("expected 2 axes; found the shape [7]"));
  EXPECT_THAT(bind({{7, 2}, {6}}), HasSubstr("expected 4 arguments; found 2"));
  EXPECT_THAT(bind({{12, 2}, {18}, {}, {28}}), HasSubstr("dim T is 9, outside 1..8"));
  EXPECT_THAT(bind({{11, 2}, {6}, {}, {25}}), HasSubstr("P+T is 11, over its bound of 10"));
  EXPECT_THAT(bind({{2, 2}, {6}, {}, {13}}), HasSubstr("expected P+T = 7 on axis 0; found the shape [2,2]"));
  // What is given beforehand must agree.
  IdMap<DimId, int64_t> given;
  for (int64_t value : {3, -1, 2}) given.Add(value);
  EXPECT_EQ(bind({{7, 2}, {6}, {}, {13}}, given), "T=3 P=4 U=2");
  given[DimId{0}] = 4;
  EXPECT_THAT(bind({{7, 2}, {6}, {}, {13}}, given), HasSubstr("expected 2*T = 8 on axis 0; found the shape [6]"));
  given.Add(1);
  EXPECT_THAT(bind({{7, 2}, {6}, {}, {13}}, given), HasSubstr("more dims are bound than the module has"));
}

TEST(EvalDims, ArgumentsAreChecked) {
  const std::string text = "graph @main(%x: f32[2], %c: state<f32[2,1,4,1]>) -> f32[2] { return %x }";
  const Tensor state{DType::kF32, {2, 1, 4, 1}, Values(8)};
  EXPECT_TRUE(TryRun(text, {F32({2}, {1, 2}), state}).ok());
  EXPECT_TRUE(TryRun(text, {F32({2}, {1, 2}), Tensor{DType::kF32, {}, {}}}).ok());
  EXPECT_THAT(Message(TryRun(text, {F64({2}, {1, 2}), state}).status()),
              HasSubstr("%x: f32[2]: found elements of type f64"));
  EXPECT_THAT(Message(TryRun(text, {F32({2}, {1}), state}).status()),
              HasSubstr("expected the shape [2]; found [2] with 1 elements"));
  EXPECT_THAT(Message(TryRun(text, {F32({3}, {1, 2, 3}), state}).status()), HasSubstr("expected 2 = 2"));
}

TEST(EvalDims, GivenDimsReachAttributesAndResults) {
  const auto module = Parse(
      "module @m { dim T in 1..8 dim L in 0..4\n"
      "graph @main(%x: f32[8]) -> f32[L] { %y = slice %x {first=T-1, len=L} : f32[L] return %y } }",
      "test");
  ASSERT_FALSE(module.ok());  // T-1+L may pass the end
  const auto bounded = Parse(
      "module @m { dim T in 1..8 dim L in 0..4 bound T+L <= 9\n"
      "graph @main(%x: f32[8]) -> f32[L] { %y = slice %x {first=T-1, len=L} : f32[L] return %y } }",
      "test");
  ASSERT_TRUE(bounded.ok()) << bounded.status().message();
  const Graph& graph = *(*bounded)->FindGraph("main");
  const Tensor x = F32({8}, {0, 1, 2, 3, 4, 5, 6, 7});
  IdMap<DimId, int64_t> dims;
  for (int64_t value : {3, 2}) dims.Add(value);
  const auto y = Evaluate(graph, {x}, {}, dims);
  ASSERT_TRUE(y.ok()) << y.status().message();
  EXPECT_THAT((*y)[0].values, ElementsAre(2, 3));
  EXPECT_THAT(Message(Evaluate(graph, {x}, {}).status()), HasSubstr("has no value"));
  dims[DimId{0}] = 8;
  EXPECT_THAT(Message(Evaluate(graph, {x}, {}, dims).status()), HasSubstr("L+T is 10, over its bound of 9"));
}

TEST(EvalDims, HugeTensorsAreRefusedBeforeTheyAreMade) {
  const absl::Status status =
      TryRun(
          "graph @main(%x: f32[1]) -> f32[1] { %h = constant {values=[1]} : f32[1048576,1048576] "
          "%s = sum %h {axis=0} : f32[1,1048576] return %x }",
          {F32({1}, {0})})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(status), HasSubstr("more than 2^31 elements"));
}

TEST(EvalGraph, ObserverSeesEveryValueOnceAndResultsMayRepeat) {
  std::vector<std::string> seen;
  const auto module = Parse(
      "module @m { graph @main(%x: f32[1]) -> (f32[1], f32[1], f32[1]) "
      "{ %a = neg %x : f32[1] %b = exp %a : f32[1] return %a, %x, %a } }",
      "test");
  ASSERT_TRUE(module.ok());
  const Graph& graph = *(*module)->FindGraph("main");
  EvalOptions options;
  options.observe = [&](ValueId id, const Tensor& value) {
    seen.push_back(absl::StrCat(graph.value(id).name, "=", value.values[0]));
  };
  const auto results = Evaluate(graph, {F32({1}, {0})}, options);
  ASSERT_TRUE(results.ok());
  EXPECT_THAT(seen, ElementsAre("x=0", "a=-0", "b=1"));
  ASSERT_EQ(results->size(), 3u);
  for (const Tensor& result : *results) EXPECT_EQ(result.values.size(), 1u);
}

}  // namespace
}  // namespace sinter
