// The limits on what files and texts may state, each a row of limits.inc. Used by every reader of a format.
//
// A limit is no promise that everything below it works; it is what keeps a small hostile file from costing much memory
// or time, and arithmetic from overflowing. An error says which one it was, by the name in the table:
// `... : 5000000 tokens: the limit "vocabulary" is 4194304`.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sinter {

struct Limit {
  absl::string_view name;
  int64_t most;
  absl::string_view unit, why;

  template <typename T>
  constexpr bool Exceeded(T value) const {  // whatever the sign and the width of T
    return std::cmp_greater(value, most);
  }
  // For messages.
  std::string Text() const { return absl::StrCat("the limit \"", name, "\" is ", most); }
};

namespace limits {
#define LIMIT(symbol, name, most, unit, why) inline constexpr Limit k##symbol = {name, most, unit, why};
#include "base/limits.inc"
#undef LIMIT

// All rows, in the order of the table.
inline constexpr Limit kAll[] = {
#define LIMIT(symbol, name, most, unit, why) k##symbol,
#include "base/limits.inc"
#undef LIMIT
};
}  // namespace limits

}  // namespace sinter
