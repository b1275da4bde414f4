// The meaning of each op, against values worked out by hand or by a formula written another way: sources, elementwise,
// rows.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/eval_run.h"

namespace sinter {
namespace {

using ::testing::DoubleEq;
using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pointwise;

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
  EXPECT_THAT(RunMain(text, {}, reader(F64({2}, {3, 0.1}))).values, ElementsAre(3, double{0.1f})) << "rounded";
  const Tensor ints{DType::kI32, {2}, {3, 4}};
  EXPECT_THAT(Message(TryRun(text, {}, reader(ints)).status()), HasSubstr("the weight file has i32[2]"));
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

TEST(EvalSources, QuantizeRoundsUnlessNothingIsRounded) {
  const std::string text = "graph @main(%x: f32[2,32]) -> q8_r[2,32] { %y = quantize %x : q8_r[2,32] return %y }";
  const Values values = Random(64, 3);
  std::vector<uint8_t> bytes(88);
  Values rounded(64);
  Encode(DType::kQ8_R, values, bytes.data());
  Decode(DType::kQ8_R, bytes.data(), absl::MakeSpan(rounded));
  EXPECT_NE(rounded, values);
  EXPECT_EQ(RunMain(text, {F32({2, 32}, values)}).values, rounded);
  EXPECT_EQ(RunMain(text, {F32({2, 32}, values)}, {.precision = Precision::kDouble}).values, rounded);
  EXPECT_EQ(RunMain(text, {F32({2, 32}, values)}, {.precision = Precision::kUnrounded}).values, values);
}

TEST(EvalState, AQuantizedCacheQuantizesWhatItTakes) {
  Values row(32);
  for (size_t i = 0; i < 32; ++i) row[i] = static_cast<double>(i) + 0.3;
  row[31] = 127;
  const Tensor zeros{DType::kQ8_0, {2, 1, 2, 32}, Values(128)};
  const Tensor cache = RunMain(
      "graph @main(%c: state<q8_0[2,1,2,32]>, %k: f32[1,1,1,32], %p: i32[1]) -> state<q8_0[2,1,2,32]> {"
      " %n = kv_append %c, %k, %k, %p : state<q8_0[2,1,2,32]> return %n }",
      {zeros, Tensor{DType::kF32, {1, 1, 1, 32}, row}, Tensor{DType::kI32, {1}, {1}}});
  for (size_t i = 0; i < 32; ++i) {
    EXPECT_EQ(cache.values[i], 0);
    EXPECT_EQ(cache.values[32 + i], i == 31 ? 127 : static_cast<double>(i));
    EXPECT_EQ(cache.values[96 + i], cache.values[32 + i]);
  }
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

}  // namespace
}  // namespace sinter
