// machine_limits BYTES THREADS TARGET: what this machine can do at most, as one line of JSON: the speed at which BYTES
// are read, the FMA peak of f32 in TARGET's vectors ("native": the strongest that runs), that of bf16 (0 without), and
// that of 8-bit integers (vpdpbusd, or what stands for it). bench/peers/run calls it between its runs.
#include <cstdio>
#include <cstdlib>

#include "bench/measure.h"

int main(int argc, char** argv) {
  const auto targets = sinter::ParseTargets(argc == 4 ? argv[3] : "native");
  const double bytes = argc == 4 ? std::atof(argv[1]) : 0;
  const int threads = argc == 4 ? std::atoi(argv[2]) : 0;
  if (bytes < 1 || bytes > 1e12 || threads < 1 || threads > 4096 || !targets.ok() ||
      !sinter::HostRuns(*targets->back())) {
    std::fputs("usage: machine_limits BYTES THREADS TARGET (one that this CPU runs)\n", stderr);
    return 2;
  }
  const sinter::Target& target = *targets->back();
  std::printf(
      "{\"target\": \"%s\", \"threads\": %d, \"read_gbs\": %.2f, \"f32_gflops\": %.1f, \"bf16_gflops\": %.1f, "
      "\"int8_gops\": %.1f}\n",
      std::string(target.name).c_str(), threads, bytes / sinter::SecondsToRead(bytes, threads) / 1e9,
      2 * sinter::ProductsPerSecond(target, threads) / 1e9, 2 * sinter::Bf16ProductsPerSecond(target, threads) / 1e9,
      2 * sinter::Int8ProductsPerSecond(target, threads) / 1e9);
  return 0;
}
