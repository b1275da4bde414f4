// What the tables say of targets, tiles and packings. Knows no LLVM; passes and the code generator both ask here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "ir/types.h"

namespace sinter {

struct Target {
  absl::string_view name;
  absl::string_view base;                   // "none" for the weakest
  std::vector<absl::string_view> features;  // all, those of the bases included; rows of features.inc
  int vector_bytes;
  int registers;
  bool HasManyRegisters() const { return registers >= 32; }
  absl::string_view llvm_cpu;

  int lanes() const { return vector_bytes / 4; }  // of f32
};

// In the order of targets.inc: weakest first.
absl::Span<const Target> AllTargets();
const Target* FindTarget(absl::string_view name);
// "native", or names separated by commas; weakest first, without repetition. kOutOfRange for an unknown name, listing
// those there are.
absl::StatusOr<std::vector<const Target*>> ParseTargets(absl::string_view text);
// The strongest target that this CPU can run; kFailedPrecondition when it runs none.
absl::StatusOr<const Target*> NativeTarget();
bool HostRuns(const Target& target);
// Whether it adds the products of two pairs of bf16 to a float in one instruction.
bool MultipliesPairs(const Target& target);
// Whether it adds the products of four pairs of bytes to an integer in one instruction.
bool MultipliesBytes(const Target& target);
// Whether code for one row asks memory for weights in blocks before it needs them: tuned for the CPU that compiles,
// whatever the target. Zen 4 by itself reads such weights up to 1.4 times as fast, probably as such requests use up its
// few misses of the first level; Zen 3, of the same family, is taken to be alike. Zen 5 reads a third faster when
// asked.
bool AsksMemoryAhead();

enum class TileShape : uint8_t {
#define SHAPE(enumerator, name, blocks) enumerator,
#include "backend/tiles.inc"
#undef SHAPE
};
// The most rows for which a product takes the tile few.
inline constexpr int64_t kFewRows = 8;
absl::string_view TileShapeName(TileShape shape);
bool TakesBlocks(TileShape shape);

struct Tile {
  TileShape shape;
  int rows, columns;
};
// The row of tiles.inc for a target (or for the nearest base that has one).
Tile TileFor(const Target& target, TileShape shape);
// "avx512:outer:6x64", as kernel ops list their tiles; and back.
std::string TileText(const Target& target, const Tile& tile);
absl::StatusOr<Tile> ParseTile(absl::Span<const std::string> tiles, const Target& target);

struct Packing {
  absl::string_view name;
  int panel;
  bool k_major;  // the weight is [K,N]
  int depth;     // 2: pairs of bf16
  bool blocks;   // of weights in blocks
};
// "" is plain. kInvalidArgument for an unknown name.
absl::StatusOr<const Packing*> FindPacking(absl::string_view name);
// Bytes of a weight of this type in this packing; the type's dims are numbers. kInvalidArgument when the packing cannot
// hold it.
absl::StatusOr<int64_t> PackedBytes(const Type& type, const Packing& packing);

}  // namespace sinter
