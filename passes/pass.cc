#include "passes/pass.h"

#include <limits>

#include "base/status.h"

namespace sinter {
namespace {

constexpr PassInfo kPasses[] = {
#define PASS(function, name, from, to, doc) {name, function, Stage::from, Stage::to, doc, nullptr},
#define ROUNDING_PASS(function, name, doc) {name, function, Stage::kGraph, Stage::kGraph, doc, nullptr, true},
#define RULES(function, name, doc) {name, RunRules<function>, Stage::kGraph, Stage::kGraph, doc, function},
#define PASS_WITH_RULES(function, rules, name, doc) {name, function, Stage::kGraph, Stage::kGraph, doc, rules},
#define PIPELINE(name, text)
#include "passes/passes.inc"
#undef PASS
#undef ROUNDING_PASS
#undef RULES
#undef PASS_WITH_RULES
#undef PIPELINE
};

struct PipelineRow {
  absl::string_view name;
  const char* text;
};

constexpr PipelineRow kPipelines[] = {
#define PASS(function, name, from, to, doc)
#define ROUNDING_PASS(function, name, doc)
#define RULES(function, name, doc)
#define PASS_WITH_RULES(function, rules, name, doc)
#define PIPELINE(name, text) {#name, text},
#include "passes/passes.inc"
#undef PASS
#undef ROUNDING_PASS
#undef RULES
#undef PASS_WITH_RULES
#undef PIPELINE
};

}  // namespace

absl::StatusOr<std::vector<ParsedRule>> ParseRules(const std::vector<Rule>& rules) {
  std::vector<ParsedRule> parsed;
  for (const Rule& rule : rules) {
    SINTER_ASSIGN_OR_RETURN(parsed.emplace_back(), ParseRule(rule));
  }
  return parsed;
}

int64_t WeightBytes(const Graph& graph) {
  int64_t bytes = 0;
  for (OpId op : graph.order()) {
    if (graph.op(op).kind() != OpKind::kWeight) continue;
    const absl::StatusOr<int64_t> size = MaxBytes(graph.type(graph.op(op).results[0]), graph.module().dims);
    if (!size.ok() || *size > std::numeric_limits<int64_t>::max() - bytes) return std::numeric_limits<int64_t>::max();
    bytes += *size;
  }
  return bytes;
}

absl::Span<const PassInfo> AllPasses() { return kPasses; }

const PassInfo* FindPass(absl::string_view name) {
  for (const PassInfo& pass : kPasses) {
    if (pass.name == name) return &pass;
  }
  return nullptr;
}

std::vector<absl::string_view> PipelineNames() {
  std::vector<absl::string_view> names;
  for (const PipelineRow& row : kPipelines) names.push_back(row.name);
  return names;
}

const char* FindPipeline(absl::string_view name) {
  for (const PipelineRow& row : kPipelines) {
    if (row.name == name) return row.text;
  }
  return nullptr;
}

}  // namespace sinter
