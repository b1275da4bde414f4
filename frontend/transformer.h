// Writes a transformer as a graph, in the plainest form: what a textbook would write, fused on nothing.
//
// Called by model.h. The module has one entry and the bodies of its loops of dot products:
//   @main(%ids: i32[T], %pos: i32[T], %rows: i32[L], %kv0: state<..[2,G,C,D]>, ..) -> (f32[L,V], state<..>, ..)
// with T tokens in this step (at most `chunk`), P already in the cache and L rows whose logits are wanted; P+T is at
// most `context`, which is C. V is the vocabulary, G the key/value heads, D their width. Every weight keeps the type
// that the source gives it; a body whose operand is not f32 converts it first. Every op that belongs to a part of the
// model has that part's name as its loc ("blk.0.attn_q").
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "frontend/architecture.h"
#include "frontend/weights.h"
#include "ir/graph.h"

namespace sinter {

struct TransformerOptions {
  std::string module_name;
  int64_t context = 0;  // 1 .. config.trained_context; with rope also more
  int64_t chunk = 0;    // 1 .. context
  DType kv = DType::kF32;
};

// The module is verified. Fails only when `weights` lacks a tensor that `config` requires, or an internal rule is
// broken.
absl::StatusOr<std::unique_ptr<Module>> BuildTransformer(const ModelConfig& config, const WeightSource& weights,
                                                         const TransformerOptions& options);

}  // namespace sinter
