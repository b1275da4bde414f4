#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace sinter {
namespace {

std::string Reason() { return std::strerror(errno); }

absl::StatusOr<int> OpenForReading(const std::string& path) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::NotFoundError(absl::StrCat(path, ": cannot open: ", Reason()));
  return fd;
}

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  SINTER_ASSIGN_OR_RETURN(int fd, OpenForReading(path));
  absl::StatusOr<MappedFile> file = FromDescriptor(fd, path);
  close(fd);
  return file;
}

absl::StatusOr<MappedFile> MappedFile::FromDescriptor(int fd, const std::string& path) {
  struct stat info;
  if (fstat(fd, &info) != 0) return absl::ResourceExhaustedError(absl::StrCat(path, ": cannot stat: ", Reason()));
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  MappedFile file;
  file.path_ = path;
  file.size_ = static_cast<size_t>(info.st_size);
  if (file.size_ == 0) return file;  // an empty file has no mapping
  void* data = mmap(nullptr, file.size_, PROT_READ, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) return absl::ResourceExhaustedError(absl::StrCat(path, ": cannot map: ", Reason()));
  file.data_ = static_cast<const uint8_t*>(data);
  return file;
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(path_, other.path_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
}

void MappedFile::PreferHugePages() const {
  // A kernel without them refuses, and small pages do.
  if (data_ != nullptr) madvise(const_cast<uint8_t*>(data_), size_, MADV_HUGEPAGE);
}

void MappedFile::Drop(size_t offset, size_t size) const {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t begin = (offset + page - 1) / page * page, end = (offset + size) / page * page;
  if (data_ != nullptr && begin < end && end <= size_) {
    madvise(const_cast<uint8_t*>(data_) + begin, end - begin, MADV_DONTNEED);
  }
}

absl::StatusOr<OutputFile> OutputFile::Create(const std::string& path) {
  OutputFile file;
  file.path_ = path;
  if (path.empty()) {
    file.fd_ = memfd_create("sinter", MFD_CLOEXEC);
  } else {
    file.temporary_ = absl::StrCat(path, ".XXXXXX");
    file.fd_ = mkostemp(file.temporary_.data(), O_CLOEXEC);
  }
  if (file.fd_ < 0) {
    const std::string reason = Reason();
    file.temporary_.clear();
    return absl::NotFoundError(absl::StrCat(path.empty() ? "memory file" : path, ": cannot create: ", reason));
  }
  return file;
}

OutputFile& OutputFile::operator=(OutputFile&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  std::swap(temporary_, other.temporary_);
  return *this;
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) close(fd_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

absl::Status OutputFile::Extend(uint64_t size) {
  if (size > INT64_MAX || ftruncate(fd_, static_cast<off_t>(size)) != 0) {
    return absl::ResourceExhaustedError(absl::StrCat(path_, ": cannot extend to ", size, " bytes: ", Reason()));
  }
  if (temporary_.empty()) return absl::OkStatus();  // memory
  const std::vector<uint8_t> zeros(std::min<uint64_t>(size, kHugePage));
  for (uint64_t offset = 0; offset < size; offset += kHugePage) {
    SINTER_RETURN_IF_ERROR(WriteAt(offset, {zeros.data(), std::min<uint64_t>(size - offset, kHugePage)}));
  }
  return absl::OkStatus();
}

absl::Status OutputFile::WriteAt(uint64_t offset, absl::Span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return absl::ResourceExhaustedError(absl::StrCat(path_, ": cannot write: ", Reason()));
    bytes.remove_prefix(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

absl::Status OutputFile::Commit() {
  if (temporary_.empty()) return absl::OkStatus();
  // mkostemp made the file private; give it the permissions that a plain open would have given.
  const mode_t mask = umask(0);
  umask(mask);
  if (fchmod(fd_, 0666 & ~mask) != 0 || rename(temporary_.c_str(), path_.c_str()) != 0) {
    return absl::ResourceExhaustedError(absl::StrCat(path_, ": cannot put in place: ", Reason()));
  }
  temporary_.clear();
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes) {
  SINTER_ASSIGN_OR_RETURN(int fd, OpenForReading(path));
  std::string content;
  char buffer[1 << 16];
  absl::Status status;
  while (true) {
    const ssize_t n = read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) status = absl::NotFoundError(absl::StrCat(path, ": cannot read: ", Reason()));
    if (n <= 0) break;
    content.append(buffer, static_cast<size_t>(n));
    if (content.size() > max_bytes) {
      status = absl::InvalidArgumentError(absl::StrCat(path, ": larger than ", max_bytes, " bytes"));
      break;
    }
  }
  close(fd);
  if (!status.ok()) return status;
  return content;
}

absl::Status WriteFile(const std::string& path, absl::string_view content) {
  SINTER_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path));
  SINTER_RETURN_IF_ERROR(file.WriteAt(0, {reinterpret_cast<const uint8_t*>(content.data()), content.size()}));
  return file.Commit();
}

}  // namespace sinter
