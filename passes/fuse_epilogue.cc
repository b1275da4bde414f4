// fuse-epilogue and fuse-rope-append: elementwise work joins the step that makes, or stores, its operand.
//
// Of two elementwise kernels one is inlined in the other. A product and the elementwise kernel that reads it become a
// group: a grain of the product, still in cache, is what the same grain of the elementwise kernel reads; so bias,
// activation, gating (which reads two products of the same shape) and residual cost neither a barrier nor a step.
#include <algorithm>

#include "base/status.h"
#include "passes/join_kernels.h"
#include "passes/pass.h"

namespace sinter {
namespace {

bool IsElementwise(const ops::Kernel& kernel) { return kernel.family == "map" || kernel.family == "move"; }

bool Appends(const Graph& graph, const ops::Kernel& kernel) {
  const Graph& body = graph.module().graph(kernel.body.id);
  return std::any_of(body.order().begin(), body.order().end(),
                     [&](OpId id) { return body.op(id).kind() == OpKind::kKvAppend; });
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

// Joins each kernel that writes to a cache, or each other one, with the elementwise kernels before it.
absl::StatusOr<bool> InlineProducers(KernelJoiner& joiner, bool appends) {
  const Graph& graph = joiner.graph();
  bool changed = false;
  const std::vector<OpId> ops = graph.order();
  for (OpId id : ops) {
    for (;;) {
      const auto kernel = graph.op(id).erased ? std::nullopt : graph.As<ops::Kernel>(id);
      if (!kernel || !IsElementwise(*kernel) || Appends(graph, *kernel) != appends) break;
      const OpId producer = InlinedProducer(graph, *kernel);
      if (!producer.valid()) break;
      SINTER_ASSIGN_OR_RETURN(const OpId joined, joiner.Inline(producer, id));
      if (!joined.valid()) break;
      id = joined;
      changed = true;
    }
  }
  return changed;
}

// The products that an elementwise kernel reads, in the order of the graph.
std::vector<OpId> ProductsOf(const KernelJoiner& joiner, const ops::Kernel& kernel) {
  std::vector<OpId> products;
  for (ValueId arg : kernel.args) {
    const auto maker = joiner.graph().DefAs<ops::Kernel>(arg);
    if (maker && HasProducts(*maker)) products.push_back(joiner.graph().value(arg).def);
  }
  return joiner.InOrder(std::move(products));
}

absl::StatusOr<bool> JoinProducts(KernelJoiner& joiner) {
  const Graph& graph = joiner.graph();
  bool changed = false;
  const std::vector<OpId> ops = graph.order();
  for (OpId id : ops) {
    const auto kernel = graph.op(id).erased ? std::nullopt : graph.As<ops::Kernel>(id);
    if (!kernel || kernel->family != "map") continue;
    std::vector<OpId> members = ProductsOf(joiner, *kernel);
    // With all of them, else with the one made last.
    for (; !members.empty(); members.erase(members.begin())) {
      std::vector<OpId> group = members;
      group.push_back(id);
      SINTER_ASSIGN_OR_RETURN(const OpId joined, joiner.Group(group));
      if (!joined.valid()) continue;
      changed = true;
      break;
    }
  }
  return changed;
}

}  // namespace

absl::StatusOr<bool> FuseRopeAppend(Module& module, PassContext&) {
  return JoinKernels(module, [](KernelJoiner& joiner) { return InlineProducers(joiner, /*appends=*/true); });
}

absl::StatusOr<bool> FuseEpilogue(Module& module, PassContext&) {
  return JoinKernels(module, [](KernelJoiner& joiner) -> absl::StatusOr<bool> {
    SINTER_ASSIGN_OR_RETURN(const bool inlined, InlineProducers(joiner, /*appends=*/false));
    SINTER_ASSIGN_OR_RETURN(const bool joined, JoinProducts(joiner));
    return inlined || joined;
  });
}

}  // namespace sinter
