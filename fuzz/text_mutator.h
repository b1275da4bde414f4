// Changes `.sir` text by tokens and lines: dropped, doubled, exchanged, replaced by others of their kind, numbers by
// odd ones. The same text, donors and dice make the same text.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "fuzz/target.h"
#include "tests/dice.h"

namespace sinter::fuzz {

// `donors`: texts whose tokens and lines may turn up in the result.
std::string MutateText(absl::string_view text, absl::Span<const Seed> donors, Dice& dice);

}  // namespace sinter::fuzz
