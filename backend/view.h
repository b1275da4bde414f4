// View ops as strides: what kernels read in place of the values that heads, slice, reshape, transpose, repeat and
// kv_view only look at. Asked by kernel selection (what must be copied first) and by kernel specs (how operands are
// read). Knows no LLVM.
#pragma once

#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "ir/graph.h"

namespace sinter {

// An affine look at a parameter of a graph: element (i0, i1, ..) of the viewed value is element offset + sum(i_a *
// strides[a]).
struct View {
  ValueId base;
  DimExpr offset;
  std::vector<DimExpr> strides;  // one an axis of the viewed value
};
// Follows view ops up from `value` to the first value that is no view. nullopt when the chain is not affine.
std::optional<View> ResolveView(const Graph& graph, ValueId value);
// Strides of a dense row-major value.
std::vector<DimExpr> DenseStrides(absl::Span<const DimExpr> dims);
// Of heads [G,Q,T,D] merged to rows [T,G*Q*D]: where each element of the heads lies.
std::vector<DimExpr> MergedStrides(absl::Span<const DimExpr> heads);

}  // namespace sinter
