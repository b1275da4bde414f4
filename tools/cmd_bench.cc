// sinter bench: how fast a model takes a prompt (pp) and makes tokens (tg), and what each pass contributes (--ablate).
//
// Prompts are seeded random ids, and so are the ids that decoding is fed: nothing is sampled, and every run of a model
// sees the same text. Each figure is the median over -r repetitions after at least one that warms up.
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/escape.h"
#include "base/file.h"
#include "base/heap.h"
#include "base/limits.h"
#include "base/status.h"
#include "runtime/cpu.h"
#include "runtime/workspace.h"
#include "tools/command.h"
#include "tools/compile_flags.h"
#include "tools/compile_source.h"
#include "tools/console.h"
#include "tools/json.h"

namespace sinter {
namespace {

// Repetitions of the first moments do not count: threads that wake together share a core until the system has noticed.
constexpr double kWarmSeconds = 0.1;
constexpr int64_t kDefaultPrompt = 256, kDefaultTokens = 32;

struct BenchFlags {
  std::vector<std::string> models, ablate;
  std::vector<int64_t> prompts, tokens;
  std::vector<int> threads;
  int reps = 5;
  MemoryFlags memory;
  PinFlag pin;
  std::string format = "md", command;
  CompileFlags compile;
};

// One line of the report; the columns of every format, in this order.
struct Row {
  std::string model, test;
  int64_t prompt, context;
  int threads;
  std::string target;
  double tokens_per_s, stddev;
  double p50_ms, p99_ms;  // of a token's time, over all repetitions; 0 for prompts
  int reps;
  std::string ablate;
  double ratio;
  double logits_err;
  int64_t steps, barriers;
  int64_t arena_bytes, kv_bytes_per_token;
  double heap_bytes_per_token;
  int64_t peak_rss_bytes;
  double load_s;  // from the path to a model that can run
};

Json ToJson(const Row& row) {
  return {{"model", row.model},
          {"test", row.test},
          {"prompt", row.prompt},
          {"context", row.context},
          {"threads", row.threads},
          {"target", row.target},
          {"tokens_per_s", row.tokens_per_s},
          {"stddev", row.stddev},
          {"p50_ms", row.p50_ms},
          {"p99_ms", row.p99_ms},
          {"reps", row.reps},
          {"ablate", row.ablate},
          {"ratio", row.ratio},
          {"logits_err", row.logits_err},
          {"steps", row.steps},
          {"barriers", row.barriers},
          {"arena_bytes", row.arena_bytes},
          {"kv_bytes_per_token", row.kv_bytes_per_token},
          {"heap_bytes_per_token", row.heap_bytes_per_token},
          {"peak_rss_bytes", row.peak_rss_bytes},
          {"load_s", row.load_s}};
}

// Four digits that count, and never an exponent where the figure is large.
std::string FigureText(double value) { return absl::StrFormat(std::abs(value) >= 1000 ? "%.0f" : "%.4g", value); }

std::string CellText(const Json& cell, bool markdown) {
  if (cell.is_number_float()) return FigureText(cell.get<double>());
  if (!cell.is_string()) return cell.dump();
  const std::string text = cell.get<std::string>();
  if (markdown) return MarkdownCell(text);
  std::string shown = Escaped(text);
  if (shown.find_first_of(",\"") == std::string::npos) return shown;
  return absl::StrCat("\"", absl::StrReplaceAll(shown, {{"\"", "\"\""}}), "\"");
}

// What comes before, between and after cells.
void PrintTextRow(const Row& row, bool markdown, bool header) {
  const Json json = ToJson(row);
  std::string names, rule, cells;
  for (const auto& [name, cell] : json.items()) {
    const char* const between = markdown ? " | " : ",";
    absl::StrAppend(&names, names.empty() ? (markdown ? "| " : "") : between, name);
    absl::StrAppend(&rule, "|---");
    absl::StrAppend(&cells, cells.empty() ? (markdown ? "| " : "") : between, CellText(cell, markdown));
  }
  const char* const end = markdown ? " |\n" : "\n";
  if (header) std::fputs(absl::StrCat(names, end, markdown ? absl::StrCat(rule, "|\n") : "").c_str(), stdout);
  std::fputs(absl::StrCat(cells, end).c_str(), stdout);
  std::fflush(stdout);
}

// Forgets the largest resident size so far, where the system lets a process do so.
void ResetPeak() {
  malloc_trim(0);
  if (FILE* file = std::fopen("/proc/self/clear_refs", "w")) {
    std::fputs("5", file);
    std::fclose(file);
  }
}

int64_t PeakBytes() {
  const absl::StatusOr<std::string> status = ReadFile("/proc/self/status");
  if (!status.ok()) return 0;
  for (absl::string_view line : absl::StrSplit(*status, '\n')) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, absl::ByAnyChar("\t "), absl::SkipEmpty());
    int64_t kilobytes;
    if (words.size() > 1 && words[0] == "VmHWM:" && absl::SimpleAtoi(words[1], &kilobytes)) return kilobytes * 1024;
  }
  return 0;
}

struct Spread {
  double median, stddev;
};
Spread SpreadOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  double mean = 0, square = 0;
  for (double v : values) mean += v / static_cast<double>(n);
  for (double v : values) square += (v - mean) * (v - mean);
  return {n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2,
          n > 1 ? std::sqrt(square / static_cast<double>(n - 1)) : 0};
}

// The value below which `part` of them lie (the nearest rank); 0 of none.
double PercentileOf(std::vector<double> values, double part) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(part * static_cast<double>(values.size()));
  return values[static_cast<size_t>(std::max(rank, 1.0)) - 1];
}

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

// One module on one number of threads.
class Bench {
 public:
  static absl::StatusOr<Bench> Open(const std::shared_ptr<const CompiledModule>& module, int threads,
                                    absl::Span<const int> cpus) {
    Bench bench;
    SINTER_ASSIGN_OR_RETURN(bench.workspace_, Workspace::Open(module, threads, cpus));
    SINTER_ASSIGN_OR_RETURN(bench.sequence_, Sequence::Open(module));
    if (bench.workspace_->vocabulary() == 0) {
      return absl::UnimplementedError(absl::StrCat(module->path(), ": entry @main is no language model"));
    }
    std::mt19937 random(1);
    const int64_t capacity = bench.sequence_->capacity();
    for (int64_t i = 0; i < capacity; ++i) {
      bench.ids_.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(bench.workspace_->vocabulary())));
    }
    bench.logits_.resize(static_cast<size_t>(bench.workspace_->vocabulary()));
    bench.token_seconds_.reserve(static_cast<size_t>(capacity));
    return bench;
  }

  int64_t capacity() const { return sequence_->capacity(); }

  // The prompt anew; then `tokens` steps of one token. `rows`, when given, gets the logits of the prompt's last
  // position and of each step.
  absl::Status Prompt(int64_t prompt, std::vector<float>* rows = nullptr) {
    SINTER_RETURN_IF_ERROR(sequence_->Truncate(0));
    if (prompt == 0) return absl::OkStatus();
    SINTER_RETURN_IF_ERROR(workspace_->Prefill(*sequence_, absl::MakeConstSpan(ids_).first(static_cast<size_t>(prompt)),
                                               absl::MakeSpan(logits_)));
    if (rows != nullptr) rows->insert(rows->end(), logits_.begin(), logits_.end());
    return absl::OkStatus();
  }
  absl::Status Decode(int64_t tokens, std::vector<float>* rows = nullptr) {
    constexpr int32_t kRow = 0;
    token_seconds_.clear();
    for (int64_t i = 0; i < tokens; ++i) {
      const auto start = std::chrono::steady_clock::now();
      const absl::Span<const int32_t> id(&ids_[static_cast<size_t>(sequence_->position())], 1);
      SINTER_RETURN_IF_ERROR(workspace_->Step(*sequence_, id, {&kRow, 1}, absl::MakeSpan(logits_)));
      token_seconds_.push_back(Seconds(start));
      if (rows != nullptr) rows->insert(rows->end(), logits_.begin(), logits_.end());
    }
    return absl::OkStatus();
  }

  // Seconds of a prompt, or of decoding `tokens` after it; adds to `heap` what it grew by.
  absl::StatusOr<double> Once(int64_t prompt, int64_t tokens, int64_t& heap) {
    auto start = std::chrono::steady_clock::now();
    int64_t before = HeapInUse();
    SINTER_RETURN_IF_ERROR(Prompt(prompt));
    if (tokens > 0) {
      before = HeapInUse();
      start = std::chrono::steady_clock::now();
      SINTER_RETURN_IF_ERROR(Decode(tokens));
    }
    const double seconds = Seconds(start);
    heap = std::max(heap, HeapInUse() - before);
    return seconds;
  }

  // Fills in the measured columns of a row: decoding when tokens > 0, else the prompt. `base`, when given, is measured
  // in turn with it, so that what else happens on the machine happens to both.
  absl::Status Measure(int64_t prompt, int64_t tokens, int reps, Bench* base, Row& row) {
    ResetPeak();
    std::vector<double> rates, ratios, of_tokens;
    rates.reserve(static_cast<size_t>(reps));
    ratios.reserve(static_cast<size_t>(reps));
    const int64_t count = tokens > 0 ? tokens : prompt;
    int64_t heap = 0, unused = 0;
    for (const auto start = std::chrono::steady_clock::now(); Seconds(start) < kWarmSeconds;) {
      if (base != nullptr) SINTER_RETURN_IF_ERROR(base->Once(prompt, tokens, unused).status());
      SINTER_RETURN_IF_ERROR(Once(prompt, tokens, unused).status());
    }
    for (int rep = 0; rep < reps; ++rep) {
      double of_base = 0;
      if (base != nullptr) {
        SINTER_ASSIGN_OR_RETURN(of_base, base->Once(prompt, tokens, unused));
      }
      SINTER_ASSIGN_OR_RETURN(const double seconds, Once(prompt, tokens, heap));
      rates.push_back(static_cast<double>(count) / seconds);
      ratios.push_back(base != nullptr ? of_base / seconds : 1);
      if (tokens > 0) of_tokens.insert(of_tokens.end(), token_seconds_.begin(), token_seconds_.end());
    }
    const Spread spread = SpreadOf(rates);
    row.tokens_per_s = spread.median;
    row.stddev = spread.stddev;
    row.p50_ms = 1e3 * PercentileOf(of_tokens, 0.50);
    row.p99_ms = 1e3 * PercentileOf(of_tokens, 0.99);
    row.ratio = SpreadOf(ratios).median;
    row.heap_bytes_per_token = static_cast<double>(heap) / static_cast<double>(count);
    row.peak_rss_bytes = PeakBytes();
    CountSteps(tokens > 0 ? 1 : prompt, row);
    return absl::OkStatus();
  }

 private:
  // The steps of the entry that takes so many tokens at once.
  void CountSteps(int64_t tokens, Row& row) const {
    std::vector<int64_t> dims(workspace_->module().dims().size(), -1);
    const std::vector<std::vector<int64_t>> shapes = {{tokens}, {tokens}, {1}};  // ids, positions, wanted rows
    const LoadedEntry* entry = workspace_->module().FindEntry("main", shapes, dims);
    if (entry == nullptr) return;
    row.steps = static_cast<int64_t>(entry->steps.size());
    row.barriers =
        std::count_if(entry->steps.begin(), entry->steps.end(), [](const auto& step) { return step.barrier; });
  }

  std::unique_ptr<Workspace> workspace_;
  std::unique_ptr<Sequence> sequence_;
  std::vector<int32_t> ids_;
  std::vector<float> logits_;
  std::vector<double> token_seconds_;  // of the last Decode
};

// The largest difference, relative to the largest logit.
double LogitsError(const std::vector<float>& expected, const std::vector<float>& found) {
  double largest = 0, difference = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
    difference = std::max(difference, std::abs(static_cast<double>(expected[i]) - found[i]));
  }
  return largest > 0 ? difference / largest : 0;
}

// What an ablation leaves out. An optional pass leads from a stage to itself: without it the pipeline still chains.
struct Ablation {
  std::string name;
  std::vector<std::string> disable;
};

// Loops of dot products take minutes a token where the weights have more bytes than this.
constexpr uint64_t kMostLoopBytes = uint64_t{256} << 20;

absl::StatusOr<std::vector<Ablation>> Ablations(const BenchFlags& flags, bool large) {
  std::vector<Ablation> ablations = {{"none", {}}};
  if (flags.ablate.empty()) return ablations;
  SINTER_ASSIGN_OR_RETURN(const auto passes, PassesFrom(flags.compile, Stage::kGraph));
  std::vector<std::string> optional;
  for (const PassInfo* pass : passes) {
    const std::string name(pass->name);
    const bool known = std::find(optional.begin(), optional.end(), name) != optional.end();
    const bool kept = large && name == "dots-to-gemm";
    if (pass->from == pass->to && !known && !kept) optional.push_back(name);
  }
  for (const std::string& asked : flags.ablate) {
    if (asked == "all") {
      ablations.push_back({"all", optional});
      for (const std::string& pass : optional) ablations.push_back({pass, {pass}});
    } else if (std::find(optional.begin(), optional.end(), asked) != optional.end()) {
      ablations.push_back({asked, {asked}});
    } else if (asked != "none") {
      return absl::OutOfRangeError(absl::StrCat("--ablate: the pipeline has no optional pass \"", asked,
                                                "\"; it has: ", absl::StrJoin(optional, ", ")));
    }
  }
  return ablations;
}

class Report {
 public:
  explicit Report(const std::string& format) : format_(format) {}
  void Add(const Row& row) {
    if (format_ == "json") {
      rows_.push_back(ToJson(row));
    } else {
      PrintTextRow(row, format_ == "md", first_);
    }
    first_ = false;
  }
  // Also before an error: what was measured until then is not lost.
  absl::Status Finish() {
    if (format_ != "json" || first_) return FlushStdout();
    return WriteResult("", JsonText(rows_));
  }

 private:
  std::string format_;
  bool first_ = true;
  Json rows_ = Json::array();
};

absl::Status BenchModel(const BenchFlags& flags, const std::string& path, const std::vector<int>& threads,
                        Report& report) {
  const auto opening = std::chrono::steady_clock::now();
  SINTER_ASSIGN_OR_RETURN(const auto whole, OpenExecutable(path, flags.compile, flags.command));
  double load_s = Seconds(opening);
  uint64_t weights_bytes = 0;
  for (const fbs::Weight* weight : *whole->metadata().weights()) weights_bytes += weight->bytes();
  SINTER_ASSIGN_OR_RETURN(const std::vector<Ablation> ablations, Ablations(flags, weights_bytes > kMostLoopBytes));
  if (IsCompiled(path) && ablations.size() > 1) {
    return absl::OutOfRangeError(absl::StrCat(path, " is compiled already: --ablate needs the model"));
  }
  if (ablations.size() > 1 && weights_bytes > kMostLoopBytes) {
    Note("dots-to-gemm stays on: a model of this size takes minutes a token without it");
  }
  std::vector<float> baseline;
  for (const Ablation& ablation : ablations) {
    CompileFlags compile = flags.compile;
    compile.disable.insert(compile.disable.end(), ablation.disable.begin(), ablation.disable.end());
    auto module = whole;
    if (!ablation.disable.empty()) {
      const auto reopening = std::chrono::steady_clock::now();
      SINTER_ASSIGN_OR_RETURN(module, OpenExecutable(path, compile, flags.command));
      load_s = Seconds(reopening);
    }
    const int most_threads = *std::max_element(threads.begin(), threads.end());
    std::vector<MemoryNeed> beside;  // what it is compared with runs in turn with it
    if (module != whole) beside.push_back(NeedToRun(*whole, most_threads, WeightsPlace::kMemory));
    SINTER_RETURN_IF_ERROR(Prepare(*module, path, flags.memory, most_threads, beside).status());
    for (int thread_count : threads) {
      SINTER_ASSIGN_OR_RETURN(Bench bench, Bench::Open(module, thread_count, flags.pin.cpus));
      std::optional<Bench> base;
      if (!ablation.disable.empty()) {
        SINTER_ASSIGN_OR_RETURN(base, Bench::Open(whole, thread_count, flags.pin.cpus));
      }
      std::vector<int64_t> prompts = flags.prompts, tokens = flags.tokens;
      if (prompts.empty()) prompts = {std::min(kDefaultPrompt, std::max<int64_t>(1, bench.capacity() / 2))};
      if (tokens.empty()) tokens = {std::min(kDefaultTokens, bench.capacity() / 4)};
      const int64_t longest_prompt = *std::max_element(prompts.begin(), prompts.end());
      const int64_t most_tokens = *std::max_element(tokens.begin(), tokens.end());
      if (longest_prompt > bench.capacity() || most_tokens > bench.capacity() - longest_prompt) {
        return absl::OutOfRangeError(absl::StrCat(path, ": a prompt of ", longest_prompt, " and ", most_tokens,
                                                  " tokens after it are more than the context of ", bench.capacity(),
                                                  "; give smaller -p and -n", MoreContext(*module, path)));
      }
      Row row = {path, "", 0, bench.capacity(), thread_count, std::string(module->target())};
      row.load_s = load_s;
      row.reps = flags.reps;
      row.ablate = ablation.name;
      row.arena_bytes = module->metadata().arena_bytes();
      row.kv_bytes_per_token = KvBytesPerToken(*module);
      if (ablations.size() > 1) {
        constexpr int64_t kSteps = 8;
        std::vector<float> logits;
        SINTER_RETURN_IF_ERROR(bench.Prompt(std::max<int64_t>(1, prompts[0]), &logits));
        SINTER_RETURN_IF_ERROR(
            bench.Decode(std::min(kSteps, bench.capacity() - std::max<int64_t>(1, prompts[0])), &logits));
        if (baseline.empty()) baseline = logits;
        row.logits_err = ablation.name == "none" ? 0 : LogitsError(baseline, logits);
      }
      for (int64_t prompt : prompts) {
        row.prompt = prompt;
        if (prompt > 0) {
          row.test = absl::StrCat("pp", prompt);
          SINTER_RETURN_IF_ERROR(bench.Measure(prompt, 0, flags.reps, base ? &*base : nullptr, row));
          report.Add(row);
        }
        for (int64_t n : tokens) {
          if (n == 0) continue;
          row.test = absl::StrCat("tg", n);
          SINTER_RETURN_IF_ERROR(bench.Measure(prompt, n, flags.reps, base ? &*base : nullptr, row));
          report.Add(row);
        }
      }
    }
  }
  return absl::OkStatus();
}

absl::Status BenchVerb(BenchFlags& flags) {
  const auto all_zero = [](const std::vector<int64_t>& values) {
    return !values.empty() && *std::max_element(values.begin(), values.end()) == 0;
  };
  if (all_zero(flags.prompts) && all_zero(flags.tokens)) {
    return absl::OutOfRangeError("-p 0 and -n 0 leave nothing to measure");
  }
  std::vector<int> threads = flags.threads;
  if (threads.empty()) {
    const ThreadBudget budget = DefaultThreads();
    Note(budget.reason);
    threads = {budget.threads};
  }
  SINTER_RETURN_IF_ERROR(FindCpus(flags.pin, *std::max_element(threads.begin(), threads.end())));
  Report report(flags.format);
  absl::Status status;
  for (const std::string& model : flags.models) {
    status = BenchModel(flags, model, threads, report);
    if (!status.ok()) break;
  }
  const absl::Status written = report.Finish();
  return status.ok() ? written : status;
}

template <typename T>
CLI::Option* AddNumbers(CLI::App& app, const std::string& name, std::vector<T>& values, const std::string& help) {
  return app.add_option(name, values, help)->delimiter(',')->allow_extra_args(false)->type_name("N,..");
}

}  // namespace

void AddBench(CLI::App& program, Action& action) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* verb = program.add_subcommand("bench", "Measure prompt and decode speed, and memory");
  verb->add_option("MODEL", flags->models, "One or more of .gguf, .sinter, preset:NAME")->required();
  AddNumbers(*verb, "-p,--prompt", flags->prompts,
             "Prompt lengths; 0 is no prompt (default: 256, at most half of the context)")
      ->check(AtLeast(0));
  AddNumbers(*verb, "-n", flags->tokens,
             "Tokens to decode after each prompt; 0 is none (default: 32, at most a quarter of the context)")
      ->check(AtLeast(0));
  AddNumbers(*verb, "-t,--threads", flags->threads, "Numbers of threads (default: what the process may use)")
      ->check(AtLeast(1, limits::kThreads.most));
  AddPinFlag(*verb, flags->pin);
  verb->add_option("-r,--reps", flags->reps, "Repetitions; the median counts")
      ->type_name("N")
      ->check(AtLeast(1))
      ->capture_default_str();
  verb->add_option("-o,--output", flags->format, "md, csv or json")
      ->type_name("FORMAT")
      ->check(CLI::IsMember({"md", "csv", "json"}))
      ->capture_default_str();
  AddList(*verb, "--ablate", flags->ablate, "Measure again without: all (all optional passes, then each), or passes")
      ->type_name("all|PASS,..");
  AddMemoryFlags(*verb, flags->memory);
  AddCompileFlags(*verb, flags->compile);
  verb->footer(
      "Columns: tokens_per_s is the median, stddev that of the repetitions; p50_ms and p99_ms are percentiles of "
      "single\n"
      "tokens' times over all repetitions; load_s is the time from the path to a model that can run. ratio is the "
      "speed relative to the\n"
      "unablated module, run in turn (median of the pairs): below 1 the passes left out pay. logits_err is the\n"
      "largest difference from the unablated run, relative to its largest logit. steps and barriers are those of\n"
      "the entry that ran. heap_bytes_per_token is how much the heap in use\n"
      "(mallinfo2) grew in a repetition, over its tokens. peak_rss_bytes is the largest resident size while the row "
      "ran.\n"
      "The plain graph, without any pass that improves it, is measured by a second run with -O0.");
  verb->callback([flags, &action] {
    flags->command = action.command_line;
    action.run = [flags] { return BenchVerb(*flags); };
  });
}

}  // namespace sinter
