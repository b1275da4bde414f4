// What models are accepted and refused, where and with what words; the form of the graph.
// That the graph computes what it should is in whole_model_test.cc.
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "frontend/model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "ir/text.h"
#include "tests/tiny_models.h"

namespace sinter {
namespace {

using testing::HasSubstr;

absl::StatusOr<Model> Open(const TinyModel& tiny, const ImportOptions& options = {}) {
  const TestFile file(tiny.File(), "model.gguf");  // a mapping outlives the name
  return OpenModel(file.path(), options);
}

// ---- Refusals, each beside a twin that is accepted -----------------------------------------------------------------

struct Refusal {
  const char* name;
  TinyOptions options;
  std::function<void(TinyModel&)> refused, accepted;
  absl::StatusCode code;
  std::vector<std::string> message;  // substrings
};

constexpr absl::StatusCode kMalformed = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kUnsupported = absl::StatusCode::kUnimplemented;

using M = TinyModel;
void Nothing(M&) {}
std::function<void(M&)> Key(const std::string& key, const M::Value& value) {
  return [=](M& m) { m.Set(key, value); };
}
std::function<void(M&)> Without(const std::string& name) {
  return [=](M& m) { m.Erase(name); };
}
std::function<void(M&)> With(const std::string& tensor, const std::vector<int64_t>& dims) {
  return [=](M& m) {
    int64_t elems = 1;
    for (int64_t dim : dims) elems *= dim;
    m.Add({tensor, dims, GgufWriter::kF32, std::vector<float>(static_cast<size_t>(elems), 1)});
  };
}
std::function<void(M&)> Reshaped(const std::string& tensor, const std::vector<int64_t>& dims) {
  return [=](M& m) { m.tensor(tensor).dims = dims; };
}

std::vector<Refusal> Refusals() {
  const auto u32 = [](uint32_t v) { return M::Value(v); };
  const auto f32 = [](float v) { return M::Value(v); };
  const TinyOptions llama, gpt2{.architecture = "gpt2"}, factors{.rope_factors = true};
  const std::string heads = "llama.attention.head_count", kv_heads = "llama.attention.head_count_kv";
  return {
      // Counts that contradict each other.
      {"HeadsDivideWidth",
       llama,
       Key(heads, u32(6)),
       Nothing,
       kMalformed,
       {"\"llama.attention.head_count\"", "the width, 64", "found 6"}},
      {"KvHeadsDivideHeads",
       llama,
       Key(kv_heads, u32(3)),
       Nothing,
       kMalformed,
       {"\"llama.attention.head_count_kv\"", "divisor of the 4 heads", "found 3"}},
      {"NoHeads", llama, Key(heads, u32(0)), Nothing, kMalformed, {heads, "0"}},
      {"NoLayers", llama, Key("llama.block_count", u32(0)), Nothing, kMalformed, {"llama.block_count", "0"}},
      {"LyingLayers",
       llama,
       Key("llama.block_count", u32(4000000000)),
       Nothing,
       kMalformed,
       {"llama.block_count", "4000000000: the limit \"layers\" is 4096"}},
      {"LyingWidth",
       llama,
       Key("llama.embedding_length", u32(4294967295)),
       Nothing,
       kMalformed,
       {"llama.embedding_length", "4294967295"}},
      {"WideHeads",
       llama,
       Key("llama.attention.key_length", u32(1 << 23)),
       Nothing,
       kMalformed,
       {heads, "4 heads of width 8388608 make 33554432 columns: the limit \"model dim\" is 16777216"}},
      {"KeyMissing",
       llama,
       Without("llama.feed_forward_length"),
       Nothing,
       kMalformed,
       {"llama.feed_forward_length", "missing"}},
      {"KeyOfAnotherType",
       llama,
       Key("llama.context_length", "long"),
       Nothing,
       kMalformed,
       {"llama.context_length", "string"}},
      {"CountsByLayer",
       llama,
       Key(kv_heads, std::vector<uint32_t>{2, 1}),
       Key(kv_heads, std::vector<uint32_t>{2, 2}),
       kUnsupported,
       {kv_heads, "differs from layer to layer (2, 1)"}},
      {"NoCountsByLayer", llama, Key(kv_heads, std::vector<uint32_t>{}), Nothing, kMalformed, {kv_heads, "empty"}},
      {"ZeroByLayer", llama, Key(kv_heads, std::vector<uint32_t>{0, 0}), Nothing, kMalformed, {kv_heads, "found 0"}},
      {"Architecture", llama, Without("general.architecture"), Nothing, kMalformed, {"general.architecture"}},
      {"Epsilon",
       llama,
       Key("llama.attention.layer_norm_rms_epsilon", f32(-1)),
       Key("llama.attention.layer_norm_rms_epsilon", f32(0)),
       kMalformed,
       {"layer_norm_rms_epsilon", "-1"}},
      {"EpsilonNan",
       gpt2,
       Key("gpt2.attention.layer_norm_epsilon", f32(std::numeric_limits<float>::quiet_NaN())),
       Nothing,
       kMalformed,
       {"gpt2.attention.layer_norm_epsilon", "nan"}},
      {"VocabularySize",
       llama,
       Key("llama.vocab_size", u32(289)),
       Without("llama.vocab_size"),
       kMalformed,
       {"llama.vocab_size", "288 rows", "289"}},
      {"Tokens",
       llama,
       [](M& m) { AddTinyVocabulary(m, 287); },
       Nothing,
       kMalformed,
       {"tokenizer.ggml.tokens", "288 rows", "287 tokens"}},
      // Rope.
      {"RopeDimsOdd",
       llama,
       Key("llama.rope.dimension_count", u32(15)),
       Key("llama.rope.dimension_count", u32(16)),
       kMalformed,
       {"llama.rope.dimension_count", "16", "15"}},
      {"RopeDimsMany",
       llama,
       Key("llama.rope.dimension_count", u32(18)),
       Without("llama.rope.dimension_count"),
       kMalformed,
       {"llama.rope.dimension_count", "16", "18"}},
      {"RopeDimsFew",
       llama,
       Key("llama.rope.dimension_count", u32(8)),
       Nothing,
       kUnsupported,
       {"llama.rope.dimension_count 8 of 16"}},
      {"RopeBase",
       llama,
       Key("llama.rope.freq_base", f32(0)),
       Key("llama.rope.freq_base", f32(5e5f)),
       kMalformed,
       {"llama.rope.freq_base", "positive", "0"}},
      {"RopeScaling",
       llama,
       Key("llama.rope.scaling.type", "yarn"),
       Key("llama.rope.scaling.type", "none"),
       kUnsupported,
       {"llama.rope.scaling.type \"yarn\"", "none, linear"}},
      {"RopeFactor",
       llama,
       Key("llama.rope.scaling.factor", f32(-2)),
       Key("llama.rope.scaling.factor", f32(0)),
       kMalformed,
       {"llama.rope.scaling.factor", "-2"}},
      {"RopeFactorOld",
       llama,
       Key("llama.rope.scale_linear", f32(std::numeric_limits<float>::infinity())),
       Key("llama.rope.scale_linear", f32(2)),
       kMalformed,
       {"llama.rope.scale_linear", "inf"}},
      {"RopeAttnFactor",
       llama,
       Key("llama.rope.scaling.attn_factor", f32(1.2f)),
       Key("llama.rope.scaling.attn_factor", f32(1)),
       kUnsupported,
       {"llama.rope.scaling.attn_factor 1.2"}},
      {"RopeFreqs",
       factors,
       Reshaped("rope_freqs.weight", {2, 4}),
       Nothing,
       kMalformed,
       {"rope_freqs.weight: expected [8]; found [2,4]"}},
      {"OddHeads",
       {.head_width = 16},
       [](M& m) {
         m.Set("llama.attention.key_length", uint32_t{15});
         m.Set("llama.attention.value_length", uint32_t{15});
       },
       Nothing,
       kMalformed,
       {"even width", "15"}},
      {"ValueWidth",
       {.head_width = 24},
       Key("llama.attention.value_length", u32(16)),
       Nothing,
       kUnsupported,
       {"llama.attention.value_length 16", "llama.attention.key_length 24"}},
      // Things that other models do.
      {"Experts",
       llama,
       Key("llama.expert_count", u32(8)),
       Key("llama.expert_count", u32(0)),
       kUnsupported,
       {"llama.expert_count 8: mixture of experts"}},
      {"Window",
       llama,
       Key("llama.attention.sliding_window", u32(63)),
       Key("llama.attention.sliding_window", u32(64)),
       kUnsupported,
       {"llama.attention.sliding_window 63", "64 positions"}},
      {"SoftCap",
       llama,
       Key("llama.final_logit_softcapping", f32(30)),
       Key("llama.final_logit_softcapping", f32(0)),
       kUnsupported,
       {"final_logit_softcapping 30"}},
      {"NotCausal",
       gpt2,
       Key("gpt2.attention.causal", false),
       Key("gpt2.attention.causal", true),
       kUnsupported,
       {"gpt2.attention.causal 0"}},
      {"ScaleByLayer",
       llama,
       Key("llama.attention.scale", std::vector<float>{1, 2}),
       Key("llama.attention.scale", f32(0)),
       kUnsupported,
       {"llama.attention.scale by layer"}},
      {"ScaleAsText",
       llama,
       Key("llama.attention.scale", "big"),
       Nothing,
       kMalformed,
       {"llama.attention.scale", "string"}},
      {"Split", llama, Key("split.count", u32(2)), Key("split.count", u32(1)), kUnsupported, {"split.count 2"}},
      {"QueryNorms",
       llama,
       With("blk.1.attn_q_norm.weight", {16}),
       With("blk.1.attn_rot_embd.weight", {8}),
       kUnsupported,
       {"blk.1.attn_q_norm.weight: no tensor of the llama architecture"}},
      {"RopeFreqsOfGpt2", gpt2, With("rope_freqs.weight", {8}), Nothing, kUnsupported, {"rope_freqs.weight"}},
      {"OtherArchitecture",
       llama,
       Key("general.architecture", "mamba\x01"),
       Nothing,
       kUnsupported,
       {"architecture \"mamba\\x01\" (supported: llama, gpt2)"}},
      {"KeysOfOtherArchitectures",
       llama,
       [](M& m) {
         m.Set("general.architecture", "a\nb");
         m.Set("a\nb.expert_count", uint32_t{8});
         m.Set("a\nb.logit_scale", std::vector<float>{1, 2});
       },
       Nothing,
       kUnsupported,
       {"\n  a\\nb.expert_count 8: mixture", "\n  a\\nb.logit_scale by layer: "}},
      // Tensors.
      {"TensorMissing",
       llama,
       Without("blk.1.ffn_up.weight"),
       Nothing,
       kMalformed,
       {"blk.1.ffn_up.weight: expected [96,64]; found none"}},
      {"TensorTransposed",
       llama,
       Reshaped("blk.0.ffn_down.weight", {96, 64}),
       Nothing,
       kMalformed,
       {"blk.0.ffn_down.weight: expected [64,96]; found [96,64]"}},
      {"BiasShape",
       {.biases = true},
       Reshaped("blk.1.attn_q.bias", {1, 64}),
       Without("blk.1.attn_q.bias"),
       kMalformed,
       {"blk.1.attn_q.bias: expected [64]; found [1,64]"}},
      {"BiasMissing",
       gpt2,
       Without("blk.0.attn_qkv.bias"),
       Nothing,
       kMalformed,
       {"blk.0.attn_qkv.bias: expected [192]"}},
      {"TableMissing", llama, Without("token_embd.weight"), Nothing, kMalformed, {"token_embd.weight", "found none"}},
      {"TableFlat",
       llama,
       Reshaped("token_embd.weight", {288 * 64}),
       Nothing,
       kMalformed,
       {"token_embd.weight", "[18432]"}},
      {"PositionsMissing",
       gpt2,
       Without("position_embd.weight"),
       Nothing,
       kMalformed,
       {"position_embd.weight: expected [64,64]"}},
      {"NoTensors", llama, [](M& m) { m.tensors().clear(); }, Nothing, kUnsupported, {"vocabulary-only"}},
  };
}

class Refuses : public testing::TestWithParam<Refusal> {};

TEST_P(Refuses, WithTheRightWordsAndAcceptsItsTwin) {
  const Refusal& r = GetParam();
  TinyModel bad = MakeTinyModel(r.options), good = MakeTinyModel(r.options);
  r.refused(bad);
  r.accepted(good);
  const absl::Status status = Open(bad).status();
  EXPECT_EQ(status.code(), r.code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.gguf: "));
  for (const std::string& part : r.message) EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  const absl::Status twin = Open(good).status();
  EXPECT_TRUE(twin.ok()) << twin;
}
INSTANTIATE_TEST_SUITE_P(Model, Refuses, testing::ValuesIn(Refusals()),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(Refusals, ListEverythingThatIsNotSupportedAtOnce) {
  TinyModel m = MakeTinyModel({});
  m.Set("llama.expert_count", uint32_t{4});
  m.Set("llama.rope.scaling.type", "longrope");
  m.Set("llama.attention.sliding_window", uint32_t{8});
  m.Erase("blk.0.ffn_up.weight");
  m.Erase("blk.1.ffn_up.weight");
  With("blk.0.ffn_up_exps.weight", {4, 96, 64})(m);
  With("blk.1.ffn_up_exps.weight", {4, 96, 64})(m);
  const absl::Status status = Open(m).status();
  EXPECT_EQ(status.code(), kUnsupported);
  for (const char* part : {"expert_count 4", "\"longrope\"", "sliding_window 8",
                           "blk.*.ffn_up_exps.weight (layers 0-1): no tensor of the llama architecture"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }
}

TEST(Refusals, ListEveryUnsupportedTensorTypeOnce) {
  GgufWriter w;
  w.Set("general.architecture", "rwkv");
  constexpr uint32_t kIq4Nl = 20;
  w.RawTensor("a", {1, 256}, GgufWriter::kQ3_K, std::string(110, 0))
      .RawTensor("b", {1, 32}, kIq4Nl, std::string(18, 0));
  w.RawTensor("c", {1, 256}, GgufWriter::kQ3_K, std::string(110, 0)).Tensor("d", {1}, GgufWriter::kF32, {1});
  w.RawTensor("e", {1, 32}, GgufWriter::kQ8_0, std::string(34, 0));
  const TestFile file(w.Build(), "model.gguf");
  const absl::Status status = OpenModel(file.path()).status();
  EXPECT_EQ(status.code(), kUnsupported);
  for (const char* part : {"architecture \"rwkv\"", "tensor type Q3_K (a and 1 more)", "tensor type IQ4_NL (b)"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }
  EXPECT_FALSE(absl::StrContains(status.message(), "Q8_0"));
}

TEST(Refusals, VectorsInBlocks) {
  TinyModel m = MakeTinyModel({.type = GgufWriter::kQ8_0, .biases = true, .rope_factors = true, .head_width = 64});
  ASSERT_TRUE(Open(m).ok()) << Open(m).status();
  for (const char* name :
       {"blk.0.attn_norm.weight", "blk.1.attn_norm.weight", "blk.1.attn_k.bias", "rope_freqs.weight"}) {
    TinyTensor& tensor = m.tensor(name);
    tensor.type = GgufWriter::kQ8_0;
    tensor.blocks = std::string(tensor.values.size() / 32 * 34, 0);
  }
  const absl::Status status = Open(m).status();
  EXPECT_EQ(status.code(), kUnsupported);
  const std::string said = ": a vector of Q8_0; expected one of F32, F16 or BF16";
  for (const char* what : {"blk.*.attn_norm.weight (layers 0-1)", "blk.1.attn_k.bias", "rope_freqs.weight"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(what + said));
  }
}

// Files and the IR mean the same blocks by the same name.
TEST(SupportedTypes, HaveTheBlocksOfTheFile) {
  std::vector<std::string> supported;
  for (uint32_t id = 0; id < 64; ++id) {
    const GgmlType* const type = FindGgmlType(id);
    const auto dtype = type == nullptr ? std::nullopt : SupportedType(*type);
    if (!dtype) continue;
    supported.emplace_back(type->name);
    EXPECT_EQ(Info(*dtype).block_elems, type->block_elems) << type->name;
    EXPECT_EQ(Info(*dtype).block_bytes, type->block_bytes) << type->name;
  }
  EXPECT_THAT(supported, testing::UnorderedElementsAre("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1",
                                                       "Q4_K", "Q5_K", "Q6_K"));
}

TEST(Refusals, ListEveryMissingTensor) {
  TinyModel m = MakeTinyModel({});
  m.Set("llama.block_count", uint32_t{5});
  m.Erase("output_norm.weight");
  m.tensor("blk.0.attn_k.weight").dims = {64, 32};
  const absl::Status status = Open(m).status();
  EXPECT_EQ(status.code(), kMalformed);
  for (const char* part : {"output_norm.weight: expected [64]; found none", "blk.*.attn_norm.weight (layers 2-4)",
                           "blk.0.attn_k.weight: expected [32,64]; found [64,32]"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }
  EXPECT_FALSE(absl::StrContains(status.message(), "bias")) << "optional tensors are not missing";
}

// ---- Files and options ---------------------------------------------------------------------------------------------

TEST(OpenModel, SaysWhatAFileIs) {
  EXPECT_EQ(OpenModel("/nonexistent/model.gguf").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(OpenModel("/").status().code(), kMalformed);
  const TestFile text("hello", "model.txt"), safetensors("{}", "model.safetensors"), empty("", "empty.gguf");
  EXPECT_EQ(OpenModel(text.path()).status().code(), kMalformed);
  EXPECT_THAT(std::string(OpenModel(text.path()).status().message()), HasSubstr("expected a GGUF file"));
  EXPECT_EQ(OpenModel(safetensors.path()).status().code(), kUnsupported);
  EXPECT_THAT(std::string(OpenModel(safetensors.path()).status().message()), HasSubstr("a safetensors file"));
  EXPECT_EQ(OpenModel(empty.path()).status().code(), kMalformed);
  const TestFile misnamed(MakeTinyModel({}).File(), "model.bin");
  EXPECT_TRUE(OpenModel(misnamed.path()).ok()) << "the content decides";
}

TEST(OpenModel, ChoosesContextChunkAndCache) {
  const TinyModel tiny = MakeTinyModel({}), half = MakeTinyModel({.type = GgufWriter::kF16});
  const auto model = Open(tiny);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->context, 64);
  EXPECT_EQ(model->chunk, 64) << "never more than the context";
  EXPECT_EQ(model->kv, DType::kF32);
  EXPECT_EQ(Open(half)->kv, DType::kF16);
  EXPECT_EQ(Open(MakeTinyModel({.type = GgufWriter::kQ4_0}))->kv, DType::kF16);
  EXPECT_EQ(Open(tiny, {.kv = DType::kF16})->kv, DType::kF16);
  EXPECT_EQ(Open(tiny, {.context = 8, .chunk = 3})->chunk, 3);
  const absl::Status narrow = Open(tiny, {.kv = DType::kQ8_0}).status();  // heads of 16
  EXPECT_EQ(narrow.code(), kUnsupported);
  EXPECT_THAT(std::string(narrow.message()),
              testing::HasSubstr("--kv=q8_0 needs heads whose width is a multiple of 32"));
  const auto quantized = Open(MakeTinyModel({.head_width = 32}), {.kv = DType::kQ8_0});
  ASSERT_TRUE(quantized.ok()) << quantized.status();
  EXPECT_EQ(quantized->kv, DType::kQ8_0);
  EXPECT_EQ(Open(tiny, {.kv = DType::kQ4_0}).status().code(), kUnsupported);
  EXPECT_EQ(Open(tiny, {.context = 65})->context, 65) << "rope goes on past what was trained";
  for (int64_t context : {int64_t{-1}, kMostContext + 1, std::numeric_limits<int64_t>::max()}) {
    const absl::Status status = Open(tiny, {.context = context}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange) << context;
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("found ", context)));
  }
  EXPECT_EQ(Open(tiny, {.chunk = 0}).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(OpenModel("preset:smallmind", {.context = 129}).status().code(), absl::StatusCode::kOutOfRange)
      << "a table of positions ends";
  EXPECT_EQ(OpenModel("preset:llama-3.2-1b")->context, 4096);
}

TEST(OpenModel, AWindowEndsTheContext) {
  TinyModel m = MakeTinyModel({});
  m.Set("llama.attention.sliding_window", uint32_t{100});
  EXPECT_EQ(Open(m)->context, 64);
  EXPECT_EQ(Open(m, {.context = 100})->context, 100);
  const absl::Status status = Open(m, {.context = 101}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(std::string(status.message()), HasSubstr("sliding window of 100"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--ctx=100 or less"));
  m.Set("llama.attention.sliding_window", uint32_t{0});
  EXPECT_EQ(Open(m, {.context = 101})->context, 101) << "0 is none";
  m.Set("llama.attention.sliding_window", int32_t{-1});
  EXPECT_EQ(Open(m).status().code(), kMalformed);
}

TEST(OpenModel, NamesTheModelAndReadsItsVocabulary) {
  TinyModel tiny = MakeTinyModel({});
  EXPECT_EQ(Open(tiny)->name, "tiny-llama");
  EXPECT_EQ(Open(tiny)->module->name(), "tiny_llama");
  ASSERT_TRUE(Open(tiny)->tokenizer.has_value());
  EXPECT_EQ(Open(tiny)->tokenizer->tokens.size(), 288u);
  tiny.Set("general.name", std::string("\x1b[31m") + std::string(100, 'x'));
  EXPECT_EQ(Open(tiny)->name, "\\x1b[31m" + std::string(64 - 5, 'x') + "...");
  tiny.Set("general.name", std::string("\u202egnp.exe"));
  EXPECT_EQ(Open(tiny)->name, "\\u{202e}gnp.exe");
  tiny.Erase("general.name");
  EXPECT_THAT(Open(tiny)->name, HasSubstr("model.gguf"));
  tiny.Set("tokenizer.ggml.model", "none");
  EXPECT_FALSE(Open(tiny)->tokenizer.has_value());
}

TEST(ReadModelConfig, KnowsFusedAndTiedModels) {
  const ModelConfig plain = Open(MakeTinyModel({}))->config;
  EXPECT_EQ(plain.kv_heads, 2);
  EXPECT_EQ(plain.head_width, 16);
  EXPECT_EQ(plain.vocabulary, 288);
  EXPECT_FALSE(plain.fused_qkv || plain.tied_output || plain.rope_factors);
  EXPECT_EQ(plain.rope_scale, 1);
  const ModelConfig other =
      Open(MakeTinyModel({.tied = true, .fused = true, .rope_factors = true, .rope_scaling = 4}))->config;
  EXPECT_TRUE(other.fused_qkv && other.tied_output && other.rope_factors);
  EXPECT_EQ(other.rope_scale, 0.25);
  EXPECT_EQ(Open(MakeTinyModel({.head_width = 24}))->config.q_width(), 96);
}

// ---- The graph -----------------------------------------------------------------------------------------------------

TEST(Graph, IsPlainAndRoundTripsAsText) {
  for (const TinyCase& c : AllTinyCases()) {
    SCOPED_TRACE(c.name);
    const auto model = Open(MakeTinyModel(c.options), {.context = 32, .chunk = 8});
    ASSERT_TRUE(model.ok()) << model.status();
    const std::string text = Print(*model->module);
    const auto parsed = Parse(text, "model.sir");
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(Print(**parsed), text);
    for (const char* line : {"dim T in 1..8\n", "dim P in 0..31\n", "dim L in 1..8\n", "bound P+T <= 32\n"}) {
      EXPECT_THAT(text, HasSubstr(line));
    }
    ASSERT_EQ(model->module->entries().size(), 1u);
    const Graph& main = model->module->graph(model->module->entries()[0]);
    EXPECT_EQ(main.name(), "main");
    for (OpId id : main.order()) {
      const OpKind kind = main.op(id).kind();
      EXPECT_FALSE(main.op(id).loc.empty()) << PrintOp(main, id);
      for (OpKind fused :
           {OpKind::kGemm, OpKind::kSoftmax, OpKind::kLayerNorm, OpKind::kRmsNorm, OpKind::kGelu, OpKind::kSwiglu}) {
        EXPECT_NE(kind, fused) << PrintOp(main, id);
      }
    }
  }
}

TEST(Graph, DequantizesWeightsInBlocks) {
  const auto model = Open(MakeTinyModel({.type = GgufWriter::kQ4_K, .mixed = true, .tied = true}), {.context = 32});
  ASSERT_TRUE(model.ok()) << model.status();
  std::string text = Print(*model->module);
  while (absl::StrReplaceAll({{"  :", " :"}}, &text) > 0) {
  }
  for (const char* part : {
           "graph @dot_256(%a: f32[256], %b: f32[256])",
           "%embedding = take %token_embd.weight, %ids : q6_k[T,256]",
           "= dequantize %embedding : f32[T,256]",
           "%blk.0.attn_k.weight = weight \"blk.0.attn_k.weight\" : q4_k[128,256]",
           "= dequantize %blk.0.attn_k.weight : f32[128,256]",
           "weight \"blk.0.attn_v.weight\" : q6_k[128,256]",
           "%l0.k_rows = loop @dot_256(",
       }) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(Graph, KeepsTheTypesOfTheFile) {
  const auto model = Open(MakeTinyModel({.type = GgufWriter::kBF16}), {.context = 32});
  ASSERT_TRUE(model.ok()) << model.status();
  const std::string text = Print(*model->module);
  for (const char* part : {
           "graph @dot_bf16_64(%a: f32[64], %b: bf16[64])",
           "graph @dot_f16_context(%a: f32[P+T], %b: f16[P+T])",
           "graph @main(%ids: i32[T], %pos: i32[T], %rows: i32[L], %kv0: state<f16[2,2,32,16]>",
           "weight \"blk.0.attn_k.weight\" : bf16[32,64]",
           "loop @dot_f16_16(%l0.q_turned, %l0.K) {over=\"g q t s\", slices=[\"g q t .\", \"g s .\"]} : f32[2,2,T,P+T]",
           "loop @dot_f16_context(%l0.probabilities, %l0.V) {over=\"g q t d\", slices=[\"g q t .\", \"g . d\"]}",
       }) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

}  // namespace
}  // namespace sinter
