// fuse-layer-norm: (x - mean) / sqrt(mean((x - mean)^2) + eps) becomes one op, which a product with gamma and then an
// addition of beta join. Infer sees to it that gamma and beta are one row of x.
//
// mean(x^2) - mean^2 is the same variance, less precise where the mean is large against the deviation: there the op is
// the better of the two.
#include "passes/norm_forms.h"
#include "passes/pass.h"

namespace sinter {

std::vector<Rule> FuseLayerNorm() {
  std::vector<Rule> rules = NormRules("layer-norm", "layer_norm", "%x",
                                      {R"(
      %mean   = mean %x
      %d      = sub %x, %mean
      %sq     = mul %d, %d
      %narrow = mean %sq
    )",
                                       R"(
      %mean   = mean %x
      %d      = sub %x, %mean
      %xx     = mul %x, %x
      %m2     = mean %xx
      %mm     = mul %mean, %mean
      %narrow = sub %m2, %mm
    )"});
  rules.push_back({"layer-norm-beta", R"(
      %y = layer_norm %x, %gamma {eps=$eps}
      %z = add %y, %beta
    =>
      %z = layer_norm %x, %gamma, %beta {eps=$eps}
    )"});
  return rules;
}

}  // namespace sinter
