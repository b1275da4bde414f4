// --explain: how often a rule rewrote something, and at which line its best partial match stopped.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "ir/text.h"
#include "passes/pipeline.h"

namespace sinter {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// What --explain=NAME says of a pass over @main(%x, %z, %gamma, %mask) with these lines.
std::string Explained(const std::string& name, const std::string& pass, const std::string& lines,
                      const std::string& results = "%y") {
  const int count = 1 + static_cast<int>(std::count(results.begin(), results.end(), ','));
  std::string types = "f32[T,8]";
  for (int i = 1; i < count; ++i) types += ", f32[T,8]";
  const auto module = Parse(
      absl::StrCat("module @m {\n dim T in 1..8\n graph @main(%x: f32[T,8], %z: f32[T,8], %gamma: f32[8], %mask: "
                   "bool[T,8]) -> (",
                   types, ") {\n%eps = constant {values=[1e-05]} : f32[1]\n", lines, "return ", results, "\n}\n}\n"),
      "test.sir");
  if (!module.ok()) return std::string(module.status().message());
  const auto passes = ParsePipeline(pass, Stage::kGraph);
  PassContext context{{&AllTargets()[0]}};
  PipelineOptions options;
  options.repro_path = "";
  options.explain = name;
  const auto records = RunPipeline(**module, *passes, context, options);
  if (!records.ok()) return std::string(records.status().message());
  std::string text = records->back().explanation;
  // Types stand in a column of their own.
  for (size_t at; (at = text.find("  : ")) != std::string::npos;) text.erase(at, 1);
  return text;
}

const char kNorm[] =
    "%sq = mul %x, %x : f32[T,8]\n%ms = mean %sq : f32[T,1]\n%ve = add %ms, %eps : f32[T,1]\n"
    "%i = rsqrt %ve : f32[T,1]\n%y = mul %x, %i : f32[T,8] loc \"blk.3.norm\"\n";

std::string NormWith(const std::string& old, const std::string& line) {
  std::string text = kNorm;
  return text.replace(text.find(old), text.find('\n', text.find(old)) - text.find(old), line);
}

TEST(Explain, CountsAndFindsNothingMore) {
  EXPECT_EQ(Explained("rms-norm", "fuse-rms-norm", kNorm),
            "rule rms-norm of fuse-rms-norm: rewrote 1 time\n"
            "  no partial match: no op that it could end with is left\n");
}

TEST(Explain, AnotherOp) {
  EXPECT_EQ(Explained("rms-norm", "fuse-rms-norm", NormWith("%ms =", "%ms = max %sq : f32[T,1] loc \"blk.3.max\"")),
            "rule rms-norm of fuse-rms-norm: rewrote 0 times\n"
            "  best partial match: 3 of 5 lines, in @main from  %y = mul %x, %i : f32[T,8]   loc \"blk.3.norm\"\n"
            "    expected  %narrow = mean %sq\n"
            "    found     %ms = max %sq : f32[T,1]   loc \"blk.3.max\"\n");
}

TEST(Explain, AnotherAxisAParameterAndABoundName) {
  EXPECT_THAT(Explained("softmax-mask", "fuse-softmax", "%y = softmax %x {scale=2} : f32[T,8]\n"),
              AllOf(HasSubstr("1 of 2 lines"), HasSubstr("expected  %s = select %mask, %x, -inf\n"),
                    HasSubstr("found     %x: f32[T,8], a parameter\n")));
  EXPECT_THAT(Explained("rms-norm", "fuse-rms-norm", NormWith("%sq =", "%sq = mul %x, %z : f32[T,8]")),
              AllOf(HasSubstr("5 of 5 lines"), HasSubstr("expected  %d, here %"), HasSubstr("a parameter\n")));
}

TEST(Explain, ANumber) {
  EXPECT_THAT(Explained("softmax-mask", "fuse-softmax",
                        "%low = constant {values=[-1e+09]} : f32[1]\n%s = select %mask, %x, %low : f32[T,8]\n"
                        "%y = softmax %s : f32[T,8]\n"),
              AllOf(HasSubstr("2 of 2 lines"), HasSubstr("expected  a constant -inf\n"),
                    HasSubstr("found     %low = constant {values=[-1e+09]} : f32[1]\n")));
  EXPECT_THAT(Explained("rms-norm", "fuse-rms-norm", NormWith("%ve =", "%ve = add %ms, %ms : f32[T,1]")),
              HasSubstr("expected  a constant $eps\n"));
}

TEST(Explain, WhyAMatchWasNotRewritten) {
  EXPECT_THAT(Explained("rms-norm", "fuse-rms-norm", absl::StrCat(kNorm, "%o = exp %sq : f32[T,8]\n"), "%y, %o"),
              HasSubstr("    not rewritten: %sq has another user: %o = exp %sq : f32[T,8]\n"));
  EXPECT_THAT(Explained("rms-norm", "fuse-rms-norm", kNorm, "%y, %sq"),
              HasSubstr("    not rewritten: %sq is a result of @main\n"));
  EXPECT_THAT(Explained("rms-norm-gamma", "fuse-rms-norm", "%n = rms_norm %x : f32[T,8]\n%y = mul %n, %z : f32[T,8]\n"),
              HasSubstr("    not rewritten: the new op is refused: [rms_norm-c1] expected gamma of type f32[8]"));
  EXPECT_THAT(Explained("softmax-mask", "fuse-softmax",
                        "%inf = constant {values=[-inf]} : f32[1]\n%s = select %mask, %x, %inf : f32[T,8]\n"
                        "%y = softmax %s {scale=-1} : f32[T,8]\n"),
              HasSubstr("    not rewritten: the rule's condition does not hold\n"));
  EXPECT_THAT(Explained("softmax-scale", "fuse-softmax",
                        "%o = slice %x {axis=0, first=0, len=1} : f32[1,8]\n%c = constant {values=[2]} : f32[8,1]\n"
                        "%w = gemm %c, %o : f32[8,8]\n%s = mul %o, %c : f32[8,8]\n%p = softmax %s : f32[8,8]\n"
                        "%y = gemm %x, %p : f32[T,8]\n"),
              HasSubstr("    not rewritten: the new op would be f32[1,8] where f32[8,8] stands\n"));
}

TEST(Explain, APassMeansAllItsRules) {
  const std::string text = Explained("fuse-rms-norm", "fuse-rms-norm", kNorm);
  EXPECT_THAT(text, StartsWith("rule rms-norm of fuse-rms-norm: rewrote 1 time\n"));
  EXPECT_THAT(text, HasSubstr("rule rms-norm-gamma of fuse-rms-norm: rewrote 0 times\n"));
  EXPECT_EQ(Explained("fuse-softmax", "fuse-rms-norm", kNorm), "");
}

TEST(Explain, UnknownNames) {
  EXPECT_EQ(Explained("fuse-rms-nrom", "fuse-rms-norm", kNorm),
            "there is no rule \"fuse-rms-nrom\", nor a pass that has rules; the nearest is fuse-rms-norm");
  EXPECT_THAT(Explained("specialize", "fuse-rms-norm", kNorm), HasSubstr("there is no rule \"specialize\""));
}

}  // namespace
}  // namespace sinter
