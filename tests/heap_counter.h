// Counts the heap allocations of every thread, for tests which show that there are none. Link heap_counter, which
// replaces operator new; memory from malloc itself is not counted.
#pragma once

#include <cstddef>

namespace sinter {

size_t HeapAllocations();

}  // namespace sinter
