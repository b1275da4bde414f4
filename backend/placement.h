// Where a planned module's bytes lie, read back from its addresses: the tensors of the weights section, and the size of
// each space. Knows no LLVM.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "ir/graph.h"

namespace sinter {

// One tensor of the weights section: a weight op, or a source whose bytes the compiler makes (a rope_table).
struct PlacedWeight {
  const Graph* graph = nullptr;
  OpId op;
  std::string name;  // of the tensor; the op's mnemonic for a source without a name
  std::string pack;  // a row of packings.inc
  int64_t offset = 0, bytes = 0;

  const Type& type() const { return graph->type(graph->op(op).results[0]); }
};

struct Placement {
  std::vector<PlacedWeight> weights;                             // each tensor once, by offset
  int64_t arena_bytes = 0, thread_bytes = 0, weights_bytes = 0;  // the largest end of any value there
};

// kInvalidArgument: the module is not planned, an address is missing or negative, tensors overlap that are not the
// same. kResourceExhausted: a table is too large.
absl::StatusOr<Placement> PlacementOf(const Module& module);

}  // namespace sinter
