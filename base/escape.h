// Names and texts of files, made safe to show: in messages, in tables, on terminals.
//
// Whatever a file says of itself may be an attack on whoever reads it: control characters and ANSI sequences that move
// the cursor or set the title, marks that turn the direction of the text, characters that nobody sees, bytes that are
// no UTF-8. All of them come out as visible ASCII: \n \r \t, \xNN for other control characters and for bytes that are
// no character, \u{NNNN} for characters. Every other character stays as it is, so that names in any script can be read.
// What comes out is always valid UTF-8 and holds no line break.
//
// JSON is written with all but ASCII escaped (console.h). Not escaped is what a user asked for as such: the text that a
// model generates, IR as text (whose printer quotes names in its own way, ir/lexer.h), arrays.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace sinter {

// Names of files in messages are cut to this; see Quoted.
inline constexpr size_t kShownBytes = 80;

// Whether a character can be shown as it is: neither a control character nor a mark of direction, nor a separator of
// lines, nor a character without width or form.
bool IsShowable(char32_t code);

// At most `most` bytes of `text`, whole characters, escaped; "..." follows where something was cut. Backslashes and
// quotes stay: a command remains one.
std::string Escaped(absl::string_view text, size_t most = absl::string_view::npos);
// Escaped, but lines stay lines and tabs stay tabs: for whole messages, the last barrier before a terminal.
std::string EscapedLines(absl::string_view text);
// "NAME": Escaped, backslashes and double quotes too.
std::string Quoted(absl::string_view name, size_t most = kShownBytes);

}  // namespace sinter
