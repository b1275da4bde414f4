#include "ir/types.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/checked.h"
#include "base/limits.h"
#include "base/status.h"

namespace sinter {
namespace {

std::string DimsToString(absl::Span<const DimExpr> dims, const DimTable& table) {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); ++i) absl::StrAppend(&text, i == 0 ? "" : ",", table.ToString(dims[i]));
  return text + "]";
}

absl::Status SizeError(const Type& type, const DimTable& table, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(ToString(type, table), ": ", what));
}

}  // namespace

std::string ToString(const Type& type, const DimTable& table) {
  std::string text = absl::StrCat(Info(type.dtype).name, DimsToString(type.dims, table));
  return type.state ? absl::StrCat("state<", text, ">") : text;
}

absl::StatusOr<int64_t> MaxElems(const Type& type, const DimTable& table) {
  // Factor by factor, since a joint bound says more of P+T than of a product with it. An axis of 0 makes the rest moot.
  int64_t elems = 1;
  bool overflow = false, empty = false;
  for (const DimExpr& dim : type.dims) {
    if (dim.poisoned()) return SizeError(type, table, "a dim overflows 64 bits");
    if (table.Min(dim) < 0) {
      return SizeError(type, table, absl::StrCat("dim ", table.ToString(dim), " can be negative"));
    }
    const int64_t max = table.Max(dim);
    empty |= max <= 0;
    const std::optional<int64_t> product = CheckedMul(elems, max);
    overflow |= !product || limits::kTensorBytes.Exceeded(*product);
    elems = overflow ? 1 : *product;
  }
  if (IsQuantized(type.dtype)) {
    const int64_t block = Info(type.dtype).block_elems;
    if (type.dims.empty() || type.dims.back().DivideExactly(block).poisoned()) {
      return SizeError(type, table, absl::StrCat("expected a last axis that is a multiple of the block of ", block));
    }
  }
  if (empty) return 0;
  if (overflow) return SizeError(type, table, absl::StrCat("too many elements: ", limits::kTensorBytes.Text()));
  return elems;
}

absl::StatusOr<int64_t> MaxBytes(const Type& type, const DimTable& table) {
  SINTER_ASSIGN_OR_RETURN(const int64_t elems, MaxElems(type, table));
  const DTypeInfo& info = Info(type.dtype);
  const std::optional<int64_t> bytes = CheckedMul(elems / info.block_elems, info.block_bytes);
  if (!bytes || limits::kTensorBytes.Exceeded(*bytes))
    return SizeError(type, table, absl::StrCat("too many bytes: ", limits::kTensorBytes.Text()));
  return *bytes;
}

DimExpr Product(absl::Span<const DimExpr> dims) {
  DimExpr product = 1;
  for (const DimExpr& dim : dims) product = product * dim;
  return product;
}

absl::StatusOr<Dims> Broadcast(const Dims& a, const Dims& b, const DimTable& table) {
  const size_t rank = std::max(a.size(), b.size());
  Dims result;
  for (size_t i = 0; i < rank; ++i) {
    const DimExpr x = i + a.size() < rank ? DimExpr(1) : a[i + a.size() - rank];
    const DimExpr y = i + b.size() < rank ? DimExpr(1) : b[i + b.size() - rank];
    if (x != y && !x.is_one() && !y.is_one()) {
      return absl::InvalidArgumentError(absl::StrCat("expected shapes that broadcast; found ", DimsToString(a, table),
                                                     " and ", DimsToString(b, table), ", where ", table.ToString(x),
                                                     " and ", table.ToString(y), " are neither equal nor a literal 1"));
    }
    result.push_back(x.is_one() ? y : x);
  }
  return result;
}

}  // namespace sinter
