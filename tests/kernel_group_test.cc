// Steps of several kernels against the evaluator: products with elementwise work after them, products side by side, and
// both, over sizes around the edges of tiles and grains.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/compiled_graph.h"

namespace sinter {
namespace {

constexpr int64_t kM[] = {1, 5, 6, 7, 95, 96, 97, 200};
constexpr int64_t kN[] = {1, 15, 16, 17, 63, 64, 65, 130};

// A result of one element may be a difference of larger ones.
constexpr Tolerance kCancelling{2e-5, false};

std::string Weight(const std::string& name, int64_t n, int64_t k, const char* dtype = "f32") {
  return absl::StrCat("  %", name, " = weight \"", name, n, ",", k, "\" : ", dtype, "[", n, ",", k, "]\n");
}

std::vector<KernelRun> Runs(size_t first) {
  return {{.dims = {{"M", kM[first % std::size(kM)]}}}, {.dims = {{"M", kM[(first + 3) % std::size(kM)]}}}};
}

using GroupKernels = TargetTest;

// act(x w^T + bias) + y, with activations that have polynomials and one that has none.
TEST_P(GroupKernels, BiasActivationAndResidual) {
  KernelSuite suite("dim M in 1..200");
  size_t run = 0;
  for (int64_t n : kN) {
    for (const char* rows : {"M", "1"}) {
      for (const char* act : {"gelu %b", "neg %b", "mul %b, %p"}) {
        const std::string of_n = absl::StrCat("f32[", rows, ",", n, "]");
        suite.Add(absl::StrCat("(%x: f32[", rows, ",24], %y: ", of_n, ") -> (", of_n, ") {\n", Weight("w", n, 24),
                               "  %bias = weight \"bias", n, "\" : f32[", n,
                               "]\n  %p = gemm %x, %w {trans_b=true} : ", of_n, "\n  %b = add %p, %bias : ", of_n,
                               "\n  %a = ", act, " : ", of_n, "\n  %r = add %a, %y : ", of_n, "\n  return %r\n}"),
                  Runs(run++), kCancelling, "group");
      }
    }
  }
  Check(suite);
}

// silu(x wg^T) * (x wu^T): two products of one shape in one grain.
TEST_P(GroupKernels, Gating) {
  KernelSuite suite("dim M in 1..200");
  size_t run = 0;
  for (int64_t n : kN) {
    for (const char* rows : {"M", "1"}) {
      const std::string of_n = absl::StrCat("f32[", rows, ",", n, "]");
      suite.Add(absl::StrCat("(%x: f32[", rows, ",17]) -> (", of_n, ") {\n", Weight("wg", n, 17), Weight("wu", n, 17),
                             "  %g = gemm %x, %wg {trans_b=true} : ", of_n, "\n  %u = gemm %x, %wu {trans_b=true} : ",
                             of_n, "\n  %h = swiglu %g, %u : ", of_n, "\n  return %h\n}"),
                Runs(run++), {}, "group");
    }
  }
  Check(suite);
}

// Products side by side, of different widths and types, two of them with a bias, and all of them results.
TEST_P(GroupKernels, SideBySide) {
  KernelSuite suite("dim M in 1..200");
  size_t run = 0;
  for (int64_t n : kN) {
    for (const char* rows : {"M", "1"}) {
      const std::string of_n = absl::StrCat("f32[", rows, ",", n, "]"), of_q = absl::StrCat("f32[", rows, ",70]");
      suite.Add(absl::StrCat("(%x: f32[", rows, ",20]) -> (", of_q, ", ", of_n, ", ", of_n, ") {\n",
                             Weight("q", 70, 20), Weight("k", n, 20, "f16"), Weight("v", n, 20, "bf16"),
                             "  %bias = weight \"bias", n, "\" : f32[", n, "]\n  %b70 = weight \"b70\" : f32[70]\n",
                             "  %pq = gemm %x, %q {trans_b=true} : ", of_q, "\n  %rq = add %pq, %b70 : ", of_q,
                             "\n  %pk = gemm %x, %k {trans_b=true} : ", of_n, "\n  %pv = gemm %x, %v {trans_b=true} : ",
                             of_n, "\n  %rv = mul %pv, %bias : ", of_n, "\n  return %rq, %pk, %rv\n}"),
                Runs(run++), {}, "group");
    }
  }
  Check(suite);
}

// A value of the group that somebody outside reads, too, is not overwritten; one that nobody else reads may be.
TEST_P(GroupKernels, ValuesWithOtherReaders) {
  KernelSuite suite("dim M in 1..200");
  for (size_t run = 0; run < 4; ++run) {
    suite.Add(absl::StrCat("(%x: f32[M,40]) -> (f32[M,40], f32[M,40]) {\n", Weight("w", 40, 40), Weight("o", 40, 40),
                           "  %p = gemm %x, %w {trans_b=true} : f32[M,40]\n  %a = gelu %p : f32[M,40]\n",
                           "  %r = gemm %a, %o {trans_b=true} : f32[M,40]\n  %s = add %r, %p : f32[M,40]\n",
                           "  %t = mul %s, %a : f32[M,40]\n  return %t, %s\n}"),
              Runs(run), {}, "group group");
  }
  Check(suite);
}

// Ops that look at their place in a value join another step only where their place is that of the step.
TEST_P(GroupKernels, OpsThatKnowTheirPlace) {
  KernelSuite suite;
  for (const char* style : {"norm", "neox"}) {
    suite.Add(absl::StrCat("(%x: f32[3,20], %i: i32[3], %t: f32[4,40]) -> (f32[3,20]) {\n"
                           "  %a = rope %x, %i, %t {style=\"",
                           style, "\"} : f32[3,20]\n  %b = rope %a, %i, %t {style=\"", style,
                           "\"} : f32[3,20]\n  return %b\n}"),
              {{}});
    suite.Add(absl::StrCat("(%q: f32[1,20], %i: i32[1], %t: f32[4,40], %x: f32[5,20]) -> (f32[5,20]) {\n"
                           "  %a = rope %q, %i, %t {style=\"",
                           style, "\"} : f32[1,20]\n  %y = add %a, %x : f32[5,20]\n  return %y\n}"),
              {{}});
  }
  suite.Add(
      "(%i: i32[3], %a: f32[3,1], %b: f32[1], %x: f32[3,20]) -> (f32[3,20]) {\n"
      "  %m = causal_mask %i {len=1} : bool[3,1]\n  %s = select %m, %a, %b : f32[3,1]\n"
      "  %y = add %s, %x : f32[3,20]\n  return %y\n}",
      {{}});
  suite.Add(
      "(%t: f32[4,20], %i: i32[1], %x: f32[5,20]) -> (f32[5,20]) {\n"
      "  %r = take %t, %i : f32[1,20]\n  %y = add %r, %x : f32[5,20]\n  return %y\n}",
      {{}});
  suite.Add(
      "(%x: f32[2,3,2,2]) -> (f32[2,36]) {\n  %r = repeat %x {axis=3, times=3} : f32[2,3,2,6]\n"
      "  %y = merge_heads %r : f32[2,36]\n  return %y\n}",
      {{}});
  Check(suite);
}

SINTER_TARGET_TESTS(GroupKernels);

}  // namespace
}  // namespace sinter
