// round-to-bf16: products with weights of 16 bits take rows and weights of bf16, whose pairs a target multiplies in one
// instruction, twice as many in the same time. Rows lose what bf16 does not hold (relative 2^-9 an element), weights of
// f16 the same; sums stay f32. Only when the module is compiled in the precision `fast` and for such a target; code for
// others computes with the same rounded values.
#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "base/status.h"
#include "passes/pass.h"

namespace sinter {
namespace {

class Rounder {
 public:
  explicit Rounder(Graph& graph) : graph_(graph) {}

  absl::StatusOr<bool> Run() {
    bool changed = false;
    const std::vector<OpId> ops = graph_.order();
    for (OpId id : ops) {
      const auto gemm = graph_.As<ops::Gemm>(id);
      if (!gemm || !CanRound(*gemm)) continue;
      ops::Gemm rounded = *gemm;
      SINTER_ASSIGN_OR_RETURN(rounded.b, Weight(gemm->b));
      SINTER_ASSIGN_OR_RETURN(rounded.a, Rows(gemm->a, id));
      const ValueId product = graph_.op(id).results[0];
      const std::string name = graph_.value(product).name;
      SINTER_ASSIGN_OR_RETURN(const ValueId result, graph_.Add(rounded, {.loc = graph_.op(id).loc, .before = id}));
      graph_.ReplaceUses(product, result);
      graph_.Erase(id);
      graph_.Rename(result, name);
      changed = true;
    }
    for (const auto& [stored, rounded] : weights_) {
      if (graph_.UseCount(stored) == 0) graph_.Erase(graph_.value(stored).def);
    }
    return changed;
  }

 private:
  // Pairs lie along K, which a weight [N,K] has as neighbours.
  bool CanRound(const ops::Gemm& gemm) const {
    const Type& type = graph_.type(gemm.b);
    const bool narrow = type.dtype == DType::kF16 || type.dtype == DType::kBF16;
    if (!narrow || !graph_.DefAs<ops::Weight>(gemm.b) || !gemm.trans_b || gemm.trans_a) return false;
    return type.rank() == 2 && type.dims[1].constant() % 2 == 0 && graph_.type(gemm.a).dtype != DType::kBF16;
  }

  absl::StatusOr<ValueId> Weight(ValueId stored) {
    Type type = graph_.type(stored);
    if (type.dtype == DType::kBF16) return stored;
    ValueId& rounded = weights_[stored];
    if (rounded.valid()) return rounded;
    type.dtype = DType::kBF16;
    const OpId def = graph_.value(stored).def;
    SINTER_ASSIGN_OR_RETURN(rounded, graph_.Add(*graph_.As<ops::Weight>(def), Like(stored, std::move(type), def)));
    return rounded;
  }

  absl::StatusOr<ValueId> Rows(ValueId x, OpId before) {
    ValueId& rounded = rows_[x];
    if (rounded.valid()) return rounded;
    Type type = graph_.type(x);
    type.dtype = DType::kBF16;
    SINTER_ASSIGN_OR_RETURN(rounded, graph_.Add(ops::Convert{.x = x}, Like(x, std::move(type), before)));
    return rounded;
  }

  // For an op before another that makes `value` anew as a `type`.
  AddOptions Like(ValueId value, Type type, OpId before) const {
    AddOptions options;
    options.declared = {std::move(type)};
    options.names = {graph_.value(value).name};
    options.loc = graph_.op(before).loc;
    options.before = before;
    return options;
  }

  Graph& graph_;
  absl::flat_hash_map<ValueId, ValueId> weights_, rows_;  // by what they are rounded from
};

}  // namespace

absl::StatusOr<bool> RoundToBf16(Module& module, PassContext& context) {
  if (!context.fast || std::none_of(context.targets.begin(), context.targets.end(),
                                    [](const Target* target) { return MultipliesPairs(*target); })) {
    return false;
  }
  bool changed = false;
  for (GraphId id : module.entries()) {
    SINTER_ASSIGN_OR_RETURN(const bool rounded, Rounder(module.graph(id)).Run());
    changed |= rounded;
  }
  return changed;
}

}  // namespace sinter
