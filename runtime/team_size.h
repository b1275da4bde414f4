// How many threads of a team shall work when other processes take their cores. Asked and told by Workspace, run by run.
//
// All threads wait at a barrier for the one that has to share its core: of two threads with one such neighbour each
// token then takes twice as long or, when the system puts both on one core, as they take turns at every barrier, many
// times as long. One thread fewer gives its core away and waits for nobody. So when the threads of a team spend nearly
// half of their time waiting for one that is late, one stops for a while; then it is tried again, and each time that it
// fails the while is twice as long. Results do not depend on the number of threads.
#pragma once

#include <cstdint>

namespace sinter {

class TeamSize {
 public:
  explicit TeamSize(int most) : most_(most), threads_(most) {}

  // In [1, most]: how many threads the next run shall have.
  int threads() const { return threads_; }
  // After a run of so many threads: what it took, and how long all of them together waited for others longer than a
  // team does whose threads all run, in nanoseconds.
  void Ran(int64_t took, int64_t waited);

 private:
  const int most_;
  int threads_;
  int64_t took_ = 0, waited_ = 0;  // since it was last judged
  int64_t rest_ = 0;               // until one thread more is tried
  int64_t next_rest_ = kShortestRest;

  static constexpr double kLate = 0.4;            // of its time that a thread waits, when another has half a core
  static constexpr int64_t kJudged = 10'000'000;  // ns of running: several time slices of the system
  static constexpr int64_t kShortestRest = 20'000'000, kLongestRest = 640'000'000;
};

}  // namespace sinter
