// Element types: the rows of dtypes.inc, what they are called, how large they are and what their bytes mean.
//
// Decode and Encode are the meaning of the bytes of a tensor, used by the evaluator and by weight packing. What the
// blocks of quantized weights hold is in quant.h. q8_r is for rows that meet such weights in products: of each 32
// elements an f32 scale, the sums of the first and the last 16 quanta as i32, and the quanta, 32 x i8.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sinter {

enum class DType : uint8_t {
#define DTYPE(enumerator, text, cls, block, bytes) enumerator,
#include "ir/dtypes.inc"
#undef DTYPE
};

enum class DTypeClass : uint8_t { kFloat, kInt, kBool, kQuantized };

struct DTypeInfo {
  DType dtype;
  absl::string_view name;
  DTypeClass cls;
  int64_t block_elems;
  int64_t block_bytes;
};

absl::Span<const DTypeInfo> AllDTypes();
const DTypeInfo& Info(DType dtype);
std::optional<DType> ParseDType(absl::string_view name);

inline bool IsFloat(DType t) { return Info(t).cls == DTypeClass::kFloat; }
inline bool IsReal(DType t) { return IsFloat(t) && t != DType::kF64; }  // a float that kernels compute with
inline bool IsInt(DType t) { return Info(t).cls == DTypeClass::kInt; }
inline bool IsQuantized(DType t) { return Info(t).cls == DTypeClass::kQuantized; }

// Bytes of `elems` elements, a multiple of the block; elems must be checked against overflow before (MaxBytes does).
int64_t ElemBytes(DType dtype, int64_t elems);

// Elements [0, out.size()) of `bytes`, widened to double; out.size() is a multiple of the block.
void Decode(DType dtype, const uint8_t* bytes, absl::Span<double> out);
// The opposite, for q8_0, q8_r and the types that are not quantized; rounds to nearest, ties to even. A block of q8_0
// or q8_r has the scale max|x| / 127, as ggml quantizes; one that holds what is not finite has the scale NaN. q8_r
// computes in f32, quanta as x * (127 / max|x|), and a block that holds nothing as large as kLeastQuantized is zeros.
void Encode(DType dtype, absl::Span<const double> values, uint8_t* bytes);
constexpr float kLeastQuantized = 0x1p-100F;
// `value` as it would be after a trip through `dtype` (not quantized).
double RoundTo(DType dtype, double value);

float HalfToFloat(uint16_t half);
uint16_t FloatToHalf(float value);  // nearest even; overflow becomes infinity
float Bf16ToFloat(uint16_t bits);
uint16_t FloatToBf16(float value);  // nearest even; NaN stays NaN

}  // namespace sinter
