// The threads that walk a step list together: the caller and N-1 workers.
//
// A run is announced to each thread that it needs, and a barrier counted, by a monotonic 64-bit counter that is never
// reset. Who waits on one spins with pause for some 50 microseconds and then sleeps on a futex, so idle workers cost
// nothing and a busy machine degrades gently. Everything that a thread wrote before a barrier is visible to all of them
// after it. Nothing here allocates after Create. Each counter has a cache line to itself; what else the team holds is
// not written while it runs.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace sinter {

// A counter that only grows and that threads can wait for.
class WaitCounter {
 public:
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }
  uint64_t Add() { return value_.fetch_add(1, std::memory_order_seq_cst) + 1; }
  // After an Add that others may be waiting for.
  void Wake();
  // Returns when the counter is at least `target`: the nanoseconds that it took, 0 when that was no time to sleep.
  int64_t Wait(uint64_t target);

 private:
  alignas(64) std::atomic<uint64_t> value_{0};
  alignas(64) std::atomic<uint32_t> sleepers_{0};
};

class ThreadTeam {
 public:
  using Work = void (*)(void* context, int thread);

  // `threads` in [1, limits::kThreads]. `cpus`, if there are any: thread i runs on the i-th of them alone, the caller
  // as thread 0 until the team ends. kResourceExhausted when the system refuses a thread or a CPU, kOutOfRange when
  // there are fewer CPUs than threads.
  static absl::StatusOr<std::unique_ptr<ThreadTeam>> Create(int threads, absl::Span<const int> cpus = {});
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int threads() const { return threads_; }
  // Calls work(context, t) for each t in [0, active), t = 0 on the calling thread; returns when all have returned. The
  // other threads sleep on. One Run at a time; `active` in [1, threads()].
  void Run(int active, Work work, void* context);
  // For `work`: returns when all active threads have called it equally often. Every one of them must call it.
  void Barrier();
  // Of the last Run: how long its threads slept, and spun before that, waiting for others; nanoseconds of all together.
  int64_t waited() const { return waited_.load(std::memory_order_relaxed); }

 private:
  struct Worker {
    ThreadTeam* team;
    int thread;
    pthread_t handle;
    WaitCounter runs;  // that it had a part in
  };
  explicit ThreadTeam(int threads) : threads_(threads), workers_(static_cast<size_t>(threads - 1)) {}
  static void* WorkerMain(void* argument);
  // Begins a run of the first so many workers.
  void Announce(int workers);

  const int threads_;
  int started_ = 0;  // workers that exist
  std::vector<Worker> workers_;
  std::vector<int> caller_cpus_;  // of a pinned team: where its caller may run after it
  Work work_ = nullptr;           // nullptr: leave
  void* context_ = nullptr;
  uint64_t active_ = 0, arrived_ = 0;  // threads of this run; arrivals before it
  WaitCounter arrivals_;
  alignas(64) std::atomic<int64_t> waited_{0};
};

}  // namespace sinter
