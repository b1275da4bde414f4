// Rows of LayerNorm and softmax: the fused kernel, the chain of its parts (-O2 without that pass), and plain loops that
// g++ compiled with -O3 -ffast-math for this machine, run in turn on one thread.
//
// The time of a benchmark is the fused kernel's. Counters: gbs, bytes read and written a second; read_gbs, at which as
// many bytes are read in the same process; x_unfused and x_gcc, the medians of the pairs' ratios (above 1 the fused
// kernel is faster).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/compiled_text.h"
#include "bench/row_reference.h"

namespace sinter {
namespace {

constexpr int kPairs = 25;
constexpr double kEps = 1e-5;

// 16 x 64 rows of 512 are those of a published profile.
constexpr int64_t kShapes[][2] = {{16 * 64, 512}, {1, 4096}, {256, 768}, {96, 1000}};

std::string LayerNormText(int64_t rows, int64_t width) {
  const std::string row = absl::StrCat("f32[", rows, ",", width, "]"), one = absl::StrCat("f32[", rows, ",1]");
  const std::string gamma = absl::StrCat("f32[", width, "]");
  return absl::StrCat(
      "module @rows {\n  graph @main(%x: ", row, ", %gamma: ", gamma, ", %beta: ", gamma, ") -> (", row,
      ") {\n    %eps = constant {values=[", kEps, "]} : f32[1]\n    %mean = mean %x : ", one,
      "\n    %d = sub %x, %mean : ", row, "\n    %dd = mul %d, %d : ", row, "\n    %var = mean %dd : ", one,
      "\n    %ve = add %var, %eps : ", one, "\n    %r = rsqrt %ve : ", one, "\n    %n = mul %d, %r : ", row,
      "\n    %ng = mul %n, %gamma : ", row, "\n    %y = add %ng, %beta : ", row, "\n    return %y\n  }\n}\n");
}

std::string SoftmaxText(int64_t rows, int64_t width) {
  const std::string row = absl::StrCat("f32[", rows, ",", width, "]"), one = absl::StrCat("f32[", rows, ",1]");
  return absl::StrCat("module @rows {\n  graph @main(%x: ", row, ") -> (", row, ") {\n    %m = max %x : ", one,
                      "\n    %d = sub %x, %m : ", row, "\n    %e = exp %d : ", row, "\n    %s = sum %e : ", one,
                      "\n    %y = div %e, %s : ", row, "\n    return %y\n  }\n}\n");
}

void BM_Rows(benchmark::State& state, const std::string& text, const char* pass, int64_t rows, int64_t width) {
  const auto fused = CompiledText::Make(text, "", 1), unfused = CompiledText::Make(text, pass, 1);
  for (const auto* made : {&fused, &unfused}) {
    if (!made->ok()) return state.SkipWithError(std::string(made->status().message()).c_str());
  }
  const bool norm = std::string(pass) == "fuse-layer-norm";
  std::vector<float> reference(static_cast<size_t>(rows * width));
  const CompiledText& inputs = **fused;
  const auto run_reference = [&] {
    if (norm) {
      ReferenceLayerNorm(inputs.input(0).data(), inputs.input(1).data(), inputs.input(2).data(),
                         static_cast<float>(kEps), rows, width, reference.data());
    } else {
      ReferenceSoftmax(inputs.input(0).data(), rows, width, reference.data());
    }
    benchmark::DoNotOptimize(reference.data());
    benchmark::ClobberMemory();
  };
  const auto time = [&](const auto& run) {
    run();
    const double start = SecondsNow();
    int runs = 0;
    double end = start;
    for (; end < start + 5e-4; end = SecondsNow(), ++runs) run();
    return (end - start) / runs;
  };
  const auto run_fused = [&] { benchmark::DoNotOptimize((*fused)->Run().ok()); };
  const auto run_unfused = [&] { benchmark::DoNotOptimize((*unfused)->Run().ok()); };
  std::vector<double> times, to_unfused, to_reference;
  for (auto _ : state) {
    const double fused_time = time(run_fused);
    state.SetIterationTime(fused_time);
    times.push_back(fused_time);
    to_unfused.push_back(time(run_unfused) / fused_time);
    to_reference.push_back(time(run_reference) / fused_time);
  }
  for (size_t i = 0; i < reference.size(); ++i) {
    const float difference = reference[i] - (*fused)->result()[i];
    if (!(difference < 1e-4f && difference > -1e-4f)) return state.SkipWithError("the results differ");
  }
  const double bytes = 2.0 * static_cast<double>(rows * width) * sizeof(float);
  state.counters["gbs"] = bytes / MedianOf(times) / 1e9;
  state.counters["read_gbs"] = bytes / SecondsToRead(bytes) / 1e9;
  state.counters["x_unfused"] = MedianOf(to_unfused);
  state.counters["x_gcc"] = MedianOf(to_reference);
}

}  // namespace
}  // namespace sinter

int main(int argc, char** argv) {
  for (const auto& [rows, width] : sinter::kShapes) {
    const std::string shape = absl::StrCat(rows, "x", width);
    for (const bool norm : {true, false}) {
      const std::string text = norm ? sinter::LayerNormText(rows, width) : sinter::SoftmaxText(rows, width);
      const char* const pass = norm ? "fuse-layer-norm" : "fuse-softmax";
      benchmark::RegisterBenchmark(absl::StrCat(norm ? "BM_LayerNorm/" : "BM_Softmax/", shape).c_str(),
                                   [text, pass, rows = rows, width = width](benchmark::State& state) {
                                     sinter::BM_Rows(state, text, pass, rows, width);
                                   })
          ->UseManualTime()
          ->Iterations(sinter::kPairs);
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
