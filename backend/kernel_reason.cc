#include "backend/kernel_reason.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "ir/dtype.h"

namespace sinter {
namespace {

std::string AxesText(const std::vector<DimExpr>& axes, const DimTable& dims) {
  return absl::StrCat(
      "[",
      absl::StrJoin(axes, ",",
                    [&](std::string* out, const DimExpr& axis) { absl::StrAppend(out, dims.ToString(axis)); }),
      "]");
}

// "1 row", "up to 512 rows".
std::string RowsText(const DimExpr& rows, const DimTable& dims) {
  const int64_t most = dims.Max(rows);
  return absl::StrCat(rows.is_const() ? "" : "up to ", most, most == 1 ? " row" : " rows");
}

// "f32, bf16": of the elements that are not f32.
std::string TypesText(const KernelSpec& spec) {
  std::vector<std::string> types;
  const auto add = [&types](const Access& access) {
    std::string type(Info(access.dtype).name);
    if (std::find(types.begin(), types.end(), type) == types.end()) types.push_back(std::move(type));
  };
  for (const auto& [value, access] : spec.row->leaves) add(access);
  for (const RowSpec::Store& store : spec.row->stores) add(store.to);
  std::sort(types.begin(), types.end());
  return absl::StrJoin(types, ", ");
}

std::string ShapeReason(const GemmSpec& gemm, const DimTable& dims) {
  const std::string rows = RowsText(gemm.m, dims);
  switch (gemm.shape) {
    case TileShape::kGemv:
      return absl::StrCat("gemv: ", rows);
    case TileShape::kFew:
      return absl::StrCat("few: ", rows, ", where this tile takes ", kFewRows, " and its weight is packed");
    case TileShape::kDot:
      return absl::StrCat("dot: ", rows, "; the second matrix lies along k as it is");
    case TileShape::kBlocksGemv:
      return absl::StrCat("blocks_gemv: ", rows);
    case TileShape::kBlocksFew:
      return absl::StrCat("blocks_few: ", rows, ", where this tile takes ", kFewRows);
    case TileShape::kBlocksTight:
    case TileShape::kBlocksTightGemv:
      return absl::StrCat(TileShapeName(gemm.shape), ": ", rows,
                          "; bits above nibbles, or rows of floats, take registers");
    case TileShape::kBlocks:
      return absl::StrCat("blocks: ", rows);
    case TileShape::kOuter:
    case TileShape::kHalves:
      break;
  }
  const bool few = dims.Max(gemm.m) <= kFewRows;
  return absl::StrCat("outer: ", rows, few ? ", but no packed weight, which few needs" : "");
}

std::string ReasonFor(const KernelSpec& spec, const DimTable& dims) {
  if (spec.gemm) {
    const GemmSpec& gemm = *spec.gemm;
    std::vector<DimExpr> axes = gemm.batch;
    axes.push_back(gemm.m);
    axes.push_back(gemm.n);
    const std::string second = gemm.packing != nullptr
                                   ? absl::StrCat("weight ", Info(gemm.b.dtype).name, " packed ", gemm.packing->name)
                                   : absl::StrCat("second matrix ", Info(gemm.b.dtype).name, " as it lies");
    return absl::StrCat("gemm ", AxesText(axes, dims), " over k ", dims.ToString(gemm.k), ": ", ShapeReason(gemm, dims),
                        "; ", second, "; grains of ", gemm.m_block, " x ", gemm.n_block);
  }
  if (spec.attend) {
    const AttendSpec& attend = *spec.attend;
    std::vector<DimExpr> axes = attend.batch;
    axes.push_back(attend.t);
    axes.push_back(attend.value_width);
    return absl::StrCat("attend ", AxesText(axes, dims), " over ", dims.ToString(attend.s),
                        " positions: ", attend.wide ? "queries side by side in lanes" : "each query along its width",
                        ": ", attend.heads, attend.heads == 1 ? " head" : " heads that share keys", " by ", attend.rows,
                        attend.rows == 1 ? " row" : " rows", " a grain", attend.weight ? ", which is of one part" : "",
                        "; tiles of ", attend.tile(), " positions; cache ", Info(attend.k.dtype).name,
                        attend.copies_keys() ? ", keys copied to f32 tile by tile" : "");
  }
  const RowSpec& row = *spec.row;
  std::vector<std::string> blocks;
  for (const int64_t block : row.blocks) blocks.push_back(block == kWholeAxis ? "all" : absl::StrCat(block));
  return absl::StrCat(spec.family, " ", AxesText(row.axes, dims), " of ", TypesText(spec), ": ",
                      row.reduces ? "reduces along the last axis, in lanes" : "one pass, the last axis in lanes",
                      "; grains of ", absl::StrJoin(blocks, " x "));
}

}  // namespace

std::vector<std::string> ReasonsFor(const KernelSpec& spec, const DimTable& dims) {
  std::vector<std::string> reasons;
  for (const KernelSpec& part : PartsOf(spec)) reasons.push_back(ReasonFor(part, dims));
  return reasons;
}

}  // namespace sinter
