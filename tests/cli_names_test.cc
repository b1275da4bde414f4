// What the built program shows of files whose names attack whoever reads them: control characters and ANSI sequences,
// also as one character or one byte, marks of direction, line ends, what is no UTF-8. Nothing of that arrives on a
// terminal or in a report, and JSON is JSON.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/escape.h"
#include "base/utf8.h"
#include "tests/cli_run.h"
#include "tests/module_builder.h"
#include "tests/tiny_models.h"

namespace sinter {
namespace {

using ::testing::HasSubstr;

// Sets a title, clears the screen (twice, in other words), turns the direction of the text, forges a line.
const char kAttack[] =
    "\x1b]0;t\x07\x1b[2J\xc2\x9b"
    "2J\xe2\x80\xae"
    "abc\xe2\x81\xa6\xe2\x80\x8b\xff\r\nsinter: error: forged\x7f";
const char kShown[] =
    "\\x1b]0;t\\x07\\x1b[2J\\u{9b}2J\\u{202e}abc\\u{2066}\\u{200b}\\xff\\r\\nsinter: error: forged\\x7f";

// Escaping finds nothing left to do, and no line was forged.
void ExpectSafe(const std::string& text) {
  EXPECT_EQ(EscapedLines(text), text);
  EXPECT_EQ(text.find("\nsinter: error: forged"), std::string::npos) << text;
}

class Names : public ::testing::Test {
 protected:
  CliResult Run(const std::vector<std::string>& arguments) {
    const CliResult result = Sinter(folder_, arguments);
    ExpectSafe(result.out);
    ExpectSafe(result.err);
    return result;
  }
  TestFolder folder_;
};

TinyModel Attacking() {
  TinyModel m = MakeTinyModel({});
  m.Set("general.name", std::string(kAttack));
  m.Set(absl::StrCat("key", kAttack), uint32_t{1});
  m.Set("\x1b[2Jk", uint32_t{1});  // short enough to stand in a table whole
  return m;
}

TEST_F(Names, OfAModelThatRuns) {
  TinyModel m = Attacking();
  auto tokens = std::get<std::vector<std::string>>(*m.FindKey("tokenizer.ggml.tokens"));
  tokens[270] = kAttack;
  m.Set("tokenizer.ggml.tokens", tokens);
  WriteAll(folder_ / "m.gguf", m.File());
  const CliResult text = Run({"inspect", "m.gguf"});
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr(std::string("key\\x1b]0;t\\x07\\x1b[2J\\u{9b}2J\\u{202e}abc")));
  EXPECT_THAT(text.out, HasSubstr("\n  \\x1b[2Jk"));
  EXPECT_THAT(text.out, HasSubstr("model_name           \\x1b]0;t\\x07"));
  const CliResult json = Run({"inspect", "m.gguf", "--json"});
  EXPECT_EQ(json.code, 0) << json.err;
  for (char c : json.out) ASSERT_TRUE(c == '\n' || (c >= ' ' && c <= '~')) << static_cast<int>(c);
  const auto report = nlohmann::json::parse(json.out);
  EXPECT_THAT(report.at("keys").dump(), HasSubstr("\\u001b]0;t"));

  const CliResult compiled = Run({"compile", "m.gguf", "-o", "m.sinter"});
  EXPECT_EQ(compiled.code, 0) << compiled.err;
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"inspect", "m.sinter"},
                                             {"inspect", "m.sinter", "--json"},
                                             {"compile", "m.gguf", "--emit=sir"},
                                             {"compile", "m.gguf", "--emit=asm", "--target=avx2"},
                                             {"run", "m.sinter", "--prompt-ids=1,2", "-n", "2", "--print-ids"}}) {
    EXPECT_EQ(Run(arguments).code, 0) << arguments[0] << " " << arguments[1];
  }
  // What a model says is not changed: it is what the user asked for.
  const CliResult said = Sinter(folder_, {"run", "m.sinter", "--prompt-ids=270", "-n", "0"});
  EXPECT_EQ(said.code, 0) << said.err;
}

TEST_F(Names, InEveryRefusal) {
  struct Case {
    const char* name;
    std::function<void(TinyModel&)> change;
    int code;
  };
  const auto tokens_with = [](TinyModel& m, size_t at, const std::string& token) {
    auto tokens = std::get<std::vector<std::string>>(*m.FindKey("tokenizer.ggml.tokens"));
    tokens[at] = token;
    m.Set("tokenizer.ggml.tokens", tokens);
  };
  const Case cases[] = {
      {"architecture", [](TinyModel& m) { m.Set("general.architecture", std::string(kAttack)); }, 3},
      {"rope scaling", [](TinyModel& m) { m.Set("llama.rope.scaling.type", std::string(kAttack)); }, 3},
      {"tensor",
       [](TinyModel& m) {
         m.Add({kAttack, {2}, GgufWriter::kF32, {1, 2}, {}});
       },
       3},
      {"tensor of a layer",
       [](TinyModel& m) {
         m.Add({absl::StrCat("blk.0.", kAttack), {2}, GgufWriter::kF32, {1, 2}, {}});
       },
       3},
      {"tensor twice",
       [](TinyModel& m) {
         for (int i = 0; i < 2; ++i) m.Add({kAttack, {2}, GgufWriter::kF32, {1, 2}, {}});
       },
       4},
      {"tokenizer", [](TinyModel& m) { m.Set("tokenizer.ggml.model", std::string(kAttack)); }, 3},
      {"token twice", [&](TinyModel& m) { tokens_with(m, 270, kAttack), tokens_with(m, 271, kAttack); }, 4},
      {"byte token", [&](TinyModel& m) { tokens_with(m, 70, kAttack); }, 4},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    TinyModel m = Attacking();
    c.change(m);
    WriteAll(folder_ / "m.gguf", m.File());
    const CliResult result = Run({"run", "m.gguf", "-p", "a", "-n", "1"});
    EXPECT_EQ(result.code, c.code) << result.err;
    EXPECT_THAT(result.err, HasSubstr("\\x1b]0;t\\x07"));
    Run({"inspect", "m.gguf"});
    Run({"inspect", "m.gguf", "--json"});
    Run({"tokenize", "m.gguf", "-p", "a"});
  }
  EXPECT_EQ(Escaped(kAttack), kShown);
}

TEST_F(Names, OfAText) {
  const std::string name = absl::StrCat("\"", kAttack, "\"");
  std::string one_line = name;
  one_line.erase(one_line.find('\n'), 1);
  const std::string text =
      absl::StrCat("module @", one_line, " { graph @", one_line, "(%", one_line, ": f32[4]) -> (f32[4]) {\n%y = neg %",
                   one_line, " : f32[4] loc ", one_line, "\nreturn %y } }\n");
  WriteAll(folder_ / "m.sir", text);
  EXPECT_EQ(Run({"opt", "m.sir", "--passes="}).code, 0);
  EXPECT_EQ(Run({"opt", "m.sir", "--passes=canonicalize", "--print-after=canonicalize", "--stats", "--time"}).code, 0);
  EXPECT_EQ(Run({"compile", "m.sir", "--emit=asm"}).code, 0);
  EXPECT_EQ(Run({"compile", "m.sir", "-O1", "--emit=planned"}).code, 0);
  EXPECT_EQ(Run({"compile", "m.sir", "-o", "m.sinter"}).code, 0);
  EXPECT_EQ(Run({"inspect", "m.sinter"}).code, 0);
  EXPECT_EQ(Run({"inspect", "m.sinter", "--json"}).code, 0);
  EXPECT_EQ(Run({"exec", "m.sinter"}).code, 2);
  EXPECT_EQ(Run({"opt", "m.sir", "--passes=fuse-rms-norm", "--explain=rms-norm"}).code, 0);
  WriteAll(folder_ / "bad.sir", text + kAttack);
  EXPECT_EQ(Run({"opt", "bad.sir"}).code, 4);
}

// In reports, where a name is a cell and a module says with what flags it was made.
TEST_F(Names, InReports) {
  const std::string name = "\x1b[2J|,\"\xff\n.gguf", shown = "\\x1b[2J|,\"\\xff\\n.gguf";
  WriteAll(folder_ / name, MakeTinyModel({}).File());
  fbs::MetadataT metadata = testing::LanguageModel();
  metadata.options = kAttack;
  const std::vector<uint8_t> module = testing::ModuleBytes(metadata);
  WriteAll(folder_ / "m.sinter", std::string(module.begin(), module.end()));
  const std::string ids = "--prompt-ids=1,2,3,4,5,6";
  const std::string cell = absl::StrReplaceAll(shown, {{"|", "\\|"}});
  const std::string quoted = absl::StrCat("\n\"", absl::StrReplaceAll(shown, {{"\"", "\"\""}}), "\",pp4,");
  struct Case {
    std::vector<std::string> arguments;
    std::string expected;
  };
  for (const Case& c : std::vector<Case>{{{"bench", name, "-p4", "-n0", "-r1"}, absl::StrCat("| ", cell, " | pp4 |")},
                                         {{"bench", name, "-p4", "-n0", "-r1", "-ocsv"}, quoted},
                                         {{"bench", name, "-p4", "-n0", "-r1", "-ojson"}, "\\u001b[2J|,"},
                                         {{"perplexity", name, ids}, absl::StrCat("| ", cell, " | 6 |")},
                                         {{"compare", name, name, ids}, absl::StrCat("A: ", shown, " on ")},
                                         {{"compare", "m.sinter", "m.sinter", ids}, absl::StrCat(", ", kShown, "\n")},
                                         {{"compare", "m.sinter", "m.sinter", ids, "-ojson"}, "\\u001b]0;t"}}) {
    SCOPED_TRACE(::testing::PrintToString(c.arguments));
    const CliResult result = Run(c.arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_THAT(result.out, HasSubstr(c.expected));
  }
}

}  // namespace
}  // namespace sinter
