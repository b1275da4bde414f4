#include "ir/dtype.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "ir/quant.h"

namespace sinter {
namespace {

constexpr DTypeInfo kInfos[] = {
#define DTYPE(enumerator, text, cls, block, bytes) {DType::enumerator, #text, DTypeClass::cls, block, bytes},
#include "ir/dtypes.inc"
#undef DTYPE
};

// A double as sign, kExp exponent bits and kMan mantissa bits, rounded once to nearest, ties to even.
template <int kExp, int kMan>
uint16_t Narrow(double value) {
  constexpr int kBias = (1 << (kExp - 1)) - 1;
  constexpr uint64_t kInfinity = ((uint64_t{1} << kExp) - 1) << kMan;
  const uint64_t bits = std::bit_cast<uint64_t>(value);
  const uint64_t sign = bits >> 63 << (kExp + kMan);
  const int exponent = static_cast<int>(bits >> 52 & 0x7ff);
  const uint64_t mantissa = bits & ((uint64_t{1} << 52) - 1);
  if (exponent == 0x7ff) {
    const uint64_t quiet = mantissa == 0 ? 0 : (uint64_t{1} << (kMan - 1)) | mantissa >> (52 - kMan);
    return static_cast<uint16_t>(sign | kInfinity | quiet);
  }
  const int e = exponent - 1023 + kBias;  // biased exponent of the result, when it is normal
  if (e >= (1 << kExp) - 1) return static_cast<uint16_t>(sign | kInfinity);
  const int shift = 52 - kMan + (e > 0 ? 0 : 1 - e);
  if (exponent == 0 || shift > 54) return static_cast<uint16_t>(sign);  // below half of the smallest subnormal
  const uint64_t full = mantissa | uint64_t{1} << 52;
  const uint64_t rest = full & ((uint64_t{1} << shift) - 1), half = uint64_t{1} << (shift - 1);
  uint64_t rounded = full >> shift;
  if (rest > half || (rest == half && (rounded & 1) != 0)) ++rounded;
  // The leading 1 of a normal number, and a carry out of the mantissa, both add to the exponent.
  return static_cast<uint16_t>(sign | (rounded + (static_cast<uint64_t>(e > 0 ? e - 1 : 0) << kMan)));
}

template <typename T>
T ToInt(double value) {
  if (std::isnan(value)) return 0;
  const double rounded = std::nearbyint(value);
  // -min is a power of two, hence exact as a double; max may not be.
  if (rounded <= static_cast<double>(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
  if (rounded >= std::ldexp(1.0, std::numeric_limits<T>::digits)) return std::numeric_limits<T>::max();
  return static_cast<T>(rounded);
}

// One row an element type that is not quantized: its storage, and both directions.
template <DType kType>
struct Codec;
#define SINTER_CODEC(enumerator, storage, to_double, from_double) \
  template <>                                                     \
  struct Codec<DType::enumerator> {                               \
    using Storage = storage;                                      \
    static double Widen(storage s) { return to_double; }          \
    static storage Narrow(double v) { return from_double; }       \
  };
SINTER_CODEC(kF32, float, s, static_cast<float>(v))
SINTER_CODEC(kF16, uint16_t, HalfToFloat(s), (sinter::Narrow<5, 10>(v)))
SINTER_CODEC(kBF16, uint16_t, Bf16ToFloat(s), (sinter::Narrow<8, 7>(v)))
SINTER_CODEC(kF64, double, s, v)
SINTER_CODEC(kI8, int8_t, s, ToInt<int8_t>(v))
SINTER_CODEC(kU8, uint8_t, s, ToInt<uint8_t>(v))
SINTER_CODEC(kI32, int32_t, s, ToInt<int32_t>(v))
SINTER_CODEC(kI64, int64_t, static_cast<double>(s), ToInt<int64_t>(v))
SINTER_CODEC(kBool, uint8_t, s != 0 ? 1 : 0, v != 0 ? 1 : 0)
#undef SINTER_CODEC

template <DType kType>
void DecodePlain(const uint8_t* bytes, absl::Span<double> out) {
  typename Codec<kType>::Storage s;
  for (size_t i = 0; i < out.size(); ++i) {
    std::memcpy(&s, bytes + i * sizeof(s), sizeof(s));
    out[i] = Codec<kType>::Widen(s);
  }
}

template <DType kType>
void EncodePlain(absl::Span<const double> values, uint8_t* bytes) {
  for (size_t i = 0; i < values.size(); ++i) {
    const typename Codec<kType>::Storage s = Codec<kType>::Narrow(values[i]);
    std::memcpy(bytes + i * sizeof(s), &s, sizeof(s));
  }
}

template <DType kType>
double RoundPlain(double value) {
  return Codec<kType>::Widen(Codec<kType>::Narrow(value));
}

// Blocks of weights, rounded once to f32 as ggml decodes them.
template <DType kType>
void DecodeBlocks(const uint8_t* bytes, absl::Span<double> out) {
  const QuantFormat& format = *FindQuantFormat(kType);
  const auto block_elems = static_cast<size_t>(format.block()), group = static_cast<size_t>(format.group);
  QuantBlock block;
  for (size_t first = 0; first < out.size(); first += block_elems, bytes += Info(kType).block_bytes) {
    Split(format, bytes, block);
    const double d = HalfToFloat(block.d), dmin = HalfToFloat(block.dmin);
    for (size_t i = 0; i < block_elems; ++i) {
      const double scaled = d * block.scales[i / group] * (block.quanta[i] - format.zero);
      out[first + i] = static_cast<float>(scaled - dmin * block.mins[i / group]);
    }
  }
}

void EncodeQ8_0(absl::Span<const double> values, uint8_t* bytes) {
  for (size_t i = 0; i < values.size(); i += 32, bytes += 34) {
    double largest = 0;
    for (size_t j = 0; j < 32; ++j) {
      const double size = std::abs(values[i + j]);
      largest = largest < size || std::isnan(size) ? size : largest;
      if (std::isnan(largest)) break;
    }
    const double scale = std::isfinite(largest) ? largest / 127 : std::numeric_limits<double>::quiet_NaN();
    const uint16_t half = Narrow<5, 10>(scale);
    std::memcpy(bytes, &half, sizeof(half));
    for (size_t j = 0; j < 32; ++j) {
      const double quantum = scale > 0 ? std::nearbyint(values[i + j] / scale) : 0;
      bytes[2 + j] = static_cast<uint8_t>(static_cast<int8_t>(quantum));
    }
  }
}

void DecodeQ8_R(const uint8_t* bytes, absl::Span<double> out) {
  RowBlock block;
  for (size_t i = 0; i < out.size(); i += 32, bytes += sizeof block) {
    std::memcpy(&block, bytes, sizeof block);
    for (size_t j = 0; j < 32; ++j) out[i + j] = static_cast<double>(block.scale) * block.quanta[j];
  }
}

void EncodeQ8_R(absl::Span<const double> values, uint8_t* bytes) {
  for (size_t i = 0; i < values.size(); i += 32, bytes += sizeof(RowBlock)) {
    RowBlock block = {};
    float largest = 0;
    bool finite = true;
    for (size_t j = 0; j < 32; ++j) {
      const float size = std::abs(static_cast<float>(values[i + j]));
      finite &= std::isfinite(size);
      largest = std::max(largest, size);
    }
    if (!finite) {
      block.scale = std::numeric_limits<float>::quiet_NaN();
    } else if (largest >= kLeastQuantized) {
      block.scale = largest / 127;
      const float inverse = 127 / largest;
      for (size_t j = 0; j < 32; ++j) {
        block.quanta[j] = static_cast<int8_t>(std::nearbyint(static_cast<float>(values[i + j]) * inverse));
        block.sums[j / 16] += block.quanta[j];
      }
    }
    std::memcpy(bytes, &block, sizeof block);
  }
}

struct Functions {
  DType dtype;
  void (*decode)(const uint8_t*, absl::Span<double>);
  void (*encode)(absl::Span<const double>, uint8_t*);
  double (*round)(double);
};

template <DType kType>
constexpr Functions Plain() {
  return {kType, DecodePlain<kType>, EncodePlain<kType>, RoundPlain<kType>};
}

// In the order of dtypes.inc, which the assertion below holds it to.
constexpr Functions kFunctions[] = {
    Plain<DType::kF32>(),
    Plain<DType::kF16>(),
    Plain<DType::kBF16>(),
    Plain<DType::kF64>(),
    Plain<DType::kI8>(),
    Plain<DType::kU8>(),
    Plain<DType::kI32>(),
    Plain<DType::kI64>(),
    Plain<DType::kBool>(),
    {DType::kQ8_0, DecodeBlocks<DType::kQ8_0>, EncodeQ8_0, nullptr},
    {DType::kQ4_0, DecodeBlocks<DType::kQ4_0>, nullptr, nullptr},
    {DType::kQ4_1, DecodeBlocks<DType::kQ4_1>, nullptr, nullptr},
    {DType::kQ5_0, DecodeBlocks<DType::kQ5_0>, nullptr, nullptr},
    {DType::kQ5_1, DecodeBlocks<DType::kQ5_1>, nullptr, nullptr},
    {DType::kQ4_K, DecodeBlocks<DType::kQ4_K>, nullptr, nullptr},
    {DType::kQ5_K, DecodeBlocks<DType::kQ5_K>, nullptr, nullptr},
    {DType::kQ6_K, DecodeBlocks<DType::kQ6_K>, nullptr, nullptr},
    {DType::kQ8_R, DecodeQ8_R, EncodeQ8_R, nullptr},
};

constexpr bool FunctionsMatchRows() {
  if (std::size(kFunctions) != std::size(kInfos)) return false;
  for (size_t i = 0; i < std::size(kInfos); ++i) {
    if (kFunctions[i].dtype != kInfos[i].dtype) return false;
  }
  return true;
}
static_assert(FunctionsMatchRows());

const Functions& FunctionsOf(DType dtype) { return kFunctions[static_cast<size_t>(dtype)]; }

}  // namespace

absl::Span<const DTypeInfo> AllDTypes() { return kInfos; }

const DTypeInfo& Info(DType dtype) { return kInfos[static_cast<size_t>(dtype)]; }

std::optional<DType> ParseDType(absl::string_view name) {
  for (const DTypeInfo& info : kInfos) {
    if (info.name == name) return info.dtype;
  }
  return std::nullopt;
}

int64_t ElemBytes(DType dtype, int64_t elems) {
  const DTypeInfo& info = Info(dtype);
  return elems / info.block_elems * info.block_bytes;
}

void Decode(DType dtype, const uint8_t* bytes, absl::Span<double> out) { FunctionsOf(dtype).decode(bytes, out); }

void Encode(DType dtype, absl::Span<const double> values, uint8_t* bytes) { FunctionsOf(dtype).encode(values, bytes); }

double RoundTo(DType dtype, double value) { return FunctionsOf(dtype).round(value); }

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = half >> 10 & 31, mantissa = half & 0x3ff;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, exact in f32
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t biased = exponent == 31 ? 255 : exponent + (127 - 15);
  return std::bit_cast<float>(sign | biased << 23 | mantissa << 13);
}

uint16_t FloatToHalf(float value) { return Narrow<5, 10>(value); }

float Bf16ToFloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t FloatToBf16(float value) { return Narrow<8, 7>(value); }

}  // namespace sinter
