// round-to-bf16 and quantize-rows: what the precision `fast` rounds. Both only change products with weights [N,K].
//
// round-to-bf16: products with weights of 16 bits take rows and weights of bf16, whose pairs a target multiplies in one
// instruction, twice as many in the same time. Rows lose what bf16 does not hold (relative 2^-9 an element), weights of
// f16 the same; sums stay f32. Only for such a target; code for others computes with the same rounded values.
//
// quantize-rows: products with quantized weights take rows of q8_r, blocks of 8-bit integers, so that bytes are
// multiplied: an element loses at most 1/254 of the largest of its block of 32. Weights stay as they are.
//
// All products that read the same rows share one conversion of them.
#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "base/status.h"
#include "ir/quant.h"
#include "passes/pass.h"

namespace sinter {
namespace {

class Rounder {
 public:
  // Rows become `dtype`; so do the weights they meet, if it is a float.
  Rounder(Graph& graph, DType dtype) : graph_(graph), dtype_(dtype) {}

  absl::StatusOr<bool> Run(absl::FunctionRef<bool(DType weight)> takes) {
    bool changed = false;
    const std::vector<OpId> ops = graph_.order();
    for (OpId id : ops) {
      const auto gemm = graph_.As<ops::Gemm>(id);
      if (!gemm || !CanRound(*gemm) || !takes(graph_.type(gemm->b).dtype)) continue;
      ops::Gemm rounded = *gemm;
      if (IsFloat(dtype_)) {
        SINTER_ASSIGN_OR_RETURN(rounded.b, Weight(gemm->b));
      }
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
  // Pairs and blocks lie along K, which a weight [N,K] has as neighbours.
  bool CanRound(const ops::Gemm& gemm) const {
    const Type& type = graph_.type(gemm.b);
    if (!graph_.DefAs<ops::Weight>(gemm.b) || !gemm.trans_b || gemm.trans_a) return false;
    return type.rank() == 2 && type.dims[1].constant() % 2 == 0 && graph_.type(gemm.a).dtype != dtype_;
  }

  absl::StatusOr<ValueId> Weight(ValueId stored) {
    Type type = graph_.type(stored);
    if (type.dtype == dtype_) return stored;
    ValueId& rounded = weights_[stored];
    if (rounded.valid()) return rounded;
    type.dtype = dtype_;
    const OpId def = graph_.value(stored).def;
    SINTER_ASSIGN_OR_RETURN(rounded, graph_.Add(*graph_.As<ops::Weight>(def), Like(stored, std::move(type), def)));
    return rounded;
  }

  absl::StatusOr<ValueId> Rows(ValueId x, OpId before) {
    ValueId& rounded = rows_[x];
    if (rounded.valid()) return rounded;
    Type type = graph_.type(x);
    type.dtype = dtype_;
    AddOptions like = Like(x, std::move(type), before);
    SINTER_ASSIGN_OR_RETURN(rounded, IsFloat(dtype_) ? graph_.Add(ops::Convert{.x = x}, std::move(like))
                                                     : graph_.Add(ops::Quantize{.x = x}, std::move(like)));
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
  const DType dtype_;
  absl::flat_hash_map<ValueId, ValueId> weights_, rows_;  // by what they are rounded from
};

absl::StatusOr<bool> RoundEntries(Module& module, DType dtype, absl::FunctionRef<bool(DType weight)> takes) {
  bool changed = false;
  for (GraphId id : module.entries()) {
    SINTER_ASSIGN_OR_RETURN(const bool rounded, Rounder(module.graph(id), dtype).Run(takes));
    changed |= rounded;
  }
  return changed;
}

}  // namespace

absl::StatusOr<bool> RoundToBf16(Module& module, PassContext& context) {
  if (!context.fast || std::none_of(context.targets.begin(), context.targets.end(),
                                    [](const Target* target) { return MultipliesPairs(*target); })) {
    return false;
  }
  return RoundEntries(module, DType::kBF16,
                      [](DType weight) { return weight == DType::kF16 || weight == DType::kBF16; });
}

absl::StatusOr<bool> QuantizeRows(Module& module, PassContext& context) {
  if (!context.fast) return false;
  return RoundEntries(module, DType::kQ8_R, [](DType weight) { return FindQuantFormat(weight) != nullptr; });
}

}  // namespace sinter
