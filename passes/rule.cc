#include "passes/rule.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/status.h"
#include "ir/infer.h"

namespace sinter {
namespace {

bool Same(double pattern, double found) {
  return pattern == found || (std::isfinite(pattern) && std::abs(found - pattern) <= 1e-6 * std::abs(pattern));
}

// The element that all elements of a constant have, as its type holds it; f32 and wider as written.
std::optional<double> SplatOf(const Graph& graph, ValueId value) {
  const auto constant = graph.DefAs<ops::Constant>(value);
  if (!constant || constant->values.empty()) return std::nullopt;
  const double first = constant->values[0];
  if (std::any_of(constant->values.begin(), constant->values.end(), [&](double v) { return v != first; })) {
    return std::nullopt;
  }
  const DType dtype = graph.type(value).dtype;
  return ElemBytes(dtype, 1) < 4 ? RoundTo(dtype, first) : first;
}

double ValueOf(const ParsedRule::Attribute& attribute, const RuleMatch& match) {
  double product = 1;
  for (const ParsedRule::Factor& factor : attribute.factors) {
    const double number = factor.scalar < 0 ? factor.number : *match.scalars[static_cast<size_t>(factor.scalar)];
    product = factor.divides ? product / number : product * number;
  }
  return product;
}

// An attribute that is a real, an integer, or true (1) or false (0).
double NumberOf(const Attr& attr) {
  if (const auto* real = std::get_if<double>(&attr)) return *real;
  const auto* truth = std::get_if<bool>(&attr);
  return truth != nullptr ? static_cast<double>(*truth) : static_cast<double>(std::get<int64_t>(attr));
}

class Matcher {
 public:
  Matcher(const Graph& graph, const ParsedRule& rule) : graph_(graph), rule_(rule) {}

  std::optional<RuleMatch> Match(OpId root) {
    RuleMatch match{rule_, std::vector<ValueId>(rule_.values.size()),
                    std::vector<std::optional<double>>(rule_.scalars.size())};
    const ParsedRule::Operand goal{.value = rule_.right.result};
    if (!Solve({{&goal, graph_.op(root).results[0]}}, match)) return std::nullopt;
    return match;
  }

 private:
  struct Goal {
    const ParsedRule::Operand* pattern;
    ValueId value;
  };

  // Solves the goals from the last one on. `match` is left as it was solved, or in any state when it was not.
  bool Solve(std::vector<Goal> goals, RuleMatch& match) const {
    while (!goals.empty()) {
      const auto [pattern, value] = goals.back();
      goals.pop_back();
      if (pattern->value < 0) {
        const std::optional<double> splat = SplatOf(graph_, value);
        if (!splat || !BindNumber(pattern->scalar, pattern->number, *splat, match)) return false;
        continue;
      }
      ValueId& bound = match.values[static_cast<size_t>(pattern->value)];
      if (bound.valid() && bound != value) return false;
      if (bound.valid()) continue;
      bound = value;
      const int maker = rule_.maker[static_cast<size_t>(pattern->value)];
      if (maker < 0) continue;
      const ParsedRule::Line& line = rule_.left[static_cast<size_t>(maker)];
      const OpId def = graph_.value(value).def;
      if (!def.valid() || !IsLike(line, graph_.op(def), match)) return false;
      const auto& operands = graph_.op(def).fields.operands;
      if (graph_.op(def).def().Has(kCommutative) && operands[0] != operands[1]) {
        std::vector<Goal> exchanged = goals;
        exchanged.push_back({&line.operands[0], operands[1]});
        exchanged.push_back({&line.operands[1], operands[0]});
        RuleMatch attempt = match;
        if (Solve(std::move(exchanged), attempt)) {
          match.values = std::move(attempt.values);
          match.scalars = std::move(attempt.scalars);
          return true;
        }
      }
      for (size_t i = 0; i < operands.size(); ++i) goals.push_back({&line.operands[i], operands[i]});
    }
    return true;
  }

  static bool BindNumber(int scalar, double number, double found, RuleMatch& match) {
    if (scalar < 0) return Same(number, found);
    std::optional<double>& bound = match.scalars[static_cast<size_t>(scalar)];
    if (bound) return *bound == found;
    bound = found;
    return true;
  }

  // Kind, number of operands and attributes; binds the attributes that have names.
  bool IsLike(const ParsedRule::Line& line, const OpData& op, RuleMatch& match) const {
    if (op.kind() != line.kind || op.fields.operands.size() != line.operands.size()) return false;
    const std::vector<AttrDef>& rows = op.def().attrs;
    for (size_t i = 0; i < rows.size(); ++i) {
      const Attr& found = op.fields.attrs[i];
      const auto said = std::find_if(line.attributes.begin(), line.attributes.end(),
                                     [&](const ParsedRule::Attribute& a) { return a.index == i; });
      const bool is_axis = rows[i].name == "axis";
      if (said == line.attributes.end() && !is_axis) {
        if (found != rows[i].default_value) return false;
      } else if (is_axis) {
        const auto from_front = [&](double axis) {
          return axis < 0 ? axis + static_cast<double>(graph_.type(op.fields.operands[0]).rank()) : axis;
        };
        const double axis = said == line.attributes.end() ? -1 : ValueOf(*said, match);
        if (from_front(static_cast<double>(std::get<int64_t>(found))) != from_front(axis)) return false;
      } else if (const auto* text = std::get_if<std::string>(&found)) {
        if (*text != said->text) return false;
      } else {
        const double number = NumberOf(found);
        if (!BindNumber(said->factors[0].scalar, said->factors[0].number, number, match)) return false;
      }
    }
    return true;
  }

  const Graph& graph_;
  const ParsedRule& rule_;
};

// The ops of the left side, the root last. Nothing when a value between them is used elsewhere, by the new op included.
std::optional<std::vector<OpId>> MatchedOps(const Graph& graph, const RuleMatch& match) {
  std::vector<OpId> ops;
  for (const ParsedRule::Line& line : match.rule.left) {
    const OpId op = graph.value(match.values[static_cast<size_t>(line.result)]).def;
    if (std::find(ops.begin(), ops.end(), op) == ops.end()) ops.push_back(op);
  }
  for (size_t i = 0; i < match.values.size(); ++i) {
    const OpId def = graph.value(match.values[i]).def;
    if (match.rule.maker[i] < 0 && std::find(ops.begin(), ops.end(), def) != ops.end()) return std::nullopt;
  }
  for (size_t i = 0; i + 1 < ops.size(); ++i) {
    const ValueId value = graph.op(ops[i]).results[0];
    const auto outside = [&](const Use& use) { return std::find(ops.begin(), ops.end(), use.op) == ops.end(); };
    const auto& uses = graph.value(value).uses;
    if (std::any_of(uses.begin(), uses.end(), outside) || graph.IsResult(value)) return std::nullopt;
  }
  return ops;
}

// The op of the right side; nothing when Infer refuses it or gives it another type.
std::optional<OpFields> Replacement(const Graph& graph, const RuleMatch& match, const Type& type) {
  const ParsedRule::Line& line = match.rule.right;
  OpData op{.fields = {line.kind, {}, {}}, .results = {}, .loc = {}};
  for (const ParsedRule::Operand& operand : line.operands) {
    op.fields.operands.push_back(match.values[static_cast<size_t>(operand.value)]);
  }
  for (const AttrDef& row : op.def().attrs) op.fields.attrs.push_back(row.default_value);
  for (const ParsedRule::Attribute& attribute : line.attributes) {
    Attr& attr = op.fields.attrs[attribute.index];
    if (std::holds_alternative<std::string>(attr)) {
      attr = attribute.text;
    } else if (std::holds_alternative<double>(attr)) {
      attr = ValueOf(attribute, match);
    } else if (std::holds_alternative<bool>(attr)) {
      attr = ValueOf(attribute, match) != 0;
    } else {
      attr = static_cast<int64_t>(ValueOf(attribute, match));
    }
  }
  const absl::StatusOr<std::vector<Type>> types = InferOp(graph, op, {});
  if (!types.ok() || types->size() != 1 || (*types)[0] != type) return std::nullopt;
  return op.fields;
}

// The op that replaced `root`; None when the rule does not apply.
absl::StatusOr<OpId> TryRule(Graph& graph, const ParsedRule& rule, OpId root) {
  const std::optional<RuleMatch> match = Matcher(graph, rule).Match(root);
  if (!match || (rule.rule->when != nullptr && !rule.rule->when(*match))) return OpId::None();
  const std::optional<std::vector<OpId>> matched = MatchedOps(graph, *match);
  const ValueId result = graph.op(root).results[0];
  std::optional<OpFields> fields = matched ? Replacement(graph, *match, graph.type(result)) : std::nullopt;
  if (!fields) return OpId::None();
  AddOptions options;
  options.before = root;
  options.loc = graph.op(root).loc;
  SINTER_ASSIGN_OR_RETURN(const OpId replacement, graph.AddFields(*std::move(fields), std::move(options)));
  const std::string name = graph.value(result).name;
  graph.ReplaceUses(result, graph.op(replacement).results[0]);
  for (auto op = matched->rbegin(); op != matched->rend(); ++op) {
    const auto operands = graph.op(*op).fields.operands;
    graph.Erase(*op);
    for (ValueId operand : operands) {
      const OpId def = graph.value(operand).def;
      if (graph.DefAs<ops::Constant>(operand) && !graph.op(def).erased && graph.UseCount(operand) == 0)
        graph.Erase(def);
    }
  }
  graph.Rename(graph.op(replacement).results[0], name);
  return replacement;
}

}  // namespace

double RuleMatch::scalar(absl::string_view name) const {
  const auto at = std::find(rule.scalars.begin(), rule.scalars.end(), name);
  return *scalars[static_cast<size_t>(at - rule.scalars.begin())];
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
            ++counts[candidate.count].tried;
            SINTER_ASSIGN_OR_RETURN(next, TryRule(graph, *candidate.rule, root));
            if (!next.valid()) continue;
            ++counts[candidate.count].matched;
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
