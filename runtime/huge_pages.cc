#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/checked.h"
#include "base/file.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "runtime/module.h"
#include "runtime/module_format.h"

namespace sinter {
namespace {

constexpr size_t kChunk = 16 * kHugePage;  // copied and let go at a time, so that hardly anything is held twice

}  // namespace

absl::Status CompiledModule::MoveWeightsToHugePages(int threads) const {
  return WithoutExceptions(path(), [&]() -> absl::Status {
    const absl::Span<const uint8_t> file = file_.bytes();
    const auto first = static_cast<size_t>(weights_ - file.data());
    const size_t size = file.size() - first;  // weights are the last section
    if (size == 0) return absl::OkStatus();
    const auto mapped = static_cast<size_t>(AlignUp(static_cast<int64_t>(size), kModulePage)),
               room = mapped + kHugePage;
    std::vector<std::thread> others;
    others.reserve(static_cast<size_t>(threads));  // from here on nothing throws that would leave memory mapped
    void* const memory = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      return absl::ResourceExhaustedError(
          absl::StrCat(path(), ": no memory for a copy of ", size, " bytes of weights: ", strerror(errno)));
    }
    // The copy lies to huge pages as the weights do, whose place it takes.
    const auto phase = [](const void* at) { return reinterpret_cast<uintptr_t>(at) % kHugePage; };
    uint8_t* const copy = static_cast<uint8_t*>(memory) + (phase(weights_) + kHugePage - phase(memory)) % kHugePage;
    madvise(copy, mapped, MADV_HUGEPAGE);  // a kernel that has none gives small ones
    std::atomic<size_t> next{0};
    const auto work = [&] {
      for (size_t at; (at = next.fetch_add(kChunk)) < size;) {
        const size_t count = std::min(kChunk, size - at);
        std::memcpy(copy + at, weights_ + at, count);
        file_.Drop(first + at, count);
      }
    };
    bool started = true;
    try {
      for (int i = 1; i < threads; ++i) others.emplace_back(work);
    } catch (const std::exception&) {
      started = false;
    }
    if (started) work();
    for (std::thread& other : others) other.join();
    const bool moved = started && mprotect(copy, mapped, PROT_READ) == 0 &&
                       mremap(copy, mapped, mapped, MREMAP_MAYMOVE | MREMAP_FIXED, const_cast<uint8_t*>(weights_)) ==
                           static_cast<const void*>(weights_);
    const int error = errno;
    // What is left of the room, before and after.
    munmap(memory, static_cast<size_t>(copy - static_cast<uint8_t*>(memory)));
    munmap(moved ? copy + mapped : copy,
           static_cast<size_t>(static_cast<uint8_t*>(memory) + room - copy) - (moved ? mapped : 0));
    if (moved) return absl::OkStatus();
    if (!started) return absl::ResourceExhaustedError(absl::StrCat(path(), ": cannot start ", threads, " threads"));
    return absl::ResourceExhaustedError(
        absl::StrCat(path(), ": cannot map the copy of the weights: ", strerror(error)));
  });
}

}  // namespace sinter
