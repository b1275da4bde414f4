// What values mean on the way to code, whatever family computes them: dims that only attributes or bodies mention,
// constants and results of narrow types, values that are used again and again, operands that stand for several.
#include <limits>

#include "absl/strings/str_cat.h"
#include "tests/compiled_graph.h"

namespace sinter {
namespace {

class KernelValues : public TargetTest {
 protected:
  void CheckAll(const KernelSuite& suite) {
    for (const char* passes : {"O0", "O1", "O2"}) Check(suite, passes);
  }
};

TEST_P(KernelValues, DimsThatNoTypeOfAnOperandMentions) {
  KernelSuite suite("dim P in 1..8\n");
  suite.Add("(%x: f32[16]) -> (f32[1]) {\n  %y = slice %x {axis=0, first=P, len=1} : f32[1]\n  return %y\n}",
            {{{{"P", 1}}}, {{{"P", 5}}}}, kExact);
  suite.Add(
      "(%x: f32[4,8], %y: f32[8,4], %b: f32[4]) -> (f32[4,4]) {\n"
      "  %a = slice %x {axis=1, first=0, len=P} : f32[4,P]\n  %c = slice %y {axis=0, first=0, len=P} : f32[P,4]\n"
      "  %z = gemm %a, %c : f32[4,4]\n  %r = add %z, %b : f32[4,4]\n  return %r\n}",
      {{{{"P", 1}}}, {{{"P", 5}}}});
  suite.AddBody(
      "graph @many(%a: f32[1]) -> (f32[1]) {\n  %c = constant {values=[2.0]} : f32[P]\n  %m = mul %a, %c : f32[P]\n"
      "  %r = sum %m : f32[1]\n  return %r\n}\n");
  suite.Add("(%x: f32[2]) -> (f32[2]) {\n  %r = loop @many(%x) {over=\"t\", slices=[\"t\"]} : f32[2]\n  return %r\n}",
            {{{{"P", 1}}}, {{{"P", 5}}}});
  CheckAll(suite);
}

// Time that doubled with each op would not end.
TEST_P(KernelValues, AreComputedOnceHoweverOftenTheyAreUsed) {
  KernelSuite suite;
  std::string doubled = "(%x0: f32[4]) -> (f32[4]) {\n", residual = doubled,
              reduced = "(%x0: f32[2,40]) -> (f32[2,1]) {\n";
  for (int i = 0; i < 60; ++i) {
    absl::StrAppend(&doubled, "  %x", i + 1, " = add %x", i, ", %x", i, " : f32[4]\n");
    absl::StrAppend(&residual, "  %t", i, " = tanh %x", i, " : f32[4]\n  %x", i + 1, " = add %x", i, ", %t", i,
                    " : f32[4]\n");
    absl::StrAppend(&reduced, "  %x", i + 1, " = add %x", i, ", %x", i, " : f32[2,40]\n");
  }
  suite.Add(doubled + "  return %x60\n}", {{}});
  suite.Add(residual + "  return %x60\n}", {{}});
  suite.Add(reduced + "  %s = sum %x60 : f32[2,1]\n  return %s\n}", {{}});
  CheckAll(suite);
}

TEST_P(KernelValues, OfNarrowTypesAreRounded) {
  KernelSuite suite;
  suite.Add(
      "(%x: bf16[8]) -> (bf16[8]) {\n  %c = constant {values=[1.00390625]} : bf16[1]\n"
      "  %d = constant {values=[1.0]} : bf16[1]\n  %e = sub %c, %d : bf16[1]\n  %y = mul %x, %e : bf16[8]\n"
      "  return %y\n}",
      {{}}, kExact);
  for (const char* style : {"norm", "neox"}) {
    suite.Add(absl::StrCat("(%x: f16[3,4], %p: i32[3], %t: f32[8,8]) -> (f32[3,4]) {\n  %r = rope %x, %p, %t {style=\"",
                           style, "\"} : f16[3,4]\n  %y = convert %r : f32[3,4]\n  return %y\n}"),
              {{}});
  }
  CheckAll(suite);
}

TEST_P(KernelValues, ThatStandForSeveralOperands) {
  KernelSuite suite;
  suite.Add(
      "(%x: f32[3]) -> (f32[20,20], f32[3]) {\n  %w = weight \"w\" : f32[20,24]\n"
      "  %y = gemm %w, %w {trans_b=true} : f32[20,20]\n  return %y, %x\n}",
      {{}});
  CheckAll(suite);
}

// The constant gives k an axis in front, which its own first axis would take the place of.
TEST_P(KernelValues, ScalesOfFewerAxes) {
  KernelSuite suite;
  for (const char* op : {"mul", "div"}) {
    suite.Add(absl::StrCat("(%q: f32[2,2,1,4], %k: f32[2,3,4], %v: f32[2,2,3,4]) -> (f32[2,2,1,4]) {\n"
                           "  %c = constant {values=[0.5]} : f32[2,1,1,1]\n  %x = ",
                           op, " %k, %c : f32[2,2,3,4]\n  %o = attend %q, %x, %v : f32[2,2,1,4]\n  return %o\n}"),
              {{}});
  }
  suite.Add(
      "(%q: f32[2,2,1,4], %k: f32[2,3,4]) -> (f32[2,2,1,3]) {\n  %c = constant {values=[0.5]} : f32[2,1,1,1]\n"
      "  %x = mul %k, %c : f32[2,2,3,4]\n  %s = gemm %q, %x {trans_b=true} : f32[2,2,1,3]\n"
      "  %p = softmax %s : f32[2,2,1,3]\n  return %p\n}",
      {{}});
  CheckAll(suite);
}

TEST_P(KernelValues, OfNoElements) {
  KernelSuite suite;
  suite.Add(
      "(%x: f32[0,3]) -> (f32[0,3]) {\n  %y = softmax %x : f32[0,3]\n  %z = softmax %y : f32[0,3]\n  return %z\n}",
      {{}});
  CheckAll(suite);
}

// Positions as far away as integers go.
TEST_P(KernelValues, PositionsAtTheEndsOfIntegers) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max(), kLeast = std::numeric_limits<int64_t>::min();
  KernelSuite suite;
  // What doubles hold of the ends: 2^63 - 1024.
  const Tensor positions{DType::kI64, {4}, {3, -1, static_cast<double>(kMost - 1023), static_cast<double>(kLeast)}};
  suite.Add("(%p: i64[4]) -> (bool[4,20]) {\n  %m = causal_mask %p {len=20} : bool[4,20]\n  return %m\n}",
            {{{}, {{0, positions}}}}, kExact);
  suite.Add(
      "(%q: f32[4,8], %k: f32[20,8], %p: i64[4]) -> (f32[4,8]) {\n  %m = causal_mask %p {len=20} : bool[4,20]\n"
      "  %o = attend %q, %k, %k, %m : f32[4,8]\n  return %o\n}",
      {{{}, {{2, positions}}}});
  CheckAll(suite);
}

// What a part of weight -inf holds is not looked at.
TEST_P(KernelValues, OfPartsThatShowNothing) {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  Tensor parts = Tensor::Zeros(DType::kF32, {2, 3, 16});
  for (size_t i = 0; i < parts.values.size(); ++i) parts.values[i] = i / 16 % 3 == 1 ? nan : static_cast<double>(i % 7);
  KernelSuite suite;
  suite.Add("(%x: f32[2,3,16], %w: f32[2,3]) -> (f32[2,16]) {\n  %y = join_parts %x, %w : f32[2,16]\n  return %y\n}",
            {{{}, {{0, parts}, {1, Tensor{DType::kF32, {2, 3}, {0, -inf, 0.5, 1, -inf, -inf}}}}}});
  CheckAll(suite);
}

// A mask whose positions a cache holds that is overwritten before attention reads it.
TEST_P(KernelValues, OfACacheAsItWas) {
  KernelSuite suite;
  suite.Add(
      "(%c: state<i32[2,1,4,2]>, %k: i32[1,1,1,2], %pos: i32[1], %q: f32[2,4], %kk: f32[8,4]) -> "
      "(state<i32[2,1,4,2]>, f32[2,4]) {\n  %K, %V = kv_view %c {len=1} : i32[1,1,2], i32[1,1,2]\n"
      "  %p = reshape %K : i32[2]\n  %m = causal_mask %p {len=8} : bool[2,8]\n"
      "  %d = kv_append %c, %k, %k, %pos : state<i32[2,1,4,2]>\n  %o = attend %q, %kk, %kk, %m : f32[2,4]\n"
      "  return %d, %o\n}",
      {{}});
  CheckAll(suite);
}

SINTER_TARGET_TESTS(KernelValues);

}  // namespace
}  // namespace sinter
