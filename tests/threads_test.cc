// The team under stress, and how its threads share out grains; built with the thread sanitizer it also shows that the
// barrier orders plain memory.
#include "runtime/threads.h"

#include <gtest/gtest.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "runtime/cpu.h"
#include "runtime/grain_shares.h"
#include "runtime/team_size.h"

namespace sinter {
namespace {

class Team : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Counts, Team, ::testing::Values(1, 2, 3, 4, 7, 16));

struct alignas(64) Cell {
  int64_t value = 0;
};

// Each round every thread writes its own cell, and after a barrier reads those of all others.
struct Rounds {
  ThreadTeam* team;
  std::vector<Cell> cells;
  std::vector<Cell> wrong;
  int rounds;
  int slow_every = 0;  // rounds between naps long enough for the others to sleep on the futex
};

void Walk(void* context, int thread) {
  Rounds& r = *static_cast<Rounds*>(context);
  const size_t n = r.cells.size(), me = static_cast<size_t>(thread);
  for (int round = 1; round <= r.rounds; ++round) {
    if (r.slow_every != 0 && round % r.slow_every == 0 && (round / r.slow_every) % static_cast<int>(n) == thread) {
      usleep(300);
    }
    r.cells[me].value += static_cast<int64_t>(me) + 1;
    r.team->Barrier();
    for (size_t i = 0; i < n; ++i) {
      if (r.cells[i].value % (static_cast<int64_t>(i) + 1) != 0 || r.cells[i].value == 0) ++r.wrong[me].value;
      if (r.cells[i].value / (static_cast<int64_t>(i) + 1) != r.cells[me].value / (thread + 1)) ++r.wrong[me].value;
    }
    r.team->Barrier();
  }
}

TEST_P(Team, BarriersOrderMemory) {
  const std::unique_ptr<ThreadTeam> team = *ThreadTeam::Create(GetParam());
  const size_t n = static_cast<size_t>(GetParam());
  Rounds r = {team.get(), std::vector<Cell>(n), std::vector<Cell>(n), 20};
  for (int run = 0; run < 20; ++run) team->Run(team->threads(), Walk, &r);
  for (size_t i = 0; i < n; ++i) {
    EXPECT_EQ(r.cells[i].value, static_cast<int64_t>(i + 1) * 20 * 20);
    EXPECT_EQ(r.wrong[i].value, 0);
  }
}

TEST_P(Team, SleepersAreWoken) {
  const std::unique_ptr<ThreadTeam> team = *ThreadTeam::Create(GetParam());
  const size_t n = static_cast<size_t>(GetParam());
  Rounds r = {team.get(), std::vector<Cell>(n), std::vector<Cell>(n), 60, 3};
  for (int run = 0; run < 3; ++run) {
    team->Run(team->threads(), Walk, &r);
    usleep(2000);  // the workers fall asleep between runs
  }
  for (size_t i = 0; i < n; ++i) EXPECT_EQ(r.wrong[i].value, 0);
}

// As many short runs as possible, so that announcing one races with the end of the one before.
TEST_P(Team, EveryThreadRunsOnceARun) {
  const std::unique_ptr<ThreadTeam> team = *ThreadTeam::Create(GetParam());
  std::vector<Cell> counts(static_cast<size_t>(GetParam()));
  for (int run = 0; run < 500; ++run) {
    team->Run(
        team->threads(),
        [](void* c, int thread) { ++(*static_cast<std::vector<Cell>*>(c))[static_cast<size_t>(thread)].value; },
        &counts);
    for (const Cell& count : counts) ASSERT_EQ(count.value, run + 1);
  }
}

// Runs of some of the threads between those of all: nobody runs too often, too rarely, or in place of another.
TEST_P(Team, RunsOfSomeOfTheThreads) {
  const std::unique_ptr<ThreadTeam> team = *ThreadTeam::Create(GetParam());
  const auto n = static_cast<size_t>(GetParam());
  for (int run = 0; run < 500; ++run) {
    const auto active = static_cast<size_t>(run) % n + 1;
    Rounds r = {team.get(), std::vector<Cell>(active), std::vector<Cell>(active), 2};
    team->Run(static_cast<int>(active), Walk, &r);
    for (size_t i = 0; i < active; ++i) {
      ASSERT_EQ(r.wrong[i].value, 0);
      ASSERT_EQ(r.cells[i].value, static_cast<int64_t>(i + 1) * 2);
    }
  }
}

TEST(Team, SaysHowLongItsThreadsWaited) {
  const std::unique_ptr<ThreadTeam> team = *ThreadTeam::Create(3);
  const auto late = [](void*, int thread) {
    if (thread == 1) usleep(20000);
  };
  team->Run(3, late, nullptr);
  EXPECT_GE(team->waited(), 15'000'000) << "the caller waited for one that napped for 20 ms";
  team->Run(1, late, nullptr);
  EXPECT_EQ(team->waited(), 0);
}

// Runs of a millisecond each, until `until` ms have passed; returns how much of that was spent with all threads.
double ShareOfAll(TeamSize& size, int most, int until, double (*waiting)(int threads)) {
  int all = 0;
  for (int ms = 0; ms < until; ++ms) {
    all += size.threads() == most;
    EXPECT_GE(size.threads(), 1);
    EXPECT_LE(size.threads(), most);
    size.Ran(1'000'000, static_cast<int64_t>(1e6 * waiting(size.threads())));
  }
  return static_cast<double>(all) / until;
}

TEST(TeamSize, GivesWayToANeighbourAndComesBack) {
  for (int most : {1, 2, 3, 8, 64}) {
    TeamSize size(most);
    EXPECT_EQ(size.threads(), most);
    // All run: what little they wait changes nothing. One that comes late once neither.
    EXPECT_EQ(ShareOfAll(size, most, 1000, [](int threads) { return 0.05 * threads; }), 1);
    size.Ran(4'000'000, 3'500'000 * (most - 1));
    EXPECT_EQ(ShareOfAll(size, most, 1000, [](int) { return 0.0; }), 1);
    if (most == 1) continue;
    // One shares its core: the others wait half of the time, unless there is one thread fewer.
    static int crowded;
    crowded = most;
    const auto half = [](int threads) { return threads == crowded ? 0.5 * (threads - 1) : 0.0; };
    EXPECT_LT(ShareOfAll(size, most, 10000, half), 0.1);
    EXPECT_GE(size.threads(), most - 1) << "one was enough";
    // It is gone: after the longest while at most, all work again.
    ShareOfAll(size, most, 700, [](int) { return 0.0; });
    EXPECT_EQ(ShareOfAll(size, most, 1000, [](int) { return 0.0; }), 1);
  }
}

TEST(TeamSize, GoesDownToOneThread) {
  TeamSize size(8);
  ShareOfAll(size, 8, 100, [](int threads) { return threads - 1.0; });
  EXPECT_EQ(size.threads(), 1);
}

using Range = std::pair<int64_t, int64_t>;

std::vector<Range> TakenBy(GrainShares& shares, int thread, int threads) {
  std::vector<Range> taken;
  for (Range range; shares.Take(thread, threads, range.first, range.second);) taken.push_back(range);
  return taken;
}

TEST(GrainShares, OwnersTakeFromTheFrontAndOthersFromTheBack) {
  GrainShares shares(3);
  shares.Deal(0, 0, 0);
  shares.Deal(1, 10, 20);
  shares.Deal(2, 20, 21);
  Range range;
  ASSERT_TRUE(shares.Take(1, 3, range.first, range.second));
  EXPECT_EQ(range, Range(10, 15));
  ASSERT_TRUE(shares.Take(0, 3, range.first, range.second));
  EXPECT_EQ(range, Range(17, 20));
  EXPECT_EQ(TakenBy(shares, 1, 2), (std::vector<Range>{{15, 16}, {16, 17}}));
  EXPECT_EQ(TakenBy(shares, 0, 2), std::vector<Range>());  // thread 2 has no part in it
  EXPECT_EQ(TakenBy(shares, 0, 3), (std::vector<Range>{{20, 21}}));
  shares.Deal(0, GrainShares::kMostGrains - 1, GrainShares::kMostGrains);
  EXPECT_EQ(TakenBy(shares, 0, 3), (std::vector<Range>{{GrainShares::kMostGrains - 1, GrainShares::kMostGrains}}));
}

// Rounds as a workspace walks them: dealt before the barrier, in turn from two. Thread 0 naps now and then.
struct SharedRounds {
  ThreadTeam* team;
  GrainShares shares[2];
  std::vector<int> times;       // that each grain was taken
  std::vector<Cell> of_others;  // of each thread
};

TEST_P(Team, EachGrainIsTakenOnce) {
  constexpr int64_t kGrains = 997;
  constexpr int kRounds = 200;
  const int threads = GetParam();
  const std::unique_ptr<ThreadTeam> team = *ThreadTeam::Create(threads);
  SharedRounds rounds = {team.get(),
                         {GrainShares(threads), GrainShares(threads)},
                         std::vector<int>(kGrains),
                         std::vector<Cell>(static_cast<size_t>(threads))};
  const auto walk = [](void* context, int thread) {
    SharedRounds& r = *static_cast<SharedRounds*>(context);
    const int of = r.team->threads();
    const int64_t first = FirstOfPart(kGrains, thread, of), last = FirstOfPart(kGrains, thread + 1, of);
    for (int round = 0; round < kRounds; ++round) {
      GrainShares& shares = r.shares[round % 2];
      const bool shared = (round + thread) % 3 != 0;  // or its own part is the thread's
      if (shared) shares.Deal(thread, first, last);
      r.team->Barrier();
      if (thread == 0 && round % 50 == 0) usleep(2000);
      if (!shared) {
        for (int64_t i = first; i < last; ++i) ++r.times[static_cast<size_t>(i)];
        continue;
      }
      for (int64_t begin, end; shares.Take(thread, of, begin, end);) {
        for (int64_t i = begin; i < end; ++i) ++r.times[static_cast<size_t>(i)];
        if (begin < first || end > last) r.of_others[static_cast<size_t>(thread)].value += end - begin;
      }
    }
  };
  team->Run(threads, walk, &rounds);
  EXPECT_EQ(rounds.times, std::vector<int>(kGrains, kRounds));
  int64_t of_others = 0;
  for (const Cell& cell : rounds.of_others) of_others += cell.value;
  EXPECT_EQ(of_others > 0, threads > 1);
}

TEST(Team, IdleWorkersUseNoCpu) {
  const std::unique_ptr<ThreadTeam> team = *ThreadTeam::Create(4);
  team->Run(
      team->threads(), [](void*, int) {}, nullptr);
  usleep(20000);
  timespec before, after;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
  usleep(300000);
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
  const double used =
      static_cast<double>(after.tv_sec - before.tv_sec) + static_cast<double>(after.tv_nsec - before.tv_nsec) * 1e-9;
  EXPECT_LT(used, 0.1) << "three spinning workers would have used 0.9 s, or what cores there are";
}

TEST(Team, PinnedThreadsStayOnTheirCpus) {
  const std::vector<int> cpus = AffinityCpus();
  ASSERT_FALSE(cpus.empty());
  const int threads = static_cast<int>(std::min<size_t>(cpus.size(), 4));
  {
    const std::unique_ptr<ThreadTeam> team = *ThreadTeam::Create(threads, cpus);
    std::vector<std::vector<int>> seen(static_cast<size_t>(threads));
    team->Run(
        threads,
        [](void* c, int thread) {
          (*static_cast<std::vector<std::vector<int>>*>(c))[static_cast<size_t>(thread)] = AffinityCpus();
        },
        &seen);
    for (size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], std::vector<int>{cpus[i]});
  }
  EXPECT_EQ(AffinityCpus(), cpus) << "the caller may run where it could before";

  const std::vector<int> one = {cpus[0]};
  EXPECT_EQ(ThreadTeam::Create(2, one).status().code(), absl::StatusCode::kOutOfRange);
  const std::vector<int> none = {1 << 14};
  EXPECT_EQ(ThreadTeam::Create(1, none).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(AffinityCpus(), cpus);
}

TEST(Team, StartsAndStopsQuickly) {
  for (int i = 0; i < 200; ++i) {
    const std::unique_ptr<ThreadTeam> team = *ThreadTeam::Create(1 + i % 5);
    if (i % 2 != 0) continue;
    team->Run(
        team->threads(), [](void*, int) {}, nullptr);
  }
}

}  // namespace
}  // namespace sinter
