// Kernels of family map against the evaluator: every elementwise op, broadcasting, selection and conversion.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "ir/ops.h"
#include "ir/text.h"
#include "passes/pass.h"
#include "tests/compiled_graph.h"

namespace sinter {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr int64_t kWidths[] = {1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 65, 130};
// Values where functions do something: zeros of both signs, large and small ones, infinities, NaN.
const std::vector<double> kSpecial = {0,    -0.0, 1,    -1,    0.5,   -0.5,   3,    -3,    20,          -20,
                                      88.5, -87,  1e30, -1e30, 1e-30, -1e-30, kInf, -kInf, std::nan("")};

Tensor SpecialRow(DType dtype = DType::kF32) {
  Tensor t{dtype, {static_cast<int64_t>(kSpecial.size())}, kSpecial};
  for (double& v : t.values) v = RoundTo(dtype, static_cast<float>(v));
  return t;
}

std::vector<KernelRun> Widths(double limit = 1) {
  std::vector<KernelRun> runs;
  for (int64_t n : kWidths) runs.push_back({.dims = {{"N", n}}, .args = {}, .float_limit = limit});
  return runs;
}

using MapKernels = TargetTest;

// The rows of the op table that are elementwise and work on floats; a new one is tested as soon as it has a row.
TEST_P(MapKernels, EveryElementwiseOp) {
  KernelSuite suite("dim N in 1..200");
  int ops = 0;
  for (const OpDef& def : AllOps()) {
    if (!def.Has(kElementwise) || def.Has(kDeclared)) continue;
    ++ops;
    const std::string special = absl::StrCat(kSpecial.size());
    for (const char* dtype : {"f32", "f16", "bf16"}) {
      for (const std::string& dims : {std::string("N"), std::string("3,N"), special}) {
        const std::string type = absl::StrCat(dtype, "[", dims, "]");
        std::string params, operands;
        int floats = 0;
        KernelRun special_run;
        const bool is_select = def.kind == OpKind::kSelect;
        for (size_t operand = 0; operand < def.operands.size(); ++operand) {
          const bool mask = is_select && operand == 0;
          absl::StrAppend(&params, operand == 0 ? "" : ", ", "%a", operand, ": ",
                          mask ? absl::StrCat("bool[", dims, "]") : type);
          absl::StrAppend(&operands, operand == 0 ? "" : ", ", "%a", operand);
          if (!mask && floats++ == 0) special_run.args[operand] = SpecialRow(*ParseDType(dtype));
        }
        // Fused ops round more than once, and differences of near numbers in them keep an error of the whole.
        const bool fused = def.kind == OpKind::kGelu || def.kind == OpKind::kSwiglu;
        const bool positive = def.kind == OpKind::kLog || def.kind == OpKind::kSqrt || def.kind == OpKind::kRsqrt;
        // Roots and logarithms of negative numbers are NaN, which is compared, too: the wider range has both.
        const std::vector<KernelRun> runs =
            dims == special ? std::vector<KernelRun>{special_run} : Widths(positive ? 40 : 4);
        suite.Add(absl::StrCat("(", params, ") -> (", type, ") {\n  %y = ", def.name, " ", operands, " : ", type,
                               "\n  return %y\n}"),
                  runs, {1e-6, !fused}, "map");
      }
    }
  }
  EXPECT_GE(ops, 16);
  Check(suite);
}

TEST_P(MapKernels, BothFormsOfGelu) {
  KernelSuite suite("dim N in 1..200");
  for (const char* form : {"tanh", "erf"}) {
    for (const char* dtype : {"f32", "f16"}) {
      suite.Add(absl::StrCat("(%x: ", dtype, "[N]) -> (", dtype, "[N]) {\n  %y = gelu %x {form=\"", form,
                             "\"} : ", dtype, "[N]\n  return %y\n}"),
                Widths(6), {1e-6, false}, "map");
    }
  }
  Check(suite);
}

TEST_P(MapKernels, BroadcastsAlongEveryAxis) {
  KernelSuite suite("dim N in 1..200 dim M in 1..10");
  const std::vector<KernelRun> runs = {{.dims = {{"M", 1}, {"N", 1}}},
                                       {.dims = {{"M", 3}, {"N", 17}}},
                                       {.dims = {{"M", 5}, {"N", 33}}},
                                       {.dims = {{"M", 2}, {"N", 16}}}};
  const std::string full = "f32[2,M,N]";
  for (const char* other : {"f32[N]", "f32[1]", "f32[M,1]", "f32[2,1,1]", "f32[2,M,1]", "f32[1,M,N]", "f32[2,1,N]",
                            "f32[1,1,N]", "f32[2,M,N]"}) {
    for (const char* op : {"sub", "div", "maximum"}) {
      suite.Add(absl::StrCat("(%x: ", full, ", %y: ", other, ") -> (", full, ") {\n  %z = ", op, " %x, %y : ", full,
                             "\n  return %z\n}"),
                runs, {1e-6, true}, "map");
      suite.Add(absl::StrCat("(%x: ", full, ", %y: ", other, ") -> (", full, ") {\n  %z = ", op, " %y, %x : ", full,
                             "\n  return %z\n}"),
                runs, {1e-6, true}, "map");
    }
    const std::string mask = absl::StrReplaceAll(other, {{"f32", "bool"}});
    suite.Add(absl::StrCat("(%m: ", mask, ", %x: ", full, ", %y: f32[N]) -> (", full,
                           ") {\n  %z = select %m, %x, %y : ", full, "\n  return %z\n}"),
              runs, kExact, "map");
  }
  // Both sides broadcast.
  suite.Add("(%x: f32[M,1], %y: f32[N]) -> (f32[M,N]) {\n  %z = add %x, %y : f32[M,N]\n  return %z\n}", runs,
            {1e-6, true}, "map");
  suite.Add(
      "(%m: bool[N], %x: f32[M,1], %y: f32[1]) -> (f32[M,N]) {\n  %z = select %m, %x, %y : f32[M,N]\n  return %z\n}",
      runs, kExact, "map");
  Check(suite);
}

TEST_P(MapKernels, ReadsViews) {
  KernelSuite suite("dim N in 1..40 dim M in 1..40");
  std::vector<KernelRun> runs;
  for (int64_t n : {1, 2, 9, 16, 33}) runs.push_back({.dims = {{"M", n}, {"N", 40 - n}}});
  suite.Add(
      "(%x: f32[M,N], %y: f32[N,M]) -> (f32[N,M]) {\n  %t = transpose %x {perm=[1,0]} : f32[N,M]\n"
      "  %z = mul %t, %y : f32[N,M]\n  return %z\n}",
      runs, {1e-6, true}, "map");
  suite.Add(
      "(%x: f32[M,N,5]) -> (f32[N,2,M]) {\n  %s = slice %x {axis=2, first=3, len=2} : f32[M,N,2]\n"
      "  %t = transpose %s {perm=[1,2,0]} : f32[N,2,M]\n  %z = neg %t : f32[N,2,M]\n  return %z\n}",
      runs, kExact, "map");
  suite.Add(
      "(%x: f16[M,48]) -> (f16[2,3,M,7]) {\n  %h = heads %x {first=5, groups=2} : f16[2,3,M,7]\n"
      "  %z = neg %h : f16[2,3,M,7]\n  return %z\n}",
      runs, kExact, "map");
  suite.Add(
      "(%x: f32[M,N], %y: f32[N,M,1]) -> (f32[N,M,3]) {\n  %t = transpose %x {perm=[1,0]} : f32[N,M]\n"
      "  %r = reshape %t : f32[N,M,1]\n  %p = repeat %r {axis=2, times=3} : f32[N,M,3]\n"
      "  %z = add %p, %y : f32[N,M,3]\n  return %z\n}",
      runs, {1e-6, true}, "map");
  Check(suite);
}

TEST_P(MapKernels, ConvertsBetweenTypes) {
  KernelSuite suite("dim N in 1..200");
  const std::string special = absl::StrCat(kSpecial.size());
  for (const char* from : {"f32", "f16", "bf16", "i8", "u8", "i32"}) {
    for (const char* to : {"f32", "f16", "bf16"}) {
      const auto graph = [&](const std::string& dims) {
        return absl::StrCat("(%x: ", from, "[", dims, "]) -> (", to, "[", dims, "]) {\n  %y = convert %x : ", to, "[",
                            dims, "]\n  return %y\n}");
      };
      const DType dtype = *ParseDType(from);
      std::vector<KernelRun> runs = Widths(100);
      for (KernelRun& run : runs) {
        // Signed, to the ends of the type.
        const int64_t n = run.dims.at("N");
        if (!IsInt(dtype)) continue;
        run.args[0] = Tensor::Zeros(dtype, {n});
        const double low = dtype == DType::kU8 ? 0 : dtype == DType::kI8 ? -128 : -2147483648.0;
        const double high = dtype == DType::kU8 ? 255 : dtype == DType::kI8 ? 127 : 2147483647.0;
        for (int64_t i = 0; i < n; ++i) {
          run.args[0].values[static_cast<size_t>(i)] = std::round(low + (high - low) * static_cast<double>(i) / 129);
        }
      }
      suite.Add(graph("N"), runs, kExact);
      if (IsFloat(dtype)) suite.Add(graph(special), {{.dims = {}, .args = {{0, SpecialRow(dtype)}}}}, kExact);
    }
  }
  Check(suite);
}

// Ties, subnormals and overflow of both narrow types.
TEST_P(MapKernels, RoundsToNearestEven) {
  KernelSuite suite;
  for (const char* to : {"f16", "bf16"}) {
    Tensor x{DType::kF32, {37}, {}};
    for (int i = 0; i < 37; ++i) {
      const double unit = std::string(to) == "f16" ? std::ldexp(1, -11) : std::ldexp(1, -8);
      const double values[] = {1 + i * unit, -1 - (i + 0.5) * unit, std::ldexp(i + 0.5, -24), 65504 + i * 2.0,
                               std::ldexp(1 + i * unit, -130)};
      x.values.push_back(static_cast<float>(values[i % 5]));
    }
    suite.Add(absl::StrCat("(%x: f32[37]) -> (", to, "[37]) {\n  %y = convert %x : ", to, "[37]\n  return %y\n}"),
              {{.dims = {}, .args = {{0, x}}}}, kExact, "map");
  }
  Check(suite);
}

SINTER_TARGET_TESTS(MapKernels);

// A graph that needs what no family computes names all of it at once.
TEST(UnsupportedOps, AreNamedTogether) {
  auto module = Parse(
      "module @m {\n weights \"w\" sha256 \"0000000000000000000000000000000000000000000000000000000000000000\"\n"
      " graph @main(%x: f64[4], %i: i32[4], %y: f32[4], %q: f32[2,2,1], %p: i32[2])"
      " -> (f64[4], i32[4], f32[4], i8[4], f32[2,2,1]) {\n"
      "  %wide = add %x, %x : f64[4]\n  %int = add %i, %i : i32[4]\n  %fine = add %y, %y : f32[4]\n"
      "  %cut = convert %y : i8[4]\n  %m = causal_mask %p {len=1} : bool[2,1]\n"
      "  %att = attend %q, %q, %q, %m {scale=0.5} : f32[2,2,1]\n"
      "  return %wide, %int, %fine, %cut, %att\n }\n}\n",
      "test");
  ASSERT_TRUE(module.ok()) << module.status();
  PassContext context{{FindTarget("avx2")}};
  const absl::Status status = SelectKernels(**module, context).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  const std::string message(status.message());
  EXPECT_THAT(message, testing::HasSubstr("4 ops have no kernel"));
  EXPECT_THAT(message, testing::HasSubstr("@main %wide: no kernel for"));
  EXPECT_THAT(message, testing::HasSubstr("add of f64"));
  EXPECT_THAT(message, testing::HasSubstr("@main %int: no kernel for"));
  EXPECT_THAT(message, testing::HasSubstr("add of i32"));
  EXPECT_THAT(message, testing::HasSubstr("@main %cut: no kernel for"));
  EXPECT_THAT(message, testing::HasSubstr("convert to i8"));
  EXPECT_THAT(message, testing::HasSubstr("@main %att: no kernel for"));
  EXPECT_THAT(message, testing::HasSubstr("a causal mask of one position that serves several"));
  EXPECT_THAT(message, testing::Not(testing::HasSubstr("%fine")));
}

}  // namespace
}  // namespace sinter
