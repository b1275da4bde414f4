#include "backend/target.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "backend/packed_blocks.h"
#include "base/checked.h"
#include "base/status.h"
#include "runtime/cpu.h"

namespace sinter {
namespace {

struct TileRow {
  absl::string_view target;
  Tile tile;
};

struct ShapeRow {
  absl::string_view name;
  bool blocks;
};
constexpr ShapeRow kShapes[] = {
#define SHAPE(enumerator, name, blocks) {#name, blocks},
#include "backend/tiles.inc"
#undef SHAPE
};

#define SHAPE(enumerator, name, blocks) constexpr TileShape name = TileShape::enumerator;
#include "backend/tiles.inc"
#undef SHAPE
constexpr TileRow kTiles[] = {
#define TILE(target, shape, rows, columns) {#target, {shape, rows, columns}},
#include "backend/tiles.inc"
#undef TILE
};

constexpr Packing kPackings[] = {
#define PACKING(name, panel, k_major, depth, blocks, layout) {#name, panel, k_major, depth, blocks},
#include "backend/packings.inc"
#undef PACKING
};

std::vector<Target> MakeTargets() {
  std::vector<Target> targets;
  const auto add = [&targets](absl::string_view name, absl::string_view base, absl::string_view features, int bytes,
                              int registers, absl::string_view cpu) {
    Target target{name, base, {}, bytes, registers, cpu};
    for (const Target& t : targets) {
      if (t.name == base) target.features = t.features;
    }
    for (absl::string_view f : absl::StrSplit(features, ' ')) target.features.push_back(f);
    targets.push_back(std::move(target));
  };
#define TARGET(name, base, features, bytes, registers, cpu) add(#name, #base, features, bytes, registers, cpu);
#include "backend/targets.inc"
#undef TARGET
  return targets;
}

}  // namespace

absl::Span<const Target> AllTargets() {
  static const std::vector<Target>& targets = *new std::vector<Target>(MakeTargets());
  return targets;
}

const Target* FindTarget(absl::string_view name) {
  for (const Target& target : AllTargets()) {
    if (target.name == name) return &target;
  }
  return nullptr;
}

bool HostRuns(const Target& target) {
  return std::all_of(target.features.begin(), target.features.end(), [](absl::string_view f) { return HostHas(f); });
}

static bool HasFeature(const Target& target, absl::string_view feature) {
  return std::find(target.features.begin(), target.features.end(), feature) != target.features.end();
}

bool MultipliesPairs(const Target& target) { return HasFeature(target, "avx512_bf16"); }

bool MultipliesBytes(const Target& target) {
  return HasFeature(target, "avx512_vnni") || HasFeature(target, "avx_vnni");
}
bool AsksMemoryAhead() { return !__builtin_cpu_is("amdfam19h"); }

absl::StatusOr<const Target*> NativeTarget() {
  const Target* best = nullptr;
  for (const Target& target : AllTargets()) {
    if (HostRuns(target)) best = &target;
  }
  if (best == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(HostCpuName(), ": this CPU runs none of the targets; the weakest, ", AllTargets()[0].name,
                     ", needs ", absl::StrJoin(AllTargets()[0].features, " ")));
  }
  return best;
}

absl::StatusOr<std::vector<const Target*>> ParseTargets(absl::string_view text) {
  std::vector<const Target*> targets;
  for (absl::string_view name : absl::StrSplit(text, ',')) {
    const Target* target = FindTarget(name);
    if (name == "native") {
      SINTER_ASSIGN_OR_RETURN(target, NativeTarget());
    } else if (target == nullptr) {
      return absl::OutOfRangeError(absl::StrCat(
          "unknown target \"", name, "\"; targets are native, ",
          absl::StrJoin(AllTargets(), ", ", [](std::string* out, const Target& t) { absl::StrAppend(out, t.name); })));
    }
    targets.push_back(target);
  }
  std::sort(targets.begin(), targets.end());  // rows of one table: weakest first
  targets.erase(std::unique(targets.begin(), targets.end()), targets.end());
  return targets;
}

absl::string_view TileShapeName(TileShape shape) { return kShapes[static_cast<size_t>(shape)].name; }
bool TakesBlocks(TileShape shape) { return kShapes[static_cast<size_t>(shape)].blocks; }

Tile TileFor(const Target& target, TileShape shape) {
  for (const TileRow& row : kTiles) {
    if (row.target == target.name && row.tile.shape == shape) return row.tile;
  }
  return TileFor(*FindTarget(target.base), shape);  // the weakest target has every shape
}

std::string TileText(const Target& target, const Tile& tile) {
  return absl::StrCat(target.name, ":", TileShapeName(tile.shape), ":", tile.rows, "x", tile.columns);
}

absl::StatusOr<Tile> ParseTile(absl::Span<const std::string> tiles, const Target& target) {
  for (const std::string& text : tiles) {
    for (const TileRow& row : kTiles) {
      const TileShape shape = row.tile.shape;
      const Tile tile = TileFor(target, shape);
      if (text == TileText(target, tile)) return tile;
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("no tile for target ", target.name, " among [",
                                                 absl::StrJoin(tiles, ", "),
                                                 "]; a kernel names one of the rows of tiles.inc for each target"));
}

absl::StatusOr<const Packing*> FindPacking(absl::string_view name) {
  if (name.empty()) return &kPackings[0];
  for (const Packing& packing : kPackings) {
    if (packing.name == name) return &packing;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown packing \"", name, "\""));
}

absl::StatusOr<int64_t> PackedBytes(const Type& type, const Packing& packing) {
  const DimTable no_symbols;
  if (packing.panel == 0) return MaxBytes(type, no_symbols);
  const QuantFormat* const format = FindQuantFormat(type.dtype);
  if (type.rank() != 2 || packing.blocks != (format != nullptr) || (format == nullptr && IsQuantized(type.dtype))) {
    return absl::InvalidArgumentError(absl::StrCat("packing ", packing.name, " holds matrices that are ",
                                                   packing.blocks ? "" : "not ", "in blocks, not ",
                                                   ToString(type, no_symbols)));
  }
  if (packing.blocks) {
    SINTER_RETURN_IF_ERROR(MaxElems(type, no_symbols).status());
    Type units = type;  // in bytes: a row a panel
    units.dtype = DType::kU8;
    units.dims[0] = CeilDiv(type.dims[0].constant(), packing.panel);
    units.dims[1] = type.dims[1].DivideExactly(format->block()) * DimExpr(PackedBlocks(*format).unit_bytes);
    return MaxBytes(units, no_symbols);
  }
  const int64_t k = type.dims[packing.k_major ? 0 : 1].constant();
  if (k % packing.depth != 0 || (packing.depth > 1 && type.dtype != DType::kBF16)) {
    return absl::InvalidArgumentError(absl::StrCat("packing ", packing.name,
                                                   " holds bf16 matrices [N,K] with K a multiple of ", packing.depth,
                                                   ", not ", ToString(type, no_symbols)));
  }
  Type padded = type;
  DimExpr& n = padded.dims[packing.k_major ? 1 : 0];
  n = AlignUp(n.constant(), packing.panel);
  return MaxBytes(padded, no_symbols);
}

}  // namespace sinter
