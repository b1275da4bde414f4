#include "tests/fuzzer.h"

#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <new>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "ir/text.h"
#include "ir/verifier.h"

namespace sinter {
namespace {

constexpr unsigned kHangSeconds = 30;     // of one graph, of the processor
constexpr unsigned kAsleepSeconds = 900;  // of the clock: threads that wait for each other
constexpr int kTamings = 12;
constexpr absl::string_view kDrawing = "drawing";

void CopyText(absl::string_view text, absl::Span<char> out) {
  const size_t n = std::min(text.size(), out.size() - 1);
  std::copy_n(text.begin(), n, out.begin());
  out[n] = '\0';
}

// What a child leaves behind.
struct Note {
  bool failed = false;
  Verdict verdict = Verdict::kSame;
  char phase[200] = {}, where[200] = {}, message[8000] = {};

  void Take(const Outcome& outcome) {
    failed = outcome.verdict == Verdict::kFailed;
    verdict = outcome.verdict;
    CopyText(outcome.where, absl::MakeSpan(where));
    CopyText(outcome.message, absl::MakeSpan(message));
  }
  // Of a child that ended with `status`.
  Outcome Give(int status) const {
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {verdict, where, message};
    const std::string end = !WIFSIGNALED(status) ? absl::StrCat("exit code ", WEXITSTATUS(status))
                            : WTERMSIG(status) == SIGALRM || WTERMSIG(status) == SIGPROF
                                ? "hang"
                                : absl::StrCat("signal ", WTERMSIG(status));
    return {Verdict::kFailed, absl::StrCat("crash in ", phase), absl::StrCat(end, " in ", phase)};
  }
};

// Memory that a child shares with its parent.
template <typename T>
T* NewShared() {
  void* at = mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return at == MAP_FAILED ? nullptr : new (at) T();
}

// Runs `work` in a child; its exit status, or nothing when there can be no child.
template <typename Work>
std::optional<int> RunApart(Work work) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) return std::nullopt;
  if (child == 0) {
    work();
    _exit(0);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return std::nullopt;
  }
  return status;
}

// Ends this process if it works, or sleeps, for longer than anything takes. On a busy machine the clock says little.
void EndIfHanging(unsigned seconds) {
  const itimerval limit{{0, 0}, {static_cast<time_t>(seconds), 0}};
  setitimer(ITIMER_PROF, &limit, nullptr);
  alarm(kAsleepSeconds);
}

std::vector<const PassInfo*> PassesOf(absl::string_view pipeline, const std::vector<const PassInfo*>& known) {
  std::vector<const PassInfo*> passes;
  for (absl::string_view name : absl::StrSplit(pipeline, ',')) {
    for (const PassInfo* pass : known) {
      if (pass->name == name) passes.push_back(pass);
    }
  }
  return passes;
}

bool IsRewrite(const PassInfo* pass) { return pass->from == Stage::kGraph && pass->to == Stage::kGraph; }

}  // namespace

struct Fuzzer::Shared {
  FuzzStats stats;
  int64_t at = 0;   // the graph that is run
  size_t plan = 0;  // and its plan
  Note note;
};

void Fuzzer::Unmap::operator()(Shared* shared) const { munmap(shared, sizeof(Shared)); }

Fuzzer::Fuzzer(FuzzOptions options, RuleBook rules)
    : options_(std::move(options)),
      rules_(std::move(rules)),
      least_(PassesOf(FindPipeline("O0"), options_.passes)),
      usual_(PassesOf(FindPipeline("O2"), options_.passes)),
      shared_(NewShared<Shared>()) {}

absl::StatusOr<std::unique_ptr<Fuzzer>> Fuzzer::Create(FuzzOptions options) {
  if (options.passes.size() > kMaxPasses || options.targets.size() > kMaxTargets) {
    return absl::InternalError("more passes or targets than kMaxPasses or kMaxTargets");
  }
  if (options.targets.empty()) return absl::FailedPreconditionError("this CPU can run no target");
  SINTER_ASSIGN_OR_RETURN(RuleBook rules, RuleBook::Of(options.passes));
  auto fuzzer = std::unique_ptr<Fuzzer>(new Fuzzer(std::move(options), std::move(rules)));
  if (fuzzer->shared_ == nullptr) return absl::ResourceExhaustedError("no memory to share with a child");
  return fuzzer;
}

const FuzzStats& Fuzzer::stats() const { return shared_->stats; }

// From select-kernels on: what advances the stage and the passes of O0 in the order of their rows; before those of its
// stage any others, in any order, some not at all and some twice.
std::vector<const PassInfo*> Fuzzer::Lowering(Dice& dice) const {
  std::vector<const PassInfo*> lowering;
  for (Stage stage : {Stage::kGraph, Stage::kKernels, Stage::kPlanned}) {
    std::vector<const PassInfo*> optional, needed;
    for (const PassInfo* pass : options_.passes) {
      if (pass->from != stage || IsRewrite(pass)) continue;
      const bool always = std::find(least_.begin(), least_.end(), pass) != least_.end();
      (always || pass->from != pass->to ? needed : optional).push_back(pass);
    }
    for (int64_t n = optional.empty() ? 0 : dice.Below(static_cast<int64_t>(optional.size()) + 2); n > 0; --n) {
      lowering.push_back(dice.Pick(optional));
    }
    lowering.insert(lowering.end(), needed.begin(), needed.end());
  }
  return lowering;
}

std::vector<FuzzPlan> Fuzzer::DrawPlans(int64_t index) const {
  Dice dice(SeedFor(options_.seed, absl::StrCat("plans ", index)));
  std::vector<const PassInfo*> rewrites;
  for (const PassInfo* pass : options_.passes) {
    if (IsRewrite(pass)) rewrites.push_back(pass);
  }
  std::vector<FuzzPlan> plans(2);
  // Nearly as they are used: the passes of O2, some missing, some exchanged; and any others somewhere.
  for (const PassInfo* pass : usual_) {
    if (IsRewrite(pass) && dice.Chance(88)) plans[0].passes.push_back(pass);
  }
  for (size_t i = 1; i < plans[0].passes.size(); ++i) {
    if (dice.Chance(10)) std::swap(plans[0].passes[i - 1], plans[0].passes[i]);
  }
  for (const PassInfo* pass : rewrites) {
    if (std::find(usual_.begin(), usual_.end(), pass) != usual_.end() && !dice.Chance(2)) continue;
    const auto at = dice.Below(static_cast<int64_t>(plans[0].passes.size()) + 1);
    plans[0].passes.insert(plans[0].passes.begin() + at, pass);
  }
  // Any passes in any order.
  for (int64_t n = dice.Between(0, 10); n > 0 && !rewrites.empty(); --n) plans[1].passes.push_back(dice.Pick(rewrites));
  for (FuzzPlan& plan : plans) {
    const bool usual = &plan == plans.data() && dice.Chance(50);
    for (const PassInfo* pass : usual ? usual_ : Lowering(dice)) {
      if (!IsRewrite(pass)) plan.passes.push_back(pass);
    }
    plan.target = dice.Pick(options_.targets);
    plan.threads = static_cast<int>(dice.Between(1, 3));
  }
  if (options_.code_every > 0 && index % options_.code_every == 0) dice.Pick(plans).compile = true;
  return plans;
}

Fuzzer::Prepared Fuzzer::Prepare(int64_t index) {
  FuzzStats& stats = shared_->stats;
  const uint64_t seed = SeedFor(options_.seed, absl::StrCat("graph ", index));
  Prepared prepared;
  absl::StatusOr<RandomGraph> drawn = DrawGraph(seed, rules_, stats.drawn);
  if (!drawn.ok() || !Verify(*drawn->module).ok()) return prepared;
  prepared.graph = *std::move(drawn);
  for (int i = 0; i < kTamings; ++i) {
    auto judge = FuzzCase::Make(*prepared.graph.module, prepared.graph.dims, seed);
    if (!judge.ok()) return prepared;
    if (!(*judge)->unusable().valid()) {
      prepared.judge = *std::move(judge);
      break;
    }
    // What has no meaning here becomes a parameter, and what reads it goes on with that.
    const Graph& graph = *prepared.graph.module->FindGraph("main");
    GraphEdit edit{.results = graph.results(), .as_params = std::vector<bool>(graph.num_ops())};
    edit.as_params[(*judge)->unusable().value] = true;
    auto tamed = Rebuild(*prepared.graph.module, edit);
    if (!tamed.ok()) return prepared;
    ++stats.tamed_ops;
    judge->reset();
    prepared.graph.module = *std::move(tamed);
  }
  if (prepared.judge == nullptr || prepared.graph.module->FindGraph("main")->order().empty()) {
    prepared.judge = nullptr;
    return prepared;
  }
  prepared.plans = DrawPlans(index);
  return prepared;
}

FuzzInput Fuzzer::InputOf(Prepared prepared, size_t plan, int64_t index) const {
  FuzzInput input{std::move(prepared.graph.module), prepared.graph.dims, 0, prepared.plans[plan]};
  input.data_seed = SeedFor(options_.seed, absl::StrCat("graph ", index));
  return input;
}

FuzzObserver Fuzzer::Observer() {
  FuzzObserver observer;
  observer.phase = [this](absl::string_view phase) { CopyText(phase, absl::MakeSpan(shared_->note.phase)); };
  observer.pass_done = [this](const PassRecord& record) {
    FuzzStats& stats = shared_->stats;
    const auto at = static_cast<size_t>(std::find(options_.passes.begin(), options_.passes.end(), record.pass) -
                                        options_.passes.begin());
    ++stats.pass_runs[at];
    stats.pass_changed[at] += record.changed ? 1 : 0;
    for (const RuleCount& count : record.rules) {
      const auto name =
          static_cast<size_t>(std::find(rules_.names.begin(), rules_.names.end(), count.rule) - rules_.names.begin());
      stats.tried[name] += count.tried;
      stats.fired[name] += count.matched;
    }
  };
  return observer;
}

std::optional<FuzzFailure> Fuzzer::RunGraph(int64_t index) {
  FuzzStats& stats = shared_->stats;
  const FuzzObserver observer = Observer();
  shared_->at = index;
  shared_->plan = 0;
  observer.phase(kDrawing);
  ++stats.graphs;
  Prepared prepared = Prepare(index);
  if (prepared.judge == nullptr) {
    ++stats.unusable;
    return std::nullopt;
  }
  stats.loose += prepared.judge->loose() ? 1 : 0;
  stats.ops_judged += static_cast<int64_t>(prepared.graph.module->FindGraph("main")->order().size());
  for (size_t i = 0; i < prepared.plans.size(); ++i) {
    const FuzzPlan& plan = prepared.plans[i];
    shared_->plan = i;
    Outcome outcome = prepared.judge->Run(plan, observer);
    ++stats.plans;
    if (outcome.verdict == Verdict::kFailed) {
      prepared.judge = nullptr;
      return FuzzFailure{index, std::move(outcome), InputOf(std::move(prepared), i, index)};
    }
    if (outcome.verdict == Verdict::kUnsupported) {
      ++stats.plans_unsupported;
      if (options_.unsupported) options_.unsupported(index, outcome);
    } else if (plan.compile) {
      ++stats.compiled;
      ++stats.compiled_for[static_cast<size_t>(
          std::find(options_.targets.begin(), options_.targets.end(), plan.target) - options_.targets.begin())];
    }
  }
  return std::nullopt;
}

std::optional<FuzzInput> Fuzzer::Draw(int64_t index) {
  Prepared prepared = Prepare(index);
  if (prepared.judge == nullptr) return std::nullopt;
  prepared.judge = nullptr;
  return InputOf(std::move(prepared), 0, index);
}

absl::StatusOr<std::optional<FuzzFailure>> Fuzzer::Run(int64_t first) {
  const auto start = std::chrono::steady_clock::now();
  const auto out_of_time = [&] {
    return options_.seconds > 0 &&
           std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() > options_.seconds;
  };
  shared_->note = {};
  const std::optional<int> status = RunApart([&] {
    for (int64_t i = first; i < options_.first + options_.graphs && !out_of_time(); ++i) {
      EndIfHanging(kHangSeconds);
      const std::optional<FuzzFailure> failure = RunGraph(i);
      if (failure) {
        shared_->note.Take(failure->outcome);
        return;
      }
      if (options_.done) options_.done(i);
    }
  });
  if (!status) return absl::ResourceExhaustedError("no child process");
  const Outcome outcome = shared_->note.Give(*status);
  if (outcome.verdict != Verdict::kFailed) return std::nullopt;
  const int64_t at = shared_->at;
  const size_t plan = shared_->plan;
  if (absl::string_view(shared_->note.phase) == kDrawing) {
    return absl::InternalError(absl::StrCat("graph ", at, " of seed ", options_.seed, ": ", outcome.message));
  }
  const FuzzStats before = shared_->stats;  // it is drawn again, and counted once
  Prepared prepared = Prepare(at);
  shared_->stats = before;
  if (prepared.judge == nullptr) {
    return absl::InternalError(absl::StrCat("graph ", at, " of seed ", options_.seed, ": ", outcome.message));
  }
  prepared.judge = nullptr;
  return FuzzFailure{at, outcome, InputOf(std::move(prepared), plan, at)};
}

Outcome TryInput(const FuzzInput& input, const FuzzObserver& observer) {
  if (absl::Status status = Verify(*input.module); !status.ok()) {
    return {Verdict::kUnsupported, "ill-formed", std::string(status.message())};
  }
  const auto judge = FuzzCase::Make(*input.module, input.dims, input.data_seed);
  if (!judge.ok()) return {Verdict::kUnsupported, "no meaning", std::string(judge.status().message())};
  if ((*judge)->unusable().valid()) return {Verdict::kUnsupported, "no meaning", "NaN, infinity or a large value"};
  return (*judge)->Run(input.plan, observer);
}

Outcome TryInputApart(const FuzzInput& input) {
  auto* note = NewShared<Note>();
  if (note == nullptr) return {Verdict::kUnsupported, "no memory", ""};
  CopyText(kDrawing, absl::MakeSpan(note->phase));
  const std::optional<int> status = RunApart([&] {
    EndIfHanging(kHangSeconds / 3);
    FuzzObserver observer;
    observer.phase = [&](absl::string_view phase) { CopyText(phase, absl::MakeSpan(note->phase)); };
    note->Take(TryInput(input, observer));
  });
  const Outcome outcome = status ? note->Give(*status) : Outcome{Verdict::kUnsupported, "no child process", ""};
  munmap(note, sizeof(Note));
  return outcome;
}

std::string ReproText(const FuzzInput& input, const Outcome& outcome, absl::string_view path) {
  std::string dims;
  for (uint32_t i = 0; i < input.dims.size(); ++i) {
    absl::StrAppend(&dims, i == 0 ? " --dims=" : ",", input.module->dims.symbols()[DimId{i}].name, "=",
                    input.dims[DimId{i}]);
  }
  std::string text = absl::StrCat("// RUN: graph_fuzz --replay=", path, " --passes=", PassesText(input.plan), dims,
                                  " --data=", input.data_seed, " --targets=", input.plan.target->name);
  if (input.plan.compile) absl::StrAppend(&text, " --code --threads=", input.plan.threads);
  absl::StrAppend(&text, "\n// ", outcome.where, "\n");
  for (absl::string_view line : absl::StrSplit(outcome.message, '\n')) absl::StrAppend(&text, "// ", line, "\n");
  return absl::StrCat(text, Print(*input.module));
}

}  // namespace sinter
