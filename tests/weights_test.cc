// Rows of a file's tensors, and presets: their shapes, their random weights and the numbers that those are made of.
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "frontend/model.h"
#include "frontend/presets.h"
#include "frontend/random_fill.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "ir/text.h"
#include "tests/tiny_models.h"

namespace sinter {
namespace {

using testing::HasSubstr;

TEST(Weights, ReadRowsOfAFile) {
  const TinyModel tiny = MakeTinyModel({.type = GgufWriter::kF16});
  const TestFile file(tiny.File(), "weights.gguf");
  const auto model = OpenModel(file.path());
  ASSERT_TRUE(model.ok()) << model.status();
  const WeightSource& weights = *model->weights;
  const auto info = weights.Find("blk.1.attn_k.weight");
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->dtype, DType::kF16);
  EXPECT_EQ(info->dims, (std::vector<int64_t>{32, 64}));
  std::vector<uint16_t> rows(2 * 64);
  const absl::Span<uint8_t> bytes(reinterpret_cast<uint8_t*>(rows.data()), rows.size() * 2);
  ASSERT_TRUE(weights.Read("blk.1.attn_k.weight", DType::kF16, 30, 32, bytes).ok());
  const std::vector<float>& expected = tiny.Find("blk.1.attn_k.weight")->values;
  for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(HalfToFloat(rows[i]), expected[30 * 64 + i]);
  weights.Done("blk.1.attn_k.weight");
  weights.Done("nothing");
  ASSERT_TRUE(weights.Read("blk.1.attn_k.weight", DType::kF16, 30, 32, bytes).ok())
      << "dropped pages can be read again";
  EXPECT_EQ(HalfToFloat(rows[5]), expected[30 * 64 + 5]);

  const auto code = [&](const char* name, int64_t begin, int64_t end, size_t size) {
    return weights.Read(name, DType::kF16, begin, end, bytes.first(size)).code();
  };
  EXPECT_EQ(code("nothing", 0, 1, 128), absl::StatusCode::kNotFound);
  EXPECT_EQ(code("blk.1.attn_k.weight", -1, 1, 256), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(code("blk.1.attn_k.weight", 31, 33, 256), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(code("blk.1.attn_k.weight", 2, 1, 0), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(code("blk.1.attn_k.weight", 0, 1, 127), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(weights.Read("blk.1.attn_k.weight", DType::kF16, 32, 32, {}).ok());
  EXPECT_EQ(weights.Read("blk.1.attn_k.weight", DType::kQ8_0, 30, 32, bytes).code(),
            absl::StatusCode::kInvalidArgument);
}

// Rows in blocks are given as they are; the evaluator sees what they decode to.
TEST(Weights, ReadRowsInBlocks) {
  const TinyModel tiny = MakeTinyModel({.type = GgufWriter::kQ5_K});
  const TestFile file(tiny.File(), "weights.gguf");
  const auto model = OpenModel(file.path());
  ASSERT_TRUE(model.ok()) << model.status();
  const WeightSource& weights = *model->weights;
  const auto info = weights.Find("blk.1.attn_k.weight");
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->dtype, DType::kQ5_K);
  EXPECT_EQ(info->dims, (std::vector<int64_t>{128, 256}));
  const TinyTensor& expected = *tiny.Find("blk.1.attn_k.weight");
  std::vector<uint8_t> rows(2 * 176);
  ASSERT_TRUE(weights.Read("blk.1.attn_k.weight", DType::kQ5_K, 30, 32, absl::MakeSpan(rows)).ok());
  EXPECT_EQ(std::string(rows.begin(), rows.end()), expected.blocks.substr(30 * 176, 2 * 176));
  const auto tensor = MakeWeightReader(weights)("blk.1.attn_k.weight");
  ASSERT_TRUE(tensor.ok()) << tensor.status();
  EXPECT_EQ(tensor->dtype, DType::kQ5_K);
  EXPECT_EQ(tensor->values, std::vector<double>(expected.values.begin(), expected.values.end()));

  std::vector<uint8_t> floats(2 * 256 * 4);
  const absl::Status status = weights.Read("blk.1.attn_k.weight", DType::kF32, 30, 32, absl::MakeSpan(floats));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("elements of type q5_k cannot be read as f32"));
}

// Of floats any other float type can be asked for; elements are rounded to it.
TEST(Weights, AreRoundedToAnotherType) {
  const TinyModel tiny = MakeTinyModel({.type = GgufWriter::kF16});
  const TestFile file(tiny.File(), "weights.gguf");
  const auto model = OpenModel(file.path());
  ASSERT_TRUE(model.ok()) << model.status();
  const std::vector<float>& expected = tiny.Find("blk.1.attn_k.weight")->values;
  for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF64}) {
    std::vector<uint8_t> bytes(static_cast<size_t>(ElemBytes(dtype, 2 * 64)));
    ASSERT_TRUE((*model).weights->Read("blk.1.attn_k.weight", dtype, 30, 32, absl::MakeSpan(bytes)).ok());
    std::vector<double> values(2 * 64);
    Decode(dtype, bytes.data(), absl::MakeSpan(values));
    for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], RoundTo(dtype, double{expected[30 * 64 + i]}));
  }
}

std::vector<uint8_t> Rows(const WeightSource& source, const std::string& name, int64_t begin, int64_t end) {
  const TensorInfo info = *source.Find(name);
  std::vector<uint8_t> bytes(static_cast<size_t>(ElemBytes(info.dtype, info.row_elems()) * (end - begin)));
  EXPECT_TRUE(source.Read(name, info.dtype, begin, end, absl::MakeSpan(bytes)).ok());
  return bytes;
}

TEST(Presets, AreKnownByName) {
  for (absl::string_view name : PresetNames()) {
    const auto model = OpenModel(absl::StrCat(kPresetPrefix, name));
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ(model->name, name);
    EXPECT_FALSE(model->tokenizer.has_value());
    EXPECT_EQ(model->module->weights->path, absl::StrCat("preset:", name));
    EXPECT_EQ(model->module->weights->sha256.size(), 64u);
  }
  const ModelConfig smallmind = OpenModel("preset:smallmind")->config;
  EXPECT_EQ(smallmind.architecture->name, "gpt2");
  EXPECT_EQ(smallmind.vocabulary, 512);
  EXPECT_EQ(smallmind.trained_context, 128);
  EXPECT_EQ(smallmind.width, 256);
  EXPECT_EQ(smallmind.layers, 4);
  EXPECT_EQ(smallmind.heads, 8);
  EXPECT_EQ(smallmind.ffn_width, 1024);
  const absl::Status unknown = OpenModel("preset:gpt5").status(), type = OpenModel("preset:smallmind:q4_0").status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("smallmind, gpt2-124m, stories15m"));
  EXPECT_EQ(type.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(type.message()), HasSubstr("f32, f16 or bf16; found \"q4_0\""));
}

TEST(Presets, HaveWeightsThatDoNotDependOnHowTheyAreRead) {
  for (const char* path : {"preset:tinyllama-1.1b", "preset:tinyllama-1.1b:f16"}) {
    const auto source = OpenWeights(path);
    ASSERT_TRUE(source.ok()) << source.status();
    // 2600 rows of 2048 cross the boundary of two generator blocks, which is at 512 rows.
    const std::vector<uint8_t> whole = Rows(**source, "token_embd.weight", 500, 3100);
    std::vector<uint8_t> pieces(whole.size());
    const size_t row = whole.size() / 2600;
    const DType dtype = (*source)->Find("token_embd.weight")->dtype;
    std::vector<std::thread> threads;
    for (int64_t piece = 0; piece < 4; ++piece) {
      threads.emplace_back([&, piece] {
        const absl::Span<uint8_t> out =
            absl::MakeSpan(pieces).subspan(static_cast<size_t>(piece) * 650 * row, 650 * row);
        EXPECT_TRUE((*source)->Read("token_embd.weight", dtype, 500 + piece * 650, 500 + (piece + 1) * 650, out).ok());
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_TRUE(pieces == whole);
    EXPECT_FALSE(Rows(**source, "token_embd.weight", 0, 1) == Rows(**source, "output.weight", 0, 1));
    EXPECT_FALSE(Rows(**source, "token_embd.weight", 0, 1) == Rows(**source, "token_embd.weight", 512, 513));
  }
  EXPECT_NE((*OpenWeights("preset:tinyllama-1.1b"))->digest(), (*OpenWeights("preset:tinyllama-1.1b:f16"))->digest());
}

TEST(Presets, RoundOneModelToEachType) {
  const auto exact = OpenWeights("preset:stories15m"), half = OpenWeights("preset:stories15m:f16");
  const auto a = MakeWeightReader(**exact)("blk.3.ffn_up.weight"), b = MakeWeightReader(**half)("blk.3.ffn_up.weight");
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(b->dtype, DType::kF16);
  for (size_t i = 0; i < a->values.size(); ++i) ASSERT_EQ(RoundTo(DType::kF16, a->values[i]), b->values[i]);
  EXPECT_EQ((*half)->Find("blk.3.attn_norm.weight")->dtype, DType::kF32);
}

TEST(Presets, HaveTheSpreadTheyState) {
  const auto source = OpenWeights("preset:gpt2-124m");
  const WeightReader read = MakeWeightReader(**source);
  struct Expected {
    const char* name;
    double mean, deviation;
  };
  for (const Expected& e : std::vector<Expected>{{"blk.0.ffn_down.weight", 0, 1 / std::sqrt(3072.0)},
                                                 {"position_embd.weight", 0, 1 / std::sqrt(768.0)},
                                                 {"blk.3.attn_norm.weight", 1, 0.1},
                                                 {"blk.3.attn_qkv.bias", 0, 0.02}}) {
    const auto tensor = read(e.name);
    ASSERT_TRUE(tensor.ok()) << tensor.status();
    const double n = static_cast<double>(tensor->elems());
    double mean = 0, square = 0;
    for (double v : tensor->values) mean += v / n;
    for (double v : tensor->values) square += (v - mean) * (v - mean) / n;
    EXPECT_NEAR(mean, e.mean, 5 * e.deviation / std::sqrt(n)) << e.name;
    EXPECT_NEAR(std::sqrt(square), e.deviation, 5 * e.deviation / std::sqrt(n)) << e.name;
  }
}

TEST(RandomFill, IsTheSameEverywhere) {
  std::vector<float> values(4);
  RandomFill(RandomKey("token_embd.weight"), (uint64_t{1} << 40) + (1 << 20) - 2, 0x1p23f, 0, absl::MakeSpan(values));
  EXPECT_EQ(values,
            (std::vector<float>{-7906074, -4225616, -6309193, -1221701}));  // computed from the formula in Python
}

// Rows say nothing of the shape that they are rows of.
TEST(Weights, AreDeclaredAsTheyAre) {
  const TinyModel tiny = MakeTinyModel({.rope_factors = true});
  const TestFile file(tiny.File(), "declared.gguf");
  const auto source = OpenWeights(file.path());
  ASSERT_TRUE(source.ok()) << source.status();
  const auto check = [&](const std::string& name, const std::string& type) {
    const auto module = Parse(absl::StrCat("module @m { graph @main() -> (", type, ") {\n%w = weight \"", name,
                                           "\" : ", type, "\nreturn %w } }"),
                              "m.sir");
    EXPECT_TRUE(module.ok()) << module.status();
    return CheckWeights(**module, **source);
  };
  for (const char* type : {"f32[32,64]", "f16[32,64]", "bf16[32,64]"}) {
    EXPECT_TRUE(check("blk.1.attn_k.weight", type).ok()) << check("blk.1.attn_k.weight", type);
  }
  for (const char* type : {"f32[31,64]", "f32[64,32]", "f32[2048]", "f32[32,64,1]", "q8_0[32,64]"}) {
    const absl::Status status = check("blk.1.attn_k.weight", type);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << type;
    EXPECT_EQ(std::string(status.message()), absl::StrCat("@main: weight \"blk.1.attn_k.weight\": expected ", type,
                                                          "; the weight file has f32[32,64]"));
  }
  EXPECT_TRUE(check("rope_freqs.weight", "f32[8]").ok());
  EXPECT_EQ(check("rope_freqs.weight", "f32[4]").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(check("nothing", "f32[4]").code(), absl::StatusCode::kNotFound);
}

TEST(RandomFill, RoundsAsTheTypesDo) {
  std::vector<float> values(1 << 16);
  RandomFill(RandomKey("x"), 0, 1, 0, absl::MakeSpan(values));
  for (size_t i = 0; i < values.size(); ++i) values[i] *= std::ldexp(1.0f, -static_cast<int>(i % 30));
  std::vector<uint16_t> halves(values.size()), bf16(values.size());
  FloatsToHalves(values, halves.data());
  FloatsToBf16(values, bf16.data());
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(halves[i], FloatToHalf(values[i])) << values[i];
    ASSERT_EQ(bf16[i], FloatToBf16(values[i])) << values[i];
  }
}

}  // namespace
}  // namespace sinter
