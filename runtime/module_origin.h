// What a compiled module of any version says about where it comes from, so that a program that cannot read it can say
// how to make it anew. Called by the loader when the versions differ.
//
// Every version of the format, older or newer, has the header of module_format.h and, as the first fields of its
// metadata, those of Origin in module.fbs: they keep their place for good. Nothing else of the file is looked at.
#pragma once

#include <optional>
#include <string>

#include "absl/types/span.h"

namespace sinter {

struct ModuleOrigin {
  std::string producer;  // "sinter 0.1.0"
  std::string command;   // that made it
};
// Nothing when checksums of header or metadata do not match, or the fields are not there: then the version itself may
// be damage. Whatever the file says of itself may be a lie.
std::optional<ModuleOrigin> OriginOf(absl::Span<const uint8_t> file);

}  // namespace sinter
