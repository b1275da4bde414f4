#include "base/escape.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "base/utf8.h"

namespace sinter {
namespace {

struct CodeRange {
  char32_t first, last;
};
// Ascending. The Unicode standard's categories Cc, Zl, Zp and Cf, default-ignorable characters, and noncharacters that
// terminals treat as such.
constexpr CodeRange kHidden[] = {
    {0x00, 0x1f},        // C0: ESC begins ANSI sequences
    {0x7f, 0x9f},        // DEL, C1: U+009B begins ANSI sequences, too
    {0xad, 0xad},        // soft hyphen
    {0x34f, 0x34f},      // combining grapheme joiner
    {0x600, 0x605},      // Arabic signs that enclose what follows
    {0x61c, 0x61c},      // Arabic letter mark
    {0x6dd, 0x6dd},      // Arabic end of ayah
    {0x70f, 0x70f},      // Syriac abbreviation mark
    {0x890, 0x891},      // Arabic pound and piastre marks
    {0x8e2, 0x8e2},      // Arabic disputed end of ayah
    {0x115f, 0x1160},    // Hangul fillers
    {0x17b4, 0x17b5},    // Khmer vowels without form
    {0x180b, 0x180f},    // Mongolian selectors and separator
    {0x200b, 0x200f},    // zero-width characters, marks of direction
    {0x2028, 0x202e},    // separators of lines and paragraphs, embeddings and overrides of direction
    {0x2060, 0x206f},    // word joiner, invisible operators, isolates of direction
    {0x3164, 0x3164},    // Hangul filler
    {0xfe00, 0xfe0f},    // variation selectors
    {0xfeff, 0xfeff},    // byte order mark
    {0xffa0, 0xffa0},    // halfwidth Hangul filler
    {0xfff0, 0xfffb},    // interlinear annotation
    {0xfffe, 0xffff},    // noncharacters
    {0x110bd, 0x110bd},  // Kaithi number sign
    {0x110cd, 0x110cd}, {0x13430, 0x1343f},  // Egyptian format controls
    {0x1bca0, 0x1bca3},                      // shorthand format controls
    {0x1d173, 0x1d17a},                      // musical format controls
    {0xe0000, 0xe0fff},                      // tags, variation selectors
};

void AppendByte(char byte, std::string& out) {
  constexpr char kHex[] = "0123456789abcdef";
  const auto bits = static_cast<unsigned char>(byte);
  out += {'\\', 'x', kHex[bits >> 4], kHex[bits & 15]};
}

// `kept`: characters that stay although they could not be shown; `guarded`: those that get a backslash.
std::string Escape(absl::string_view text, size_t most, absl::string_view kept, absl::string_view guarded) {
  std::string out;
  out.reserve(std::min(text.size(), most));
  size_t done = 0;
  while (done < text.size()) {
    const Utf8Step step = DecodeUtf8(text.substr(done));
    const size_t bytes = std::max<size_t>(step.bytes, 1);
    if (bytes > most - done) {
      out += "...";
      break;
    }
    const char first = text[done];
    const absl::string_view character = text.substr(done, bytes);
    done += bytes;
    if (!step.valid) {
      for (char byte : character) AppendByte(byte, out);
    } else if (kept.find(first) != absl::string_view::npos) {
      out += first;
    } else if (guarded.find(first) != absl::string_view::npos) {
      out += {'\\', first};
    } else if (IsShowable(step.code)) {
      out.append(character.data(), character.size());
    } else if (first == '\n' || first == '\r' || first == '\t') {
      out += {'\\', first == '\n' ? 'n' : first == '\r' ? 'r' : 't'};
    } else if (step.code < 0x80) {
      AppendByte(first, out);
    } else {
      absl::StrAppend(&out, "\\u{", absl::Hex(static_cast<uint32_t>(step.code)), "}");
    }
  }
  return out;
}

}  // namespace

bool IsShowable(char32_t code) {
  const CodeRange* range = std::lower_bound(std::begin(kHidden), std::end(kHidden), code,
                                            [](const CodeRange& row, char32_t wanted) { return row.last < wanted; });
  return range == std::end(kHidden) || code < range->first;
}

std::string Escaped(absl::string_view text, size_t most) { return Escape(text, most, "", ""); }
std::string EscapedLines(absl::string_view text) { return Escape(text, absl::string_view::npos, "\n\t", ""); }
std::string Quoted(absl::string_view name, size_t most) {
  return absl::StrCat("\"", Escape(name, most, "", "\"\\"), "\"");
}

}  // namespace sinter
