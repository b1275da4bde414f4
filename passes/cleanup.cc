#include "passes/cleanup.h"

#include <algorithm>

namespace sinter {

bool EraseDeadOps(Graph& graph) {
  std::vector<OpId> dead;
  std::vector<bool> is_dead(graph.num_ops());
  const auto used = [&](ValueId value) {
    const auto& uses = graph.value(value).uses;
    return graph.IsResult(value) ||
           std::any_of(uses.begin(), uses.end(), [&](const Use& use) { return !is_dead[use.op.value]; });
  };
  const std::vector<OpId>& order = graph.order();
  for (size_t i = order.size(); i-- > 0;) {  // users before what they use
    const auto& results = graph.op(order[i]).results;
    if (std::any_of(results.begin(), results.end(), used)) continue;
    is_dead[order[i].value] = true;
    dead.push_back(order[i]);
  }
  graph.Erase(dead);
  return !dead.empty();
}

absl::flat_hash_set<GraphId> Bodies(const Module& module) {
  absl::flat_hash_set<GraphId> bodies;
  for (GraphId id : module.graphs()) bodies.insert(id);
  for (GraphId id : module.entries()) bodies.erase(id);
  return bodies;
}

bool EraseUnusedBodies(Module& module, const absl::flat_hash_set<GraphId>& bodies) {
  bool changed = false;
  for (bool again = true; again;) {  // a body may name bodies of its own
    again = false;
    for (GraphId id : module.entries()) {
      if (!bodies.contains(id)) continue;
      module.EraseGraph(id);
      again = changed = true;
    }
  }
  return changed;
}

bool LooksAtOverwritten(const Graph& graph, ValueId value) {
  while (!graph.type(value).state) {
    const OpId def = graph.value(value).def;
    if (!def.valid() || !graph.op(def).def().Has(kView)) return false;
    value = graph.op(def).fields.operands[0];
  }
  const auto& uses = graph.value(value).uses;
  return std::any_of(uses.begin(), uses.end(), [&](const Use& use) {
    const auto consumed = ConsumedOperands(graph, use.op);
    return std::find(consumed.begin(), consumed.end(), use.operand) != consumed.end();
  });
}

}  // namespace sinter
