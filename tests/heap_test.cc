// The heap in huge pages: they are asked for where main and where threads allocate, and no memory is taken for it.
#include "base/heap.h"

#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/memory_maps.h"

namespace sinter {
namespace {

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t size = 0, resident = 0;
  statm >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

// Small and large pieces, all of whose bytes hold what was written.
void ExpectUsable() {
  std::vector<std::vector<uint8_t>> pieces;
  for (size_t size = 1; size <= size_t{4} << 20; size *= 2) pieces.emplace_back(size, static_cast<uint8_t>(size % 251));
  for (const std::vector<uint8_t>& piece : pieces) {
    for (uint8_t byte : piece) ASSERT_EQ(byte, piece.size() % 251);
  }
}

TEST(Heap, IsInHugePages) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "malloc is the sanitizer's";
#endif
  for (const auto resource : {RLIMIT_AS, RLIMIT_DATA}) {
    rlimit limit = {};
    ASSERT_EQ(getrlimit(resource, &limit), 0);
    if (limit.rlim_cur != RLIM_INFINITY) GTEST_SKIP() << "memory is limited (ulimit)";
  }
  if (!testing::KernelHasHugePages()) GTEST_SKIP() << "this kernel has no huge pages";
  const int64_t before = ResidentBytes();
  PutHeapInHugePages();
  PutHeapInHugePages();  // asked again, it moves on and stays sound
  const auto piece = std::make_unique<uint8_t[]>(1000);
  const bool mains = testing::WantsHugePages(piece.get());
  bool threads = false;
  for (int i = 0; i < 3; ++i) {  // the second takes the first's heap
    std::thread([&] {
      PutHeapOfThreadInHugePages();
      const auto own = std::make_unique<uint8_t[]>(1000);
      threads = testing::WantsHugePages(own.get());
      ExpectUsable();
    }).join();
  }
  ExpectUsable();
  EXPECT_TRUE(heap_in_huge_pages);
  EXPECT_TRUE(mains);
  EXPECT_TRUE(threads);
  EXPECT_LT(ResidentBytes() - before, 40 << 20);  // addresses alone are reserved
}

}  // namespace
}  // namespace sinter
