// By which a module knows the model that it was made of.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace sinter {

// SHA-256 (FIPS 180-4) of the bytes, as 64 hexadecimal digits.
std::string Sha256(absl::string_view bytes);

}  // namespace sinter
