// From a preset to a compiled module in memory, part by part. Parts are wall time on all threads that the process may
// use, in milliseconds: graph (the front end), passes, code (kernels emitted and compiled), link (images and metadata),
// weights (packed, written, summed up). `apart` is all but the weights: what a change of the compiler or of a flag
// costs, whatever the model's size. Weights are zeros that nobody had to make.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "backend/compile.h"
#include "backend/emit.h"
#include "runtime/cpu.h"
#include "tools/compile_flags.h"
#include "tools/compile_source.h"

namespace sinter {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kPresets[] = {"smallmind", "stories15m", "gpt2-124m", "tinyllama-1.1b:f16"};

double Milliseconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

struct Parts {
  double graph = 0, passes = 0, code = 0, link = 0, weights = 0;
};

absl::StatusOr<Source> Planned(const std::string& preset, int opt_level, Parts& parts) {
  CompileFlags flags;
  flags.opt_level = opt_level;
  const Clock::time_point start = Clock::now();
  absl::StatusOr<Source> source = OpenSource("preset:" + preset, flags);
  if (!source.ok()) return source;
  const Clock::time_point opened = Clock::now();
  if (const auto records = RunPasses(*source, flags); !records.ok()) return records.status();
  parts.graph += Milliseconds(start, opened);
  parts.passes += Milliseconds(opened, Clock::now());
  return source;
}

absl::Status CompileOnce(const std::string& preset, int opt_level, Parts& parts) {
  const absl::StatusOr<Source> source = Planned(preset, opt_level, parts);
  if (!source.ok()) return source.status();
  const Clock::time_point start = Clock::now();
  // Compile says when it has a piece of code or of the weights.
  Clock::time_point code = start, weights = start;
  CompileOptions options;
  options.targets = {*NativeTarget()};
  options.threads = DefaultThreads().threads;
  options.weights = [](const std::string&, DType, int64_t, int64_t, absl::Span<uint8_t> out) {
    std::fill(out.begin(), out.end(), uint8_t{0});
    return absl::OkStatus();
  };
  options.progress = [&](absl::string_view what, int64_t, int64_t) {
    if (what == "kernels") code = Clock::now();
    if (what == "weights" && weights == start) weights = Clock::now();
  };
  absl::StatusOr<OutputFile> file = OutputFile::Create("");
  if (!file.ok()) return file.status();
  const auto compiled = Compile(*source->module, ModuleInfo(), options, *std::move(file));
  if (!compiled.ok()) return compiled.status();
  parts.code += Milliseconds(start, code);
  parts.link += Milliseconds(code, weights);
  parts.weights += Milliseconds(weights, Clock::now());
  return absl::OkStatus();
}

void BM_Compile(benchmark::State& state) {
  const char* const preset = kPresets[state.range(0)];
  state.SetLabel(preset);
  Parts parts;
  for (auto _ : state) {
    if (!CompileOnce(preset, static_cast<int>(state.range(1)), parts).ok())
      return state.SkipWithError("cannot compile");
  }
  const auto report = [&](const char* name, double sum) {
    state.counters[name] = benchmark::Counter(sum, benchmark::Counter::kAvgIterations);
  };
  report("graph", parts.graph);
  report("passes", parts.passes);
  report("code", parts.code);
  report("link", parts.link);
  report("weights", parts.weights);
  report("apart", parts.graph + parts.passes + parts.code + parts.link);
}
BENCHMARK(BM_Compile)
    ->ArgNames({"preset", "O"})
    ->Args({0, 0})
    ->Args({0, 1})
    ->Args({0, 2})
    ->Args({1, 2})
    ->Args({2, 2})
    ->Args({3, 2})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

// Of `code`, the part before LLVM's code generator: what emitters and the IR builder take, on one thread.
void BM_Emit(benchmark::State& state) {
  const char* const preset = kPresets[state.range(0)];
  state.SetLabel(preset);
  Parts parts;
  const absl::StatusOr<Source> source = Planned(preset, 2, parts);
  if (!source.ok()) return state.SkipWithError("the passes failed");
  const Module& module = *source->module;
  for (auto _ : state) {
    const absl::StatusOr<KernelTable> table = CollectKernels(module);
    if (!table.ok()) return state.SkipWithError("no kernels");
    for (const PlannedKernel& kernel : table->kernels) {
      Emitted emitted;
      if (!EmitKernel(kernel, **NativeTarget(), module.dims, emitted).ok()) return state.SkipWithError("cannot emit");
    }
    state.counters["kernels"] = static_cast<double>(table->kernels.size());
  }
}
BENCHMARK(BM_Emit)->ArgName("preset")->DenseRange(0, 3)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace sinter

BENCHMARK_MAIN();
