// Whole models through the command line: ids that llama.cpp generates, dumps that mean the same at every stage, and
// files that lie.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <regex>
#include <set>

#include "absl/strings/str_split.h"
#include "backend/target.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "passes/pass.h"
#include "tests/cli_run.h"
#include "tests/tiny_models.h"
#include "tools/npy.h"

namespace sinter {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

constexpr const char* kTargets[] = {"avx2", "avx512"};

std::vector<std::string> RunnableTargets() {
  std::vector<std::string> targets;
  for (const char* name : kTargets) {
    if (HostRuns(*FindTarget(name))) targets.emplace_back(name);
  }
  return targets;
}

class TinyCli : public testing::TestWithParam<TinyCase> {};

TEST_P(TinyCli, GeneratesWhatLlamaCppDoes) {
  TestFolder folder;
  WriteAll(folder / "m.gguf", MakeTinyModel(GetParam().options).File());
  const std::string expected = Joined(GetParam().llama_cpp_ids);
  for (const char* level : {"-O0", "-O2"}) {
    const CliResult compile = Sinter(folder, {"compile", "m.gguf", "-o", "m.sinter", level});
    ASSERT_EQ(compile.code, 0) << compile.err;
    for (const char* model : {"m.gguf", "m.sinter"}) {
      std::vector<std::string> arguments = {"run", model, "--prompt-ids=1,2,3", "-n",          "16",
                                            "-t",  "2",   "--temp=0",           "--print-ids", "--ignore-eos"};
      if (model == std::string("m.gguf")) arguments.push_back(level);
      const CliResult run = Sinter(folder, arguments);
      EXPECT_EQ(run.out, expected) << level << " " << model << run.err;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TinyCli, testing::ValuesIn(AllTinyCases()),
                         [](const auto& test) { return std::string(test.param.name); });

Tensor Ids(const std::vector<int>& values, DType dtype = DType::kI32) {
  return {dtype, {static_cast<int64_t>(values.size())}, {values.begin(), values.end()}};
}

double Distance(const Tensor& found, const Tensor& expected) {
  EXPECT_EQ(found.dims, expected.dims);
  if (found.dims != expected.dims) return HUGE_VAL;
  double difference = 0, largest = 0;
  for (size_t i = 0; i < expected.values.size(); ++i) {
    difference = std::max(difference, std::abs(found.values[i] - expected.values[i]));
    largest = std::max(largest, std::abs(expected.values[i]));
  }
  EXPECT_GT(largest, 0);
  return difference / largest;
}

// compile --dump-dir: each file parses, prints as it is, and gives the same, compiled and evaluated.
void CheckDumps(const TinyOptions& options, const char* level, const std::vector<int>& ids,
                const std::string& target = "native", const std::string& precision = "fast") {
  TestFolder folder;
  WriteAll(folder / "m.gguf", MakeTinyModel(options).File());
  WriteAll(folder / "kept.sir", "");  // no numbered dump: not touched
  ASSERT_EQ(Sinter(folder, {"compile", "m.gguf", "-o", "m.sinter", "--dump-dir=dumps/new", "--ctx=16", "--kv=f32",
                            "--target=" + target, "--precision=" + precision, level})
                .code,
            0);
  ASSERT_TRUE(WriteNpy(folder / "ids.npy", Ids(ids, DType::kI64)).ok());
  std::vector<int> positions(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) positions[i] = static_cast<int>(i);
  ASSERT_TRUE(WriteNpy(folder / "pos.npy", Ids(positions)).ok());
  ASSERT_TRUE(WriteNpy(folder / "rows.npy", Ids({static_cast<int>(ids.size()) - 1})).ok());

  std::vector<std::string> dumps;
  for (const auto& file : std::filesystem::directory_iterator(folder / "dumps/new")) dumps.push_back(file.path());
  std::sort(dumps.begin(), dumps.end());
  ASSERT_GE(dumps.size(), 4u);
  EXPECT_THAT(dumps[0], HasSubstr("000.import.sir"));
  EXPECT_THAT(dumps.back(), HasSubstr("plan-buffers.sir"));
  dumps.push_back(folder / "m.sinter");
  std::optional<Tensor> logits, state;
  for (const std::string& dump : dumps) {
    SCOPED_TRACE(dump);
    const bool text = dump.back() == 'r' && dump.find(".sir") != std::string::npos;
    if (text) {
      const CliResult printed = Sinter(folder, {"opt", dump});
      EXPECT_EQ(printed.code, 0) << printed.err;
      EXPECT_EQ(printed.out, ReadAll(dump));
    }
    for (const bool reference : {false, true}) {
      if (reference && !text) continue;
      std::vector<std::string> arguments = {
          "exec",         dump,          "--graph",       "@main",   "--dim",          "P=0",      "--input",
          "ids=@ids.npy", "--input",     "%pos=@pos.npy", "--input", "rows=@rows.npy", "--output", "0=@logits.npy",
          "--output",     "kv0=@kv0.npy"};
      if (text) arguments.push_back("--weights=m.gguf");
      if (reference) arguments.push_back("--reference");
      // A graph that is evaluated is the one named, and @main takes any number of rows.
      const CliResult exec = Sinter(folder, arguments);
      ASSERT_EQ(exec.code, 0) << exec.err;
      EXPECT_EQ(exec.out, "");
      const auto found = ReadNpy(folder / "logits.npy");
      const auto cache = ReadNpy(folder / "kv0.npy");
      ASSERT_TRUE(found.ok() && cache.ok());
      if (!logits) {
        logits = *found;
        state = *cache;
        EXPECT_EQ(logits->dims, (std::vector<int64_t>{1, 288}));
      }
      EXPECT_LT(Distance(*found, *logits), 1e-5);
      EXPECT_LT(Distance(*cache, *state), 1e-5);
    }
  }
}

TEST(Dumps, MeanTheSameAtEveryStage) { CheckDumps({.seed = 38}, "-O2", {1, 17, 268}); }
TEST(Dumps, MeanTheSameForOneToken) { CheckDumps({.seed = 38}, "-O2", {17}); }
TEST(Dumps, SayTheirTargetThemselves) { CheckDumps({.seed = 38}, "-O1", {1, 17}, "avx2"); }
TEST(Dumps, MeanTheSameOfGpt2) { CheckDumps({.architecture = "gpt2", .seed = 57}, "-O1", {1, 17, 268, 4, 9}); }

TEST(Dumps, MeanTheSameOfWeightsInBlocks) {
  CheckDumps({.type = GgufWriter::kQ4_K, .mixed = true, .tied = true, .seed = 36}, "-O2", {1, 17, 268}, "native",
             "exact");
}

TEST(Compile, RefusesBlocksThatAreNotFinite) {
  TestFolder folder;
  TinyModel tiny = MakeTinyModel({.type = GgufWriter::kQ8_0});
  WriteAll(folder / "good.gguf", tiny.File());
  std::string& blocks = tiny.tensor("blk.1.ffn_down.weight").blocks;  // rows of three blocks
  blocks.replace((5 * 3 + 1) * 34, 2, std::string("\x00\x7c", 2));    // an infinite scale
  WriteAll(folder / "bad.gguf", tiny.File());
  EXPECT_EQ(Sinter(folder, {"compile", "good.gguf", "-o", "good.sinter"}).code, 0);
  for (const char* level : {"-O0", "-O2"}) {
    ExpectFailure(Sinter(folder, {"compile", "bad.gguf", "-o", "bad.sinter", level}), 4,
                  "weight \"blk.1.ffn_down.weight\": row 5, block 1 of q8_0: the scale is no finite number");
    EXPECT_FALSE(std::filesystem::exists(folder / "bad.sinter"));
  }
}

TEST(Exec, RefusesWhatDoesNotFit) {
  TestFolder folder;
  WriteAll(folder / "m.sir",
           "module @m {\n  dim T in 1..8\n  graph @main(%t: f32[10,4], %i: i32[T]) -> (f32[T,4]) {\n"
           "    %r = take %t, %i : f32[T,4]\n    return %r\n  }\n}\n");
  Tensor table = Tensor::Zeros(DType::kF32, {10, 4});
  for (size_t i = 0; i < table.values.size(); ++i) table.values[i] = static_cast<double>(i);
  ASSERT_TRUE(WriteNpy(folder / "t.npy", table).ok());
  ASSERT_TRUE(WriteNpy(folder / "i.npy", Ids({9, 0, 3}, DType::kI64)).ok());
  ASSERT_TRUE(WriteNpy(folder / "past.npy", Ids({9, 10})).ok());
  ASSERT_TRUE(WriteNpy(folder / "huge.npy", {DType::kI64, {1}, {0x1p33}}).ok());
  ASSERT_TRUE(WriteNpy(folder / "many.npy", Ids({0, 0, 0, 0, 0, 0, 0, 0, 0})).ok());
  ASSERT_TRUE(WriteNpy(folder / "f64.npy", Tensor::Zeros(DType::kF64, {10, 4})).ok());
  ASSERT_TRUE(WriteNpy(folder / "shape.npy", Tensor::Zeros(DType::kF32, {10, 5})).ok());
  WriteAll(folder / "bad.npy", "no array");
  ASSERT_EQ(Sinter(folder, {"compile", "m.sir", "-o", "m.sinter"}).code, 0);
  const auto exec = [&](const std::string& file, const std::string& t, const std::string& i,
                        std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"exec", file, "--input=t=@" + t, "--input=i=@" + i};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Sinter(folder, arguments);
  };
  for (const std::string reference : {"", "--reference"}) {
    SCOPED_TRACE(reference);
    const std::vector<std::string> more =
        reference.empty() ? std::vector<std::string>() : std::vector<std::string>{reference};
    EXPECT_EQ(exec("m.sir", "t.npy", "i.npy", more).out, "%r: f32[3,4] 36 37 38 39 0 1 2 3 ...\n");
    ExpectFailure(exec("m.sir", "t.npy", "past.npy", more), 2, "element 1 is 10, expected 0 to 9");
    ExpectFailure(exec("m.sir", "t.npy", "huge.npy", more), 2, "does not fit i32");
    ExpectFailure(exec("m.sir", "t.npy", "many.npy", more), 2, "T");
    ExpectFailure(exec("m.sir", "f64.npy", "i.npy", more), 2, "found f64[10,4], expected elements of type f32");
    ExpectFailure(exec("m.sir", "shape.npy", "i.npy", more), 2, "5");
    ExpectFailure(exec("m.sir", "bad.npy", "i.npy", more), 4, "bad.npy");
    ExpectFailure(exec("m.sir", "absent.npy", "i.npy", more), 2, "absent.npy");
  }
  EXPECT_EQ(exec("m.sinter", "t.npy", "i.npy").out, "%r: f32[3,4] 36 37 38 39 0 1 2 3 ...\n");
  ExpectFailure(exec("m.sinter", "shape.npy", "i.npy"), 2, "the inputs do not fit");
  ExpectFailure(exec("m.sinter", "t.npy", "i.npy", {"--reference"}), 2, "--reference");
  ExpectFailure(exec("m.sir", "t.npy", "i.npy", {"--graph=@other"}), 2, "there is no graph @other");
  ExpectFailure(exec("m.sir", "t.npy", "i.npy", {"--dim=Q=1"}), 2, "there is no dim Q");
  ExpectFailure(exec("m.sir", "t.npy", "i.npy", {"--input=z=@i.npy"}), 2, "there is no input %z");
  ExpectFailure(exec("m.sir", "t.npy", "i.npy", {"--output=z=@z.npy"}), 2, "there is no output %z");
  ExpectFailure(Sinter(folder, {"exec", "m.sir", "--input=t=@t.npy"}), 2, "input %i: i32[T] is not given");
  ExpectFailure(Sinter(folder, {"exec", "m.sir", "--input=t"}), 2, "expected NAME=@FILE.npy");
  EXPECT_FALSE(std::filesystem::exists(folder / "repro.sir"));
}

TEST(Exec, NamesTheDimOutsideItsRange) {
  TestFolder folder;
  WriteAll(folder / "g.sir",
           "module @m {\n  dim T in 1..8\n  dim P in 0..100\n  graph @main(%x: f32[T]) -> (f32[T]) {\n"
           "    %r = add %x, %x : f32[T]\n    return %r\n  }\n}\n");
  ASSERT_TRUE(WriteNpy(folder / "nine.npy", std::vector<float>(9), {9}).ok());
  ASSERT_TRUE(WriteNpy(folder / "two.npy", std::vector<float>(2), {2}).ok());
  ASSERT_EQ(Sinter(folder, {"compile", "g.sir", "-o", "g.sinter"}).code, 0);
  ExpectFailure(Sinter(folder, {"exec", "g.sinter", "--input=x=@nine.npy"}), 2,
                "@main: T is 9, expected 1 to 8; the inputs do not fit: found %x: f32[9]; expected %x: f32[T]");
  ExpectFailure(Sinter(folder, {"exec", "g.sinter", "--input=x=@two.npy", "--dim=P=500"}), 2,
                "P is 500, expected 0 to 100");
  EXPECT_EQ(Sinter(folder, {"exec", "g.sinter", "--input=x=@two.npy", "--dim=P=5"}).code, 0);
}

TEST(Compile, AModuleWithoutKernels) {
  TestFolder folder;
  WriteAll(folder / "n.sir", "module @m {\n  graph @main() -> () {\n    return\n  }\n}\n");
  const CliResult compiled = Sinter(folder, {"compile", "n.sir", "-o", "n.sinter", "--target=avx2,avx512"});
  EXPECT_EQ(compiled.code, 0) << compiled.err;
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"inspect", "n.sinter", "--verify"}, {"exec", "n.sinter"}, {"exec", "n.sir"}}) {
    const CliResult result = Sinter(folder, arguments);
    EXPECT_EQ(result.code, 0) << arguments[0] << " " << arguments[1] << ": " << result.err;
  }
  // Of no graph there is no module, and the one that was there stays.
  WriteAll(folder / "none.sir", "module @m {\n}\n");
  ExpectFailure(Sinter(folder, {"compile", "none.sir", "-o", "n.sinter"}), 4,
                "no graph, so there is nothing to compile");
  EXPECT_EQ(Sinter(folder, {"exec", "n.sinter"}).code, 0);
}

// Code that this CPU cannot run is not made to be run at once, and what a module has no code for is said as it is.
TEST(Targets, OfThisCpu) {
  TestFolder folder;
  WriteAll(folder / "m.gguf", MakeTinyModel({.seed = 38}).File());
  std::string strange, host;
  for (const Target& target : AllTargets()) (HostRuns(target) ? host : strange) = std::string(target.name);
  const std::vector<std::string> run = {"--prompt-ids=1,2,3", "-n3", "--temp=0", "--print-ids"};
  const auto with = [&](std::vector<std::string> arguments, bool runs = true) {
    if (runs) arguments.insert(arguments.end(), run.begin(), run.end());
    return Sinter(folder, arguments);
  };
  ASSERT_EQ(Sinter(folder, {"compile", "m.gguf", "-o", "s.sinter", "--target=avx2"}).code, 0);
  EXPECT_EQ(with({"run", "s.sinter", "--target=avx2"}).out, "7 35 123\n");
  EXPECT_EQ(with({"run", "s.sinter", "--target=avx2,avx512,avx512_bf16"}).out, "7 35 123\n");
  ExpectFailure(with({"run", "s.sinter", "--target=foo"}), 2, "unknown target \"foo\"; targets are native, avx2");
  if (host != "avx2") {
    ExpectFailure(with({"run", "s.sinter", "--target=" + host}), 2,
                  "no code for target \"" + host +
                      "\", only for \"avx2\"; ask for one of those; make the module anew, " + "with --target=" + host +
                      ": sinter compile m.gguf");
  }
  if (strange.empty()) GTEST_SKIP() << "this CPU runs every target";
  const std::string advice = "; leave out --target, or name one that it runs: avx2", flag = "--target=" + strange;
  for (const std::string model : {"m.gguf", "s.sinter", "preset:smallmind"}) {
    const CliResult result = with({"run", model, flag});
    ExpectFailure(result, 5, ") cannot run code for " + strange + ": it needs ");
    EXPECT_THAT(result.err, HasSubstr(advice));
  }
  EXPECT_FALSE(std::filesystem::exists(folder.cache() + "/sinter")) << "nothing was made";
  WriteAll(folder / "n.sir", "module @m {\n  graph @main() -> () {\n    return\n  }\n}\n");
  ExpectFailure(with({"exec", "n.sir", flag}, false), 5, advice);
  ExpectFailure(with({"bench", "m.gguf", flag}, false), 5, advice);
  ASSERT_EQ(with({"compile", "m.gguf", "-o", "strange.sinter", flag}, false).code, 0);  // for another machine
  ExpectFailure(with({"run", "strange.sinter"}), 5, "make the module anew for this CPU, with --target=native: sinter");
}

// A line a kernel: address, size, name, in hex; and the code that the map has moved still runs.
TEST(PerfMap, NamesEveryKernel) {
  TestFolder folder;
  WriteAll(folder / "m.gguf", MakeTinyModel({.seed = 38}).File());
  const CliResult run = Sinter(folder, {"run", "m.gguf", "--prompt-ids=1,2,3", "-n", "3", "--temp=0", "--print-ids",
                                        "--perf-map", "--huge-pages", "-t", "2"});
  EXPECT_EQ(run.out, "7 35 123\n") << run.err;
  const std::string path = "/tmp/perf-" + std::to_string(run.pid) + ".map";
  std::istringstream map(ReadAll(path));
  unlink(path.c_str());
  ASSERT_EQ(Sinter(folder, {"compile", "m.gguf", "-o", "m.sinter"}).code, 0);
  const Json kernels = Json::parse(Sinter(folder, {"inspect", "m.sinter", "--json"}).out, nullptr, false)["kernels"];
  size_t lines = 0;
  uint64_t address, size, largest = 0;
  for (std::string name; map >> std::hex >> address >> size >> name; ++lines) {
    EXPECT_EQ(name, kernels[lines]["name"]);
    EXPECT_GT(address, 0u);
    EXPECT_GT(size, 0u);
    largest = std::max(largest, size);
  }
  EXPECT_EQ(lines, kernels.size());
  EXPECT_LT(largest, 100000u);
}

TEST(Run, StopsAtTheEndTokenOfAVocabularyThatItCannotRead) {
  TestFolder folder;
  TinyModel m = MakeTinyModel({.seed = 38});
  m.Set("tokenizer.ggml.model", std::string("gpt2"));
  m.Set("tokenizer.ggml.eos_token_id", uint32_t{35});
  WriteAll(folder / "m.gguf", m.File());
  const std::vector<std::string> run = {"run", "m.gguf", "--prompt-ids=1,2,3", "-n3", "--temp=0", "--print-ids"};
  EXPECT_EQ(Sinter(folder, run).out, "7\n");
  std::vector<std::string> on = run;
  on.push_back("--ignore-eos");
  EXPECT_EQ(Sinter(folder, on).out, "7 35 123\n");
}

// The evaluator refuses it, too.
TEST(Text, WithAWeightOfAnotherShapeIsRefused) {
  TestFolder folder;
  WriteAll(folder / "w.sir", R"(module @m { graph @main() -> (f32[128]) {
    %w = weight "output_norm.weight" : f32[128]
    return %w } }
)");
  ExpectFailure(Sinter(folder, {"exec", "w.sir", "--weights=preset:smallmind"}), 4,
                "w.sir: @main: weight \"output_norm.weight\": expected f32[128]; the weight file has f32[256]");
}

TEST(PlannedText, WithALyingPlanIsRefused) {
  TestFolder folder;
  WriteAll(folder / "m.gguf", MakeTinyModel({.seed = 38}).File());
  const CliResult planned = Sinter(folder, {"compile", "m.gguf", "--emit=planned", "-O1"});
  ASSERT_EQ(planned.code, 0) << planned.err;
  std::string text = planned.out;
  // Every value of the arena at the same address: their lives overlap.
  text = std::regex_replace(text, std::regex("@arena\\+[0-9]+"), "@arena+0");
  ASSERT_NE(text, planned.out);
  WriteAll(folder / "lie.sir", text);
  ExpectFailure(Sinter(folder, {"run", "lie.sir", "--prompt-ids=1"}), 4, "lie.sir: plan of @main");
}

// Each class of malformed model file once; frontend_test and gguf_test have the rest.
TEST(Malformed, ModelFiles) {
  TestFolder folder;
  const std::string good = MakeTinyModel({.seed = 38}).File(), path = folder / "m.gguf";
  const auto refused = [&](const std::string& content, const char* message) {
    WriteAll(path, content);
    ExpectFailure(Sinter(folder, {"run", path, "--prompt-ids=1", "-n1"}), 4, message);
  };
  for (size_t i = 0; i < 50; ++i) {
    SCOPED_TRACE(i);
    refused(good.substr(0, good.size() * i / 50), "m.gguf");
  }
  std::string bad = good;
  bad[3] = 'L';
  refused(bad, "m.gguf");
  bad = good;
  bad[4] = 9;
  refused(bad, "version");
  for (size_t count : {size_t{8}, size_t{16}}) {  // tensors and keys
    bad = good;
    std::memset(bad.data() + count, 0xff, 8);
    refused(bad, "m.gguf");
  }
  TinyModel model = MakeTinyModel({.seed = 38});
  model.Erase("blk.0.attn_q.weight");
  refused(model.File(), "blk.0.attn_q.weight");
  model = MakeTinyModel({.seed = 38});
  model.Set("llama.attention.head_count", uint32_t{3});
  refused(model.File(), "head_count");
  model = MakeTinyModel({.seed = 38});
  model.Set("llama.embedding_length", uint32_t{0});
  refused(model.File(), "embedding_length");
  WriteAll(path, good);
  EXPECT_EQ(Sinter(folder, {"run", path, "--prompt-ids=1", "-n1"}).code, 0);
}

TEST(Malformed, CompiledModules) {
  TestFolder folder;
  WriteAll(folder / "m.gguf", MakeTinyModel({.seed = 38}).File());
  ASSERT_EQ(Sinter(folder, {"compile", "m.gguf", "-o", "good.sinter"}).code, 0);
  const std::string good = ReadAll(folder / "good.sinter");
  const auto run = [&](const std::string& content) {
    WriteAll(folder / "m.sinter", content);
    return Sinter(folder, {"run", "m.sinter", "--prompt-ids=1", "-n1", "--temp=0", "--print-ids"});
  };
  EXPECT_EQ(run(good).code, 0);
  for (size_t i = 0; i < 50; ++i) {
    SCOPED_TRACE(i);
    ExpectFailure(run(good.substr(0, good.size() * i / 50)), 4, "m.sinter");
  }
  uint64_t sections[3][4];  // offset, size and checksum of metadata, code and weights: module_format.h
  std::memcpy(sections, good.data() + 24, sizeof sections);
  const uint64_t places[] = {0,
                             16,
                             24,
                             60,
                             130,
                             2000,
                             sections[0][0] + 9,
                             sections[0][0] + sections[0][1] / 2,
                             sections[1][0] + 1,
                             sections[1][0] + sections[1][1] - 1};
  for (uint64_t place : places) {
    SCOPED_TRACE(place);
    std::string bad = good;
    bad[place] = static_cast<char>(bad[place] ^ 16);
    ExpectFailure(run(bad), 4, "m.sinter");
  }
  std::string version = good;
  version[8] = 77;
  ExpectFailure(run(version), 5, "make the module anew with: ");
  std::string weights = good;
  weights[sections[2][0] + 5] = static_cast<char>(weights[sections[2][0] + 5] ^ 1);
  EXPECT_EQ(run(weights).code, 0);  // loading does not read weights
  EXPECT_EQ(Sinter(folder, {"inspect", "m.sinter"}).code, 0);
  ExpectFailure(Sinter(folder, {"inspect", "m.sinter", "--verify"}), 4, "weights");
}

// The trained model: ids, text and logits that llama.cpp and float64 published for it.
class Trained : public testing::Test {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("SINTER_SHARED");
    stem_ = std::string(folder != nullptr ? folder : SINTER_SOURCE_DIR "/../shared") + "/models/stories260K.";
    if (!std::filesystem::exists(stem_ + "gguf")) GTEST_SKIP() << "no " << stem_ << "gguf";
    stem_ = std::filesystem::canonical(stem_ + "gguf").string();
    stem_.resize(stem_.size() - 4);
    golden_ = Json::parse(ReadAll(stem_ + "greedy.json"), nullptr, false);
    ASSERT_TRUE(golden_.is_object());
  }
  std::string stem_;
  Json golden_;
  TestFolder folder_;
};

TEST_F(Trained, IdsOnEveryTargetLevelAndNumberOfThreads) {
  const std::string expected = Joined(golden_["generated_ids"].get<std::vector<int>>());
  std::string prompt = Joined(golden_["prompt_ids"].get<std::vector<int>>());
  prompt.pop_back();
  std::replace(prompt.begin(), prompt.end(), ' ', ',');
  ASSERT_FALSE(RunnableTargets().empty());
  for (const std::string& target : RunnableTargets()) {
    for (const char* level : {"-O0", "-O2"}) {
      ASSERT_EQ(Sinter(folder_, {"compile", stem_ + "gguf", "-o", "m.sinter", level, "--target=" + target}).code, 0);
      for (const char* threads : {"1", "2"}) {
        for (const std::string& model : {stem_ + "gguf", std::string("m.sinter")}) {
          std::vector<std::string> arguments = {
              "run",   model,         "--prompt-ids=" + prompt, "-n", "200", "--temp", "0", "-t",
              threads, "--print-ids", "--target=" + target};
          if (model != "m.sinter") arguments.push_back(level);
          const CliResult run = Sinter(folder_, arguments);
          EXPECT_EQ(run.out, expected) << target << level << threads << model << run.err;
        }
      }
    }
  }
}

// Every fusion is optional.
TEST_F(Trained, IdsWithoutEachOptionalPass) {
  const std::string expected = Joined(golden_["generated_ids"].get<std::vector<int>>());
  std::string prompt = Joined(golden_["prompt_ids"].get<std::vector<int>>());
  prompt.pop_back();
  std::replace(prompt.begin(), prompt.end(), ' ', ',');
  for (const char* level : {"O1", "O2"}) {
    std::set<std::string> passes;
    for (absl::string_view name : absl::StrSplit(FindPipeline(level), ',')) {
      const PassInfo* pass = FindPass(absl::StripAsciiWhitespace(name));
      ASSERT_NE(pass, nullptr) << name;
      if (pass->from == pass->to) passes.emplace(pass->name);
    }
    EXPECT_GE(passes.size(), 11u);
    for (const std::string& pass : passes) {
      const CliResult run =
          Sinter(folder_, {"run", stem_ + "gguf", "--prompt-ids=" + prompt, "-n", "200", "--temp", "0", "-t", "2",
                           "--print-ids", std::string("-") + level, "--disable=" + pass});
      EXPECT_EQ(run.out, expected) << level << " without " << pass << run.err;
    }
  }
}

TEST_F(Trained, Text) {
  const CliResult run = Sinter(folder_, {"run", stem_ + "gguf", "-p", golden_["prompt"], "-n", "200", "--temp", "0"});
  EXPECT_EQ(run.out, golden_["text"].get<std::string>() + "\n") << run.err;
}

TEST_F(Trained, Logits) {
  for (const std::string& target : RunnableTargets()) {
    for (const char* level : {"-O0", "-O2"}) {
      std::string ids = "1,403,407,261,378,432,383,286,261,376";
      const CliResult run = Sinter(folder_, {"run", stem_ + "gguf", "--prompt-ids=" + ids, "-n0", level,
                                             "--target=" + target, "--logits=l.npy", "--chunk=4"});
      ASSERT_EQ(run.code, 0) << run.err;
      EXPECT_EQ(run.out, "");
      const auto found = ReadNpy(folder_ / "l.npy"), expected = ReadNpy(stem_ + "logits.npy");
      ASSERT_TRUE(found.ok() && expected.ok()) << found.status() << expected.status();
      EXPECT_EQ(found->dtype, DType::kF32);
      EXPECT_LT(Distance(*found, *expected), 1e-5) << target << level;
    }
  }
}

}  // namespace
}  // namespace sinter
