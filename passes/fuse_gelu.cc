// fuse-gelu: x * (1 + t) / 2 becomes one op, with t = tanh(sqrt(2/pi) * (x + 0.044715 x^3)) or erf(x / sqrt(2)). Each
// way to write t with each way to write the rest is a rule.
#include "absl/strings/str_cat.h"
#include "passes/pass.h"

namespace sinter {
namespace {

constexpr const char* kTanh[] = {
    R"(
      %square = mul %x, %x
      %cube   = mul %square, %x
      %term   = mul %cube, 0.044715
      %inner  = add %x, %term
      %arg    = mul %inner, 0.7978845608028654
      %t      = tanh %arg
    )",
    R"(
      %square = mul %x, %x
      %term   = mul %square, 0.044715
      %one    = add %term, 1
      %inner  = mul %x, %one
      %arg    = mul %inner, 0.7978845608028654
      %t      = tanh %arg
    )",
    R"(
      %ax     = mul %x, 0.044715
      %term   = mul %ax, %x
      %one    = add %term, 1
      %cx     = mul %x, 0.7978845608028654
      %arg    = mul %cx, %one
      %t      = tanh %arg
    )",
};

constexpr const char* kErf[] = {
    R"(
      %arg    = mul %x, 0.7071067811865476
      %t      = erf %arg
    )",
    R"(
      %arg    = div %x, 1.4142135623730951
      %t      = erf %arg
    )",
};

constexpr const char* kRest[] = {
    R"(
      %u      = add %t, 1
      %half   = mul %x, 0.5
      %y      = mul %half, %u
    )",
    R"(
      %u      = add %t, 1
      %half   = mul %u, 0.5
      %y      = mul %x, %half
    )",
    R"(
      %u      = add %t, 1
      %twice  = mul %x, %u
      %y      = mul %twice, 0.5
    )",
    R"(
      %u      = add %t, 1
      %twice  = mul %x, %u
      %y      = div %twice, 2
    )",
};

}  // namespace

std::vector<Rule> FuseGelu() {
  std::vector<Rule> rules;
  for (const char* rest : kRest) {
    for (const char* t : kTanh) {
      rules.push_back({"gelu-tanh", absl::StrCat(t, rest, "=>\n %y = gelu %x {form=\"tanh\"}")});
    }
    for (const char* t : kErf) {
      rules.push_back({"gelu-erf", absl::StrCat(t, rest, "=>\n %y = gelu %x {form=\"erf\"}")});
    }
  }
  return rules;
}

}  // namespace sinter
