#include "ir/quant.h"

#include <algorithm>
#include <cstring>

namespace sinter {
namespace {

uint16_t HalfAt(const uint8_t* bytes) {
  uint16_t half;
  std::memcpy(&half, bytes, sizeof half);
  return half;
}

constexpr uint16_t kHalfSign = 0x8000;

// f16 d, 32 x i8.
void SplitQ8_0(const uint8_t* bytes, QuantBlock& block) {
  block.d = HalfAt(bytes);
  for (size_t i = 0; i < 32; ++i) block.quanta[i] = bytes[2 + i] ^ 0x80;  // + 128
}

// 16 bytes: element i in the low nibble of byte i, element i + 16 in the high one. `high`: bit i is the fifth of i.
void SplitNibbles(const uint8_t* nibbles, uint32_t high, QuantBlock& block) {
  for (size_t i = 0; i < 16; ++i) {
    block.quanta[i] = static_cast<uint8_t>((nibbles[i] & 15) | (high >> i & 1) << 4);
    block.quanta[i + 16] = static_cast<uint8_t>(nibbles[i] >> 4 | (high >> (i + 16) & 1) << 4);
  }
}

uint32_t WordAt(const uint8_t* bytes) {
  uint32_t word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

// f16 d, nibbles.
void SplitQ4_0(const uint8_t* bytes, QuantBlock& block) {
  block.d = HalfAt(bytes);
  SplitNibbles(bytes + 2, 0, block);
}
// f16 d, f16 m, nibbles: d * q + m.
void SplitQ4_1(const uint8_t* bytes, QuantBlock& block) {
  block.d = HalfAt(bytes);
  block.dmin = HalfAt(bytes + 2) ^ kHalfSign;
  SplitNibbles(bytes + 4, 0, block);
}
// f16 d, 32 fifth bits, nibbles.
void SplitQ5_0(const uint8_t* bytes, QuantBlock& block) {
  block.d = HalfAt(bytes);
  SplitNibbles(bytes + 6, WordAt(bytes + 2), block);
}
// f16 d, f16 m, 32 fifth bits, nibbles: d * q + m.
void SplitQ5_1(const uint8_t* bytes, QuantBlock& block) {
  block.d = HalfAt(bytes);
  block.dmin = HalfAt(bytes + 2) ^ kHalfSign;
  SplitNibbles(bytes + 8, WordAt(bytes + 4), block);
}

// 12 bytes: eight scales and eight minima of 6 bits. The first four of each are the low 6 bits of bytes 0-3 and 4-7;
// of the others the low 4 bits are the nibbles of bytes 8-11, the high 2 bits those that bytes 0-3 and 4-7 have left.
void SplitScales(const uint8_t* bytes, QuantBlock& block) {
  for (size_t i = 0; i < 4; ++i) {
    const int low = bytes[i], middle = bytes[i + 4], high = bytes[i + 8];
    block.scales[i] = static_cast<int8_t>(low & 63);
    block.mins[i] = static_cast<int8_t>(middle & 63);
    block.scales[i + 4] = static_cast<int8_t>((high & 15) | low >> 6 << 4);
    block.mins[i + 4] = static_cast<int8_t>(high >> 4 | middle >> 6 << 4);
  }
}

// 128 bytes: of each 32 the low nibbles are a group, the high ones the next. `high`: bit g of byte i is the fifth of
// element i of group g.
void SplitGroups(const uint8_t* nibbles, const uint8_t* high, QuantBlock& block) {
  for (size_t group = 0; group < 8; ++group) {
    for (size_t i = 0; i < 32; ++i) {
      const int nibble = nibbles[group / 2 * 32 + i] >> (group % 2 * 4) & 15;
      const int fifth = high == nullptr ? 0 : high[i] >> group & 1;
      block.quanta[group * 32 + i] = static_cast<uint8_t>(nibble | fifth << 4);
    }
  }
}

// f16 d, f16 dmin, scales and minima, nibbles.
void SplitQ4_K(const uint8_t* bytes, QuantBlock& block) {
  block.d = HalfAt(bytes);
  block.dmin = HalfAt(bytes + 2);
  SplitScales(bytes + 4, block);
  SplitGroups(bytes + 16, nullptr, block);
}
// f16 d, f16 dmin, scales and minima, 32 bytes of fifth bits, nibbles.
void SplitQ5_K(const uint8_t* bytes, QuantBlock& block) {
  block.d = HalfAt(bytes);
  block.dmin = HalfAt(bytes + 2);
  SplitScales(bytes + 4, block);
  SplitGroups(bytes + 48, bytes + 16, block);
}
// 128 bytes of nibbles, 64 of upper bits, 16 x i8 scales, f16 d. Each half of the block is four quarters of 32: the low
// nibbles of 64 bytes are the first two, the high ones the others; bits 2q and 2q+1 of 32 bytes are the upper ones of
// q.
void SplitQ6_K(const uint8_t* bytes, QuantBlock& block) {
  block.d = HalfAt(bytes + 208);
  std::memcpy(block.scales.data(), bytes + 192, 16);
  for (size_t quarter = 0; quarter < 8; ++quarter) {
    const size_t half = quarter / 4, q = quarter % 4;
    const uint8_t *low = bytes + half * 64 + q % 2 * 32, *high = bytes + 128 + half * 32;
    for (size_t i = 0; i < 32; ++i) {
      const int nibble = low[i] >> (q / 2 * 4) & 15, upper = high[i] >> (2 * q) & 3;
      block.quanta[quarter * 32 + i] = static_cast<uint8_t>(nibble | upper << 4);
    }
  }
}

constexpr QuantFormat kFormats[] = {
    // dtype, group, bits, zero, has_min, integer_scales
    {DType::kQ8_0, 32, 8, 128, false, false, SplitQ8_0}, {DType::kQ4_0, 32, 4, 8, false, false, SplitQ4_0},
    {DType::kQ4_1, 32, 4, 0, true, false, SplitQ4_1},    {DType::kQ5_0, 32, 5, 16, false, false, SplitQ5_0},
    {DType::kQ5_1, 32, 5, 0, true, false, SplitQ5_1},    {DType::kQ4_K, 32, 4, 0, true, true, SplitQ4_K},
    {DType::kQ5_K, 32, 5, 0, true, true, SplitQ5_K},     {DType::kQ6_K, 16, 6, 32, false, true, SplitQ6_K},
};

}  // namespace

const QuantFormat* FindQuantFormat(DType dtype) {
  const auto* format =
      std::find_if(std::begin(kFormats), std::end(kFormats), [&](const QuantFormat& f) { return f.dtype == dtype; });
  return format == std::end(kFormats) ? nullptr : format;
}

void Split(const QuantFormat& format, const uint8_t* bytes, QuantBlock& block) {
  if (!format.integer_scales) block.scales[0] = block.mins[0] = 1;
  if (!format.has_min) {
    block.dmin = 0;
    block.mins.fill(0);
  }
  format.split(bytes, block);
}

}  // namespace sinter
