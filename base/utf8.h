// UTF-8, one character at a time, from bytes that may be anything.
//
// Used to print tokens as they come (runtime/tokenizer.h) and to make names of files safe to show (escape.h).
// Well-formed sequences are those of table 3-7 of the Unicode standard: no overlong forms, no surrogates, nothing past
// U+10FFFF.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace sinter {

// The bytes of a character, judged by its first: continuation bytes stand alone.
inline size_t Utf8Bytes(char first) {
  const auto byte = static_cast<uint8_t>(first);
  return byte < 0xc0 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

// How a text begins: with the character `code` of `bytes` bytes (valid); with `bytes` bytes that can never be part of
// one; or, when bytes is 0, with a character that the text ends in the middle of.
struct Utf8Step {
  size_t bytes;
  bool valid;
  char32_t code = 0;
};

// `text` is not empty.
inline Utf8Step DecodeUtf8(absl::string_view text) {
  const auto first = static_cast<uint8_t>(text[0]);
  if (first < 0x80) return {1, true, first};
  if (first < 0xc2 || first > 0xf4) return {1, false};
  const size_t size = Utf8Bytes(text[0]);
  char32_t code = first & (0x7fU >> size);
  for (size_t i = 1; i < size; ++i) {
    if (i == text.size()) return {0, false};
    const auto byte = static_cast<uint8_t>(text[i]);
    uint8_t low = 0x80, high = 0xbf;
    if (i == 1) {  // neither overlong forms, nor surrogates, nor past U+10FFFF
      if (first == 0xe0) low = 0xa0;
      if (first == 0xed) high = 0x9f;
      if (first == 0xf0) low = 0x90;
      if (first == 0xf4) high = 0x8f;
    }
    if (byte < low || byte > high) return {i, false};
    code = code << 6 | (byte & 0x3fU);
  }
  return {size, true, code};
}

inline bool IsUtf8(absl::string_view text) {
  while (!text.empty()) {
    const Utf8Step step = DecodeUtf8(text);
    if (!step.valid) return false;
    text.remove_prefix(step.bytes);
  }
  return true;
}

}  // namespace sinter
