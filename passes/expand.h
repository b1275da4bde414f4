// The plain form of fused ops, for bodies: kernels are emitted from plain elementwise ops and reductions alone.
#pragma once

#include "absl/status/status.h"
#include "ir/graph.h"

namespace sinter {

// Replaces softmax, layer_norm, rms_norm, gelu and swiglu in `graph` by the ops that they stand for.
absl::Status ExpandFusedOps(Graph& graph);

}  // namespace sinter
