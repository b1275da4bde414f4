// The text form of modules: what prints reads back the same byte for byte, and what does not read says where and why.
#include "ir/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "ir/diag.h"
#include "ir/lexer.h"

namespace sinter {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kFile[] = "m.sir";

// The canonical text: what Print makes of it is itself.
constexpr char kAttention[] = R"(module @gpt {
  dim T in 1..512
  dim P in 0..4095
  bound P+T <= 4096
  weights "gpt.gguf" sha256 "5f0c"
  graph @attention(%x: f32[T,768], %pos: i32[T], %c: state<f32[2,12,4096,64]>) -> (f32[T,768], state<f32[2,12,4096,64]>) {
    %wi = weight "blk.0.attn_qkv.weight"            : f32[2304,768]
    %wo = weight "blk.0.attn_output.weight" {pack="panel16"} : f32[768,768]
    %h = gemm %x, %wi {trans_b=true}                : f32[T,2304]
    %q = heads %h {groups=12}                       : f32[12,1,T,64]
    %k = heads %h {first=768, groups=12}            : f32[12,1,T,64]
    %v = heads %h {first=1536, groups=12}           : f32[12,1,T,64]
    %c1 = kv_append %c, %k, %v, %pos                : state<f32[2,12,4096,64]>
    %K, %V = kv_view %c1 {len=P+T}                  : f32[12,P+T,64], f32[12,P+T,64]
    %s = gemm %q, %K {trans_b=true}                 : f32[12,1,T,P+T]
    %m = causal_mask %pos {len=P+T}                 : bool[T,P+T]
    %p = softmax %s, %m {scale=0.125}               : f32[12,1,T,P+T]
    %o = gemm %p, %V                                : f32[12,1,T,64]
    %y = merge_heads %o                             : f32[T,768]
    %r = gemm %y, %wo {trans_b=true}                : f32[T,768]   loc "blk.0.attn_output"
    return %r, %c1
  }
}
)";

// A loop that names a body defined after it, every kind of attribute, names in quotes, symbolic dims in all forms.
constexpr char kLoop[] = R"(module @"a \"b\"" {
  dim T in 1..8
  dim P in 0..8
  graph @scores(%q: f32[3,2,T,4], %k: f32[3,P+T,4]) -> (f32[3,2,T,P+T]) {
    %s = loop @dot(%q, %k) {over="g q t s", slices=["g q t .", "g s ."]} : f32[3,2,T,P+T]
    return %s
  }
  graph @dot(%a: f32[4], %b: f32[4]) -> (f32[1]) {
    %m = mul %a, %b                                 : f32[4]
    %r = sum %m {axis=0}                            : f32[1]
    return %r
  }
  graph @rest(%x: f32[2*T+1,3], %"odd name": f16[P*T,2], %u: f32[4]) -> (f32[3,2*T+1], f16[P*T], f32[4], f32[6]) {
    %t = transpose %x {perm=[1, 0]}                 : f32[3,2*T+1]
    %a = slice %"odd name" {axis=1}                 : f16[P*T,1]
    %b = reshape %a                                 : f16[P*T]
    %c = constant {values=[1.0, -0.0, 1e-05, 1e+300]} : f64[4]
    %d = constant {values=[inf, -inf, nan]}         : f32[3]
    %n = layer_norm %u, %u, %u {eps=1e-06}          : f32[4]   loc "a\n\t\\\"\x00\xff"
    %e = repeat %d {times=2}                        : f32[6]
    return %t, %b, %n, %e
  }
}
)";

constexpr char kPlanned[] = R"(module @m stage planned {
  graph @main(%x: f32[4] @input+0) -> (f32[4] @output+0) {
    %t = kernel @twice(%x) {family="map"}           : f32[4] @arena+64
    %y = kernel @twice(%t) {family="map", tiles=["avx2:8"], mode="replicated", barrier=true} : f32[4] @output+0
    return %y
  }
  graph @twice(%x: f32[4]) -> (f32[4]) {
    %y = add %x, %x                                 : f32[4]
    return %y
  }
}
)";

std::string Reprint(const std::string& text) {
  const auto module = Parse(text, kFile);
  EXPECT_TRUE(module.ok()) << module.status().message();
  return module.ok() ? Print(**module) : "";
}

TEST(TextTest, CanonicalTextPrintsAsItself) {
  for (const char* text : {kAttention, kLoop, kPlanned}) EXPECT_EQ(Reprint(text), text);
}

TEST(TextTest, FreeTextPrintsCanonically) {
  const std::string text = R"(
    module   @m{// a comment
      dim T in 1..4
      graph @dot(%a:f32[T+T],%b:f32[2*T])->f32[1]{%m=mul %a,%b:f32[T*2]
        %r=sum %m{axis=-1}:f32[1]  // -1 is the default
        return %r}
      graph @g(%x: f32[3,T+2-2], %g: f32[T]) -> (f32[3,T]) {
        %y = layer_norm %x, %g, _ {eps=1} : f32[3,T]
        return %y
      }
    })";
  EXPECT_EQ(Reprint(text), R"(module @m {
  dim T in 1..4
  graph @dot(%a: f32[2*T], %b: f32[2*T]) -> (f32[1]) {
    %m = mul %a, %b                                 : f32[2*T]
    %r = sum %m                                     : f32[1]
    return %r
  }
  graph @g(%x: f32[3,T], %g: f32[T]) -> (f32[3,T]) {
    %y = layer_norm %x, %g {eps=1.0}                : f32[3,T]
    return %y
  }
}
)");
}

TEST(TextTest, PrintOpAndPrintGraph) {
  const auto module = Parse(kLoop, kFile);
  ASSERT_TRUE(module.ok()) << module.status();
  const Graph& dot = *(*module)->FindGraph("dot");
  EXPECT_EQ(PrintOp(dot, dot.order()[1]), "%r = sum %m {axis=0}                            : f32[1]");
  EXPECT_THAT(PrintGraph(dot), StartsWith("graph @dot(%a: f32[4], %b: f32[4]) -> (f32[1]) {\n  %m = mul %a, %b   "));
}

TEST(TextTest, EveryDoubleReadsBackTheSame) {
  std::mt19937_64 random(1);
  std::vector<double> values = {0.0,
                                -0.0,
                                1.0 / 3,
                                std::numeric_limits<double>::max(),
                                std::numeric_limits<double>::min(),
                                std::numeric_limits<double>::denorm_min(),
                                -std::numeric_limits<double>::infinity(),
                                1e15,
                                1e16,
                                123456789012345678.0};
  while (values.size() < 2000) {
    const uint64_t bits = random();
    double value;
    std::memcpy(&value, &bits, sizeof value);
    if (!std::isnan(value)) values.push_back(value);
  }
  Module module("m");
  Graph& graph = module.AddGraph("g");
  const auto n = static_cast<int64_t>(values.size());
  const auto constant = graph.Add(ops::Constant{.values = values}, {.declared = {Type{DType::kF64, {n}}}});
  ASSERT_TRUE(constant.ok()) << constant.status();
  graph.SetResults({*constant});
  const auto again = Parse(Print(module), kFile);
  ASSERT_TRUE(again.ok()) << again.status();
  const Graph& parsed = *(*again)->FindGraph("g");
  const std::vector<double> read = parsed.As<ops::Constant>(parsed.order()[0])->values;
  ASSERT_EQ(read.size(), values.size());
  for (size_t i = 0; i < read.size(); ++i) {
    EXPECT_EQ(std::signbit(read[i]), std::signbit(values[i]));
    EXPECT_EQ(read[i], values[i]);
  }
}

TEST(TextTest, EveryByteReadsBackTheSame) {
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes += static_cast<char>(i);
  Module module(bytes);
  Graph& graph = module.AddGraph(bytes + "g");
  const ValueId x = graph.AddParam(bytes, Type{DType::kF32, {2}});
  const auto y = graph.Add(ops::Neg{.x = x}, {.names = {bytes + "y"}, .loc = bytes});
  ASSERT_TRUE(y.ok()) << y.status();
  graph.SetResults({*y});
  module.weights = WeightsFile{bytes, bytes};
  const std::string text = Print(module);
  const auto again = Parse(text, kFile);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(Print(**again), text);
  EXPECT_EQ((*again)->weights->path, bytes);
  const Graph& parsed = *(*again)->FindGraph(bytes + "g");
  EXPECT_EQ(parsed.op(parsed.order()[0]).loc, bytes);
  EXPECT_EQ(parsed.value(parsed.params()[0]).name, bytes);
}

struct Located {
  int line = 0, column = 0;
  std::string message, shown, caret;
};

// Takes `m.sir:line:column: message`, the line and the caret apart.
bool SplitError(const absl::Status& status, Located& out) {
  const std::vector<std::string> lines = absl::StrSplit(status.message(), '\n');
  int consumed = 0;
  if (lines.size() != 3 || std::sscanf(lines[0].c_str(), "m.sir:%d:%d: %n", &out.line, &out.column, &consumed) != 2) {
    return false;
  }
  out.message = lines[0].substr(static_cast<size_t>(consumed));
  out.shown = lines[1];
  out.caret = lines[2];
  return consumed > 0 && !out.caret.empty() && out.caret.back() == '^';
}

struct BadText {
  std::string text;
  int line, column;
  std::string message;
};

void ExpectError(const BadText& bad) {
  SCOPED_TRACE(bad.text);
  const auto module = Parse(bad.text, kFile);
  ASSERT_FALSE(module.ok());
  EXPECT_EQ(module.status().code(), absl::StatusCode::kInvalidArgument);
  Located error;
  ASSERT_TRUE(SplitError(module.status(), error)) << module.status().message();
  EXPECT_EQ(error.line, bad.line) << module.status().message();
  EXPECT_EQ(error.column, bad.column) << module.status().message();
  EXPECT_THAT(error.message, HasSubstr(bad.message));
  // The caret stands under the column, and the line is the text's.
  const std::vector<std::string> lines = absl::StrSplit(bad.text, '\n');
  const std::string line = absl::StrReplaceAll(lines[static_cast<size_t>(bad.line) - 1], {{"\t", " "}});
  if (bad.column < 100 && line.size() < 100) {
    EXPECT_EQ(error.caret.size(), 4 + static_cast<size_t>(bad.column));
    EXPECT_THAT(error.shown, StartsWith("    " + line.substr(0, static_cast<size_t>(bad.column) - 1)));
  }
}

TEST(TextErrorTest, Module) {
  for (const BadText& bad : std::vector<BadText>{
           {"", 1, 1, "expected 'module'; found the end of the text"},
           {"graph @g", 1, 1, "expected 'module'; found 'graph'"},
           {"module m {}", 1, 8, "expected the module's @name; found 'm'"},
           {"module @m stage graph {}", 1, 17, "expected kernels or planned; found 'graph'"},
           {"module @m {}\n}", 2, 1, "expected the end of the text; found '}'"},
           {"module @m {", 1, 12, "expected dim, bound, weights, graph or '}'; found the end of the text"},
           {"module @m {\n  size T in 1..2\n}", 2, 3, "expected dim, bound, weights, graph or '}'; found 'size'"},
           {"module @m { dim T in 5..2 }", 1, 17, "5..2"},
           {"module @m { dim T in -1..2 }", 1, 17, "-1..2"},
           {"module @m {\n dim T in 1..2\n dim T in 1..3 }", 3, 6, "declared twice"},
           {"module @m { dim T in 1..9223372036854775808 }", 1, 25, "does not fit in 64 bits"},
           {"module @m { dim T in 1.5..2 }", 1, 22, "expected an integer; found '1.5'"},
           {"module @m { dim 3 in 1..2 }", 1, 17, "expected the dim's name; found '3'"},
           {"module @m { dim T of 1..2 }", 1, 19, "expected 'in'; found 'of'"},
           {"module @m { bound T <= 5 }", 1, 19, "no dim is called 'T'"},
           {"module @m { dim T in 1..2 bound T < 5 }", 1, 35, "expected '<='; found '<'"},
           {"module @m { weights gpt }", 1, 21, "expected the weight file's name in quotes; found 'gpt'"},
           {"module @m { weights \"a\" sha256 \"b\"\nweights \"a\" sha256 \"b\" }", 2, 9,
            "names its weight file twice"},
           {"module @m { weights \"a sha256\n }", 1, 21, "this string has no end on its line"},
           {"module @m { weights \"a\\q\" sha256 \"b\" }", 1, 21, "an escape that is none of"},
           {"module @m { weights \"a\\x4\" sha256 \"b\" }", 1, 21, "an escape that is none of"},
           {"module @m { $ }", 1, 13, "no token starts with this character"},
           {"module @ {}", 1, 8, "expected a name after @"},
           {"module @\"\" {}", 1, 8, "expected a name after @"},
       }) {
    ExpectError(bad);
  }
}

// Ops in a graph with operands of several types; they start on line 5, at column 5.
std::string InGraph(const std::string& ops) {
  return absl::StrCat(
      "module @m {\n  dim T in 1..4\n  dim P in 0..4\n"
      "  graph @g(%x: f32[T,4], %i: i32[T], %c: state<f32[2,1,8,4]>, %q: q8_0[4,32]) -> (f32[T,4], "
      "state<f32[2,1,8,4]>) {\n    ",
      ops,
      "\n    return %x, %c\n  }\n  graph @dot(%a: f32[4], %b: f32[4]) -> (f32[1]) {\n    %m = mul %a, %b : f32[4]\n"
      "    %r = sum %m : f32[1]\n    return %r\n  }\n}\n");
}

TEST(TextErrorTest, Ops) {
  EXPECT_TRUE(Parse(InGraph("%y = neg %x : f32[T,4]"), kFile).ok());
  for (const BadText& bad : std::vector<BadText>{
           {"%y = sofmax %x : f32[T,4]", 5, 10, "no op is called 'sofmax'; the nearest is 'softmax'"},
           {"%y = frobnicate_all %x : f32[T,4]", 5, 10, "no op is called 'frobnicate_all'"},
           {"%y = %x", 5, 10, "expected an op; found '%x'"},
           {"%y neg %x : f32[T,4]", 5, 8, "expected '='; found 'neg'"},
           {"y = neg %x : f32[T,4]", 5, 5, "expected an op or return; found 'y'"},
           {"%y = neg %z : f32[T,4]", 5, 14, "no value is called %z so far"},
           {"%y = neg %y : f32[T,4]", 5, 14, "no value is called %y so far"},
           {"%x = neg %x : f32[T,4]", 5, 5, "%x is defined twice"},
           {"%y, %y = kv_view %c {len=2} : f32[1,2,4], f32[1,2,4]", 5, 9, "%y is defined twice"},
           {"%y = neg %x : f32[4,T]", 5, 19, "declared f32[4,T]; inferred f32[T,4]"},
           {"%y = neg %x : f32[T,4], f32[T,4]", 5, 17, "expected 1 types; found more"},
           {"%y, %z = kv_view %c {len=2} : f32[1,2,4]", 6, 5, "expected ','; found 'return'"},
           {"%y, %z = neg %x : f32[T,4], f32[T,4]", 5, 14, "expected 1 results of neg; found 2"},
           {"%y = neg : f32[T,4]", 5, 14, "expected the operands of neg, x; found 0"},
           {"%y = softmax : f32[T,4]", 5, 18, "expected the operands of softmax, x, mask (optional); found 0"},
           {"%y = neg %x, %x : f32[T,4]", 5, 18, "expected fewer operands: neg takes x"},
           {"%y = neg %x, : f32[T,4]", 5, 18, "expected fewer operands: neg takes x"},
           {"%y = add %x, : f32[T,4]", 5, 18, "expected a value; found ':'"},
           {"%y = neg _ : f32[T,4]", 5, 14, "this operand of neg is not optional; found '_'"},
           {"%y = add %i, %x : f32[T,4]", 5, 10, "[add-c1]"},
           {"%y = exp %i : i32[T]", 5, 10, "[operand-class] exp: expected a float tensor for operand x"},
           {"%y = softmax %x {scal=1.0} : f32[T,4]", 5, 22, "no attribute is called 'scal'; softmax has scale"},
           {"%y = neg %x {a=1} : f32[T,4]", 5, 18, "no attribute is called 'a'; neg has none"},
           {"%y = weight \"w\" {name=\"v\"} : f32[4]", 5, 22, "no attribute is called 'name'; weight has pack"},
           {"%y = softmax %x {scale=1.0, scale=2.0} : f32[T,4]", 5, 33, "attribute scale is given twice"},
           {"%y = softmax %x {scale=\"1\"} : f32[T,4]", 5, 28, "expected a number; found \"1\""},
           {"%y = softmax %x {scale=1e999} : f32[T,4]", 5, 28, "does not fit in a double"},
           {"%y = softmax %x {scale=inf} : f32[T,4]", 5, 10, "expected a finite number of f32 for scale"},
           {"%y = softmax %x {scale=1.0 : f32[T,4]", 5, 32, "expected ',' or '}'; found ':'"},
           {"%y = softmax %x {} : f32[T,4]", 5, 22, "expected an attribute's name; found '}'"},
           {"%y = sum %x {axis=1.0} : f32[T,1]", 5, 23, "expected an integer; found '1.0'"},
           {"%y = sum %x {axis=99999999999999999999} : f32[T,1]", 5, 23, "does not fit in 64 bits"},
           {"%y = sum %x {axis=2} : f32[T,1]", 5, 10, "[sum-c1]"},
           {"%y = gemm %x, %x {trans_b=1} : f32[T,T]", 5, 31, "expected true or false; found '1'"},
           {"%y = transpose %x {perm=1} : f32[4,T]", 5, 29, "expected '['; found '1'"},
           {"%y = transpose %x {perm=[1 0]} : f32[4,T]", 5, 32, "expected ',' or ']'; found '0'"},
           {"%y, %z = kv_view %c {len=\"P\"} : f32[1,P,4], f32[1,P,4]", 5, 30, "expected a dim; found \"P\""},
           {"%y, %z = kv_view %c {len=3*P} : f32[1,3*P,4], f32[1,3*P,4]", 5, 14, "[kv_view-c2]"},
           {"%y = loop @dot(%x, %x : f32[T,T]", 5, 27, "expected ')'; found ':'"},
           {"%y = loop @none(%x, %x) : f32[T,T]", 5, 15, "no graph is called @none"},
           {"%y = loop dot(%x, %x) : f32[T,T]", 5, 15, "expected a graph; found 'dot'"},
           {"%y = loop @g(%x, %x) : f32[T,T]", 5, 15, "graph @g names itself"},
           {"%y = loop @dot %x, %x : f32[T,T]", 5, 20, "expected '('; found '%x'"},
           {"%y = weight : f32[T,T]", 5, 17, "expected a string; found ':'"},
           {"%y = neg %x : g32[T,4]", 5, 19, "expected an element type; found 'g32'"},
           {"%y = neg %x : f32[T,4", 6, 5, "expected ']'; found 'return'"},
           {"%y = neg %x : f32[]", 5, 23, "a scalar is f32[1]"},
           {"%y = neg %x : f32[1,1,1,1,1,1,1,1,1]", 5, 39, "too many dims: the limit \"rank\" is 8"},
           {"%y = neg %x : f32[T,S]", 5, 25, "no dim is called 'S'"},
           {"%y = neg %x : f32[T,9223372036854775808]", 5, 25, "does not fit in 64 bits"},
           {"%y = neg %x : f32[T,4294967296*4294967296]", 5, 36, "does not fit in 64 bits"},
           {"%y = neg %x : f32[T,T*T*T*T*T*T*T*T*T*T]", 5, 41, "too many factors: the limit \"dim factors\" is 8"},
           {"%y = neg %x : f32[T,+]", 5, 25, "expected a dim; found '+'"},
           {"%y = neg %x", 6, 5, "expected ':' and the result's type; found 'return'"},
           {"%y = softmax %x", 6, 5, "expected attributes or ':'; found 'return'"},
           {"%y = neg %x : f32[T,4] loc blk", 5, 32, "expected a place in quotes; found 'blk'"},
           {"%y = neg %x : f32[T,4] @nowhere+0", 5, 28, "expected an address space; found '@nowhere'"},
           {"%y = neg %x : f32[T,4] @arena", 6, 5, "expected '+'; found 'return'"},
           {"%y = dequantize %q : f32[4,31]", 5, 10, "[dequantize-c2]"},
           {"%", 5, 5, "expected a value's name after %"},
           {"\t%y = neg %x # f32[T,4]", 5, 18, "no token starts with this character"},
       }) {
    ExpectError({InGraph(bad.text), bad.line, bad.column, bad.message});
  }
}

TEST(TextErrorTest, Graphs) {
  const std::string ok = "  graph @g(%x: f32[4]) -> (f32[4]) {\n    return %x\n  }\n";
  for (const BadText& bad : std::vector<BadText>{
           {ok + ok, 5, 9, "graph @g is defined twice"},
           {"  graph g(%x: f32[4]) -> (f32[4]) {\n    return %x\n  }\n", 2, 9, "expected the graph's @name; found 'g'"},
           {"  graph @g(%x: f32[4], %x: f32[4]) -> (f32[4]) {\n    return %x\n  }\n", 2, 24, "%x is defined twice"},
           {"  graph @g(%x f32[4]) -> (f32[4]) {\n    return %x\n  }\n", 2, 15, "expected ':'; found 'f32'"},
           {"  graph @g(%x: f32[4] -> (f32[4]) {\n    return %x\n  }\n", 2, 23, "expected ',' or ')'; found '->'"},
           {"  graph @g(%x: f32[4]) (f32[4]) {\n    return %x\n  }\n", 2, 24, "expected '->'; found '('"},
           {"  graph @g(%x: f32[4]) -> (f32[5]) {\n    return %x\n  }\n", 3, 12,
            "%x is f32[4]; the graph declares f32[5]"},
           {"  graph @g(%x: f32[4]) -> (f32[4], f32[4]) {\n    return %x\n  }\n", 3, 5, "expected 2 values"},
           {"  graph @g(%x: f32[4]) -> (f32[4]) {\n    return %x, %x\n  }\n", 3, 5, "expected 1 values"},
           {"  graph @g(%x: f32[4]) -> (f32[4]) {\n    return %y\n  }\n", 3, 12, "no value is called %y so far"},
           {"  graph @g(%x: f32[4]) -> (f32[4]) {\n    return %x,\n  }\n", 4, 3, "expected a value; found '}'"},
           {"  graph @g(%x: f32[4]) -> (f32[4]) {\n  }\n", 3, 3, "expected an op or return; found '}'"},
           {"  graph @g(%x: f32[4]) -> (f32[4]) {\n" + absl::StrReplaceAll(ok, {{"@g", "@h"}}), 3, 3,
            "expected an op or return; found 'graph'"},
           {"  graph @g(%x: f32[4] @input+0) -> (f32[4] @input+1) {\n    return %x\n  }\n", 3, 12, "another address"},
           {"  graph @g(%x: q8_0[33]) -> (q8_0[33]) {\n    return %x\n  }\n", 2, 16, "multiple of the block"},
           {"  graph @g(%x: f32[4611686018427387904,4]) -> (f32[1]) {\n    return %x\n  }\n", 2, 16,
            "too many elements: the limit \"tensor bytes\" is 4611686018427387904"},
           {"  graph @a(%x: f32[4]) -> (f32[1]) {\n    %y = loop @b(%x) {over=\"a\", slices=[\"a\"]} : f32[4]\n"
            "    return %y\n  }\n  graph @b(%x: f32[4]) -> (f32[1]) {\n    %y = loop @a(%x) {over=\"a\", "
            "slices=[\"a\"]} : f32[4]\n    return %y\n  }\n",
            7, 15, "graph @a names itself, directly or through others"},
       }) {
    ExpectError({"module @m {\n" + bad.text + "}\n", bad.line, bad.column, bad.message});
  }
}

TEST(TextErrorTest, WhatTheVerifierFindsNamesTheFile) {
  const auto module = Parse(
      "module @m {\n  graph @g(%x: f32[4]) -> (f32[4]) {\n"
      "    %y = kernel @b(%x) {family=\"map\"} : f32[4]\n    return %y\n  }\n"
      "  graph @b(%x: f32[4]) -> (f32[4]) {\n    return %x\n  }\n}\n",
      kFile);
  ASSERT_FALSE(module.ok());
  EXPECT_EQ(module.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(module.status().message()), StartsWith("m.sir: graph @g: [stage] kernel"));
}

TEST(TextErrorTest, Limits) {
  const std::string name(2000, 'a'), digits(2000, '1');
  ExpectError({"module @" + name + " {}", 1, 8, "this name is too long: the limit \"name\" is 1024"});
  ExpectError({InGraph("%y = softmax %x {scale=" + digits + "} : f32[T,4]"), 5, 28,
               "this number is too long: the limit \"number\" is 512"});
  ExpectError({InGraph("%y = sum %x {axis=" + digits + "} : f32[T,4]"), 5, 23, "does not fit in 64 bits"});
  std::string terms = "f32[T";
  for (int i = 0; i < 100; ++i) terms += "+T";
  ExpectError({InGraph("%y = neg %x : " + terms + "]"), 5, 19 + 4 + 1 + 2 * 63,
               "too many terms: the limit \"dim terms\" is 64"});
  std::string symbols = "module @m {\n";
  for (int i = 0; i < 65; ++i) absl::StrAppend(&symbols, "dim D", i, " in 1..2\n");
  ExpectError({symbols + "}", 66, 5, "too many dims: the limit \"dims of a text\" is 64"});
}

TEST(TextErrorTest, ALongChainOfGraphsNeedsNoStack) {
  constexpr int kGraphs = 3000;
  std::string text = "module @m stage kernels {\n";
  for (int i = 0; i < kGraphs; ++i) {
    absl::StrAppendFormat(
        &text,
        "graph @g%d(%%x: f32[1]) -> (f32[1]) {\n%%y = kernel @g%d(%%x) {family=\"map\"} : f32[1]\nreturn %%y\n}\n", i,
        i + 1);
  }
  absl::StrAppend(&text, "graph @g", kGraphs, "(%x: f32[1]) -> (f32[1]) {\nreturn %x\n}\n}\n");
  EXPECT_FALSE(Parse(text, kFile).ok());  // kernels nest too deep; what matters is that this returns
}

// Either it parses and prints stably, or the error has a place.
void ExpectOrderly(const std::string& text) {
  const auto module = Parse(text, kFile);
  if (!module.ok()) {
    EXPECT_EQ(module.status().code(), absl::StatusCode::kInvalidArgument);
    Located error;
    EXPECT_TRUE(SplitError(module.status(), error) || absl::StartsWith(module.status().message(), "m.sir: graph @") ||
                absl::StartsWith(module.status().message(), "m.sir: [bound]"))
        << module.status().message();
    return;
  }
  const std::string printed = Print(**module);
  const auto again = Parse(printed, kFile);
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(Print(**again), printed);
}

TEST(TextFuzzTest, EveryPrefix) {
  for (const std::string text : {kAttention, kLoop, kPlanned}) {
    for (size_t n = 0; n < text.size(); ++n) ExpectOrderly(text.substr(0, n));
  }
}

TEST(TextFuzzTest, RandomBytes) {
  std::mt19937 random(7);
  const std::string alphabet = "%@{}()[]<>,:=+-*_.\"\\/ \n0123456789TPxfsi\xff";
  for (const std::string text : {kAttention, kLoop, kPlanned}) {
    for (int i = 0; i < 2000; ++i) {
      std::string mutated = text;
      const size_t at = random() % text.size();
      const char c = random() % 4 == 0 ? static_cast<char>(random()) : alphabet[random() % alphabet.size()];
      switch (random() % 3) {
        case 0:
          mutated[at] = c;
          break;
        case 1:
          mutated.insert(at, 1, c);
          break;
        default:
          mutated.erase(at, 1);
      }
      ExpectOrderly(mutated);
    }
  }
}

TEST(LexerTest, QuoteAndUnquote) {
  EXPECT_EQ(Quote("a\"\\\n\t\x01\xff"), R"("a\"\\\n\t\x01\xff")");
  EXPECT_EQ(Unquote(R"("a\"\\\n\t\x01\xFF")"), "a\"\\\n\t\x01\xff");
  EXPECT_EQ(Unquote(R"("\xg0")"), std::nullopt);
}

TEST(DiagTest, LongAndOddLines) {
  const std::string text = "first\n" + std::string(1000, 'x') + "\xc3\xa4!" + std::string(1000, 'y') + "\nlast";
  const std::string message(ErrorInText(text, "f", 6 + 1000 + 2, "here").message());
  const std::vector<std::string> lines = absl::StrSplit(message, '\n');
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0], "f:2:1003: here");
  EXPECT_LT(lines[1].size(), 200u);
  EXPECT_EQ(lines[2].size(), 4 + 100 - 1 + 1u);  // the letter of two bytes is one place
  EXPECT_EQ(ErrorInText("abc", "f", 99, "end").message(), "f:1:4: end\n    abc\n       ^");
}

}  // namespace
}  // namespace sinter
