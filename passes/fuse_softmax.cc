// fuse-softmax: exp(x - max) / sum becomes softmax(x); a mask by select with -inf and scales, in whatever order they
// stand before it, then join it one by one.
//
// Of a row that is masked altogether the plain form makes NaN (-inf - -inf) and the op zeros; that difference is meant.
// A finite "mask" (-1e9) is arithmetic like any other and stays: its positions count when all are masked.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "passes/pass.h"

namespace sinter {
namespace {

bool IsPositive(const RuleMatch& match) { return match.scalar("a") > 0; }
bool ProductIsFinite(const RuleMatch& match) { return std::isfinite(match.scalar("a") * match.scalar("c")); }
bool QuotientIsFinite(const RuleMatch& match) { return std::isfinite(match.scalar("a") / match.scalar("c")); }

}  // namespace

std::vector<Rule> FuseSoftmax() {
  std::vector<Rule> rules = {{"softmax", R"(
      %max = max %x {axis=-1}
      %d   = sub %x, %max
      %e   = exp %d
      %sum = sum %e {axis=-1}
      %p   = div %e, %sum
    =>
      %p   = softmax %x
    )"},
                             // Only a positive scale leaves -inf as it is.
                             {"softmax-mask", R"(
      %s = select %mask, %x, -inf
      %p = softmax %s {scale=$a}
    =>
      %p = softmax %x, %mask {scale=$a}
    )",
                              IsPositive}};
  for (const char* mask : {"", ", %mask"}) {
    rules.push_back({"softmax-scale",
                     absl::StrCat(R"(
      %s = mul %x, $c
      %p = softmax %s)",
                                  mask, R"( {scale=$a}
    =>
      %p = softmax %x)",
                                  mask, R"( {scale=$a*$c}
    )"),
                     ProductIsFinite});
    rules.push_back({"softmax-scale",
                     absl::StrCat(R"(
      %s = div %x, $c
      %p = softmax %s)",
                                  mask, R"( {scale=$a}
    =>
      %p = softmax %x)",
                                  mask, R"( {scale=$a/$c}
    )"),
                     QuotientIsFinite});
  }
  return rules;
}

}  // namespace sinter
