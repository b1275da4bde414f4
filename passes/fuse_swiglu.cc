// fuse-swiglu: gate / (1 + exp(-gate)) * up becomes one op, wherever the division and the product by up stand.
// (canonicalize writes x * (1/u) as x / u, and x * -1 as -x.)
#include "absl/strings/str_cat.h"
#include "passes/pass.h"

namespace sinter {
namespace {

constexpr const char* kForms[] = {
    R"(
      %silu = div %gate, %u
      %y    = mul %silu, %up
    )",
    R"(
      %rest = div %up, %u
      %y    = mul %gate, %rest
    )",
    R"(
      %both = mul %gate, %up
      %y    = div %both, %u
    )",
};

}  // namespace

std::vector<Rule> FuseSwiglu() {
  std::vector<Rule> rules;
  for (const char* form : kForms) {
    rules.push_back({"swiglu", absl::StrCat(R"(
      %n    = neg %gate
      %e    = exp %n
      %u    = add %e, 1
    )",
                                            form, R"(
    =>
      %y    = swiglu %gate, %up
    )")});
  }
  return rules;
}

}  // namespace sinter
