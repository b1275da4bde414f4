#include "runtime/cpu.h"

#include <cpuid.h>
#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/out_of_memory.h"
#include "runtime/cgroup.h"
#include "runtime/features.h"

namespace sinter {
namespace {

// The state components that the operating system saves (XCR0), 0 where it has not enabled XGETBV.
uint64_t EnabledState() {
  uint32_t a, b, c, d;
  constexpr uint32_t kOsXsave = 1u << 27;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & kOsXsave) == 0) return 0;
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

bool CpuHas(const CpuFeature& row, uint64_t enabled_state) {
  uint32_t registers[4];
  // A subleaf past the last one answers like another: leaf 7 says in EAX of subleaf 0 how many it has.
  if (row.subleaf > 0) {
    if (!__get_cpuid_count(row.leaf, 0, &registers[0], &registers[1], &registers[2], &registers[3])) return false;
    if (registers[EAX] < row.subleaf) return false;
  }
  if (!__get_cpuid_count(row.leaf, row.subleaf, &registers[0], &registers[1], &registers[2], &registers[3])) {
    return false;
  }
  return (registers[row.reg] >> row.bit & 1) != 0 && (enabled_state & row.os_state) == row.os_state;
}

// "0-3,8" as a set of numbers.
std::set<int> ParseCpuList(absl::string_view text) {
  std::set<int> cpus;
  for (absl::string_view part : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    const std::pair<absl::string_view, absl::string_view> ends = absl::StrSplit(part, absl::MaxSplits('-', 1));
    int first, last;
    if (!absl::SimpleAtoi(ends.first, &first)) continue;
    if (ends.second.empty() || !absl::SimpleAtoi(ends.second, &last)) last = first;
    for (int cpu = first; cpu <= std::min(last, first + 65535); ++cpu) cpus.insert(cpu);
  }
  return cpus;
}

// Quota over period of one cgroup folder; nothing when it states no limit.
std::optional<double> QuotaOf(const std::string& folder, bool v2) {
  double quota, period;
  if (v2) {
    const std::vector<std::string> parts = absl::StrSplit(ReadSystemFile(folder + "/cpu.max"), ' ');
    if (parts.size() != 2 || !absl::SimpleAtod(parts[0], &quota) || !absl::SimpleAtod(parts[1], &period)) return {};
  } else if (!absl::SimpleAtod(ReadSystemFile(folder + "/cpu.cfs_quota_us"), &quota) ||
             !absl::SimpleAtod(ReadSystemFile(folder + "/cpu.cfs_period_us"), &period)) {
    return {};
  }
  if (quota <= 0 || period <= 0) return {};
  return quota / period;
}

// The tightest CPU quota of the groups of this process.
std::optional<double> CgroupQuota(const std::string& root) {
  std::optional<double> tightest;
  VisitCgroups(root, "cpu", [&](const std::string& folder, bool v2) {
    const std::optional<double> quota = QuotaOf(folder, v2);
    if (quota && (!tightest || *quota < *tightest)) tightest = quota;
  });
  return tightest;
}

}  // namespace

const std::vector<std::string>& AllCpuFeatures() {
  static const std::vector<std::string>& names = *new std::vector<std::string>([] {
    std::vector<std::string> all;
    for (const CpuFeature& row : kCpuFeatures) all.emplace_back(row.name);
    return all;
  }());
  return names;
}

const std::vector<std::string>& HostCpuFeatures() {
  static const std::vector<std::string>& names = *new std::vector<std::string>([] {
    std::vector<std::string> host;
    const uint64_t enabled_state = EnabledState();
    for (const CpuFeature& row : kCpuFeatures) {
      if (CpuHas(row, enabled_state)) host.emplace_back(row.name);
    }
    return host;
  }());
  return names;
}

bool HostHas(absl::string_view feature) {
  const std::vector<std::string>& host = HostCpuFeatures();
  return std::find(host.begin(), host.end(), feature) != host.end();
}

std::string HostCpuName() {
  constexpr uint32_t kFirstLeaf = 0x80000002, kLastLeaf = 0x80000004;
  uint32_t words[12];
  if (__get_cpuid_max(0x80000000, nullptr) < kLastLeaf) return "unknown CPU";
  for (uint32_t i = 0; i <= kLastLeaf - kFirstLeaf; ++i) {
    uint32_t* w = words + 4 * i;
    __cpuid(kFirstLeaf + i, w[0], w[1], w[2], w[3]);
  }
  char name[sizeof words + 1] = {};
  std::memcpy(name, words, sizeof words);
  return OrNothing([&] { return std::string(absl::StripAsciiWhitespace(name)); }, "unknown CPU");
}

std::vector<int> AffinityCpus() {
  return OrNothing([] {
    std::vector<int> cpus;
    for (int capacity = CPU_SETSIZE; capacity <= 1 << 20; capacity *= 2) {
      const auto free = [](cpu_set_t* set) { CPU_FREE(set); };
      const std::unique_ptr<cpu_set_t, decltype(free)> set(CPU_ALLOC(capacity), free);
      if (set == nullptr) break;
      const size_t bytes = CPU_ALLOC_SIZE(capacity);
      if (sched_getaffinity(0, bytes, set.get()) != 0) continue;
      for (int cpu = 0; cpu < capacity; ++cpu) {
        if (CPU_ISSET_S(cpu, bytes, set.get())) cpus.push_back(cpu);
      }
      break;
    }
    return cpus;
  });
}

namespace {

ThreadBudget FindBudget(absl::Span<const int> cpus, const std::string& root) {
  std::vector<int> usable(cpus.begin(), cpus.end());

  // A hybrid CPU lists its fast kind here; any other has no such file.
  const std::set<int> fast = ParseCpuList(ReadSystemFile(root + "/sys/devices/cpu_core/cpus"));
  std::vector<int> fast_usable;
  for (int cpu : usable) {
    if (fast.count(cpu) != 0) fast_usable.push_back(cpu);
  }
  if (!fast_usable.empty()) usable = fast_usable;

  // Hardware threads of one core list the same siblings; a CPU without the file is a core of its own.
  std::set<std::string> cores;
  for (int cpu : usable) {
    const std::string siblings =
        ReadSystemFile(absl::StrCat(root, "/sys/devices/system/cpu/cpu", cpu, "/topology/thread_siblings_list"));
    cores.insert(siblings.empty() ? absl::StrCat("cpu", cpu) : siblings);
  }
  ThreadBudget budget;
  budget.threads = std::max<int>(1, static_cast<int>(cores.size()));

  const std::optional<double> quota = CgroupQuota(root);
  if (quota) budget.threads = static_cast<int>(std::min<double>(budget.threads, std::max(1.0, *quota)));
  budget.reason =
      absl::StrCat(budget.threads, budget.threads == 1 ? " thread" : " threads", " (affinity ", cpus.size(),
                   fast_usable.empty() ? "" : absl::StrCat(", fast kind ", fast_usable.size()), ", physical cores ",
                   cores.size(), ", cgroup quota ", quota ? absl::StrCat(*quota) : "none", ")");
  return budget;
}

}  // namespace

ThreadBudget ThreadsFor(absl::Span<const int> cpus, const std::string& root) {
  return OrNothing([&] { return FindBudget(cpus, root); }, {1, "1 thread"});
}

ThreadBudget DefaultThreads() { return ThreadsFor(AffinityCpus(), ""); }

}  // namespace sinter
