// Rows of LayerNorm and softmax: the fused kernel, the chain of its parts (-O2 without that pass), and plain loops that
// g++ compiled with -O3 -ffast-math for this machine, run in turn on one thread.
//
// The time of a benchmark is the fused kernel's. Counters: gbs, bytes read and written a second; read_gbs, at which as
// many bytes are read in the same process; x_unfused and x_gcc, the medians of the pairs' ratios (above 1 the fused
// kernel is faster).
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status.h"
#include "bench/compiled_text.h"
#include "bench/measure.h"
#include "bench/row_reference.h"

namespace sinter {
namespace {

constexpr int kPairs = 25;

// 16 x 64 rows of 512 are those of a published profile.
constexpr int64_t kShapes[][2] = {{16 * 64, 512}, {1, 4096}, {256, 768}, {96, 1000}};

// x, y: [rows, width].
std::string PlainSoftmax(absl::string_view rows, absl::string_view width) {
  return absl::StrReplaceAll(R"((%x: f32[$T,$W]) -> (f32[$T,$W]) {
    %m = max %x : f32[$T,1]
    %d = sub %x, %m : f32[$T,$W]
    %e = exp %d : f32[$T,$W]
    %s = sum %e : f32[$T,1]
    %y = div %e, %s : f32[$T,$W]
    return %y
  })",
                             {{"$T", rows}, {"$W", width}});
}

// Seconds of a run, which returns a status, after one that is not counted.
template <typename Run>
absl::StatusOr<double> TimeOfRun(const Run& run) {
  SINTER_RETURN_IF_ERROR(run());
  return SecondsOfRun(run, 5e-4);
}

absl::Status Compare(benchmark::State& state, bool norm, int64_t rows, int64_t width) {
  const std::string text = ModuleText(norm ? PlainLayerNorm(absl::StrCat(rows), absl::StrCat(width))
                                           : PlainSoftmax(absl::StrCat(rows), absl::StrCat(width)));
  SINTER_ASSIGN_OR_RETURN(const auto fused, CompiledText::Make(text, {}));
  SINTER_ASSIGN_OR_RETURN(const auto unfused,
                          CompiledText::Make(text, {.without = norm ? "fuse-layer-norm" : "fuse-softmax"}));
  std::vector<float> reference(static_cast<size_t>(rows * width));
  const auto run_reference = [&] {
    if (norm) {
      ReferenceLayerNorm(fused->input(0).data(), fused->input(1).data(), fused->input(2).data(),
                         static_cast<float>(kLayerNormEps), rows, width, reference.data());
    } else {
      ReferenceSoftmax(fused->input(0).data(), rows, width, reference.data());
    }
    benchmark::DoNotOptimize(reference.data());
    benchmark::ClobberMemory();
    return absl::OkStatus();
  };
  std::vector<double> times, to_unfused, to_reference;
  for (auto _ : state) {
    SINTER_ASSIGN_OR_RETURN(const double time, TimeOfRun([&] { return fused->Run(); }));
    SINTER_ASSIGN_OR_RETURN(const double unfused_time, TimeOfRun([&] { return unfused->Run(); }));
    SINTER_ASSIGN_OR_RETURN(const double reference_time, TimeOfRun(run_reference));
    state.SetIterationTime(time);
    times.push_back(time);
    to_unfused.push_back(unfused_time / time);
    to_reference.push_back(reference_time / time);
  }
  for (size_t i = 0; i < reference.size(); ++i) {
    const float difference = reference[i] - fused->result()[i];
    if (!(difference < 1e-4f && difference > -1e-4f)) return absl::InternalError("the results differ");
  }
  const double bytes = 2.0 * static_cast<double>(rows * width) * sizeof(float);
  state.counters["gbs"] = bytes / MedianOf(times) / 1e9;
  state.counters["read_gbs"] = bytes / SecondsToRead(bytes) / 1e9;
  state.counters["x_unfused"] = MedianOf(to_unfused);
  state.counters["x_gcc"] = MedianOf(to_reference);
  return absl::OkStatus();
}

void BM_Rows(benchmark::State& state, bool norm, int64_t rows, int64_t width) {
  const absl::Status status = Compare(state, norm, rows, width);
  if (!status.ok()) state.SkipWithError(std::string(status.message()).c_str());
}

}  // namespace
}  // namespace sinter

int main(int argc, char** argv) {
  for (const auto& [rows, width] : sinter::kShapes) {
    for (const bool norm : {true, false}) {
      const std::string name = absl::StrCat(norm ? "BM_LayerNorm/" : "BM_Softmax/", rows, "x", width);
      const auto run = [norm, rows = rows, width = width](benchmark::State& state) {
        sinter::BM_Rows(state, norm, rows, width);
      };
      benchmark::RegisterBenchmark(name.c_str(), run)->UseManualTime()->Iterations(sinter::kPairs);
    }
  }
  return sinter::RunBenchmarks(argc, argv);
}
