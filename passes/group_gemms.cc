// group-gemms: products that read the same rows (q, k and v; gate and up) become one step, each with its epilogue.
//
// Their weights stay as they are, so tensors of different formats go together; no barrier stands between them, and the
// threads share out the grains of all of them at once.
#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "backend/kernel_spec.h"
#include "base/status.h"
#include "passes/join_kernels.h"
#include "passes/pass.h"

namespace sinter {
namespace {

// The value whose rows the products of a step multiply; None when it has no products or they read different rows.
absl::StatusOr<ValueId> RowsOf(const Graph& graph, OpId id) {
  const auto kernel = graph.As<ops::Kernel>(id);
  if (!kernel || !HasProducts(*kernel)) return ValueId::None();
  SINTER_ASSIGN_OR_RETURN(const KernelSpec spec, SpecOfKernel(graph, id));
  ValueId rows = ValueId::None();
  for (const KernelSpec& part : PartsOf(spec)) {
    if (!part.gemm) continue;
    if (part.gemm->packing == nullptr || part.gemm->a.operand >= kernel->args.size()) return ValueId::None();
    const ValueId read = kernel->args[part.gemm->a.operand];
    if (rows.valid() && rows != read) return ValueId::None();
    rows = read;
  }
  return rows;
}

absl::StatusOr<bool> GroupReaders(KernelJoiner& joiner) {
  const Graph& graph = joiner.graph();
  std::vector<ValueId> order;
  absl::flat_hash_map<ValueId, std::vector<OpId>> readers;
  for (OpId id : graph.order()) {
    SINTER_ASSIGN_OR_RETURN(const ValueId rows, RowsOf(graph, id));
    if (!rows.valid()) continue;
    std::vector<OpId>& members = readers[rows];
    if (members.empty()) order.push_back(rows);
    members.push_back(id);
  }
  bool changed = false;
  for (ValueId rows : order) {
    if (readers[rows].size() < 2) continue;
    SINTER_ASSIGN_OR_RETURN(const OpId joined, joiner.Group(readers[rows]));
    changed |= joined.valid();
  }
  return changed;
}

}  // namespace

absl::StatusOr<bool> GroupGemms(Module& module, PassContext&) { return JoinKernels(module, GroupReaders); }

}  // namespace sinter
