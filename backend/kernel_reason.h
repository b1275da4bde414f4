// What decided how a kernel is computed, in words: for `compile --emit=asm` and whoever asks why a product took this
// tile. Read off the spec, so it says what is, and never decides anything. Knows no LLVM.
#pragma once

#include <string>
#include <vector>

#include "backend/kernel_spec.h"
#include "ir/dims.h"

namespace sinter {

// A line a part, in the order in which they run:
//   "gemm [T,192] over k 64: outer: up to 512 rows; weight f32 packed panel16; grains of 96 x 64"
std::vector<std::string> ReasonsFor(const KernelSpec& spec, const DimTable& dims);

}  // namespace sinter
