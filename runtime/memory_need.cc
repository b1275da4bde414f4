#include "runtime/memory_need.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/checked.h"
#include "base/out_of_memory.h"
#include "runtime/cgroup.h"

namespace sinter {
namespace {

constexpr int64_t kMost = INT64_MAX / 16;  // of one figure, so that sums of them do not overflow

int64_t Sum(std::initializer_list<int64_t> parts) {
  int64_t sum = 0;
  for (int64_t part : parts) sum += std::clamp<int64_t>(part, 0, kMost);
  return std::min(sum, kMost);
}

// The number after `key` in a file of lines "key number [unit]", in the file's own unit.
std::optional<int64_t> NumberOf(const std::string& text, absl::string_view key) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    int64_t number;
    if (words.size() >= 2 && words[0] == key && absl::SimpleAtoi(words[1], &number)) return number;
  }
  return std::nullopt;
}

std::optional<int64_t> NumberIn(const std::string& path) {
  uint64_t number;
  if (!absl::SimpleAtoi(ReadSystemFile(path), &number)) return std::nullopt;  // "max" among them
  return static_cast<int64_t>(std::min<uint64_t>(number, INT64_MAX));
}

// What a group may still take.
std::optional<MemoryLimit> LimitOf(const std::string& folder, absl::string_view name, bool v2) {
  const char* const file = v2 ? "memory.max" : "memory.limit_in_bytes";
  const std::optional<int64_t> limit = NumberIn(absl::StrCat(folder, "/", file));
  if (!limit || *limit >= kMost) return std::nullopt;  // v1 has no word for none, but a number near 2^63
  const std::string stat = ReadSystemFile(folder + "/memory.stat");
  int64_t use = NumberIn(folder + (v2 ? "/memory.current" : "/memory.usage_in_bytes")).value_or(0);
  for (const char* pages : {"inactive_file", "active_file"}) {
    use -= NumberOf(stat, absl::StrCat(v2 ? "" : "total_", pages)).value_or(0);
  }
  return MemoryLimit{std::max<int64_t>(0, *limit - std::max<int64_t>(0, use)), MemoryLimit::Counts::kResident,
                     absl::StrCat(file, " of cgroup ", name)};
}

// Decimal units, as models are measured.
std::string Text(int64_t bytes) {
  const double value = static_cast<double>(bytes);
  if (value >= 1e9) return absl::StrFormat("%.2f GB", value / 1e9);
  if (value >= 1e6) return absl::StrFormat("%.1f MB", value / 1e6);
  return absl::StrFormat("%.1f kB", value / 1e3);
}

const char* Text(WeightsPlace place) {
  switch (place) {
    case WeightsPlace::kFile:
      return "from the file, not counted";
    case WeightsPlace::kMemory:
      return "in memory already";
    case WeightsPlace::kMemoryFile:
      return "compiled into memory";
    case WeightsPlace::kCopy:
      break;
  }
  return "copied to huge pages";
}

// Address space of the stacks of so many threads, the caller's excepted.
int64_t StackBytes(int threads) {
  rlimit limit;
  constexpr int64_t kDefault = int64_t{2} << 20;  // glibc's, where the limit says unlimited
  const bool stated = getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  const int64_t each = stated ? static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, kMost)) : kDefault;
  return each > kMost / threads ? kMost : each * (threads - 1);
}

}  // namespace

MemoryNeed NeedToRun(const CompiledModule& module, int threads, WeightsPlace weights, absl::string_view entry) {
  const fbs::Metadata& metadata = module.metadata();
  threads = std::max(threads, 1);
  MemoryNeed need;
  need.weights = weights;
  need.weights_bytes = static_cast<int64_t>(module.weights_bytes());
  need.arena_bytes = metadata.arena_bytes();
  need.thread_bytes = Sum({metadata.thread_bytes(), module.scratch_bytes()});
  need.thread_bytes = need.thread_bytes > kMost / threads ? kMost : need.thread_bytes * threads;
  need.stack_bytes = StackBytes(threads);
  for (const LoadedEntry& loaded : module.entries()) {
    if (!Serves(loaded.name, entry)) continue;
    for (const LoadedState& state : loaded.states) {
      need.state_bytes = Sum({need.state_bytes, state.bytes});
      const int64_t positions = state.dims[static_cast<size_t>(state.page_axis)];
      need.positions = need.positions == 0 ? positions : std::min(need.positions, positions);
    }
    break;  // all of one graph have the same states
  }
  return need;
}

int64_t BytesFor(const MemoryNeed& need, MemoryLimit::Counts counts) {
  const bool copied = need.weights == WeightsPlace::kCopy, made = need.weights == WeightsPlace::kMemoryFile;
  const bool resident = counts == MemoryLimit::Counts::kResident;
  const bool counted = copied || (made && counts != MemoryLimit::Counts::kWritable);
  return Sum({counted ? need.weights_bytes : 0, need.state_bytes, need.arena_bytes, need.thread_bytes,
              resident ? 0 : need.stack_bytes, need.other_bytes});
}

namespace {

std::vector<MemoryLimit> FindSystemLimits(const std::string& root) {
  std::vector<MemoryLimit> limits;
  if (const auto kilobytes = NumberOf(ReadSystemFile(root + "/proc/meminfo"), "MemAvailable:")) {
    limits.push_back({std::min(*kilobytes, kMost >> 10) * 1024, MemoryLimit::Counts::kResident, "MemAvailable"});
  }
  VisitCgroups(root, "memory", [&](const std::string& folder, bool v2) {
    const size_t mount = absl::StrCat(root, "/sys/fs/cgroup", v2 ? "" : "/memory").size();
    const std::string name = folder.size() == mount ? "/" : folder.substr(mount);
    if (std::optional<MemoryLimit> limit = LimitOf(folder, name, v2)) limits.push_back(*std::move(limit));
  });
  return limits;
}

std::vector<MemoryLimit> FindLimits() {
  std::vector<MemoryLimit> limits = FindSystemLimits("");
  // Pages: of all mappings, resident, shared, code, 0, and writable data with the stack.
  const std::vector<std::string> words = absl::StrSplit(ReadSystemFile("/proc/self/statm"), ' ');
  int64_t mapped, writable;
  if (words.size() < 6 || !absl::SimpleAtoi(words[0], &mapped) || !absl::SimpleAtoi(words[5], &writable)) return limits;
  const int64_t page = sysconf(_SC_PAGESIZE);
  const auto add = [&](auto resource, int64_t used, MemoryLimit::Counts counts, const char* source) {
    rlimit limit;
    if (getrlimit(resource, &limit) != 0 || limit.rlim_cur >= static_cast<rlim_t>(kMost)) return;
    limits.push_back({std::max<int64_t>(0, static_cast<int64_t>(limit.rlim_cur) - used), counts, source});
  };
  add(RLIMIT_AS, mapped * page, MemoryLimit::Counts::kMapped, "RLIMIT_AS (ulimit -v)");
  add(RLIMIT_DATA, writable * page, MemoryLimit::Counts::kWritable, "RLIMIT_DATA (ulimit -d)");
  return limits;
}

absl::Status Compare(absl::string_view name, const MemoryNeed& need, absl::Span<const MemoryLimit> limits,
                     absl::string_view change_context, absl::Span<const MemoryNeed> beside) {
  const MemoryLimit* tightest = nullptr;
  int64_t left = 0, needed = 0, available = 0;  // under the tightest limit
  for (const MemoryLimit& limit : limits) {
    int64_t promised = 0;
    for (const MemoryNeed& other : beside) {
      if (limit.counts == MemoryLimit::Counts::kResident) promised = Sum({promised, BytesFor(other, limit.counts)});
    }
    const int64_t bytes = BytesFor(need, limit.counts), free = limit.available - promised;
    if (tightest != nullptr && free - bytes >= left) continue;
    tightest = &limit;
    left = free - bytes;
    needed = bytes;
    available = std::max<int64_t>(0, free);
  }
  if (tightest == nullptr || left >= 0) return absl::OkStatus();
  std::string text = absl::StrCat(name, ": needs ", Text(needed), " of memory, ", Text(available), " are available (",
                                  tightest->source, beside.empty() ? "" : ", less what is open already", "): ");
  if (needed == need.other_bytes) return absl::ResourceExhaustedError(absl::StrCat(text, "results ", Text(needed)));
  absl::StrAppend(&text, "weights ", Text(need.weights_bytes), " (", Text(need.weights), "), KV ");
  if (need.positions > 0) absl::StrAppend(&text, "of ", need.positions, " positions ");
  absl::StrAppend(&text, Text(need.state_bytes), ", arena ", Text(need.arena_bytes), ", threads ",
                  Text(need.thread_bytes));
  if (tightest->counts != MemoryLimit::Counts::kResident) {
    absl::StrAppend(&text, ", their stacks ", Text(need.stack_bytes));
  }
  if (need.other_bytes > 0) absl::StrAppend(&text, ", results ", Text(need.other_bytes));
  if (!change_context.empty() && need.positions > 0 && need.state_bytes > 0) {
    const int64_t of_position = CeilDiv(need.state_bytes, need.positions);
    const int64_t fits = (need.state_bytes + left) / of_position;
    absl::StrAppend(&text, "; ", fits < 1 ? "no " : "", change_context, fits < 1 ? "" : absl::StrCat("=", fits),
                    " would fit");
  }
  return absl::ResourceExhaustedError(text);
}

}  // namespace

std::vector<MemoryLimit> SystemMemoryLimits(const std::string& root) {
  return OrNothing([&] { return FindSystemLimits(root); });
}

std::vector<MemoryLimit> MemoryLimits() { return OrNothing(FindLimits); }

absl::Status CheckMemory(absl::string_view name, const MemoryNeed& need, absl::Span<const MemoryLimit> limits,
                         absl::string_view change_context, absl::Span<const MemoryNeed> beside) {
  return WithoutExceptions(name, [&] { return Compare(name, need, limits, change_context, beside); });
}

}  // namespace sinter
