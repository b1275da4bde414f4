// Changes GGUF files as a file, not as bytes: keys, values, types, counts, tensors, dims, data and offsets.
//
// What a change leaves in disagreement is repaired most of the time, so that the file passes the reader's first gates,
// and left as a lie otherwise. The same file, donors and dice make the same file.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "fuzz/gguf_image.h"
#include "tests/dice.h"

namespace sinter::fuzz {

// `donors`: files whose names, values and tensors may turn up in the result.
std::string MutateGguf(absl::string_view bytes, absl::Span<const GgufImage> donors, Dice& dice);

// A number with which things go wrong: around a power of two, a small one, or any.
uint64_t OddInteger(Dice& dice);
// NaN, an infinity, zero, the smallest, the largest or an ordinary number.
double OddFloat(Dice& dice);
// A few bytes of the text changed, dropped, doubled or put in: control characters, invalid UTF-8, ANSI sequences.
std::string OddText(absl::string_view text, Dice& dice);
// The bytes with 1 to 8 of them changed, a piece cut out, doubled or zeroed, or the end cut off.
std::string OddBytes(absl::string_view bytes, Dice& dice);

}  // namespace sinter::fuzz
