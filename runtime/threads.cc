#include "runtime/threads.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "runtime/cpu.h"

namespace sinter {
namespace {

constexpr int64_t kSpinNanoseconds = 50'000;
constexpr int kPausesPerClockRead = 64;

int64_t Now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1'000'000'000 + t.tv_nsec;
}

// The futex word is the low half of the counter (x86 is little-endian): a sleeper would miss its wake only if the
// counter grew by an exact multiple of 2^32 between its last look and its sleep.
long Futex(std::atomic<uint64_t>& word, int operation, uint32_t value) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), operation | FUTEX_PRIVATE_FLAG, value, nullptr, nullptr,
                 0);
}

// Lets a thread run on these CPUs alone.
absl::Status SetAffinity(pthread_t thread, absl::Span<const int> cpus) {
  const int capacity = *std::max_element(cpus.begin(), cpus.end()) + 1;
  cpu_set_t* set = CPU_ALLOC(capacity);
  if (set == nullptr) return absl::ResourceExhaustedError("no memory for a set of CPUs");
  const size_t bytes = CPU_ALLOC_SIZE(capacity);
  CPU_ZERO_S(bytes, set);
  for (int cpu : cpus) CPU_SET_S(cpu, bytes, set);
  const int error = pthread_setaffinity_np(thread, bytes, set);
  CPU_FREE(set);
  if (error == 0) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("cannot keep a thread on CPU ", cpus[0], ": ", strerror(error)));
}

}  // namespace

// Add, then the look at sleepers_; in Wait, sleepers_ grows and then the counter is looked at: in the one order of
// these sequentially consistent operations either the waker sees the sleeper or the sleeper sees the new count.
void WaitCounter::Wake() {
  if (sleepers_.load(std::memory_order_seq_cst) != 0) Futex(value_, FUTEX_WAKE, INT_MAX);
}

int64_t WaitCounter::Wait(uint64_t target) {
  int64_t deadline = 0;
  do {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      if (value_.load(std::memory_order_acquire) >= target) return 0;
      __builtin_ia32_pause();
    }
    if (deadline == 0) deadline = Now() + kSpinNanoseconds;
  } while (Now() < deadline);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  while (true) {
    const uint64_t value = value_.load(std::memory_order_seq_cst);
    if (value >= target) break;
    Futex(value_, FUTEX_WAIT, static_cast<uint32_t>(value));
  }
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
  return Now() - deadline + kSpinNanoseconds;
}

absl::StatusOr<std::unique_ptr<ThreadTeam>> ThreadTeam::Create(int threads, absl::Span<const int> cpus) {
  if (!cpus.empty() && cpus.size() < static_cast<size_t>(threads)) {
    return absl::OutOfRangeError(absl::StrCat("cannot pin ", threads, " threads to ", cpus.size(), " CPUs"));
  }
  std::unique_ptr<ThreadTeam> team(new ThreadTeam(threads));
  // Workers take no signals of the process: those go to the caller's threads. What a thread does to itself, such as
  // reading a page of a file that was cut short, must reach its handler: blocked, it ends the process.
  sigset_t others, before;
  sigfillset(&others);
  for (int own : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGSYS}) sigdelset(&others, own);
  pthread_sigmask(SIG_SETMASK, &others, &before);
  int error = 0;
  for (int i = 1; i < threads && error == 0; ++i) {
    Worker& worker = team->workers_[static_cast<size_t>(i - 1)];
    worker.team = team.get();
    worker.thread = i;
    error = pthread_create(&worker.handle, nullptr, WorkerMain, &worker);
    if (error != 0) break;
    ++team->started_;
    char name[24];  // no memory of the heap, whose end would leave a thread that nobody joins
    std::snprintf(name, sizeof name, "sinter-%d", i);
    pthread_setname_np(worker.handle, name);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error != 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot start thread ", team->started_ + 1, " of ", threads, ": ", strerror(error)));
  }
  if (cpus.empty()) return team;
  for (size_t i = 0; i < team->workers_.size(); ++i) {
    SINTER_RETURN_IF_ERROR(SetAffinity(team->workers_[i].handle, cpus.subspan(i + 1, 1)));
  }
  std::vector<int> caller_cpus = AffinityCpus();
  if (caller_cpus.empty()) return OutOfMemory("reading on which CPUs the caller may run");
  SINTER_RETURN_IF_ERROR(SetAffinity(pthread_self(), cpus.first(1)));
  team->caller_cpus_ = std::move(caller_cpus);
  return team;
}

ThreadTeam::~ThreadTeam() {
  work_ = nullptr;
  Announce(started_);
  for (int i = 0; i < started_; ++i) pthread_join(workers_[static_cast<size_t>(i)].handle, nullptr);
  if (!caller_cpus_.empty()) (void)SetAffinity(pthread_self(), caller_cpus_).ok();  // or it stays where it is
}

void ThreadTeam::Announce(int workers) {
  for (int i = 0; i < workers; ++i) {
    WaitCounter& runs = workers_[static_cast<size_t>(i)].runs;
    runs.Add();
    runs.Wake();
  }
}

void ThreadTeam::Run(int active, Work work, void* context) {
  waited_.store(0, std::memory_order_relaxed);
  work_ = work;
  context_ = context;
  active_ = static_cast<uint64_t>(active);
  arrived_ = arrivals_.value();  // those of the last run's end are all counted: its Barrier waited for them
  Announce(active - 1);
  work(context, 0);
  Barrier();
}

void ThreadTeam::Barrier() {
  // The k-th barrier of a run is complete at k * active_ arrivals, and nobody arrives at the next before it is.
  const uint64_t arrival = arrivals_.Add() - arrived_;
  const uint64_t complete = (arrival + active_ - 1) / active_ * active_;
  if (arrival == complete) {
    arrivals_.Wake();
  } else if (const int64_t waited = arrivals_.Wait(arrived_ + complete); waited != 0) {
    waited_.fetch_add(waited, std::memory_order_relaxed);
  }
}

void* ThreadTeam::WorkerMain(void* argument) {
  Worker& worker = *static_cast<Worker*>(argument);
  ThreadTeam& team = *worker.team;
  for (uint64_t run = 1;; ++run) {
    worker.runs.Wait(run);
    if (team.work_ == nullptr) return nullptr;
    team.work_(team.context_, worker.thread);
    // The end of the run is a barrier that the workers need not wait for: the caller does.
    const uint64_t active = team.active_, arrived = team.arrived_;  // the caller's again once it has arrived
    if ((team.arrivals_.Add() - arrived) % active == 0) team.arrivals_.Wake();
  }
}

}  // namespace sinter
