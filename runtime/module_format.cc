#include "runtime/module_format.h"

#include <algorithm>
#include <cstring>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "absl/strings/str_cat.h"
#include "base/checked.h"
#include "base/status.h"
#include "runtime/abi.h"

namespace sinter {
namespace {

absl::Span<const uint8_t> BytesOf(const FileHeader& header) {
  return {reinterpret_cast<const uint8_t*>(&header), sizeof header};
}

}  // namespace

Checksum ChecksumOf(absl::Span<const uint8_t> bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.low64, hash.high64};
}

absl::StatusOr<Checksum> ChecksumOf(const MappedFile& file, uint64_t offset, uint64_t size) {
  std::vector<uint8_t> buffer(std::min<uint64_t>(size, 256 << 10));  // stays in the second-level cache
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  for (uint64_t done = 0; done < size; done += buffer.size()) {
    const absl::Span<uint8_t> piece = absl::MakeSpan(buffer).first(std::min<uint64_t>(buffer.size(), size - done));
    SINTER_RETURN_IF_ERROR(file.ReadAt(offset + done, piece));
    XXH3_128bits_update(&state, piece.data(), piece.size());
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(&state);
  return Checksum{hash.low64, hash.high64};
}

Checksum HeaderChecksum(FileHeader header) {
  uint8_t page[kModulePage] = {};
  header.header = {};
  std::memcpy(page, &header, sizeof header);
  return ChecksumOf(page);
}

absl::StatusOr<ModuleWriter> ModuleWriter::Create(OutputFile file, uint64_t metadata_capacity,
                                                  absl::Span<const uint8_t> code, uint64_t weights_bytes) {
  ModuleWriter writer(std::move(file));
  FileHeader& header = writer.header_;
  std::memcpy(header.magic, kModuleMagic, sizeof kModuleMagic);
  header.format_version = kModuleFormatVersion;
  header.abi_version = SINTER_ABI_VERSION;
  header.metadata.offset = kModulePage;
  header.metadata.size = metadata_capacity;  // Finish states the real size
  const auto page_after = [](const FileSection& section) -> std::optional<uint64_t> {
    const std::optional<uint64_t> end = CheckedAdd(section.offset, section.size);
    return end ? CheckedAlign(*end, kModulePage) : std::nullopt;
  };
  std::optional<uint64_t> next = page_after(header.metadata);
  if (next) {
    header.code.offset = *next;
    header.code.size = code.size();
    header.code.checksum = ChecksumOf(code);
    next = page_after(header.code);
  }
  if (next) {
    header.weights.offset = *next;
    header.weights.size = weights_bytes;
    next = CheckedAdd(*next, weights_bytes);
  }
  if (!next || *next > INT64_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat("a module with ", metadata_capacity, " bytes of metadata and ", weights_bytes, " of weights"));
  }
  header.file_size = *next;
  SINTER_RETURN_IF_ERROR(writer.file_.Extend(header.file_size));
  SINTER_RETURN_IF_ERROR(writer.file_.WriteAt(header.code.offset, code));
  return writer;
}

absl::Status ModuleWriter::WriteWeights(uint64_t offset, absl::Span<const uint8_t> bytes) {
  const FileSection& weights = header_.weights;
  if (offset > weights.size || bytes.size() > weights.size - offset) {
    return absl::InternalError(absl::StrCat("weights [", offset, ", +", bytes.size(), ") written past the section's ",
                                            weights.size, " bytes"));
  }
  return file_.WriteAt(weights.offset + offset, bytes);
}

absl::StatusOr<OutputFile> ModuleWriter::Finish(absl::Span<const uint8_t> metadata) {
  if (metadata.size() > header_.metadata.size) {
    return absl::InternalError(
        absl::StrCat("metadata of ", metadata.size(), " bytes, but room for ", header_.metadata.size));
  }
  header_.metadata.size = metadata.size();
  header_.metadata.checksum = ChecksumOf(metadata);
  SINTER_RETURN_IF_ERROR(file_.WriteAt(header_.metadata.offset, metadata));
  {
    SINTER_ASSIGN_OR_RETURN(const MappedFile written, MappedFile::FromDescriptor(file_.descriptor(), file_.path()));
    SINTER_ASSIGN_OR_RETURN(header_.weights.checksum,
                            ChecksumOf(written, header_.weights.offset, header_.weights.size));
  }
  header_.header = HeaderChecksum(header_);
  SINTER_RETURN_IF_ERROR(file_.WriteAt(0, BytesOf(header_)));
  SINTER_RETURN_IF_ERROR(file_.Commit());
  return std::move(file_);
}

}  // namespace sinter
