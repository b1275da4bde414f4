// How the threads of a team share out the grains of a step when any of them may do any grain: each is dealt its own
// part, and who is done takes from what others have left. Cores never run alike (their clocks, their part of the
// memory's bandwidth, other processes), and all would wait at the next barrier for the slowest.
//
// A thread takes half of what its part has left, from the front, so that a part is a few calls of a kernel and memory
// is read as it lies; of another's part half, from the back, where its owner comes last. A grain's result does not
// depend on who makes it.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

namespace sinter {

// The first grain of a thread's part when each has as many as any other; of thread `threads`, how many there are.
inline int64_t FirstOfPart(int64_t grains, int thread, int threads) { return grains * thread / threads; }

class GrainShares {
 public:
  static constexpr int64_t kMostGrains = UINT32_MAX;

  explicit GrainShares(int threads) : parts_(static_cast<size_t>(threads)) {}

  // The part of a thread: grains [begin, end) within [0, kMostGrains]. To be dealt before the barrier after which the
  // grains may be taken, when none of these is left; an owner who is late is then done for.
  void Deal(int thread, int64_t begin, int64_t end) {
    parts_[static_cast<size_t>(thread)].left.store(Packed(static_cast<uint64_t>(begin), static_cast<uint64_t>(end)),
                                                   std::memory_order_relaxed);
  }

  // Gives grains to a thread, one of the first `threads`; false when none is left.
  bool Take(int thread, int threads, int64_t& begin, int64_t& end) {
    for (int i = 0; i < threads; ++i) {
      std::atomic<uint64_t>& part = parts_[static_cast<size_t>((thread + i) % threads)].left;
      uint64_t left = part.load(std::memory_order_relaxed);
      while (true) {
        const uint64_t first = left >> kHalf, last = static_cast<uint32_t>(left);
        if (first >= last) break;
        const uint64_t taken = (last - first + 1) / 2;
        const bool own = i == 0;
        const uint64_t rest = own ? Packed(first + taken, last) : Packed(first, last - taken);
        if (!part.compare_exchange_weak(left, rest, std::memory_order_relaxed)) continue;
        begin = static_cast<int64_t>(own ? first : last - taken);
        end = begin + static_cast<int64_t>(taken);
        return true;
      }
    }
    return false;
  }

 private:
  static constexpr int kHalf = 32;
  static uint64_t Packed(uint64_t first, uint64_t last) { return first << kHalf | last; }

  struct alignas(64) Part {
    std::atomic<uint64_t> left{0};  // from the first in the upper half to the last in the lower
  };
  std::vector<Part> parts_;
};

}  // namespace sinter
