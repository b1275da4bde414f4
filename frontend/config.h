// Reads and checks the hyperparameters and the tensor list of a GGUF model, before anything is computed from them.
//
// Called by model.h. After it succeeds every tensor of ModelTensors(config) that is required is in the file with the
// right shape and a type that weights.h supports, and the file has no tensor that the graph would not read.
//
// Errors name the file. kUnimplemented: the model is well formed and not supported; one message lists everything that
// is not (architecture, tensor types, rope scaling, experts, windows, unknown tensors). kInvalidArgument: a key or a
// tensor contradicts another, with both numbers; missing and misshapen tensors are listed together.
// Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and llama.cpp's readers of them.
#pragma once

#include "absl/status/statusor.h"
#include "frontend/architecture.h"
#include "frontend/gguf.h"

namespace sinter {

absl::StatusOr<ModelConfig> ReadModelConfig(const Gguf& gguf);

}  // namespace sinter
