// fuse-gelu: x * (1 + t) / 2 becomes one op, with t = tanh(sqrt(2/pi) * (x + 0.044715 x^3)) or erf(x / sqrt(2)). Each
// way to write t with each way to write the rest is a rule; constant factors stand last (canonicalize sees to it).
//
// x * sigmoid(1.702 x) is an approximation of GELU and not the same: it stays.
#include "absl/strings/str_cat.h"
#include "passes/pass.h"

namespace sinter {
namespace {

// %inner, of which the tanh form takes sqrt(2/pi) times.
constexpr const char* kInner[] = {
    R"(
      %square = mul %x, %x
      %cube   = mul %square, %x
      %term   = mul %cube, 0.044715
      %inner  = add %x, %term
    )",
    R"(
      %square = mul %x, %x
      %term   = mul %square, 0.044715
      %one    = add %term, 1
      %inner  = mul %x, %one
    )",
};

constexpr const char* kTanh = R"(
      %arg    = mul %inner, 0.7978845608028654
      %t      = tanh %arg
    )";
constexpr const char* kErf = R"(
      %arg    = mul %x, 0.7071067811865476
      %t      = erf %arg
    )";

constexpr const char* kRest[] = {
    R"(
      %u      = add %t, 1
      %twice  = mul %x, %u
      %y      = mul %twice, 0.5
    )",
    R"(
      %th     = mul %t, 0.5
      %u      = add %th, 0.5
      %y      = mul %x, %u
    )",
    R"(
      %half   = mul %x, 0.5
      %th     = mul %half, %t
      %y      = add %half, %th
    )",
};

// (1 + tanh(z)) / 2 = 1 / (1 + exp(-2z))
constexpr const char* kSigmoid = R"(
      %arg    = mul %inner, -1.5957691216057308
      %e      = exp %arg
      %u      = add %e, 1
      %y      = div %x, %u
    )";

}  // namespace

std::vector<Rule> FuseGelu() {
  std::vector<Rule> rules;
  const char* const tanh = "=>\n %y = gelu %x {form=\"tanh\"}";
  for (const char* inner : kInner) {
    for (const char* rest : kRest) rules.push_back({"gelu-tanh", absl::StrCat(inner, kTanh, rest, tanh)});
    rules.push_back({"gelu-sigmoid", absl::StrCat(inner, kSigmoid, tanh)});
  }
  for (const char* rest : kRest) {
    rules.push_back({"gelu-erf", absl::StrCat(kErf, rest, "=>\n %y = gelu %x {form=\"erf\"}")});
  }
  return rules;
}

}  // namespace sinter
