// Counter-based random numbers, as many as memory takes: out[j] = offset + scale * u(key, begin + j).
//
// u is uniform on [-1, 1) in steps of 2^-23, a function of key and counter alone: the counter's low 20 bits, multiplied
// by an odd constant, are mixed with 64 bits that come from key and the counter's high bits. The finalizers are
// splitmix64's (Steele, Lea, Flood 2014) and the 32-bit `lowbias32` (Chris Wellons, "Prospecting for hash functions"),
// which avalanche; the results are exact in float, so they are the same on every machine and for every compiler.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sinter {

// A key for a name: equal names have equal keys, on every machine.
uint64_t RandomKey(absl::string_view name);

void RandomFill(uint64_t key, uint64_t begin, float scale, float offset, absl::Span<float> out);

// Rounds to nearest, ties to even. FloatsToHalves: |value| below 65520, no NaN.
void FloatsToHalves(absl::Span<const float> values, uint16_t* out);
void FloatsToBf16(absl::Span<const float> values, uint16_t* out);

}  // namespace sinter
