#include "tests/heap_counter.h"

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <new>

namespace {

std::atomic<size_t> allocations = 0, releases = 0, allocated_bytes = 0;
std::atomic<size_t> first_failure = 0;  // the value of `allocations` before it; 0: none fails
std::atomic<bool> later_ones_fail = false, has_failed = false;

// Counts an allocation of so many bytes; false when it is to fail.
bool Count(size_t bytes) {
  const size_t before = allocations.fetch_add(1, std::memory_order_relaxed);
  allocated_bytes.fetch_add(bytes, std::memory_order_relaxed);
  const size_t first = first_failure.load(std::memory_order_relaxed);
  if (first == 0 || before < first || (before > first && !later_ones_fail.load(std::memory_order_relaxed))) return true;
  releases.fetch_add(1, std::memory_order_relaxed);  // nothing is held
  has_failed.store(true, std::memory_order_relaxed);
  errno = ENOMEM;
  return false;
}

void CountRelease(const void* p) {
  if (p != nullptr) releases.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

size_t sinter::HeapAllocations() { return allocations.load(std::memory_order_relaxed); }
size_t sinter::HeapAllocatedBytes() { return allocated_bytes.load(std::memory_order_relaxed); }
size_t sinter::HeapBlocks() { return HeapAllocations() - releases.load(std::memory_order_relaxed); }

void sinter::FailAllocations(size_t first, bool all_after) {
  later_ones_fail = all_after;
  if (first != 0) has_failed = false;
  first_failure = first == 0 ? 0 : allocations + first - 1;
}
bool sinter::AllocationHasFailed() { return has_failed; }

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)

namespace {

void* Allocate(size_t size, size_t alignment) {
  if (!Count(size)) return nullptr;
  return alignment == 0 ? std::malloc(size)
                        : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

void* OrThrow(void* p) {
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

void Release(void* p) {
  CountRelease(p);
  std::free(p);
}

}  // namespace

// The array forms call these; a sanitizer's own nothrow form would not.
void* operator new(size_t size) { return OrThrow(Allocate(size, 0)); }
void* operator new(size_t size, const std::nothrow_t&) noexcept { return Allocate(size, 0); }
void* operator new(size_t size, std::align_val_t alignment) {
  return OrThrow(Allocate(size, static_cast<size_t>(alignment)));
}
void operator delete(void* p) noexcept { Release(p); }
void operator delete(void* p, size_t) noexcept { Release(p); }
void operator delete(void* p, std::align_val_t) noexcept { Release(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { Release(p); }

#else

// glibc's own names for what is replaced here; libstdc++'s operator new calls malloc.
// NOLINTBEGIN(bugprone-reserved-identifier, readability-inconsistent-declaration-parameter-name)
extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* p, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
void __libc_free(void* p);

void* malloc(size_t size) noexcept { return Count(size) ? __libc_malloc(size) : nullptr; }
void* calloc(size_t count, size_t size) noexcept { return Count(count * size) ? __libc_calloc(count, size) : nullptr; }
void* realloc(void* p, size_t size) noexcept {
  if (!Count(size)) return nullptr;
  CountRelease(p);
  return __libc_realloc(p, size);
}
void* memalign(size_t alignment, size_t size) noexcept {
  return Count(size) ? __libc_memalign(alignment, size) : nullptr;
}
void* aligned_alloc(size_t alignment, size_t size) noexcept { return memalign(alignment, size); }
int posix_memalign(void** p, size_t alignment, size_t size) noexcept {
  *p = memalign(alignment, size);
  return *p == nullptr ? ENOMEM : 0;
}
void free(void* p) noexcept {
  CountRelease(p);
  __libc_free(p);
}
}
// NOLINTEND(bugprone-reserved-identifier, readability-inconsistent-declaration-parameter-name)

#endif
