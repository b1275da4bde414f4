// Counts the heap allocations of every thread, for tests which show that there are none, or few. Link heap_counter,
// which replaces malloc and its family (and so operator new). With a sanitizer, which has a malloc of its own, it
// replaces operator new alone.
#pragma once

#include <cstddef>

namespace sinter {

size_t HeapAllocations();
// All bytes that were ever asked for; what was given back is not taken off.
size_t HeapAllocatedBytes();

}  // namespace sinter
