// Where things lie in a unit of the packing blocks16: one block of each of 16 columns (rows of the weight [N,K]).
//
//   d      [16] f16
//   dmin   [16] f16              where the format has minima
//   scales [groups][16] i8       where it has integer scales
//   mins   [groups][16] i8       where it has both
//   chunks [block/32]            each 32 quanta of every column:
//     of 8 bits:  [8][16][4]     quad q (elements 4q .. 4q+3) of each column
//     of fewer:   [4][16][4]     low nibbles: quad q in the low half of the bytes of row q, quad q+4 in the high half
//                 [1][16][4]     of 5 bits: the fifth bit of quad q is bit q
//                 [2][16][4]     of 6 bits: the upper two of quad q are bits 2(q%4) and 2(q%4)+1 of row q/4
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
        scales(dmin + (f.has_min ? kColumns * 2 : 0)),
        mins(scales + (f.integer_scales ? f.groups() * kColumns : 0)),
        chunks(mins + (f.integer_scales && f.has_min ? f.groups() * kColumns : 0)),
        chunk_bytes(kRow * f.bits),
        unit_bytes(chunks + f.block() / kChunk * chunk_bytes) {}

  const QuantFormat* format;
  int64_t dmin, scales, mins, chunks;  // byte offsets in a unit; d is at 0
  int64_t chunk_bytes, unit_bytes;
  static constexpr int64_t kHigh = 4 * kRow;  // in a chunk: where bits above the nibbles begin
};

}  // namespace sinter
