// Decoding one token of preset:smallmind, at each optimization level, beside the limit: a sum over as many bytes as a
// token must read, streamed in the same process. The counters say bytes a second; the ratio of the two is how near a
// token is to the memory.
#include <benchmark/benchmark.h>

#include <memory>
#include <vector>

#include "bench/measure.h"
#include "runtime/workspace.h"
#include "tools/compile_flags.h"
#include "tools/compile_source.h"

namespace sinter {
namespace {

constexpr int32_t kPrompt = 32, kTokens = 64;

std::shared_ptr<const CompiledModule> Smallmind(int opt_level) {
  static std::shared_ptr<const CompiledModule> modules[3];
  std::shared_ptr<const CompiledModule>& module = modules[opt_level];
  if (module == nullptr) {
    CompileFlags flags;
    flags.opt_level = opt_level;
    auto made = OpenExecutable("preset:smallmind", flags, "sinter bench");
    if (made.ok()) module = *std::move(made);
  }
  return module;
}

// Bytes that a token reads: all weights, and the cache at the middle of the run.
int64_t TokenBytes(const CompiledModule& module) {
  int64_t bytes = 0;
  for (const fbs::Weight* weight : *module.metadata().weights()) bytes += static_cast<int64_t>(weight->bytes());
  for (const LoadedState& state : module.entries()[0].states) {
    bytes += state.bytes / state.dims[static_cast<size_t>(state.page_axis)] * (kPrompt + kTokens / 2);
  }
  return bytes;
}

void BM_Decode(benchmark::State& state) {
  const std::shared_ptr<const CompiledModule> module = Smallmind(static_cast<int>(state.range(0)));
  auto workspace =
      module == nullptr ? absl::InternalError("no module") : Workspace::Open(module, static_cast<int>(state.range(1)));
  if (!workspace.ok()) return state.SkipWithError("cannot open the model");
  std::vector<float> logits(static_cast<size_t>((*workspace)->vocabulary()));
  std::vector<int32_t> prompt(kPrompt);
  for (int32_t i = 0; i < kPrompt; ++i) prompt[static_cast<size_t>(i)] = 3 + i * 7 % 500;
  auto sequence = Sequence::Open(module);
  if (!sequence.ok() || !(*workspace)->Prefill(**sequence, prompt, absl::MakeSpan(logits)).ok()) {
    return state.SkipWithError("cannot run the prompt");
  }
  const int32_t id = 5, row = 0;
  for (auto _ : state) {
    if ((*sequence)->position() == kPrompt + kTokens && !(*sequence)->Truncate(kPrompt).ok()) return;
    if (!(*workspace)->Step(**sequence, {&id, 1}, {&row, 1}, absl::MakeSpan(logits)).ok())
      return state.SkipWithError("a step failed");
  }
  state.SetItemsProcessed(state.iterations());
  state.SetBytesProcessed(state.iterations() * TokenBytes(*module));
}
BENCHMARK(BM_Decode)->ArgNames({"O", "threads"})->Args({0, 1})->Args({1, 1})->Args({2, 1})->Args({2, 2})->UseRealTime();

// The limit.
void BM_Read(benchmark::State& state) {
  const std::shared_ptr<const CompiledModule> module = Smallmind(2);
  if (module == nullptr) return state.SkipWithError("no module");
  const double bytes = static_cast<double>(TokenBytes(*module));
  for (auto _ : state) state.SetIterationTime(SecondsToRead(bytes, static_cast<int>(state.range(0))));
  state.SetBytesProcessed(state.iterations() * TokenBytes(*module));
}
BENCHMARK(BM_Read)->ArgName("threads")->Arg(1)->Arg(2)->UseManualTime()->Iterations(15);

}  // namespace
}  // namespace sinter

BENCHMARK_MAIN();
