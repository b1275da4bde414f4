// The rules that LayerNorm and RMSNorm share: d / sqrt(mean square + eps) becomes the op, which gamma and the
// conversions around it then join.
#pragma once

#include <string>
#include <vector>

#include "passes/rule.h"

namespace sinter {

// `op` is the mnemonic and `x` the name of its operand; `squares` are the ways to make %narrow, the mean square of %d,
// and, where %d is not x, %d.
std::vector<Rule> NormRules(const std::string& name, const std::string& op, const std::string& x,
                            const std::vector<std::string>& squares);

}  // namespace sinter
