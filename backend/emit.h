// Emitters: a kernel spec in, the kernel's code out, through a VectorBuilder. One function a family; no LLVM here.
//
// A kernel's grains are those of KernelSpec::extent, the last factor fastest. Emitters assume that SpecOf accepted the
// body, so they do not fail.
#pragma once

#include "backend/kernel_spec.h"
#include "backend/vector_builder.h"

namespace sinter {

// Families map, row and move.
void EmitRows(const RowSpec& spec, VectorBuilder& b);
// Family gemm, with the tile chosen for the builder's target.
void EmitGemm(const GemmSpec& spec, const Tile& tile, VectorBuilder& b);
// Family attend.
void EmitAttend(const AttendSpec& spec, VectorBuilder& b);

// The address of an access at the indices given, one for each leading axis (missing trailing ones count as 0).
Ptr AddressOf(VectorBuilder& b, const Access& access, const std::vector<Int>& indices);
// Splits a grain number into one index a factor of `sizes` (how many each has), the last fastest.
std::vector<Int> SplitGrain(VectorBuilder& b, Int grain, const std::vector<Int>& sizes);
// How many blocks `size` has, the last perhaps a part of one.
Int BlocksOf(VectorBuilder& b, Int size, int64_t block);
// min(block, size - first), where `first` is a multiple of the block: a number when all blocks are alike.
Int RestOf(VectorBuilder& b, Int size, Int first, int64_t block);
// As VectorBuilder::For takes the values that a loop carries.
std::vector<Handle*> Carry(std::vector<Vec>& values);

}  // namespace sinter
