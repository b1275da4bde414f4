// Formats of weights in blocks that share scales: one row each in quant.cc, under the name of the element type.
//
// An element is  d * s * (quantum - zero) - dmin * m  where d and dmin (f16) belong to its block, the integers s and m
// to its group, a part of the block. Formats without integer scales have s = 1 and m = 1 (and one group a block), those
// without minima dmin = 0. All products are exact in f32, so that an element is rounded once, by the subtraction.
//
// Called by Decode (dtype.h), by weight packing, and by whoever asks how a format's quanta are multiplied. Source of
// the layouts: ggml-common.h and ggml-quants.c of ggml, which GGUF files hold.
#pragma once

#include <array>
#include <cstdint>

#include "ir/dtype.h"

namespace sinter {

constexpr int64_t kMaxBlockElems = 256, kMaxBlockGroups = 16;

// One block, taken apart.
struct QuantBlock {
  uint16_t d = 0, dmin = 0;                          // bits of f16
  std::array<int8_t, kMaxBlockGroups> scales, mins;  // of groups
  std::array<uint8_t, kMaxBlockElems> quanta;        // in the order of the elements, below 2^bits
};

struct QuantFormat {
  DType dtype;
  int group;                                               // elements, 16 or 32
  int bits;                                                // of a quantum: 4, 5, 6 or 8
  int zero;                                                // the quantum that stands for 0, where there is no minimum
  bool has_min;                                            // dmin and m
  bool integer_scales;                                     // s, and m where there is a minimum
  void (*split)(const uint8_t* bytes, QuantBlock& block);  // for Split

  int64_t block() const { return Info(dtype).block_elems; }
  int64_t groups() const { return block() / group; }
};

// Takes one block of the format apart: every member but the groups and quanta that it does not have is set.
void Split(const QuantFormat& format, const uint8_t* bytes, QuantBlock& block);

// A block of q8_r, of rows that meet such weights.
struct RowBlock {
  float scale;
  int32_t sums[2];  // of the quanta of either half
  int8_t quanta[32];
};
static_assert(sizeof(RowBlock) == 44);  // as dtypes.inc has it

// nullptr for types that are no format of weights.
const QuantFormat* FindQuantFormat(DType dtype);

}  // namespace sinter
