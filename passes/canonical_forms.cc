// canonicalize's rules: what can be written in several ways is written in one, so that the rules of the fusions need to
// know one way alone. Each form is as cheap as what it replaces, or cheaper, and differs from it by rounding at most.
//
//   x / c -> x * (1/c)              x / sqrt(v) -> x * rsqrt(v)      x * (1/u) -> x / u      sum(x) * (1/n) -> mean(x)
//   (x * a) * b -> x * (a*b)        (x * c) * z -> (x * z) * c       x * -1 -> -x            -(x * c) -> x * -c
//   x + (mask ? 0 : -inf) -> mask ? x : -inf
#include <cmath>
#include <limits>

#include "passes/pass.h"

namespace sinter {
namespace {

// Numbers that the type of `value` holds without loss of range; in f16 and bf16 only powers of two are exact enough to
// be computed with while compiling.
bool Holds(const RuleMatch& match, absl::string_view value, double number) {
  const DType dtype = match.type(value).dtype;
  if (!IsFloat(dtype)) return false;
  int exponent;
  const bool power = std::abs(std::frexp(number, &exponent)) == 0.5;
  const bool normal = std::abs(number) >= std::numeric_limits<float>::min() && std::isfinite(RoundTo(dtype, number));
  return normal && (ElemBytes(dtype, 1) >= 4 || (power && RoundTo(dtype, number) == number));
}

bool HoldsReciprocal(const RuleMatch& match) { return Holds(match, "y", 1 / match.scalar("c")); }
bool IsWide(const RuleMatch& match) {
  return match.type("y").dtype == DType::kF32 || match.type("y").dtype == DType::kF64;
}

// A factor near 1 makes no product leave the range of f32 that was not at its edge.
bool IsNearOne(double factor) { return std::abs(factor) >= 0x1p-6 && std::abs(factor) <= 0x1p6; }
bool HoldsProduct(const RuleMatch& match) {
  return IsNearOne(match.scalar("a")) && Holds(match, "y", match.scalar("a") * match.scalar("b"));
}

// Where the factor moves, no more elements are multiplied than before. Two constants are HoldsProduct's.
bool MayMove(const RuleMatch& match) {
  return IsWide(match) && IsNearOne(match.scalar("c")) && match.type("m") == match.type("y") && !match.is_constant("z");
}

bool IsOneOverLength(const RuleMatch& match) {
  const DimExpr& length = match.type("x").dims.back();
  return length.is_const() && std::abs(match.scalar("c") * static_cast<double>(length.constant()) - 1) < 1e-6;
}

// A column 1/u, say of a softmax, is better made once a row; and in f16 it may be infinite where x / u is not.
bool IsFull(const RuleMatch& match) { return IsWide(match) && match.type("r") == match.type("y"); }

}  // namespace

std::vector<Rule> CanonicalForms() {
  return {
      {"divide-by-constant", R"(
        %y = div %x, $c
      =>
        %y = mul %x, 1/$c
      )",
       HoldsReciprocal},
      {"divide-by-root", R"(
        %s = sqrt %v
        %y = div %x, %s
      =>
        %r = rsqrt %v
        %y = mul %x, %r
      )"},
      {"multiply-by-reciprocal", R"(
        %r = div 1, %u
        %y = mul %x, %r
      =>
        %y = div %x, %u
      )",
       IsFull},
      {"mean", R"(
        %s = sum %x
        %y = mul %s, $c
      =>
        %y = mean %x
      )",
       IsOneOverLength},
      {"factors", R"(
        %m = mul %x, $a
        %y = mul %m, $b
      =>
        %y = mul %x, $a*$b
      )",
       HoldsProduct},
      {"factor-last", R"(
        %m = mul %x, $c
        %y = mul %m, %z
      =>
        %p = mul %x, %z
        %y = mul %p, $c
      )",
       MayMove},
      {"negate", R"(
        %y = mul %x, -1
      =>
        %y = neg %x
      )"},
      {"negate-factor", R"(
        %m = mul %x, $c
        %y = neg %m
      =>
        %y = mul %x, -1*$c
      )"},
      {"additive-mask", R"(
        shared %m = select %mask, 0, -inf
        %y = add %x, %m
      =>
        %y = select %mask, %x, -inf
      )"},
  };
}

}  // namespace sinter
