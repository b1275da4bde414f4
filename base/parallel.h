// Work cut over threads, for the compiler and for tools. The runtime has a team of its own (runtime/threads.h).
//
// Where the system refuses a thread, for want of memory or at a limit of the process or its cgroup, those that there
// are do all of the work. Errors: those of `work`, and kResourceExhausted where memory runs out in it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/heap.h"
#include "base/out_of_memory.h"

namespace sinter {

// Calls work(i) once for every i in [0, count), on up to `threads` threads, in order of beginning. After a failure no
// further call begins; the failure of the lowest i is returned. `doing` names the work where memory runs out.
inline absl::Status ParallelFor(absl::string_view doing, int64_t count, int threads,
                                const std::function<absl::Status(int64_t)>& work) {
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  int64_t failed_at = count;
  absl::Status failure;
  const auto run = [&] {
    for (int64_t i = next++; i < count; i = next++) {
      absl::Status status = WithoutExceptions(doing, [&] { return work(i); });
      if (status.ok()) continue;
      next = count;
      std::lock_guard<std::mutex> lock(mutex);
      if (i < failed_at) {
        failed_at = i;
        failure = std::move(status);
      }
    }
  };
  std::vector<std::jthread> others;
  const absl::Status started = WithoutExceptions(doing, [&] {
    for (int t = 1; t < threads && t < count; ++t)
      others.emplace_back([&run] {
        PutHeapOfThreadInHugePages();
        run();
      });
    return absl::OkStatus();
  });
  (void)started.ok();  // or fewer do it
  run();
  others.clear();  // waits for them
  return failure;
}

}  // namespace sinter
