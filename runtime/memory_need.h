// How much memory running a module takes, and how much there is: known before anything is opened, so that what is too
// large is one error with its figures and no process that is killed halfway. Called by the command line and by whoever
// embeds the runtime, between CompiledModule::Open and Workspace::Open.
//
// All figures are bytes. What counts depends on who limits it:
//   kResident   physical memory (cgroups, MemAvailable): states + arena + threads + other, and of the weights what is
//               made in memory. Weights in a mapped file do not count: the system takes their pages back when it needs
//               them, and reads them again, so a module larger than memory runs, slowly. Nor do pages that the process
//               holds already.
//   kWritable   RLIMIT_DATA: states + arena + threads + stacks + other, and weights copied to huge pages
//   kMapped     RLIMIT_AS: the same, and weights in a memory file, since each mapping counts whole
// States count whole, at their full context, although pages that no token has reached are not there yet: a sequence
// that was opened must be able to fill its context.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "runtime/module.h"

namespace sinter {

enum class WeightsPlace {
  kFile,        // of a mapped file
  kMemoryFile,  // still to be made, in a file in memory: a module that is compiled to be run
  kMemory,      // there already, in such a file
  kCopy,        // still to be copied: MoveWeightsToHugePages
};

struct MemoryNeed {
  int64_t weights_bytes = 0;
  WeightsPlace weights = WeightsPlace::kFile;
  int64_t state_bytes = 0;  // of one sequence: the KV cache of a language model
  int64_t positions = 0;    // of the states; 0 when they have none
  int64_t arena_bytes = 0;
  int64_t thread_bytes = 0;  // arenas and scratch of all threads
  int64_t stack_bytes = 0;   // address space of the stacks of the threads that a workspace starts
  int64_t other_bytes = 0;   // what the caller adds: logits, results
};

// Of one workspace with so many threads and one sequence, both for entry `entry` and its NAME.N.
MemoryNeed NeedToRun(const CompiledModule& module, int threads, WeightsPlace weights = WeightsPlace::kFile,
                     absl::string_view entry = "main");

struct MemoryLimit {
  enum class Counts { kResident, kWritable, kMapped };
  int64_t available = 0;
  Counts counts = Counts::kResident;
  std::string source;  // "MemAvailable", "memory.max of cgroup /a", "RLIMIT_AS (ulimit -v)"
};
int64_t BytesFor(const MemoryNeed& need, MemoryLimit::Counts counts);

// Of the machine and of each cgroup on the way to the root, of v2 and v1: its limit less its use, where pages of files
// are no use. `root` is put in front of /proc and /sys. Without memory to read them there are none.
std::vector<MemoryLimit> SystemMemoryLimits(const std::string& root);
// Those, and the limits of this process (setrlimit).
std::vector<MemoryLimit> MemoryLimits();

// kResourceExhausted when the need exceeds a limit, in one line: `name`, the figures, what is available and by whose
// limit. `change_context` says how the context is chosen ("--ctx"), and the line then ends with the largest that fits
// beside arena and threads as they are (which never grow when the context shrinks), or says that none does; "" where it
// cannot be chosen. `beside`: what else is open already; its mappings count, but maybe not yet its pages.
absl::Status CheckMemory(absl::string_view name, const MemoryNeed& need, absl::Span<const MemoryLimit> limits,
                         absl::string_view change_context = "", absl::Span<const MemoryNeed> beside = {});

}  // namespace sinter
