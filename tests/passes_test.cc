// Properties of passes that hold for any module: what they mean stays, and a second run finds nothing to do.
#include <gtest/gtest.h>

#include <algorithm>

#include "absl/strings/str_join.h"
#include "base/status.h"
#include "ir/text.h"
#include "passes/pipeline.h"
#include "random_module.h"

namespace sinter {
namespace {

std::unique_ptr<Module> ParseOrDie(const std::string& text) {
  absl::StatusOr<std::unique_ptr<Module>> module = Parse(text, "test.sir");
  if (!module.ok()) ADD_FAILURE() << module.status() << "\n" << text;
  return module.ok() ? *std::move(module) : nullptr;
}

absl::StatusOr<std::vector<PassRecord>> RunChecked(Module& module, absl::string_view passes) {
  SINTER_ASSIGN_OR_RETURN(const auto list, ParsePipeline(passes, module.stage));
  PassContext context{{&AllTargets()[0]}};
  PipelineOptions options;
  options.check_each = options.check_changed = true;
  options.repro_path = "";
  return RunPipeline(module, list, context, options);
}

TEST(Canonicalize, RandomModulesMeanTheSame) {
  int64_t erased = 0;
  for (uint32_t seed = 0; seed < 60; ++seed) {
    const std::string text = RandomModuleText(seed, 12);
    const auto module = ParseOrDie(text);
    ASSERT_NE(module, nullptr);
    const auto records = RunChecked(*module, "canonicalize,canonicalize");
    ASSERT_TRUE(records.ok()) << "seed " << seed << ": " << records.status() << "\n" << text;
    EXPECT_FALSE((*records)[1].changed) << "seed " << seed << "\n" << text << Print(*module);
    erased += (*records)[0].ops_before - (*records)[0].ops_after;
  }
  EXPECT_GT(erased, 100);  // the modules give it something to do
}

// Every order of the axes of both operands, and every order of the output that ends in the letters of one operand each.
TEST(DotsToGemm, EveryOrderOfLetters) {
  int gemms = 0, loops = 0;
  std::vector<std::string> a = {".", "g", "q", "t"};
  const auto size = [](const std::string& letter) {
    return letter == "g" ? 2 : letter == "q" ? 3 : letter == "t" ? 4 : letter == "s" ? 5 : 6;
  };
  const auto type = [&](const std::vector<std::string>& letters) {
    return absl::StrCat(
        "f32[",
        absl::StrJoin(letters, ",", [&](std::string* out, const std::string& l) { absl::StrAppend(out, size(l)); }),
        "]");
  };
  do {
    std::vector<std::string> b = {".", "g", "s"};
    do {
      std::vector<std::string> over = {"g", "q", "s", "t"};
      do {
        const std::string text = absl::StrCat(
            "module @m {\n  graph @dot(%a: f32[6], %b: f32[6]) -> f32[1] {\n    %m = mul %a, %b : f32[6]\n"
            "    %r = sum %m : f32[1]\n    return %r\n  }\n  graph @main(%x: ",
            type(a), ", %y: ", type(b), ") -> (", type(over), ") {\n    %z = loop @dot(%x, %y) {over=\"",
            absl::StrJoin(over, " "), "\", slices=[\"", absl::StrJoin(a, " "), "\", \"", absl::StrJoin(b, " "),
            "\"]} : ", type(over), "\n    return %z\n  }\n}\n");
        const auto module = ParseOrDie(text);
        ASSERT_NE(module, nullptr);
        const auto records = RunChecked(*module, "dots-to-gemm,dots-to-gemm");
        ASSERT_TRUE(records.ok()) << records.status() << "\n" << text;
        // The output must end in a letter of a alone (t, q) and s; with s first, b would need the batch letter q or t.
        const bool expressible = over[3] == "s" && over[2] != "g";
        EXPECT_EQ((*records)[0].changed, expressible) << text;
        EXPECT_FALSE((*records)[1].changed) << text;
        EXPECT_EQ(module->graphs().size(), expressible ? 1u : 2u);
        ++(expressible ? gemms : loops);
      } while (std::next_permutation(over.begin(), over.end()));
    } while (std::next_permutation(b.begin(), b.end()));
  } while (std::next_permutation(a.begin(), a.end()));
  EXPECT_EQ(gemms, 24 * 6 * 4);
  EXPECT_EQ(loops, 24 * 6 * 20);
}

TEST(DotsToGemm, KeepsABodyThatAnotherLoopUses) {
  const auto module = ParseOrDie(R"(module @m {
  graph @dot(%a: f32[6], %b: f32[6]) -> f32[1] {
    %m = mul %a, %b : f32[6]
    %r = sum %m : f32[1]
    return %r
  }
  graph @main(%x: f32[3,6], %v: f32[6]) -> (f32[3,3], f32[3]) {
    %y = loop @dot(%x, %x) {over="i j", slices=["i .", "j ."]} : f32[3,3]
    %z = loop @dot(%x, %v) {over="i", slices=["i .", "."]} : f32[3]
    return %y, %z
  }
}
)");
  ASSERT_NE(module, nullptr);
  const auto records = RunChecked(*module, "dots-to-gemm");
  ASSERT_TRUE(records.ok()) << records.status();
  EXPECT_TRUE((*records)[0].changed);
  EXPECT_NE(module->FindGraph("dot"), nullptr);
  EXPECT_EQ(module->entries().size(), 1u);
}

// Bodies are read whole by each step that joins them: a long chain is several steps.
TEST(FuseEpilogue, LongChains) {
  constexpr int kOps = 1000;
  std::string text = "module @m {\n  graph @main(%v0: f32[8]) -> f32[8] {\n";
  for (int i = 0; i < kOps; ++i) absl::StrAppend(&text, "    %v", i + 1, " = exp %v", i, " : f32[8]\n");
  absl::StrAppend(&text, "    return %v", kOps, "\n  }\n}\n");
  const auto module = ParseOrDie(text);
  ASSERT_NE(module, nullptr);
  const auto records = RunChecked(*module, "select-kernels,fuse-epilogue,fuse-epilogue");
  ASSERT_TRUE(records.ok()) << records.status();
  EXPECT_EQ((*records)[1].ops_after, 4);
  EXPECT_FALSE((*records)[2].changed);
}

// Nothing recurses over the depth of a graph.
TEST(SinkRows, DeepGraphs) {
  std::string text =
      "module @m {\n  dim T in 1..8\n  dim L in 1..8\n  graph @main(%v0: f32[T,4], %rows: i32[L]) -> f32[L,4] {\n";
  constexpr int kOps = 60000;
  for (int i = 0; i < kOps; ++i) absl::StrAppend(&text, "    %v", i + 1, " = exp %v", i, " : f32[T,4]\n");
  absl::StrAppend(&text, "    %y = take %v", kOps, ", %rows : f32[L,4]\n    return %y\n  }\n}\n");
  const auto module = ParseOrDie(text);
  ASSERT_NE(module, nullptr);
  PassContext context{{&AllTargets()[0]}};
  const absl::StatusOr<bool> changed = FindPass("sink-rows")->run(*module, context);
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_TRUE(*changed);
}

// A kernel of @main that says T in an attribute alone is none of @main.1, where T is a number.
TEST(SelectKernels, SharesNoBodyThatSaysTInAnAttribute) {
  const auto module = ParseOrDie(
      "module @m {\n  dim T in 1..8\n  graph @main(%pos: f32[T,4], %x: f32[16]) -> (f32[T,4], f32[1]) {\n"
      "    %p = exp %pos : f32[T,4]\n    %y = slice %x {axis=0, first=T, len=1} : f32[1]\n    %z = exp %y : f32[1]\n"
      "    return %p, %z\n  }\n}\n");
  ASSERT_NE(module, nullptr);
  const auto records = RunChecked(*module, "O2");
  EXPECT_TRUE(records.ok()) << records.status();
}

TEST(Specialize, NeedsTokensAndARangeWithOne) {
  for (const char* dims : {"dim N in 1..8", "dim T in 2..8\n  dim N in 1..8", "dim T in 1..8\n  dim N in 1..8",
                           "dim T in 0..0\n  dim N in 1..8"}) {
    const auto module =
        ParseOrDie(absl::StrCat("module @m {\n  ", dims,
                                "\n  graph @main(%x: f32[N,4]) -> (f32[N,4]) {\n    %y = exp %x : f32[N,4]\n"
                                "    return %y\n  }\n}\n"));
    ASSERT_NE(module, nullptr);
    const auto records = RunChecked(*module, "specialize");
    ASSERT_TRUE(records.ok()) << records.status();
    EXPECT_FALSE((*records)[0].changed) << dims;
  }
}

// With 16 positions cached there may be no row, but never one: an entry of one row must not look at 17 positions.
TEST(Specialize, NeedsRangesThatKeepTheBoundsForOneRow) {
  for (const auto& [most, changed] : {std::pair{15, true}, std::pair{16, false}}) {
    const auto module = ParseOrDie(absl::StrCat(
        "module @m {\n  dim T in 0..16\n  dim P in 0..", most,
        "\n  bound P+T <= 16\n  graph @main(%x: f32[1,1,T,4], %pos: i32[T], %c: state<f32[2,1,16,4]>) -> "
        "(f32[1,P+T,4], state<f32[2,1,16,4]>) {\n    %c1 = kv_append %c, %x, %x, %pos : state<f32[2,1,16,4]>\n"
        "    %K, %V = kv_view %c1 {len=P+T} : f32[1,P+T,4], f32[1,P+T,4]\n    %q = add %K, %V : f32[1,P+T,4]\n"
        "    return %q, %c1\n  }\n}\n"));
    ASSERT_NE(module, nullptr);
    const auto records = RunChecked(*module, "specialize");
    ASSERT_TRUE(records.ok()) << records.status();
    EXPECT_EQ((*records)[0].changed, changed) << most;
  }
}

// As many dims, bounds and bytes of a name as text may have: what is made can be read back.
TEST(Specialize, KeepsTheLimitsOfText) {
  const auto make = [](int64_t dims, int64_t bounds, int64_t name) {
    std::string text = "module @m {\n  dim T in 1..64\n";
    for (int64_t i = 1; i < dims; ++i) absl::StrAppend(&text, "  dim N", i, " in 1..8\n");
    for (int64_t i = 0; i < bounds; ++i) absl::StrAppend(&text, "  bound T+N", i + 1, " <= 72\n");
    return absl::StrCat(text, "  graph @", std::string(static_cast<size_t>(name), 'g'),
                        "(%x: f32[T,1]) -> f32[T,4096] {\n    %w = weight \"w\" : f32[4096,4096]\n"
                        "    %o = slice %w {axis=0, first=0, len=1} : f32[1,4096]\n    %y = mul %o, %x : f32[T,4096]\n"
                        "    return %y\n  }\n}\n");
  };
  const struct {
    int64_t dims, bounds, name;
    size_t entries;
  } cases[] = {{12, 4, 8, 3}, {63, 4, 8, 3}, {64, 4, 8, 2}, {12, 5, 8, 2}, {12, 4, 1020, 3}, {12, 4, 1024, 1}};
  for (const auto& c : cases) {
    const auto module = ParseOrDie(make(c.dims, c.bounds, c.name));
    ASSERT_NE(module, nullptr);
    PassContext context{{&AllTargets()[0]}};
    ASSERT_TRUE(FindPass("specialize")->run(*module, context).ok());
    EXPECT_EQ(module->entries().size(), c.entries) << c.dims << " " << c.bounds << " " << c.name;
    ParseOrDie(Print(*module));
  }
}

}  // namespace
}  // namespace sinter
