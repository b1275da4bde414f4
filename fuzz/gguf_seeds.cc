#include "fuzz/gguf_seeds.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "frontend/architecture.h"
#include "frontend/weights.h"
#include "tests/gguf_writer.h"
#include "tests/quant_blocks.h"

namespace sinter::fuzz {
namespace {

void AddVocabulary(GgufWriter& writer, int64_t size) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>", "<0x0A>", "\u2581", "a", "\u2581a", "<user>"};
  std::vector<int32_t> types = {2, 3, 3, 6, 1, 1, 1, 4};
  std::vector<float> scores = {0, 0, 0, 0, -1, -2, -0.5f, 0};
  const auto kept = static_cast<size_t>(size);
  tokens.resize(kept);
  types.resize(kept);
  scores.resize(kept);
  writer.Set("tokenizer.ggml.model", "llama");
  writer.Set("tokenizer.ggml.tokens", tokens);
  writer.Set("tokenizer.ggml.scores", scores);
  writer.Set("tokenizer.ggml.token_type", types);
  writer.Set("tokenizer.ggml.bos_token_id", uint32_t{1});
  writer.Set("tokenizer.ggml.eos_token_id", uint32_t{2});
  writer.Set("tokenizer.ggml.unknown_token_id", uint32_t{0});
  writer.Set("tokenizer.ggml.add_space_prefix", true);
}

// A model whose tensors are those that its configuration asks for.
std::string ModelFile(absl::string_view architecture, DType type, bool fused, uint32_t version) {
  ModelConfig config;
  config.architecture = FindArchitecture(architecture);
  const bool blocks = IsQuantized(type);
  config.layers = 1;
  config.width = blocks ? Info(type).block_elems : 8;
  config.heads = 2;
  config.kv_heads = architecture == "llama" ? 1 : 2;
  config.head_width = config.width / config.heads;
  config.ffn_width = config.width;
  config.vocabulary = 8;
  config.trained_context = 16;
  config.fused_qkv = fused;
  config.tied_output = blocks;

  GgufWriter writer(version);
  const std::string prefix = absl::StrCat(architecture, ".");
  writer.Set("general.architecture", std::string(architecture)).Set("general.name", "seed");
  writer.Set(prefix + "context_length", uint32_t{16}).Set(prefix + "block_count", uint32_t{1});
  writer.Set(prefix + "embedding_length", static_cast<uint32_t>(config.width));
  writer.Set(prefix + "feed_forward_length", static_cast<uint32_t>(config.ffn_width));
  writer.Set(prefix + "attention.head_count", uint32_t{2});
  writer.Set(prefix + "attention.head_count_kv", static_cast<uint32_t>(config.kv_heads));
  writer.Set(absl::StrCat(prefix, "attention.", config.architecture->epsilon_key), 1e-5f);
  if (config.architecture->positions == Positions::kRopeNorm) {
    writer.Set(prefix + "rope.freq_base", 10000.0f).Set(prefix + "rope.scaling.factor", 2.0f);
  }
  AddVocabulary(writer, config.vocabulary);
  std::mt19937 random(1);
  for (const TensorSpec& spec : ModelTensors(config)) {
    if (spec.need == Need::kOptional && architecture == "llama") continue;
    int64_t elems = 1;
    for (int64_t dim : spec.dims) elems *= dim;
    const DType dtype = spec.role == TensorRole::kMatrix ? type : DType::kF32;
    std::vector<uint8_t> bytes;
    if (blocks && dtype == type) {
      bytes = RandomBlocks(type, elems, 0.5, random);
    } else {
      const std::vector<double> values(static_cast<size_t>(elems), 0.5);
      bytes.resize(static_cast<size_t>(ElemBytes(dtype, elems)));
      Encode(dtype, values, bytes.data());
    }
    uint32_t number = 0;
    while (FindGgmlType(number) == nullptr || SupportedType(*FindGgmlType(number)) != dtype) ++number;
    writer.RawTensor(spec.name, spec.dims, number, {bytes.begin(), bytes.end()});
  }
  return writer.Build();
}

// A value of every type, arrays among them.
std::string KeysFile() {
  GgufWriter writer;
  writer.Set("u8", uint8_t{1}).Set("i8", int8_t{-1}).Set("u16", uint16_t{1}).Set("i16", int16_t{-1});
  writer.Set("u32", uint32_t{1}).Set("i32", int32_t{-1}).Set("u64", uint64_t{1}).Set("i64", int64_t{-1});
  writer.Set("f32", 1.0f).Set("f64", 1.0).Set("bool", true).Set("string", "text");
  writer.Set("strings", std::vector<std::string>{"a", "b"}).Set("floats", std::vector<float>{1, 2});
  writer.Set("integers", std::vector<int32_t>{1, -2}).Set("bytes", std::vector<uint8_t>{1, 2});
  writer.set_alignment(64);
  writer.Tensor("t", {2, 3}, GgufWriter::kF32, std::vector<float>(6, 1));
  writer.Tensor("h", {4}, GgufWriter::kF16, std::vector<float>(4, 1));
  return writer.Build();
}

}  // namespace

std::vector<Seed> GgufSeeds() {
  std::vector<Seed> seeds = {{"keys", KeysFile()}};
  GgufWriter vocabulary;
  vocabulary.Set("general.architecture", "llama");
  AddVocabulary(vocabulary, 8);
  seeds.push_back({"vocabulary", vocabulary.Build()});
  const auto add = [&seeds](absl::string_view architecture, DType type, bool fused, uint32_t version) {
    seeds.push_back({absl::StrCat(architecture, "_", Info(type).name, fused ? "_fused" : "", "_v", version),
                     ModelFile(architecture, type, fused, version)});
  };
  add("llama", DType::kF32, false, 3);
  add("llama", DType::kF16, true, 2);
  add("llama", DType::kQ8_0, false, 3);
  add("llama", DType::kQ4_1, false, 3);
  add("gpt2", DType::kF32, true, 3);
  add("gpt2", DType::kBF16, true, 3);
  add("gpt2", DType::kQ5_0, true, 3);
  return seeds;
}

}  // namespace sinter::fuzz
