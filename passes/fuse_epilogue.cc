// fuse-epilogue and fuse-rope-append: elementwise work joins the step that makes, or stores, its operand.
//
// Of two elementwise kernels one is inlined in the other. A product and the elementwise kernel that reads it become a
// group: a grain of the product, still in cache, is what the same grain of the elementwise kernel reads; so bias,
// activation, gating (which reads two products of the same shape) and residual cost neither a barrier nor a step.
#include <algorithm>

#include "backend/kernel_spec.h"
#include "base/status.h"
#include "passes/join_kernels.h"
#include "passes/pass.h"

namespace sinter {
namespace {

bool IsElementwise(const ops::Kernel& kernel) { return kernel.family == "map" || kernel.family == "move"; }

bool Holds(const Graph& graph, const ops::Kernel& kernel, OpKind kind) {
  const Graph& body = graph.module().graph(kernel.body.id);
  return std::any_of(body.order().begin(), body.order().end(), [&](OpId id) { return body.op(id).kind() == kind; });
}

bool HasProduct(const Graph& graph, const ops::Kernel& kernel) {
  return kernel.family == "gemm" || kernel.family == "group" || Holds(graph, kernel, OpKind::kGemm);
}

// The elementwise kernel whose one result the kernel alone reads, if there is one for an argument.
OpId InlinedProducer(const Graph& graph, const ops::Kernel& kernel) {
  for (ValueId arg : kernel.args) {
    const auto producer = graph.DefAs<ops::Kernel>(arg);
    if (producer && IsElementwise(*producer) && !graph.type(arg).state && graph.UseCount(arg) == 1 &&
        graph.op(graph.value(arg).def).results.size() == 1) {
      return graph.value(arg).def;
    }
  }
  return OpId::None();
}

// Joins each kernel that `wants` names with the elementwise kernels before it.
template <typename Wants>
absl::StatusOr<bool> InlineProducers(Graph& graph, KernelJoiner& joiner, const Wants& wants) {
  bool changed = false;
  const std::vector<OpId> ops = graph.order();
  for (OpId id : ops) {
    for (;;) {
      const auto kernel = graph.op(id).erased ? std::nullopt : graph.As<ops::Kernel>(id);
      if (!kernel || !IsElementwise(*kernel) || !wants(*kernel)) break;
      const OpId producer = InlinedProducer(graph, *kernel);
      if (!producer.valid()) break;
      SINTER_ASSIGN_OR_RETURN(const OpId joined, joiner.Inline(graph, producer, id));
      if (!joined.valid()) break;
      id = joined;
      changed = true;
    }
  }
  return changed;
}

// The products that an elementwise kernel reads, in the order of the graph.
std::vector<OpId> ProductsOf(const Graph& graph, const ops::Kernel& kernel) {
  std::vector<OpId> products;
  for (OpId id : graph.order()) {
    const auto product = graph.As<ops::Kernel>(id);
    if (!product || !HasProduct(graph, *product)) continue;
    const auto& results = graph.op(id).results;
    const bool read = std::any_of(results.begin(), results.end(), [&](ValueId result) {
      return std::find(kernel.args.begin(), kernel.args.end(), result) != kernel.args.end();
    });
    if (read) products.push_back(id);
  }
  return products;
}

absl::StatusOr<bool> JoinProducts(Graph& graph, KernelJoiner& joiner) {
  bool changed = false;
  const std::vector<OpId> ops = graph.order();
  for (OpId id : ops) {
    const auto kernel = graph.op(id).erased ? std::nullopt : graph.As<ops::Kernel>(id);
    if (!kernel || kernel->family != "map") continue;
    std::vector<OpId> members = ProductsOf(graph, *kernel);
    // With all of them, else with the one made last.
    for (; !members.empty(); members.erase(members.begin())) {
      std::vector<OpId> group = members;
      group.push_back(id);
      SINTER_ASSIGN_OR_RETURN(const OpId joined, joiner.Group(graph, group));
      if (!joined.valid()) continue;
      changed = true;
      break;
    }
  }
  return changed;
}

}  // namespace

absl::StatusOr<bool> FuseRopeAppend(Module& module, PassContext&) {
  KernelJoiner joiner(module);
  bool changed = false;
  for (GraphId entry : module.entries()) {
    Graph& graph = module.graph(entry);
    SINTER_ASSIGN_OR_RETURN(const bool joined, InlineProducers(graph, joiner, [&](const ops::Kernel& kernel) {
                              return Holds(graph, kernel, OpKind::kKvAppend);
                            }));
    changed |= joined;
  }
  joiner.Finish();
  return changed;
}

absl::StatusOr<bool> FuseEpilogue(Module& module, PassContext&) {
  KernelJoiner joiner(module);
  bool changed = false;
  for (GraphId entry : module.entries()) {
    Graph& graph = module.graph(entry);
    SINTER_ASSIGN_OR_RETURN(const bool inlined, InlineProducers(graph, joiner, [&](const ops::Kernel& kernel) {
                              return !Holds(graph, kernel, OpKind::kKvAppend);
                            }));
    SINTER_ASSIGN_OR_RETURN(const bool joined, JoinProducts(graph, joiner));
    changed |= inlined || joined;
  }
  joiner.Finish();
  return changed;
}

}  // namespace sinter
