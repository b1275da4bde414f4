#include "runtime/memory.h"

#include <linux/mman.h>  // MADV_COLLAPSE
#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace sinter {

absl::StatusOr<PageMemory> PageMemory::Map(int64_t bytes, absl::string_view what) {
  PageMemory memory;
  if (bytes == 0) return memory;
  void* data = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot map ", bytes, " bytes for ", what, ": ", strerror(errno)));
  }
  memory.data_ = static_cast<uint8_t*>(data);
  memory.bytes_ = bytes;
  return memory;
}

void PageMemory::MoveToHugePages() const {
  if (data_ == nullptr || madvise(data_, static_cast<size_t>(bytes_), MADV_HUGEPAGE) != 0) return;
  madvise(data_, static_cast<size_t>(bytes_), MADV_COLLAPSE);  // an older kernel does it in its own time
}

PageMemory::~PageMemory() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(bytes_));
}

}  // namespace sinter
