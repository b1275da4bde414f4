// What benchmark programs measure with: the clock, medians, and the machine's limits, found in the same process.
//
// Limits are the best of several rounds, with as many threads as are asked for, all of them starting together: what the
// machine could do just now when nothing else ran. Threads live for one call; none is left spinning.
#pragma once

#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/target.h"

namespace sinter {

// The seconds of the steady clock.
double SecondsNow();
// The upper one of the two in the middle when the number is even; at least one value.
double MedianOf(std::vector<double> values);

// Seconds of a run: the average over so many seconds, one run at least.
absl::StatusOr<double> SecondsOfRun(const std::function<absl::Status()>& run, double seconds);
// Seconds that `threads` threads need for work(thread), from the first start to the last end; the best of the rounds.
double SecondsTogether(int threads, int rounds, const std::function<void(int)>& work);

// Seconds to read as many bytes, from whatever holds them: a streaming sum in the widest vectors of this CPU over a
// buffer of at least that size in huge pages, each thread over its part; of large ones, who is done takes from what
// others have left.
double SecondsToRead(double bytes, int threads = 1);

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
