// Where things lie in a unit of the packing blocks16: one block of each of 16 columns (rows of the weight [N,K]).
//
//   d      [16] f16
//   dmin   [16] f16              where the format has minima
//   chunks [block/32]            each 32 elements of every column:
//     scales [32/group][16] i8   where it has integer scales
//     mins   [32/group][16] i8   where it has both
//     high   [1][16][4]          of 5 bits: the fifth bit of quad q (elements 4q .. 4q+3) is bit q
//            [2][16][4]          of 6 bits: the upper two of quad q are bits 2(q%4) and 2(q%4)+1 of row q/4
//     low    [4][16][4]          nibbles: quad q in the low half of the bytes of row q, quad q+4 in the high half
//            [8][16][4]          of 8 bits: quad q
//
// All that a product reads stands in the order in which it reads it: memory is fetched ahead of what goes up alone.
//
// Weight packing writes it, products and takes read it. Knows no LLVM.
#pragma once

#include <cstdint>

#include "ir/quant.h"

namespace sinter {

struct PackedBlocks {
  static constexpr int64_t kColumns = 16, kChunk = 32, kQuad = 4;
  static constexpr int64_t kRow = kColumns * kQuad;  // bytes of a row of quanta

  explicit PackedBlocks(const QuantFormat& f)
      : format(&f),
        dmin(kColumns * 2),
        chunks(dmin + (f.has_min ? kColumns * 2 : 0)),
        mins(f.integer_scales ? kChunk / f.group * kColumns : 0),
        high(mins + (f.integer_scales && f.has_min ? kChunk / f.group * kColumns : 0)),
        low(high + (f.bits < 8 ? (f.bits - 4) * kRow : 0)),
        chunk_bytes(low + (f.bits < 8 ? 4 : 8) * kRow),
        unit_bytes(chunks + f.block() / kChunk * chunk_bytes) {}

  const QuantFormat* format;
  int64_t dmin, chunks;     // byte offsets in a unit; d is at 0
  int64_t mins, high, low;  // in a chunk; scales are at 0
  int64_t chunk_bytes, unit_bytes;
};

}  // namespace sinter
