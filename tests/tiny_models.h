// Tiny seeded models, small enough for the evaluator and shaped like real ones, as GGUF files.
//
//   TinyModel m = MakeTinyModel({.architecture = "llama", .type = GgufWriter::kF16, .fused = true});
//   m.Set("llama.attention.head_count", uint32_t{3});   // edits make the malformed and unsupported twins
//   TestFile file(m.File(), "heads.gguf");
//
// Width 64, 2 layers, 4 heads (llama: over 2 key/value heads), ffn 96, vocabulary 288, context 64; where blocks have
// 256 elements, width and ffn 256 and heads of 64. Weights are uniform or, of quantized types, random blocks
// (quant_blocks.h), from std::mt19937, the same everywhere; `values` hold what the file holds, after rounding to its
// type. The output product is scaled so that the largest logit stands out by far more than rounding. The vocabulary is
// SentencePiece-style: three special tokens, 256 bytes, and the first few strings over a space and the letters; other
// readers of GGUF accept the files.
#pragma once

#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "gtest/gtest.h"
#include "tests/gguf_writer.h"
#include "tests/quant_blocks.h"

namespace sinter {

struct TinyOptions {
  const char* architecture = "llama";        // or gpt2
  GgufWriter::Type type = GgufWriter::kF32;  // of the matrices
  bool mixed = false;                        // attn_v, ffn_down and the output (or what serves for it) in Q6_K
  bool tied = false;                         // no output.weight
  bool fused = false;                        // attn_qkv; gpt2 always
  bool biases = false;                       // llama: of every linear layer; gpt2 always
  bool rope_factors = false;                 // rope_freqs.weight
  float rope_scaling = 0;                    // linear factor; 0: none stated
  uint32_t head_width = 16;                  // stated as key_length and value_length where it is not 16
  uint32_t seed = 1;
};

struct TinyTensor {
  std::string name;
  std::vector<int64_t> dims;
  GgufWriter::Type type = GgufWriter::kF32;
  std::vector<float> values;
  std::string blocks;  // the bytes, where the type is quantized
};

class TinyModel {
 public:
  using Value = std::variant<uint32_t, int32_t, uint64_t, int64_t, float, double, bool, std::string,
                             std::vector<std::string>, std::vector<float>, std::vector<int32_t>, std::vector<uint32_t>>;

  // Adds a key or gives it another value.
  void Set(const std::string& key, Value value) {
    for (auto& [name, old] : keys_) {
      if (name == key) return void(old = std::move(value));
    }
    keys_.emplace_back(key, std::move(value));
  }
  // Removes a key or a tensor.
  void Erase(const std::string& name) {
    const size_t before = keys_.size() + tensors_.size();
    std::erase_if(keys_, [&](const auto& key) { return key.first == name; });
    std::erase_if(tensors_, [&](const TinyTensor& t) { return t.name == name; });
    EXPECT_EQ(keys_.size() + tensors_.size() + 1, before) << "no " << name;
  }
  void Add(TinyTensor tensor) { tensors_.push_back(std::move(tensor)); }
  TinyTensor& tensor(const std::string& name) {
    for (TinyTensor& t : tensors_) {
      if (t.name == name) return t;
    }
    ADD_FAILURE() << "no tensor " << name;
    return tensors_.at(0);
  }
  const TinyTensor* Find(const std::string& name) const {
    for (const TinyTensor& t : tensors_) {
      if (t.name == name) return &t;
    }
    return nullptr;
  }
  const Value* FindKey(const std::string& key) const {
    for (const auto& [name, value] : keys_) {
      if (name == key) return &value;
    }
    return nullptr;
  }
  std::vector<TinyTensor>& tensors() { return tensors_; }

  std::string File() const {
    GgufWriter writer;
    for (const auto& [name, value] : keys_) {
      std::visit([&, &key = name](const auto& v) { writer.Set(key, v); }, value);
    }
    for (const TinyTensor& t : tensors_) {
      if (t.blocks.empty()) {
        writer.Tensor(t.name, t.dims, t.type, t.values);
      } else {
        writer.RawTensor(t.name, t.dims, t.type, t.blocks);
      }
    }
    return writer.Build();
  }

 private:
  std::vector<std::pair<std::string, Value>> keys_;
  std::vector<TinyTensor> tensors_;
};

// The float that 16 bits of this type hold.
inline float FromBits(GgufWriter::Type type, uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  if (type == GgufWriter::kBF16) {
    std::memcpy(&value, &wide, sizeof value);
    return value;
  }
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                        : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  return bits & 0x8000 ? -value : value;
}

inline float Rounded(GgufWriter::Type type, float value) {
  if (type == GgufWriter::kF16) return FromBits(type, GgufWriter::HalfBits(value));
  if (type == GgufWriter::kBF16) return FromBits(type, GgufWriter::Bfloat16Bits(value));
  return value;
}

inline void AddTinyVocabulary(TinyModel& model, size_t size) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<float> scores(3, 0);
  std::vector<int32_t> types = {2, 3, 3};
  for (int i = 0; i < 256; ++i) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", i);
    tokens.emplace_back(text);
    scores.push_back(0);
    types.push_back(6);
  }
  std::vector<std::string> letters = {"\u2581"};
  for (char c = 'a'; c <= 'z'; ++c) letters.emplace_back(1, c);
  std::vector<std::string> words = letters;
  for (const std::string& a : letters) {
    for (const std::string& b : letters) words.push_back(a + b);
  }
  for (size_t i = 0; tokens.size() < size; ++i) {
    tokens.push_back(words[i]);
    scores.push_back(-static_cast<float>(i));
    types.push_back(1);
  }
  model.Set("tokenizer.ggml.model", "llama");
  model.Set("tokenizer.ggml.tokens", tokens);
  model.Set("tokenizer.ggml.scores", scores);
  model.Set("tokenizer.ggml.token_type", types);
  model.Set("tokenizer.ggml.bos_token_id", uint32_t{1});
  model.Set("tokenizer.ggml.eos_token_id", uint32_t{2});
  model.Set("tokenizer.ggml.unknown_token_id", uint32_t{0});
}

inline TinyModel MakeTinyModel(const TinyOptions& options) {
  constexpr int64_t kLayers = 2, kHeads = 4, kVocabulary = 288, kContext = 64;
  const BlockScales* const blocks = FindBlocks(options.type);
  const bool large = options.mixed || (blocks != nullptr && Info(blocks->dtype).block_elems == 256);
  const int64_t width = large ? 256 : 64, ffn = large ? 256 : 96;
  const uint32_t head_width = large ? 64 : options.head_width;
  const std::string architecture = options.architecture;
  const bool gpt2 = architecture == "gpt2", biases = gpt2 || options.biases;
  const int64_t kv_heads = gpt2 ? 4 : 2, q_width = kHeads * head_width, kv_width = kv_heads * head_width;
  const std::string prefix = architecture + ".";
  TinyModel m;
  m.Set("general.architecture", architecture);
  m.Set("general.name", "tiny-" + architecture);
  m.Set(prefix + "context_length", uint32_t{kContext});
  m.Set(prefix + "embedding_length", static_cast<uint32_t>(width));
  m.Set(prefix + "block_count", uint32_t{kLayers});
  m.Set(prefix + "feed_forward_length", static_cast<uint32_t>(ffn));
  m.Set(prefix + "attention.head_count", uint32_t{kHeads});
  m.Set(prefix + "attention.head_count_kv", static_cast<uint32_t>(kv_heads));
  if (head_width * kHeads != width) {
    m.Set(prefix + "attention.key_length", head_width);
    m.Set(prefix + "attention.value_length", head_width);
  }
  if (gpt2) {
    m.Set(prefix + "attention.layer_norm_epsilon", 1e-5f);
  } else {
    m.Set(prefix + "attention.layer_norm_rms_epsilon", 1e-5f);
    m.Set(prefix + "rope.dimension_count", head_width);
    m.Set(prefix + "rope.freq_base", 10000.0f);
    m.Set(prefix + "vocab_size", uint32_t{kVocabulary});
    if (options.rope_scaling != 0) {
      m.Set(prefix + "rope.scaling.type", "linear");
      m.Set(prefix + "rope.scaling.factor", options.rope_scaling);
    }
  }
  AddTinyVocabulary(m, kVocabulary);

  std::mt19937 random(options.seed);
  const auto add = [&](const std::string& name, std::vector<int64_t> dims, GgufWriter::Type type, double deviation,
                       double mean) {
    int64_t elems = 1;
    for (int64_t dim : dims) elems *= dim;
    TinyTensor t{name, std::move(dims), type, {}, {}};
    if (const BlockScales* const row = FindBlocks(type)) {
      const std::vector<uint8_t> bytes = RandomBlocks(row->dtype, elems, deviation, random);
      t.blocks.assign(bytes.begin(), bytes.end());
      std::vector<double> values(static_cast<size_t>(elems));
      Decode(row->dtype, bytes.data(), absl::MakeSpan(values));
      t.values.assign(values.begin(), values.end());
      return m.Add(std::move(t));
    }
    for (int64_t i = 0; i < elems; ++i) {
      const double uniform = static_cast<double>(random()) / 2147483648.0 - 1;
      t.values.push_back(Rounded(type, static_cast<float>(mean + deviation * std::sqrt(3.0) * uniform)));
    }
    m.Add(std::move(t));
  };
  const GgufWriter::Type better = options.mixed ? GgufWriter::kQ6_K : options.type;
  const auto linear = [&](const std::string& stem, int64_t out, int64_t in, GgufWriter::Type type) {
    add(stem + ".weight", {out, in}, type, 2 / std::sqrt(static_cast<double>(in)), 0);
    if (biases) add(stem + ".bias", {out}, GgufWriter::kF32, 0.2, 0);
  };
  const auto norm = [&](const std::string& stem) {
    add(stem + ".weight", {width}, GgufWriter::kF32, 0.2, 1);
    if (gpt2) add(stem + ".bias", {width}, GgufWriter::kF32, 0.1, 0);
  };
  add("token_embd.weight", {kVocabulary, width}, options.tied ? better : options.type, 0.5, 0);
  if (gpt2) add("position_embd.weight", {kContext, width}, GgufWriter::kF32, 0.5, 0);
  if (options.rope_factors) add("rope_freqs.weight", {head_width / 2}, GgufWriter::kF32, 0.5, 2);
  for (int64_t i = 0; i < kLayers; ++i) {
    const std::string block = "blk." + std::to_string(i) + ".";
    norm(block + "attn_norm");
    if (gpt2 || options.fused) {
      linear(block + "attn_qkv", q_width + 2 * kv_width, width, options.type);
    } else {
      linear(block + "attn_q", q_width, width, options.type);
      linear(block + "attn_k", kv_width, width, options.type);
      linear(block + "attn_v", kv_width, width, better);
    }
    linear(block + "attn_output", width, q_width, options.type);
    norm(block + "ffn_norm");
    if (!gpt2) linear(block + "ffn_gate", ffn, width, options.type);
    linear(block + "ffn_up", ffn, width, options.type);
    linear(block + "ffn_down", width, ffn, better);
  }
  norm("output_norm");
  if (!options.tied) add("output.weight", {kVocabulary, width}, better, 0.5, 0);
  return m;
}

// A file in the test's temporary folder, under a name of this process, for as long as the object lives.
class TestFile {
 public:
  TestFile(const std::string& content, const std::string& name)
      : path_(testing::TempDir() + std::to_string(getpid()) + "_" + name) {
    std::ofstream file(path_, std::ios::binary);
    file << content;
    EXPECT_TRUE(file.good()) << path_;
  }
  TestFile(const TestFile&) = delete;
  TestFile& operator=(const TestFile&) = delete;
  ~TestFile() { unlink(path_.c_str()); }

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// One model of each kind that is supported. Seeds were chosen, before llama.cpp was asked, so that in every step the
// largest logit leads by 0.2 or more: with a lead of 0.001 (the first case with seed 1, at its 13th token) the
// evaluator and llama.cpp, which rounds its cache and parts of its products to f16, disagree.
struct TinyCase {
  const char* name;
  TinyOptions options;
  // What llama.cpp (ggml-cpu, prebuilt for node-llama-cpp 3.22.1) generates greedily after the prompt 1,2,3.
  std::vector<int> llama_cpp_ids;
};
inline std::vector<TinyCase> TinyCases() {
  return {
      {"llama", {.seed = 38}, {7, 35, 123, 117, 130, 133, 265, 92, 247, 171, 123, 265, 89, 46, 6, 211}},
      {"llama_f16",
       {.type = GgufWriter::kF16, .seed = 47},
       {18, 100, 135, 236, 33, 247, 238, 18, 39, 25, 34, 100, 199, 126, 238, 80}},
      {"llama_bf16_tied",
       {.type = GgufWriter::kBF16, .tied = true, .seed = 55},
       {196, 20, 12, 58, 135, 128, 107, 164, 243, 168, 264, 254, 39, 16, 126, 74}},
      {"llama_fused",
       {.fused = true, .seed = 28},
       {171, 102, 252, 184, 258, 102, 133, 149, 38, 257, 9, 260, 153, 187, 236, 198}},
      {"llama_biases",
       {.biases = true, .seed = 42},
       {67, 67, 205, 268, 237, 245, 245, 10, 97, 14, 23, 95, 16, 23, 276, 216}},
      {"llama_scaled_rope",
       {.rope_factors = true, .rope_scaling = 4, .seed = 30},
       {136, 171, 31, 211, 78, 138, 43, 252, 76, 117, 126, 283, 275, 76, 43, 175}},
      {"llama_wide_heads",
       {.tied = true, .head_width = 24, .seed = 31},
       {286, 162, 166, 281, 162, 64, 145, 123, 40, 264, 136, 140, 78, 150, 52, 66}},
      {"gpt2",
       {.architecture = "gpt2", .seed = 57},
       {281, 87, 222, 222, 119, 43, 62, 222, 5, 277, 146, 222, 90, 43, 119, 222}},
      {"gpt2_f16_tied",
       {.architecture = "gpt2", .type = GgufWriter::kF16, .tied = true, .seed = 60},
       {283, 177, 0, 45, 226, 25, 88, 49, 261, 261, 261, 261, 174, 49, 217, 217}},
  };
}
// The same of each format of quantized weights. llama.cpp rounds the rows that meet such weights to 8 bits, so the lead
// is 0.5 or more; for one case (q4_k_mixed_tied with seed 14, at its 8th token) 0.63 was not enough, and it has another
// seed, with 1.08.
inline std::vector<TinyCase> QuantizedCases() {
  return {
      {"q8_0",
       {.type = GgufWriter::kQ8_0, .seed = 1043},
       {138, 156, 189, 156, 48, 129, 135, 247, 272, 255, 156, 156, 156, 156, 47, 58}},
      {"q4_0_tied",
       {.type = GgufWriter::kQ4_0, .tied = true, .seed = 257},
       {205, 12, 253, 253, 253, 271, 85, 104, 76, 90, 157, 69, 160, 26, 26, 26}},
      {"q4_1",
       {.type = GgufWriter::kQ4_1, .seed = 912},
       {148, 93, 43, 41, 33, 32, 46, 199, 158, 259, 246, 158, 58, 184, 224, 246}},
      {"q5_0_gpt2_tied",
       {.architecture = "gpt2", .type = GgufWriter::kQ5_0, .tied = true, .seed = 233},
       {11, 11, 248, 175, 20, 50, 197, 215, 215, 197, 260, 260, 6, 10, 10, 215}},
      {"q5_1",
       {.type = GgufWriter::kQ5_1, .biases = true, .seed = 174},
       {144, 122, 234, 46, 192, 117, 164, 102, 60, 256, 197, 82, 82, 148, 148, 148}},
      {"q4_k_mixed",
       {.type = GgufWriter::kQ4_K, .mixed = true, .seed = 9},
       {238, 80, 163, 93, 154, 94, 231, 247, 216, 10, 154, 189, 22, 92, 136, 191}},
      {"q4_k_mixed_tied",
       {.type = GgufWriter::kQ4_K, .mixed = true, .tied = true, .seed = 36},
       {255, 90, 98, 98, 98, 98, 98, 98, 98, 98, 241, 126, 140, 192, 83, 101}},
      {"q5_k_gpt2",
       {.architecture = "gpt2", .type = GgufWriter::kQ5_K, .seed = 15},
       {144, 144, 64, 119, 108, 195, 64, 144, 255, 87, 112, 108, 140, 235, 235, 270}},
      {"q6_k",
       {.type = GgufWriter::kQ6_K, .seed = 13},
       {201, 201, 201, 130, 93, 174, 108, 38, 75, 54, 158, 28, 68, 197, 242, 97}},
  };
}
inline std::vector<TinyCase> AllTinyCases() {
  std::vector<TinyCase> all = TinyCases();
  for (TinyCase& c : QuantizedCases()) all.push_back(std::move(c));
  return all;
}

}  // namespace sinter
