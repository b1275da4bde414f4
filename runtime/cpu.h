// What this machine has: CPU features (with the operating system's consent) and the threads that the process may really
// use. What memory runs out for is as if the machine did not say: an unknown CPU, no list of CPUs, one thread.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sinter {

// Names of all rows of features.inc, and of those that this CPU has and the operating system has enabled (XCR0).
const std::vector<std::string>& AllCpuFeatures();
const std::vector<std::string>& HostCpuFeatures();
bool HostHas(absl::string_view feature);
// "AMD EPYC 9R14", from CPUID.
std::string HostCpuName();

// The CPUs on which the calling thread may run, ascending.
std::vector<int> AffinityCpus();

struct ThreadBudget {
  int threads = 1;
  std::string reason;  // "2 threads (affinity 4, physical cores 2, cgroup quota none)"
};

// min(affinity mask, floor of the cgroup CPU quota, physical cores of the fastest kind), at least 1.
ThreadBudget DefaultThreads();
// The same for a process that may run on `cpus`, with /proc and /sys read below `root` ("" is the machine itself).
ThreadBudget ThreadsFor(absl::Span<const int> cpus, const std::string& root);

}  // namespace sinter
