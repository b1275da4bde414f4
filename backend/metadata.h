// The metadata of a compiled module (runtime/module.fbs), built from a planned module. Called by Compile.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/compile.h"
#include "backend/placement.h"
#include "ir/graph.h"

namespace sinter {

struct PlacedImage {
  const Target* target;
  std::vector<uint8_t> bytes;
  std::vector<uint64_t> entry_points;  // of each kernel of the table
  uint64_t offset;                     // in the code section
};

// The finished FlatBuffer.
absl::StatusOr<std::vector<uint8_t>> BuildMetadata(const Module& module, const ModuleInfo& info,
                                                   const KernelTable& kernels, absl::Span<const PlacedImage> images,
                                                   const Placement& placement);

}  // namespace sinter
