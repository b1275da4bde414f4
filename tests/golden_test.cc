// Golden files: every tests/golden/TOPIC/*.sir is a test.
//
//   // RUN: opt --passes=TEXT [--target=LIST]      the first line; targets are avx2,avx512 unless said otherwise
//   module @m { ... }
//   // EXPECT
//   module @m { ... }                              the whole output, byte for byte
//
// A file is called fail_* if and only if it fails; it has no EXPECT, and `// error: TEXT` stands on the offending line.
// Passes run with everything that checks them: the verifier, --check-each and --check-changed; planned modules are
// judged by CheckPlan too. `golden_test --update` rewrites expectations and passes/PASSES.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"
#include "ir/text.h"
#include "passes/pipeline.h"
#include "passes/plan_check.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;

bool update = false;

const std::string kRun = "// RUN: opt", kExpect = "// EXPECT\n", kError = "// error: ";
const fs::path kRoot = SINTER_SOURCE_DIR;
const fs::path kGolden = kRoot / "tests" / "golden";

std::vector<std::string> GoldenFiles() {
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(kGolden)) {
    if (entry.path().extension() == ".sir") files.push_back(fs::relative(entry.path(), kGolden).string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

struct Run {
  std::string passes, targets = "avx2,avx512", precision = "fast";
};

absl::StatusOr<Run> ParseRun(absl::string_view line) {
  if (!absl::StartsWith(line, kRun)) return absl::InvalidArgumentError("the first line is not // RUN: opt ...");
  line = line.substr(kRun.size(), line.find("// error:", 1) - kRun.size());
  Run run;
  for (absl::string_view flag : absl::StrSplit(line, ' ', absl::SkipEmpty())) {
    const std::pair<absl::string_view, std::string> parts = absl::StrSplit(flag, absl::MaxSplits('=', 1));
    if (parts.first == "--passes") {
      run.passes = parts.second;
    } else if (parts.first == "--target") {
      run.targets = parts.second;
    } else if (parts.first == "--precision") {
      run.precision = parts.second;
    } else {
      return absl::InvalidArgumentError(absl::StrCat("unknown flag ", flag));
    }
  }
  return run;
}

absl::StatusOr<std::string> Opt(absl::string_view text, const std::string& file) {
  SINTER_ASSIGN_OR_RETURN(const Run run, ParseRun(text.substr(0, text.find('\n'))));
  PassContext context;
  SINTER_ASSIGN_OR_RETURN(context.targets, ParseTargets(run.targets));
  context.fast = run.precision == "fast";
  SINTER_ASSIGN_OR_RETURN(const std::unique_ptr<Module> module, Parse(text, file));
  SINTER_ASSIGN_OR_RETURN(const auto passes, ParsePipeline(run.passes, module->stage));
  PipelineOptions options;
  options.check_each = options.check_changed = true;
  options.repro_path = "";
  SINTER_RETURN_IF_ERROR(RunPipeline(*module, passes, context, options).status());
  if (module->stage == Stage::kPlanned) SINTER_RETURN_IF_ERROR(CheckPlan(*module));
  return Print(*module);
}

// The error that a fail_* file promises: its text, its line, and the value that this line makes.
void CheckError(const std::string& text, const std::string& file, const absl::Status& status) {
  const size_t at = text.find(kError);
  ASSERT_NE(at, std::string::npos) << "a file called fail_* needs " << kError << "TEXT on the offending line";
  const size_t begin = text.rfind('\n', at) + 1;
  const std::string expected = text.substr(at + kError.size(), text.find('\n', at) - at - kError.size());
  const std::string message(status.message());
  EXPECT_TRUE(absl::StrContains(message, expected)) << "expected: " << expected << "\nfound: " << message;
  if (absl::StartsWith(message, file)) {
    const auto line = std::count(text.begin(), text.begin() + static_cast<int64_t>(at), '\n') + 1;
    EXPECT_TRUE(absl::StartsWith(message, absl::StrCat(file, ":", line, ":"))) << "on another line: " << message;
  } else if (const std::string code = text.substr(begin, at - begin); absl::StrContains(code, '%')) {
    const size_t value = code.find('%');
    const std::string name = code.substr(value, code.find_first_of(" ,", value) - value);
    EXPECT_TRUE(absl::StrContains(message, name)) << "says nothing of " << name << ": " << message;
  }
}

class Golden : public testing::TestWithParam<std::string> {};

TEST_P(Golden, File) {
  const std::string& file = GetParam();
  const absl::StatusOr<std::string> content = ReadFile((kGolden / file).string());
  ASSERT_TRUE(content.ok()) << content.status();
  const bool fails = absl::StartsWith(fs::path(file).filename().string(), "fail_");
  const size_t expect = content->find(kExpect);
  const std::string input = content->substr(0, expect);
  const absl::StatusOr<std::string> output = Opt(input, file);
  EXPECT_EQ(output.ok(), !fails) << output.status();
  if (!output.ok()) {
    if (fails) CheckError(input, file, output.status());
    return;
  }
  if (update) {
    ASSERT_TRUE(WriteFile((kGolden / file).string(), absl::StrCat(input, kExpect, *output)).ok());
    return;
  }
  ASSERT_NE(expect, std::string::npos) << "no " << kExpect;
  EXPECT_EQ(content->substr(expect + kExpect.size()), *output) << "if this is right: golden_test --update";
}

INSTANTIATE_TEST_SUITE_P(, Golden, testing::ValuesIn(GoldenFiles()), [](const auto& param) {
  std::string name = param.param.substr(0, param.param.size() - 4);
  for (char& c : name) {
    if (!isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
});

// STEM.sir or STEM_*.sir.
TEST(Passes, EveryPassOwnsAGoldenFile) {
  const std::vector<std::string> files = GoldenFiles();
  for (const PassInfo& pass : AllPasses()) {
    const std::string stem = absl::StrReplaceAll(pass.name, {{"-", "_"}});
    EXPECT_TRUE(std::any_of(files.begin(), files.end(),
                            [&](const std::string& file) {
                              const std::string name = fs::path(file).stem().string();
                              return name == stem || absl::StartsWith(name, stem + "_");
                            }))
        << "no golden file for " << pass.name;
  }
}

TEST(Passes, PageIsCurrent) {
  const std::string path = (kRoot / "passes" / "PASSES.md").string();
  if (update) {
    ASSERT_TRUE(WriteFile(path, PassesMarkdown()).ok());
  }
  const absl::StatusOr<std::string> page = ReadFile(path);
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_EQ(*page, PassesMarkdown()) << "golden_test --update";
}

}  // namespace
}  // namespace sinter

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) sinter::update |= absl::string_view(argv[i]) == "--update";
  return RUN_ALL_TESTS();
}
