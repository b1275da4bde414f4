// Structural hashes of graphs and modules, stable across processes and builds (XXH3 of the canonical text without names
// and locations). Equal bodies share one kernel by it, and the pass manager checks with it that "changed" is true.
#pragma once

#include <cstdint>

#include "ir/graph.h"

namespace sinter {

// Ignores value names, locations and the graph's own name; follows the graphs that it names.
uint64_t HashGraph(const Graph& graph);
// Everything that Print prints, names included.
uint64_t HashModule(const Module& module);

}  // namespace sinter
