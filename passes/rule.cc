#include "passes/rule.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "ir/infer.h"
#include "ir/text.h"
#include "passes/cleanup.h"
#include "passes/rule_match.h"

namespace sinter {
namespace {

using Line = ParsedRule::Line;

// One match on its way to be rewritten. The graph is as it was when Apply refuses.
class Rewrite {
 public:
  Rewrite(Graph& graph, const RuleMatch& match, OpId root)
      : graph_(graph), match_(match), rule_(match.rule), root_(root), values_(match.values) {}

  // kFailedPrecondition: why not.
  absl::StatusOr<OpId> Apply() {
    SINTER_RETURN_IF_ERROR(CollectMatched());
    const absl::Status made = AddRight();
    if (!made.ok()) {
      for (auto op = added_.rbegin(); op != added_.rend(); ++op) graph_.Erase(*op);
      return made;
    }
    const ValueId result = graph_.op(root_).results[0];
    const std::string name = graph_.value(result).name;
    const OpId replacement = added_.back();
    graph_.ReplaceUses(result, graph_.op(replacement).results[0]);
    for (auto op = matched_.rbegin(); op != matched_.rend(); ++op) EraseUnused(*op);
    graph_.Rename(graph_.op(replacement).results[0], name);
    for (const auto& [value, old] : renames_) graph_.Rename(value, old);
    return replacement;
  }

 private:
  static absl::Status No(const auto&... why) { return absl::FailedPreconditionError(absl::StrCat(why...)); }

  std::string Show(OpId op) const { return PrintOp(graph_, op); }

  // The ops of the left side, the root last, when no value between them is used elsewhere, by the new ops included, and
  // none that they read is overwritten before the root, where the new ops may stand.
  absl::Status CollectMatched() {
    std::vector<bool> shared;
    for (const Line& line : rule_.left) {
      const OpId op = graph_.value(match_.values[static_cast<size_t>(line.result)]).def;
      if (std::find(matched_.begin(), matched_.end(), op) != matched_.end()) continue;
      matched_.push_back(op);
      shared.push_back(line.shared);
    }
    for (size_t i = 0; i < rule_.left_values; ++i) {
      const OpId def = graph_.value(match_.values[i]).def;
      if (rule_.maker[i] < 0 && std::find(matched_.begin(), matched_.end(), def) != matched_.end()) {
        return No("%", rule_.values[i], " is a value of the match itself: ", Show(def));
      }
      if (rule_.maker[i] < 0 && LooksAtOverwritten(graph_, match_.values[i])) {
        return No("%", rule_.values[i], " looks at a state that is overwritten: ", Show(def));
      }
    }
    for (size_t i = 0; i + 1 < matched_.size(); ++i) {
      if (shared[i]) continue;
      const ValueId value = graph_.op(matched_[i]).results[0];
      for (const Use& use : graph_.value(value).uses) {
        if (std::find(matched_.begin(), matched_.end(), use.op) != matched_.end()) continue;
        return No("%", graph_.value(value).name, " has another user: ", Show(use.op));
      }
      if (graph_.IsResult(value)) return No("%", graph_.value(value).name, " is a result of @", graph_.name());
    }
    return absl::OkStatus();
  }

  absl::StatusOr<ValueId> Constant(double number) {
    AddOptions options;
    options.before = root_;
    options.declared = {Type{graph_.type(graph_.op(root_).results[0]).dtype, {1}}};
    SINTER_ASSIGN_OR_RETURN(const OpId op, Add(Pack(ops::Constant{.values = {number}}), std::move(options)));
    return graph_.op(op).results[0];
  }

  absl::StatusOr<OpId> Add(OpFields fields, AddOptions options) {
    const absl::StatusOr<OpId> op = graph_.AddFields(std::move(fields), std::move(options));
    if (!op.ok()) return No("the new op is refused: ", op.status().message());
    added_.push_back(*op);
    return *op;
  }

  absl::StatusOr<OpFields> Fields(const Line& line) {
    OpFields fields{line.kind, {}, {}};
    for (const ParsedRule::Operand& operand : line.operands) {
      if (operand.value >= 0) {
        fields.operands.push_back(values_[static_cast<size_t>(operand.value)]);
        continue;
      }
      SINTER_ASSIGN_OR_RETURN(fields.operands.emplace_back(), Constant(ValueOf(operand.number, match_)));
    }
    for (const AttrDef& row : Def(line.kind).attrs) fields.attrs.push_back(row.default_value);
    for (const ParsedRule::Attribute& attribute : line.attributes) {
      Attr& attr = fields.attrs[attribute.index];
      const double number = ValueOf(attribute.number, match_);
      if (std::holds_alternative<std::string>(attr)) {
        attr = attribute.text;
      } else if (std::holds_alternative<double>(attr)) {
        attr = number;
      } else if (std::holds_alternative<bool>(attr)) {
        attr = number != 0;
      } else {
        attr = static_cast<int64_t>(number);
      }
    }
    return fields;
  }

  absl::Status AddRight() {
    const Type type = graph_.type(graph_.op(root_).results[0]);
    for (const Line& line : rule_.right) {
      SINTER_ASSIGN_OR_RETURN(OpFields fields, Fields(line));
      const auto result = static_cast<size_t>(line.result);
      const bool anew = result < rule_.left_values;
      const ValueId old = anew ? match_.values[result] : ValueId::None();
      AddOptions options;
      options.before = anew ? graph_.value(old).def : root_;
      options.loc = graph_.op(options.before).loc;
      options.names = {rule_.values[result]};
      if (Def(line.kind).Has(kDeclared)) {
        if (!anew) return No("%", rule_.values[result], " has no type of the left side to declare");
        options.declared = {graph_.type(old)};
      }
      SINTER_ASSIGN_OR_RETURN(const OpId op, Add(std::move(fields), std::move(options)));
      if (graph_.op(op).results.size() != 1) return No("the new op has more than one result");
      values_[result] = graph_.op(op).results[0];
      if (anew) renames_.emplace_back(values_[result], graph_.value(old).name);
    }
    renames_.pop_back();  // the root
    const Type& found = graph_.type(values_[static_cast<size_t>(rule_.right.back().result)]);
    if (found == type) return absl::OkStatus();
    const DimTable& dims = graph_.module().dims;
    return No("the new op would be ", ToString(found, dims), " where ", ToString(type, dims), " stands");
  }

  // Erases an op that nobody uses, and its constants that nobody else uses.
  void EraseUnused(OpId op) {
    for (ValueId result : graph_.op(op).results) {
      if (graph_.UseCount(result) > 0) return;
    }
    const auto operands = graph_.op(op).fields.operands;
    graph_.Erase(op);
    for (ValueId operand : operands) {
      const OpId def = graph_.value(operand).def;
      if (def.valid() && graph_.op(def).kind() == OpKind::kConstant && !graph_.op(def).erased &&
          graph_.UseCount(operand) == 0) {
        graph_.Erase(def);
      }
    }
  }

  Graph& graph_;
  const RuleMatch& match_;
  const ParsedRule& rule_;
  const OpId root_;
  std::vector<ValueId> values_;  // those of the right side, too
  std::vector<OpId> matched_, added_;
  std::vector<std::pair<ValueId, std::string>> renames_;
};

size_t IndexOf(const std::vector<std::string>& names, absl::string_view name) {
  return static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin());
}

}  // namespace

double RuleMatch::scalar(absl::string_view name) const { return *scalars[IndexOf(rule.scalars, name)]; }
const Type& RuleMatch::type(absl::string_view name) const { return graph.type(values[IndexOf(rule.values, name)]); }
bool RuleMatch::is_constant(absl::string_view name) const {
  const OpId def = graph.value(values[IndexOf(rule.values, name)]).def;
  return def.valid() && graph.op(def).kind() == OpKind::kConstant;
}

bool Widens(const RuleMatch& match) {
  return ElemBytes(match.type("wide").dtype, 1) > ElemBytes(match.type("narrow").dtype, 1);
}

absl::StatusOr<OpId> TryRule(Graph& graph, const ParsedRule& rule, OpId root, RuleTrace* trace) {
  const std::optional<RuleMatch> match = MatchRule(graph, rule, root, trace);
  if (!match) return OpId::None();
  absl::StatusOr<OpId> replacement = absl::FailedPreconditionError("the rule's condition does not hold");
  if (rule.rule->when == nullptr || rule.rule->when(*match)) replacement = Rewrite(graph, *match, root).Apply();
  if (replacement.ok() || !absl::IsFailedPrecondition(replacement.status())) return replacement;
  if (trace != nullptr && (trace->rule == nullptr || rule.left.size() > trace->lines)) {
    *trace = {rule.left.size(), root, &rule, {}, {}, {}, std::string(replacement.status().message())};
  }
  return OpId::None();
}

absl::StatusOr<bool> ApplyRules(absl::Span<const ParsedRule> rules, Module& module, std::vector<RuleCount>& counts) {
  struct Candidate {
    const ParsedRule* rule;
    size_t count;
  };
  std::vector<std::vector<Candidate>> by_root(AllOps().size());
  for (const ParsedRule& rule : rules) {
    const auto same = [&](const RuleCount& count) { return count.rule == rule.rule->name; };
    const auto at = std::find_if(counts.begin(), counts.end(), same);
    const auto index = static_cast<size_t>(at - counts.begin());
    if (at == counts.end()) counts.push_back({.rule = rule.rule->name});
    by_root[static_cast<size_t>(rule.left.back().kind)].push_back({&rule, index});
  }
  const auto attempt = [&](Graph& graph, const Candidate& candidate, OpId root) -> absl::StatusOr<OpId> {
    RuleCount& count = counts[candidate.count];
    const auto start = std::chrono::steady_clock::now();
    absl::StatusOr<OpId> replacement = TryRule(graph, *candidate.rule, root);
    count.milliseconds += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    ++count.tried;
    count.matched += replacement.ok() && replacement->valid() ? 1 : 0;
    return replacement;
  };

  bool changed = false;
  for (GraphId id : module.entries()) {
    Graph& graph = module.graph(id);
    for (bool again = true; again;) {
      again = false;
      const std::vector<OpId> order = graph.order();
      for (OpId op : order) {
        if (graph.op(op).erased) continue;
        // What replaced an op is tried at once: one rule adds the scale to the softmax that another made.
        for (OpId next = op; next.valid();) {
          const OpId root = std::exchange(next, OpId::None());
          for (const Candidate& candidate : by_root[static_cast<size_t>(graph.op(root).kind())]) {
            SINTER_ASSIGN_OR_RETURN(next, attempt(graph, candidate, root));
            if (!next.valid()) continue;
            again = changed = true;
            break;
          }
        }
      }
    }
  }
  return changed;
}

}  // namespace sinter
