// Packing of weights: where every element of every layout lies, and what is refused.
#include "backend/pack.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "ir/quant.h"
#include "tests/quant_blocks.h"

namespace sinter {
namespace {

// Bytes of a weight, packed unit by unit in an order that is not theirs; each is written once.
std::vector<uint8_t> PackAll(const Type& type, const Packing& packing, const std::vector<uint8_t>& raw) {
  const auto size = PackedBytes(type, packing);
  EXPECT_TRUE(size.ok()) << size.status();
  std::vector<uint8_t> out(static_cast<size_t>(*size), 0xee);
  std::vector<int> written(out.size());
  const int64_t row_bytes = static_cast<int64_t>(raw.size()) / type.dims[0].constant();
  std::vector<int64_t> units(static_cast<size_t>(PackUnits(type, packing)));
  std::iota(units.begin(), units.end(), 0);
  std::shuffle(units.begin(), units.end(), std::mt19937(3));
  for (int64_t unit : units) {
    const absl::Status status = PackUnit(
        "w", type, packing, unit,
        [&](int64_t begin, int64_t end, absl::Span<uint8_t> bytes) {
          EXPECT_EQ(static_cast<int64_t>(bytes.size()), (end - begin) * row_bytes);
          std::memcpy(bytes.data(), raw.data() + begin * row_bytes, bytes.size());
          return absl::OkStatus();
        },
        [&](int64_t offset, absl::Span<const uint8_t> bytes) {
          EXPECT_LE(offset + static_cast<int64_t>(bytes.size()), static_cast<int64_t>(out.size()));
          std::memcpy(out.data() + offset, bytes.data(), bytes.size());
          for (size_t i = 0; i < bytes.size(); ++i) ++written[static_cast<size_t>(offset) + i];
          return absl::OkStatus();
        });
    EXPECT_TRUE(status.ok()) << status;
  }
  EXPECT_TRUE(std::all_of(written.begin(), written.end(), [](int n) { return n == 1; }))
      << "a byte is written not once";
  return out;
}

// Where element (row, column) of the file lies, from the words of packings.inc.
TEST(Pack, EveryElementIsInItsPlaceAndTheRestIsZero) {
  std::mt19937 random(5);
  for (const char* name : {"plain", "panel16", "panel16_kn"}) {
    const Packing& packing = **FindPacking(name);
    for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      // The last two are cut into several units.
      for (const auto& [rows, columns] : std::vector<std::pair<int64_t, int64_t>>{
               {1, 1}, {1, 40}, {40, 1}, {15, 7}, {16, 16}, {17, 33}, {64, 31}, {1000, 700}, {33, 60000}}) {
        SCOPED_TRACE(absl::StrCat(name, " ", Info(dtype).name, " ", rows, "x", columns));
        const Type type{dtype, {rows, columns}};
        const int64_t elem = Info(dtype).block_bytes;
        std::vector<uint8_t> raw(static_cast<size_t>(rows * columns * elem));
        for (uint8_t& b : raw) b = static_cast<uint8_t>(1 + random() % 255);  // no zero: what is zero is padding
        const std::vector<uint8_t> packed = PackAll(type, packing, raw);
        EXPECT_EQ(PackUnits(type, packing) > 1, columns >= 700);
        int64_t wrong = 0, nonzero = 0;
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < columns; ++c) {
            const int64_t n = packing.k_major ? c : r, k = packing.k_major ? r : c;
            const int64_t depth = packing.k_major ? rows : columns;
            const int64_t at = packing.panel == 0
                                   ? r * columns + c
                                   : n / packing.panel * packing.panel * depth + k * packing.panel + n % packing.panel;
            wrong += std::memcmp(&packed[static_cast<size_t>(at * elem)],
                                 &raw[static_cast<size_t>((r * columns + c) * elem)], static_cast<size_t>(elem)) != 0;
          }
        }
        for (uint8_t b : packed) nonzero += b != 0;
        EXPECT_EQ(wrong, 0);
        EXPECT_EQ(nonzero, static_cast<int64_t>(raw.size()));
      }
    }
  }
}

// A unit of the packing blocks16 as packed_blocks.h describes it, read by its words alone: one block of 16 columns.
class Unit {
 public:
  Unit(const QuantFormat& format, const uint8_t* bytes) : f_(format), bytes_(bytes) {}

  int64_t bytes() const { return chunks_at() + f_.block() / 32 * chunk_bytes(); }
  double Element(int64_t column, int64_t k) const {
    const uint8_t* scales = Chunk(k) + 16 * (k % 32 / f_.group) + column;
    const double d = Half(2 * column), dmin = f_.has_min ? Half(32 + 2 * column) : 0;
    const int s = f_.integer_scales ? static_cast<int8_t>(*scales) : 1;
    const int m = f_.integer_scales && f_.has_min ? static_cast<int8_t>(scales[16 * 32 / f_.group]) : 1;
    return static_cast<float>(d * s * (Quantum(column, k) - f_.zero) - dmin * m);
  }
  // The column that a byte of the unit belongs to.
  int64_t ColumnOf(int64_t byte) const {
    if (byte < chunks_at()) return byte % 32 / 2;
    byte = (byte - chunks_at()) % chunk_bytes();
    return byte < quanta_at() ? byte % 16 : (byte - quanta_at()) % 64 / 4;
  }

 private:
  int64_t chunks_at() const { return f_.has_min ? 64 : 32; }
  int64_t quanta_at() const { return f_.integer_scales ? 16 * 32 / f_.group * (f_.has_min ? 2 : 1) : 0; }  // in a chunk
  int64_t chunk_bytes() const { return quanta_at() + f_.bits * 64; }
  const uint8_t* Chunk(int64_t k) const { return bytes_ + chunks_at() + k / 32 * chunk_bytes(); }
  double Half(int64_t at) const {
    uint16_t half;
    std::memcpy(&half, bytes_ + at, sizeof half);
    return HalfToFloat(half);
  }
  int Quantum(int64_t column, int64_t k) const {
    const uint8_t *const high = Chunk(k) + quanta_at(), *const low = high + (f_.bits == 8 ? 0 : (f_.bits - 4) * 64);
    const int64_t q = k % 32 / 4, in_row = 4 * column + k % 4;
    if (f_.bits == 8) return low[64 * q + in_row];
    int quantum = q < 4 ? low[64 * q + in_row] & 15 : low[64 * (q - 4) + in_row] >> 4;
    if (f_.bits == 5) quantum += (high[in_row] >> q & 1) * 16;
    if (f_.bits == 6) quantum += (high[64 * (q / 4) + in_row] >> 2 * (q % 4) & 3) * 16;
    return quantum;
  }

  const QuantFormat& f_;
  const uint8_t* bytes_;
};

TEST(Pack, EveryElementOfBlocksIsInItsPlaceAndTheRestIsZero) {
  const Packing& packing = **FindPacking("blocks16");
  std::mt19937 random(6);
  int formats = 0;
  for (const DTypeInfo& info : AllDTypes()) {
    const QuantFormat* const format = FindQuantFormat(info.dtype);
    if (format == nullptr) continue;
    ++formats;
    // The last is cut into several units.
    for (const auto& [rows, blocks] : std::vector<std::pair<int64_t, int64_t>>{
             {1, 1}, {15, 3}, {16, 2}, {17, 1}, {50, 5}, {2500, 2048 / info.block_elems}}) {
      SCOPED_TRACE(absl::StrCat(info.name, " ", rows, " rows of ", blocks, " blocks"));
      const int64_t columns = blocks * info.block_elems;
      const Type type{info.dtype, {rows, columns}};
      const std::vector<uint8_t> raw = RandomBlocks(info.dtype, rows * columns, 1, random);
      const std::vector<uint8_t> packed = PackAll(type, packing, raw);
      EXPECT_EQ(PackUnits(type, packing) > 1, rows == 2500);
      std::vector<double> values(static_cast<size_t>(rows * columns));
      Decode(info.dtype, raw.data(), absl::MakeSpan(values));
      const int64_t unit_bytes = Unit(*format, packed.data()).bytes();
      ASSERT_EQ(static_cast<int64_t>(packed.size()), (rows + 15) / 16 * blocks * unit_bytes);
      int64_t wrong = 0, rest = 0;
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < columns; ++c) {
          const int64_t at = (r / 16 * blocks + c / info.block_elems) * unit_bytes;
          const Unit unit(*format, &packed[static_cast<size_t>(at)]);
          wrong += unit.Element(r % 16, c % info.block_elems) != values[static_cast<size_t>(r * columns + c)];
        }
      }
      for (size_t i = 0; i < packed.size(); ++i) {
        const int64_t panel = static_cast<int64_t>(i) / unit_bytes / blocks;
        const int64_t column = Unit(*format, packed.data()).ColumnOf(static_cast<int64_t>(i) % unit_bytes);
        if (panel * 16 + column >= rows) rest += packed[i];
      }
      EXPECT_EQ(wrong, 0);
      EXPECT_EQ(rest, 0);
    }
  }
  EXPECT_EQ(formats, 8);
}

TEST(Pack, RefusesBlocksWhoseScaleOrMinimumIsNotFinite) {
  const Packing& packing = **FindPacking("blocks16");
  std::mt19937 random(7);
  for (const BlockScales& scales : kBlockScales) {
    const auto elems = Info(scales.dtype).block_elems, bytes = Info(scales.dtype).block_bytes;
    const Type type{scales.dtype, {18, 3 * elems}};
    const std::vector<uint8_t> good = RandomBlocks(scales.dtype, 18 * 3 * elems, 1, random);
    const auto pack = [&](const std::vector<uint8_t>& raw) {
      return PackUnit(
          "blk.0.w", type, packing, 0,
          [&](int64_t, int64_t, absl::Span<uint8_t> out) {
            std::copy(raw.begin(), raw.end(), out.begin());
            return absl::OkStatus();
          },
          [](int64_t, absl::Span<const uint8_t>) { return absl::OkStatus(); });
    };
    EXPECT_TRUE(pack(good).ok()) << pack(good);
    for (uint16_t bad : {0x7c00, 0xfc00, 0x7e01}) {  // infinities and a NaN
      for (const auto& [at, what] : {std::pair{scales.scale, "scale"}, std::pair{scales.minimum, "minimum"}}) {
        if (at == 0 && what == std::string("minimum")) continue;
        std::vector<uint8_t> raw = good;
        std::memcpy(&raw[static_cast<size_t>((17 * 3 + 2) * bytes) + at], &bad, sizeof bad);
        const absl::Status status = pack(raw);
        EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
        EXPECT_THAT(std::string(status.message()),
                    testing::HasSubstr(absl::StrCat("weight \"blk.0.w\": row 17, block 2 of ", Info(scales.dtype).name,
                                                    ": the ", what, " is no finite number")));
      }
    }
  }
}

TEST(Pack, PassesOnWhatReadersAndSinksSay) {
  const Type type{DType::kF32, {20, 3}};
  const Packing& packing = **FindPacking("panel16");
  const auto read = [](int64_t, int64_t, absl::Span<uint8_t>) { return absl::OkStatus(); };
  const auto sink = [](int64_t, absl::Span<const uint8_t>) { return absl::OkStatus(); };
  const auto fail_read = [](int64_t, int64_t, absl::Span<uint8_t>) { return absl::DataLossError("read"); };
  const auto fail_sink = [](int64_t, absl::Span<const uint8_t>) { return absl::DataLossError("sink"); };
  EXPECT_TRUE(PackUnit("w", type, packing, 0, read, sink).ok());
  EXPECT_EQ(PackUnit("w", type, packing, 0, fail_read, sink).message(), "read");
  EXPECT_EQ(PackUnit("w", type, packing, 0, read, fail_sink).message(), "sink");
}

TEST(Pack, RefusesWhatAPackingCannotHold) {
  EXPECT_EQ(FindPacking("panel17").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(PackedBytes({DType::kF32, {5, 8}}, **FindPacking("panel16")).ok());
  EXPECT_EQ(*PackedBytes({DType::kF32, {5, 8}}, **FindPacking("panel16")), 16 * 8 * 4);
  EXPECT_EQ(*PackedBytes({DType::kF16, {5, 17}}, **FindPacking("panel16_kn")), 5 * 32 * 2);
  EXPECT_EQ(*PackedBytes({DType::kF32, {5, 8}}, **FindPacking("plain")), 5 * 8 * 4);
  for (const Type& type : {Type{DType::kF32, {40}}, Type{DType::kF32, {2, 3, 4}}, Type{DType::kQ8_0, {4, 64}}}) {
    EXPECT_EQ(PackedBytes(type, **FindPacking("panel16")).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(*PackedBytes({DType::kQ4_0, {17, 64}}, **FindPacking("blocks16")), 2 * 2 * (32 + 16 * 16));
  for (const Type& type : {Type{DType::kF32, {16, 64}}, Type{DType::kQ4_0, {64}}, Type{DType::kQ8_R, {16, 64}}}) {
    EXPECT_EQ(PackedBytes(type, **FindPacking("blocks16")).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace sinter
