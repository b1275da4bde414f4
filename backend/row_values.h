// What the emitter of row kernels asks of the values of an expression: how they are made, and whether they vary along
// the inner axis.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "backend/kernel_spec.h"

namespace sinter {

class RowValues {
 protected:
  explicit RowValues(const RowSpec& spec) : spec_(spec), graph_(*spec.expr), inner_(spec.axes.size() - 1) {}

  const OpData* DefOf(ValueId value) const {
    const OpId def = graph_.value(value).def;
    return def.valid() ? &graph_.op(def) : nullptr;
  }
  bool IsKind(ValueId value, OpKind kind) const {
    const OpData* def = DefOf(value);
    return def != nullptr && def->kind() == kind;
  }

  // Whether some value has a property: `value`, or what it is made of. `look` says yes or no of a value, or nothing:
  // then its operands are looked at. No value is looked at twice, lest time double with each op.
  bool Any(ValueId value, const std::function<std::optional<bool>(ValueId, const OpData*)>& look) const {
    std::vector<ValueId> left = {value};
    absl::flat_hash_set<ValueId> seen = {value};
    while (!left.empty()) {
      const ValueId v = left.back();
      left.pop_back();
      const OpData* def = DefOf(v);
      const std::optional<bool> answer = look(v, def);
      if (answer.value_or(false)) return true;
      if (answer || def == nullptr) continue;
      for (ValueId operand : def->fields.operands) {
        if (operand.valid() && seen.insert(operand).second) left.push_back(operand);
      }
    }
    return false;
  }

  // Whether a value depends on the inner axis.
  bool Varies(ValueId value) const {
    const auto known = varies_.find(value);
    if (known != varies_.end()) return known->second;
    return varies_[value] = Any(value, [this](ValueId v, const OpData* def) -> std::optional<bool> {
             const auto leaf = spec_.leaves.find(v);
             if (IsKind(v, OpKind::kCausalMask) || IsKind(v, OpKind::kRope)) return true;
             if (leaf != spec_.leaves.end()) {
               const DimExpr& stride = leaf->second.strides[inner_];
               return !(stride.is_const() && stride.constant() == 0);
             }
             if (def->kind() == OpKind::kConstant || def->def().Has(kReduce)) return false;
             return std::nullopt;
           });
  }

  const RowSpec& spec_;
  const Graph& graph_;
  const size_t inner_;

 private:
  mutable absl::flat_hash_map<ValueId, bool> varies_;  // what Varies has found
};

}  // namespace sinter
