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

// Ops of a body that inlining makes; each inlining reads all of it.
constexpr size_t kMostOps = 256;

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

bool HasProducts(const ops::Kernel& kernel) { return kernel.family == "gemm" || kernel.family == "group"; }

KernelJoiner::KernelJoiner(Graph& graph, Bodies& bodies) : graph_(graph), bodies_(bodies), place_(graph.num_ops()) {
  for (size_t i = 0; i < graph.order().size(); ++i) place_[graph.order()[i].value] = i;
}

std::vector<OpId> KernelJoiner::InOrder(std::vector<OpId> ops) const {
  std::sort(ops.begin(), ops.end(), [&](OpId a, OpId b) { return place_[a.value] < place_[b.value]; });
  ops.erase(std::unique(ops.begin(), ops.end()), ops.end());
  return ops;
}

absl::StatusOr<OpId> KernelJoiner::Replace(Body body, const std::vector<OpId>& old, const std::vector<ValueId>& made) {
  Module& module = graph_.module();
  const absl::StatusOr<KernelSpec> spec = SpecOf(*body.graph, body.packs);
  if (!spec.ok()) {
    module.EraseGraph(body.graph->id());
    if (absl::IsUnimplemented(spec.status())) return OpId::None();
    return spec.status();
  }
  const auto [shared, is_new] = bodies_.emplace(HashGraph(*body.graph), body.graph->id());
  if (!is_new) module.EraseGraph(body.graph->id());
  AddOptions options;
  options.before = old.back();
  options.loc = graph_.op(old.back()).loc;
  SINTER_ASSIGN_OR_RETURN(
      const OpId kernel,
      graph_.AddFields(
          Pack(ops::Kernel{.body = {shared->second}, .args = body.args, .family = spec->family, .barrier = true}),
          std::move(options)));
  place_.resize(graph_.num_ops());
  place_[kernel.value] = place_[old.back().value];
  std::vector<std::string> names;
  for (size_t i = 0; i < made.size(); ++i) {
    names.push_back(graph_.value(made[i]).name);
    graph_.ReplaceUses(made[i], graph_.op(kernel).results[i]);
  }
  for (size_t i = old.size(); i-- > 0;) graph_.Erase(old[i]);
  for (size_t i = 0; i < names.size(); ++i) graph_.Rename(graph_.op(kernel).results[i], names[i]);
  return kernel;
}

absl::StatusOr<OpId> KernelJoiner::Inline(OpId producer, OpId consumer) {
  // What looks at a state stays before the step that writes it.
  if (TouchesState(graph_, producer)) return OpId::None();
  Module& module = graph_.module();
  const ops::Kernel first = *graph_.As<ops::Kernel>(producer), second = *graph_.As<ops::Kernel>(consumer);
  const auto ops = [&](const ops::Kernel& kernel) { return module.graph(kernel.body.id).order().size(); };
  if (ops(first) + ops(second) > kMostOps) return OpId::None();
  const ValueId between = graph_.op(producer).results[0];
  Body body{&module.AddGraph(module.graph(second.body.id).name()), {}, {}, {}};
  SINTER_ASSIGN_OR_RETURN(const auto dims_of_first, DimsOfCall(graph_, first));
  SINTER_ASSIGN_OR_RETURN(const auto dims_of_second, DimsOfCall(graph_, second));
  SINTER_ASSIGN_OR_RETURN(const std::vector<ValueId> passed, InlineGraph(module.graph(first.body.id), *body.graph,
                                                                         body.Import(graph_, producer), dims_of_first));
  body.inside[between] = passed[0];
  SINTER_ASSIGN_OR_RETURN(
      const std::vector<ValueId> results,
      InlineGraph(module.graph(second.body.id), *body.graph, body.Import(graph_, consumer), dims_of_second));
  body.graph->SetResults(results);
  const auto& made = graph_.op(consumer).results;
  return Replace(std::move(body), {producer, consumer}, {made.begin(), made.end()});
}

absl::StatusOr<OpId> KernelJoiner::Group(const std::vector<OpId>& members) {
  // Nothing between the first and the last of them may read what they make, for all move to the last one's place.
  const size_t last = place_[members.back().value];
  for (OpId id : members) {
    if (TouchesState(graph_, id)) return OpId::None();
    for (ValueId result : graph_.op(id).results) {
      for (const Use& use : graph_.value(result).uses) {
        const bool inside = std::find(members.begin(), members.end(), use.op) != members.end();
        if (!inside && place_[use.op.value] < last) return OpId::None();
      }
    }
  }
  Body body{&graph_.module().AddGraph("k_group"), {}, {}, {}};
  std::vector<ValueId> results, made;
  for (OpId id : members) {
    const ops::Kernel kernel = *graph_.As<ops::Kernel>(id);
    const Graph& own = graph_.module().graph(kernel.body.id);
    const std::vector<ValueId> args = body.Import(graph_, id);
    std::vector<ValueId> values;
    if (IsGroup(own)) {
      SINTER_ASSIGN_OR_RETURN(const auto by, DimsOfCall(graph_, kernel));
      SINTER_ASSIGN_OR_RETURN(values, InlineGraph(own, *body.graph, args, by));
    } else {
      AddOptions options;
      for (ValueId result : graph_.op(id).results) {
        options.declared.push_back(graph_.type(result));
        options.names.push_back(graph_.value(result).name);
      }
      ops::Kernel part{.body = kernel.body, .args = args, .family = kernel.family, .tiles = kernel.tiles};
      SINTER_ASSIGN_OR_RETURN(const OpId op, body.graph->AddFields(Pack(std::move(part)), std::move(options)));
      values.assign(body.graph->op(op).results.begin(), body.graph->op(op).results.end());
    }
    for (size_t i = 0; i < values.size(); ++i) {
      const ValueId outside = graph_.op(id).results[i];
      body.inside[outside] = values[i];
      results.push_back(values[i]);
      made.push_back(outside);
    }
  }
  body.graph->SetResults(results);
  return Replace(std::move(body), members, made);
}

absl::StatusOr<bool> JoinKernels(Module& module, absl::FunctionRef<absl::StatusOr<bool>(KernelJoiner&)> join) {
  absl::flat_hash_set<GraphId> known = Bodies(module);
  KernelJoiner::Bodies bodies;
  for (GraphId id : module.graphs()) {
    if (known.contains(id)) bodies.emplace(HashGraph(module.graph(id)), id);
  }
  bool changed = false;
  for (GraphId entry : module.entries()) {
    KernelJoiner joiner(module.graph(entry), bodies);
    SINTER_ASSIGN_OR_RETURN(const bool joined, join(joiner));
    changed |= joined;
  }
  for (const auto& [hash, id] : bodies) known.insert(id);
  EraseUnusedBodies(module, known);
  return changed;
}

}  // namespace sinter
