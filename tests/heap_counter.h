// Counts the heap allocations of every thread, for tests which show that there are none, and lets chosen ones fail, for
// tests of what then happens. Link heap_counter, which replaces malloc and its family (and so operator new). With a
// sanitizer, which has a malloc of its own, it replaces operator new alone.
#pragma once

#include <cstddef>

namespace sinter {

size_t HeapAllocations();
// All bytes that were ever asked for; what was given back is not taken off.
size_t HeapAllocatedBytes();
// Blocks that are allocated and not yet freed.
size_t HeapBlocks();

// From now on the `first`-th allocation (counted from 1) fails, and with `all_after` every later one too. 0: none does.
void FailAllocations(size_t first, bool all_after = false);
// Whether one has failed since FailAllocations.
bool AllocationHasFailed();

}  // namespace sinter
