// Judges the metadata of a compiled module: every count, index, offset, range and type that running it relies on.
//
// Called once by module_load.cc, after the checksums and the FlatBuffers verifier. What passes can be unpacked and run
// without another check: expressions cannot overflow for dims within their ranges, indices are inside their tables,
// offsets inside their spaces (a kernel's own reach from an offset is the kernel's promise: a module is a program).
// Errors: kInvalidArgument, or kFailedPrecondition for what a newer runtime would know; the message begins with the
// place.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "runtime/module_generated.h"

namespace sinter {

struct SectionSizes {
  uint64_t metadata, code, weights;
};

// The FlatBuffers verifier, with limits that a small file cannot turn into much work.
absl::Status VerifyMetadataBuffer(absl::Span<const uint8_t> bytes);
absl::Status CheckMetadata(const fbs::Metadata& metadata, const SectionSizes& sections);

struct ElementType {
  int64_t block_elems, block_bytes;
};
// A row of dtypes.inc.
std::optional<ElementType> FindElementType(absl::string_view name);

inline absl::string_view ViewOf(const flatbuffers::String* s) { return {s->c_str(), s->size()}; }

}  // namespace sinter
