// What this machine has: CPU features (with the operating system's consent) and the threads that the process may really use.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sinter {

// Names of all rows of features.inc, and of those that this CPU has and the operating system has enabled (XCR0).
const std::vector<std::string>& AllCpuFeatures();
const std::vector<std::string>& HostCpuFeatures();
bool HostHas(absl::string_view feature);
// "AMD EPYC 9R14", from CPUID.
std::string HostCpuName();

struct ThreadBudget {
  int threads = 1;
  std::string reason;  // "2 cores (affinity 2, cgroup quota none)"
};

// min(affinity mask, floor of the cgroup CPU quota, physical cores of the fastest kind), at least 1.
ThreadBudget DefaultThreads();

}  // namespace sinter
