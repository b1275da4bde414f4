// CPU features, and the thread budget over made-up /proc and /sys trees.
#include "runtime/cpu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace sinter {
namespace {

using ::testing::HasSubstr;

class Machine {
 public:
  Machine() : root_(::testing::TempDir() + "cpu_test_" + std::to_string(getpid()) + "_" + std::to_string(next_++)) {}
  ~Machine() { std::filesystem::remove_all(root_); }
  Machine& File(const std::string& path, const std::string& content) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << content << "\n";
    return *this;
  }
  Machine& Siblings(int cpu, const std::string& list) {
    return File("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list", list);
  }
  ThreadBudget Budget(std::vector<int> cpus) { return ThreadsFor(cpus, root_); }

 private:
  static inline int next_ = 0;
  std::string root_;
};

TEST(Threads, WithoutFilesEachCpuIsACore) {
  Machine machine;
  const ThreadBudget budget = machine.Budget({0, 1, 5});
  EXPECT_EQ(budget.threads, 3);
  EXPECT_EQ(budget.reason, "3 threads (affinity 3, physical cores 3, cgroup quota none)");
  EXPECT_EQ(machine.Budget({}).threads, 1);
}

TEST(Threads, SiblingsCountOnce) {
  Machine machine;
  machine.Siblings(0, "0,2").Siblings(2, "0,2").Siblings(1, "1,3").Siblings(3, "1,3");
  EXPECT_EQ(machine.Budget({0, 1, 2, 3}).threads, 2);
  EXPECT_EQ(machine.Budget({0, 2}).threads, 1);
  EXPECT_EQ(machine.Budget({1, 2}).threads, 2);
}

TEST(Threads, TheFastKindAlone) {
  Machine machine;
  machine.File("/sys/devices/cpu_core/cpus", "0-3");
  machine.Siblings(0, "0-1").Siblings(1, "0-1").Siblings(2, "2-3").Siblings(3, "2-3");
  const ThreadBudget budget = machine.Budget({0, 1, 2, 3, 4, 5, 6, 7});
  EXPECT_EQ(budget.threads, 2);
  EXPECT_EQ(budget.reason, "2 threads (affinity 8, fast kind 4, physical cores 2, cgroup quota none)");
  EXPECT_EQ(machine.Budget({4, 5}).threads, 2);  // bound to the slow kind
}

TEST(Threads, CgroupV2QuotaOfAnyAncestorRoundedDown) {
  Machine machine;
  machine.File("/proc/self/cgroup", "0::/a/b");
  machine.File("/sys/fs/cgroup/a/b/cpu.max", "max 100000");
  EXPECT_EQ(machine.Budget({0, 1, 2, 3}).threads, 4);
  machine.File("/sys/fs/cgroup/a/cpu.max", "290000 100000");
  EXPECT_EQ(machine.Budget({0, 1, 2, 3}).threads, 2);
  EXPECT_THAT(machine.Budget({0, 1, 2, 3}).reason, HasSubstr("cgroup quota 2.9"));
  machine.File("/sys/fs/cgroup/cpu.max", "50000 100000");
  EXPECT_EQ(machine.Budget({0, 1, 2, 3}).threads, 1);
}

TEST(Threads, CgroupV1Quota) {
  Machine machine;
  machine.File("/proc/self/cgroup", "3:memory:/x\n2:cpu,cpuacct:/pod/x\n0::/");
  machine.File("/sys/fs/cgroup/cpu/pod/x/cpu.cfs_quota_us", "-1");
  machine.File("/sys/fs/cgroup/cpu/pod/x/cpu.cfs_period_us", "100000");
  EXPECT_EQ(machine.Budget({0, 1, 2, 3}).threads, 4);
  machine.File("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "300000");
  machine.File("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000");
  EXPECT_EQ(machine.Budget({0, 1, 2, 3}).threads, 3);
}

TEST(Threads, MalformedFilesStateNoLimit) {
  Machine machine;
  machine.File("/proc/self/cgroup", "nonsense\n0::");
  machine.File("/sys/fs/cgroup/cpu.max", "100000");
  machine.File("/sys/devices/cpu_core/cpus", "x,9-2,");
  EXPECT_EQ(machine.Budget({0, 1}).threads, 2);
}

TEST(Threads, ThisMachine) {
  const ThreadBudget budget = DefaultThreads();
  EXPECT_GE(budget.threads, 1);
  EXPECT_THAT(budget.reason, HasSubstr("affinity"));
}

// The kernel's own list is the judge: it hides what the operating system has not enabled.
TEST(Features, AgreeWithProcCpuinfo) {
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::string flags;
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.rfind("flags", 0) == 0) {
      flags = line + " ";
      break;
    }
  }
  if (flags.empty()) GTEST_SKIP() << "no flags in /proc/cpuinfo";
  for (const std::string& feature : AllCpuFeatures()) {
    EXPECT_EQ(HostHas(feature), flags.find(" " + feature + " ") != std::string::npos) << feature;
  }
  EXPECT_FALSE(HostHas("avx9"));
  EXPECT_FALSE(HostCpuName().empty());
}

}  // namespace
}  // namespace sinter
