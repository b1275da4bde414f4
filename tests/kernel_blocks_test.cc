// Products with weights in blocks, and the rows of q8_r that meet them, against the evaluator: every format, on every
// target that the CPU runs, around every tile's edges.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "ir/quant.h"
#include "ir/text.h"
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

// A graph that makes rows %y [m,k] of `params` by `body` and multiplies them with a weight [n,k], as they are or, for
// bytes, quantized.
std::string Product(const std::string& params, const std::string& body, bool bytes, const std::string& format,
                    const std::string& m, int64_t n, int64_t k) {
  return absl::StrReplaceAll(absl::StrCat("(", params, ") -> (f32[$M,$N]) {\n  %w = weight \"$F$N,$K\" : $F[$N,$K]\n",
                                          body, bytes ? "  %q = quantize %y : q8_r[$M,$K]\n" : "", "  %z = gemm ",
                                          bytes ? "%q" : "%y", ", %w {trans_b=true} : f32[$M,$N]\n  return %z\n}"),
                             {{"$F", format}, {"$M", m}, {"$N", absl::StrCat(n)}, {"$K", absl::StrCat(k)}});
}

constexpr char kRows[] = "%y: f32[$M,$K]";

// A result of one element may be small beside the products that it is the sum of.
constexpr Tolerance kOneSum = {1e-4};

TEST_P(BlocksKernels, RowsOfBytesAndOfFloats) {
  KernelSuite suite("dim M in 1..200");
  for (const std::string& format : Formats()) {
    for (const bool bytes : {true, false}) {
      for (int64_t blocks : {1, 3}) {
        const int64_t k = blocks * BlockOf(format);
        for (int64_t n : {1, 16, 33, 64, 113}) {
          const int64_t most = k * n > 20000 ? 7 : 59;
          suite.Add(Product(kRows, "", bytes, format, "M", n, k),
                    {{.dims = {{"M", 1}}}, {.dims = {{"M", 6}}}, {.dims = {{"M", most}}}},
                    n == 1 ? kOneSum : Tolerance{}, bytes ? "map gemm" : "gemm");
        }
        for (const char* m : {"1", "2", "7", "8", "20", "53"})
          suite.Add(Product(kRows, "", bytes, format, m, 49, k), {{}});
      }
    }
    suite.Add(Product("%y: bf16[$M,$K]", "", false, format, "M", 33, 2 * BlockOf(format)), {{.dims = {{"M", 9}}}}, {},
              "gemm");
  }
  Check(suite);
}

// The largest quanta of the rows, of one sign or of two: no sum of bytes passes what holds it.
TEST_P(BlocksKernels, LargestSums) {
  KernelSuite suite;
  for (const std::string& format : Formats()) {
    const int64_t k = 2 * BlockOf(format);
    Tensor rows = Tensor::Zeros(DType::kF32, {3, k});
    for (size_t i = 0; i < rows.values.size(); ++i) {
      const size_t row = i / static_cast<size_t>(k);
      rows.values[i] = row == 0 ? 127 : row == 1 ? -127 : i % 2 == 0 ? 127 : -127;
    }
    suite.Add(Product(kRows, "", true, format, "3", 400, k), {{.args = {{0, rows}}}});
  }
  Check(suite);
}

// Rows that are quantized in the kernel of what makes them. Values on the edge between two quanta fall to either side.
TEST_P(BlocksKernels, RowsAreQuantizedWhereTheyAreMade) {
  KernelSuite suite("dim M in 1..40");
  const std::vector<KernelRun> runs = {{.dims = {{"M", 1}}}, {.dims = {{"M", 5}}}, {.dims = {{"M", 40}}}};
  const Tolerance quanta = {0.01};
  for (int64_t k : {32, 96, 1056}) {
    suite.Add(Product("%a: f32[$M,$K], %b: f32[$M,$K]", "  %y = add %a, %b : f32[$M,$K]\n", true, "q8_0", "M", 33, k),
              runs, {}, "map gemm");
    suite.Add(Product("%a: f32[$M,$K], %g: f32[$K]", "  %y = rms_norm %a, %g : f32[$M,$K]\n", true, "q8_0", "M", 33, k),
              runs, quanta, "row gemm");
    suite.Add(
        Product("%a: f32[$M,$K], %b: f32[$M,$K]", "  %y = swiglu %a, %b : f32[$M,$K]\n", true, "q8_0", "M", 33, k),
        runs, quanta, "map gemm");
  }
  // Attention stores blocks where heads are made of them; else rows are quantized after it.
  for (int64_t width : {16, 64, 96}) {
    const std::string params =
        absl::StrReplaceAll("%q0: f32[2,2,$M,$D], %k0: f32[2,40,$D], %v0: f32[2,40,$D]", {{"$D", absl::StrCat(width)}});
    const std::string body =
        absl::StrReplaceAll("  %o = attend %q0, %k0, %v0 : f32[2,2,$M,$D]\n  %y = merge_heads %o : f32[$M,$K]\n",
                            {{"$D", absl::StrCat(width)}});
    suite.Add(Product(params, body, true, "q8_0", "M", 33, 4 * width), runs, quanta,
              width % 32 == 0 ? "attend gemm" : "attend map gemm");
  }
  // Gate, up and what follows in one step.
  for (int64_t k : {64, 96, 288}) {
    const std::string body =
        "  %a = weight \"a$K\" : q4_0[$K,64]\n  %b = weight \"b$K\" : q8_0[$K,64]\n"
        "  %r = quantize %x : q8_r[$M,64]\n  %gate = gemm %r, %a {trans_b=true} : f32[$M,$K]\n"
        "  %up = gemm %r, %b {trans_b=true} : f32[$M,$K]\n  %y = swiglu %gate, %up : f32[$M,$K]\n";
    suite.Add(Product("%x: f32[$M,64]", body, true, "q8_0", "M", 33, k), runs, quanta, "map group gemm");
  }
  Check(suite);
}

// Products of floats may have narrower grains than those of blocks: what reads both is in one step with one of them.
TEST_P(BlocksKernels, BesideProductsOfFloats) {
  KernelSuite suite("dim M in 1..60");
  const std::vector<KernelRun> runs = {{.dims = {{"M", 1}}}, {.dims = {{"M", 13}}}, {.dims = {{"M", 60}}}};
  for (const char* operands : {"%gate, %up", "%up, %gate"}) {
    for (int64_t n : {64, 96, 240}) {
      suite.Add(absl::StrReplaceAll(
                    "(%x: f32[M,64]) -> (f32[M,$N]) {\n"
                    "  %a = weight \"a$N\" : q4_0[$N,64]\n  %b = weight \"b$N\" : f32[$N,64]\n"
                    "  %r = quantize %x : q8_r[M,64]\n  %gate = gemm %r, %a {trans_b=true} : f32[M,$N]\n"
                    "  %up = gemm %x, %b {trans_b=true} : f32[M,$N]\n  %y = swiglu $O : f32[M,$N]\n  return %y\n}",
                    {{"$N", absl::StrCat(n)}, {"$O", operands}}),
                runs, {0.01}, n == 64 ? "map group" : "map gemm group");
    }
  }
  Check(suite);
}

// Runs the steps of an entry grain by grain and counts how often each element of its output is written.
std::vector<int> WritersOf(const CompiledModule& module, std::vector<float> input, int64_t elems) {
  const auto lines = [](int64_t bytes) {  // of memory on a cache line
    return std::unique_ptr<uint8_t, decltype(&std::free)>(
        static_cast<uint8_t*>(std::aligned_alloc(64, static_cast<size_t>(AlignUp(bytes + 1, 64)))), &std::free);
  };
  const auto arena = lines(module.metadata().arena_bytes()), thread = lines(module.metadata().thread_bytes()),
             scratch = lines(module.scratch_bytes());
  std::vector<float> output(static_cast<size_t>(elems));
  uint8_t* spaces[fbs::Space_MAX + 1] = {};
  spaces[fbs::Space_Arena] = arena.get();
  spaces[fbs::Space_Thread] = thread.get();
  spaces[fbs::Space_Weights] = const_cast<uint8_t*>(module.weights());
  spaces[fbs::Space_Input] = reinterpret_cast<uint8_t*>(input.data());
  spaces[fbs::Space_Output] = reinterpret_cast<uint8_t*>(output.data());
  std::vector<int> writers(output.size());
  for (const LoadedStep& step : module.entries()[0].steps) {
    std::vector<void*> operands;
    for (const fbs::Operand& operand : step.operands) operands.push_back(spaces[operand.space()] + operand.at());
    const SinterKernelArgs args = {operands.data(), nullptr, scratch.get()};
    for (int64_t grain = 0; grain < step.Grains(nullptr); ++grain) {
      std::fill(output.begin(), output.end(), std::numeric_limits<float>::quiet_NaN());
      step.kernel(&args, grain, grain + 1);
      for (size_t i = 0; i < output.size(); ++i) writers[i] += std::isnan(output[i]) ? 0 : 1;
    }
  }
  return writers;
}

// Threads run grains in any order, and what one wrote another may have read and written over: a grain leaves the rows
// of all others alone, whatever the tiles of its own leave over.
TEST_P(BlocksKernels, GrainsWriteTheirOwnElements) {
  for (const std::string& format : Formats()) {
    for (const bool bytes : {true, false}) {
      for (int64_t m : {49, 53, 60, 96, 97}) {
        const int64_t n = 80, k = BlockOf(format);
        auto module = Parse("module @m { weights \"w.gguf\" sha256 \"" + std::string(64, '0') + "\"\ngraph @main" +
                                Product(kRows, "", bytes, format, absl::StrCat(m), n, k) + "\n}",
                            "grains");
        ASSERT_TRUE(module.ok()) << module.status();
        const WeightTensors weights = RandomWeights(**module, 3);
        auto compiled = CompiledGraphs::Make(*std::move(module), GetParam(), "O2", RowsOf(weights));
        ASSERT_TRUE(compiled.ok()) << compiled.status();
        const std::vector<float> ones(static_cast<size_t>(m * k), 1.0f);
        EXPECT_THAT(WritersOf(*(*compiled)->module(), ones, m * n), testing::Each(1))
            << format << (bytes ? " by bytes, " : " by floats, ") << m << " rows";
        ++ran_;
      }
    }
  }
}

TEST_P(BlocksKernels, RowsThatAreNotFinite) {
  KernelSuite suite;
  Tensor rows = Tensor::Zeros(DType::kF32, {5, 64});
  for (size_t i = 0; i < rows.values.size(); ++i) rows.values[i] = static_cast<double>(i % 7) - 3;
  rows.values[3] = std::numeric_limits<double>::quiet_NaN();
  rows.values[64 + 40] = std::numeric_limits<double>::infinity();
  rows.values[128 + 1] = -std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < 32; ++i) rows.values[192 + i] = i == 4 ? 0x1p-110 : 0;  // too small for a scale
  for (size_t i = 0; i < 32; ++i) rows.values[256 + i] = static_cast<float>(i % 3 == 0 ? 1e30 : -3e30);
  suite.Add(Product(kRows, "", true, "q4_0", "5", 17, 64), {{.args = {{0, rows}}}});
  Check(suite);
}

// What rounding rows to 8-bit integers costs, against exact arithmetic on the same weights: the mean square of the
// error over that of the result. Of rows that are uniform in [-1, 1] a quantum, 1/127, errs by its twelfth squared of
// 1/3.
TEST_P(BlocksKernels, ErrorOfBytes) {
  constexpr double kExpected = 3.0 / 12 / 127 / 127;
  for (const std::string& format : Formats()) {
    const int64_t k = 1024, n = 64, m = 16;
    std::string text = "module @m { weights \"w.gguf\" sha256 \"" + std::string(64, '0') + "\"\n";
    for (const bool bytes : {true, false}) {
      absl::StrAppend(&text, "graph @", bytes ? "bytes" : "exact",
                      Product("%y: f32[16,1024]", "", bytes, format, absl::StrCat(m), n, k), "\n");
    }
    auto module = Parse(text + "}", "error");
    ASSERT_TRUE(module.ok()) << module.status();
    const WeightTensors weights = RandomWeights(**module, 3);
    auto compiled = CompiledGraphs::Make(*std::move(module), GetParam(), "O1", RowsOf(weights));
    ASSERT_TRUE(compiled.ok()) << compiled.status();
    Tensor rows = Tensor::Zeros(DType::kF32, {m, k});
    std::mt19937 random(5);
    for (double& v : rows.values) v = static_cast<float>(std::ldexp(static_cast<double>(random()), -31) - 1);
    const auto found = (*compiled)->Run("bytes", {rows});
    const auto exact =
        Evaluate(*(*compiled)->source().FindGraph("exact"), {rows}, {Precision::kDouble, ReaderOf(weights), {}});
    ASSERT_TRUE(found.ok() && exact.ok()) << found.status() << exact.status();
    double error = 0, square = 0;
    for (size_t i = 0; i < (*exact)[0].values.size(); ++i) {
      error += std::pow((*found)[0].values[i] - (*exact)[0].values[i], 2);
      square += std::pow((*exact)[0].values[i], 2);
    }
    EXPECT_LT(error / square, 1.5 * kExpected) << format;
    EXPECT_GT(error / square, 0.5 * kExpected) << format << ": nothing was rounded";
    ++ran_;
  }
}

SINTER_TARGET_TESTS(BlocksKernels);

}  // namespace
}  // namespace sinter
