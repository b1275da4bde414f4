// Kernels of family row against the evaluator: reductions along every axis, softmax, norms, and loops at O0.
#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/compiled_graph.h"

namespace sinter {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr int64_t kLengths[] = {1, 2, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 130, 1000};
constexpr char kDims[] = "dim N in 1..1000 dim M in 1..10";

std::vector<KernelRun> Lengths(double limit = 1) {
  std::vector<KernelRun> runs;
  for (int64_t n : kLengths)
    runs.push_back({.dims = {{"M", n > 100 ? 2 : 3}, {"N", n}}, .args = {}, .float_limit = limit});
  return runs;
}

using RowKernels = TargetTest;

TEST_P(RowKernels, ReducesEveryAxis) {
  KernelSuite suite(kDims);
  for (const char* op : {"sum", "mean", "max"}) {
    for (const char* dtype : {"f32", "f16", "bf16"}) {
      suite.Add(absl::StrCat("(%x: ", dtype, "[M,N]) -> (", dtype, "[M,1]) {\n  %y = ", op, " %x : ", dtype,
                             "[M,1]\n  return %y\n}"),
                Lengths(), {}, "row");
    }
    suite.Add(absl::StrCat("(%x: f32[N]) -> (f32[1]) {\n  %y = ", op, " %x : f32[1]\n  return %y\n}"), Lengths(), {},
              "row");
    for (int axis = 0; axis < 3; ++axis) {
      const char* result[] = {"1,N,5", "M,1,5", "M,N,1"};
      suite.Add(absl::StrCat("(%x: f32[M,N,5]) -> (f32[", result[axis], "]) {\n  %y = ", op, " %x {axis=", axis,
                             "} : f32[", result[axis], "]\n  return %y\n}"),
                {{.dims = {{"M", 3}, {"N", 17}}}, {.dims = {{"M", 1}, {"N", 64}}}, {.dims = {{"M", 10}, {"N", 1}}}}, {},
                "row");
    }
    // Rows of a constant length take other paths than those whose length is asked for.
    for (int64_t n : kLengths) {
      suite.Add(absl::StrCat("(%x: f32[3,", n, "]) -> (f32[3,1]) {\n  %y = ", op, " %x : f32[3,1]\n  return %y\n}"),
                {{}}, {}, "row");
    }
  }
  Check(suite);
}

TEST_P(RowKernels, MaximaOfSpecialRows) {
  KernelSuite suite;
  std::vector<KernelRun> runs;
  for (int64_t at : {0, 5, 16, 36}) {
    for (double special : {kInf, -kInf, std::numeric_limits<double>::quiet_NaN()}) {
      Tensor x = Tensor::Zeros(DType::kF32, {2, 37});
      std::fill(x.values.begin(), x.values.end(), special < 0 ? -kInf : -3.0);
      x.values[static_cast<size_t>(at)] = special < 0 ? -7 : special;
      runs.push_back({.dims = {}, .args = {{0, x}}});
    }
  }
  suite.Add("(%x: f32[2,37]) -> (f32[2,1]) {\n  %y = max %x : f32[2,1]\n  return %y\n}", runs, kExact, "row");
  Check(suite);
}

TEST_P(RowKernels, Softmax) {
  KernelSuite suite(kDims);
  for (const char* scale : {"1", "0.125", "-3"}) {
    suite.Add(absl::StrCat("(%x: f32[M,N]) -> (f32[M,N]) {\n  %y = softmax %x {scale=", scale,
                           "} : f32[M,N]\n  return %y\n}"),
              Lengths(8), {}, "row");
    for (const char* mask : {"M,N", "1,N", "M,1", "N"}) {
      suite.Add(absl::StrCat("(%x: f32[2,M,N], %m: bool[", mask, "]) -> (f32[2,M,N]) {\n  %y = softmax %x, %m {scale=",
                             scale, "} : f32[2,M,N]\n  return %y\n}"),
                Lengths(8), {}, "row");
    }
  }
  for (int64_t n : kLengths) {
    suite.Add(absl::StrCat("(%x: f32[2,", n, "], %m: bool[2,", n, "]) -> (f32[2,", n,
                           "]) {\n  %y = softmax %x, %m : f32[2,", n, "]\n  return %y\n}"),
              {{.dims = {}, .args = {}, .float_limit = 50}}, {}, "row");
  }
  for (const char* dtype : {"f16", "bf16"}) {
    suite.Add(absl::StrCat("(%x: ", dtype, "[M,N]) -> (", dtype, "[M,N]) {\n  %y = softmax %x : ", dtype,
                           "[M,N]\n  return %y\n}"),
              Lengths(8), {1e-5, false}, "row");
  }
  Check(suite);
}

// A row that is masked whole is zeros; -inf in a row is a mask of its own; differences past the range of exp are zeros.
TEST_P(RowKernels, SoftmaxOfMaskedAndInfiniteRows) {
  KernelSuite suite(kDims);
  std::vector<KernelRun> runs;
  for (int64_t n : {1, 7, 8, 16, 33, 65}) {
    const auto size = static_cast<size_t>(n);
    Tensor mask = Tensor::Zeros(DType::kBool, {4, n}), x = Tensor::Zeros(DType::kF32, {4, n});
    for (size_t i = 0; i < size; ++i) {
      mask.values[size + i] = 1;                          // row 0: masked whole; row 1: nothing is masked
      mask.values[2 * size + i] = i + 1 == size ? 1 : 0;  // row 2: one element
      mask.values[3 * size + i] = 1;
      x.values[i] = static_cast<double>(i);
      x.values[size + i] = i % 2 == 0 ? -kInf : 200.0 * static_cast<double>(i);
      x.values[2 * size + i] = -1000;
      x.values[3 * size + i] = -kInf;  // row 3: all -inf
    }
    runs.push_back({.dims = {{"M", 4}, {"N", n}}, .args = {{0, x}, {1, mask}}});
  }
  suite.Add(
      "(%x: f32[M,N], %m: bool[M,N]) -> (f32[M,N]) {\n  %y = softmax %x, %m {scale=0.5} : f32[M,N]\n  return %y\n}",
      runs, {}, "row");
  suite.Add("(%x: f32[M,N], %m: bool[M,N]) -> (f32[M,N]) {\n  %y = softmax %x, %m : f32[M,N]\n  return %y\n}", runs, {},
            "row");
  Check(suite);
}

TEST_P(RowKernels, Norms) {
  KernelSuite suite(kDims);
  for (const char* eps : {"1e-05", "0.5"}) {
    suite.Add(absl::StrCat("(%x: f32[M,N], %g: f32[N], %b: f32[N]) -> (f32[M,N]) {\n  %y = layer_norm %x, %g, %b {eps=",
                           eps, "} : f32[M,N]\n  return %y\n}"),
              Lengths(3), {}, "row");
    suite.Add(absl::StrCat("(%x: f32[2,M,N], %g: f32[N]) -> (f32[2,M,N]) {\n  %y = layer_norm %x, %g {eps=", eps,
                           "} : f32[2,M,N]\n  return %y\n}"),
              Lengths(3), {}, "row");
    suite.Add(absl::StrCat("(%x: f32[M,N], %g: f32[N]) -> (f32[M,N]) {\n  %y = rms_norm %x, %g {eps=", eps,
                           "} : f32[M,N]\n  return %y\n}"),
              Lengths(3), {}, "row");
  }
  for (const char* operands : {"layer_norm %x", "layer_norm %x, _, %b", "rms_norm %x"}) {
    suite.Add(
        absl::StrCat("(%x: f32[M,N], %b: f32[N]) -> (f32[M,N]) {\n  %y = ", operands, " : f32[M,N]\n  return %y\n}"),
        Lengths(3), {}, "row");
  }
  for (int64_t n : kLengths) {
    suite.Add(absl::StrCat("(%x: f32[3,", n, "]) -> (f32[3,", n, "]) {\n  %g = weight \"g", n, "\" : f32[", n,
                           "]\n  %b = weight \"b", n, "\" : f32[", n, "]\n  %y = layer_norm %x, %g, %b : f32[3,", n,
                           "]\n  return %y\n}"),
              {{}}, {}, "row");
    suite.Add(absl::StrCat("(%x: f32[3,", n, "]) -> (f32[3,", n, "]) {\n  %g = weight \"g", n, "\" : f32[", n,
                           "]\n  %y = rms_norm %x, %g : f32[3,", n, "]\n  return %y\n}"),
              {{}}, {}, "row");
  }
  Check(suite);
}

// Rows far from zero, rows whose first elements are unlike the rest (their variance is taken around those), and rows of
// one value, whose variance is zero.
TEST_P(RowKernels, NormsOfUnlikeRows) {
  constexpr int64_t kRows = 5, kWidth = 1000;
  Tensor x = Tensor::Zeros(DType::kF32, {kRows, kWidth});
  for (int64_t i = 0; i < kWidth; ++i) {
    const double wave = static_cast<double>(i * 37 % 101) / 50 - 1;
    const double rows[kRows] = {1000 + wave, i == 0 ? 1e4 : wave, i < 40 ? -300 + wave : wave, 0.1, i < 64 ? 0.0 : 5.0};
    for (int64_t r = 0; r < kRows; ++r) x.values[static_cast<size_t>(r * kWidth + i)] = static_cast<float>(rows[r]);
  }
  KernelSuite suite;
  suite.Add("(%x: f32[5,1000]) -> (f32[5,1000]) {\n  %y = layer_norm %x : f32[5,1000]\n  return %y\n}",
            {{.dims = {}, .args = {{0, x}}}}, {5e-6, false}, "row");
  Check(suite);
}

// The plain form of a product: one dot product an element, from its body.
TEST_P(RowKernels, LoopsAtO0) {
  KernelSuite suite("dim T in 1..40 dim S in 1..70");
  const std::vector<KernelRun> runs = {{.dims = {{"T", 1}, {"S", 1}}},
                                       {.dims = {{"T", 2}, {"S", 65}}},
                                       {.dims = {{"T", 5}, {"S", 3}}},
                                       {.dims = {{"T", 33}, {"S", 64}}}};
  for (const char* dtype : {"f32", "f16", "bf16"}) {
    const bool narrow = std::string(dtype) != "f32";
    for (int64_t k : {1, 7, 8, 16, 17, 64, 100}) {
      const std::string body = absl::StrCat("dot_", dtype, "_", k), vec = absl::StrCat("[", k, "]");
      suite.AddBody(absl::StrCat("graph @", body, "(%a: f32", vec, ", %b: ", dtype, vec, ") -> (f32[1]) {\n",
                                 narrow ? absl::StrCat("  %c = convert %b : f32", vec, "\n") : "", "  %m = mul %a, %",
                                 narrow ? "c" : "b", " : f32", vec,
                                 "\n  %r = sum %m {axis=0} : f32[1]\n  return %r\n}\n"));
      // A linear layer: rows of a weight.
      suite.Add(absl::StrCat("(%x: f32[T,", k, "]) -> (f32[T,19]) {\n  %w = weight \"", body, "\" : ", dtype, "[19,", k,
                             "]\n  %y = loop @", body,
                             "(%x, %w) {over=\"t n\", slices=[\"t .\",\"n .\"]} : f32[T,19]\n", "  return %y\n}"),
                runs, {}, "row");
      // Scores of grouped heads.
      suite.Add(absl::StrCat(
                    "(%q: f32[2,3,T,", k, "], %k: ", dtype, "[2,S,", k, "]) -> (f32[2,3,T,S]) {\n  %y = loop @", body,
                    "(%q, %k) {over=\"g q t s\", slices=[\"g q t .\",\"g s .\"]} : f32[2,3,T,S]\n", "  return %y\n}"),
                runs, {}, "row");
      // The summed axis is not the last one of the second operand, and neither operand is dense.
      suite.Add(absl::StrCat("(%x: f32[T,", 6 * k + 5, "], %v: ", dtype, "[2,", k, ",9]) -> (f32[2,3,T,9]) {\n",
                             "  %h = heads %x {first=5, groups=2} : f32[2,3,T,", k, "]\n  %y = loop @", body,
                             "(%h, %v) {over=\"g q t d\", slices=[\"g q t .\",\"g . d\"]} : f32[2,3,T,9]\n",
                             "  return %y\n}"),
                runs, {}, "row");
      suite.Add(
          absl::StrCat("(%x: f32[", k, ",T], %v: ", dtype, "[S,", k + 3, "]) -> (f32[T,S]) {\n",
                       "  %t = transpose %x {perm=[1,0]} : f32[T,", k, "]\n  %s = slice %v {axis=1, first=2, len=", k,
                       "} : ", dtype, "[S,", k, "]\n  %y = loop @", body,
                       "(%t, %s) {over=\"t s\", slices=[\"t .\",\"s .\"]} : f32[T,S]\n  return %y\n}"),
          runs, {}, "row");
    }
  }
  Check(suite, "O0");
}

SINTER_TARGET_TESTS(RowKernels);

}  // namespace
}  // namespace sinter
