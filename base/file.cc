#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace sinter {
namespace {

std::string Reason() { return std::strerror(errno); }

// Closed whatever happens: also when memory runs out between opening and closing.
struct Descriptor {
  Descriptor(const std::string& path, int flags) : fd(open(path.c_str(), flags | O_CLOEXEC, 0666)) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
  const int fd;
};

absl::Status Cannot(absl::string_view open_or_create, const std::string& path, int error) {
  const bool full = error == ENOSPC || error == EDQUOT || error == EMFILE || error == ENFILE || error == ENOMEM;
  return absl::Status(full ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kNotFound,
                      absl::StrCat(path, ": cannot ", open_or_create, ": ", std::strerror(error)));
}

absl::Status WriteAll(int fd, const std::string& path, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return absl::ResourceExhaustedError(absl::StrCat(path, ": cannot write: ", Reason()));
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

// The temporary files that exist, where a signal handler can read them: no lock, and no memory that comes and goes.
struct Temporary {
  std::atomic<bool> taken = false;
  std::atomic<bool> named = false;
  char path[PATH_MAX] = {};
};
constinit std::array<Temporary, 64> temporaries;  // touched when it is used, not when the program starts

void ForgetTemporary(Temporary& temporary) {
  temporary.named = false;
  temporary.taken = false;
}

// Makes an empty file, its name PLACE, cut where a name has no room for more, and random digits, and returns its index
// in the table; -1, with errno, when it cannot.
int CreateTemporary(const std::string& place, int* fd) {
  uint32_t random;
  if (getrandom(&random, sizeof random, 0) != sizeof random) return -1;
  const std::string ending = absl::StrCat(".", absl::Hex(random, absl::kZeroPad8));
  const size_t name = place.rfind('/') + 1, size = place.size() - name;  // npos + 1 is 0
  // A name that is itself too long stays so, and is refused.
  const size_t kept = size > NAME_MAX ? size : std::min(size, NAME_MAX - ending.size());
  const std::string path = absl::StrCat(absl::string_view(place).substr(0, name + kept), ending);
  if (path.size() >= PATH_MAX) {
    errno = ENAMETOOLONG;
    return -1;
  }
  for (size_t i = 0; i < temporaries.size(); ++i) {
    Temporary& temporary = temporaries[i];
    if (temporary.taken.exchange(true)) continue;
    std::strcpy(temporary.path, path.c_str());
    temporary.named = true;  // before the file is there, so that no signal finds it unnamed
    *fd = open(temporary.path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (*fd >= 0) return static_cast<int>(i);
    ForgetTemporary(temporary);
    return -1;
  }
  errno = EMFILE;
  return -1;
}

// Waits until the disk has the file or folder; file systems that know no such thing say EINVAL.
bool Sync(int fd) { return fsync(fd) == 0 || errno == EINVAL; }

// Asks for errors of writing that come late: a file system over a network or a quota may name them when a descriptor is
// closed, were it a copy. It costs nothing where there are none.
bool Flush(int fd) {
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  return copy >= 0 && close(copy) == 0;
}

// A folder that may not be read cannot be synced, and is left to the system.
bool SyncFolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, std::max<size_t>(slash, 1));
  const Descriptor file(folder, O_RDONLY | O_DIRECTORY);
  return file.fd < 0 || Sync(file.fd);
}

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  const Descriptor file(path, O_RDONLY | O_NONBLOCK);  // or a pipe would be waited for
  if (file.fd < 0) return Cannot("open", path, errno);
  return FromDescriptor(file.fd, path);
}

absl::StatusOr<MappedFile> MappedFile::FromDescriptor(int fd, const std::string& path) {
  struct stat info;
  if (fstat(fd, &info) != 0) return absl::ResourceExhaustedError(absl::StrCat(path, ": cannot stat: ", Reason()));
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  MappedFile file;
  file.path_ = path;
  file.size_ = static_cast<size_t>(info.st_size);
  file.modified_ = info.st_mtim;
  file.fd_ = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (file.fd_ < 0) return absl::ResourceExhaustedError(absl::StrCat(path, ": cannot open: ", Reason()));
  if (file.size_ == 0) return file;  // an empty file has no mapping
  void* data = mmap(nullptr, file.size_, PROT_READ, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) return absl::ResourceExhaustedError(absl::StrCat(path, ": cannot map: ", Reason()));
  file.data_ = static_cast<const uint8_t*>(data);
  return file;
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(fd_, other.fd_);
  std::swap(modified_, other.modified_);
  std::swap(path_, other.path_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
  if (fd_ >= 0) close(fd_);
}

absl::Status MappedFile::CheckUnchanged() const {
  struct stat now;
  if (fd_ < 0) return absl::OkStatus();
  if (fstat(fd_, &now) != 0) return absl::ResourceExhaustedError(absl::StrCat(path_, ": cannot stat: ", Reason()));
  if (static_cast<size_t>(now.st_size) != size_) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": changed while it was read: it had ", size_,
                                                   " bytes and has ", now.st_size, "; try again when it is complete"));
  }
  if (now.st_mtim.tv_sec == modified_.tv_sec && now.st_mtim.tv_nsec == modified_.tv_nsec) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(path_, ": changed while it was read: it was written to; try again when it is complete"));
}

void MappedFile::PreferHugePages() const {
  // A kernel without them refuses, and small pages do.
  if (data_ != nullptr) madvise(const_cast<uint8_t*>(data_), size_, MADV_HUGEPAGE);
}

absl::Status MappedFile::ReadAt(size_t offset, absl::Span<uint8_t> bytes) const {
  while (!bytes.empty()) {
    const ssize_t n = pread(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::NotFoundError(absl::StrCat(path_, ": cannot read: ", Reason()));
    if (n == 0)
      return absl::InvalidArgumentError(
          absl::StrCat(path_, ": was cut short while it was in use: it ends at ", offset, " of ", size_, " bytes"));
    bytes.remove_prefix(static_cast<size_t>(n));
    offset += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

void MappedFile::Drop(size_t offset, size_t size) const { Advise(offset, size, MADV_DONTNEED); }

// For the whole pages in the range; a kernel that does not know it refuses, and pages are mapped as they are read.
void MappedFile::Advise(size_t offset, size_t size, int advice) const {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t begin = (offset + page - 1) / page * page, end = (offset + size) / page * page;
  if (data_ != nullptr && begin < end && end <= size_) {
    madvise(const_cast<uint8_t*>(data_) + begin, end - begin, advice);
  }
}

absl::StatusOr<OutputFile> OutputFile::Create(const std::string& path, Durability durability) {
  OutputFile file;
  file.path_ = file.place_ = path;
  file.durability_ = durability;
  if (path.empty()) {
    file.path_ = "memory file";
    file.fd_ = memfd_create("sinter", MFD_CLOEXEC);
    if (file.fd_ >= 0) return file;
    return absl::ResourceExhaustedError(absl::StrCat(file.path_, ": cannot create: ", Reason()));
  }
  struct stat info;
  if (stat(path.c_str(), &info) == 0) {
    if (!S_ISREG(info.st_mode)) {
      return absl::NotFoundError(absl::StrCat(
          path, ": cannot create: not a regular file, and nothing else is replaced by one; give another name"));
    }
    if (char* const place = realpath(path.c_str(), nullptr)) {
      file.place_ = place;
      std::free(place);
    }
  }
  file.temporary_ = CreateTemporary(file.place_, &file.fd_);
  if (file.temporary_ >= 0) return file;
  return Cannot("create", path, errno);
}

OutputFile& OutputFile::operator=(OutputFile&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(temporary_, other.temporary_);
  std::swap(durability_, other.durability_);
  std::swap(path_, other.path_);
  std::swap(place_, other.place_);
  std::swap(check_, other.check_);
  return *this;
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) close(fd_);
  if (temporary_ < 0) return;
  Temporary& temporary = temporaries[static_cast<size_t>(temporary_)];
  unlink(temporary.path);
  ForgetTemporary(temporary);
}

void RemoveTemporaryFiles() {
  for (Temporary& temporary : temporaries) {
    if (temporary.named) unlink(temporary.path);
  }
}

absl::Status OutputFile::Extend(uint64_t size) {
  if (size > INT64_MAX || ftruncate(fd_, static_cast<off_t>(size)) != 0) {
    return absl::ResourceExhaustedError(absl::StrCat(path_, ": cannot extend to ", size, " bytes: ", Reason()));
  }
  if (temporary_ < 0) return absl::OkStatus();  // memory
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
  if (const auto check = std::exchange(check_, nullptr)) SINTER_RETURN_IF_ERROR(check());
  if (temporary_ < 0) return absl::OkStatus();
  const auto failed = [this] {
    return absl::ResourceExhaustedError(absl::StrCat(path_, ": cannot put in place: ", Reason()));
  };
  // The bytes before the name: a name that outlives a loss of power must not outlive what it names.
  if (durability_ == Durability::kDurable ? !Sync(fd_) : !Flush(fd_)) return failed();
  Temporary& temporary = temporaries[static_cast<size_t>(temporary_)];
  if (rename(temporary.path, place_.c_str()) != 0) return failed();
  ForgetTemporary(temporary);
  temporary_ = -1;
  if (durability_ == Durability::kDurable && !SyncFolderOf(place_)) return failed();
  return absl::OkStatus();
}

absl::Status CreateFolders(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  return error ? Cannot("create", path, error.value()) : absl::OkStatus();
}

absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes) {
  const Descriptor file(path, O_RDONLY);
  if (file.fd < 0) return Cannot("open", path, errno);
  std::string content;
  char buffer[1 << 16];
  absl::Status status;
  while (true) {
    const ssize_t n = read(file.fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) status = absl::NotFoundError(absl::StrCat(path, ": cannot read: ", Reason()));
    if (n <= 0) break;
    content.append(buffer, static_cast<size_t>(n));
    if (content.size() > max_bytes) {
      status = absl::InvalidArgumentError(absl::StrCat(path, ": larger than ", max_bytes, " bytes"));
      break;
    }
  }
  if (!status.ok()) return status;
  return content;
}

absl::Status WriteFile(const std::string& path, absl::string_view content) {
  struct stat info;
  if (stat(path.c_str(), &info) == 0 && (S_ISCHR(info.st_mode) || S_ISFIFO(info.st_mode))) {
    const Descriptor file(path, O_WRONLY);
    if (file.fd < 0) return Cannot("open", path, errno);
    return WriteAll(file.fd, path, content);
  }
  SINTER_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path));
  SINTER_RETURN_IF_ERROR(file.WriteAt(0, {reinterpret_cast<const uint8_t*>(content.data()), content.size()}));
  return file.Commit();
}

absl::Status ReplaceFile(const std::string& path, absl::string_view content) {
  unlink(path.c_str());
  const Descriptor file(path, O_WRONLY | O_CREAT | O_EXCL);
  if (file.fd < 0) return Cannot("create", path, errno);
  return WriteAll(file.fd, path, content);
}

}  // namespace sinter
