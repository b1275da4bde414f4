// Hyperparameters of model files that no model has: every count near the powers of two where sums and products wrap,
// numbers that are none, too large or too small; each key beside a value that is accepted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/limits.h"
#include "frontend/model.h"
#include "tests/tiny_models.h"

namespace sinter {
namespace {

using testing::HasSubstr;

absl::Status StatusOf(const TinyModel& tiny) {
  const TestFile file(tiny.File(), "model.gguf");
  return OpenModel(file.path()).status();
}

std::vector<TinyModel::Value> Edges() {
  std::vector<TinyModel::Value> edges = {
      uint32_t{1} << 31, (uint32_t{1} << 31) - 1, ~uint32_t{0}, int32_t{-1}, INT32_MIN, INT64_MIN};
  for (int bits : {31, 32, 62, 63}) {
    for (int64_t d : {-1, 0, 1}) edges.push_back((uint64_t{1} << bits) + static_cast<uint64_t>(d));
  }
  edges.push_back(~uint64_t{0});
  edges.push_back(uint32_t{0});
  edges.push_back(1.5f);
  edges.push_back(true);
  edges.push_back(std::string("1"));
  edges.push_back(std::vector<int32_t>{2, -2});
  return edges;
}

TEST(ModelNumbers, EveryCountAtEveryEdge) {
  const struct {
    const char* key;
    uint32_t accepted;
  } counts[] = {{"llama.block_count", 2},           {"llama.embedding_length", 64},
                {"llama.feed_forward_length", 96},  {"llama.context_length", 64},
                {"llama.attention.head_count", 4},  {"llama.attention.head_count_kv", 2},
                {"llama.attention.key_length", 16}, {"llama.attention.value_length", 16},
                {"llama.rope.dimension_count", 16}, {"llama.vocab_size", 288}};
  for (const auto& count : counts) {
    TinyModel twin = MakeTinyModel({});
    twin.Set(count.key, count.accepted);
    EXPECT_TRUE(StatusOf(twin).ok()) << count.key << ": " << StatusOf(twin);
    for (const TinyModel::Value& edge : Edges()) {
      TinyModel m = MakeTinyModel({});
      m.Set(count.key, edge);
      const absl::Status status = StatusOf(m);
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << count.key << " " << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("key \"", count.key, "\": ")));
      EXPECT_THAT(std::string(status.message()), HasSubstr("model.gguf: at byte "));
    }
  }
}

TEST(ModelNumbers, EverySpecialIdAtEveryEdge) {
  for (const char* key : {"bos_token_id", "eos_token_id", "unknown_token_id", "eot_token_id", "eom_token_id"}) {
    const std::string name = absl::StrCat("tokenizer.ggml.", key);
    TinyModel twin = MakeTinyModel({});
    twin.Set(name, uint32_t{287});
    EXPECT_TRUE(StatusOf(twin).ok()) << name << ": " << StatusOf(twin);
    std::vector<TinyModel::Value> edges = {
        uint32_t{288}, uint64_t{1} << 32, (uint64_t{1} << 32) + 1, ~uint64_t{0}, int32_t{-1}, INT64_MIN, 1.0f};
    for (const TinyModel::Value& edge : edges) {
      TinyModel m = MakeTinyModel({});
      m.Set(name, edge);
      const absl::Status status = StatusOf(m);
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name << " " << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("key \"", name, "\": ")));
    }
  }
}

TEST(ModelNumbers, TokenTypes) {
  TinyModel twin = MakeTinyModel({});
  const auto types = std::get<std::vector<int32_t>>(*twin.FindKey("tokenizer.ggml.token_type"));
  for (int32_t type : {-1, 7, INT32_MIN, INT32_MAX}) {
    std::vector<int32_t> bad = types;
    bad[280] = type;
    TinyModel m = MakeTinyModel({});
    m.Set("tokenizer.ggml.token_type", bad);
    EXPECT_EQ(StatusOf(m).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(StatusOf(m).message()),
                HasSubstr(absl::StrCat("token 280 has type ", type, ", expected 0 to 6")));
  }
  EXPECT_TRUE(StatusOf(twin).ok());
}

// Numbers that are none, and those whose inverse or product with a position is none.
TEST(ModelNumbers, EpsilonsBasesAndScales) {
  using Float = std::numeric_limits<float>;
  using Double = std::numeric_limits<double>;
  const float nan = Float::quiet_NaN(), infinity = Float::infinity();
  const struct {
    const char* key;
    std::vector<TinyModel::Value> accepted, refused;
    absl::StatusCode code;
    const char* says;
  } cases[] = {
      {"llama.attention.layer_norm_rms_epsilon",
       {0.0f, 1.0f, Float::denorm_min(), 1e-6},
       {nan, -nan, infinity, -infinity, -1e-6f, 1.0001f, Double::max(), Double::quiet_NaN(), uint32_t{1}},
       absl::StatusCode::kInvalidArgument,
       "key \"llama.attention.layer_norm_rms_epsilon\": "},
      {"llama.rope.freq_base",
       {1.0f, 5e5f, Float::min(), Float::max(), 1e6},
       {nan, infinity, -infinity, 0.0f, -1.0f, Float::denorm_min(), Double::max(), Double::min(), Double::infinity()},
       absl::StatusCode::kInvalidArgument,
       "key \"llama.rope.freq_base\": expected a positive number of normal size; found "},
      {"llama.rope.scaling.factor",
       {0.0f, 8.0f, 0.25, Float::min()},
       {nan, infinity, -infinity, -2.0f, Float::denorm_min(), Double::max(), Double::denorm_min()},
       absl::StatusCode::kInvalidArgument,
       "key \"llama.rope.scaling.factor\": expected a positive number of normal size; found "},
      {"llama.rope.scale_linear",
       {0.0f, 2.0f},
       {nan, infinity, -1.0f},
       absl::StatusCode::kInvalidArgument,
       "key \"llama.rope.scale_linear\": expected a positive number of normal size; found "},
      {"llama.attention.scale",
       {0.0f},
       {nan, infinity, 0.5f},
       absl::StatusCode::kUnimplemented,
       "llama.attention.scale "},
      {"llama.logit_scale",
       {0.0f, 1.0f},
       {nan, -infinity, 2.0f},
       absl::StatusCode::kUnimplemented,
       "llama.logit_scale "},
      {"llama.attention.clamp_kqv",
       {0.0f},
       {nan, infinity, 8.0f},
       absl::StatusCode::kUnimplemented,
       "llama.attention.clamp_kqv "},
  };
  for (const auto& c : cases) {
    for (const TinyModel::Value& value : c.accepted) {
      TinyModel m = MakeTinyModel({});
      m.Set(c.key, value);
      EXPECT_TRUE(StatusOf(m).ok()) << c.key << ": " << StatusOf(m);
    }
    for (const TinyModel::Value& value : c.refused) {
      TinyModel m = MakeTinyModel({});
      m.Set(c.key, value);
      const absl::Status status = StatusOf(m);
      EXPECT_EQ(status.code(), c.code) << c.key << ": " << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(c.says));
    }
  }
}

// A graph grows with its layers, and so may not grow past what the file holds.
TEST(ModelNumbers, LayersThatTheFileDoesNotHold) {
  TinyModel m = MakeTinyModel({});
  const auto tensors = static_cast<uint32_t>(m.tensors().size());
  m.Set("llama.block_count", tensors + 1);
  EXPECT_EQ(StatusOf(m).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(StatusOf(m).message()),
              HasSubstr(absl::StrCat("key \"llama.block_count\": ", tensors + 1, " layers in a file of ", tensors,
                                     " tensors")));
  m.Set("llama.block_count", tensors);  // the missing ones are listed
  EXPECT_THAT(std::string(StatusOf(m).message()), HasSubstr("blk.*.attn_q.weight (layers 2-"));
}

TEST(ModelNumbers, EveryLimitAndWhatItStillAllows) {
  const std::string kv_heads = "llama.attention.head_count_kv";
  struct Case {
    const Limit& limit;
    std::string key;
    TinyModel::Value refused;
    const char* says;
  };
  const Case cases[] = {
      {limits::kLayers, "llama.block_count", uint32_t{4097}, "4097: the limit \"layers\" is 4096"},
      {limits::kLayers, kv_heads, std::vector<uint32_t>(4097, 2), "an array of 4097: the limit \"layers\" is 4096"},
      {limits::kModelDim, "llama.embedding_length", uint32_t{16777217},
       "16777217: the limit \"model dim\" is 16777216"},
      {limits::kContext, "llama.context_length", uint32_t{16777217}, "16777217: the limit \"context\" is 16777216"},
      {limits::kVocabulary, "llama.vocab_size", uint32_t{4194305}, "4194305: the limit \"vocabulary\" is 4194304"},
  };
  for (const Case& c : cases) {
    TinyModel m = MakeTinyModel({});
    m.Set(c.key, c.refused);
    EXPECT_EQ(StatusOf(m).code(), absl::StatusCode::kInvalidArgument) << c.key;
    EXPECT_THAT(std::string(StatusOf(m).message()), HasSubstr(absl::StrCat("key \"", c.key, "\": ", c.says)));
  }
  TinyModel most = MakeTinyModel({});
  most.Set("llama.context_length", uint32_t{16777216});
  most.Set(kv_heads, std::vector<uint32_t>(4096, 2));
  EXPECT_TRUE(StatusOf(most).ok()) << StatusOf(most);
}

}  // namespace
}  // namespace sinter
