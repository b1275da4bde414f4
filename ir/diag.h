// Errors in text, with their place: `file:line:col: message`, the line itself and a caret.
//
// Called by the reader and the parser of `.sir`, by pipelines, and by anything else that reads text which people write.
// Lines and columns count from 1, columns in bytes. A long line is shown in part, what could harm a terminal as spaces.
#pragma once

#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace sinter {

// kInvalidArgument at byte `offset` of `text` (at most its size).
absl::Status ErrorInText(absl::string_view text, absl::string_view file_name, size_t offset, absl::string_view message);

// Levenshtein's distance of two short words: how an unknown name finds the nearest known one.
size_t EditDistance(absl::string_view a, absl::string_view b);

}  // namespace sinter
