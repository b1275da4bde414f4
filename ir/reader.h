// Reads the small parts of `.sir` text: names, numbers, strings, dims, types, attribute values, addresses.
//
// Called by the parser, which holds one Reader over a text. A reader stands at a token; what a function reads is
// consumed. Everything is bounded (base/limits.inc), so that hostile text costs time and memory in proportion to its
// length. Errors are ErrorInText at the token: "expected X; found Y".
#pragma once

#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "ir/graph.h"
#include "ir/lexer.h"

namespace sinter {

using GraphNames = absl::flat_hash_map<std::string, GraphId>;

class Reader {
 public:
  Reader(absl::string_view text, absl::string_view file_name) : lexer_(text), file_name_(file_name) { Advance(); }

  const Token& token() const { return token_; }
  void Advance() { token_ = lexer_.Next(); }
  void Seek(size_t offset) {
    lexer_.Seek(offset);
    Advance();
  }

  bool At(TokenKind kind) const { return token_.kind == kind; }
  bool At(absl::string_view word_or_symbol) const {
    return (At(TokenKind::kWord) || At(TokenKind::kSymbol)) && token_.text == word_or_symbol;
  }
  bool Accept(absl::string_view word_or_symbol);
  absl::Status Expect(absl::string_view word_or_symbol);

  absl::Status Error(const Token& at, absl::string_view message) const;
  // A part of the text as messages show it: escaped and cut.
  static std::string Shown(absl::string_view text);
  // "expected `what`; found the token here".
  absl::Status Expected(absl::string_view what) const;

  // The name in a %name or @name token, without consuming it.
  absl::StatusOr<std::string> NameIn(const Token& token) const;
  absl::StatusOr<std::string> Name(TokenKind kind, absl::string_view what);
  absl::StatusOr<std::string> Word(absl::string_view what);
  absl::StatusOr<std::string> String(absl::string_view what);
  absl::StatusOr<int64_t> Integer();
  absl::StatusOr<double> Double();
  absl::StatusOr<DimExpr> Dim(const DimTable& dims);
  absl::StatusOr<Type> TypeOf(const DimTable& dims);
  // A value of the type that `like` holds.
  absl::StatusOr<Attr> AttrLike(const Attr& like, const DimTable& dims, const GraphNames& graphs);
  // `@space+at`; reads nothing when no @ follows.
  absl::StatusOr<std::optional<Address>> OptionalAddress();

 private:
  template <typename T>
  absl::Status Read(T& out, const DimTable& dims, const GraphNames& graphs);
  template <typename T>
  absl::Status Read(std::vector<T>& out, const DimTable& dims, const GraphNames& graphs);
  absl::StatusOr<DimExpr> DimTerm(const DimTable& dims, bool negative);
  absl::StatusOr<int64_t> Digits(bool negative);

  Lexer lexer_;
  std::string file_name_;
  Token token_;
};

}  // namespace sinter
