// Pipelines as text, and the manager that runs them with its instruments.
//
//   canonicalize,dots-to-gemm,select-kernels        passes by name; a named pipeline (O0, O1, O2) may stand for its
//   text; "" is no pass
//
// ParsePipeline refuses, before anything runs, an unknown name (with the nearest one) and a pass whose stage is not the
// one that the passes before it lead to (kOutOfRange: usage).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "ir/eval.h"
#include "passes/pass.h"

namespace sinter {

absl::StatusOr<std::vector<const PassInfo*>> ParsePipeline(absl::string_view text, Stage from);

struct PipelineOptions {
  std::vector<std::string> disable;  // PASS or PASS:n (its n-th occurrence, from 1)
  std::string stop_after;            // PASS or PASS:n; "" runs all
  std::string print_after;           // "", "changed", "all" or a pass; printed to `out`
  std::string dump_dir;  // "" for none: 000.import.sir always, NNN.PASS.sir for each pass that changed something
  std::string explain;   // a rule, or a pass that has rules: see PassRecord::explanation
  bool verify_each = true;
  bool check_each = false;                     // the evaluator before and after each pass on random inputs
  bool check_changed = false;                  // a hash proves that "changed" is true
  WeightReader weights;                        // for check_each; when empty, weights are random, too
  std::string repro_path = "repro.sir";        // written on a failure; its first line is the command that replays it
  std::string command = "sinter opt";          // for that line
  std::function<void(absl::string_view)> out;  // print_after
  std::function<void(absl::string_view)> progress;  // the pass about to run
};

struct PassRecord {
  const PassInfo* pass;
  bool changed = false;
  double milliseconds = 0;
  int64_t ops_before = 0, ops_after = 0;  // of the entries
  std::vector<RuleCount> rules = {};      // how often each rule was tried and matched, and how long that took
  std::vector<std::string> notes = {};    // what else the pass has to say
  std::string explanation = {};           // of those rules that PipelineOptions::explain means
};

// Runs the passes in order; a disabled pass that would advance the stage is refused before anything runs. kAborted:
// --check-each found a difference (the message names pass, entry and value). On any failure repro.sir is written and
// the message names it.
absl::StatusOr<std::vector<PassRecord>> RunPipeline(Module& module, absl::Span<const PassInfo* const> passes,
                                                    PassContext& context, const PipelineOptions& options);

// A table for people of what each pass did and how long it took (--time, --stats).
std::string FormatRecords(absl::Span<const PassRecord> records, bool time, bool stats);

// PASSES.md.
std::string PassesMarkdown();

}  // namespace sinter
