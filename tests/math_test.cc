// Elementary functions of generated code against the C library in double, over the whole range of f32.
#include "backend/math.h"

#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "gtest/gtest.h"
#include "tests/emitted_function.h"
#include "tests/targets.h"

namespace sinter {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

float FromBits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

struct Function {
  const char* name;
  Vec (*emit)(VectorBuilder&, Vec);
  double (*exact)(double);
  double ulps;  // the largest error
};

// A function compiled for one target.
class Compiled {
 public:
  Compiled(const Function& function, const Target& target) {
    auto made = EmittedFunction::Make(target, DimTable(), [&](VectorBuilder& b) {
      b.For(b.Begin(), b.End(), b.lanes(), {}, [&](Int at) {
        const Vec x = b.Load(DType::kF32, b.Offset(b.Operand(0, false), DType::kF32, at));
        b.Store(DType::kF32, b.Offset(b.Operand(1, false), DType::kF32, at), function.emit(b, x));
      });
    });
    EXPECT_TRUE(made.ok()) << made.status();
    if (made.ok()) code_.emplace(*std::move(made));
  }
  std::vector<float> operator()(std::vector<float> x) const {
    const size_t n = x.size();
    x.resize((n + 15) / 16 * 16);
    std::vector<float> y(x.size());
    code_->Call({x.data(), y.data()}, {}, nullptr, 0, static_cast<int64_t>(x.size()));
    y.resize(n);
    return y;
  }
  float operator()(float x) const { return (*this)(std::vector<float>{x})[0]; }

 private:
  std::optional<EmittedFunction> code_;
};

class MathTest : public testing::TestWithParam<Target> {
 protected:
  void SetUp() override {
    if (!HostRuns(GetParam())) GTEST_SKIP() << "this CPU does not run " << GetParam().name;
  }

  // Every 509th of the 2^32 floats, and those about the powers of two.
  void Sweep(const Function& function, bool (*counts)(float x, double y)) {
    const Compiled compiled(function, GetParam());
    double worst = 0;
    float at = 0;
    int64_t compared = 0;
    std::vector<float> x;
    const auto compare = [&] {
      const std::vector<float> y = compiled(x);
      for (size_t i = 0; i < x.size(); ++i) {
        const double exact = function.exact(static_cast<double>(x[i]));
        if (!counts(x[i], exact)) continue;
        ++compared;
        // The distance of neighbours of the exact result.
        int exponent;
        std::frexp(exact, &exponent);
        const double ulp = std::ldexp(1, std::max(exponent, -125) - 24);
        const double error = std::abs(static_cast<double>(y[i]) - exact) / ulp;
        if (!(error <= worst)) worst = error, at = x[i];
      }
      x.clear();
    };
    for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 509) {
      x.push_back(FromBits(static_cast<uint32_t>(bits)));
      if (x.size() == 4096) compare();
    }
    for (uint32_t power = 0; power < 512; ++power) {
      for (uint32_t near = 0; near < 8; ++near) x.push_back(FromBits((power << 23) + near - 4));
    }
    compare();
    EXPECT_GT(compared, 1000000);
    EXPECT_LE(worst, function.ulps) << function.name << " at " << at;
    RecordProperty(std::string(function.name) + "_ulps", std::to_string(worst));
    std::printf("%s: %.3f ulp at %.9g\n", function.name, worst, static_cast<double>(at));
  }
};

constexpr Function kExp = {"exp", EmitExp, [](double x) { return std::exp(x); }, 2};
constexpr Function kExpBelowZero = {"exp below zero", EmitExpBelowZero, [](double x) { return std::exp(x); }, 2};
constexpr Function kLog = {"log", EmitLog, [](double x) { return std::log(x); }, 2};
constexpr Function kTanh = {"tanh", EmitTanh, [](double x) { return std::tanh(x); }, 2};
constexpr Function kErf = {"erf", EmitErf, [](double x) { return std::erf(x); }, 3};

TEST_P(MathTest, ExpOverItsRange) {
  Sweep(kExp, [](float, double y) { return y >= FLT_MIN && y <= FLT_MAX; });
}

TEST_P(MathTest, ExpBelowZeroOverItsRange) {
  Sweep(kExpBelowZero, [](float x, double y) { return x <= 0 && y >= FLT_MIN; });
}

TEST_P(MathTest, LogOverItsRange) {
  Sweep(kLog, [](float x, double) { return x >= FLT_MIN && x <= FLT_MAX; });
}

TEST_P(MathTest, TanhOverItsRange) {
  Sweep(kTanh, [](float x, double) { return std::isfinite(x); });
}

TEST_P(MathTest, ErfOverItsRange) {
  Sweep(kErf, [](float x, double) { return std::isfinite(x); });
}

TEST_P(MathTest, SpecialValuesOfExp) {
  const Compiled exp(kExp, GetParam());
  EXPECT_EQ(exp(0.0f), 1);
  EXPECT_EQ(exp(-0.0f), 1);
  EXPECT_EQ(exp(kInf), kInf);
  EXPECT_EQ(exp(-kInf), 0);
  EXPECT_TRUE(std::isnan(exp(kNan)));
  EXPECT_TRUE(std::isnan(exp(-kNan)));
  EXPECT_EQ(exp(FLT_MAX), kInf);
  EXPECT_EQ(exp(-FLT_MAX), 0);
  EXPECT_EQ(exp(FLT_TRUE_MIN), 1);
  EXPECT_EQ(exp(-FLT_TRUE_MIN), 1);
  // The last float whose exp f32 can hold is 88.7228317.
  const float last = 88.72283f;
  EXPECT_TRUE(std::isfinite(exp(last)));
  EXPECT_NEAR(exp(last), std::exp(static_cast<double>(last)), 3e31);
  EXPECT_EQ(exp(std::nextafter(last, kInf)), kInf);
  // exp(-87.3365...) is FLT_MIN; below it there are zeros and no subnormal numbers.
  EXPECT_GE(exp(-87.33654f), FLT_MIN);
  EXPECT_EQ(exp(-87.3366f), 0);
  EXPECT_EQ(exp(-100.0f), 0);
}

TEST_P(MathTest, SpecialValuesOfExpBelowZero) {
  const Compiled exp(kExpBelowZero, GetParam());
  EXPECT_EQ(exp(0.0f), 1);
  EXPECT_EQ(exp(-0.0f), 1);
  EXPECT_EQ(exp(-FLT_TRUE_MIN), 1);
  EXPECT_GE(exp(-87.33654f), FLT_MIN);
  for (float x : {-87.3366f, -100.0f, -1e30f, -FLT_MAX, -kInf}) EXPECT_EQ(exp(x), 0) << x;
  for (uint32_t bits : {0x7fc00000u, 0xffc00000u, 0x7fc00001u, 0x7fc000ffu, 0xffffffffu, 0x7fc00100u}) {
    EXPECT_TRUE(std::isnan(exp(FromBits(bits)))) << bits;
  }
}

TEST_P(MathTest, SpecialValuesOfLog) {
  const Compiled log(kLog, GetParam());
  EXPECT_EQ(log(1.0f), 0);
  EXPECT_EQ(log(0.0f), -kInf);
  EXPECT_EQ(log(-0.0f), -kInf);
  EXPECT_EQ(log(kInf), kInf);
  EXPECT_TRUE(std::isnan(log(-kInf)));
  EXPECT_TRUE(std::isnan(log(-1.0f)));
  EXPECT_TRUE(std::isnan(log(-FLT_TRUE_MIN)));
  EXPECT_TRUE(std::isnan(log(kNan)));
  EXPECT_FLOAT_EQ(log(FLT_MIN), -87.336544f);
  EXPECT_FLOAT_EQ(log(FLT_TRUE_MIN), -87.336544f);
  EXPECT_FLOAT_EQ(log(FLT_MAX), 88.722839f);
}

TEST_P(MathTest, SpecialValuesOfTanhAndErf) {
  for (const Function& function : {kTanh, kErf}) {
    SCOPED_TRACE(function.name);
    const Compiled f(function, GetParam());
    EXPECT_EQ(f(0.0f), 0);
    EXPECT_TRUE(std::signbit(f(-0.0f)));
    EXPECT_EQ(f(kInf), 1);
    EXPECT_EQ(f(-kInf), -1);
    EXPECT_EQ(f(FLT_MAX), 1);
    EXPECT_EQ(f(-FLT_MAX), -1);
    EXPECT_TRUE(std::isnan(f(kNan)));
    EXPECT_EQ(f(20.0f), 1);
    EXPECT_EQ(f(-20.0f), -1);
    for (float x : {0.3f, 0.6249999f, 0.625f, 0.99999994f, 1.0f, 1.5f, 2.0f, 3.0f}) {
      EXPECT_EQ(f(-x), -f(x)) << x;
      EXPECT_LE(f(x), 1) << x;
    }
  }
  EXPECT_EQ(Compiled(kTanh, GetParam())(FLT_TRUE_MIN), FLT_TRUE_MIN);
}

SINTER_TARGET_TESTS(MathTest);

}  // namespace
}  // namespace sinter
