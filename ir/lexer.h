// Tokens of `.sir` text, one at a time and without copying: a token is a place in the text.
//
// Called by the reader. Blanks and `//` comments separate tokens. A byte that starts no token, a string or a name
// without its end, is a token of kind kError, whose `text` is where it starts and whose `message` says what is wrong.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace sinter {

enum class TokenKind {
  kEnd,
  kWord,       // a letter or _, then letters, digits and _
  kValueName,  // %name or %"any bytes"
  kGraphName,  // @name or @"any bytes"
  kNumber,     // digits, with a fraction or an exponent when it is no integer; never a sign
  kString,     // "..." with the escapes \\ \" \n \t \xNN
  kSymbol,     // -> <= .. and { } ( ) [ ] < > , : = + - *
  kError,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  absl::string_view text;
  size_t offset = 0;
  absl::string_view message = {};  // of kError
};

class Lexer {
 public:
  explicit Lexer(absl::string_view text) : text_(text) {}
  absl::string_view text() const { return text_; }
  void Seek(size_t offset) { at_ = offset; }
  Token Next();

 private:
  Token Take(TokenKind kind, size_t length);
  Token Error(absl::string_view message) const;
  // The length of the quoted string at `from`, quotes included; 0 when it has no end on its line.
  size_t QuotedLength(size_t from) const;

  absl::string_view text_;
  size_t at_ = 0;
};

// A name that needs no quotes after % or @: letters, digits, _ and `.`.
bool IsPlainName(absl::string_view name);

// `bytes` between quotes, with escapes; nothing but printable ASCII.
std::string Quote(absl::string_view bytes);
// The bytes of a quoted string, or nothing when an escape is not one of those above.
std::optional<std::string> Unquote(absl::string_view quoted);

}  // namespace sinter
