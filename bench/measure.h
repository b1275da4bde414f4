// What benchmark programs measure with: the clock, medians, and the machine's limits, found in the same process.
//
// Everything is the median of nine rounds, the limits too: beside the best of some moments any longer work looks slow
// on a machine whose speed changes. Limits are found with as many threads as are asked for, which have warmed up and
// start each round together. Threads live for one call; none is left spinning.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/target.h"

namespace sinter {

// Runs of the first moments do not count: threads that wake together share a core until the system has noticed.
inline constexpr double kWarmSeconds = 0.08;

// The seconds of the steady clock.
double SecondsNow();
// The upper one of the two in the middle when the number is even; at least one value.
double MedianOf(std::vector<double> values);

// Seconds of a run: of rounds that last so many seconds together, or one run each at least.
absl::StatusOr<double> SecondsOfRun(const std::function<absl::Status()>& run, double seconds);
// Seconds that `threads` threads need for work(thread), from the first start to the last end.
double SecondsTogether(int threads, const std::function<void(int)>& work);

// Reads as many bytes, from whatever holds them: a streaming sum in the widest vectors of this CPU over a buffer of at
// least that size in huge pages, each thread over its part; of large ones, who is done takes from what others have
// left.
class ReadLoop {
 public:
  explicit ReadLoop(double bytes, int threads = 1);
  ~ReadLoop();
  double Seconds();

 private:
  struct Buffer;
  double bytes_;
  int threads_;
  std::unique_ptr<Buffer> buffer_;
};
inline double SecondsToRead(double bytes, int threads = 1) { return ReadLoop(bytes, threads).Seconds(); }

// Multiply-adds of f32 a second, in the vectors of a target that this CPU runs: independent chains in registers.
double ProductsPerSecond(const Target& target, int threads = 1);
// The same of pairs of bf16 that are added up in f32 (vdpbf16ps); 0 for a target without it.
double Bf16ProductsPerSecond(const Target& target, int threads = 1);
// The same of 8-bit integers that are added up in 32 bits: vpdpbusd, or, for a target without it, vpmaddubsw, vpmaddwd
// and vpaddd.
double Int8ProductsPerSecond(const Target& target, int threads = 1);

// The rest of a main that has registered its benchmarks by itself.
int RunBenchmarks(int argc, char** argv);

}  // namespace sinter
