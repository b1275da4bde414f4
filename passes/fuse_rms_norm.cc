// fuse-rms-norm: d / sqrt(mean(d^2) + eps) becomes one op, which a product with gamma then joins. Infer sees to it that
// gamma is one row of d.
#include "passes/norm_forms.h"
#include "passes/pass.h"

namespace sinter {

std::vector<Rule> FuseRmsNorm() {
  return NormRules("rms-norm", "rms_norm", "%d", {R"(
      %sq     = mul %d, %d
      %narrow = mean %sq
    )"});
}

}  // namespace sinter
