// Emitters: a kernel spec in, the kernel's code out, through a VectorBuilder. One function a family; no LLVM here.
//
// Emitters of families assume that SpecOf accepted the body, so they do not fail.
#pragma once

#include <functional>
#include <vector>

#include "backend/codegen.h"
#include "backend/kernel_spec.h"
#include "backend/packed_blocks.h"
#include "backend/vector_builder.h"

namespace sinter {

// Adds the code of one kernel for one target to `out`. kInvalidArgument: a tile is not for its product.
absl::Status EmitKernel(const PlannedKernel& kernel, const Target& target, const DimTable& dims, Emitted& out);
// That, and LLVM.
const Codegen& LinkedCodegen();

// Families map, row and move.
void EmitRows(const KernelSpec& spec, VectorBuilder& b);
// Family gemm, with the tile chosen for the builder's target.
void EmitGemm(const KernelSpec& spec, const Tile& tile, VectorBuilder& b);
// The same where the second matrix is a weight in blocks; called by EmitGemm.
void EmitBlocksGemm(const KernelSpec& spec, const Tile& tile, VectorBuilder& b);
// Family attend.
void EmitAttend(const KernelSpec& spec, VectorBuilder& b);

// Where an access points, in elements, at the indices given, one for each leading axis (missing trailing ones count as
// 0); and its address.
Int PlaceOf(VectorBuilder& b, const Access& access, const std::vector<Int>& indices);
Ptr AddressOf(VectorBuilder& b, const Access& access, const std::vector<Int>& indices);
// A row of a weight in blocks: a column of the units of a panel.
class RowOfBlocks {
 public:
  // The one that an access to rows of `elems` elements points at.
  RowOfBlocks(VectorBuilder& b, const Access& access, int64_t elems, const std::vector<Int>& indices);
  // Elements from `at` on, a multiple of the lanes.
  Vec Load(VectorBuilder& b, Int at) const;

 private:
  PackedBlocks layout_;
  Ptr panel_;
  Int column_;
};

// How many grains a kernel has.
Int GrainsOf(VectorBuilder& b, const KernelSpec& spec);
// Does the grains from b.Begin() to b.End(); `block` has the number of the grain's block of each factor of the extent.
void ForGrains(VectorBuilder& b, const KernelSpec& spec, const std::function<void(std::vector<Int> block)>& body);
// The same, so many grains at a time while there are as many, then one at a time.
void ForGrainsTogether(VectorBuilder& b, const KernelSpec& spec, int together,
                       const std::function<void(std::vector<std::vector<Int>> blocks)>& body);
// min(block, size - first), where `first` is a multiple of the block: a number when all blocks are alike.
Int RestOf(VectorBuilder& b, Int size, Int first, int64_t block);
// As VectorBuilder::For takes the values that a loop carries.
std::vector<Handle*> Carry(std::vector<Vec>& values);

}  // namespace sinter
