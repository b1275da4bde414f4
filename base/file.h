// Files: read by mapping, written beside their place and renamed, so that no reader ever sees half of one.
//
// Errors: kNotFound when a file cannot be opened, created or read, kInvalidArgument when it is no regular file, is too
// large or changed while it was read, kResourceExhausted when there is no room, or mapping or writing fails. Messages
// name the path.
//
// A mapped file that somebody cuts short raises SIGBUS where its lost pages are read. Nothing here installs a handler:
// signals are the program's (tools/signals.h has that of the command line).
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <functional>
#include <string>
#include <utility>

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
  // Copies bytes of the file without the mapping, whose first touch costs up to 14 us for each 4 KB on a virtual
  // machine: for what is read once. kInvalidArgument when the file has become shorter.
  absl::Status ReadAt(size_t offset, absl::Span<uint8_t> bytes) const;
  // Tells the kernel that these bytes will not be read again soon (they stay readable).
  void Drop(size_t offset, size_t size) const;
  // kInvalidArgument when the file has another size or was written to since it was mapped: what was read may then be
  // partly old and partly new. A file that took its place by renaming is another file, and changes nothing.
  absl::Status CheckUnchanged() const;

 private:
  void Advise(size_t offset, size_t size, int advice) const;

  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  int fd_ = -1;
  timespec modified_ = {};  // when the file was mapped
  std::string path_;
};

// What a loss of power may do to a file that Commit has put in place.
enum class Durability {
  kDurable,     // nothing: file and folder are on the disk when Commit returns, about 10 ms and a second a GB later
  kDisposable,  // its bytes may be lost in part: for files whose readers check them and can make them anew
};

// A file being written: in a temporary beside `path`, which Commit renames into place. Without Commit nothing stays.
// A path of "" makes an anonymous memory file, which Commit leaves as it is. Where `path` is a link, the file that it
// leads to is replaced. What is there and no regular file (a folder, a device, a pipe) is refused, never replaced.
class OutputFile {
 public:
  static absl::StatusOr<OutputFile> Create(const std::string& path, Durability durability = Durability::kDurable);

  OutputFile(OutputFile&& other) noexcept { *this = static_cast<OutputFile&&>(other); }
  OutputFile& operator=(OutputFile&& other) noexcept;
  ~OutputFile();

  // Makes the file, until now empty, so many zeros. They are written in huge pages, which the page cache keeps as they
  // are when parts are written later: a reader of weights in small pages waits for page tables a fifth of its time.
  absl::Status Extend(uint64_t size);
  absl::Status WriteAt(uint64_t offset, absl::Span<const uint8_t> bytes);
  // Asked by Commit before all else; its error is Commit's, and nothing is put in place.
  void CheckBeforeCommit(std::function<absl::Status()> check) { check_ = std::move(check); }
  absl::Status Commit();
  int descriptor() const { return fd_; }
  const std::string& path() const { return path_; }

 private:
  OutputFile() = default;
  int fd_ = -1;
  int temporary_ = -1;  // its place in the table of those that exist; -1: in memory, or in place
  Durability durability_ = Durability::kDurable;
  std::string path_, place_;  // place_: path_, links followed
  std::function<absl::Status()> check_;
};

// Removes the temporary files of all OutputFiles of the process. Only for a handler of a signal that ends the process:
// async-signal-safe, and no OutputFile is of use after it.
void RemoveTemporaryFiles();

// Makes a folder, and those above it, where they are not there. kNotFound when there can be none.
absl::Status CreateFolders(const std::string& path);

// Reads a whole small file (IR text, a prompt). Limited to `max_bytes`, past which it is kInvalidArgument.
absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes = uint64_t{1} << 30);
// Writes a small file, whole or not at all, and durably. A device or a pipe at `path` is written to.
absl::Status WriteFile(const std::string& path, absl::string_view content);
// Writes a small file in a folder in which anyone may write: what stands at `path` may be a link to a file of this
// user, and is removed, not followed.
absl::Status ReplaceFile(const std::string& path, absl::string_view content);

}  // namespace sinter
