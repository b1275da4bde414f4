// The metadata of a compiled module (runtime/module.fbs), built from a planned module.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/compile.h"
#include "backend/object.h"
#include "ir/graph.h"

namespace sinter {

// One tensor of the weights section: a weight op, or a source whose bytes the compiler makes.
struct PlacedWeight {
  const Graph* graph = nullptr;
  OpId op;
  std::string name;  // of the tensor; "rope_table" for a table
  std::string pack;
  Type type;
  int64_t offset = 0, bytes = 0;
};
// Each tensor once, by offset. kInvalidArgument when addresses are missing or tensors overlap.
absl::StatusOr<std::vector<PlacedWeight>> PlacedWeights(const Module& module);

struct PlacedImage {
  const Target* target;
  LinkedImage image;
  uint64_t offset;  // in the code section
};

struct SpaceSizes {
  int64_t arena_bytes = 0, thread_bytes = 0, weights_bytes = 0;
};
absl::StatusOr<SpaceSizes> SpacesOf(const Module& module);

absl::StatusOr<std::string> BuildMetadata(const Module& module, const ModuleInfo& info, const KernelTable& kernels,
                                          absl::Span<const PlacedImage> images, absl::Span<const PlacedWeight> weights);

}  // namespace sinter
