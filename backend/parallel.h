// Work of the compiler cut over threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/status.h"

namespace sinter {

// Calls work(i) once for every i in [0, count), on up to `threads` threads, in order of beginning. After a failure no
// further call begins; the failure of the lowest i is returned.
inline absl::Status ParallelFor(int64_t count, int threads, const std::function<absl::Status(int64_t)>& work) {
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  int64_t failed_at = count;
  absl::Status failure;
  const auto run = [&] {
    for (int64_t i = next++; i < count; i = next++) {
      absl::Status status = work(i);
      if (status.ok()) continue;
      next = count;
      std::lock_guard<std::mutex> lock(mutex);
      if (i < failed_at) {
        failed_at = i;
        failure = std::move(status);
      }
    }
  };
  std::vector<std::thread> others;
  for (int t = 1; t < threads && t < count; ++t) others.emplace_back(run);
  run();
  for (std::thread& t : others) t.join();
  return failure;
}

}  // namespace sinter
