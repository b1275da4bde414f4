// Files: read by mapping, written beside their place and renamed, so that no reader ever sees half of one.
//
// Errors: kNotFound when a file cannot be opened, kInvalidArgument when it is no regular file,
// kResourceExhausted when mapping or writing fails. Messages name the path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sinter {

// Bytes that one entry of the middle page table maps.
inline constexpr size_t kHugePage = size_t{2} << 20;

// A read-only mapping of a whole file. Movable; unmapped when destroyed.
class MappedFile {
 public:
  static absl::StatusOr<MappedFile> Open(const std::string& path);
  // Maps all of an open descriptor, which stays the caller's. `path` is for messages.
  static absl::StatusOr<MappedFile> FromDescriptor(int fd, const std::string& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept { *this = static_cast<MappedFile&&>(other); }
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  absl::Span<const uint8_t> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }
  // Asks for huge pages, which file systems with large folios (ext4 of Linux 6.18, for one) give where the page cache
  // holds the file in large pieces, as OutputFile::Extend leaves it. To be called before the bytes are read.
  void PreferHugePages() const;
  // Tells the kernel that these bytes will not be read again soon (they stay readable).
  void Drop(size_t offset, size_t size) const;

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  std::string path_;
};

// A file being written: in a temporary beside `path`, which Commit renames into place. Without Commit nothing stays.
// A path of "" makes an anonymous memory file, which Commit only seals.
class OutputFile {
 public:
  static absl::StatusOr<OutputFile> Create(const std::string& path);

  OutputFile(OutputFile&& other) noexcept { *this = static_cast<OutputFile&&>(other); }
  OutputFile& operator=(OutputFile&& other) noexcept;
  ~OutputFile();

  // Makes the file, until now empty, so many zeros. They are written in huge pages, which the page cache keeps as they
  // are when parts are written later: a reader of weights in small pages waits for page tables a fifth of its time.
  absl::Status Extend(uint64_t size);
  absl::Status WriteAt(uint64_t offset, absl::Span<const uint8_t> bytes);
  absl::Status Commit();
  int descriptor() const { return fd_; }
  const std::string& path() const { return path_; }

 private:
  OutputFile() = default;
  int fd_ = -1;
  std::string path_, temporary_;
};

// Reads a whole small file (IR text, a prompt). Limited to `max_bytes`, past which it is kInvalidArgument.
absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes = uint64_t{1} << 30);
absl::Status WriteFile(const std::string& path, absl::string_view content);

}  // namespace sinter
