#include "ir/lexer.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace sinter {
namespace {

constexpr absl::string_view kSymbols[] = {"->", "<=", "..", "{", "}", "(", ")", "[", "]",
                                          "<",  ">",  ",",  ":", "=", "+", "-", "*"};

using Predicate = bool (*)(char);
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsWordChar(char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_'; }
bool IsNameChar(char c) { return IsWordChar(c) || c == '.'; }

// The length of the run of `is` at the start of `s`.
size_t Run(absl::string_view s, Predicate is) {
  return static_cast<size_t>(std::find_if_not(s.begin(), s.end(), is) - s.begin());
}

size_t NumberLength(absl::string_view s) {
  size_t n = Run(s, IsDigit);
  if (n + 1 < s.size() && s[n] == '.' && IsDigit(s[n + 1])) n += 1 + Run(s.substr(n + 1), IsDigit);
  if (n < s.size() && (s[n] == 'e' || s[n] == 'E')) {
    const size_t sign = n + 1 < s.size() && (s[n + 1] == '+' || s[n + 1] == '-') ? 1 : 0;
    const size_t digits = Run(s.substr(n + 1 + sign), IsDigit);
    if (digits > 0) n += 1 + sign + digits;
  }
  return n;
}

int HexValue(char c) {
  if (IsDigit(c)) return c - '0';
  const char lower = absl::ascii_tolower(static_cast<unsigned char>(c));
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

constexpr absl::string_view kByteOrderMark = "\xef\xbb\xbf";

// Of what a terminal does not show.
absl::string_view NoToken(unsigned char byte) {
  static const auto* const messages = [] {
    auto* all = new std::vector<std::string>(256);
    for (unsigned i = 0; i < all->size(); ++i) {
      (*all)[i] = absl::StrCat("no token starts with the byte 0x", absl::Hex(i, absl::kZeroPad2),
                               "; outside of quotes and comments a text is ASCII");
    }
    return all;
  }();
  return (*messages)[byte];
}

}  // namespace

bool IsPlainName(absl::string_view name) { return !name.empty() && Run(name, IsNameChar) == name.size(); }

Token Lexer::Take(TokenKind kind, size_t length) {
  const Token token{kind, text_.substr(at_, length), at_};
  at_ += length;
  return token;
}

Token Lexer::Error(absl::string_view message) const {
  return Token{TokenKind::kError, text_.substr(at_, 1), at_, message};
}

size_t Lexer::QuotedLength(size_t from) const {
  for (size_t i = from + 1; i < text_.size() && text_[i] != '\n'; ++i) {
    if (text_[i] == '"') return i + 1 - from;
    if (text_[i] == '\\') ++i;
  }
  return 0;
}

Token Lexer::Next() {
  if (at_ == 0 && absl::StartsWith(text_, kByteOrderMark)) at_ = kByteOrderMark.size();  // as some editors write
  while (at_ < text_.size()) {
    if (absl::ascii_isspace(static_cast<unsigned char>(text_[at_]))) {
      ++at_;
    } else if (text_.substr(at_, 2) == "//") {
      at_ = std::min(text_.find('\n', at_), text_.size());
    } else {
      break;
    }
  }
  if (at_ == text_.size()) return Take(TokenKind::kEnd, 0);

  const absl::string_view rest = text_.substr(at_);
  const char c = rest[0];
  if (c == '"') {
    const size_t length = QuotedLength(at_);
    return length > 0 ? Take(TokenKind::kString, length) : Error("this string has no end on its line");
  }
  if (c == '%' || c == '@') {
    const TokenKind kind = c == '%' ? TokenKind::kValueName : TokenKind::kGraphName;
    const bool quoted = rest.size() > 1 && rest[1] == '"';
    const size_t length = quoted ? QuotedLength(at_ + 1) : Run(rest.substr(1), IsNameChar);
    if (length == 0 || (quoted && length == 2)) {
      return Error(c == '%' ? "expected a value's name after %" : "expected a name after @");
    }
    return Take(kind, 1 + length);
  }
  if (IsDigit(c)) return Take(TokenKind::kNumber, NumberLength(rest));
  if (IsWordChar(c)) return Take(TokenKind::kWord, Run(rest, IsWordChar));
  for (absl::string_view symbol : kSymbols) {
    if (rest.substr(0, symbol.size()) == symbol) return Take(TokenKind::kSymbol, symbol.size());
  }
  if (absl::StartsWith(rest, kByteOrderMark)) return Error("a byte-order mark (U+FEFF) inside a text; remove it");
  if (!absl::ascii_isprint(static_cast<unsigned char>(c))) return Error(NoToken(static_cast<unsigned char>(c)));
  return Error("no token starts with this character");
}

std::string Quote(absl::string_view bytes) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out = "\"";
  for (char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\\' || c == '"') {
      absl::StrAppend(&out, "\\", std::string(1, c));
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte >= 0x7f) {
      out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    } else {
      out += c;
    }
  }
  return out += '"';
}

std::optional<std::string> Unquote(absl::string_view quoted) {
  const absl::string_view body = quoted.substr(1, quoted.size() - 2);
  std::string out;
  for (size_t i = 0; i < body.size(); ++i) {
    if (body[i] != '\\') {
      out += body[i];
      continue;
    }
    if (++i == body.size()) return std::nullopt;
    switch (body[i]) {
      case '\\':
      case '"':
        out += body[i];
        break;
      case 'n':
        out += '\n';
        break;
      case 't':
        out += '\t';
        break;
      case 'x': {
        if (i + 2 >= body.size()) return std::nullopt;
        const int high = HexValue(body[i + 1]), low = HexValue(body[i + 2]);
        if (high < 0 || low < 0) return std::nullopt;
        out += static_cast<char>(high * 16 + low);
        i += 2;
        break;
      }
      default:
        return std::nullopt;
    }
  }
  return out;
}

}  // namespace sinter
