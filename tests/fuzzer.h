// The fuzzing loop: graph after graph is drawn, made usable, and run by several plans. See graph_fuzz.cc, its program.
//
// Graph number i of a seed, its data and its plans depend on nothing else, so any of them can be run again alone. Work
// is done in a child process, and what it does is noted in memory that it shares with its parent: a crash or a hang is
// a failure like any other, with the graph and the phase known.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/fuzz_case.h"
#include "tests/random_graph.h"

namespace sinter {

inline constexpr size_t kMaxPasses = 64;
inline constexpr size_t kMaxTargets = 16;

// Trivially copyable: it lies in shared memory.
struct FuzzStats {
  int64_t graphs = 0, unusable = 0, loose = 0, tamed_ops = 0, ops_judged = 0;
  int64_t plans = 0, plans_unsupported = 0, compiled = 0;
  DrawStats drawn;
  std::array<int64_t, kMaxRuleNames> tried = {}, fired = {};
  std::array<int64_t, kMaxPasses> pass_runs = {}, pass_changed = {};  // by place in FuzzOptions::passes
  std::array<int64_t, kMaxTargets> compiled_for = {};                 // by place in FuzzOptions::targets
};

struct FuzzOptions {
  uint64_t seed = 1;
  int64_t first = 0, graphs = 2000;
  double seconds = 0;                   // stop after so long; 0: no limit
  int64_t code_every = 8;               // every so many graphs one is compiled and run
  std::vector<const PassInfo*> passes;  // at least those of the pipeline O0
  std::vector<const Target*> targets;   // that this CPU can run
  // Called in the child process with the number of a graph; both may be empty.
  std::function<void(int64_t)> done;
  std::function<void(int64_t, const Outcome&)> unsupported;
};

// A graph with one plan: what can fail, be shrunk and be replayed.
struct FuzzInput {
  std::unique_ptr<Module> module;
  IdMap<DimId, int64_t> dims;
  uint64_t data_seed = 0;
  FuzzPlan plan;
};

struct FuzzFailure {
  int64_t graph = 0;
  Outcome outcome;
  FuzzInput input;
};

class Fuzzer {
 public:
  static absl::StatusOr<std::unique_ptr<Fuzzer>> Create(FuzzOptions options);

  // Runs graphs from `first` on in child processes; the first failure, nothing when there is none.
  absl::StatusOr<std::optional<FuzzFailure>> Run(int64_t first);
  // One graph, in this process.
  std::optional<FuzzFailure> RunGraph(int64_t index);

  // Graph number `index` as it is judged, with its first plan; nothing when it cannot be made usable.
  std::optional<FuzzInput> Draw(int64_t index);

  const FuzzStats& stats() const;
  const FuzzOptions& options() const { return options_; }
  const RuleBook& rules() const { return rules_; }

 private:
  struct Shared;
  struct Prepared {
    RandomGraph graph;
    std::unique_ptr<FuzzCase> judge;  // of graph.module; null when it could not be made usable
    std::vector<FuzzPlan> plans;
  };

  Fuzzer(FuzzOptions options, RuleBook rules);
  Prepared Prepare(int64_t index);
  std::vector<FuzzPlan> DrawPlans(int64_t index) const;
  std::vector<const PassInfo*> Lowering(Dice& dice) const;
  FuzzObserver Observer();
  FuzzInput InputOf(Prepared prepared, size_t plan, int64_t index) const;

  const FuzzOptions options_;
  const RuleBook rules_;
  const std::vector<const PassInfo*> least_, usual_;  // the passes of O0, and those of O2
  struct Unmap {
    void operator()(Shared* shared) const;
  };
  std::unique_ptr<Shared, Unmap> shared_;
};

// Runs one input in this process. kUnsupported, too, for an input that is ill-formed or has no meaning.
Outcome TryInput(const FuzzInput& input, const FuzzObserver& observer = {});
// The same in a child process: a crash or a hang is an outcome.
Outcome TryInputApart(const FuzzInput& input);

// The text of a repro.sir: the command that replays it, what failed, the module.
std::string ReproText(const FuzzInput& input, const Outcome& outcome, absl::string_view path);

}  // namespace sinter
