// fuse-rms-norm: d / sqrt(mean(d^2) + eps) * gamma becomes one op. Infer sees to it that gamma is one row of d.
#include "absl/strings/str_cat.h"
#include "passes/norm_forms.h"
#include "passes/pass.h"

namespace sinter {

std::vector<Rule> FuseRmsNorm() {
  std::vector<Rule> rules;
  for (const char* form : kNormForms) {
    rules.push_back({"rms-norm", absl::StrCat(R"(
      %sq = mul %d, %d
      %ms = mean %sq {axis=-1}
      %ve = add %ms, $eps
    )",
                                              form, R"(
    =>
      %y  = rms_norm %d, %gamma {eps=$eps}
    )")});
  }
  return rules;
}

}  // namespace sinter
