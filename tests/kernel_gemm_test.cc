// Kernels of family gemm against the evaluator: sizes around every tile's edges, packed weights, plain operands,
// batches, grouped heads, and operands that must be copied first.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/compiled_graph.h"

namespace sinter {
namespace {

constexpr int64_t kM[] = {1, 2, 3, 5, 6, 7, 12, 13, 97, 200};
constexpr int64_t kN[] = {1, 15, 16, 17, 63, 64, 65, 96, 130};
constexpr int64_t kK[] = {1, 7, 8, 16, 17, 64, 100};

// A few of kM, others for every call, so that the evaluator's work stays small.
class SomeM {
 public:
  std::vector<KernelRun> Runs(int64_t work) {
    std::vector<KernelRun> runs;
    for (int i = 0; i < 3; ++i) {
      const int64_t m = kM[next_++ % std::size(kM)];
      if (m * work <= 400000 || i == 0) runs.push_back({.dims = {{"M", m}}});
    }
    return runs;
  }

 private:
  size_t next_ = 0;
};

using GemmKernels = TargetTest;

TEST_P(GemmKernels, PackedWeights) {
  KernelSuite suite("dim M in 1..200");
  SomeM some;
  for (int64_t n : kN) {
    for (int64_t k : kK) {
      for (const char* dtype : {"f32", "f16", "bf16"}) {
        for (const bool trans : {true, false}) {
          if (std::string(dtype) != "f32" && trans == ((n + k) % 2 == 0)) continue;  // half of the narrow ones
          const std::string dims = trans ? absl::StrCat(n, ",", k) : absl::StrCat(k, ",", n);
          suite.Add(absl::StrCat("(%x: f32[M,", k, "]) -> (f32[M,", n, "]) {\n  %w = weight \"", dtype, dims,
                                 "\" : ", dtype, "[", dims, "]\n  %y = gemm %x, %w ", trans ? "{trans_b=true} " : "",
                                 ": f32[M,", n, "]\n  return %y\n}"),
                    some.Runs(n * k), {}, "gemm");
        }
      }
    }
  }
  Check(suite);
}

// Rows and weights of bf16 are multiplied in pairs, unless their number is odd.
TEST_P(GemmKernels, PairsOfBf16) {
  KernelSuite suite("dim M in 1..200");
  SomeM some;
  for (int64_t n : kN) {
    for (int64_t k : {2, 7, 8, 30, 64, 100}) {
      for (const char* m : {"1", "5", "M"}) {
        const std::string dims = absl::StrCat(n, ",", k);
        suite.Add(absl::StrCat("(%x: bf16[", m, ",", k, "]) -> (f32[", m, ",", n, "]) {\n  %w = weight \"", dims,
                               "\" : bf16[", dims, "]\n  %y = gemm %x, %w {trans_b=true} : f32[", m, ",", n,
                               "]\n  return %y\n}"),
                  *m == 'M' ? some.Runs(n * k) : std::vector<KernelRun>{{}}, {}, "gemm");
      }
    }
  }
  Check(suite);
}

// More of k than tiles take at a time, on targets of wide tiles and on those of narrow ones; rows and columns that
// tiles leave, and a second grain of rows. So many terms, added one after another in f32, round more than fewer do.
TEST_P(GemmKernels, BlocksOfK) {
  KernelSuite suite("dim M in 1..200");
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{80, 2501}, {17, 9002}, {48, 8194}}) {
    for (const char* types : {"f32 f32", "f32 f16", "bf16 bf16"}) {
      const std::string a(types, std::string(types).find(' ')), b(types + a.size() + 1);
      if (a == "bf16" && k % 2 != 0) continue;
      const std::string dims = absl::StrCat(n, ",", k);
      suite.Add(absl::StrCat("(%x: ", a, "[M,", k, "]) -> (f32[M,", n, "]) {\n  %w = weight \"", b, dims, "\" : ", b,
                             "[", dims, "]\n  %y = gemm %x, %w {trans_b=true} : f32[M,", n, "]\n  return %y\n}"),
                {{.dims = {{"M", n > 48 ? 9 : 55}}}}, {.relative = 1e-5}, "gemm");
    }
  }
  Check(suite);
}

// One row (the gemv tile) and numbers of rows that are known.
TEST_P(GemmKernels, KnownNumbersOfRows) {
  KernelSuite suite;
  for (int64_t m : kM) {
    for (int64_t n : {int64_t{1}, int64_t{17}, int64_t{64}, int64_t{130}}) {
      for (int64_t k : {int64_t{1}, int64_t{17}, int64_t{64}}) {
        if (m * n * k > 400000) continue;
        for (const char* b : {"packed", "n", "t"}) {
          const bool packed = std::string(b) == "packed", trans = std::string(b) != "n";
          const std::string dims = trans ? absl::StrCat("f32[", n, ",", k, "]") : absl::StrCat("f32[", k, ",", n, "]");
          suite.Add(
              absl::StrCat("(%x: f32[", m, ",", k, "]", packed ? "" : absl::StrCat(", %w: ", dims), ") -> (f32[", m,
                           ",", n, "]) {\n", packed ? absl::StrCat("  %w = weight \"", dims, "\" : ", dims, "\n") : "",
                           "  %y = gemm %x, %w ", trans ? "{trans_b=true} " : "", ": f32[", m, ",", n,
                           "]\n  return %y\n}"),
              {{}}, {}, "gemm");
        }
      }
    }
  }
  Check(suite);
}

TEST_P(GemmKernels, PlainOperands) {
  KernelSuite suite("dim M in 1..200 dim N in 1..130 dim K in 1..100");
  std::vector<KernelRun> runs;
  size_t i = 0;
  for (int64_t n : kN) {
    for (int64_t k : kK) {
      const int64_t m = kM[i++ % std::size(kM)];
      runs.push_back({.dims = {{"M", m * n * k > 400000 ? 13 : m}, {"N", n}, {"K", k}}});
    }
  }
  for (const char* a : {"f32", "f16"}) {
    for (const char* b : {"f32", "f16", "bf16"}) {
      suite.Add(absl::StrCat("(%x: ", a, "[M,K], %w: ", b, "[N,K]) -> (f32[M,N]) {\n",
                             "  %y = gemm %x, %w {trans_b=true} : f32[M,N]\n  return %y\n}"),
                runs, {}, "gemm");
      suite.Add(absl::StrCat("(%x: ", a, "[M,K], %w: ", b, "[K,N]) -> (f32[M,N]) {\n",
                             "  %y = gemm %x, %w : f32[M,N]\n  return %y\n}"),
                runs, {}, "gemm");
    }
  }
  suite.Add(
      "(%x: f32[K,M], %w: f32[K,N]) -> (f32[M,N]) {\n  %y = gemm %x, %w {trans_a=true} : f32[M,N]\n  return %y\n}",
      runs, {}, "gemm");
  // The rows of both operands lie across: b is copied, then a.
  suite.Add(
      "(%x: f32[K,M], %w: f32[N,K]) -> (f32[M,N]) {\n"
      "  %y = gemm %x, %w {trans_a=true, trans_b=true} : f32[M,N]\n  return %y\n}",
      runs);
  suite.Add(
      "(%x: f32[K,M], %w: f32[N,K]) -> (f32[M,N]) {\n  %t = transpose %x {perm=[1,0]} : f32[M,K]\n"
      "  %y = gemm %t, %w {trans_b=true} : f32[M,N]\n  return %y\n}",
      runs);
  suite.Add(
      "(%x: f32[M,K], %w: f32[N,K]) -> (f32[M,N]) {\n  %t = transpose %w {perm=[1,0]} : f32[K,N]\n"
      "  %y = gemm %x, %t : f32[M,N]\n  return %y\n}",
      runs, {}, "gemm");
  Check(suite);
}

// Attention's products: [G,Q,T,D] by [G,S,D] and [G,Q,T,S] by [G,S,D], from views of wider rows and of a cache.
TEST_P(GemmKernels, BatchesAndGroupedHeads) {
  KernelSuite suite("dim T in 1..40 dim S in 1..70");
  std::vector<KernelRun> runs = {{.dims = {{"T", 1}, {"S", 1}}},
                                 {.dims = {{"T", 1}, {"S", 65}}},
                                 {.dims = {{"T", 7}, {"S", 16}}},
                                 {.dims = {{"T", 13}, {"S", 33}}},
                                 {.dims = {{"T", 40}, {"S", 3}}}};
  for (const char* dtype : {"f32", "f16"}) {
    for (int64_t d : {1, 8, 17, 64}) {
      suite.Add(absl::StrCat("(%q: f32[2,3,T,", d, "], %k: ", dtype, "[2,S,", d, "]) -> (f32[2,3,T,S]) {\n",
                             "  %y = gemm %q, %k {trans_b=true} : f32[2,3,T,S]\n  return %y\n}"),
                runs, {}, "gemm");
      suite.Add(absl::StrCat("(%p: f32[2,3,T,S], %v: ", dtype, "[2,S,", d, "]) -> (f32[2,3,T,", d, "]) {\n",
                             "  %y = gemm %p, %v : f32[2,3,T,", d, "]\n  return %y\n}"),
                runs, {}, "gemm");
      suite.Add(
          absl::StrCat("(%h: f32[T,", 9 * d, "], %c: state<", dtype, "[2,2,70,", d, "]>) -> (f32[2,3,T,S], state<",
                       dtype, "[2,2,70,", d, "]>) {\n  %q = heads %h {first=", 2 * d, ", groups=2} : f32[2,3,T,", d,
                       "]\n  %K, %V = kv_view %c {len=S} : ", dtype, "[2,S,", d, "], ", dtype, "[2,S,", d,
                       "]\n  %s = gemm %q, %K {trans_b=true} : f32[2,3,T,S]\n", "  return %s, %c\n}"),
          runs, {}, "gemm");
      suite.Add(absl::StrCat("(%p: f32[2,3,T,S], %c: state<", dtype, "[2,2,70,", d, "]>) -> (f32[T,", 6 * d,
                             "], state<", dtype, "[2,2,70,", d, "]>) {\n  %K, %V = kv_view %c {len=S} : ", dtype,
                             "[2,S,", d, "], ", dtype, "[2,S,", d, "]\n  %o = gemm %p, %V : f32[2,3,T,", d,
                             "]\n  %y = merge_heads %o : f32[T,", 6 * d, "]\n  return %y, %c\n}"),
                runs);
    }
    // A batch of b that is 1 serves all; so does a matrix without batch axes.
    suite.Add(absl::StrCat("(%a: f32[2,3,T,9], %b: ", dtype, "[1,3,9,S]) -> (f32[2,3,T,S]) {\n",
                           "  %y = gemm %a, %b : f32[2,3,T,S]\n  return %y\n}"),
              runs, {}, "gemm");
    suite.Add(absl::StrCat("(%a: f32[2,3,T,9], %b: ", dtype, "[S,9]) -> (f32[2,3,T,S]) {\n",
                           "  %y = gemm %a, %b {trans_b=true} : f32[2,3,T,S]\n  return %y\n}"),
              runs, {}, "gemm");
    suite.Add(absl::StrCat("(%a: f32[2,3,T,9]) -> (f32[2,3,T,20]) {\n  %w = weight \"batched_", dtype, "\" : ", dtype,
                           "[20,9]\n  %y = gemm %a, %w {trans_b=true} : f32[2,3,T,20]\n  return %y\n}"),
              runs, {}, "gemm");
    suite.Add(absl::StrCat("(%a: f32[1,3,T,9], %b: ", dtype, "[1,9,S]) -> (f32[1,3,T,S]) {\n",
                           "  %y = gemm %a, %b : f32[1,3,T,S]\n  return %y\n}"),
              runs, {}, "gemm");
  }
  Check(suite);
}

// Operands whose rows no stride expresses, or that are contiguous along neither axis of the product.
TEST_P(GemmKernels, OperandsThatAreCopiedFirst) {
  KernelSuite suite("dim T in 1..40 dim S in 1..40");
  const std::vector<KernelRun> runs = {
      {.dims = {{"T", 1}, {"S", 1}}}, {.dims = {{"T", 5}, {"S", 17}}}, {.dims = {{"T", 40}, {"S", 40}}}};
  suite.Add(
      "(%x: f32[T,6], %b: f32[S,6,2]) -> (f32[2,T,S]) {\n  %r = reshape %x : f32[1,T,6]\n"
      "  %a = repeat %r {axis=0, times=2} : f32[2,T,6]\n  %t = transpose %b {perm=[2,0,1]} : f32[2,S,6]\n"
      "  %y = gemm %a, %t {trans_b=true} : f32[2,T,S]\n  return %y\n}",
      runs);
  suite.Add(
      "(%x: f32[2,T,6], %b: f32[S,6,2]) -> (f32[2,T,S]) {\n  %t = transpose %b {perm=[2,1,0]} : f32[2,6,S]\n"
      "  %y = gemm %x, %t : f32[2,T,S]\n  return %y\n}",
      runs);
  suite.Add(
      "(%x: f32[T,3], %b: f32[S,6]) -> (f32[T,S]) {\n  %a = repeat %x {axis=1, times=2} : f32[T,6]\n"
      "  %y = gemm %a, %b {trans_b=true} : f32[T,S]\n  return %y\n}",
      runs);
  suite.Add(
      "(%x: f32[T,6], %b: f32[S,3]) -> (f32[T,S]) {\n  %r = repeat %b {axis=1, times=2} : f32[S,6]\n"
      "  %y = gemm %x, %r {trans_b=true} : f32[T,S]\n  return %y\n}",
      runs);
  suite.Add(
      "(%x: f32[T,2,3], %b: f32[S,6]) -> (f32[T,S]) {\n  %t = transpose %x {perm=[0,2,1]} : f32[T,3,2]\n"
      "  %a = reshape %t : f32[T,6]\n  %y = gemm %a, %b {trans_b=true} : f32[T,S]\n  return %y\n}",
      runs);
  suite.Add(
      "(%x: f32[6,T], %b: f32[S,6,2]) -> (f32[T,S]) {\n  %s = slice %b {axis=2, first=1, len=1} : f32[S,6,1]\n"
      "  %r = reshape %s : f32[S,6]\n  %y = gemm %x, %r {trans_a=true, trans_b=true} : f32[T,S]\n  return %y\n}",
      runs);
  Check(suite);
}

// The plain form, by way of dots-to-gemm.
TEST_P(GemmKernels, LoopsBecomeProducts) {
  KernelSuite suite("dim T in 1..40 dim S in 1..70");
  suite.AddBody(
      "graph @dot(%a: f32[20], %b: f32[20]) -> (f32[1]) {\n  %m = mul %a, %b : f32[20]\n"
      "  %r = sum %m {axis=0} : f32[1]\n  return %r\n}\n");
  const std::vector<KernelRun> runs = {{.dims = {{"T", 1}, {"S", 1}}}, {.dims = {{"T", 7}, {"S", 65}}}};
  suite.Add(
      "(%q: f32[2,3,T,20], %k: f32[2,S,20]) -> (f32[2,3,T,S]) {\n  %y = loop @dot(%q, %k) {over=\"g q t s\", "
      "slices=[\"g q t .\",\"g s .\"]} : f32[2,3,T,S]\n  return %y\n}",
      runs, {}, "gemm");
  suite.Add(
      "(%x: f32[T,20]) -> (f32[T,9]) {\n  %w = weight \"w\" : f32[9,20]\n  %y = loop @dot(%x, %w) {over=\"t n\", "
      "slices=[\"t .\",\"n .\"]} : f32[T,9]\n  return %y\n}",
      runs, {}, "gemm");
  Check(suite);
}

// Of halves, which are rounded where they are stored, and of rows of which one is a single number.
TEST_P(GemmKernels, LoopsThatAreNoProducts) {
  KernelSuite suite;
  suite.AddBody(
      "graph @half(%a: f16[20], %b: f16[20]) -> (f16[1]) {\n  %m = mul %a, %b : f16[20]\n"
      "  %r = sum %m : f16[1]\n  return %r\n}\n"
      "graph @one(%a: f32[20], %b: f32[1]) -> (f32[1]) {\n  %m = mul %a, %b : f32[20]\n"
      "  %r = sum %m : f32[1]\n  return %r\n}\n");
  suite.Add(
      "(%x: f16[4,20], %y: f16[4,20]) -> (f16[4]) {\n  %z = loop @half(%x, %y) {over=\"t\", slices=[\"t .\",\"t .\"]}"
      " : f16[4]\n  return %z\n}",
      {{}});
  suite.Add(
      "(%x: f32[4,20], %y: f32[4,1]) -> (f32[4]) {\n  %z = loop @one(%x, %y) {over=\"t\", slices=[\"t .\",\"t .\"]}"
      " : f32[4]\n  return %z\n}",
      {{}});
  Check(suite, "O0");
}

SINTER_TARGET_TESTS(GemmKernels);

}  // namespace
}  // namespace sinter
