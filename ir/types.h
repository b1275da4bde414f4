// Types of values: `f32[12,T,P+T]`, and the linear `state<f16[2,12,4096,64]>` of what is updated in place.
//
// The last axis is the fastest. Tensors are dense and row-major; a scalar is f32[1]. Shapes align at the last axis, an
// absent leading axis counts as 1, and only a literal 1 broadcasts.
#pragma once

#include <cstdint>
#include <string>

#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "ir/dims.h"
#include "ir/dtype.h"

namespace sinter {

using Dims = absl::InlinedVector<DimExpr, 4>;

struct Type {
  DType dtype = DType::kF32;
  Dims dims;
  bool state = false;

  int64_t rank() const { return static_cast<int64_t>(dims.size()); }
  friend bool operator==(const Type&, const Type&) = default;
};

std::string ToString(const Type& type, const DimTable& table);

// The largest number of elements and bytes that a value of this type can have. kInvalidArgument: over 2^62, a poisoned
// or negative dim, or a quantized last axis that is no multiple of its block.
absl::StatusOr<int64_t> MaxElems(const Type& type, const DimTable& table);
absl::StatusOr<int64_t> MaxBytes(const Type& type, const DimTable& table);

// Product of dims, as an expression.
DimExpr Product(absl::Span<const DimExpr> dims);

// The shape that `a` and `b` broadcast to. kInvalidArgument when two dims are neither equal nor a literal 1.
absl::StatusOr<Dims> Broadcast(const Dims& a, const Dims& b, const DimTable& table);

}  // namespace sinter
