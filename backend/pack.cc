#include "backend/pack.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "backend/packed_blocks.h"
#include "base/checked.h"
#include "base/status.h"
#include "ir/quant.h"

namespace sinter {
namespace {

constexpr int64_t kUnitBytes = int64_t{1} << 20;  // of the file, about

struct Matrix {
  int64_t rows, columns, row_bytes, elem_bytes;
};

// Elements that the packing keeps side by side are one here, but for those of blocks.
Matrix MatrixOf(const Type& type, const Packing& packing) {
  Matrix m{type.dims[0].constant(), 1, 0, Info(type.dtype).block_bytes};
  for (size_t i = 1; i < type.dims.size(); ++i) m.columns *= type.dims[i].constant();
  m.row_bytes = ElemBytes(type.dtype, m.columns);
  if (!packing.blocks) {
    m.columns /= packing.depth;
    m.elem_bytes *= packing.depth;
  }
  return m;
}

// Rows of the file in a unit: whole panels where the panel runs over rows.
int64_t UnitRows(const Matrix& m, const Packing& packing) {
  const int64_t rows = std::max<int64_t>(1, kUnitBytes / std::max<int64_t>(1, m.row_bytes));
  return packing.panel > 0 && !packing.k_major ? AlignUp(rows, packing.panel) : rows;
}

// Panels of [N,K] rows: out[p][k][i] = in[p*panel + i][k].
template <typename Elem>
void PackPanels(const Elem* in, int64_t rows, int64_t k, int64_t panel, Elem* out) {
  for (int64_t p = 0; p * panel < rows; ++p) {
    const int64_t width = std::min(panel, rows - p * panel);
    for (int64_t i = 0; i < width; ++i) {
      const Elem* row = in + (p * panel + i) * k;
      Elem* column = out + p * panel * k + i;
      for (int64_t j = 0; j < k; ++j) column[j * panel] = row[j];
    }
  }
}

// One panel of [K,N] rows: out[k][i] = in[k][p*panel + i].
template <typename Elem>
void PackColumns(const Elem* in, int64_t k, int64_t n, int64_t first, int64_t panel, Elem* out) {
  const int64_t width = std::min(panel, n - first);
  for (int64_t j = 0; j < k; ++j) std::copy_n(in + j * n + first, width, out + j * panel);
}

template <typename Elem>
absl::Status PackAs(const Matrix& m, const Packing& packing, int64_t begin, int64_t end, const uint8_t* raw,
                    const ByteSink& sink) {
  const Elem* in = reinterpret_cast<const Elem*>(raw);
  const int64_t panel = packing.panel;
  if (!packing.k_major) {
    std::vector<Elem> out(static_cast<size_t>(AlignUp(end - begin, panel) * m.columns));
    PackPanels(in, end - begin, m.columns, panel, out.data());
    return sink(begin * m.columns * m.elem_bytes,
                {reinterpret_cast<const uint8_t*>(out.data()), out.size() * sizeof(Elem)});
  }
  std::vector<Elem> out(static_cast<size_t>((end - begin) * panel));
  for (int64_t first = 0; first < m.columns; first += panel) {
    std::fill(out.begin(), out.end(), Elem{0});
    PackColumns(in, end - begin, m.columns, first, panel, out.data());
    const int64_t offset = (first * m.rows + begin * panel) * m.elem_bytes;
    SINTER_RETURN_IF_ERROR(sink(offset, {reinterpret_cast<const uint8_t*>(out.data()), out.size() * sizeof(Elem)}));
  }
  return absl::OkStatus();
}

// Writes a block as one column of a unit.
void PackBlock(const PackedBlocks& layout, const QuantBlock& block, int64_t column, uint8_t* unit) {
  const QuantFormat& format = *layout.format;
  std::memcpy(unit + 2 * column, &block.d, sizeof block.d);
  if (format.has_min) std::memcpy(unit + layout.dmin + 2 * column, &block.dmin, sizeof block.dmin);
  constexpr uint32_t kNibbles = 0x0f0f0f0f, kOnes = 0x01010101, kThrees = 0x03030303;
  uint8_t* chunk = unit + layout.chunks;
  const size_t groups = static_cast<size_t>(PackedBlocks::kChunk / format.group);  // of a chunk
  for (size_t first = 0, group = 0; first < static_cast<size_t>(format.block()); first += PackedBlocks::kChunk) {
    for (size_t g = 0; format.integer_scales && g < groups; ++g, ++group) {
      uint8_t* const scale = chunk + static_cast<int64_t>(g) * PackedBlocks::kColumns + column;
      *scale = static_cast<uint8_t>(block.scales[group]);
      if (format.has_min) scale[layout.mins] = static_cast<uint8_t>(block.mins[group]);
    }
    const auto put = [&](int64_t field, int64_t row, uint32_t quad) {
      std::memcpy(chunk + field + row * PackedBlocks::kRow + PackedBlocks::kQuad * column, &quad, sizeof quad);
    };
    uint32_t quads[PackedBlocks::kChunk / PackedBlocks::kQuad];
    std::memcpy(quads, &block.quanta[first], sizeof quads);
    if (format.bits == 8) {
      for (int64_t q = 0; q < 8; ++q) put(layout.low, q, quads[q]);
    } else {
      for (int64_t q = 0; q < 4; ++q) put(layout.low, q, (quads[q] & kNibbles) | (quads[q + 4] & kNibbles) << 4);
    }
    if (format.bits == 5) {
      uint32_t fifth = 0;
      for (int64_t q = 0; q < 8; ++q) fifth |= (quads[q] >> 4 & kOnes) << q;
      put(layout.high, 0, fifth);
    }
    for (int64_t half = 0; format.bits == 6 && half < 2; ++half) {
      uint32_t upper = 0;
      for (int64_t q = 0; q < 4; ++q) upper |= (quads[4 * half + q] >> 4 & kThrees) << 2 * q;
      put(layout.high, half, upper);
    }
    chunk += layout.chunk_bytes;
  }
}

bool IsFinite(uint16_t half) { return (half & 0x7c00) != 0x7c00; }

// Panels of rows of blocks: units [panel][block], each with the same block of 16 rows.
absl::Status PackBlocks(absl::string_view name, const QuantFormat& format, const Matrix& m, int64_t begin, int64_t end,
                        const uint8_t* in, const ByteSink& sink) {
  const PackedBlocks layout(format);
  const int64_t blocks = m.columns / format.block(), block_bytes = Info(format.dtype).block_bytes;
  const int64_t panel_bytes = blocks * layout.unit_bytes;
  std::vector<uint8_t> out(static_cast<size_t>(CeilDiv(end - begin, PackedBlocks::kColumns) * panel_bytes));
  QuantBlock block;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t panel = (row - begin) / PackedBlocks::kColumns, column = (row - begin) % PackedBlocks::kColumns;
    for (int64_t b = 0; b < blocks; ++b, in += block_bytes) {
      Split(format, in, block);
      if (!IsFinite(block.d) || !IsFinite(block.dmin)) {
        return absl::InvalidArgumentError(absl::StrCat(
            "weight \"", name, "\": row ", row, ", block ", b, " of ", Info(format.dtype).name, ": the ",
            IsFinite(block.d) ? "minimum" : "scale",
            " is no finite number: the file is damaged, or was quantized from ", "weights that are not finite"));
      }
      PackBlock(layout, block, column, out.data() + panel * panel_bytes + b * layout.unit_bytes);
    }
  }
  return sink(begin / PackedBlocks::kColumns * panel_bytes, out);
}

}  // namespace

int64_t PackUnits(const Type& type, const Packing& packing) {
  const Matrix m = MatrixOf(type, packing);
  return CeilDiv(m.rows, UnitRows(m, packing));
}

absl::Status PackUnit(absl::string_view name, const Type& type, const Packing& packing, int64_t unit,
                      const RowReader& read, const ByteSink& sink) {
  const Matrix m = MatrixOf(type, packing);
  const int64_t unit_rows = UnitRows(m, packing);
  const int64_t begin = unit * unit_rows, end = std::min(m.rows, begin + unit_rows);
  // Room for the widest element, so that the buffer is aligned for all.
  std::vector<uint64_t> raw(static_cast<size_t>(CeilDiv((end - begin) * m.row_bytes, 8)));
  uint8_t* bytes = reinterpret_cast<uint8_t*>(raw.data());
  SINTER_RETURN_IF_ERROR(read(begin, end, {bytes, static_cast<size_t>((end - begin) * m.row_bytes)}));
  if (packing.panel == 0) return sink(begin * m.row_bytes, {bytes, static_cast<size_t>((end - begin) * m.row_bytes)});
  if (packing.blocks) return PackBlocks(name, *FindQuantFormat(type.dtype), m, begin, end, bytes, sink);
  return m.elem_bytes == 2 ? PackAs<uint16_t>(m, packing, begin, end, bytes, sink)
                           : PackAs<uint32_t>(m, packing, begin, end, bytes, sink);
}

}  // namespace sinter
