// Zeroed, page-aligned memory straight from the operating system: arenas, scratch and state pages.
// Nothing is resident before it is touched. Movable; unmapped when destroyed.
#pragma once

#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sinter {

class PageMemory {
 public:
  // `what` names the memory in the message of kResourceExhausted. 0 bytes map nothing.
  static absl::StatusOr<PageMemory> Map(int64_t bytes, absl::string_view what);

  PageMemory() = default;
  PageMemory(PageMemory&& other) noexcept { *this = static_cast<PageMemory&&>(other); }
  PageMemory& operator=(PageMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~PageMemory();

  // What was touched moves to huge pages, and what will be is mapped so, where the kernel has them: for memory of which
  // all is used before long.
  void MoveToHugePages() const;

  uint8_t* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  uint8_t* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace sinter
