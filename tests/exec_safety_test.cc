// Text that verifies, and inputs that fit it, never lead compiled code out of its operands: `exec` refuses them or runs
// safely. Each case has a twin that is accepted.
#include <filesystem>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cli_run.h"
#include "tools/npy.h"

namespace sinter {
namespace {

using testing::HasSubstr;

class ExecSafety : public testing::Test {
 protected:
  void Input(const std::string& name, DType dtype, std::vector<int64_t> dims, std::vector<double> values) {
    ASSERT_TRUE(WriteNpy(folder_ / (name + ".npy"), {dtype, std::move(dims), std::move(values)}).ok());
    inputs_.push_back("--input=" + name + "=@" + name + ".npy");
  }
  // Element i is i.
  void Count(const std::string& name, std::vector<int64_t> dims) {
    std::vector<double> values(
        static_cast<size_t>(std::accumulate(dims.begin(), dims.end(), int64_t{1}, std::multiplies<int64_t>())));
    std::iota(values.begin(), values.end(), 0.0);
    Input(name, DType::kF32, std::move(dims), std::move(values));
  }
  CliResult Exec(const std::string& file, const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {"exec", file};
    arguments.insert(arguments.end(), inputs_.begin(), inputs_.end());
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Sinter(folder_, arguments);
  }
  CliResult ExecText(const std::string& text, const std::vector<std::string>& more = {}) {
    WriteAll(folder_ / "m.sir", text);
    return Exec("m.sir", more);
  }
  TestFolder folder_;
  std::vector<std::string> inputs_;
};

constexpr char kLast[] = "%e: f32[4,8] 56 57 58 59 60 61 62 63 ...\n";

// Indices that the run itself computes are checked by no one before it: outside the rows, they are the last row.
TEST_F(ExecSafety, IndicesReadFromATable) {
  const std::string text =
      "module @m {\n  graph @main(%tab: i32[2,4], %rows: f32[8,8], %ids: i32[1]) -> (f32[4,8]) {\n"
      "    %r = take %tab, %ids : i32[1,4]\n    %j = reshape %r : i32[4]\n    %e = take %rows, %j : f32[4,8]\n"
      "    return %e\n  }\n}\n";
  Count("rows", {8, 8});
  Input("ids", DType::kI32, {1}, {0});
  Input("tab", DType::kI32, {2, 4}, {1, 2, 3, 4, 5, 6, 7, 0});
  EXPECT_EQ(ExecText(text).out, "%e: f32[4,8] 8 9 10 11 12 13 14 15 ...\n");
  for (double hostile : {8.0, 1e8, 2147483647.0, -1.0, -2147483648.0}) {
    ASSERT_TRUE(WriteNpy(folder_ / "tab.npy", {DType::kI32, {2, 4}, std::vector<double>(8, hostile)}).ok());
    const CliResult result = ExecText(text);
    EXPECT_EQ(result.code, 0) << hostile << result.err;
    EXPECT_EQ(result.out, kLast) << hostile;
  }
}

// Text names what its inputs index, and they are checked; a compiled module does not, and its kernels hold.
TEST_F(ExecSafety, IndicesGivenToACompiledModule) {
  const std::string text =
      "module @m {\n  dim T in 1..4\n  graph @main(%rows: f32[8,8], %ids: i32[T], %c: state<f32[2,1,8,8]>) -> "
      "(f32[T,8], "
      "state<f32[2,1,8,8]>) {\n    %e = take %rows, %ids : f32[T,8]\n    %k = reshape %e : f32[1,1,T,8]\n"
      "    %n = kv_append %c, %k, %k, %ids : state<f32[2,1,8,8]>\n    return %e, %n\n  }\n}\n";
  WriteAll(folder_ / "m.sir", text);
  ASSERT_EQ(Sinter(folder_, {"compile", "m.sir", "-o", "m.sinter"}).code, 0);
  Count("rows", {8, 8});
  Input("ids", DType::kI32, {4}, {1, 0, 3, 7});
  EXPECT_EQ(Exec("m.sir").out, "%e: f32[4,8] 8 9 10 11 12 13 14 15 ...\n");
  EXPECT_EQ(Exec("m.sinter").out, "%e: f32[4,8] 8 9 10 11 12 13 14 15 ...\n");
  for (double hostile : {8.0, 1e8, -1.0, -2147483648.0}) {
    ASSERT_TRUE(WriteNpy(folder_ / "ids.npy", {DType::kI32, {4}, std::vector<double>(4, hostile)}).ok());
    ExpectFailure(Exec("m.sir"), 2, "input %ids: element 0 is ");
    const CliResult result = Exec("m.sinter", {"--output=c=@c.npy"});
    ASSERT_EQ(result.code, 0) << hostile << result.err;
    const auto cache = ReadNpy(folder_ / "c.npy");
    ASSERT_TRUE(cache.ok()) << cache.status();
    EXPECT_EQ(cache->values[6 * 8], 0) << hostile;
    EXPECT_EQ(cache->values[7 * 8], 56) << hostile;
  }
}

TEST_F(ExecSafety, ATableThatMayHaveNoRows) {
  const std::string text =
      "module @m {\n  dim N in 1..8\n  graph @main(%rows: f32[N,8], %ids: i32[4]) -> (f32[4,8]) {\n"
      "    %e = take %rows, %ids : f32[4,8]\n    return %e\n  }\n}\n";
  Count("rows", {8, 8});
  Input("ids", DType::kI32, {4}, {7, 0, 0, 0});
  EXPECT_EQ(ExecText(text).out, kLast);
  ExpectFailure(ExecText(absl::StrReplaceAll(text, {{"N in 1", "N in 0"}})), 3, "of which there may be none");
}

// Threads of which some have no grain of one part of a group, and some none at all.
TEST_F(ExecSafety, MoreThreadsThanGrains) {
  Count("x", {10, 600});
  Count("y", {4, 600});
  const std::string text =
      "module @m stage kernels {\n  graph @main(%x: f32[10,600], %y: f32[4,600]) -> (f32[10,600], f32[4,600]) {\n"
      "    %p, %q = kernel @both(%x, %y) {family=\"group\", barrier=true} : f32[10,600], f32[4,600]\n"
      "    return %p, %q\n  }\n"
      "  graph @both(%x: f32[10,600], %y: f32[4,600]) -> (f32[10,600], f32[4,600]) {\n"
      "    %p = kernel @ten(%x) {family=\"row\"} : f32[10,600]\n    %q = kernel @four(%y) {family=\"row\"} : "
      "f32[4,600]\n    return %p, %q\n  }\n"
      "  graph @ten(%x: f32[10,600]) -> (f32[10,600]) {\n    %m = max %x : f32[10,1]\n"
      "    %r = sub %x, %m : f32[10,600]\n    return %r\n  }\n"
      "  graph @four(%x: f32[4,600]) -> (f32[4,600]) {\n    %m = max %x : f32[4,1]\n"
      "    %r = sub %x, %m : f32[4,600]\n    return %r\n  }\n}\n";
  for (int threads = 1; threads <= 16; ++threads) {
    const CliResult result = ExecText(text, {"-t", absl::StrCat(threads), "--output=p=@p.npy", "--output=q=@q.npy"});
    ASSERT_EQ(result.code, 0) << threads << result.err;
    for (const char* name : {"p.npy", "q.npy"}) {
      const auto values = ReadNpy(folder_ / name);
      ASSERT_TRUE(values.ok()) << values.status();
      for (size_t i = 0; i < values->values.size(); ++i) {
        ASSERT_EQ(values->values[i], static_cast<double>(i % 600) - 599) << name << " " << i << " of " << threads;
      }
    }
  }
}

// The call of @k takes U as 1, whatever the run gives.
TEST_F(ExecSafety, ACallThatFixesADim) {
  const std::string k =
      "  graph @k(%a: f32[8,U]) -> (f32[8,U]) {\n    %v = add %a, %a : f32[8,U]\n    return %v\n  }\n";
  const std::string l = "  graph @l(%a: f32[U]) -> (f32[U]) {\n    %v = add %a, %a : f32[U]\n    return %v\n  }\n";
  const std::string head = "module @m stage planned {\n  dim U in 1..100000\n  graph @main(%x: f32[8,1] @input+0";
  const std::string call = "    %z = kernel @k(%x) {family=\"map\"} : f32[8,1] @output+0\n";
  Count("x", {8, 1});
  const std::string alone = absl::StrCat(head, ") -> (f32[8,1] @output+0) {\n", call, "    return %z\n  }\n", k, "}\n");
  for (const char* u : {"--dim=U=1", "--dim=U=100000"}) {
    const CliResult result = ExecText(alone, {u});
    EXPECT_EQ(result.out, "%z: f32[8,1] 0 2 4 6 8 10 12 14\n") << u << result.err;
  }
  Count("y", {100000});
  ExpectFailure(
      ExecText(absl::StrCat(head, ", %y: f32[U] @input+1) -> (f32[8,1] @output+0, f32[U] @output+1) {\n", call,
                            "    %w = kernel @l(%y) {family=\"map\"} : f32[U] @output+1\n    return %z, %w\n  }\n", k,
                            l, "}\n")),
      4, "@main %z: the call of @k takes dim U as 1");
}

// The arena is planned for P <= 7, as P+T <= 8 says, also where no T is.
TEST_F(ExecSafety, ABoundWithADimThatTheGraphDoesNotUse) {
  WriteAll(folder_ / "m.sir",
           "module @m {\n  dim P in 0..1000000\n  dim T in 1..4\n  bound P+T <= 8\n"
           "  graph @main(%s: f32[1,P+1]) -> (f32[1,P+1]) {\n    %a = neg %s : f32[1,P+1]\n"
           "    %m = max %a : f32[1,1]\n    %b = sub %a, %m : f32[1,P+1]\n    return %b\n  }\n}\n");
  ASSERT_EQ(Sinter(folder_, {"compile", "m.sir", "-o", "m.sinter"}).code, 0);
  Count("s", {1, 8});
  for (const char* file : {"m.sir", "m.sinter"}) {
    const CliResult result = Exec(file, {"--dim=P=7"});
    EXPECT_EQ(result.out, "%b: f32[1,8] 0 -1 -2 -3 -4 -5 -6 -7\n") << result.err;
  }
  inputs_.clear();
  Count("s", {1, 100001});
  for (const char* file : {"m.sir", "m.sinter"}) {
    ExpectFailure(Exec(file, {"--dim=P=100000"}), 2, "bound");
  }
  ExpectFailure(Exec("m.sir", {"--dim=P=100000", "--reference"}), 2, "over its bound of 8");
}

TEST_F(ExecSafety, AResultThatIsTooLarge) {
  const std::string text =
      "module @m {\n  dim N in 1..100000\n  graph @main(%a: f32[N,1], %b: f32[1,N]) -> (f32[N,N]) {\n"
      "    %c = add %a, %b : f32[N,N]\n    return %c\n  }\n}\n";
  Count("a", {2, 1});
  Count("b", {1, 2});
  EXPECT_EQ(ExecText(text).out, "%c: f32[2,2] 0 1 1 2\n");
  inputs_.clear();
  Count("a", {100000, 1});
  Count("b", {1, 100000});
  ExpectFailure(ExecText(text), 6, "results 120.00 GB");
}

// A tile of shape dot walks a matrix whose rows are contiguous, one of shape outer one whose columns are.
TEST_F(ExecSafety, ATileOfAnotherShape) {
  const auto text = [](const std::string& tile) {
    return absl::StrCat(
        "module @m stage planned {\n  graph @main(%x: f32[3,8] @input+0, %w: f32[5,8] @input+1) -> (f32[3,5] "
        "@output+0) {\n",
        "    %y = kernel @k(%x, %w) {family=\"gemm\", tiles=[\"avx2:", tile, "\"]} : f32[3,5] @output+0\n",
        "    return %y\n  }\n  graph @k(%a: f32[3,8], %b: f32[5,8]) -> (f32[3,5]) {\n",
        "    %c = gemm %a, %b {trans_b=true} : f32[3,5]\n    return %c\n  }\n}\n");
  };
  Count("x", {3, 8});
  Count("w", {5, 8});
  EXPECT_EQ(ExecText(text("dot:2x4"), {"--target=avx2"}).out, "%y: f32[3,5] 140 364 588 812 1036 364 1100 1836 ...\n");
  for (const char* tile : {"outer:6x16", "gemv:1x64"}) {
    ExpectFailure(ExecText(text(tile), {"--target=avx2"}), 4, "for a product of shape dot");
  }
}

// Tables are made when a module is compiled, and text may ask for any.
TEST_F(ExecSafety, ATableThatIsTooLarge) {
  const std::string text =
      "module @m {\n  graph @main(%x: f32[1,8], %pos: i32[1]) -> (f32[1,8]) {\n    %t = rope_table : f32[64,16]\n"
      "    %y = rope %x, %pos, %t : f32[1,8]\n    return %y\n  }\n}\n";
  Count("x", {1, 8});
  Input("pos", DType::kI32, {1}, {0});
  EXPECT_EQ(ExecText(text).out, "%y: f32[1,8] 0 1 2 3 4 5 6 7\n");
  ExpectFailure(ExecText(absl::StrReplaceAll(text, {{"f32[64,16]", "f32[1000000000000,16]"}})), 6, "rope_table");
}

}  // namespace
}  // namespace sinter
