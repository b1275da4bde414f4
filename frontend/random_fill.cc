// Written so that the compiler's vectorizer takes every loop (this file is compiled with -O3 and may not fuse a
// multiply and an add): 32-bit lanes, no branches, and a second version of each loop for CPUs with AVX2.
#include "frontend/random_fill.h"

#include <algorithm>
#include <bit>

#define SINTER_VECTORIZED __attribute__((target_clones("avx2", "default")))

namespace sinter {
namespace {

constexpr uint64_t kBlockBits = 20;

constexpr uint64_t Mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// Counters first .. first+n of one block.
SINTER_VECTORIZED void FillBlock(uint32_t key_low, uint32_t key_high, uint32_t first, float scale, float offset,
                                 float* __restrict out, uint32_t n) {
  for (uint32_t j = 0; j < n; ++j) {
    uint32_t x = (first + j) * 0x9e3779b1u ^ key_low;
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu + key_high;
    x ^= x >> 16;
    const int32_t u = static_cast<int32_t>(x) >> 8;  // 24 bits, exact in float
    out[j] = offset + scale * (static_cast<float>(u) * 0x1p-23f);
  }
}

SINTER_VECTORIZED void ToHalves(const float* __restrict in, size_t n, uint16_t* __restrict out) {
  for (size_t j = 0; j < n; ++j) {
    const uint32_t bits = std::bit_cast<uint32_t>(in[j]), magnitude = bits & 0x7fffffff;
    // The exponent changes its bias from 127 to 15, and the 13 bits that go are rounded away.
    const uint32_t normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    // Below 2^-14, adding 0.5 makes the hardware round to the multiples of 2^-24 that subnormals are.
    const uint32_t small = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - (126u << 23);
    const uint32_t is_small = -static_cast<uint32_t>(magnitude < (113u << 23));  // all ones or none
    out[j] = static_cast<uint16_t>((small & is_small) | (normal & ~is_small) | ((bits >> 16) & 0x8000));
  }
}

SINTER_VECTORIZED void ToBf16(const float* __restrict in, size_t n, uint16_t* __restrict out) {
  for (size_t j = 0; j < n; ++j) {
    const uint32_t bits = std::bit_cast<uint32_t>(in[j]);
    out[j] = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
}

}  // namespace

uint64_t RandomKey(absl::string_view name) {
  uint64_t key = Mix64(name.size());
  for (char c : name) key = Mix64(key ^ static_cast<uint8_t>(c));
  return key;
}

void RandomFill(uint64_t key, uint64_t begin, float scale, float offset, absl::Span<float> out) {
  for (size_t done = 0; done < out.size();) {
    const uint64_t at = begin + done, first = at & ((uint64_t{1} << kBlockBits) - 1);
    const size_t n = std::min<size_t>(out.size() - done, (size_t{1} << kBlockBits) - first);
    const uint64_t mixed = Mix64(key ^ Mix64(at >> kBlockBits));
    FillBlock(static_cast<uint32_t>(mixed), static_cast<uint32_t>(mixed >> 32), static_cast<uint32_t>(first), scale,
              offset, out.data() + done, static_cast<uint32_t>(n));
    done += n;
  }
}

void FloatsToHalves(absl::Span<const float> values, uint16_t* out) { ToHalves(values.data(), values.size(), out); }
void FloatsToBf16(absl::Span<const float> values, uint16_t* out) { ToBf16(values.data(), values.size(), out); }

}  // namespace sinter
