// Formats of quantized weights: Decode against decoders written from the layouts that ggml documents, block by block,
// and against what ggml itself makes of the same blocks; and q8_r, into which rows of products are encoded.
#include "ir/quant.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace sinter {
namespace {

// A block read in the terms of ggml-common.h: fields by their byte offsets, elements one at a time. Products are exact
// in double and so is their difference, so that one rounding to float is left.
class Block {
 public:
  explicit Block(const uint8_t* bytes) : bytes_(bytes) {}
  int Byte(int at) const { return bytes_[at]; }
  int Signed(int at) const { return static_cast<int8_t>(bytes_[at]); }
  double Half(int at) const {
    const int bits = bytes_[at] | bytes_[at + 1] << 8;
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const double magnitude = exponent == 31  ? (mantissa != 0 ? std::nan("") : HUGE_VAL)
                             : exponent == 0 ? std::ldexp(mantissa, -24)
                                             : std::ldexp(mantissa + 1024, exponent - 25);
    return bits & 0x8000 ? -magnitude : magnitude;
  }
  // Nibble j of 32 that start at byte `at`: low ones of 16 bytes, then high ones.
  int Nibble(int at, int j) const { return j < 16 ? Byte(at + j) & 15 : Byte(at + j - 16) >> 4; }
  int Bit(int at, int j) const { return Byte(at + j / 8) >> j % 8 & 1; }
  // get_scale_min_k4: scale (first 4) or minimum (next 4) j of twelve bytes at 4.
  int Scale(int j) const { return j < 4 ? Byte(4 + j) & 63 : (Byte(8 + j) & 15) | Byte(j) >> 6 << 4; }
  int Minimum(int j) const { return j < 4 ? Byte(8 + j) & 63 : Byte(8 + j) >> 4 | Byte(4 + j) >> 6 << 4; }

 private:
  const uint8_t* bytes_;
};

double Q8_0(const Block& b, int i) { return b.Half(0) * b.Signed(2 + i); }
double Q4_0(const Block& b, int i) { return b.Half(0) * (b.Nibble(2, i) - 8); }
double Q4_1(const Block& b, int i) { return b.Half(0) * b.Nibble(4, i) + b.Half(2); }
double Q5_0(const Block& b, int i) { return b.Half(0) * (b.Nibble(6, i) + 16 * b.Bit(2, i) - 16); }
double Q5_1(const Block& b, int i) { return b.Half(0) * (b.Nibble(8, i) + 16 * b.Bit(4, i)) + b.Half(2); }
// Of 64 elements the first 32 are low nibbles of 32 bytes, the others high ones.
int NibbleOf64(const Block& b, int at, int i) {
  return b.Byte(at + i / 64 * 32 + i % 32) >> (i % 64 < 32 ? 0 : 4) & 15;
}
double Q4_K(const Block& b, int i) {
  return b.Half(0) * b.Scale(i / 32) * NibbleOf64(b, 16, i) - b.Half(2) * b.Minimum(i / 32);
}
double Q5_K(const Block& b, int i) {
  const int quantum = NibbleOf64(b, 48, i) + 16 * (b.Byte(16 + i % 32) >> i / 32 & 1);
  return b.Half(0) * b.Scale(i / 32) * quantum - b.Half(2) * b.Minimum(i / 32);
}
// 128 elements at a time: ql 64 bytes, qh 32, scales 8.
double Q6_K(const Block& b, int i) {
  const int half = i / 128, l = i % 32, part = i % 128 / 32;  // q1 .. q4
  const int low = b.Byte(64 * half + l + (part % 2 == 0 ? 0 : 32)) >> (part < 2 ? 0 : 4) & 15;
  const int high = b.Byte(128 + 32 * half + l) >> 2 * part & 3;
  return b.Half(208) * b.Signed(192 + 8 * half + l / 16 + 2 * part) * ((low | high << 4) - 32);
}

struct Format {
  DType dtype;
  double (*element)(const Block& block, int i);
  // Of the first 1000 random blocks, by ggml (libggml-base of node-llama-cpp 3.22.1): bench/peers/check_formats.
  uint64_t ggml_checksum;
};
constexpr Format kFormats[] = {
    {DType::kQ8_0, Q8_0, 0xf2728cc783902c25}, {DType::kQ4_0, Q4_0, 0x7856dc8832df6725},
    {DType::kQ4_1, Q4_1, 0x2fe07a5737920b40}, {DType::kQ5_0, Q5_0, 0x276189a747aadf25},
    {DType::kQ5_1, Q5_1, 0xf80169bf83923496}, {DType::kQ4_K, Q4_K, 0x078d422220456249},
    {DType::kQ5_K, Q5_K, 0x478e8568aaa490cf}, {DType::kQ6_K, Q6_K, 0x602ee659d4acf39f},
};

// As check_formats draws them and reads their elements.
constexpr int64_t kBlocks = 1000;
std::vector<uint8_t> RandomBytes(DType dtype) {
  std::mt19937 random(1);
  std::vector<uint8_t> bytes(static_cast<size_t>(kBlocks * Info(dtype).block_bytes));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random() >> 24);
  return bytes;
}
uint32_t Bits(double value) {
  return std::isnan(value) ? 0x7fc00000 : std::bit_cast<uint32_t>(static_cast<float>(value));
}

std::vector<double> Decoded(DType dtype, const std::vector<uint8_t>& bytes) {
  std::vector<double> values(bytes.size() / static_cast<size_t>(Info(dtype).block_bytes) *
                             static_cast<size_t>(Info(dtype).block_elems));
  Decode(dtype, bytes.data(), absl::MakeSpan(values));
  return values;
}

TEST(QuantFormats, DecodeAsTheirLayoutsSay) {
  for (const Format& format : kFormats) {
    const DTypeInfo& info = Info(format.dtype);
    const std::vector<uint8_t> bytes = RandomBytes(format.dtype);
    const std::vector<double> values = Decoded(format.dtype, bytes);
    for (int64_t at = 0; at < kBlocks; ++at) {
      const Block block(&bytes[static_cast<size_t>(at * info.block_bytes)]);
      for (int i = 0; i < info.block_elems; ++i) {
        const double found = values[static_cast<size_t>(at * info.block_elems + i)];
        ASSERT_EQ(Bits(found), Bits(format.element(block, i))) << info.name << " block " << at << " element " << i;
      }
    }
  }
}

TEST(QuantFormats, DecodeAsGgmlDoes) {
  for (const Format& format : kFormats) {
    uint64_t checksum = 0xcbf29ce484222325;
    for (double value : Decoded(format.dtype, RandomBytes(format.dtype))) {
      checksum = (checksum ^ Bits(value)) * 0x100000001b3;
    }
    EXPECT_EQ(checksum, format.ggml_checksum) << Info(format.dtype).name;
  }
}

// One block of each kind, written out by hand.
TEST(QuantFormats, DecodeBlocksThatAreKnown) {
  std::vector<uint8_t> q5_1(24);
  q5_1[1] = 0x40, q5_1[3] = 0xbc;  // d = 2, m = -1
  q5_1[4] = 0x02, q5_1[7] = 0x80;  // fifth bits of elements 1 and 31
  q5_1[8 + 1] = 0x53, q5_1[8 + 15] = 0xf0;
  const std::vector<double> five = Decoded(DType::kQ5_1, q5_1);
  EXPECT_EQ(five[0], -1);
  EXPECT_EQ(five[1], 2 * (16 + 3) - 1);
  EXPECT_EQ(five[17], 2 * 5 - 1);
  EXPECT_EQ(five[31], 2 * (16 + 15) - 1);

  std::vector<uint8_t> q4_k(144);
  q4_k[1] = 0x3c, q4_k[3] = 0x38;  // d = 1, dmin = 0.5
  q4_k[4 + 0] = 0xc0 | 7;          // scale 0 is 7; upper bits of scale 4
  q4_k[4 + 4] = 0x40 | 9;          // minimum 0 is 9; upper bits of minimum 4
  q4_k[4 + 8] = 0x2 | 0x5 << 4;    // scale 4 is 0x32, minimum 4 is 0x15
  q4_k[16 + 31] = 0x0b;            // element 31
  q4_k[16 + 64] = 0x0d;            // element 128, of group 4
  const std::vector<double> four = Decoded(DType::kQ4_K, q4_k);
  EXPECT_EQ(four[0], -4.5);
  EXPECT_EQ(four[31], 7 * 11 - 4.5);
  EXPECT_EQ(four[32], 0);
  EXPECT_EQ(four[128], 0x32 * 13 - 0.5 * 0x15);
  EXPECT_EQ(four[129], -0.5 * 0x15);

  std::vector<uint8_t> q6_k(210);
  q6_k[209] = 0x3c;              // d = 1
  q6_k[192 + 15] = 0xfd;         // scale of elements 240 .. 255 is -3
  q6_k[64 + 63] = 0x40;          // high nibble: element 255
  q6_k[128 + 32 + 31] = 2 << 6;  // its upper bits
  const std::vector<double> six = Decoded(DType::kQ6_K, q6_k);
  EXPECT_EQ(six[0], 0);
  EXPECT_EQ(six[254], -3 * -32);
  EXPECT_EQ(six[255], -3 * (4 + 32 - 32));
}

TEST(QuantFormats, HaveRowsThatFitTheirTypes) {
  for (const DTypeInfo& info : AllDTypes()) {
    const QuantFormat* const format = FindQuantFormat(info.dtype);
    const bool expected = info.cls == DTypeClass::kQuantized && info.dtype != DType::kQ8_R;
    ASSERT_EQ(format != nullptr, expected) << info.name;
    if (format == nullptr) continue;
    EXPECT_EQ(format->dtype, info.dtype);
    EXPECT_LE(format->block(), kMaxBlockElems) << info.name;
    EXPECT_LE(format->groups(), kMaxBlockGroups) << info.name;
    EXPECT_EQ(format->groups() == 1, !format->integer_scales) << info.name;
    EXPECT_EQ(format->has_min, format->zero == 0) << info.name;
    // Every quantum that a block can hold is below 2^bits, and all are met.
    std::vector<uint8_t> bytes = RandomBytes(info.dtype);
    std::vector<bool> met(256);
    QuantBlock block;
    for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(info.block_bytes)) {
      Split(*format, &bytes[at], block);
      for (int64_t i = 0; i < format->block(); ++i) met[block.quanta[static_cast<size_t>(i)]] = true;
    }
    EXPECT_EQ(std::count(met.begin(), met.end(), true), 1 << format->bits) << info.name;
    EXPECT_EQ(std::find(met.begin(), met.end(), false) - met.begin(), 1 << format->bits) << info.name;
  }
}

// ---- q8_r: f32 scale, the sums of the quanta of both halves as i32, 32 x i8
// ------------------------------------------

struct RowBlock {
  float scale;
  int32_t sums[2];
  int8_t quanta[32];
};

RowBlock Encoded(const std::vector<double>& values) {
  RowBlock block;
  static_assert(sizeof block == 44);
  EXPECT_EQ(values.size(), 32u);
  std::vector<uint8_t> bytes(44, 0xee);
  Encode(DType::kQ8_R, values, bytes.data());
  std::memcpy(&block, bytes.data(), sizeof block);
  return block;
}

TEST(RowsOfProducts, HaveScalesSumsAndQuanta) {
  std::vector<double> values(64);
  for (size_t i = 0; i < 32; ++i) values[i] = 0.5 * (static_cast<double>(i) - 20);  // the largest is 10, negative
  for (size_t i = 32; i < 64; ++i) values[i] = i % 2 == 0 ? 127 : -1;
  std::vector<uint8_t> bytes(88);
  Encode(DType::kQ8_R, values, bytes.data());
  RowBlock blocks[2];
  std::memcpy(blocks, bytes.data(), sizeof blocks);
  EXPECT_EQ(blocks[0].scale, 10.0F / 127);
  EXPECT_EQ(blocks[1].scale, 1.0F);
  std::vector<double> back(64);
  Decode(DType::kQ8_R, bytes.data(), absl::MakeSpan(back));
  for (size_t b = 0; b < 2; ++b) {
    int32_t sums[2] = {};
    for (size_t i = 0; i < 32; ++i) {
      sums[i / 16] += blocks[b].quanta[i];
      const float inverse = 127 / (b == 0 ? 10.0F : 127.0F);
      EXPECT_EQ(blocks[b].quanta[i], std::nearbyint(static_cast<float>(values[32 * b + i]) * inverse));
      EXPECT_EQ(back[32 * b + i], static_cast<double>(blocks[b].scale) * blocks[b].quanta[i]);
      EXPECT_NEAR(back[32 * b + i], values[32 * b + i], 0.5001 * blocks[b].scale);
    }
    EXPECT_EQ(blocks[b].sums[0], sums[0]);
    EXPECT_EQ(blocks[b].sums[1], sums[1]);
  }
  EXPECT_EQ(blocks[0].quanta[0], -127);
  EXPECT_EQ(blocks[1].sums[0], 8 * 126);
}

TEST(RowsOfProducts, RoundTiesToEven) {
  std::vector<double> values(32);
  values[31] = 127;  // quanta are the values
  for (int i = 0; i < 31; ++i) values[static_cast<size_t>(i)] = i - 15 + 0.5;
  const RowBlock block = Encoded(values);
  for (int i = 0; i < 31; ++i) {
    const int below = i - 15;
    EXPECT_EQ(block.quanta[i], below % 2 == 0 ? below : below + 1);
  }
}

TEST(RowsOfProducts, AreZerosWhereNothingIsLargeEnough) {
  std::vector<double> values(32, 0.0);
  for (double largest : {0.0, -0.0, 0x1p-149, 0x1p-101, static_cast<double>(kLeastQuantized)}) {
    values[7] = -largest;
    const RowBlock block = Encoded(values);
    const bool zeros = std::abs(largest) < kLeastQuantized;
    EXPECT_EQ(block.scale, zeros ? 0 : kLeastQuantized / 127) << largest;
    EXPECT_EQ(block.quanta[7], zeros ? 0 : -127) << largest;
    EXPECT_EQ(block.sums[0], zeros ? 0 : -127) << largest;
  }
  values[7] = std::numeric_limits<float>::max();
  EXPECT_EQ(Encoded(values).quanta[7], 127);
}

TEST(RowsOfProducts, HaveNoScaleWhereSomethingIsNotFinite) {
  for (double bad : {HUGE_VAL, -HUGE_VAL, std::nan(""), 1e39}) {  // the last is more than f32 holds
    for (size_t at : {0, 31}) {
      std::vector<double> values(32, 1.0);
      values[at] = bad;
      const RowBlock block = Encoded(values);
      EXPECT_TRUE(std::isnan(block.scale)) << bad;
      EXPECT_EQ(block.sums[0], 0);
      EXPECT_EQ(block.sums[1], 0);
      for (int8_t quantum : block.quanta) EXPECT_EQ(quantum, 0);
    }
  }
}

}  // namespace
}  // namespace sinter
