#include "ir/dims.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/checked.h"
#include "base/limits.h"

namespace sinter {
namespace {

constexpr int64_t kInt64Max = std::numeric_limits<int64_t>::max(), kInt64Min = std::numeric_limits<int64_t>::min();

using Int128 = __int128;
constexpr Int128 kHuge = Int128{1} << 100;

Int128 SaturatingMul(Int128 a, Int128 b) {
  Int128 r;
  if (__builtin_mul_overflow(a, b, &r)) return (a < 0) != (b < 0) ? -kHuge : kHuge;
  return std::clamp(r, -kHuge, kHuge);
}

// An upper bound of `expr` from the ranges of its symbols alone. Symbols are not negative, so a product of symbols lies
// between the products of their ends. A term that saturates upwards makes the sum saturate; one that saturates
// downwards only loosens it. Sums of as many terms as there may be, of at most 2^100, fit.
Int128 IntervalMax(const DimExpr& expr, const IdMap<DimId, DimSymbol>& symbols) {
  if (expr.poisoned()) return kHuge;
  Int128 sum = 0;
  for (const DimExpr::Term& term : expr.terms()) {
    Int128 product = 1;
    for (DimId id : term.symbols)
      product = SaturatingMul(product, term.coefficient > 0 ? symbols[id].max : symbols[id].min);
    product = SaturatingMul(product, term.coefficient);
    if (product >= kHuge) return kHuge;
    sum += product;
  }
  return sum;
}

}  // namespace

DimExpr::DimExpr(int64_t constant) { AddTerm({constant, {}}); }

DimExpr DimExpr::Symbol(DimId id) {
  DimExpr result;
  result.AddTerm({1, {id}});
  return result;
}

DimExpr DimExpr::Poison() {
  DimExpr result;
  result.poisoned_ = true;
  return result;
}

int64_t DimExpr::constant() const { return !terms_.empty() && terms_[0].symbols.empty() ? terms_[0].coefficient : 0; }

// Coefficients stay above the smallest int64, so that every expression can be negated.
void DimExpr::AddTerm(Term term) {
  if (poisoned_ || term.coefficient == 0) return;
  auto at = std::lower_bound(terms_.begin(), terms_.end(), term,
                             [](const Term& a, const Term& b) { return a.symbols < b.symbols; });
  if (at == terms_.end() || at->symbols != term.symbols) {
    if (term.coefficient == kInt64Min || limits::kDimTerms.Exceeded(terms_.size() + 1) ||
        limits::kDimFactors.Exceeded(term.symbols.size())) {
      *this = Poison();
      return;
    }
    terms_.insert(at, std::move(term));
    return;
  }
  const std::optional<int64_t> sum = CheckedAdd(at->coefficient, term.coefficient);
  if (!sum || *sum == kInt64Min) {
    *this = Poison();
  } else if (*sum == 0) {
    terms_.erase(at);
  } else {
    at->coefficient = *sum;
  }
}

DimExpr operator+(const DimExpr& a, const DimExpr& b) {
  if (a.poisoned_ || b.poisoned_) return DimExpr::Poison();
  DimExpr result = a;
  for (const DimExpr::Term& term : b.terms_) result.AddTerm(term);
  return result;
}

DimExpr operator-(const DimExpr& a, const DimExpr& b) {
  if (a.poisoned_ || b.poisoned_) return DimExpr::Poison();
  DimExpr result = a;
  for (const DimExpr::Term& term : b.terms_) result.AddTerm({-term.coefficient, term.symbols});
  return result;
}

DimExpr operator*(const DimExpr& a, const DimExpr& b) {
  if (a.poisoned_ || b.poisoned_) return DimExpr::Poison();
  if (a.is_one()) return b;  // most strides and many dims are 1
  if (b.is_one()) return a;
  DimExpr result;
  for (const DimExpr::Term& x : a.terms_) {
    for (const DimExpr::Term& y : b.terms_) {
      const std::optional<int64_t> coefficient = CheckedMul(x.coefficient, y.coefficient);
      if (!coefficient) return DimExpr::Poison();
      DimExpr::Term term{*coefficient, x.symbols};
      term.symbols.insert(term.symbols.end(), y.symbols.begin(), y.symbols.end());
      std::sort(term.symbols.begin(), term.symbols.end());
      result.AddTerm(std::move(term));
      if (result.poisoned_) return result;
    }
  }
  return result;
}

DimExpr DimExpr::Substitute(const IdMap<DimId, DimExpr>& by) const {
  if (poisoned_ || is_const()) return *this;
  DimExpr result;
  for (const Term& term : terms_) {
    DimExpr product(term.coefficient);
    for (DimId id : term.symbols) product = product * (by.Has(id) ? by[id] : Symbol(id));
    result = result + product;
  }
  return result;
}

absl::StatusOr<int64_t> DimExpr::Evaluate(const IdMap<DimId, int64_t>& values) const {
  if (poisoned_) return absl::InvalidArgumentError("a dim overflows 64 bits");
  int64_t sum = 0;
  for (const Term& term : terms_) {
    std::optional<int64_t> product = term.coefficient;
    for (DimId id : term.symbols) {
      if (!values.Has(id) || values[id] < 0) return absl::InvalidArgumentError("a dim symbol has no value");
      if (product) product = CheckedMul(*product, values[id]);
    }
    if (product) product = CheckedAdd(sum, *product);
    if (!product) return absl::InvalidArgumentError("a dim overflows 64 bits");
    sum = *product;
  }
  return sum;
}

DimExpr DimExpr::DivideExactly(const DimExpr& divisor) const {
  if (poisoned_ || divisor.poisoned_ || divisor.terms_.empty()) return Poison();
  if (*this == divisor) return DimExpr(1);
  if (divisor.terms_.size() != 1) return Poison();
  const Term& by = divisor.terms_[0];
  DimExpr result;
  for (const Term& term : terms_) {
    Term quotient{term.coefficient / by.coefficient, {}};
    if (quotient.coefficient * by.coefficient != term.coefficient) return Poison();
    // Both are sorted: what is left of the multiset after taking away the divisor's symbols.
    std::set_difference(term.symbols.begin(), term.symbols.end(), by.symbols.begin(), by.symbols.end(),
                        std::back_inserter(quotient.symbols));
    if (quotient.symbols.size() + by.symbols.size() != term.symbols.size()) return Poison();
    result.AddTerm(std::move(quotient));
  }
  return result;
}

absl::StatusOr<DimId> DimTable::Add(DimSymbol symbol) {
  if (limits::kDimSymbols.Exceeded(symbols_.size() + 1)) {
    return absl::InvalidArgumentError(absl::StrCat("too many dims: ", limits::kDimSymbols.Text()));
  }
  if (Find(symbol.name).valid()) {
    return absl::InvalidArgumentError(absl::StrCat("dim ", symbol.name, " is declared twice"));
  }
  if (symbol.min < 0 || symbol.min > symbol.max) {
    return absl::InvalidArgumentError(absl::StrCat(
        "dim ", symbol.name, ": expected a range with 0 <= first <= last; found ", symbol.min, "..", symbol.max));
  }
  return symbols_.Add(std::move(symbol));
}

DimId DimTable::Find(absl::string_view name) const {
  for (uint32_t i = 0; i < symbols_.size(); ++i) {
    if (symbols_[DimId{i}].name == name) return DimId{i};
  }
  return DimId::None();
}

// A bound b <= m gives e = k*b + (e - k*b) <= k*m + IntervalMax(e - k*b) for each k > 0; the k worth trying are 1 and
// those that cancel a term. A bound none of whose terms is in e with the same sign says nothing of it.
int64_t DimTable::Max(const DimExpr& expr) const {
  if (expr.is_const()) return expr.constant();
  Int128 best = IntervalMax(expr, symbols_);
  const auto try_bound = [&](const DimBound& bound, int64_t k) {
    const Int128 rest = IntervalMax(expr - DimExpr(k) * bound.expr, symbols_);
    if (rest < kHuge) best = std::min(best, SaturatingMul(k, bound.max) + rest);
  };
  for (const DimBound& bound : bounds_) {
    const bool helps = std::any_of(expr.terms().begin(), expr.terms().end(), [&](const DimExpr::Term& term) {
      return !term.symbols.empty() &&
             std::any_of(bound.expr.terms().begin(), bound.expr.terms().end(), [&](const auto& other) {
               return term.symbols == other.symbols && (term.coefficient > 0) == (other.coefficient > 0);
             });
    });
    if (!helps) continue;
    try_bound(bound, 1);
    for (const DimExpr::Term& term : expr.terms()) {
      for (const DimExpr::Term& other : bound.expr.terms()) {
        if (term.symbols.empty() || term.symbols != other.symbols) continue;
        const int64_t k = term.coefficient / other.coefficient;
        if (k > 1) try_bound(bound, k);
      }
    }
  }
  return static_cast<int64_t>(std::clamp(best, Int128{kInt64Min}, Int128{kInt64Max}));
}

int64_t DimTable::Min(const DimExpr& expr) const {
  if (expr.is_const()) return expr.constant();
  const int64_t max = Max(DimExpr(0) - expr);
  if (max == kInt64Max) return kInt64Min;
  return max == kInt64Min ? kInt64Max : -max;
}

std::string DimTable::ToString(const DimExpr& expr) const {
  if (expr.poisoned()) return "<overflow>";
  // Products by name, each with its symbols by name, so that the text does not depend on the order of declaration.
  std::vector<std::pair<std::vector<absl::string_view>, int64_t>> products;
  for (const DimExpr::Term& term : expr.terms()) {
    if (term.symbols.empty()) continue;
    std::vector<absl::string_view> names;
    for (DimId id : term.symbols) names.emplace_back(symbols_[id].name);
    std::sort(names.begin(), names.end());
    products.emplace_back(std::move(names), term.coefficient);
  }
  std::sort(products.begin(), products.end());
  if (expr.constant() != 0 || products.empty())
    products.emplace_back(std::vector<absl::string_view>(), expr.constant());
  std::string text;
  for (const auto& [names, coefficient] : products) {
    if (coefficient >= 0 && !text.empty()) text += '+';
    std::string product;
    if (names.empty() || (coefficient != 1 && coefficient != -1)) {
      absl::StrAppend(&product, coefficient);
    } else if (coefficient == -1) {
      product.push_back('-');
    }
    for (absl::string_view name : names) {
      if (!product.empty() && product != "-") product += '*';
      absl::StrAppend(&product, name);
    }
    text += product;
  }
  return text;
}

}  // namespace sinter
