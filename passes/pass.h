// Passes: a pass is a function, or a function that returns rewrite rules, and a row of passes.inc.
//
// A pass rewrites a module in place and returns whether it changed something. It may fail only on what it cannot handle
// (kUnimplemented, naming every such op at once) or on an internal error; then the module is no longer used. Passes are
// pure: the same module and context give the same result.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "backend/target.h"
#include "ir/graph.h"
#include "passes/rule.h"

namespace sinter {

struct PassContext {
  std::vector<const Target*> targets;  // weakest first, at least one
  bool fast = false;                   // rows and weights may be rounded to the weights' precision
  // Of the pass that runs, for --stats:
  std::vector<RuleCount> rule_counts = {};
  std::vector<std::string> notes = {};
};

using PassFunction = absl::StatusOr<bool> (*)(Module&, PassContext&);

struct PassInfo {
  absl::string_view name;
  PassFunction run;
  Stage from, to;
  absl::string_view doc;
  std::vector<Rule> (*rules)();  // that the pass applies; null: none
  bool rounds = false;           // the pass may round values: the module means the same but for that
};

#define PASS(function, name, from, to, doc) absl::StatusOr<bool> function(Module& module, PassContext& context);
#define ROUNDING_PASS(function, name, doc) PASS(function, name, kGraph, kGraph, doc)
#define RULES(function, name, doc) std::vector<Rule> function();
#define PASS_WITH_RULES(function, rules, name, doc)                    \
  absl::StatusOr<bool> function(Module& module, PassContext& context); \
  std::vector<Rule> rules();
#define PIPELINE(name, text)
#include "passes/passes.inc"
#undef PASS
#undef ROUNDING_PASS
#undef RULES
#undef PASS_WITH_RULES
#undef PIPELINE

absl::StatusOr<std::vector<ParsedRule>> ParseRules(const std::vector<Rule>& rules);

// Applies the rules that a function returns; they are read once.
template <std::vector<Rule> (*Rules)()>
absl::StatusOr<bool> RunRules(Module& module, PassContext& context) {
  static const auto* const rules = new std::vector<Rule>(Rules());
  static const auto* const parsed = new absl::StatusOr<std::vector<ParsedRule>>(ParseRules(*rules));
  if (!parsed->ok()) return parsed->status();
  return ApplyRules(**parsed, module, context.rule_counts);
}

// Bytes of weights that caches do not hold. From there on reading them takes the time of a few rows, and work saved is
// worth kernels of its own.
inline constexpr int64_t kStreamedBytes = int64_t{32} << 20;
// The bytes of the weights that an entry reads, as the file stores them; INT64_MAX for more than that.
int64_t WeightBytes(const Graph& graph);

absl::Span<const PassInfo> AllPasses();
const PassInfo* FindPass(absl::string_view name);
// The named pipelines, in the order of their rows.
std::vector<absl::string_view> PipelineNames();
// The text of a named pipeline ("O2"); nullptr when there is none.
const char* FindPipeline(absl::string_view name);

}  // namespace sinter
