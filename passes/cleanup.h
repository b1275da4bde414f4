// What passes ask before they rewrite something, and do after: erase what nothing uses any more.
//
// A graph is a body because an op names it, so a body that lost its last user would become an entry. A pass that may
// erase such an op takes Bodies() before it starts and gives them to EraseUnusedBodies() at its end.
#pragma once

#include "absl/container/flat_hash_set.h"
#include "ir/graph.h"

namespace sinter {

// Ops whose results nobody uses; true when there were any.
bool EraseDeadOps(Graph& graph);

// The graphs that an op names.
absl::flat_hash_set<GraphId> Bodies(const Module& module);

// Erases the graphs of `bodies` that no op names any more; true when there were any.
bool EraseUnusedBodies(Module& module, const absl::flat_hash_set<GraphId>& bodies);

// Whether a value is a version of a state that an op overwrites, or a view of one: nothing after that op may read it.
bool LooksAtOverwritten(const Graph& graph, ValueId value);

}  // namespace sinter
