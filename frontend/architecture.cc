#include "frontend/architecture.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace sinter {
namespace {

constexpr Architecture kArchitectures[] = {
#define ARCHITECTURE(name, norm, activation, positions, biases, epsilon_key) \
  {#name, Norm::norm, Activation::activation, Positions::positions, Need::biases, epsilon_key},
#include "frontend/architectures.inc"
#undef ARCHITECTURE
};

}  // namespace

absl::Span<const Architecture> AllArchitectures() { return kArchitectures; }

const Architecture* FindArchitecture(absl::string_view name) {
  const auto* found =
      std::find_if(std::begin(kArchitectures), std::end(kArchitectures), [&](const auto& a) { return a.name == name; });
  return found == std::end(kArchitectures) ? nullptr : found;
}

std::vector<TensorSpec> ModelTensors(const ModelConfig& c) {
  const Architecture& a = *c.architecture;
  std::vector<TensorSpec> tensors;
  auto norm = [&](absl::string_view stem) {
    tensors.push_back({absl::StrCat(stem, ".weight"), {c.width}, TensorRole::kGamma});
    if (a.norm == Norm::kLayer) tensors.push_back({absl::StrCat(stem, ".bias"), {c.width}, TensorRole::kBeta});
  };
  auto linear = [&](absl::string_view stem, int64_t out, int64_t in) {
    tensors.push_back({absl::StrCat(stem, ".weight"), {out, in}, TensorRole::kMatrix});
    tensors.push_back({absl::StrCat(stem, ".bias"), {out}, TensorRole::kBias, a.biases});
  };

  tensors.push_back({"token_embd.weight", {c.vocabulary, c.width}, TensorRole::kMatrix});
  if (a.positions == Positions::kLearned) {
    tensors.push_back({"position_embd.weight", {c.trained_context, c.width}, TensorRole::kPositions});
  } else if (c.rope_factors) {
    tensors.push_back({"rope_freqs.weight", {c.head_width / 2}, TensorRole::kRopeFactors});
  }
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    const std::string block = absl::StrCat("blk.", layer, ".");
    norm(block + "attn_norm");
    if (c.fused_qkv) {
      linear(block + "attn_qkv", c.q_width() + 2 * c.kv_width(), c.width);
    } else {
      linear(block + "attn_q", c.q_width(), c.width);
      linear(block + "attn_k", c.kv_width(), c.width);
      linear(block + "attn_v", c.kv_width(), c.width);
    }
    linear(block + "attn_output", c.width, c.q_width());
    norm(block + "ffn_norm");
    if (a.gated()) linear(block + "ffn_gate", c.ffn_width, c.width);
    linear(block + "ffn_up", c.ffn_width, c.width);
    linear(block + "ffn_down", c.width, c.ffn_width);
  }
  norm("output_norm");
  if (!c.tied_output) tensors.push_back({"output.weight", {c.vocabulary, c.width}, TensorRole::kMatrix});
  return tensors;
}

}  // namespace sinter
