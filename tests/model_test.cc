// Whole models compiled: tiny seeded llama and gpt2 models at O0, O1 and O2 on every target, against the evaluator and
// against the ids that llama.cpp generates; and what holds of every run: chunks, threads, a full context, no heap.
#include "frontend/model.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "passes/pipeline.h"
#include "runtime/generate.h"
#include "tests/compiled_graph.h"
#include "tests/heap_counter.h"
#include "tests/tiny_models.h"

namespace sinter {
namespace {

const std::vector<int32_t> kIds = {1, 17, 268, 3, 287, 99, 3};

std::vector<double> Decoded(const std::vector<int32_t>& ids) { return {ids.begin(), ids.end()}; }

// A tiny model, its file and, compiled, its executable form.
class TinyRun {
 public:
  TinyRun(const TinyOptions& options, const ImportOptions& import, int64_t trained = 64)
      : tiny_(MakeTinyModel(options)) {
    tiny_.Set(absl::StrCat(options.architecture, ".context_length"), static_cast<uint32_t>(trained));
    file_ = std::make_unique<TestFile>(tiny_.File(), "model.gguf");
    auto model = OpenModel(file_->path(), import);
    EXPECT_TRUE(model.ok()) << model.status();
    if (model.ok()) model_ = *std::move(model);
  }

  const Model& model() const { return model_; }
  std::shared_ptr<const CompiledModule> Compile(const Target& target, absl::string_view passes) const {
    auto made = CompiledGraphs::Make(model_.module->Clone(), target, passes, Rows());
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? (*made)->module() : nullptr;
  }
  // From here on the model computes as --precision=fast does for a target that multiplies pairs of bf16.
  void RoundToBf16() {
    PassContext context{.targets = {FindTarget("avx512_bf16")}, .fast = true};
    const auto passes = ParsePipeline("canonicalize,dots-to-gemm,round-to-bf16", Stage::kGraph);
    ASSERT_TRUE(passes.ok()) << passes.status();
    const auto records = RunPipeline(*model_.module, *passes, context, {.check_each = true, .repro_path = ""});
    ASSERT_TRUE(records.ok() && records->back().changed) << records.status();
  }
  WeightRows Rows() const {
    return [this](const std::string& name, DType dtype, int64_t begin, int64_t end, absl::Span<uint8_t> out) {
      return model_.weights->Read(name, dtype, begin, end, out);
    };
  }

  // Logits of every position of `ids`, by the evaluator.
  Tensor Evaluated(const std::vector<int32_t>& ids, Precision precision) const {
    const auto n = static_cast<int64_t>(ids.size());
    std::vector<double> places(ids.size());
    std::iota(places.begin(), places.end(), 0);
    Tensors args = {{DType::kI32, {n}, Decoded(ids)}, {DType::kI32, {n}, places}, {DType::kI32, {n}, places}};
    const Graph& graph = *model_.module->FindGraph("main");
    while (args.size() < graph.params().size()) args.push_back({model_.kv, {}, {}});
    IdMap<DimId, int64_t> dims;
    dims.Resize(model_.module->dims.symbols().size());
    for (int64_t& dim : dims) dim = -1;
    dims[model_.module->dims.Find("P")] = 0;
    auto results = Evaluate(graph, std::move(args), {precision, MakeWeightReader(*model_.weights), {}}, dims);
    EXPECT_TRUE(results.ok()) << results.status();
    return results.ok() ? (*results)[0] : Tensor();
  }

 private:
  TinyModel tiny_;
  std::unique_ptr<TestFile> file_;
  Model model_;
};

// One sequence of a compiled model.
class Session {
 public:
  Session(const std::shared_ptr<const CompiledModule>& module, int threads) {
    auto workspace = Workspace::Open(module, threads);
    auto sequence = Sequence::Open(module);
    EXPECT_TRUE(workspace.ok() && sequence.ok()) << workspace.status() << sequence.status();
    workspace_ = *std::move(workspace);
    sequence_ = *std::move(sequence);
  }
  Workspace& workspace() { return *workspace_; }
  Sequence& sequence() { return *sequence_; }

  // Logits of every one of these tokens.
  std::vector<float> Prefill(const std::vector<int32_t>& ids) {
    std::vector<float> logits(ids.size() * static_cast<size_t>(workspace_->vocabulary()));
    const absl::Status status = workspace_->Prefill(*sequence_, ids, absl::MakeSpan(logits));
    EXPECT_TRUE(status.ok()) << status;
    return logits;
  }
  std::vector<float> OneByOne(const std::vector<int32_t>& ids) {
    std::vector<float> logits;
    for (int32_t id : ids) {
      const std::vector<float> row = Prefill({id});
      logits.insert(logits.end(), row.begin(), row.end());
    }
    return logits;
  }
  std::vector<int> Greedy(const std::vector<int32_t>& prompt, size_t tokens) {
    std::vector<float> logits = Prefill(prompt);
    std::vector<int> ids;
    while (ids.size() < tokens) {
      const auto row = logits.end() - workspace_->vocabulary();
      ids.push_back(static_cast<int>(std::max_element(row, logits.end()) - row));
      logits = Prefill({ids.back()});
    }
    return ids;
  }

 private:
  std::unique_ptr<Workspace> workspace_;
  std::unique_ptr<Sequence> sequence_;
};

Tensor AsTensor(const std::vector<float>& logits, int64_t rows) {
  return {DType::kF32, {rows, static_cast<int64_t>(logits.size()) / rows}, {logits.begin(), logits.end()}};
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class ModelTest : public TargetTest {
 protected:
  std::shared_ptr<const CompiledModule> Compile(const TinyRun& run, absl::string_view passes) {
    ++ran_;
    return run.Compile(GetParam(), passes);
  }
};

constexpr ImportOptions kSmall = {.context = 32, .chunk = 16, .kv = DType::kF32};

TEST_P(ModelTest, EqualsTheEvaluatorAndLlamaCpp) {
  for (const TinyCase& c : TinyCases()) {
    SCOPED_TRACE(c.name);
    const TinyRun run(c.options, kSmall);
    const Tensor exact = run.Evaluated(kIds, Precision::kDouble);
    for (const char* passes : {"O0", "O1", "O2"}) {
      SCOPED_TRACE(passes);
      const auto module = Compile(run, passes);
      ASSERT_NE(module, nullptr);
      EXPECT_LT(Distance(AsTensor(Session(module, 1).Prefill(kIds), std::ssize(kIds)), exact), 1e-5);
      EXPECT_LT(Distance(AsTensor(Session(module, 1).OneByOne(kIds), std::ssize(kIds)), exact), 1e-5);
      if (!c.llama_cpp_ids.empty()) {
        EXPECT_EQ(Session(module, 1).Greedy({1, 2, 3}, c.llama_cpp_ids.size()), c.llama_cpp_ids);
      }
    }
  }
}

TEST_P(ModelTest, ChunksGiveWhatSingleTokensGive) {
  for (const char* architecture : {"llama", "gpt2"}) {
    const TinyRun run({.architecture = architecture}, {.context = 40, .chunk = 5, .kv = DType::kF32});
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < 23; ++i) ids.push_back((i * 37 + 5) % 288);
    for (const char* passes : {"O0", "O2"}) {
      const auto module = Compile(run, passes);
      ASSERT_NE(module, nullptr);
      const std::vector<float> chunks = Session(module, 1).Prefill(ids), single = Session(module, 1).OneByOne(ids);
      EXPECT_LT(Distance(AsTensor(chunks, 23), AsTensor(single, 23)), 1e-5);
    }
  }
}

TEST_P(ModelTest, ThreadsDoNotChangeABit) {
  for (const char* architecture : {"llama", "gpt2"}) {
    const TinyRun run({.architecture = architecture, .type = GgufWriter::kF16}, {.context = 32, .chunk = 16});
    for (const char* passes : {"O0", "O2"}) {
      const auto module = Compile(run, passes);
      ASSERT_NE(module, nullptr);
      Session one(module, 1);
      const std::vector<float> prompt = one.Prefill(kIds), more = one.OneByOne({5, 200, 31});
      for (int threads : {2, 3}) {
        for (int repeat = 0; repeat < 3; ++repeat) {
          Session session(module, threads);
          EXPECT_TRUE(SameBits(session.Prefill(kIds), prompt)) << threads << " threads, " << passes;
          EXPECT_TRUE(SameBits(session.OneByOne({5, 200, 31}), more)) << threads << " threads, " << passes;
        }
      }
    }
  }
}

TEST_P(ModelTest, HalfPrecisionCache) {
  for (const auto type : {GgufWriter::kF32, GgufWriter::kF16, GgufWriter::kBF16}) {
    const TinyRun half({.type = type}, {.context = 32, .chunk = 16, .kv = DType::kF16});
    const Tensor exact = half.Evaluated(kIds, Precision::kDouble);
    for (const char* passes : {"O0", "O2"}) {
      const auto module = Compile(half, passes);
      ASSERT_NE(module, nullptr);
      // An f32 rounding may tip one f16 element of the cache.
      EXPECT_LT(Distance(AsTensor(Session(module, 1).Prefill(kIds), std::ssize(kIds)), exact), 3e-4);
    }
    const TinyRun single({.type = type}, kSmall);
    const double distance = Distance(single.Evaluated(kIds, Precision::kDouble), exact);
    EXPECT_GT(distance, 1e-6);
    EXPECT_LT(distance, 5e-3);
  }
}

// Every target computes with the values that are rounded for those that multiply pairs of bf16. What that does to the
// logits, relative to the largest, is what README.md states.
TEST_P(ModelTest, RowsAndWeightsRoundedToBf16) {
  for (const char* architecture : {"llama", "gpt2"}) {
    for (const auto type : {GgufWriter::kF16, GgufWriter::kBF16}) {
      TinyRun run({.architecture = architecture, .type = type}, kSmall);
      const Tensor exact = run.Evaluated(kIds, Precision::kDouble);
      run.RoundToBf16();
      const Tensor rounded = run.Evaluated(kIds, Precision::kDouble);
      EXPECT_GT(Distance(rounded, exact), 1e-4);
      EXPECT_LT(Distance(rounded, exact), 5e-2);
      EXPECT_LT(Distance(run.Evaluated(kIds, Precision::kUnrounded), exact), 1e-12);
      for (const char* passes : {"O0", "O1", "O2"}) {
        SCOPED_TRACE(absl::StrCat(architecture, " ", passes));
        const auto module = Compile(run, passes);
        ASSERT_NE(module, nullptr);
        // An f32 rounding may tip one bf16 element of a row.
        EXPECT_LT(Distance(AsTensor(Session(module, 1).Prefill(kIds), std::ssize(kIds)), rounded), 2e-3);
        const std::vector<float> single = Session(module, 1).OneByOne(kIds);
        EXPECT_LT(Distance(AsTensor(single, std::ssize(kIds)), rounded), 2e-3);
        EXPECT_TRUE(SameBits(Session(module, 2).OneByOne(kIds), single));
      }
    }
  }
}

TEST_P(ModelTest, QuantizedCache) {
  for (const uint32_t width : {32u, 64u}) {
    const TinyOptions options = {.head_width = width};
    const TinyRun quantized(options, {.context = 32, .chunk = 16, .kv = DType::kQ8_0});
    const Tensor exact = quantized.Evaluated(kIds, Precision::kDouble);
    for (const char* passes : {"O0", "O1", "O2"}) {
      const auto module = Compile(quantized, passes);
      ASSERT_NE(module, nullptr);
      const std::vector<float> logits = Session(module, 1).Prefill(kIds);
      // An f32 rounding may tip an element of the cache to the next quantum.
      EXPECT_LT(Distance(AsTensor(logits, std::ssize(kIds)), exact), 2e-3) << passes;
      EXPECT_LT(Distance(AsTensor(Session(module, 1).OneByOne(kIds), std::ssize(kIds)), exact), 2e-3) << passes;
      EXPECT_TRUE(SameBits(Session(module, 3).Prefill(kIds), logits)) << passes;
    }
    // What the type of the cache costs, against f32: each element of a key or value is off by up to 1/254 of the
    // largest of its block, and these weights, drawn at random, average nothing out.
    const TinyRun single(options, kSmall);
    const double distance = Distance(exact, single.Evaluated(kIds, Precision::kDouble));
    EXPECT_GT(distance, 1e-5);
    EXPECT_LT(distance, 8e-2);
  }
}

TEST_P(ModelTest, WeightsInBlocks) {
  for (const TinyCase& c : QuantizedCases()) {
    SCOPED_TRACE(c.name);
    const TinyRun run(c.options, kSmall);
    const Tensor exact = run.Evaluated(kIds, Precision::kDouble);
    for (const char* passes : {"O0", "O1", "O2"}) {
      const auto module = Compile(run, passes);
      ASSERT_NE(module, nullptr);
      const std::vector<float> logits = Session(module, 1).Prefill(kIds);
      EXPECT_LT(Distance(AsTensor(logits, std::ssize(kIds)), exact), 1e-5) << passes;
      EXPECT_LT(Distance(AsTensor(Session(module, 1).OneByOne(kIds), std::ssize(kIds)), exact), 1e-5) << passes;
      EXPECT_TRUE(SameBits(Session(module, 3).Prefill(kIds), logits)) << passes;
      EXPECT_EQ(Session(module, 1).Greedy({1, 2, 3}, c.llama_cpp_ids.size()), c.llama_cpp_ids) << passes;
    }
  }
}

TEST_P(ModelTest, AFullContext) {
  const TinyRun run({}, {.context = 16, .chunk = 8, .kv = DType::kF32});
  const auto module = Compile(run, "O2");
  ASSERT_NE(module, nullptr);
  Session session(module, 1);
  std::vector<float> row(static_cast<size_t>(session.workspace().vocabulary()));
  EXPECT_EQ(session.sequence().capacity(), 16);
  const std::vector<int32_t> too_long(17, 5);
  EXPECT_EQ(session.workspace().Prefill(session.sequence(), too_long, absl::MakeSpan(row)).code(),
            absl::StatusCode::kOutOfRange);

  Session full(module, 1);
  const std::vector<int32_t> ids = {9, 8, 7, 6, 5, 4, 3, 250, 1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<float> all = full.Prefill(ids);
  const absl::Status status = full.workspace().Step(full.sequence(), {3}, {0}, absl::MakeSpan(row));
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_NE(status.message().find("context"), absl::string_view::npos) << status;
  EXPECT_EQ(full.sequence().position(), 16);
  // After a truncation the same tokens give the same logits.
  ASSERT_TRUE(full.sequence().Truncate(9).ok());
  const std::vector<float> again = full.Prefill({ids.begin() + 9, ids.end()});
  const std::vector<float> tail(all.end() - std::ssize(again), all.end());
  EXPECT_LT(Distance(AsTensor(again, 7), AsTensor(tail, 7)), 1e-5);

  Session generated(module, 1);
  auto sampler = Sampler::Create({.temperature = 0}, static_cast<int32_t>(row.size()));
  ASSERT_TRUE(sampler.ok());
  Generator generator = *Generator::Create(generated.workspace(), generated.sequence(), *sampler, {}, nullptr);
  ASSERT_TRUE(generator.Prefill({1, 2, 3}).ok());
  int64_t tokens = 0;
  const auto count = [](void* context, int32_t, absl::string_view) {
    ++*static_cast<int64_t*>(context);
    return true;
  };
  const auto reason = generator.Generate({.max_tokens = 100, .ignore_end = true}, count, &tokens);
  ASSERT_TRUE(reason.ok()) << reason.status();
  EXPECT_EQ(*reason, StopReason::kContextFull);
  EXPECT_EQ(tokens, 14);  // 13 places, and the token that the last one's logits give
}

TEST_P(ModelTest, TheSameModelGivesTheSameBytes) {
  const TinyRun run({.type = GgufWriter::kF16, .fused = true}, kSmall);
  std::vector<std::string> files;
  for (int threads : {1, 3}) {
    auto graphs = CompiledGraphs::Make(run.model().module->Clone(), GetParam(), "O2", run.Rows());
    ASSERT_TRUE(graphs.ok()) << graphs.status();
    CompileOptions options;
    options.targets = {FindTarget(GetParam().name)};
    options.threads = threads;
    options.weights = run.Rows();
    auto file = OutputFile::Create("");
    ASSERT_TRUE(file.ok()) << file.status();
    auto compiled = sinter::Compile((*graphs)->planned(), {.command = "test"}, options, *std::move(file));
    ASSERT_TRUE(compiled.ok()) << compiled.status();
    auto mapped = MappedFile::FromDescriptor(compiled->descriptor(), "test");
    ASSERT_TRUE(mapped.ok()) << mapped.status();
    files.emplace_back(mapped->bytes().begin(), mapped->bytes().end());
    ++ran_;
  }
  EXPECT_GT(files[0].size(), 100000u);
  EXPECT_TRUE(files[0] == files[1]);
}

// Writes text as `run` does, and counts what is allocated from its first token to its last; allocates when told to.
struct Writer {
  std::FILE* out;
  bool plant = false;
  int64_t tokens = 0;
  size_t at_first = 0, at_last = 0;
  std::unique_ptr<std::string> planted = {};

  static bool Emit(void* context, int32_t id, absl::string_view text) {
    Writer& writer = *static_cast<Writer*>(context);
    if (id < 0) return true;
    if (!text.empty()) std::fwrite(text.data(), 1, text.size(), writer.out);
    std::fflush(writer.out);
    if (writer.plant) writer.planted = std::make_unique<std::string>();
    writer.at_last = HeapAllocations();
    if (writer.tokens++ == 0) writer.at_first = writer.at_last;
    return true;
  }
};

TEST_P(ModelTest, ATokenAllocatesNothing) {
  const TinyRun run({}, {.context = 160, .chunk = 16, .kv = DType::kF32}, 160);
  const auto module = Compile(run, "O2");
  ASSERT_NE(module, nullptr);
  auto tokenizer = Tokenizer::Create(*run.model().tokenizer);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  for (int threads : {1, 2, 3}) {
    Session session(module, threads);
    auto sampler =
        Sampler::Create({.temperature = 0.8, .top_k = 40, .top_p = 0.95, .min_p = 0.02, .repeat_penalty = 1.1},
                        static_cast<int32_t>(session.workspace().vocabulary()));
    ASSERT_TRUE(sampler.ok());
    TokenStream stream = *TokenStream::Create(*tokenizer, false);
    Generator generator = *Generator::Create(session.workspace(), session.sequence(), *sampler, {}, &stream);
    ASSERT_TRUE(generator.Prefill({1, 2, 3}).ok());
    Writer writer{std::fopen("/dev/null", "w")};
    ASSERT_NE(writer.out, nullptr);
    char buffer[4096];
    std::setvbuf(writer.out, buffer, _IOFBF, sizeof buffer);

    ASSERT_TRUE(generator.Generate({.max_tokens = 101, .ignore_end = true}, Writer::Emit, &writer).ok());
    EXPECT_EQ(writer.tokens, 101);
    EXPECT_EQ(writer.at_last - writer.at_first, 0u) << threads << " threads";

    // The same count sees an allocation a token that is planted.
    writer.plant = true;
    writer.tokens = 0;
    ASSERT_TRUE(generator.Generate({.max_tokens = 11, .ignore_end = true}, Writer::Emit, &writer).ok());
    EXPECT_EQ(writer.at_last - writer.at_first, 10u);
    std::fclose(writer.out);
  }
}

SINTER_TARGET_TESTS(ModelTest);

}  // namespace
}  // namespace sinter
