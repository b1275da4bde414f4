// fuse-softmax: exp(x - max) / sum, or exp(x) / sum, becomes softmax(x); a mask by select with -inf and scales, in
// whatever order they stand before it, then join it one by one, even a scale of the product's rows q where it is the
// scores that are scaled.
//
// A product of scales that f32 does not hold is no scale: Infer refuses it, and the rule does not apply.
//
// Of a row that is masked altogether the plain form makes NaN (-inf - -inf) and the op zeros; that difference is meant.
// A finite "mask" (-1e9) is arithmetic like any other and stays: its positions count when all are masked.
#include <string>

#include "absl/strings/str_cat.h"
#include "passes/pass.h"

namespace sinter {
namespace {

bool IsPositive(const RuleMatch& match) { return match.scalar("a") > 0; }
// A constant may be what gives k the axes that q has: without it they would be other axes.
bool KeepsAxes(const RuleMatch& match) { return match.type("kc") == match.type("k"); }

constexpr const char* kExps[] = {
    R"(
      %max = max %x
      %d   = sub %x, %max
      %e   = exp %d
    )",
    R"(
      %e   = exp %x
    )",
};

constexpr const char* kShares[] = {
    R"(
      %sum = sum %e
      %p   = div %e, %sum
    )",
    R"(
      %sum = sum %e
      %r   = div 1, %sum
      %p   = mul %e, %r
    )",
};

// The rows q of the product may be scaled before they are split into heads and turned, both of which are linear:
//   %m = mul %x, $c                          %h = heads %x
//   %h = heads %m                            %q = rope %h, %pos, %table
//   %q = rope %h, %pos, %table        =>     %s = gemm %q, %k
//   %s = gemm %q, %k                         %p = softmax %s {scale=$a*$c}
//   %p = softmax %s {scale=$a}
// with or without each of the two steps and the mask.
constexpr const char* kSplits[] = {"", "heads ", "reshape "};
constexpr const char* kTurns[] = {"", "norm", "neox"};

std::vector<Rule> ScaledRows(const std::string& mask) {
  const std::string attributes = "{trans_a=$ta, trans_b=$tb}\n";
  const std::string right = absl::StrCat("%p = softmax %s", mask, " {scale=$a*$c}");
  std::vector<Rule> rules;
  for (const std::string split : kSplits) {
    for (const std::string turn : kTurns) {
      const std::string columns = split == "heads " ? " {first=$f, groups=$g}\n" : "\n";
      const std::string rope = absl::StrCat(", %pos, %table {style=\"", turn, "\"}\n");
      const std::string last = turn.empty() ? "%q" : "%h", plain = split.empty() ? "%x" : last;
      rules.push_back(
          {"softmax-scaled-rows",
           absl::StrCat(split.empty() ? absl::StrCat(last, " = mul %x, $c\n")
                                      : absl::StrCat("%m = mul %x, $c\n", last, " = ", split, "%m", columns),
                        turn.empty() ? "" : absl::StrCat("%q = rope ", last, rope), "%s = gemm %q, %k ", attributes,
                        "%p = softmax %s", mask, " {scale=$a}\n=>\n",
                        split.empty() ? "" : absl::StrCat(last, " = ", split, "%x", columns),
                        turn.empty() ? "" : absl::StrCat("%q = rope ", plain, rope), "%s = gemm ",
                        turn.empty() ? plain : "%q", ", %k ", attributes, right)});
    }
  }
  rules.push_back({"softmax-scaled-rows",
                   absl::StrCat("%kc = mul %k, $c\n %s = gemm %q, %kc ", attributes, "%p = softmax %s", mask,
                                " {scale=$a}\n=>\n%s = gemm %q, %k ", attributes, right),
                   KeepsAxes});
  return rules;
}

}  // namespace

std::vector<Rule> FuseSoftmax() {
  std::vector<Rule> rules;
  for (const char* exps : kExps) {
    for (const char* shares : kShares) {
      rules.push_back({"softmax", absl::StrCat(exps, shares, "=>\n %p = softmax %x")});
    }
  }
  // Only a positive scale leaves -inf as it is.
  rules.push_back({"softmax-mask", R"(
      %s = select %mask, %x, -inf
      %p = softmax %s {scale=$a}
    =>
      %p = softmax %x, %mask {scale=$a}
    )",
                   IsPositive});
  for (const std::string mask : {"", ", %mask"}) {
    rules.push_back({"softmax-scale", absl::StrCat("%s = mul %x, $c\n %p = softmax %s", mask, R"( {scale=$a}
    =>
      %p = softmax %x)",
                                                   mask, " {scale=$a*$c}")});
    rules.push_back({"softmax-narrow",
                     absl::StrCat("%wide = convert %narrow\n %n = softmax %wide", mask, R"( {scale=$a}
      %p = convert %n
    =>
      %p = softmax %narrow)",
                                  mask, " {scale=$a}"),
                     Widens});
    for (Rule& rule : ScaledRows(mask)) rules.push_back(std::move(rule));
  }
  return rules;
}

}  // namespace sinter
