// fuse-layer-norm: (x - mean) / sqrt(mean((x - mean)^2) + eps) * gamma becomes one op, which an addition of beta then
// joins. Infer sees to it that gamma and beta are one row of x.
#include "absl/strings/str_cat.h"
#include "passes/norm_forms.h"
#include "passes/pass.h"

namespace sinter {

std::vector<Rule> FuseLayerNorm() {
  std::vector<Rule> rules;
  for (const char* form : kNormForms) {
    rules.push_back({"layer-norm", absl::StrCat(R"(
      %mean = mean %x {axis=-1}
      %d    = sub %x, %mean
      %sq   = mul %d, %d
      %var  = mean %sq {axis=-1}
      %ve   = add %var, $eps
    )",
                                                form, R"(
    =>
      %y    = layer_norm %x, %gamma {eps=$eps}
    )")});
  }
  rules.push_back({"layer-norm-beta", R"(
      %y = layer_norm %x, %gamma {eps=$eps}
      %z = add %y, %beta
    =>
      %z = layer_norm %x, %gamma, %beta {eps=$eps}
    )"});
  return rules;
}

}  // namespace sinter
