// The left side of a rewrite rule as ops of a graph, line by line. Shared by the test that proves each rule by itself
// and by the fuzzer, which plants rules in random graphs and changes a line here and there.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "ir/graph.h"
#include "passes/rule.h"
#include "tests/dice.h"

namespace sinter {

// What the names of a rule stand for: indices as in ParsedRule.
struct RuleNames {
  std::vector<ValueId> values;  // None: not made yet
  std::vector<double> scalars;  // of every $name
};

// The op that a line says, ready for Graph::AddFields but for operands whose names stand for nothing yet (None).
// Constants are added to the graph, of the element type of the line's other operand. What a rule leaves open is drawn:
// axes from either end, numbers as such or rounded, constants of rank 1 or 2 (`max_constant_rank`).
absl::StatusOr<OpFields> FieldsOfLine(Graph& graph, const ParsedRule::Line& line, const RuleNames& names,
                                      int64_t max_constant_rank, Dice& dice);

// Operands of a commutative op in either order.
void ShuffleOperands(OpFields& fields, Dice& dice);

}  // namespace sinter
