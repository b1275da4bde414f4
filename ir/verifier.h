// What always holds of a module, checked:
//   - every operand is defined before its use, by the same graph; use lists and order agree
//   - operand counts, classes, attributes and result types are what the op's row and its Infer say
//   - every op is legal where it stands (Stage, entry or body); graphs do not name themselves, directly or round about
//   - a version of a state is consumed at most once (a graph that returns it consumes it) and read by nobody after that
//     in `order`, not through views either; the last version is returned, unless it is a parameter that is only read
//   - operands of sources are sources or constants
//   - what a graph returns has the types its callers expect
//   - entries of a planned module have an address for every value
//   - dims have ranges within int64, sizes are below 2^62 bytes
// Errors name graph, op and constraint, with the op's line and a caret.
#pragma once

#include "absl/status/status.h"
#include "ir/graph.h"

namespace sinter {

absl::Status Verify(const Module& module);

// A message about one op: graph, the op's line as text with a caret under the mnemonic, label and message.
absl::Status ErrorAt(const Graph& graph, OpId op, absl::string_view message);

}  // namespace sinter
