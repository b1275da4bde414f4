// graph_fuzz: random graphs through random pass orders on all targets, against the evaluator. --help says the flags.
//
// Exit codes: 0 nothing was found, 1 a failure (or, in a run of kLongRun graphs or more, a rule that hardly ever
// fired), 2 usage, 70 the fuzzer itself failed.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"
#include "ir/text.h"
#include "tests/fuzzer.h"
#include "tests/shrink.h"

namespace sinter {
namespace {

constexpr int64_t kLongRun = 20000;
constexpr double kRuleRate = 500.0 / 100000;  // what each rule is to fire a graph

struct Flags {
  uint64_t seed = 1;
  int64_t graphs = 2000, first = 0, code_every = 8, max_failures = 1;
  double seconds = 0;
  std::string targets = "all", repro = "repro.sir";
  bool json = false, verbose = false, print = false, in_process = false;
  // Of --replay.
  std::string replay, passes = "O2", dims;
  uint64_t data = 1;
  int threads = 1;
  bool code = false;
};

std::vector<const PassInfo*> EveryPass() {
  std::vector<const PassInfo*> passes;
  for (const PassInfo& pass : AllPasses()) passes.push_back(&pass);
  return passes;
}

// Those of the list that this CPU runs.
absl::StatusOr<std::vector<const Target*>> Targets(const std::string& text) {
  std::vector<const Target*> targets;
  for (const Target& target : AllTargets()) targets.push_back(&target);
  if (text != "all") {
    SINTER_ASSIGN_OR_RETURN(targets, ParseTargets(text));
  }
  std::erase_if(targets, [](const Target* target) {
    if (!HostRuns(*target))
      std::fprintf(stderr, "skipped: this CPU does not run %s\n", std::string(target->name).c_str());
    return !HostRuns(*target);
  });
  if (targets.empty()) return absl::OutOfRangeError("this CPU runs none of these targets");
  return targets;
}

std::vector<std::string> RareRules(const Fuzzer& fuzzer) {
  std::vector<std::string> rare;
  const FuzzStats& stats = fuzzer.stats();
  for (size_t i = 0; i < fuzzer.rules().names.size(); ++i) {
    if (static_cast<double>(stats.fired[i]) < kRuleRate * static_cast<double>(stats.graphs)) {
      rare.push_back(fuzzer.rules().names[i]);
    }
  }
  return rare;
}

std::vector<std::string> OpsNotDrawn(const FuzzStats& stats) {
  std::vector<std::string> missing;
  for (const OpDef& def : AllOps()) {
    if (def.legal != Legal::kLowered && stats.drawn.ops[static_cast<size_t>(def.kind)] == 0)
      missing.emplace_back(def.name);
  }
  return missing;
}

nlohmann::json Report(const Fuzzer& fuzzer, double seconds, int64_t failures) {
  const FuzzStats& stats = fuzzer.stats();
  const FuzzOptions& options = fuzzer.options();
  nlohmann::json report = {
      {"seed", options.seed},
      {"graphs", stats.graphs},
      {"unusable", stats.unusable},
      {"loose", stats.loose},
      {"ops_judged", stats.ops_judged},
      {"ops_tamed", stats.tamed_ops},
      {"plans", stats.plans},
      {"plans_unsupported", stats.plans_unsupported},
      {"compiled", stats.compiled},
      {"failures", failures},
      {"seconds", seconds},
      {"graphs_per_s", static_cast<double>(stats.graphs) / std::max(seconds, 1e-9)},
  };
  for (size_t i = 0; i < options.targets.size(); ++i) {
    report["targets"][std::string(options.targets[i]->name)] = stats.compiled_for[i];
  }
  for (const OpDef& def : AllOps()) {
    if (def.legal != Legal::kLowered)
      report["ops"][std::string(def.name)] = stats.drawn.ops[static_cast<size_t>(def.kind)];
  }
  for (size_t i = 0; i < options.passes.size(); ++i) {
    report["passes"][std::string(options.passes[i]->name)] = {{"runs", stats.pass_runs[i]},
                                                              {"changed", stats.pass_changed[i]}};
  }
  for (size_t i = 0; i < fuzzer.rules().names.size(); ++i) {
    report["rules"][fuzzer.rules().names[i]] = {
        {"planted", stats.drawn.planted[i]}, {"tried", stats.tried[i]}, {"fired", stats.fired[i]}};
  }
  report["rare_rules"] = RareRules(fuzzer);
  report["ops_not_drawn"] = OpsNotDrawn(stats);
  return report;
}

void PrintTable(const nlohmann::json& report) {
  for (const char* key : {"graphs", "unusable", "loose", "ops_judged", "ops_tamed", "plans", "plans_unsupported",
                          "compiled", "failures"}) {
    std::printf("%-20s %10lld\n", key, static_cast<long long>(report[key].get<int64_t>()));
  }
  std::printf("%-20s %10.1f  (%.0f graphs/s)\n", "seconds", report["seconds"].get<double>(),
              report["graphs_per_s"].get<double>());
  const auto column = [](const std::string& head, const nlohmann::json& rows) {
    std::printf("\n%s\n", head.c_str());
    for (const auto& [name, value] : rows.items()) {
      std::string line = absl::StrFormat("  %-22s", name);
      if (value.is_number()) absl::StrAppendFormat(&line, " %10d", value.get<int64_t>());
      for (const auto& [what, count] : value.items()) {
        if (value.is_object()) absl::StrAppendFormat(&line, " %10d %s", count.get<int64_t>(), what);
      }
      std::printf("%s\n", line.c_str());
    }
  };
  column("compiled for", report["targets"]);
  column("ops drawn", report["ops"]);
  column("passes", report["passes"]);
  column("rules", report["rules"]);
  const auto say = [](const char* what, const nlohmann::json& names) {
    if (names.empty()) return;
    std::printf("\n%s: %s\n", what, absl::StrJoin(names.get<std::vector<std::string>>(), ", ").c_str());
  };
  say("rules that fired less than 500 times in 100,000 graphs", report["rare_rules"]);
  say("ops that were never drawn (they need a recipe in random_ops.cc)", report["ops_not_drawn"]);
}

absl::StatusOr<int> Replay(const Flags& flags) {
  SINTER_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(flags.replay));
  const absl::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  FuzzInput input;
  SINTER_ASSIGN_OR_RETURN(input.module, Parse(text, flags.replay));
  for (const DimSymbol& symbol : input.module->dims.symbols()) input.dims.Add(symbol.min);
  for (absl::string_view part : absl::StrSplit(flags.dims, ',', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> dim = absl::StrSplit(part, absl::MaxSplits('=', 1));
    const DimId id = input.module->dims.Find(dim.first);
    if (!id.valid() || !absl::SimpleAtoi(dim.second, &input.dims[id])) {
      return absl::OutOfRangeError(absl::StrCat("--dims: expected NAME=N of the module; found ", part));
    }
  }
  input.data_seed = flags.data;
  SINTER_ASSIGN_OR_RETURN(input.plan.passes, ParsePipeline(flags.passes, input.module->stage));
  SINTER_ASSIGN_OR_RETURN(const auto targets, Targets(flags.targets));
  input.plan.target = targets.back();
  input.plan.compile = flags.code;
  input.plan.threads = flags.threads;
  const Outcome outcome = flags.in_process ? TryInput(input) : TryInputApart(input);
  const char* const said[] = {"the same", "unsupported", "FAILED"};
  std::printf("%s%s%s\n%s\n", said[static_cast<int>(outcome.verdict)], outcome.where.empty() ? "" : ": ",
              outcome.where.c_str(), outcome.message.c_str());
  return outcome.verdict == Verdict::kFailed ? 1 : 0;
}

absl::Status SaveFailure(FuzzFailure failure, const std::string& path) {
  std::fprintf(stderr, "graph %lld FAILED: %s\n%s\nshrinking...\n", static_cast<long long>(failure.graph),
               failure.outcome.where.c_str(), failure.outcome.message.c_str());
  const size_t before = failure.input.module->FindGraph("main")->order().size();
  const FuzzInput small = Shrink(std::move(failure.input), failure.outcome, TryInputApart);
  const std::string text = ReproText(small, failure.outcome, path);
  std::fprintf(stderr, "%zu ops of %zu remain\n%s", small.module->FindGraph("main")->order().size(), before,
               text.c_str());
  return WriteFile(path, text);
}

absl::StatusOr<int> Fuzz(const Flags& flags) {
  FuzzOptions options{.seed = flags.seed, .first = flags.first, .graphs = flags.graphs, .seconds = flags.seconds};
  options.code_every = flags.code_every;
  options.passes = EveryPass();
  SINTER_ASSIGN_OR_RETURN(options.targets, Targets(flags.targets));
  const bool terminal = isatty(2) == 1;
  options.done = [terminal](int64_t at) {
    if (terminal && at % 100 == 0) std::fprintf(stderr, "\r%lld", static_cast<long long>(at));
  };
  if (flags.verbose) {
    options.unsupported = [](int64_t at, const Outcome& outcome) {
      std::fprintf(stderr, "graph %lld: %s: %s\n", static_cast<long long>(at), outcome.where.c_str(),
                   outcome.message.c_str());
    };
  }
  SINTER_ASSIGN_OR_RETURN(const std::unique_ptr<Fuzzer> fuzzer, Fuzzer::Create(std::move(options)));
  for (int64_t i = flags.first; flags.print && i < flags.first + flags.graphs; ++i) {
    const std::optional<FuzzInput> input = fuzzer->Draw(i);
    const Outcome outcome = {.where = absl::StrCat("graph ", i), .message = "not run"};
    if (input) std::printf("%s\n", ReproText(*input, outcome, "repro.sir").c_str());
  }
  if (flags.print) return 0;
  const auto start = std::chrono::steady_clock::now();
  int64_t failures = 0;
  for (int64_t next = flags.first; next < flags.first + flags.graphs;) {
    std::optional<FuzzFailure> failure;
    if (flags.in_process) {
      failure = fuzzer->RunGraph(next++);
    } else {
      SINTER_ASSIGN_OR_RETURN(failure, fuzzer->Run(next));
      if (!failure) break;
      next = failure->graph + 1;
    }
    if (!failure) continue;
    ++failures;
    const std::string path = failures == 1 ? flags.repro : absl::StrCat(flags.repro, ".", failures);
    SINTER_RETURN_IF_ERROR(SaveFailure(*std::move(failure), path));
    if (failures >= flags.max_failures) break;
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (terminal) std::fprintf(stderr, "\r");
  const nlohmann::json report = Report(*fuzzer, seconds, failures);
  if (flags.json) {
    std::printf("%s\n", report.dump(2).c_str());
  } else {
    PrintTable(report);
  }
  const bool rare = fuzzer->stats().graphs >= kLongRun && !report["rare_rules"].empty();
  return failures > 0 || rare ? 1 : 0;
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App program(
      "Draws random graphs with planted near-patterns of every rewrite rule, runs random legal pass orders for random\n"
      "targets, and compares what comes out with the evaluator. A failure is shrunk and written as text.");
  program.name("graph_fuzz");
  program.add_option("--graphs", flags.graphs, "How many graphs")->capture_default_str()->check(CLI::NonNegativeNumber);
  program.add_option("--seed", flags.seed, "What all graphs are drawn from")->capture_default_str();
  program.add_option("--first", flags.first, "The number of the first graph; graph i of a seed is always the same")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  program.add_option("--seconds", flags.seconds, "Stop after so long (0: no limit)")->capture_default_str();
  program
      .add_option("--code-every", flags.code_every,
                  "Every so many graphs one becomes code and runs (0: none; the\n"
                  "evaluator runs what the passes make of all others)")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  program.add_option("--targets", flags.targets, "all that this CPU runs, native, or names separated by commas")
      ->capture_default_str();
  program.add_option("--repro", flags.repro, "Where the text of a failure goes")
      ->type_name("PATH")
      ->capture_default_str();
  program.add_option("--max-failures", flags.max_failures, "Stop after so many; those after the first go to PATH.N")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  program.add_flag("--json", flags.json, "The report as JSON");
  program.add_flag("--verbose", flags.verbose, "Say of each graph that the compiler cannot handle why");
  program.add_flag("--print", flags.print, "Print the graphs instead of running them");
  program.add_flag("--in-process", flags.in_process, "No child processes: for a debugger");
  CLI::Option_group* replay =
      program.add_option_group("Replay", "Run one text again, as the first line of a repro.sir says");
  replay->add_option("--replay", flags.replay, "The text")->type_name("FILE.sir");
  replay->add_option("--passes", flags.passes, "Passes, separated by commas")->capture_default_str();
  replay->add_option("--dims", flags.dims, "Of the run: T=3,P=2 (default: the smallest)");
  replay->add_option("--data", flags.data, "What inputs and weights are drawn from")->capture_default_str();
  replay->add_flag("--code", flags.code, "Make code and run it, too");
  replay->add_option("--threads", flags.threads, "With --code: run with so many, too")->check(CLI::Range(1, 64));
  CLI11_PARSE(program, argc, argv);
  const absl::StatusOr<int> code = flags.replay.empty() ? Fuzz(flags) : Replay(flags);
  if (code.ok()) return *code;
  std::fprintf(stderr, "graph_fuzz: %s\n", std::string(code.status().message()).c_str());
  return absl::IsOutOfRange(code.status()) || absl::IsNotFound(code.status()) ? 2 : 70;
}

}  // namespace
}  // namespace sinter

int main(int argc, char** argv) { return sinter::Main(argc, argv); }
