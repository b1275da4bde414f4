// The verbs perplexity and compare through the built program, against the logits that `run --logits` writes.
#include <cmath>
#include <nlohmann/json.hpp>

#include "backend/target.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cli_run.h"
#include "tests/tiny_models.h"
#include "tools/npy.h"

namespace sinter {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;
using testing::Not;

const std::vector<int> kIds = {1, 17, 268, 4, 99, 260, 7, 33, 280, 12, 71, 200, 45, 259, 3, 18, 90, 111, 8, 270};

class Accuracy : public testing::Test {
 protected:
  std::string Model(const std::string& name, const TinyOptions& options) {
    WriteAll(folder_ / name, MakeTinyModel(options).File());
    return name;
  }
  CliResult Run(std::vector<std::string> arguments) { return Sinter(folder_, std::move(arguments)); }
  // What `-o json` prints.
  Json Report(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"-o", "json"});
    const CliResult result = Run(arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    return Json::parse(result.out, nullptr, false);
  }
  static std::string List(const std::vector<int>& ids) {
    std::string text = Joined(ids);
    for (char& c : text) c = c == ' ' ? ',' : c;
    text.pop_back();
    return text;
  }
  static std::string IdsFlag(const std::vector<int>& ids) { return "--prompt-ids=" + List(ids); }
  // The logits of every position, rows of a vocabulary.
  Tensor Logits(const std::string& model, const std::vector<int>& ids) {
    const CliResult result = Run({"run", model, IdsFlag(ids), "-n", "0", "--logits=logits.npy"});
    EXPECT_EQ(result.code, 0) << result.err;
    return *ReadNpy(folder_ / "logits.npy");
  }
  // Probabilities of a row, in long double and without any shift: tiny models have small logits.
  static std::vector<long double> Softmax(const Tensor& logits, size_t row) {
    const size_t vocabulary = static_cast<size_t>(logits.dims[1]);
    std::vector<long double> p;
    long double sum = 0;
    for (size_t i = 0; i < vocabulary; ++i) {
      p.push_back(std::exp(static_cast<long double>(logits.values[row * vocabulary + i])));
      sum += p.back();
    }
    for (long double& v : p) v /= sum;
    return p;
  }
  // -log p of the tokens that follow positions first..size-2 of one window.
  std::vector<double> Nll(const std::string& model, const std::vector<int>& ids, size_t first) {
    const Tensor logits = Logits(model, ids);
    std::vector<double> nll;
    for (size_t i = first; i + 1 < ids.size(); ++i) {
      nll.push_back(static_cast<double>(-std::log(Softmax(logits, i)[static_cast<size_t>(ids[i + 1])])));
    }
    return nll;
  }
  static double Mean(const std::vector<double>& values) {
    double sum = 0;
    for (double v : values) sum += v;
    return sum / static_cast<double>(values.size());
  }

  TestFolder folder_;
};

TEST_F(Accuracy, PerplexityIsThatOfTheLogits) {
  const std::string model = Model("m.gguf", {.seed = 38});
  const std::vector<double> all = Nll(model, kIds, 0), half = Nll(model, kIds, 10);
  ASSERT_EQ(all.size(), 19u);
  const Json whole = Report({"perplexity", model, IdsFlag(kIds), "--count=all"});
  EXPECT_EQ(whole["positions"], 19);
  EXPECT_EQ(whole["window"], 20);
  EXPECT_EQ(whole["windows"], 1);
  EXPECT_EQ(whole["bos"], nullptr);
  EXPECT_NEAR(whole["nll"], Mean(all), 1e-6);
  EXPECT_NEAR(whole["perplexity"], std::exp(Mean(all)), 1e-4 * std::exp(Mean(all)));
  double squares = 0;
  for (double v : all) squares += (v - Mean(all)) * (v - Mean(all));
  EXPECT_NEAR(whole["nll_error"], std::sqrt(squares / 18 / 19), 1e-6);
  EXPECT_GT(whole["tokens_per_s"], 0);
  const Json second = Report({"perplexity", model, IdsFlag(kIds)});
  EXPECT_EQ(second["positions"], 9);
  EXPECT_NEAR(second["nll"], Mean(half), 1e-6);
  // The logits of a step at a time, whatever a step takes.
  for (const char* chunk : {"--chunk=1", "--chunk=3", "--chunk=11"}) {
    EXPECT_NEAR(Report({"perplexity", model, IdsFlag(kIds), chunk})["nll"], Mean(half), 1e-4) << chunk;
  }
}

TEST_F(Accuracy, WindowsAreReadFromAnEmptyContext) {
  const std::string model = Model("m.gguf", {.seed = 38});
  std::vector<double> nll = Nll(model, {kIds.begin(), kIds.begin() + 8}, 4);
  for (double v : Nll(model, {kIds.begin() + 8, kIds.begin() + 16}, 4)) nll.push_back(v);
  ASSERT_EQ(nll.size(), 6u);
  const Json report = Report({"perplexity", model, IdsFlag(kIds), "--window=8"});
  EXPECT_EQ(report["text_tokens"], 20);
  EXPECT_EQ(report["windows"], 2);
  EXPECT_EQ(report["positions"], 6);
  EXPECT_NEAR(report["nll"], Mean(nll), 1e-6);
  // A text longer than the context of 64.
  std::vector<int> many(150);
  for (size_t i = 0; i < many.size(); ++i) many[i] = static_cast<int>(3 + i * 7 % 280);
  const Json longer = Report({"perplexity", model, IdsFlag(many)});
  EXPECT_EQ(longer["window"], 64);
  EXPECT_EQ(longer["windows"], 2);
  EXPECT_EQ(longer["positions"], 2 * 31);
}

TEST_F(Accuracy, BosBeginsEveryWindowOfText) {
  const std::string model = Model("m.gguf", {.seed = 38});
  const std::string text = "abba cab</s> bad dab fed a cafe";
  WriteAll(folder_ / "text", text);
  std::vector<int> ids = {1};
  std::istringstream words(Run({"tokenize", model, "-p", text, "--no-special"}).out);
  for (int id; words >> id;) ids.push_back(id);
  ASSERT_GE(ids.size(), 24u);
  for (int id : ids) EXPECT_NE(id, 2) << "a control token in the text is text";
  const Json report = Report({"perplexity", model, "-f", "text", "--window=12"});
  EXPECT_EQ(report["text_tokens"], ids.size());
  EXPECT_EQ(report["bos"], 1);
  ids[12] = 1;
  EXPECT_EQ(report["nll"], Report({"perplexity", model, IdsFlag(ids), "--window=12"})["nll"]);
  EXPECT_EQ(report["nll"], Report({"perplexity", model, "-p", text, "--window=12"})["nll"]);
}

TEST_F(Accuracy, CompareIsThatOfTheLogits) {
  const std::string a = Model("a.gguf", {.seed = 38}), b = Model("b.gguf", {.seed = 39});
  const Tensor logits_b = Logits(b, kIds), logits_a = Logits(a, kIds);
  std::filesystem::rename(folder_ / "logits.npy", folder_ / "a.npy");
  Logits(b, kIds);
  std::filesystem::rename(folder_ / "logits.npy", folder_ / "b.npy");
  std::vector<double> kl;
  double same = 0, difference = 0, reference = 0;
  for (size_t row = 0; row + 1 < kIds.size(); ++row) {
    const auto p = Softmax(logits_a, row), q = Softmax(logits_b, row);
    long double sum = 0;
    for (size_t i = 0; i < p.size(); ++i) {
      sum += p[i] * std::log(p[i] / q[i]);
      const double at_a = logits_a.values[row * p.size() + i], at_b = logits_b.values[row * p.size() + i];
      difference += (at_b - at_a) * (at_b - at_a);
      reference += at_a * at_a;
    }
    kl.push_back(static_cast<double>(sum));
    same += std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin();
  }
  const double perplexity_a = Report({"perplexity", a, IdsFlag(kIds), "--count=all"})["perplexity"];
  for (const std::vector<std::string>& sides : std::vector<std::vector<std::string>>{
           {"a.gguf", "b.gguf"}, {"a.gguf", "b.npy"}, {"a.npy", "b.gguf"}, {"a.npy", "b.npy"}}) {
    SCOPED_TRACE(sides[0] + " " + sides[1]);
    const Json report = Report({"compare", sides[0], sides[1], IdsFlag(kIds), "--count=all"});
    EXPECT_EQ(report["positions"], 19);
    EXPECT_NEAR(report["kl"], Mean(kl), 1e-5 * Mean(kl));
    EXPECT_NEAR(report["kl_max"], *std::max_element(kl.begin(), kl.end()), 1e-4);
    EXPECT_GT(report["kl_error"], 0);
    EXPECT_NEAR(report["top1_percent"], 100 * same / 19, 1e-9);
    EXPECT_NEAR(report["logits_nmse"], difference / reference, 1e-5);
    EXPECT_NEAR(report["perplexity_a"].get<double>() / perplexity_a, 1, 1e-4);
    EXPECT_NEAR(report["perplexity_ratio"].get<double>(),
                report["perplexity_b"].get<double>() / report["perplexity_a"].get<double>(), 1e-9);
  }
}

TEST_F(Accuracy, AModelIsComparedWithItselfUnderOtherFlags) {
  const std::string model = Model("m.gguf", {.seed = 38});
  const Json same = Report({"compare", model, model, IdsFlag(kIds)});
  EXPECT_EQ(same["kl"], 0);
  EXPECT_EQ(same["top1_percent"], 100);
  EXPECT_EQ(same["perplexity_ratio"], 1);
  EXPECT_EQ(same["logits_rms"], 0);
  const Json kv = Report({"compare", model, IdsFlag(kIds), "--kv=f32", "--ctx=32", "--b-flags=--kv=f16 --passes=O1"});
  EXPECT_EQ(kv["a"]["model"], kv["b"]["model"]);
  EXPECT_THAT(kv["a"]["flags"], HasSubstr("--passes=O2 --ctx=32"));
  EXPECT_THAT(kv["a"]["flags"], HasSubstr("--kv=f32"));
  EXPECT_THAT(kv["b"]["flags"], HasSubstr("--passes=O1 --ctx=32"));
  EXPECT_THAT(kv["b"]["flags"], HasSubstr("--kv=f16"));
  EXPECT_GT(kv["kl"], 0);
  EXPECT_LT(kv["kl"], 1e-3);
  EXPECT_GT(kv["logits_nmse"], 0);
  const Json other = Report({"compare", model, IdsFlag(kIds), "--a-flags", "--kv=f16", "--b-flags", "--kv f32"});
  EXPECT_THAT(other["a"]["flags"], HasSubstr("--kv=f16"));
  EXPECT_NEAR(other["logits_rms"], kv["logits_rms"], 1e-4);
  if (HostRuns(*FindTarget("avx2"))) {
    const Json target = Report({"compare", model, IdsFlag(kIds), "--b-flags=--target=avx2"});
    EXPECT_EQ(target["b"]["target"], "avx2");
    EXPECT_EQ(target["a"]["flags"], target["b"]["flags"]);
  }
  // A compiled module is compared too, with its own flags.
  ASSERT_EQ(Run({"compile", model, "-o", "m.sinter", "--kv=f16"}).code, 0);
  EXPECT_EQ(Report({"compare", "m.sinter", model, IdsFlag(kIds), "--b-flags=--kv=f16"})["kl"], 0);
  // Without a file.
  const Json preset = Report({"compare", "preset:smallmind", IdsFlag(kIds), "--b-flags=-O0"});
  EXPECT_EQ(preset["positions"], 9);
  EXPECT_LT(preset["kl"], 1e-6);
}

TEST_F(Accuracy, RoundedRowsOfQuantizedProductsHaveAPrice) {
  const std::string model = Model("q.gguf", {.type = GgufWriter::kQ8_0, .seed = 1043});
  const Json report = Report(
      {"compare", model, IdsFlag(kIds), "--kv=f32", "--a-flags=--precision=exact", "--b-flags=--precision=fast"});
  EXPECT_GT(report["kl"], 1e-9);
  EXPECT_LT(report["kl"], 0.05);
  EXPECT_LT(report["logits_nmse"], 1e-2);
}

TEST_F(Accuracy, ADivergenceCanBeTooLarge) {
  const std::string a = Model("a.gguf", {.seed = 38}), b = Model("b.gguf", {.seed = 39});
  const CliResult far = Run({"compare", a, b, IdsFlag(kIds), "--max-kl=1e-3"});
  EXPECT_EQ(far.code, 1) << far.err;
  EXPECT_THAT(far.out, HasSubstr("perplexity of A"));
  EXPECT_THAT(far.err, HasSubstr("more than --max-kl=0.001"));
  EXPECT_EQ(Run({"compare", a, b, IdsFlag(kIds), "--max-kl=1e3"}).code, 0);
  EXPECT_EQ(Run({"compare", a, a, IdsFlag(kIds), "--max-kl=0"}).code, 0);
}

TEST_F(Accuracy, TablesAreForPeople) {
  const std::string model = Model("m.gguf", {.seed = 38});
  const CliResult perplexity = Run({"perplexity", model, IdsFlag(kIds)});
  EXPECT_THAT(perplexity.out, HasSubstr("| model | window | windows | positions | perplexity |"));
  EXPECT_THAT(perplexity.out, HasSubstr("| m.gguf | 20 | 1 | 9 | "));
  EXPECT_THAT(perplexity.err, HasSubstr("kept "));
  const CliResult again = Run({"perplexity", model, IdsFlag(kIds)});
  EXPECT_THAT(again.err, Not(HasSubstr("kept "))) << "the cache of run serves it";
  EXPECT_THAT(Run({"compare", model, model, IdsFlag(kIds), "--no-cache"}).out,
              HasSubstr("| same likeliest token, % | 100 | 0 |"));
  for (const char* verb : {"perplexity", "compare"}) {
    ExpectFailure(Spawn(folder_, {"/bin/sh", "-c",
                                  std::string(SINTER_BINARY) + " " + verb + " m.gguf " +
                                      (verb[0] == 'c' ? "m.gguf " : "") + IdsFlag(kIds) + " > /dev/full"}),
                  6, "cannot write to stdout");
  }
}

TEST_F(Accuracy, SaysWhatIsWrong) {
  const std::string model = Model("m.gguf", {.seed = 38});
  const std::string other = "preset:smallmind";  // a vocabulary of 512
  Logits(model, {1, 2, 3, 4, 5, 6});
  ASSERT_EQ(Run({"compile", model, "-o", "m.sinter"}).code, 0);
  WriteAll(folder_ / "empty", "");
  Tensor nan = Tensor::Zeros(DType::kF32, {20, 288});
  nan.values[19] = std::nan("");
  ASSERT_TRUE(WriteNpy(folder_ / "nan.npy", nan).ok());
  ASSERT_TRUE(WriteNpy(folder_ / "flat.npy", Tensor::Zeros(DType::kF32, {288})).ok());
  const std::string ids = IdsFlag(kIds);
  struct Case {
    std::vector<std::string> arguments;
    int code;
    const char* message;
  };
  const Case cases[] = {
      {{"perplexity", model}, 2, "give one with -p, -f or --prompt-ids"},
      {{"perplexity", model, "-p", ""}, 2, "the prompt is empty"},
      {{"perplexity", model, "-f", "empty"}, 2, "the prompt is empty"},
      {{"perplexity", model, "-f", "absent"}, 2, "absent: cannot open"},
      {{"perplexity", "absent.gguf", ids}, 2, "absent.gguf: cannot open"},
      {{"perplexity", model, "-p", "a", ids}, 2, "give one of -p, -f and --prompt-ids"},
      {{"perplexity", model, "--prompt-ids=1,2,3,4"}, 2, "the text has 4 tokens, expected at least 5; give more text"},
      {{"perplexity", model, "--prompt-ids=1,2", "--count=all"}, 2, "the text has 2 tokens, expected at least 3"},
      {{"perplexity", model, ids, "--window=21"}, 2, "the text has 20 tokens, expected at least 21, the window"},
      {{"perplexity", model, ids, "--window=65"}, 2, "--window: 65 tokens, but the context has 64 positions"},
      {{"perplexity", model, ids, "--window=4"}, 2, "expected at least 5: with --count=half"},
      {{"perplexity", model, ids, "--ctx=4"}, 2, "the context has 4 positions, expected at least 5"},
      {{"perplexity", model, ids, "--count=most"}, 2, "--count"},
      {{"perplexity", model, "--prompt-ids=1,2,3,4,5,288"}, 2, "token 288 is outside the vocabulary of 288"},
      {{"perplexity", model, "--prompt-ids=1,2,3,4,5,-1"}, 2, "token -1 is outside"},
      {{"perplexity", other, "-p", "some text"}, 3, "--prompt-ids"},
      {{"compare", model, ids}, 2, "compare with what?"},
      {{"compare", model, ids, "--a-flags=-O1", "--b-flags=-O1"}, 2, "compare with what?"},
      {{"compare", model, other, ids}, 2, "m.gguf has a vocabulary of 288, preset:smallmind one of 512"},
      {{"compare", model, "absent.gguf", ids}, 2, "absent.gguf: cannot open"},
      {{"compare", model, "absent.npy", ids}, 2, "absent.npy"},
      {{"compare", model, ids, "--b-flags=--kv=f8"}, 2, "--b-flags=\"--kv=f8\": --kv"},
      {{"compare", model, ids, "--b-flags=--melt"}, 2, "--melt"},
      {{"compare", "absent.gguf", "absent.gguf", ids, "--b-flags=--kv=f8"}, 2, "--b-flags"},  // before A is opened
      {{"compare", model, "logits.npy", ids}, 2, "logits.npy: logits of 6 positions, but 20 tokens"},
      {{"compare", model, "logits.npy", "--prompt-ids=1,2,3,4,5,6", "--b-flags=-O1"}, 2, "which no flag shapes"},
      {{"compare", "m.sinter", ids, "--b-flags=--kv=f16"}, 2, "--b-flags: m.sinter is compiled already"},
      {{"perplexity", "m.sinter", ids, "--window=65"}, 2, "give fewer; a module compiled with --ctx=N gives more"},
      {{"compare", model, "flat.npy", ids}, 4, "flat.npy: an array of shape [288], expected the logits of a model"},
      {{"compare", model, "nan.npy", ids, "--count=all"}, 4, "nan.npy: position 0: the logit of token 19 is nan"},
      {{"compare", "logits.npy", model, "-p", "text of some length"}, 3, "has no tokenizer; give the prompt as token"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(testing::PrintToString(c.arguments));
    ExpectFailure(Run(c.arguments), c.code, c.message);
  }
}

}  // namespace
}  // namespace sinter
