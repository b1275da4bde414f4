#include "passes/explain.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "ir/diag.h"
#include "ir/text.h"

namespace sinter {
namespace {

// The names of the rules, each once, in order.
std::vector<std::string> Names(const std::vector<Rule>& rules) {
  std::vector<std::string> names;
  for (const Rule& rule : rules) {
    if (std::find(names.begin(), names.end(), rule.name) == names.end()) names.push_back(rule.name);
  }
  return names;
}

// The op that makes a value, as text; a parameter as its type.
std::string Show(const Graph& graph, ValueId value) {
  const ValueData& data = graph.value(value);
  if (data.def.valid()) return PrintOp(graph, data.def);
  return absl::StrCat("%", data.name, ": ", ToString(data.type, graph.module().dims), ", a parameter");
}

std::string Show(const ParsedRule& rule, const ParsedRule::Product& number) {
  const ParsedRule::Factor& factor = number[0];
  return factor.scalar < 0 ? absl::StrCat("a constant ", factor.number)
                           : absl::StrCat("a constant $", rule.scalars[static_cast<size_t>(factor.scalar)]);
}

std::string Expected(const Graph& graph, const RuleTrace& trace) {
  const ParsedRule& rule = *trace.rule;
  if (trace.expected.value < 0) return Show(rule, trace.expected.number);
  const auto value = static_cast<size_t>(trace.expected.value);
  if (trace.bound.valid()) return absl::StrCat("%", rule.values[value], ", here ", Show(graph, trace.bound));
  return rule.left[static_cast<size_t>(rule.maker[value])].text;
}

std::string Show(const Graph& graph, const RuleTrace& trace) {
  const size_t lines = trace.rule->left.size();
  std::string text = absl::StrCat("  best partial match: ", trace.lines, " of ", lines, " lines, in @", graph.name(),
                                  " from  ", PrintOp(graph, trace.root), "\n");
  if (trace.found.valid()) {
    absl::StrAppend(&text, "    expected  ", Expected(graph, trace), "\n    found     ", Show(graph, trace.found),
                    "\n");
  } else {
    absl::StrAppend(&text, "    not rewritten: ", trace.refusal, "\n");
  }
  return text;
}

absl::StatusOr<std::string> ExplainRule(absl::string_view name, absl::Span<const ParsedRule> rules, Module& module) {
  std::string best = "  no partial match: no op that it could end with is left\n";
  std::optional<size_t> lines;
  for (GraphId id : module.entries()) {
    Graph& graph = module.graph(id);
    RuleTrace trace;
    const std::vector<OpId> order = graph.order();
    for (OpId op : order) {
      for (const ParsedRule& rule : rules) {
        if (rule.rule->name != name || graph.op(op).erased || graph.op(op).kind() != rule.left.back().kind) continue;
        SINTER_RETURN_IF_ERROR(TryRule(graph, rule, op, &trace).status());
      }
    }
    if (trace.rule == nullptr || (lines && trace.lines <= *lines)) continue;
    lines = trace.lines;
    best = Show(graph, trace);
  }
  return best;
}

}  // namespace

absl::Status CheckExplained(absl::string_view name) {
  std::vector<std::string> known;
  for (const PassInfo& pass : AllPasses()) {
    if (pass.rules == nullptr) continue;
    known.emplace_back(pass.name);
    for (std::string& rule : Names(pass.rules())) known.push_back(std::move(rule));
  }
  if (std::find(known.begin(), known.end(), name) != known.end()) return absl::OkStatus();
  const auto nearest = std::min_element(known.begin(), known.end(), [&](const std::string& a, const std::string& b) {
    return EditDistance(name, a) < EditDistance(name, b);
  });
  return absl::OutOfRangeError(
      absl::StrCat("there is no rule \"", name, "\", nor a pass that has rules; the nearest is ", *nearest));
}

absl::StatusOr<std::string> Explain(absl::string_view name, const PassInfo& pass, absl::Span<const RuleCount> counts,
                                    const Module& after) {
  std::string text;
  if (pass.rules == nullptr) return text;
  const std::vector<Rule> rules = pass.rules();
  for (const std::string& rule : Names(rules)) {
    if (name != pass.name && name != rule) continue;
    const auto count = std::find_if(counts.begin(), counts.end(), [&](const RuleCount& c) { return c.rule == rule; });
    if (count == counts.end()) continue;
    SINTER_ASSIGN_OR_RETURN(const std::vector<ParsedRule> parsed, ParseRules(rules));
    const std::unique_ptr<Module> module = after.Clone();
    SINTER_ASSIGN_OR_RETURN(const std::string best, ExplainRule(rule, parsed, *module));
    absl::StrAppend(&text, "rule ", rule, " of ", pass.name, ": rewrote ", count->matched,
                    count->matched == 1 ? " time\n" : " times\n", best);
  }
  return text;
}

}  // namespace sinter
