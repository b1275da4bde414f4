// Bodies that text may state and no family computes: each is refused with its reason, beside a twin that has a spec.
#include "backend/kernel_spec.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "ir/text.h"

namespace sinter {
namespace {

constexpr char kBodies[] = R"(
  graph @dot(%a: f32[60], %b: f32[60]) -> (f32[1]) {
    %m = mul %a, %b : f32[60]
    %r = sum %m : f32[1]
    return %r
  }
)";

// The spec of the graph @k of a module; the error's message.
std::string SpecText(const std::string& graph) {
  const auto module = Parse(absl::StrCat("module @m {\n", kBodies, graph, "\n}\n"), "spec");
  if (!module.ok()) return absl::StrCat("text: ", module.status().message());
  const absl::Status status = SpecOf(*(*module)->FindGraph("k"), {}).status();
  return status.ok() ? "ok" : std::string(status.message());
}

struct Refused {
  const char* twin;
  const char* graph;
  const char* reason;
};

constexpr Refused kRefused[] = {
    // Rows of one length.
    {"graph @k(%x: f32[4,60], %y: f32[4,60]) -> (f32[4,60]) {\n %s = sum %x : f32[4,1]\n"
     " %z = mul %y, %s : f32[4,60]\n return %z\n }",
     "graph @k(%x: f32[4,600], %y: f32[4,40]) -> (f32[4,40]) {\n %s = sum %x : f32[4,1]\n"
     " %z = mul %y, %s : f32[4,40]\n return %z\n }",
     "a reduction of another length than the row"},
    // Values of as many rows as the result.
    {"graph @k(%x: f32[30,60], %y: f32[1,60]) -> (f32[30,60]) {\n %s = sum %y : f32[1,1]\n"
     " %z = exp %x : f32[30,60]\n return %z\n }",
     "graph @k(%x: f32[30,60], %y: f32[2,60]) -> (f32[30,60]) {\n %s = sum %y : f32[2,1]\n"
     " %z = exp %x : f32[30,60]\n return %z\n }",
     "a value of other dims than the result"},
    // What lies along the last axis.
    {"graph @k(%x: f32[4,60], %p: i32[4]) -> (f32[4,1]) {\n %m = causal_mask %p {len=60} : bool[4,60]\n"
     " %n = constant {values=[0.0]} : f32[1]\n %s = select %m, %x, %n : f32[4,60]\n"
     " %r = sum %s : f32[4,1]\n return %r\n }",
     "graph @k(%x: f32[4,60], %p: i32[4]) -> (f32[1,60]) {\n %m = causal_mask %p {len=60} : bool[4,60]\n"
     " %n = constant {values=[0.0]} : f32[1]\n %s = select %m, %x, %n : f32[4,60]\n"
     " %r = sum %s {axis=0} : f32[1,60]\n return %r\n }",
     "a reduction along another axis than rope, a mask or quantized rows"},
    {"graph @k(%x: f32[4,64]) -> (q8_r[4,64]) {\n %r = exp %x : f32[4,64]\n %q = quantize %r : q8_r[4,64]\n"
     " return %q\n }",
     "graph @k(%x: f32[4,64]) -> (q8_r[1,64]) {\n %r = sum %x {axis=0} : f32[1,64]\n"
     " %q = quantize %r : q8_r[1,64]\n return %q\n }",
     "a reduction along another axis than rope, a mask or quantized rows"},
    // Nothing beside what a family computes.
    {"graph @k(%x: f32[9,60], %y: f32[9,60]) -> (f32[9]) {\n"
     " %z = loop @dot(%x, %y) {over=\"t\", slices=[\"t .\", \"t .\"]} : f32[9]\n return %z\n }",
     "graph @k(%x: f32[9,60], %y: f32[9,60]) -> (f32[1]) {\n"
     " %l = loop @dot(%x, %y) {over=\"t\", slices=[\"t .\", \"t .\"]} : f32[9]\n"
     " %z = slice %l {axis=0, first=5, len=1} : f32[1]\n return %z\n }",
     "ops after a loop"},
    {"graph @k(%x: f32[4,60]) -> (f32[4,4]) {\n %y = gemm %x, %x {trans_b=true} : f32[4,4]\n return %y\n }",
     "graph @k(%x: f32[4,60], %y: f32[4,60]) -> (f32[4,4], f32[4,4]) {\n"
     " %p = gemm %x, %x {trans_b=true} : f32[4,4]\n %q = gemm %y, %x {trans_b=true} : f32[4,4]\n"
     " return %p, %q\n }",
     "not one result"},
    // A cache write stores what it is given, and reads nothing that it has written.
    {"graph @k(%c: state<f32[2,1,8,4]>, %x: f32[1,1,2,4], %p: i32[2]) -> (state<f32[2,1,8,4]>) {\n"
     " %n = neg %x : f32[1,1,2,4]\n %d = kv_append %c, %n, %x, %p : state<f32[2,1,8,4]>\n return %d\n }",
     "graph @k(%c: state<f32[2,1,8,4]>, %x: f32[1,1,2,4], %p: i32[2]) -> (state<f32[2,1,8,4]>) {\n"
     " %a, %b = kv_view %c {len=2} : f32[1,2,4], f32[1,2,4]\n %r = reshape %a : f32[1,1,2,4]\n"
     " %n = neg %r : f32[1,1,2,4]\n %d = kv_append %c, %n, %x, %p : state<f32[2,1,8,4]>\n return %d\n }",
     "a cache write of what the cache holds"},
};

TEST(KernelSpec, RefusesWhatNoFamilyComputes) {
  for (const Refused& row : kRefused) {
    EXPECT_EQ(SpecText(row.twin), "ok");
    EXPECT_THAT(SpecText(row.graph), testing::HasSubstr(row.reason));
  }
}

// Bodies are followed by recursion.
TEST(KernelSpec, RefusesLargeBodies) {
  const auto chain = [](int ops) {
    std::string text = "graph @k(%x0: f32[4]) -> (f32[4]) {\n";
    for (int i = 0; i < ops; ++i) absl::StrAppend(&text, " %x", i + 1, " = neg %x", i, " : f32[4]\n");
    return absl::StrCat(text, " return %x", ops, "\n }");
  };
  EXPECT_EQ(SpecText(chain(256)), "ok");
  EXPECT_THAT(SpecText(chain(20000)), testing::HasSubstr("@k: a kernel of 20000 ops: "));
}

// Parts of a group read no other grains than their own of what they make, whichever result it is.
TEST(KernelSpec, RefusesGroupsWhosePartsReadEachOthersGrains) {
  const auto spec = [](const char* read) {
    const auto module = Parse(
        absl::StrCat("module @m stage kernels {\n"
                     " graph @main(%q: f32[1,1,32], %k: f32[1,65,32], %x: f32[1,1,7]) -> (f32[1,1,7]) {\n"
                     "  %o, %w, %z = kernel @g(%q, %k, %x) {family=\"group\"} : f32[1,1,7,32], f32[1,1,7], f32[1,1,7]\n"
                     "  return %z\n }\n"
                     " graph @g(%q: f32[1,1,32], %k: f32[1,65,32], %x: f32[1,1,7]) -> (f32[1,1,7,32], f32[1,1,7], "
                     "f32[1,1,7]) {\n"
                     "  %o, %w = kernel @parts(%q, %k) {family=\"attend\"} : f32[1,1,7,32], f32[1,1,7]\n"
                     "  %z = kernel @neg(",
                     read,
                     ") {family=\"map\"} : f32[1,1,7]\n  return %o, %w, %z\n }\n"
                     " graph @parts(%q: f32[1,1,32], %k: f32[1,65,32]) -> (f32[1,1,7,32], f32[1,1,7]) {\n"
                     "  %o, %w = attend_parts %q, %k, %k {parts=7} : f32[1,1,7,32], f32[1,1,7]\n  return %o, %w\n }\n"
                     " graph @neg(%w: f32[1,1,7]) -> (f32[1,1,7]) {\n  %z = neg %w : f32[1,1,7]\n  return %z\n }\n}\n"),
        "spec");
    if (!module.ok()) return std::string(module.status().message());
    const absl::Status status = SpecOf(*(*module)->FindGraph("g"), {}).status();
    return status.ok() ? "ok" : std::string(status.message());
  };
  EXPECT_EQ(spec("%x"), "ok");
  EXPECT_THAT(spec("%w"), testing::HasSubstr("a grain of %z reads other grains of %w"));
}

// A packing that says blocks of a weight that has none, and the other way round.
TEST(KernelSpec, RefusesPackingsOfOtherWeights) {
  const auto spec = [](const char* dtype, const char* pack) {
    const auto module = Parse(absl::StrCat("module @m {\n graph @k(%x: f32[2,32], %w: ", dtype,
                                           "[16,32]) -> (f32[2,16]) {\n %y = gemm %x, %w {trans_b=true} : f32[2,16]\n"
                                           " return %y\n }\n}\n"),
                              "spec");
    if (!module.ok()) return std::string(module.status().message());
    const absl::Status status = SpecOf(*(*module)->FindGraph("k"), {"", pack}).status();
    return status.ok() ? "ok" : std::string(status.message());
  };
  EXPECT_EQ(spec("f32", "panel16"), "ok");
  EXPECT_EQ(spec("q8_0", "blocks16"), "ok");
  EXPECT_THAT(spec("f32", "blocks16"), testing::HasSubstr("a weight of f32 packed as blocks16"));
  EXPECT_THAT(spec("q8_0", "panel16"), testing::HasSubstr("a weight of q8_0 packed as panel16"));
}

}  // namespace
}  // namespace sinter
