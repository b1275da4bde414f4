// The independent judge of a buffer plan: what plan-buffers promises, derived anew from the planned module alone.
//   - every value of every entry has an address, aligned to 64 bytes, in a space that suits it (parameters: input or
//     state; weights and precomputed sources: weights; results: output or state; the rest: arena)
//   - two values of one entry whose bytes overlap in the arena never live in the same barrier epoch
//   - all versions of a state share their index; no two states share one; weights overlap only when they are the same
//     tensor in the same packing
//   - a step that reads what another step wrote since the last barrier reads only rows that its own thread wrote
#pragma once

#include "absl/status/status.h"
#include "ir/graph.h"

namespace sinter {

absl::Status CheckPlan(const Module& module);

}  // namespace sinter
