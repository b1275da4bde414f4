#include "passes/rule_match.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace sinter {
namespace {

using Line = ParsedRule::Line;

// Numbers that f32 holds are meant exactly, others as somebody may have rounded them.
bool Same(double pattern, double found) {
  if (pattern == found || static_cast<double>(static_cast<float>(pattern)) == pattern) return pattern == found;
  return std::abs(found - pattern) <= 1e-6 * std::abs(pattern);
}

// The element that all elements of a constant have, as its type holds it; f32 and wider as written, but for what f32
// holds as 0, as infinity or with fewer digits.
std::optional<double> SplatOf(const Graph& graph, ValueId value) {
  const OpId def = graph.value(value).def;
  if (!def.valid() || graph.op(def).kind() != OpKind::kConstant) return std::nullopt;
  const auto& values = std::get<std::vector<double>>(graph.op(def).fields.attrs[0]);
  if (values.empty()) return std::nullopt;
  const double first = values[0];
  if (std::any_of(values.begin(), values.end(), [&](double v) { return v != first; })) return std::nullopt;
  const DType dtype = graph.type(value).dtype;
  if (ElemBytes(dtype, 1) < 4) return RoundTo(dtype, first);
  const bool other =
      dtype == DType::kF32 && first != 0 && std::isfinite(first) && !std::isnormal(RoundTo(dtype, first));
  return other ? std::nullopt : std::optional(first);
}

double NumberOf(const Attr& attr) {
  if (const auto* real = std::get_if<double>(&attr)) return *real;
  if (const auto* truth = std::get_if<bool>(&attr)) return *truth ? 1 : 0;
  return static_cast<double>(std::get<int64_t>(attr));
}

class Matcher {
 public:
  Matcher(const Graph& graph, const ParsedRule& rule, OpId root, RuleTrace* trace)
      : graph_(graph), rule_(rule), root_(root), trace_(trace) {}

  std::optional<RuleMatch> Match() {
    RuleMatch match{rule_, graph_, std::vector<ValueId>(rule_.values.size()),
                    std::vector<std::optional<double>>(rule_.scalars.size())};
    const ParsedRule::Operand goal{.value = rule_.left.back().result, .number = {}};
    if (!Solve({{&goal, graph_.op(root_).results[0]}}, match)) return std::nullopt;
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
      const Goal goal = goals.back();
      goals.pop_back();
      if (goal.pattern->value < 0) {
        const std::optional<double> splat = SplatOf(graph_, goal.value);
        if (!splat || !BindNumber(goal.pattern->number[0], *splat, match)) return Stop(goal, match);
        continue;
      }
      ValueId& bound = match.values[static_cast<size_t>(goal.pattern->value)];
      if (bound.valid() && bound != goal.value) return Stop(goal, match);
      if (bound.valid()) continue;
      const Line* line = MakerOf(*goal.pattern);
      if (line != nullptr) {
        const OpId def = graph_.value(goal.value).def;
        if (!def.valid() || !IsLike(*line, graph_.op(def), match)) return Stop(goal, match);
        bound = goal.value;
        if (!PushOperands(*line, graph_.op(def), goals, match)) continue;
        return true;
      }
      bound = goal.value;
    }
    return true;
  }

  // Operands become goals. True when a commutative op's operands in the exchanged order solved all goals at once.
  bool PushOperands(const Line& line, const OpData& op, std::vector<Goal>& goals, RuleMatch& match) const {
    const auto& operands = op.fields.operands;
    if (op.def().Has(kCommutative) && operands[0] != operands[1]) {
      const bool straight = MayBe(line.operands[0], operands[0], match) && MayBe(line.operands[1], operands[1], match);
      const bool exchanged = MayBe(line.operands[0], operands[1], match) && MayBe(line.operands[1], operands[0], match);
      const Goal others[] = {{&line.operands[0], operands[1]}, {&line.operands[1], operands[0]}};
      if (exchanged && !straight) {
        goals.insert(goals.end(), std::begin(others), std::end(others));
        return false;
      }
      if (exchanged) {
        std::vector<Goal> attempt_goals = goals;
        attempt_goals.insert(attempt_goals.end(), std::begin(others), std::end(others));
        RuleMatch attempt = match;
        if (Solve(std::move(attempt_goals), attempt)) {
          match.values = std::move(attempt.values);
          match.scalars = std::move(attempt.scalars);
          return true;
        }
      }
    }
    for (size_t i = 0; i < operands.size(); ++i) goals.push_back({&line.operands[i], operands[i]});
    return false;
  }

  // False where a look at one op tells that the value is not what is expected.
  bool MayBe(const ParsedRule::Operand& pattern, ValueId value, const RuleMatch& match) const {
    const OpId def = graph_.value(value).def;
    if (pattern.value < 0) return def.valid() && graph_.op(def).kind() == OpKind::kConstant;
    const ValueId bound = match.values[static_cast<size_t>(pattern.value)];
    if (bound.valid()) return bound == value;
    const Line* line = MakerOf(pattern);
    return line == nullptr || (def.valid() && graph_.op(def).kind() == line->kind);
  }

  const Line* MakerOf(const ParsedRule::Operand& pattern) const {
    const int maker = rule_.maker[static_cast<size_t>(pattern.value)];
    return maker < 0 ? nullptr : &rule_.left[static_cast<size_t>(maker)];
  }

  static bool BindNumber(const ParsedRule::Factor& factor, double found, RuleMatch& match) {
    if (factor.scalar < 0) return Same(factor.number, found);
    std::optional<double>& bound = match.scalars[static_cast<size_t>(factor.scalar)];
    if (bound) return *bound == found;
    bound = found;
    return true;
  }

  // Kind, number of operands and attributes; binds the attributes that have names.
  bool IsLike(const Line& line, const OpData& op, RuleMatch& match) const {
    if (op.kind() != line.kind || op.fields.operands.size() != line.operands.size()) return false;
    for (ValueId operand : op.fields.operands) {
      if (!operand.valid()) return false;
    }
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
        const double axis = said == line.attributes.end() ? -1 : said->number[0].number;
        if (from_front(NumberOf(found)) != from_front(axis)) return false;
      } else if (const auto* text = std::get_if<std::string>(&found)) {
        if (*text != said->text) return false;
      } else if (!BindNumber(said->number[0], NumberOf(found), match)) {
        return false;
      }
    }
    return true;
  }

  bool Stop(const Goal& goal, const RuleMatch& match) const {
    if (trace_ == nullptr) return false;
    size_t lines = 0;
    for (size_t i = 0; i < match.values.size(); ++i) lines += rule_.maker[i] >= 0 && match.values[i].valid() ? 1 : 0;
    if (trace_->rule != nullptr && lines <= trace_->lines) return false;
    const int name = goal.pattern->value;
    const ValueId bound = name < 0 ? ValueId::None() : match.values[static_cast<size_t>(name)];
    *trace_ = {lines, root_, &rule_, *goal.pattern, bound, goal.value, ""};
    return false;
  }

  const Graph& graph_;
  const ParsedRule& rule_;
  const OpId root_;
  RuleTrace* const trace_;
};

}  // namespace

double ValueOf(const ParsedRule::Product& product, const RuleMatch& match) {
  double value = 1;
  for (const ParsedRule::Factor& factor : product) {
    const double number = factor.scalar < 0 ? factor.number : *match.scalars[static_cast<size_t>(factor.scalar)];
    value = factor.divides ? value / number : value * number;
  }
  return value;
}

std::optional<RuleMatch> MatchRule(const Graph& graph, const ParsedRule& rule, OpId root, RuleTrace* trace) {
  return Matcher(graph, rule, root, trace).Match();
}

}  // namespace sinter
