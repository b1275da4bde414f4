#include "ir/reader.h"

#include <charconv>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/limits.h"
#include "base/status.h"
#include "ir/diag.h"

namespace sinter {
namespace {

std::string TooLong(absl::string_view what, const Limit& limit) {
  return absl::StrCat("this ", what, " is too long: ", limit.Text());
}

}  // namespace

bool Reader::Accept(absl::string_view word_or_symbol) {
  if (!At(word_or_symbol)) return false;
  Advance();
  return true;
}

absl::Status Reader::Expect(absl::string_view word_or_symbol) {
  return Accept(word_or_symbol) ? absl::OkStatus() : Expected(absl::StrCat("'", word_or_symbol, "'"));
}

absl::Status Reader::Error(const Token& at, absl::string_view message) const {
  return ErrorInText(lexer_.text(), file_name_, at.offset, message);
}

absl::Status Reader::Expected(absl::string_view what) const {
  if (At(TokenKind::kError)) return Error(token_, token_.message);
  if (At(TokenKind::kEnd)) return Error(token_, absl::StrCat("expected ", what, "; found the end of the text"));
  const absl::string_view quote = At(TokenKind::kString) ? "" : "'";
  return Error(token_, absl::StrCat("expected ", what, "; found ", quote, Shown(token_.text), quote));
}

std::string Reader::Shown(absl::string_view text) {
  constexpr size_t kMost = 40;
  return Escaped(text, kMost);
}

absl::StatusOr<std::string> Reader::NameIn(const Token& token) const {
  const absl::string_view name = token.text.substr(1);
  if (limits::kTextNameBytes.Exceeded(name.size())) return Error(token, TooLong("name", limits::kTextNameBytes));
  if (name[0] != '"') return std::string(name);
  std::optional<std::string> bytes = Unquote(name);
  if (!bytes) return Error(token, "this name has an escape that is none of \\\\ \\\" \\n \\t \\xNN");
  return *std::move(bytes);
}

absl::StatusOr<std::string> Reader::Name(TokenKind kind, absl::string_view what) {
  if (!At(kind)) return Expected(what);
  SINTER_ASSIGN_OR_RETURN(std::string name, NameIn(token_));
  Advance();
  return name;
}

absl::StatusOr<std::string> Reader::Word(absl::string_view what) {
  if (!At(TokenKind::kWord)) return Expected(what);
  if (limits::kTextNameBytes.Exceeded(token_.text.size())) {
    return Error(token_, TooLong("name", limits::kTextNameBytes));
  }
  std::string word(token_.text);
  Advance();
  return word;
}

absl::StatusOr<std::string> Reader::String(absl::string_view what) {
  if (!At(TokenKind::kString)) return Expected(what);
  std::optional<std::string> bytes = Unquote(token_.text);
  if (!bytes) return Error(token_, "this string has an escape that is none of \\\\ \\\" \\n \\t \\xNN");
  Advance();
  return *std::move(bytes);
}

absl::StatusOr<int64_t> Reader::Digits(bool negative) {
  if (!At(TokenKind::kNumber) || token_.text.find_first_not_of("0123456789") != absl::string_view::npos) {
    return Expected("an integer");
  }
  uint64_t magnitude = 0;
  const char* end = token_.text.data() + token_.text.size();
  const uint64_t limit = static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) + (negative ? 1 : 0);
  const bool parsed = std::from_chars(token_.text.data(), end, magnitude).ec == std::errc();
  if (!parsed || magnitude > limit) return Error(token_, "this integer does not fit in 64 bits");
  Advance();
  return static_cast<int64_t>(negative ? 0 - magnitude : magnitude);
}

absl::StatusOr<int64_t> Reader::Integer() { return Digits(Accept("-")); }

absl::StatusOr<double> Reader::Double() {
  const double sign = Accept("-") ? -1.0 : 1.0;
  if (Accept("inf")) return sign * std::numeric_limits<double>::infinity();
  if (sign > 0 && Accept("nan")) return std::numeric_limits<double>::quiet_NaN();
  if (!At(TokenKind::kNumber)) return Expected("a number");
  double value = 0;
  const char* end = token_.text.data() + token_.text.size();
  if (limits::kNumberBytes.Exceeded(token_.text.size())) return Error(token_, TooLong("number", limits::kNumberBytes));
  if (std::from_chars(token_.text.data(), end, value).ec != std::errc()) {
    return Error(token_, "this number does not fit in a double");
  }
  Advance();
  return sign * value;
}

absl::StatusOr<DimExpr> Reader::DimTerm(const DimTable& dims, bool negative) {
  DimExpr term(1);
  const auto too_many = [&] {
    return Error(token_, absl::StrCat("this dim has too many factors: ", limits::kDimFactors.Text()));
  };
  size_t symbols = 0;
  for (size_t factors = 0;; ++factors) {
    if (limits::kDimFactors.Exceeded(factors)) return too_many();  // with a number one more
    const Token at = token_;
    if (At(TokenKind::kNumber)) {
      SINTER_ASSIGN_OR_RETURN(const int64_t number, Digits(negative));
      term = term * DimExpr(number);
      negative = false;
    } else if (At(TokenKind::kWord)) {
      const DimId id = dims.Find(token_.text);
      if (limits::kDimFactors.Exceeded(++symbols)) return too_many();
      if (!id.valid()) return Error(token_, absl::StrCat("no dim is called '", Shown(token_.text), "'"));
      term = term * DimExpr::Symbol(id);
      Advance();
    } else {
      return Expected("a dim");
    }
    if (term.poisoned()) return Error(at, "this dim does not fit in 64 bits");
    if (!Accept("*")) break;
  }
  return negative ? DimExpr(0) - term : term;
}

absl::StatusOr<DimExpr> Reader::Dim(const DimTable& dims) {
  const Token begin = token_;
  SINTER_ASSIGN_OR_RETURN(DimExpr sum, DimTerm(dims, Accept("-")));
  for (size_t terms = 1; At("+") || At("-"); ++terms) {
    if (limits::kDimTerms.Exceeded(terms + 1)) {
      return Error(token_, absl::StrCat("this dim has too many terms: ", limits::kDimTerms.Text()));
    }
    const bool negative = At("-");
    Advance();
    SINTER_ASSIGN_OR_RETURN(DimExpr term, DimTerm(dims, negative));
    sum = sum + term;
  }
  if (sum.poisoned()) return Error(begin, "this dim does not fit in 64 bits");
  return sum;
}

absl::StatusOr<Type> Reader::TypeOf(const DimTable& dims) {
  Type type;
  type.state = Accept("state");
  if (type.state) SINTER_RETURN_IF_ERROR(Expect("<"));
  const std::optional<DType> dtype = At(TokenKind::kWord) ? ParseDType(token_.text) : std::nullopt;
  if (!dtype) return Expected("an element type");
  type.dtype = *dtype;
  Advance();
  SINTER_RETURN_IF_ERROR(Expect("["));
  if (At("]")) return Error(token_, absl::StrCat("expected a dim; a scalar is ", Info(*dtype).name, "[1]"));
  do {
    if (limits::kRank.Exceeded(type.rank() + 1))
      return Error(token_, absl::StrCat("too many dims: ", limits::kRank.Text()));
    SINTER_ASSIGN_OR_RETURN(DimExpr dim, Dim(dims));
    type.dims.push_back(std::move(dim));
  } while (Accept(","));
  SINTER_RETURN_IF_ERROR(Expect("]"));
  if (type.state) SINTER_RETURN_IF_ERROR(Expect(">"));
  return type;
}

template <typename T>
absl::Status Reader::Read(T& out, const DimTable& dims, const GraphNames& graphs) {
  if constexpr (std::is_same_v<T, int64_t>) {
    SINTER_ASSIGN_OR_RETURN(out, Integer());
  } else if constexpr (std::is_same_v<T, double>) {
    SINTER_ASSIGN_OR_RETURN(out, Double());
  } else if constexpr (std::is_same_v<T, bool>) {
    if (!At("true") && !At("false")) return Expected("true or false");
    out = At("true");
    Advance();
  } else if constexpr (std::is_same_v<T, std::string>) {
    SINTER_ASSIGN_OR_RETURN(out, String("a string"));
  } else if constexpr (std::is_same_v<T, DimExpr>) {
    SINTER_ASSIGN_OR_RETURN(out, Dim(dims));
  } else {
    static_assert(std::is_same_v<T, GraphRef>);
    const Token at = token_;
    SINTER_ASSIGN_OR_RETURN(const std::string name, Name(TokenKind::kGraphName, "a graph"));
    const auto found = graphs.find(name);
    if (found == graphs.end()) return Error(at, absl::StrCat("no graph is called ", Shown(at.text)));
    out.id = found->second;
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status Reader::Read(std::vector<T>& out, const DimTable& dims, const GraphNames& graphs) {
  out.clear();
  SINTER_RETURN_IF_ERROR(Expect("["));
  if (Accept("]")) return absl::OkStatus();
  do {
    if (limits::kListValues.Exceeded(out.size() + 1)) {
      return Error(token_, absl::StrCat("too many values in a list: ", limits::kListValues.Text()));
    }
    out.emplace_back();
    SINTER_RETURN_IF_ERROR(Read(out.back(), dims, graphs));
  } while (Accept(","));
  return At("]") ? Expect("]") : Expected("',' or ']'");
}

absl::StatusOr<Attr> Reader::AttrLike(const Attr& like, const DimTable& dims, const GraphNames& graphs) {
  Attr attr = like;
  SINTER_RETURN_IF_ERROR(std::visit([&](auto& value) { return Read(value, dims, graphs); }, attr));
  return attr;
}

absl::StatusOr<std::optional<Address>> Reader::OptionalAddress() {
  if (!At(TokenKind::kGraphName)) return std::nullopt;
  const std::optional<Space> space = ParseSpace(token_.text.substr(1));
  if (!space) return Expected("an address space");
  Advance();
  SINTER_RETURN_IF_ERROR(Expect("+"));
  SINTER_ASSIGN_OR_RETURN(const int64_t at, Digits(false));
  return Address{*space, at};
}

}  // namespace sinter
