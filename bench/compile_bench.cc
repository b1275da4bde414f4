// From a preset to a compiled module in memory: the graph, the passes, and code with weights.
#include <benchmark/benchmark.h>

#include "tools/compile_flags.h"

namespace sinter {
namespace {

void BM_Import(benchmark::State& state) {
  for (auto _ : state) {
    if (!OpenSource("preset:smallmind", CompileFlags()).ok()) return state.SkipWithError("cannot open the model");
  }
}
BENCHMARK(BM_Import)->Unit(benchmark::kMillisecond);

void BM_Passes(benchmark::State& state) {
  CompileFlags flags;
  flags.opt_level = static_cast<int>(state.range(0));
  for (auto _ : state) {
    state.PauseTiming();
    auto source = OpenSource("preset:smallmind", flags);
    state.ResumeTiming();
    if (!source.ok() || !RunPasses(*source, flags).ok()) return state.SkipWithError("the passes failed");
  }
}
BENCHMARK(BM_Passes)->ArgName("O")->DenseRange(0, 2)->Unit(benchmark::kMillisecond);

void BM_Compile(benchmark::State& state) {
  CompileFlags flags;
  flags.opt_level = static_cast<int>(state.range(0));
  for (auto _ : state) {
    if (!OpenExecutable("preset:smallmind", flags, "sinter bench").ok()) return state.SkipWithError("cannot compile");
  }
}
BENCHMARK(BM_Compile)->ArgName("O")->DenseRange(0, 2)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace sinter

BENCHMARK_MAIN();
