#include "runtime/module_origin.h"

#include "base/bytes.h"
#include "base/limits.h"
#include "runtime/module_check.h"
#include "runtime/module_format.h"

namespace sinter {

// Fields keep the place that their order in the schema gives them.
static_assert(int{fbs::Origin::VT_PRODUCER} == int{fbs::Metadata::VT_PRODUCER} &&
              int{fbs::Origin::VT_COMMAND} == int{fbs::Metadata::VT_COMMAND} &&
              int{fbs::Origin::VT_SOURCE} == int{fbs::Metadata::VT_SOURCE} &&
              int{fbs::Origin::VT_SOURCE_SHA256} == int{fbs::Metadata::VT_SOURCE_SHA256});

std::optional<ModuleOrigin> OriginOf(absl::Span<const uint8_t> file) {
  FileHeader header;
  if (file.size() < kModulePage || !ByteReader(file).Read(&header)) return std::nullopt;
  const FileSection& section = header.metadata;
  if (!(HeaderChecksum(header) == header.header) || !Fits(section.offset, section.size, file.size()) ||
      section.offset % kModulePage != 0 || limits::kModuleMetadataBytes.Exceeded(section.size)) {
    return std::nullopt;
  }
  const absl::Span<const uint8_t> metadata = file.subspan(section.offset, section.size);
  if (!(ChecksumOf(metadata) == section.checksum)) return std::nullopt;
  flatbuffers::Verifier verifier(metadata.data(), metadata.size(), /*max_depth=*/2, /*max_tables=*/1);
  if (!verifier.VerifyBuffer<fbs::Origin>(fbs::MetadataIdentifier())) return std::nullopt;
  const auto* origin = flatbuffers::GetRoot<fbs::Origin>(metadata.data());
  return ModuleOrigin{std::string(ViewOf(origin->producer())), std::string(ViewOf(origin->command()))};
}

}  // namespace sinter
