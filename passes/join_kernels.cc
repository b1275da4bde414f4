#include "passes/join_kernels.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "backend/kernel_spec.h"
#include "base/status.h"
#include "ir/hash.h"
#include "passes/cleanup.h"

namespace sinter {
namespace {

absl::StatusOr<IdMap<DimId, DimExpr>> DimsOfCall(const Graph& graph, const ops::Kernel& kernel) {
  std::vector<const Type*> types;
  for (ValueId arg : kernel.args) types.push_back(&graph.type(arg));
  auto by = CallDims(graph.module().graph(kernel.body.id), types);
  if (!by) return absl::InternalError(absl::StrCat("a call in @", graph.name(), " does not fit its body"));
  return *std::move(by);
}

bool TouchesState(const Graph& graph, OpId id) {
  const auto is_state = [&](ValueId v) { return graph.type(v).state; };
  const auto& args = graph.op(id).fields.operands;
  return std::any_of(args.begin(), args.end(), is_state) ||
         std::any_of(graph.op(id).results.begin(), graph.op(id).results.end(), is_state);
}

}  // namespace

// A body under construction and the arguments that its parameters stand for.
struct KernelJoiner::Body {
  Graph* graph;
  std::vector<ValueId> args;
  std::vector<std::string> packs;
  absl::flat_hash_map<ValueId, ValueId> inside;  // of the entry's values

  // What the arguments of a kernel op are inside; those that are not there yet become parameters.
  std::vector<ValueId> Import(const Graph& entry, OpId kernel) {
    const std::vector<std::string> packs_of = PacksOf(entry, kernel);
    const auto& operands = entry.op(kernel).fields.operands;
    std::vector<ValueId> imported;
    for (size_t i = 0; i < operands.size(); ++i) {
      const auto [it, is_new] = inside.emplace(operands[i], ValueId::None());
      if (is_new) {
        it->second = graph->AddParam(absl::StrCat("a", args.size()), entry.type(operands[i]));
        args.push_back(operands[i]);
        packs.push_back(packs_of[i]);
      }
      imported.push_back(it->second);
    }
    return imported;
  }
};

KernelJoiner::KernelJoiner(Module& module) : module_(module), before_(Bodies(module)) {
  for (GraphId id : before_) bodies_.emplace(HashGraph(module.graph(id)), id);
}

void KernelJoiner::Finish() {
  absl::flat_hash_set<GraphId> known = before_;
  for (const auto& [hash, id] : bodies_) known.insert(id);
  EraseUnusedBodies(module_, known);
}

absl::StatusOr<OpId> KernelJoiner::Replace(Graph& graph, Body body, const std::vector<OpId>& old,
                                           const std::vector<ValueId>& made) {
  const absl::StatusOr<KernelSpec> spec = SpecOf(*body.graph, body.packs);
  if (!spec.ok()) {
    module_.EraseGraph(body.graph->id());
    if (absl::IsUnimplemented(spec.status())) return OpId::None();
    return spec.status();
  }
  const auto [shared, is_new] = bodies_.emplace(HashGraph(*body.graph), body.graph->id());
  if (!is_new) module_.EraseGraph(body.graph->id());
  AddOptions options;
  options.before = old.back();
  options.loc = graph.op(old.back()).loc;
  SINTER_ASSIGN_OR_RETURN(
      const OpId kernel,
      graph.AddFields(
          Pack(ops::Kernel{.body = {shared->second}, .args = body.args, .family = spec->family, .barrier = true}),
          std::move(options)));
  std::vector<std::string> names;
  for (size_t i = 0; i < made.size(); ++i) {
    names.push_back(graph.value(made[i]).name);
    graph.ReplaceUses(made[i], graph.op(kernel).results[i]);
  }
  for (size_t i = old.size(); i-- > 0;) graph.Erase(old[i]);
  for (size_t i = 0; i < names.size(); ++i) graph.Rename(graph.op(kernel).results[i], names[i]);
  return kernel;
}

absl::StatusOr<OpId> KernelJoiner::Inline(Graph& graph, OpId producer, OpId consumer) {
  const ops::Kernel first = *graph.As<ops::Kernel>(producer), second = *graph.As<ops::Kernel>(consumer);
  const ValueId between = graph.op(producer).results[0];
  Body body{&module_.AddGraph(module_.graph(second.body.id).name()), {}, {}, {}};
  SINTER_ASSIGN_OR_RETURN(const auto dims_of_first, DimsOfCall(graph, first));
  SINTER_ASSIGN_OR_RETURN(const auto dims_of_second, DimsOfCall(graph, second));
  SINTER_ASSIGN_OR_RETURN(const std::vector<ValueId> passed, InlineGraph(module_.graph(first.body.id), *body.graph,
                                                                         body.Import(graph, producer), dims_of_first));
  body.inside[between] = passed[0];
  SINTER_ASSIGN_OR_RETURN(
      const std::vector<ValueId> results,
      InlineGraph(module_.graph(second.body.id), *body.graph, body.Import(graph, consumer), dims_of_second));
  body.graph->SetResults(results);
  const auto& made = graph.op(consumer).results;
  return Replace(graph, std::move(body), {producer, consumer}, {made.begin(), made.end()});
}

absl::StatusOr<OpId> KernelJoiner::Group(Graph& graph, const std::vector<OpId>& members) {
  // Nothing between the first and the last of them may read what they make, for all move to the last one's place.
  absl::flat_hash_map<OpId, size_t> position;
  for (OpId id : graph.order()) position.emplace(id, position.size());
  for (OpId id : members) {
    if (TouchesState(graph, id)) return OpId::None();
    for (ValueId result : graph.op(id).results) {
      for (const Use& use : graph.value(result).uses) {
        const bool inside = std::find(members.begin(), members.end(), use.op) != members.end();
        if (!inside && position.at(use.op) < position.at(members.back())) return OpId::None();
      }
    }
  }
  Body body{&module_.AddGraph("k_group"), {}, {}, {}};
  std::vector<ValueId> results, made;
  for (OpId id : members) {
    const ops::Kernel kernel = *graph.As<ops::Kernel>(id);
    const Graph& own = module_.graph(kernel.body.id);
    const std::vector<ValueId> args = body.Import(graph, id);
    std::vector<ValueId> values;
    if (IsGroup(own)) {
      SINTER_ASSIGN_OR_RETURN(const auto by, DimsOfCall(graph, kernel));
      SINTER_ASSIGN_OR_RETURN(values, InlineGraph(own, *body.graph, args, by));
    } else {
      AddOptions options;
      for (ValueId result : graph.op(id).results) {
        options.declared.push_back(graph.type(result));
        options.names.push_back(graph.value(result).name);
      }
      ops::Kernel part{.body = kernel.body, .args = args, .family = kernel.family, .tiles = kernel.tiles};
      SINTER_ASSIGN_OR_RETURN(const OpId op, body.graph->AddFields(Pack(std::move(part)), std::move(options)));
      values.assign(body.graph->op(op).results.begin(), body.graph->op(op).results.end());
    }
    for (size_t i = 0; i < values.size(); ++i) {
      const ValueId outside = graph.op(id).results[i];
      body.inside[outside] = values[i];
      results.push_back(values[i]);
      made.push_back(outside);
    }
  }
  body.graph->SetResults(results);
  return Replace(graph, std::move(body), members, made);
}

}  // namespace sinter
