// The `.sinter` file: layout and writing. Reading is module.h.
//
//   byte 0      header page (4096 bytes): FileHeader, rest zeros
//   byte 4096   metadata (FlatBuffer of module.fbs), then code (all images, each on a page), then weights to the end of
//   the file;
//               each section starts on a page, what lies between two sections is zeros
//
// Numbers are little-endian. Checksums are XXH3-128; the header's covers the whole header page with the checksum field
// itself as zeros. A checksum is no trust: a compiled module is a program. Weights are streamed: the writer learns
// their total size before, and their bytes in any order. Errors: kResourceExhausted when the disk is full, kInternal
// when a caller writes outside what it announced.
#pragma once

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/file.h"

namespace sinter {

inline constexpr char kModuleMagic[8] = {'S', 'I', 'N', 'T', 'E', 'R', '\r', '\n'};
inline constexpr uint32_t kModuleFormatVersion = 2;
inline constexpr uint64_t kModulePage = 4096;

struct Checksum {
  uint64_t low = 0, high = 0;
  friend bool operator==(const Checksum&, const Checksum&) = default;
};
Checksum ChecksumOf(absl::Span<const uint8_t> bytes);
// Of bytes [offset, offset + size) of a mapped file; errors are those of reading it.
absl::StatusOr<Checksum> ChecksumOf(const MappedFile& file, uint64_t offset, uint64_t size);

struct FileSection {
  uint64_t offset = 0, size = 0;
  Checksum checksum;
};

struct FileHeader {
  char magic[8];
  uint32_t format_version;
  uint32_t abi_version;
  uint64_t file_size;
  FileSection metadata, code, weights;
  Checksum header;
};
static_assert(sizeof(FileHeader) == 136, "the header has no padding");
Checksum HeaderChecksum(FileHeader header);

// Writes one module; a loader accepts only what Finish has put in place. Order of calls: Create (which fixes where
// weights begin), any number of WriteWeights, Finish.
class ModuleWriter {
 public:
  // `metadata_capacity`: an upper bound of the metadata's size in bytes; `code`: the code section, whole.
  static absl::StatusOr<ModuleWriter> Create(OutputFile file, uint64_t metadata_capacity,
                                             absl::Span<const uint8_t> code, uint64_t weights_bytes);
  // Bytes of the weights section at `offset`. Every byte must be written before Finish, except gaps of alignment, which
  // are zeros.
  absl::Status WriteWeights(uint64_t offset, absl::Span<const uint8_t> bytes);
  // Writes metadata, checksums and header, and puts the file in place. Reads the weights back once for their checksum.
  absl::StatusOr<OutputFile> Finish(absl::Span<const uint8_t> metadata);

 private:
  explicit ModuleWriter(OutputFile file) : file_(std::move(file)) {}
  OutputFile file_;
  FileHeader header_ = {};
};

}  // namespace sinter
