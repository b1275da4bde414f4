// How passes of the kernels stage make one step of several.
//
// Two ways: elementwise kernels are inlined, their bodies becoming one; and kernels are grouped, their bodies standing
// one after another in a body of kernel ops (see KernelSpec::parts). Whether a step can be made that way is what SpecOf
// says of the new body; when it cannot, nothing changes.
#pragma once

#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "ir/graph.h"

namespace sinter {

class KernelJoiner {
 public:
  explicit KernelJoiner(Module& module);

  // Makes `consumer` compute what `producer`, of whose one result it is the only reader, did for it. Returns the new
  // kernel op, or None.
  absl::StatusOr<OpId> Inline(Graph& graph, OpId producer, OpId consumer);
  // Makes one step of kernels, which stand in this order, where the last of them stands. Returns it, or None.
  absl::StatusOr<OpId> Group(Graph& graph, const std::vector<OpId>& members);
  // Erases bodies that no kernel names any more.
  void Finish();

 private:
  struct Body;
  absl::StatusOr<OpId> Replace(Graph& graph, Body body, const std::vector<OpId>& old, const std::vector<ValueId>& made);

  Module& module_;
  absl::flat_hash_set<GraphId> before_;
  absl::flat_hash_map<uint64_t, GraphId> bodies_;  // by structural hash
};

}  // namespace sinter
