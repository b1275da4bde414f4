// IR text that is deep, huge or made to be shown: every limit of base/limits.inc that text can reach and its neighbour,
// nesting, expressions whose meaning grows faster than their text, names that a terminal must not see. Other malformed
// text is in text_test.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/escape.h"
#include "base/limits.h"
#include "base/utf8.h"
#include "ir/text.h"
#include "tests/heap_counter.h"

namespace sinter {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

absl::Status StatusOf(const std::string& text) { return Parse(text, "m.sir").status(); }

std::string Repeated(size_t count, const std::function<std::string(size_t)>& part, absl::string_view between = "") {
  std::vector<std::string> parts;
  for (size_t i = 0; i < count; ++i) parts.push_back(part(i));
  return absl::StrJoin(parts, between);
}
std::string Repeated(size_t count, const std::string& part, absl::string_view between = "") {
  return Repeated(
      count, [&](size_t) { return part; }, between);
}

std::string WithType(const std::string& type) {
  return absl::StrCat("module @m {\n dim T in 1..2\n graph @g(%x: ", type, ") -> (", type, ") { return %x }\n}\n");
}

std::string WithName(size_t bytes) {  // the quotes of a quoted name count
  return absl::StrCat("module @", std::string(bytes, 'n'), " {}");
}
std::string WithNumber(size_t bytes) {
  return absl::StrCat("module @m { graph @g() -> f32[1] { %c = constant {values=[0.", std::string(bytes - 2, '1'),
                      "]} : f32[1] return %c } }");
}
std::string WithDims(size_t count) {
  return absl::StrCat("module @m {", Repeated(count, [](size_t i) { return absl::StrCat("\n dim D", i, " in 1..2"); }),
                      "}");
}
std::string WithBounds(size_t count) {
  return absl::StrCat("module @m { dim T in 1..2", Repeated(count, "\n bound T <= 2"), "}");
}
std::string WithGraphs(size_t count) {
  return absl::StrCat("module @m {",
                      Repeated(count, [](size_t i) { return absl::StrCat("graph @g", i, "() -> () { return }\n"); }),
                      "}");
}
std::string WithParams(size_t count) {
  return absl::StrCat("module @m { graph @g(",
                      Repeated(
                          count, [](size_t i) { return absl::StrCat("%p", i, ": f32[1]"); }, ", "),
                      ") -> () { return } }");
}
std::string WithList(size_t count) {
  return absl::StrCat("module @m { graph @g() -> f32[", count, "] { %c = constant {values=[", Repeated(count, "1", ","),
                      "]} : f32[", count, "] return %c } }");
}
// A sum of different products, so that none merge.
std::string WithTerms(size_t count) {
  std::vector<std::string> terms;
  for (size_t i = 0; terms.size() < count; ++i) terms.push_back(absl::StrCat("D", i));
  return absl::StrCat("module @m {", Repeated(64, [](size_t i) { return absl::StrCat("\n dim D", i, " in 1..2"); }),
                      "\n graph @g(%x: f32[",
                      count > 64 ? absl::StrCat(absl::StrJoin(terms.begin(), terms.begin() + 64, "+"), "+1")
                                 : absl::StrJoin(terms, "+"),
                      "]) -> () { return } }");
}
std::string WithFactors(size_t count) { return WithType(absl::StrCat("f32[", Repeated(count, "T", "*"), "]")); }
std::string WithRank(size_t count) { return WithType(absl::StrCat("f32[", Repeated(count, "1", ","), "]")); }
// `count` graphs within each other: kernels nest where groups do, by name.
std::string WithNesting(size_t count) {
  std::string text = "module @m stage kernels {\n";
  for (size_t i = 0; i < count; ++i) {
    absl::StrAppend(&text, "graph @g", i, "(%x: f32[1]) -> (f32[1]) { %y = kernel @g", i + 1,
                    "(%x) {family=\"map\"} : f32[1] return %y }\n");
  }
  return absl::StrCat(text, "graph @g", count, "(%x: f32[1]) -> (f32[1]) { %y = neg %x : f32[1] return %y }\n}\n");
}
std::string WithBody(size_t ops) {
  std::string text =
      "module @m { graph @g(%x: f32[3,4]) -> (f32[3]) { %y = loop @b(%x) {over=\"i\", slices=[\"i .\"]} : f32[3]"
      " return %y }\n graph @b(%v0: f32[4]) -> (f32[1]) {\n";
  for (size_t i = 1; i < ops; ++i) absl::StrAppend(&text, "%v", i, " = neg %v", i - 1, " : f32[4]\n");
  return absl::StrCat(text, "%r = sum %v", ops - 1, " : f32[1] return %r }\n}\n");
}
std::string WithViews(size_t count) {
  std::string text = "module @m { graph @g(%v0: f32[2,2]) -> (f32[2,2]) {\n";
  for (size_t i = 1; i <= count; ++i)
    absl::StrAppend(&text, "%v", i, " = transpose %v", i - 1, " {perm=[1, 0]} : f32[2,2]\n");
  return absl::StrCat(text, "return %v", count, " }\n}\n");
}

TEST(TextHostile, EveryLimitAndWhatItStillAllows) {
  struct Case {
    const Limit& limit;
    std::function<std::string(size_t)> make;
  };
  const Case cases[] = {
      {limits::kTextNameBytes, WithName}, {limits::kNumberBytes, WithNumber}, {limits::kTextDimSymbols, WithDims},
      {limits::kBounds, WithBounds},      {limits::kGraphs, WithGraphs},      {limits::kOperands, WithParams},
      {limits::kListValues, WithList},    {limits::kDimTerms, WithTerms},     {limits::kRank, WithRank},
      {limits::kBodyOps, WithBody},       {limits::kViewChain, WithViews},
  };
  for (const Case& c : cases) {
    const auto most = static_cast<size_t>(c.limit.most);
    const absl::Status accepted = StatusOf(c.make(most));
    EXPECT_TRUE(accepted.ok()) << c.limit.name << ": " << accepted.message().substr(0, 500);
    const absl::Status refused = StatusOf(c.make(most + 1));
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << c.limit.name;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(c.limit.Text()));
    EXPECT_THAT(std::string(refused.message()), StartsWith("m.sir:"));
    EXPECT_LT(refused.message().size(), 2000u);
  }
}

TEST(TextHostile, TextBytes) {
  std::string text = "module @m {}";
  text.resize(static_cast<size_t>(limits::kTextBytes.most), ' ');
  EXPECT_TRUE(StatusOf(text).ok());
  EXPECT_EQ(StatusOf(text + " ").message(), "m.sir: 67108865 bytes: the limit \"text bytes\" is 67108864");
}

TEST(TextHostile, TermsOfABound) {
  const auto with_terms = [](size_t count) {
    return absl::StrCat("module @m {", Repeated(8, [](size_t i) { return absl::StrCat("\n dim D", i, " in 1..2"); }),
                        "\n bound ",
                        Repeated(
                            count, [](size_t i) { return absl::StrCat("D", i); }, "+"),
                        " <= 9 }");
  };
  EXPECT_TRUE(StatusOf(with_terms(4)).ok()) << StatusOf(with_terms(4));
  EXPECT_THAT(std::string(StatusOf(with_terms(5)).message()),
              StartsWith("m.sir:10:8: this bound has too many terms: "));
}

TEST(TextHostile, FactorsOfOneTerm) {
  EXPECT_TRUE(StatusOf(WithFactors(8)).ok()) << StatusOf(WithFactors(8));
  EXPECT_TRUE(StatusOf(WithType("f32[2*" + Repeated(8, "T", "*") + "]")).ok());
  EXPECT_THAT(std::string(StatusOf(WithType("f32[" + Repeated(10, "1", "*") + "]")).message()),
              HasSubstr(limits::kDimFactors.Text()));
  EXPECT_THAT(std::string(StatusOf(WithFactors(9)).message()), HasSubstr(limits::kDimFactors.Text()));
  EXPECT_THAT(std::string(StatusOf(WithFactors(100000)).message()), HasSubstr(limits::kDimFactors.Text()));
}

TEST(TextHostile, NestingIsBoundedAndNeedsNoStack) {
  // Only entries and groups may hold kernels, so that depth alone decides here: the error says which.
  const std::string deep(StatusOf(WithNesting(16)).message());
  EXPECT_THAT(deep, HasSubstr("[nesting] bodies nest too deep: the limit \"nesting\" is 16"));
  EXPECT_THAT(std::string(StatusOf(WithNesting(15)).message()), ::testing::Not(HasSubstr("nesting")));
  EXPECT_TRUE(StatusOf(WithNesting(1)).ok()) << StatusOf(WithNesting(1));
  EXPECT_THAT(std::string(StatusOf(WithNesting(16000)).message()), HasSubstr("[nesting]"));
  for (const char* bracket :
       {"{", "(", "[", "<", "f32[", "state<", "module @m {", "graph @g(", "{values=[", "-", "T*", "T+"}) {
    EXPECT_EQ(StatusOf(Repeated(200000, bracket)).code(), absl::StatusCode::kInvalidArgument) << bracket;
    EXPECT_EQ(StatusOf("module @m { dim T in 1..2 graph @g(%x: f32[" + Repeated(200000, bracket)).code(),
              absl::StatusCode::kInvalidArgument)
        << bracket;
  }
}

TEST(TextHostile, NumbersAtEveryEdge) {
  struct Case {
    const char* dim;
    bool accepted;
  };
  for (const Case& c :
       {Case{"2147483647", true}, Case{"2147483648", true}, Case{"4294967296", true},
        Case{"1152921504606846976", true},  // 2^60 f32 are 2^62 bytes
        Case{"1152921504606846977", false}, Case{"4611686018427387904", false}, Case{"9223372036854775807", false},
        Case{"9223372036854775808", false}, Case{"18446744073709551616", false}, Case{"4294967296,4294967296", false},
        Case{"4294967296*T*4294967296", false}, Case{"T-3", false}, Case{"-1", false},
        Case{"-9223372036854775808", false}}) {
    const absl::Status status = StatusOf(WithType(absl::StrCat("f32[", c.dim, "]")));
    EXPECT_EQ(status.ok(), c.accepted) << c.dim << ": " << status;
    if (c.accepted) continue;
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.dim;
    EXPECT_THAT(std::string(status.message()), StartsWith("m.sir:3:")) << c.dim;
  }
}

// Work and memory in proportion to the text: four times the text may cost five times as much, not sixteen.
TEST(TextHostile, CostsInProportionToTheText) {
  const auto chain = [](size_t n) {  // ops of one graph
    return absl::StrCat("module @m { graph @g(%v0: f32[4]) -> (f32[4]) {\n",
                        Repeated(n, [](size_t i) { return absl::StrCat("%v", i + 1, " = neg %v", i, " : f32[4]\n"); }),
                        "return %v", n, " } }");
  };
  const auto one_value = [](size_t n) {  // uses of one value
    return absl::StrCat("module @m { graph @g(%x: f32[4]) -> (f32[4]) {\n",
                        Repeated(n, [](size_t i) { return absl::StrCat("%v", i, " = neg %x : f32[4]\n"); }),
                        "return %x } }");
  };
  const auto calls = [](size_t n) {  // of one body
    return absl::StrCat(
        "module @m stage kernels { graph @g(%v0: f32[4]) -> (f32[4]) {\n",
        Repeated(
            n,
            [](size_t i) { return absl::StrCat("%v", i + 1, " = kernel @b(%v", i, ") {family=\"map\"} : f32[4]\n"); }),
        "return %v", n, " }\n graph @b(%x: f32[4]) -> (f32[4]) {\n",
        Repeated(n, [](size_t i) { return absl::StrCat("%w", i, " = neg %x : f32[4]\n"); }), "return %w0 } }");
  };
  for (const auto& make :
       std::vector<std::function<std::string(size_t)>>{chain, one_value, calls, WithGraphs, WithList}) {
    const std::string small = make(2000), large = make(8000);
    const auto cost = [](const std::string& text) {
      const size_t before = HeapAllocatedBytes();
      EXPECT_TRUE(StatusOf(text).ok()) << StatusOf(text).message().substr(0, 300);
      return (HeapAllocatedBytes() - before) / 2;  // parsed twice
    };
    EXPECT_LT(cost(large), 5 * cost(small));
    EXPECT_LT(cost(large), 300 * large.size());
  }
}

// What an error quotes of the text is cut.
TEST(TextHostile, ErrorsAreShort) {
  const std::string letters = Repeated(1 << 20, "a ", "");
  const std::string loops[] = {
      "{over=\"" + letters + "\", slices=[\"a\"]}",
      "{over=\"i\", slices=[\"" + letters + "\"]}",
      "{over=\"i\", slices=[\"i\"]} : f32[4] loc \"" + letters,
  };
  for (const std::string& attributes : loops) {
    const absl::Status status =
        StatusOf("module @m { graph @g(%x: f32[4]) -> () { %y = loop @b(%x) " + attributes +
                 " : f32[4] return }\n graph @b(%a: f32[1]) -> (f32[1]) { %r = sum %a : f32[1] return %r } }");
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_LT(status.message().size(), 2000u);
  }
}

TEST(TextHostile, ErrorsShowNothingThatHarmsATerminal) {
  const std::string attack =
      "\x1b]0;title\x07\xc2\x9b"
      "31m\xe2\x80\xae\xff\r\x7f";
  const std::string texts[] = {
      "module @m { " + attack + " }",
      "module @m { weights \"" + attack + "\" sha256 1 }",
      "module @m { dim \"" + attack + "\" in 1..2 }",
      "module @m { graph @\"" + attack + "\" (%x: f32[1]) -> () { return } graph @\"" + attack +
          "\"() -> () { return } }",
      "module @m { graph @g(%\"" + attack + "\": f32[1]) -> (f32[2]) { return %\"" + attack + "\" } }",
      "module @m { graph @g(%\"" + attack + "\": f32[1], %\"" + attack + "\": f32[1]) -> () { return } }",
      "module @m { graph @g(%x: f32[1]) -> () { %y = neg %\"" + attack + "\" : f32[1] return } }",
      "module @m { graph @g(%x: f32[1]) -> () { %y = loop @\"" + attack + "\"(%x) : f32[1] return } }",
      "module @m { graph @g(%x: f32[1]) -> () { %y = neg %x {" + attack + "=1} : f32[1] return } }",
      "module @m { graph @g(%x: f32[1]) -> () { %y = gemm %x, %x : f32[1] loc \"" + attack + "\" return } }",
      "module @m stage kernels { graph @\"" + attack +
          "\"(%x: f32[1]) -> (f32[1]) { %y = neg %x : f32[1] return %y } }",
  };
  for (const std::string& text : texts) {
    const absl::Status status = StatusOf(text);
    ASSERT_FALSE(status.ok()) << Escaped(text);
    EXPECT_EQ(EscapedLines(status.message()), status.message()) << "escaping finds nothing left to do";
    EXPECT_EQ(status.message().find('\t'), std::string::npos);
  }
}

}  // namespace
}  // namespace sinter
