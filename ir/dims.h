// Symbolic dims: numbers, or canonical sums of products of named symbols.
//
// Two dims are provably equal exactly when they compare equal. Each symbol has a range, a module states joint bounds
// (`bound P+T <= 4096`), and every upper size is asked of the DimTable, which consults both. Arithmetic that overflows
// 64 bits yields a poisoned expression, which Infer and the verifier refuse.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "ir/ids.h"

namespace sinter {

class DimExpr {
 public:
  // coefficient * product of symbols (sorted; empty for the constant term).
  struct Term {
    int64_t coefficient = 0;
    absl::InlinedVector<DimId, 2> symbols;
    friend bool operator==(const Term&, const Term&) = default;
  };

  DimExpr() = default;
  DimExpr(int64_t constant);  // NOLINT(google-explicit-constructor): a literal dim reads as a number
  static DimExpr Symbol(DimId id);
  static DimExpr Poison();

  bool is_const() const { return !poisoned_ && (terms_.empty() || (terms_.size() == 1 && terms_[0].symbols.empty())); }
  bool is_one() const { return is_const() && constant() == 1; }
  bool poisoned() const { return poisoned_; }
  int64_t constant() const;  // the constant term
  // Sorted by symbols; no term has coefficient 0.
  const absl::InlinedVector<Term, 2>& terms() const { return terms_; }

  friend DimExpr operator+(const DimExpr& a, const DimExpr& b);
  friend DimExpr operator-(const DimExpr& a, const DimExpr& b);
  friend DimExpr operator*(const DimExpr& a, const DimExpr& b);
  friend bool operator==(const DimExpr&, const DimExpr&) = default;

  // The expression with each symbol replaced by by[symbol] (an invalid index keeps the symbol).
  DimExpr Substitute(const IdMap<DimId, DimExpr>& by) const;
  // The value when each symbol has the value given; poisoned arithmetic yields kInvalidArgument.
  absl::StatusOr<int64_t> Evaluate(const IdMap<DimId, int64_t>& values) const;
  // a / b where b divides every coefficient and symbol of some term arrangement: exact division by one term, or poison.
  DimExpr DivideExactly(const DimExpr& divisor) const;

 private:
  void AddTerm(Term term);
  absl::InlinedVector<Term, 2> terms_;
  bool poisoned_ = false;
};

struct DimSymbol {
  std::string name;
  int64_t min = 0, max = 0;
};

struct DimBound {
  DimExpr expr;
  int64_t max = 0;
};

// The symbols and joint bounds of a module.
class DimTable {
 public:
  absl::StatusOr<DimId> Add(
      DimSymbol symbol);  // kInvalidArgument: duplicate name, min > max, min < 0, more than limits::kDimSymbols
  void AddBound(DimBound bound) { bounds_.push_back(std::move(bound)); }

  DimId Find(absl::string_view name) const;  // None when there is no such symbol
  const IdMap<DimId, DimSymbol>& symbols() const { return symbols_; }
  const std::vector<DimBound>& bounds() const { return bounds_; }

  // The largest and smallest value that `expr` can take, from ranges and bounds; saturates at the ends of int64.
  int64_t Max(const DimExpr& expr) const;
  int64_t Min(const DimExpr& expr) const;

  // `P+T`, `2*T+1`: terms by the names of their symbols, the constant last. Poison prints as `<overflow>`.
  std::string ToString(const DimExpr& expr) const;

 private:
  IdMap<DimId, DimSymbol> symbols_;
  std::vector<DimBound> bounds_;
};

}  // namespace sinter
