// What the Infer functions share: labelled errors, types as text, axes, and the shape rule of elementwise ops.
//
// Used by infer*.cc alone. Constraint n of op `softmax` has the label "softmax-c<n>"; messages say what was expected
// and what was found.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "ir/infer.h"

namespace sinter {

template <typename... Parts>
absl::Status Fail(const InferContext& ctx, int constraint, const Parts&... parts) {
  return ctx.Error(absl::StrCat(ctx.op.def().name, "-c", constraint), parts...);
}

inline std::string Show(const InferContext& ctx, ValueId id) {
  return absl::StrCat("%", ctx.graph.value(id).name, ": ", ToString(ctx.type(id), ctx.dims()));
}
inline std::string Show(const InferContext& ctx, const DimExpr& dim) { return ctx.dims().ToString(dim); }
inline std::string Show(const InferContext& ctx, const Type& type) { return ToString(type, ctx.dims()); }

// `axis` counted from the front, when it is one of `rank` axes (negative: from the back).
inline std::optional<size_t> AxisOf(int64_t axis, int64_t rank) {
  if (axis < -rank || axis >= rank) return std::nullopt;
  return static_cast<size_t>(axis < 0 ? axis + rank : axis);
}

// i32 or i64: the types of positions and row numbers.
inline bool IsIndex(DType dtype) { return dtype == DType::kI32 || dtype == DType::kI64; }

// Constraint 1: the operands have one element type; constraint 2: their shapes broadcast. Pushes the result.
absl::Status InferElementwise(InferContext& ctx, std::initializer_list<ValueId> operands);

}  // namespace sinter
