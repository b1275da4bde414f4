// --explain: how often a rule rewrote something, and where its best partial match in what is left stopped.
//
// Called by RunPipeline. A partial match starts at the rule's root, its last line, and is the better the more lines of
// the left side it found; of several variants of a rule, and of several ops, the first of the best is told of.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "passes/pass.h"

namespace sinter {

// kOutOfRange, with the nearest name, unless `name` is a rule or a pass that has rules.
absl::Status CheckExplained(absl::string_view name);

// What to tell of those rules of the pass that `name` means, itself or by the pass: lines of text; "" when it means
// none. `counts` are those of the run, `after` is the module that it left.
absl::StatusOr<std::string> Explain(absl::string_view name, const PassInfo& pass, absl::Span<const RuleCount> counts,
                                    const Module& after);

}  // namespace sinter
