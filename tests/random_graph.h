// Random well-typed modules for the fuzzer: ops drawn from the whole op table, pieces of models, and the left side of
// every rewrite rule, as it is or changed in one place.
//
// Called by fuzz_case.cc. The same seed draws the same module. What is drawn: modules of the graph stage with one entry
// @main, its dims and the numbers that they are to have in a run, parameters, weights and constants of f32, f16, bf16
// and (rarely) quantized types, states. All values have at most kMaxElems elements.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ir/graph.h"
#include "passes/pass.h"
#include "tests/graph_drawer.h"

namespace sinter {

// The rewrite rules of a list of passes.
struct RuleBook {
  struct Entry {
    Rule rule;
    ParsedRule parsed;  // of `rule`
    size_t name;        // in `names`
  };
  static absl::StatusOr<RuleBook> Of(absl::Span<const PassInfo* const> passes);

  std::vector<std::unique_ptr<Entry>> rules;
  std::vector<std::string> names;             // of rules; variants share one
  std::vector<std::vector<size_t>> variants;  // of each name, in `rules`
};

inline constexpr size_t kMaxRuleNames = 256;

struct DrawStats {
  OpCounts ops = {};
  std::array<int64_t, kMaxRuleNames> planted = {};  // by name of the rule: unchanged left sides
};

// A module and the dims of a run of it, by DimId.
struct RandomGraph {
  std::unique_ptr<Module> module;
  IdMap<DimId, int64_t> dims;
};

absl::StatusOr<RandomGraph> DrawGraph(uint64_t seed, const RuleBook& rules, DrawStats& stats);

// What Rebuild leaves out or changes.
struct GraphEdit {
  std::vector<ValueId> results;                            // what @main returns
  std::vector<bool> as_params = {};                        // by OpId: its results become parameters
  std::vector<bool> kept_dead = {};                        // by OpId: it stays even if the results do not need it
  IdMap<DimId, DimExpr> dims = {};                         // by which symbols are replaced
  std::vector<std::pair<ValueId, ValueId>> replaced = {};  // uses of the first become uses of the second
};

// A copy of a module with one entry @main, without what its results do not need: ops, parameters, bodies. Names stay.
absl::StatusOr<std::unique_ptr<Module>> Rebuild(const Module& module, const GraphEdit& edit);

}  // namespace sinter
