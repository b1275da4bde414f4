// What a run takes and what there is, over made-up /proc and /sys trees; and that what is counted is what is mapped.
#include "runtime/memory_need.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <climits>
#include <filesystem>
#include <fstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/cgroup.h"
#include "runtime/workspace.h"
#include "tests/module_builder.h"

namespace sinter {
namespace {

using Counts = MemoryLimit::Counts;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class Machine {
 public:
  Machine() : root_(absl::StrCat(::testing::TempDir(), "memory_need_test_", getpid(), "_", next_++)) {}
  ~Machine() { std::filesystem::remove_all(root_); }
  Machine& File(const std::string& path, const std::string& content) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << content << "\n";
    return *this;
  }
  // "source available" of each limit.
  std::vector<std::string> Limits() const {
    std::vector<std::string> texts;
    for (const MemoryLimit& limit : SystemMemoryLimits(root_)) {
      EXPECT_EQ(limit.counts, Counts::kResident);
      texts.push_back(absl::StrCat(limit.source, " ", limit.available));
    }
    return texts;
  }

 private:
  static inline int next_ = 0;
  std::string root_;
};

TEST(Limits, MemAvailable) {
  Machine machine;
  EXPECT_THAT(machine.Limits(), IsEmpty());
  machine.File("/proc/meminfo", "MemTotal:       1000 kB\nMemFree:         10 kB\nMemAvailable:    500 kB");
  EXPECT_THAT(machine.Limits(), ElementsAre("MemAvailable 512000"));
  machine.File("/proc/meminfo", "MemAvailable: 99999999999999999 kB");
  EXPECT_EQ(machine.Limits().size(), 1u);
  machine.File("/proc/meminfo", "MemAvailable: many kB");
  EXPECT_THAT(machine.Limits(), IsEmpty());
}

TEST(Limits, CgroupV2OnTheWholePath) {
  Machine machine;
  machine.File("/proc/self/cgroup", "0::/a/b");
  machine.File("/sys/fs/cgroup/a/b/memory.max", "max");
  machine.File("/sys/fs/cgroup/a/b/memory.current", "900");
  EXPECT_THAT(machine.Limits(), IsEmpty());
  machine.File("/sys/fs/cgroup/a/memory.max", "1000000");
  EXPECT_THAT(machine.Limits(), ElementsAre("memory.max of cgroup /a 1000000"));
  // Pages of files are given back; those of memory files (shmem) are not among them.
  machine.File("/sys/fs/cgroup/a/memory.current", "700000");
  machine.File("/sys/fs/cgroup/a/memory.stat",
               "anon 200000\nfile 500000\nshmem 100000\ninactive_file 300000\nactive_file 100000");
  EXPECT_THAT(machine.Limits(), ElementsAre("memory.max of cgroup /a 700000"));
  machine.File("/sys/fs/cgroup/memory.max", "2000000").File("/sys/fs/cgroup/memory.current", "3000000");
  EXPECT_THAT(machine.Limits(), ElementsAre("memory.max of cgroup /a 700000", "memory.max of cgroup / 0"));
  machine.File("/proc/meminfo", "MemAvailable: 1 kB");
  EXPECT_THAT(machine.Limits(),
              ElementsAre("MemAvailable 1024", "memory.max of cgroup /a 700000", "memory.max of cgroup / 0"));
}

TEST(Limits, CgroupV1AndPathsOutsideTheMount) {
  Machine machine;
  machine.File("/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/1234\n0::/");
  machine.File("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1000000");
  machine.File("/sys/fs/cgroup/memory/memory.usage_in_bytes", "600000");
  machine.File("/sys/fs/cgroup/memory/memory.stat",
               "inactive_file 1\ntotal_inactive_file 50000\ntotal_active_file 50000");
  EXPECT_THAT(machine.Limits(), ElementsAre("memory.limit_in_bytes of cgroup / 500000"));
  machine.File("/sys/fs/cgroup/memory/docker/1234/memory.limit_in_bytes", "9223372036854771712");  // none
  EXPECT_EQ(machine.Limits().size(), 1u);
  machine.File("/sys/fs/cgroup/memory/docker/1234/memory.limit_in_bytes", "4096");
  EXPECT_THAT(machine.Limits(), ElementsAre("memory.limit_in_bytes of cgroup /docker/1234 4096",
                                            "memory.limit_in_bytes of cgroup / 500000"));
  for (const char* damaged : {"", "-5", "4096 apples", "99999999999999999999999"}) {
    machine.File("/sys/fs/cgroup/memory/docker/1234/memory.limit_in_bytes", damaged);
    EXPECT_EQ(machine.Limits().size(), 1u) << damaged;
  }
}

TEST(Need, WhatCountsWhere) {
  const MemoryNeed need = {.weights_bytes = 1'000'000,
                           .state_bytes = 1000,
                           .positions = 10,
                           .arena_bytes = 100,
                           .thread_bytes = 20,
                           .stack_bytes = 50'000,
                           .other_bytes = 3};
  const auto bytes = [&](WeightsPlace place) {
    MemoryNeed placed = need;
    placed.weights = place;
    return std::vector<int64_t>{BytesFor(placed, Counts::kResident), BytesFor(placed, Counts::kWritable),
                                BytesFor(placed, Counts::kMapped)};
  };
  EXPECT_THAT(bytes(WeightsPlace::kFile), ElementsAre(1123, 51'123, 51'123));
  EXPECT_THAT(bytes(WeightsPlace::kMemory), ElementsAre(1123, 51'123, 51'123));
  EXPECT_THAT(bytes(WeightsPlace::kMemoryFile), ElementsAre(1'001'123, 51'123, 1'051'123));
  EXPECT_THAT(bytes(WeightsPlace::kCopy), ElementsAre(1'001'123, 1'051'123, 1'051'123));
  MemoryNeed huge = need;
  huge.state_bytes = huge.arena_bytes = huge.thread_bytes = huge.other_bytes = INT64_MAX;
  EXPECT_GT(BytesFor(huge, Counts::kMapped), INT64_MAX / 32);  // no overflow
}

TEST(Need, TheMessageHasTheFiguresAndTheContext) {
  const MemoryNeed need = {.weights_bytes = 3'000'000'000,
                           .state_bytes = 40'960'000,
                           .positions = 4096,
                           .arena_bytes = 2'000'000,
                           .thread_bytes = 500'000,
                           .stack_bytes = 8'000'000};
  const auto check = [&](std::vector<MemoryLimit> limits, absl::string_view change = "--ctx",
                         std::vector<MemoryNeed> beside = {}) {
    const absl::Status status = CheckMemory("m.gguf", need, limits, change, beside);
    EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
    return std::string(status.message());
  };
  EXPECT_EQ(check({}), "");
  EXPECT_EQ(check({{43'460'000, Counts::kResident, "MemAvailable"}}), "");
  EXPECT_EQ(
      check({{43'459'999, Counts::kResident, "MemAvailable"}}),
      "m.gguf: needs 43.5 MB of memory, 43.5 MB are available (MemAvailable): weights 3.00 GB (from the file, not "
      "counted), KV of 4096 positions 41.0 MB, arena 2.0 MB, threads 500.0 kB; --ctx=4095 would fit");
  EXPECT_THAT(check({{22'980'000, Counts::kResident, "MemAvailable"}}), HasSubstr("; --ctx=2048 would fit"));
  EXPECT_THAT(check({{2'500'000, Counts::kResident, "MemAvailable"}}), HasSubstr("; no --ctx would fit"));
  EXPECT_THAT(check({{22'980'000, Counts::kResident, "MemAvailable"}}, ""), Not(HasSubstr("ctx")));
  // The tightest counts, each by its own measure.
  EXPECT_THAT(
      check({{43'460'000, Counts::kResident, "MemAvailable"}, {51'000'000, Counts::kMapped, "RLIMIT_AS"}}),
      HasSubstr("needs 51.5 MB of memory, 51.0 MB are available (RLIMIT_AS): weights 3.00 GB (from the file, not "
                "counted), KV of 4096 positions 41.0 MB, arena 2.0 MB, threads 500.0 kB, their stacks 8.0 MB"));
  // What is open beside it has its pages still to come.
  EXPECT_EQ(check({{86'920'000, Counts::kResident, "MemAvailable"}}, "--ctx", {need}), "");
  EXPECT_THAT(check({{86'919'999, Counts::kResident, "MemAvailable"}}, "--ctx", {need}),
              HasSubstr("43.5 MB are available (MemAvailable, less what is open already)"));
  EXPECT_EQ(check({{51'460'000, Counts::kMapped, "RLIMIT_AS"}}, "--ctx", {need}), "") << "its mappings count already";
}

int64_t MappedBytes() {
  const std::vector<std::string> words = absl::StrSplit(ReadSystemFile("/proc/self/statm"), ' ');
  int64_t pages = 0;
  EXPECT_TRUE(absl::SimpleAtoi(words[0], &pages));
  return pages * sysconf(_SC_PAGESIZE);
}

// The figures are those of what is mapped, to a page a mapping and what the heap takes.
TEST(Need, IsWhatOpeningMaps) {
  fbs::MetadataT metadata = testing::LanguageModel();
  metadata.arena_bytes = int64_t{64} << 20;
  metadata.thread_bytes = int64_t{32} << 20;
  metadata.images[0]->scratch_bytes = int64_t{16} << 20;
  const std::shared_ptr<const CompiledModule> module = *testing::OpenBytes(testing::ModuleBytes(metadata));
  for (int threads : {1, 3}) {
    const MemoryNeed need = NeedToRun(*module, threads);
    EXPECT_EQ(need.weights_bytes, 256);
    EXPECT_EQ(need.arena_bytes, int64_t{64} << 20);
    EXPECT_EQ(need.thread_bytes, threads * (int64_t{48} << 20));
    EXPECT_EQ(need.positions, testing::kContext);
    EXPECT_EQ(need.state_bytes, testing::kContext * 4);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    continue;  // a sanitizer maps memory of its own for each thread
#endif
    const int64_t before = MappedBytes();
    const std::unique_ptr<Workspace> workspace = *Workspace::Open(module, threads);
    const std::unique_ptr<Sequence> sequence = *Sequence::Open(module);
    // glibc reserves an arena of 64 MB, twice to align it, for the heap of a thread that allocates; these do not.
    EXPECT_NEAR(static_cast<double>(MappedBytes() - before), static_cast<double>(BytesFor(need, Counts::kMapped)), 1e6)
        << threads;
  }
}

TEST(Need, StacksOfAnyNumberOfThreads) {
  rlimit old;
  ASSERT_EQ(getrlimit(RLIMIT_STACK, &old), 0);
  const rlimit large = {rlim_t{1} << 50, old.rlim_max};
  if (setrlimit(RLIMIT_STACK, &large) != 0) GTEST_SKIP() << "the hard limit of the stack is lower";
  const auto module = *testing::OpenBytes(testing::ModuleBytes(testing::LanguageModel()));
  int64_t before = 0;
  for (int threads : {1, 2, 1000, INT_MAX}) {
    const int64_t bytes = NeedToRun(*module, threads).stack_bytes;
    EXPECT_GE(bytes, before) << threads;
    EXPECT_EQ(bytes > 0, threads > 1) << threads;
    before = bytes;
  }
  setrlimit(RLIMIT_STACK, &old);
}

TEST(Need, ThisProcess) {
  const std::vector<MemoryLimit> limits = MemoryLimits();
  ASSERT_FALSE(limits.empty());
  EXPECT_EQ(limits[0].source, "MemAvailable");
  EXPECT_GT(limits[0].available, 0);
}

}  // namespace
}  // namespace sinter
