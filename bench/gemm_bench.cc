// Products of f32 through the compiled path, weights packed when the module is compiled as those of models are, beside
// OpenBLAS and oneDNN on the same operands, in turn; for the strongest target that runs here and for avx2.
//
// The time of a benchmark is Sinter's. Counters: gflops and peak, the percentage of the FMA peak that as many threads
// reach in this process in the target's vectors; of each peer its gflops and x_PEER, the median of the rounds' ratios
// (above 1 Sinter is faster). Labels say which kernels the peers ran, and their threads.
//
// usage: gemm_bench [--target=NAME] [flags of Google Benchmark]. Peers choose their kernels when a process starts; so
// without --target the program runs itself, once for each target.
#include <benchmark/benchmark.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "bench/compiled_text.h"
#include "bench/gemm_peers.h"
#include "bench/measure.h"

namespace sinter {
namespace {

constexpr int kRounds = 7;
constexpr double kRunSeconds = 0.06;  // of each side in a round
// Until the threads of the side before are asleep: OpenBLAS and OpenMP let theirs spin for milliseconds.
constexpr auto kSettle = std::chrono::milliseconds(40);

struct Shape {
  int64_t m, n, k;
};
constexpr Shape kShapes[] = {{512, 512, 512}, {256, 2048, 2048}, {256, 5632, 2048}, {256, 2048, 5632}};

// Seconds of a run, which returns a status.
template <typename Run>
absl::StatusOr<double> TimeOfRun(const Run& run) {
  std::this_thread::sleep_for(kSettle);
  const double warm = SecondsNow();
  do SINTER_RETURN_IF_ERROR(run());
  while (SecondsNow() < warm + kWarmSeconds);
  return SecondsOfRun(run, kRunSeconds);
}

// Some elements of y against sums in double.
absl::Status CheckProduct(const GemmOperands& o, absl::Span<const float> y, absl::string_view whose) {
  for (int64_t i = 0; i < 64; ++i) {
    const int64_t row = i * 7919 % o.m, column = i * 104729 % o.n;
    double sum = 0, size = 0;
    for (int64_t j = 0; j < o.k; ++j) {
      const double product = static_cast<double>(o.x[row * o.k + j]) * o.w[column * o.k + j];
      sum += product;
      size += std::abs(product);
    }
    if (!(std::abs(y[static_cast<size_t>(row * o.n + column)] - sum) <= 1e-5 * size)) {
      return absl::InternalError(absl::StrCat("the product of ", whose, " is wrong"));
    }
  }
  return absl::OkStatus();
}

absl::Status Compare(benchmark::State& state, const Target& target, const Shape& shape, int threads) {
  const auto [m, n, k] = shape;
  const std::string text = ModuleText(
      absl::StrCat("(%x: f32[", m, ",", k, "]) -> (f32[", m, ",", n, "]) {\n    %w = weight \"w\" : f32[", n, ",", k,
                   "]\n    %y = gemm %x, %w {trans_b=true} : f32[", m, ",", n, "]\n    return %y\n  }"));
  SINTER_ASSIGN_OR_RETURN(const auto ours, CompiledText::Make(text, {.target = &target, .threads = threads}));
  std::vector<float> w(static_cast<size_t>(n * k)), y(static_cast<size_t>(m * n));
  for (size_t i = 0; i < w.size(); ++i) w[i] = WeightValue("w", static_cast<int64_t>(i));
  const GemmOperands operands = {m, n, k, ours->input(0).data(), w.data(), y.data()};
  const auto peers = GemmPeers(operands, threads);

  SINTER_RETURN_IF_ERROR(ours->Run());
  SINTER_RETURN_IF_ERROR(CheckProduct(operands, ours->result(), "sinter"));
  std::string label;
  for (const auto& peer : peers) {
    y.assign(y.size(), 0);
    peer->Run();
    SINTER_RETURN_IF_ERROR(CheckProduct(operands, y, peer->name()));
    absl::StrAppend(&label, label.empty() ? "" : "; ", peer->name(), " ", peer->kernel(), " on ", peer->threads());
  }
  std::vector<double> times, peaks;
  std::vector<std::vector<double>> peer_times(peers.size()), ratios(peers.size());
  for (auto _ : state) {
    SINTER_ASSIGN_OR_RETURN(const double time, TimeOfRun([&] { return ours->Run(); }));
    state.SetIterationTime(time);
    times.push_back(time);
    for (size_t i = 0; i < peers.size(); ++i) {
      const auto run = [&] {
        peers[i]->Run();
        return absl::OkStatus();
      };
      SINTER_ASSIGN_OR_RETURN(const double peer_time, TimeOfRun(run));
      peer_times[i].push_back(peer_time);
      ratios[i].push_back(peer_time / time);
    }
    std::this_thread::sleep_for(kSettle);
    peaks.push_back(ProductsPerSecond(target, threads));
  }
  const double products = static_cast<double>(m * n * k), rate = products / MedianOf(times);
  state.counters["gflops"] = 2 * rate / 1e9;
  state.counters["peak"] = 100 * rate / MedianOf(peaks);
  state.counters["peak_gflops"] = 2 * MedianOf(peaks) / 1e9;
  for (size_t i = 0; i < peers.size(); ++i) {
    const std::string name(peers[i]->name());
    state.counters[name] = 2 * products / MedianOf(peer_times[i]) / 1e9;
    state.counters["x_" + name] = MedianOf(ratios[i]);
  }
  state.SetLabel(label);
  return absl::OkStatus();
}

// Runs the program for one target, with the peers' settings in its environment; its exit code.
int RunFor(const Target& target, char** argv) {
  const pid_t child = fork();
  if (child == 0) {
    for (std::string& setting : GemmPeerEnvironment(target)) putenv(strdup(setting.c_str()));
    const std::string flag = absl::StrCat("--target=", target.name);
    std::vector<char*> arguments = {argv[0], const_cast<char*>(flag.c_str())};
    for (char** argument = argv + 1; *argument != nullptr; ++argument) arguments.push_back(*argument);
    arguments.push_back(nullptr);
    execv("/proc/self/exe", arguments.data());
    _exit(127);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)) return 70;
  return WEXITSTATUS(status);
}

}  // namespace
}  // namespace sinter

int main(int argc, char** argv) {
  absl::string_view flag = argc > 1 ? argv[1] : "";
  if (!absl::ConsumePrefix(&flag, "--target=")) {
    if (!sinter::MissingGemmPeers().empty()) std::fprintf(stderr, "%s\n", sinter::MissingGemmPeers().c_str());
    for (const char* const name : {"avx512", "avx2"}) {
      const sinter::Target& target = *sinter::FindTarget(name);
      if (!sinter::HostRuns(target)) continue;
      if (const int code = sinter::RunFor(target, argv)) return code;
    }
    return 0;
  }
  const sinter::Target* const target = sinter::FindTarget(flag);
  if (target == nullptr || !sinter::HostRuns(*target)) {
    std::fprintf(stderr, "gemm_bench: error: --target=%s is none that runs here\n", std::string(flag).c_str());
    return 2;
  }
  argv[1] = argv[0];
  for (const sinter::Shape& shape : sinter::kShapes) {
    for (int threads = 1; threads <= 2; ++threads) {
      const std::string name =
          absl::StrCat("BM_Gemm/", target->name, "/", shape.m, "x", shape.n, "x", shape.k, "/threads:", threads);
      benchmark::RegisterBenchmark(name.c_str(),
                                   [target, &shape, threads](benchmark::State& state) {
                                     const absl::Status status = sinter::Compare(state, *target, shape, threads);
                                     if (!status.ok()) state.SkipWithError(std::string(status.message()).c_str());
                                   })
          ->UseManualTime()
          ->Unit(benchmark::kMicrosecond)
          ->Iterations(sinter::kRounds);
    }
  }
  return sinter::RunBenchmarks(argc - 1, argv + 1);
}
