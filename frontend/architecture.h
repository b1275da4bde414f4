// Architectures as rows of architectures.inc, the hyperparameters of one model, and the tensors that follow from both.
//
// Called by config.h (which reads a ModelConfig from a file), presets.h (which states one) and transformer.h (which
// writes the graph). ModelTensors is the one list of tensor names and shapes: files are checked against it, presets are
// generated from it and the graph finds its weights in it. Dims are row-major, outermost first: a linear layer is
// [out, in]. Names are those of GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sinter {

enum class Norm : uint8_t { kRms, kLayer };
enum class Activation : uint8_t { kSwiglu, kGeluTanh };
enum class Positions : uint8_t { kRopeNorm, kLearned };
enum class Need : uint8_t { kRequired, kOptional };

struct Architecture {
  absl::string_view name;
  Norm norm;
  Activation activation;
  Positions positions;
  Need biases;
  absl::string_view epsilon_key;

  bool gated() const { return activation == Activation::kSwiglu; }
};

absl::Span<const Architecture> AllArchitectures();
const Architecture* FindArchitecture(absl::string_view name);  // null when there is no such row

// What shapes a model. Counts are positive; heads is a multiple of kv_heads; head_width is even where positions turn.
struct ModelConfig {
  const Architecture* architecture = nullptr;
  int64_t layers = 0;
  int64_t width = 0;  // of a token's row
  int64_t heads = 0, kv_heads = 0, head_width = 0;
  int64_t ffn_width = 0;
  int64_t vocabulary = 0;
  int64_t trained_context = 0;  // positions
  int64_t window = 0;           // of attention, in positions: no less than trained_context; 0: there is none
  double epsilon = 1e-5;        // of the norms
  double rope_base = 10000;
  double rope_scale = 1;      // positions are multiplied by it
  bool rope_factors = false;  // rope_freqs.weight divides each pair's angle
  bool fused_qkv = false;     // attn_qkv instead of attn_q, attn_k, attn_v
  bool tied_output = false;   // logits are products with token_embd

  int64_t q_width() const { return heads * head_width; }
  int64_t kv_width() const { return kv_heads * head_width; }
};

// What a tensor is, for whoever makes or checks one.
enum class TensorRole : uint8_t { kMatrix, kPositions, kBias, kGamma, kBeta, kRopeFactors };

struct TensorSpec {
  std::string name;
  std::vector<int64_t> dims;
  TensorRole role;
  Need need = Need::kRequired;
};

// Every tensor of the model, in the order in which a step reads them.
std::vector<TensorSpec> ModelTensors(const ModelConfig& config);

}  // namespace sinter
