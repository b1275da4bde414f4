// Random blocks of every format of quantized weights.
//
//   std::vector<uint8_t> bytes = RandomBlocks(DType::kQ4_K, 4 * 256, 0.5, random);
//
// All bits of a block are random but its scale and its minimum, f16 numbers that are chosen so that the elements lie
// around 0 with the deviation given, each format within what it can say. Where they stand in a block is a row here and,
// from it, in every test that needs to know: layouts are those of ggml-common.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "ir/dtype.h"
#include "tests/gguf_writer.h"

namespace sinter {

struct BlockScales {
  DType dtype;
  GgufWriter::Type file_type;
  size_t scale;                // byte offset of the f16
  size_t minimum;              // the same; 0: there is none
  double minimum_for_scale_1;  // with which elements lie around 0
};
inline constexpr BlockScales kBlockScales[] = {
    {DType::kQ8_0, GgufWriter::kQ8_0, 0, 0, 0},     {DType::kQ4_0, GgufWriter::kQ4_0, 0, 0, 0},
    {DType::kQ4_1, GgufWriter::kQ4_1, 0, 2, -7.5},  {DType::kQ5_0, GgufWriter::kQ5_0, 0, 0, 0},
    {DType::kQ5_1, GgufWriter::kQ5_1, 0, 2, -15.5}, {DType::kQ4_K, GgufWriter::kQ4_K, 0, 2, 7.5},
    {DType::kQ5_K, GgufWriter::kQ5_K, 0, 2, 15.5},  {DType::kQ6_K, GgufWriter::kQ6_K, 208, 0, 0},
};
inline const BlockScales* FindBlocks(GgufWriter::Type file_type) {
  for (const BlockScales& row : kBlockScales) {
    if (row.file_type == file_type) return &row;
  }
  return nullptr;  // a type without blocks
}

inline const BlockScales& ScalesOf(DType dtype) {
  for (const BlockScales& row : kBlockScales) {
    if (row.dtype == dtype) return row;
  }
  std::abort();  // a format without a row
}

// Sets the scale of a block, and the minimum that goes with it.
inline void SetScale(DType dtype, double scale, uint8_t* block) {
  const BlockScales& row = ScalesOf(dtype);
  const uint16_t bits[] = {FloatToHalf(static_cast<float>(scale)),
                           FloatToHalf(static_cast<float>(scale * row.minimum_for_scale_1))};
  std::memcpy(block + row.scale, &bits[0], sizeof bits[0]);
  if (row.minimum != 0) std::memcpy(block + row.minimum, &bits[1], sizeof bits[1]);
}

inline std::vector<uint8_t> RandomBlocks(DType dtype, int64_t elems, double deviation, std::mt19937& random) {
  const auto block_bytes = static_cast<size_t>(Info(dtype).block_bytes);
  std::vector<uint8_t> bytes(static_cast<size_t>(ElemBytes(dtype, elems)));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random() >> 8);
  std::vector<double> values(static_cast<size_t>(Info(dtype).block_elems));
  for (size_t at = 0; at < bytes.size(); at += block_bytes) {
    SetScale(dtype, 1, &bytes[at]);
    Decode(dtype, &bytes[at], absl::MakeSpan(values));
    double square = 0;
    for (double v : values) square += v * v / static_cast<double>(values.size());
    SetScale(dtype, deviation / std::sqrt(square), &bytes[at]);
  }
  return bytes;
}

}  // namespace sinter
