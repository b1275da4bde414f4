// Products with weights in blocks, and the rows of q8_r that meet them, against the evaluator: every format, on every
// target that the CPU runs, around every tile's edges.
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "ir/quant.h"
#include "tests/compiled_graph.h"

namespace sinter {
namespace {

using BlocksKernels = TargetTest;

std::vector<std::string> Formats() {
  std::vector<std::string> formats;
  for (const DTypeInfo& info : AllDTypes()) {
    if (FindQuantFormat(info.dtype) != nullptr) formats.emplace_back(info.name);
  }
  return formats;
}

int64_t BlockOf(const std::string& format) { return Info(*ParseDType(format)).block_elems; }

// A product of [m,k] rows of `rows` with a weight [n,k].
std::string Product(const std::string& rows, const std::string& format, const std::string& m, int64_t n, int64_t k) {
  return absl::StrReplaceAll(
      "(%x: $A[$M,$K]) -> (f32[$M,$N]) {\n  %w = weight \"$F$N,$K\" : $F[$N,$K]\n"
      "  %y = gemm %x, %w {trans_b=true} : f32[$M,$N]\n  return %y\n}",
      {{"$A", rows}, {"$F", format}, {"$M", m}, {"$N", absl::StrCat(n)}, {"$K", absl::StrCat(k)}});
}

TEST_P(BlocksKernels, RowsOfBytesAndOfFloats) {
  KernelSuite suite("dim M in 1..200");
  for (const std::string& format : Formats()) {
    for (const char* rows : {"q8_r", "f32", "bf16"}) {
      for (int64_t blocks : {1, 3}) {
        const int64_t k = blocks * BlockOf(format);
        for (int64_t n : {1, 16, 33, 64, 113}) {
          const std::string general = Product(rows, format, "M", n, k);
          const int64_t most = k * n > 20000 ? 7 : 59;
          suite.Add(general, {{.dims = {{"M", 1}}}, {.dims = {{"M", 6}}}, {.dims = {{"M", most}}}}, {}, "gemm");
        }
        for (const char* m : {"1", "2", "7", "8"}) suite.Add(Product(rows, format, m, 49, k), {{}}, {}, "gemm");
      }
    }
  }
  Check(suite);
}

// The largest quanta of both sides, of one sign: no sum of bytes passes what holds it.
TEST_P(BlocksKernels, LargestSums) {
  KernelSuite suite;
  for (const std::string& format : Formats()) {
    for (const double sign : {1.0, -1.0}) {
      const int64_t k = 2 * BlockOf(format);
      Tensor rows = Tensor::Zeros(DType::kQ8_R, {3, k});
      for (double& v : rows.values) v = sign * 127;
      suite.Add(Product("q8_r", format, "3", 40, k), {{.args = {{0, rows}}}}, {}, "gemm");
    }
  }
  Check(suite);
}

// Rows that are quantized after what makes them, in its kernel.
TEST_P(BlocksKernels, QuantizedRows) {
  KernelSuite suite("dim M in 1..40");
  const std::vector<KernelRun> runs = {{.dims = {{"M", 1}}}, {.dims = {{"M", 5}}}, {.dims = {{"M", 40}}}};
  const auto graph = [](const std::string& operands, const std::string& body, int64_t width) {
    return absl::StrReplaceAll(absl::StrCat("(", operands, ") -> (q8_r[M,$W]) {\n", body,
                                            "  %q = quantize %y : q8_r[M,$W]\n  return %q\n}"),
                               {{"$W", absl::StrCat(width)}});
  };
  for (int64_t width : {32, 96, 1056}) {
    suite.Add(absl::StrReplaceAll("(%y: f32[M,$W]) -> (q8_r[M,$W]) {\n  %q = quantize %y : q8_r[M,$W]\n  return %q\n}",
                                  {{"$W", absl::StrCat(width)}}),
              runs, kExact, "map");
    suite.Add(graph("%a: f32[M,$W], %b: f32[M,$W]", "  %y = add %a, %b : f32[M,$W]\n", width), runs, kExact, "map");
    // Values on the edge between two quanta fall to either side.
    const Tolerance one_quantum = {1.01 / 127};
    suite.Add(graph("%a: f32[M,$W], %g: f32[$W]", "  %y = rms_norm %a, %g : f32[M,$W]\n", width), runs, one_quantum,
              "row");
    suite.Add(graph("%a: f32[M,$W], %b: f32[M,$W]", "  %y = swiglu %a, %b : f32[M,$W]\n", width), runs, one_quantum,
              "map");
  }
  Check(suite);
}

TEST_P(BlocksKernels, RowsThatAreNotFinite) {
  KernelSuite suite;
  Tensor rows = Tensor::Zeros(DType::kF32, {5, 64});
  for (size_t i = 0; i < rows.values.size(); ++i) rows.values[i] = static_cast<double>(i % 7) - 3;
  rows.values[3] = std::numeric_limits<double>::quiet_NaN();
  rows.values[64 + 40] = std::numeric_limits<double>::infinity();
  rows.values[128 + 1] = -std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < 32; ++i) rows.values[192 + i] = i == 4 ? 0x1p-110 : 0;  // too small for a scale
  for (size_t i = 0; i < 32; ++i) rows.values[256 + i] = static_cast<float>(i % 3 == 0 ? 1e38 : -3e38);
  suite.Add("(%x: f32[5,64]) -> (q8_r[5,64]) {\n  %q = quantize %x : q8_r[5,64]\n  return %q\n}",
            {{.args = {{0, rows}}}}, kExact);
  suite.Add(
      "(%x: f32[5,64]) -> (f32[5,17]) {\n  %w = weight \"w\" : q4_0[17,64]\n  %q = quantize %x : q8_r[5,64]\n"
      "  %y = gemm %q, %w {trans_b=true} : f32[5,17]\n  return %y\n}",
      {{.args = {{0, rows}}}});
  Check(suite);
}

// Attention stores blocks where heads are made of them; else rows are quantized after it.
TEST_P(BlocksKernels, AttentionStoresBlocks) {
  KernelSuite suite("dim T in 1..20");
  for (int64_t width : {16, 64, 96}) {
    suite.Add(absl::StrReplaceAll("(%q: f32[2,2,T,$D], %k: f32[2,40,$D], %v: f32[2,40,$D]) -> (q8_r[T,$E]) {\n"
                                  "  %o = attend %q, %k, %v : f32[2,2,T,$D]\n  %y = merge_heads %o : f32[T,$E]\n"
                                  "  %b = quantize %y : q8_r[T,$E]\n  return %b\n}",
                                  {{"$D", absl::StrCat(width)}, {"$E", absl::StrCat(4 * width)}}),
              {{.dims = {{"T", 1}}}, {.dims = {{"T", 20}}}}, {1.01 / 127}, width % 32 == 0 ? "attend" : "attend map");
  }
  Check(suite);
}

// Gate, up and what follows in one step, whose rows are stored in blocks.
TEST_P(BlocksKernels, EpiloguesStoreBlocks) {
  KernelSuite suite("dim M in 1..100");
  for (int64_t width : {64, 96, 288}) {
    suite.Add(absl::StrReplaceAll("(%x: q8_r[M,64]) -> (q8_r[M,$N]) {\n  %a = weight \"a$N\" : q4_0[$N,64]\n"
                                  "  %b = weight \"b$N\" : q8_0[$N,64]\n"
                                  "  %gate = gemm %x, %a {trans_b=true} : f32[M,$N]\n"
                                  "  %up = gemm %x, %b {trans_b=true} : f32[M,$N]\n"
                                  "  %y = swiglu %gate, %up : f32[M,$N]\n"
                                  "  %q = quantize %y : q8_r[M,$N]\n  return %q\n}",
                                  {{"$N", absl::StrCat(width)}}),
              {{.dims = {{"M", 1}}}, {.dims = {{"M", 100}}}}, {1.01 / 127}, "group");
  }
  Check(suite);
}

SINTER_TARGET_TESTS(BlocksKernels);

}  // namespace
}  // namespace sinter
