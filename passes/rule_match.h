// Finds the left side of a rule in a graph: called by TryRule (rule.h) alone.
#pragma once

#include <optional>

#include "passes/rule.h"

namespace sinter {

// What a product of numbers and bound names amounts to.
double ValueOf(const ParsedRule::Product& product, const RuleMatch& match);

// The bindings with which the left side stands at `root`. A trace, if any, learns where the best attempt stopped when
// it found more lines than the trace knows of.
std::optional<RuleMatch> MatchRule(const Graph& graph, const ParsedRule& rule, OpId root, RuleTrace* trace);

}  // namespace sinter
