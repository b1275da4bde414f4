// The heap of a program in huge pages, where the kernel has them.
//
// Compiling touches tens of MB of heap, most of it once, and the first touch of a page of 4 KB costs 1 us on a bare
// machine and up to 14 us in a virtual one, which was a third of the time in which a small model is compiled. A program
// asks for it once; without that, or with a malloc that is not glibc's, nothing changes. And how much of it is in use.
#pragma once

#include <malloc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "base/file.h"

namespace sinter {

inline std::atomic<bool> heap_in_huge_pages{false};
inline constexpr size_t kHeapHeader = 64;  // at least what glibc has between two pieces of memory

// A range of 2 MB in which a small page was touched stays small: what is touched before is moved out of the way.

// To be called first thing in main, whose thread's heap it is. Takes addresses, not memory; where those are limited,
// none.
inline void PutHeapInHugePages() {
  for (const auto resource : {RLIMIT_AS, RLIMIT_DATA}) {
    rlimit limit = {};
    if (getrlimit(resource, &limit) != 0 || limit.rlim_cur != RLIM_INFINITY) return;
  }
  constexpr int kReserve = 64 << 20, kMostOfHeap = 8 << 20;
  constexpr size_t kGrow = 256 << 10;  // more than glibc begins with
  // By how much more than needed a heap grows, and from which size on a piece is mapped apart.
  if (mallopt(M_TOP_PAD, kReserve) == 0 || mallopt(M_MMAP_THRESHOLD, kMostOfHeap) == 0) return;  // a sanitizer's
  void* volatile grown = std::malloc(kGrow);
  uint8_t* const rest = static_cast<uint8_t*>(grown);  // from here on the heap is free, and after this it is again
  std::free(grown);
  uint8_t* const end = static_cast<uint8_t*>(sbrk(0));
  const size_t before = kGrow + kHugePage - (reinterpret_cast<uintptr_t>(rest) + kGrow) % kHugePage;
  if (rest == nullptr || end < rest || static_cast<size_t>(end - rest) < before) return;  // not glibc's
  madvise(rest + before, static_cast<size_t>(end - rest) - before, MADV_HUGEPAGE);
  grown = std::malloc(before - kHeapHeader);  // never freed, nor touched
  heap_in_huge_pages = true;
}

// The same for the heap of a thread that begins: glibc gives it one of its own, at a multiple of its size.
inline void PutHeapOfThreadInHugePages() {
  constexpr size_t kHeap = size_t{64} << 20;
  if (!heap_in_huge_pages) return;
  void* volatile mine = std::malloc(1);
  const size_t at = reinterpret_cast<uintptr_t>(mine) % kHeap;
  if (mine != nullptr && at < kHugePage) {  // a new one
    madvise(static_cast<uint8_t*>(mine) - at, kHeap, MADV_HUGEPAGE);
    mine = std::malloc(kHugePage - at - kHeapHeader);
  }
}

// Bytes in use, of all threads and of what is mapped apart; 0 with a malloc that is not glibc's. What was ever taken,
// malloc does not say.
inline int64_t HeapInUse() {
  const struct mallinfo2 info = mallinfo2();
  return static_cast<int64_t>(info.uordblks + info.hblkhd);
}

}  // namespace sinter
