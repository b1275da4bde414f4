// How passes of the kernels stage make one step of several.
//
// Two ways: elementwise kernels are inlined, their bodies becoming one; and kernels are grouped, their bodies standing
// one after another in a body of kernel ops (see KernelSpec::parts). Whether a step can be made that way is what SpecOf
// says of the new body; when it cannot, nothing changes.
#pragma once

#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "ir/graph.h"

namespace sinter {

// Whether a step computes products: one, or those of a group.
bool HasProducts(const ops::Kernel& kernel);

// Joins kernels of one entry, which nothing else changes meanwhile.
class KernelJoiner {
 public:
  using Bodies = absl::flat_hash_map<uint64_t, GraphId>;  // by structural hash

  // `bodies` gets those that are made.
  KernelJoiner(Graph& graph, Bodies& bodies);

  Graph& graph() const { return graph_; }
  // Makes `consumer` compute what `producer`, of whose one result it is the only reader, did for it. Returns the new
  // kernel op, or None.
  absl::StatusOr<OpId> Inline(OpId producer, OpId consumer);
  // Makes one step of kernels, which stand in this order, where the last of them stands. Returns it, or None.
  absl::StatusOr<OpId> Group(const std::vector<OpId>& members);
  // Ops in the order of the graph, each once.
  std::vector<OpId> InOrder(std::vector<OpId> ops) const;

 private:
  struct Body;
  absl::StatusOr<OpId> Replace(Body body, const std::vector<OpId>& old, const std::vector<ValueId>& made);

  Graph& graph_;
  Bodies& bodies_;
  std::vector<size_t> place_;  // by OpId: in the order of the graph; a step has that of the last op it was made of
};

// Runs `join` on each entry, then erases the bodies that no kernel names any more. Whether a call said that it changed
// something.
absl::StatusOr<bool> JoinKernels(Module& module, absl::FunctionRef<absl::StatusOr<bool>(KernelJoiner&)> join);

}  // namespace sinter
