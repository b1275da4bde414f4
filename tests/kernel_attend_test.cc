// Kernels of family attend against the evaluator: one row and many, heads that share their keys, widths and numbers of
// positions around every tile's edges, causal and other masks, caches of each type, and what is masked.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/compiled_graph.h"

namespace sinter {
namespace {

constexpr char kDims[] = "dim T in 1..70 dim S in 1..400";

std::vector<KernelRun> Sizes(std::vector<std::pair<int64_t, int64_t>> sizes) {
  std::vector<KernelRun> runs;
  for (const auto& [t, s] : sizes) runs.push_back({.dims = {{"T", t}, {"S", s}}, .args = {}});
  return runs;
}
std::vector<KernelRun> AllSizes() {
  return Sizes({{1, 1}, {2, 47}, {5, 48}, {7, 49}, {16, 100}, {31, 6}, {32, 97}, {33, 145}, {70, 64}});
}

struct Case {
  int64_t groups = 1, heads = 1, width = 8, value_width = 8;
  std::string rows = "T", cache = "f32", mask = "";  // mask: "", "causal", or its dims
  std::string scale = "0.3";
  int64_t parts = 0;  // of the positions, joined then; 0: not cut
};

std::string Attend(const Case& c) {
  const bool causal = c.mask == "causal";
  const std::string q = absl::StrCat("f32[", c.groups, ",", c.heads, ",", c.rows, ",", c.width, "]"),
                    k = absl::StrCat(c.cache, "[", c.groups, ",S,", c.width, "]"),
                    v = absl::StrCat(c.cache, "[", c.groups, ",S,", c.value_width, "]"),
                    y = absl::StrCat("f32[", c.groups, ",", c.heads, ",", c.rows, ",", c.value_width, "]");
  std::string text = absl::StrCat("(%q: ", q, ", %k: ", k, ", %v: ", v);
  if (causal) absl::StrAppend(&text, ", %pos: i32[", c.rows, "]");
  if (!causal && !c.mask.empty()) absl::StrAppend(&text, ", %m: bool[", c.mask, "]");
  const std::string rows = absl::StrCat("f32[", c.groups, ",", c.heads, ",", c.rows, ",", c.parts),
                    each = absl::StrCat(rows, ",", c.value_width, "], ", rows, "]");
  absl::StrAppend(&text, ") -> (", y, c.parts > 0 ? absl::StrCat(", ", each) : "", ") {\n");
  if (causal) absl::StrAppend(&text, "  %m = causal_mask %pos {len=S} : bool[", c.rows, ",S]\n");
  if (c.parts > 0) {
    absl::StrAppend(&text, "  %x, %w = attend_parts %q, %k, %v", c.mask.empty() ? "" : ", %m", " {scale=", c.scale,
                    ", parts=", c.parts, "} : ", each, "\n  %y = join_parts %x, %w : ", y, "\n  return %y, %x, %w\n}");
    return text;
  }
  absl::StrAppend(&text, "  %y = attend %q, %k, %v", c.mask.empty() ? "" : ", %m", " {scale=", c.scale, "} : ", y,
                  "\n  return %y\n}");
  return text;
}

// Positions of a step after `before` others, and, where the step is long, some out of order: a row that sees nothing,
// one that sees all.
std::vector<KernelRun> Positions(bool one_row) {
  std::vector<KernelRun> runs;
  for (const auto& [t, s] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {2, 2}, {5, 48}, {6, 100}, {33, 33}, {40, 131}, {70, 70}, {70, 400}}) {
    KernelRun run{.dims = {{"T", t}, {"S", s}}, .args = {}};
    Tensor pos = Tensor::Zeros(DType::kI32, {one_row ? 1 : t});
    for (size_t i = 0; i < pos.values.size(); ++i) {
      pos.values[i] = static_cast<double>(s - static_cast<int64_t>(pos.values.size()) + static_cast<int64_t>(i));
    }
    run.args[3] = pos;
    runs.push_back(run);
    if (t < 5) continue;
    pos.values.front() = static_cast<double>(s / 2);
    if (!one_row) pos.values[2] = -1, pos.values[4] = 1e9, pos.values[3] = 0;
    run.args[3] = pos;
    runs.push_back(run);
  }
  return runs;
}

using AttendKernels = TargetTest;

TEST_P(AttendKernels, WidthsAndSizes) {
  KernelSuite suite(kDims);
  for (const int64_t width : {1, 7, 8, 16, 17, 32, 48, 64, 80, 100}) {
    suite.Add(Attend({.groups = 2, .width = width, .value_width = width}), AllSizes(), {}, "attend");
    suite.Add(Attend({.groups = 2, .width = width, .value_width = width, .rows = "1"}), AllSizes(), {}, "attend");
  }
  suite.Add(Attend({.width = 24, .value_width = 65}), AllSizes(), {}, "attend");
  suite.Add(Attend({.width = 65, .value_width = 24, .rows = "1"}), AllSizes(), {}, "attend");
  suite.Add(Attend({.width = 16, .value_width = 16, .rows = "3", .scale = "-2"}), AllSizes(), {}, "attend");
  Check(suite);
}

TEST_P(AttendKernels, HeadsThatShareKeys) {
  KernelSuite suite(kDims);
  for (const int64_t heads : {2, 3, 4, 5, 6, 7, 8, 12, 16, 17, 32, 33, 71}) {
    for (const char* rows : {"T", "1"}) {
      for (const char* mask : {"causal", ""}) {
        const bool one = std::string(rows) == "1", causal = std::string(mask) == "causal";
        suite.Add(Attend({.groups = 2, .heads = heads, .width = 16, .value_width = 20, .rows = rows, .mask = mask}),
                  causal ? Positions(one) : Sizes({{1, 5}, {3, 130}, {9, 257}}), {}, "attend");
      }
    }
  }
  Check(suite);
}

// Entries for a few tokens: no more queries than there can be.
TEST_P(AttendKernels, FewRows) {
  KernelSuite suite("dim T in 2..8 dim S in 1..400");
  std::vector<KernelRun> runs;
  for (const KernelRun& run : Positions(false)) {
    const int64_t t = run.dims.at("T");
    if (t >= 2 && t <= 8) runs.push_back(run);
  }
  EXPECT_GE(runs.size(), 4u);
  for (const int64_t heads : {1, 2, 3, 5}) {
    suite.Add(Attend({.groups = 2, .heads = heads, .width = 16, .value_width = 24, .mask = "causal"}), runs, {},
              "attend");
  }
  Check(suite);
}

TEST_P(AttendKernels, CausalCachesOfEachType) {
  KernelSuite suite(kDims);
  for (const char* cache : {"f32", "f16", "bf16"}) {
    for (const char* rows : {"T", "1"}) {
      for (const int64_t width : {12, 64}) {
        suite.Add(
            Attend({.groups = 2, .width = width, .value_width = width, .rows = rows, .cache = cache, .mask = "causal"}),
            Positions(std::string(rows) == "1"), {}, "attend");
      }
    }
  }
  Check(suite);
}

// Blocks of q8_0 are read where they lie. Attention that no pass fuses reads them dequantized.
TEST_P(AttendKernels, QuantizedCaches) {
  KernelSuite suite("dim T in 1..40 dim P in 0..360 bound P+T <= 400");
  std::vector<KernelRun> runs;
  for (const auto& [t, p] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 0}, {1, 1}, {1, 70}, {1, 255}, {1, 257}, {5, 3}, {33, 50}, {40, 120}}) {
    Tensor pos = Tensor::Zeros(DType::kI32, {t});
    for (int64_t i = 0; i < t; ++i) pos.values[static_cast<size_t>(i)] = static_cast<double>(p + i);
    runs.push_back({.dims = {{"T", t}, {"P", p}}, .args = {{1, pos}}});
  }
  for (const int64_t heads : {1, 2, 3, 4, 8, 12}) {
    for (const int64_t width : {32, 64, 96}) {
      const std::string state = absl::StrCat("state<q8_0[2,2,400,", width, "]>"),
                        rows = absl::StrCat("q8_0[2,P+T,", width, "]"), floats = absl::StrCat("f32[2,P+T,", width, "]"),
                        y = absl::StrCat("f32[2,", heads, ",T,", width, "]");
      suite.Add(absl::StrCat("(%q: ", y, ", %pos: i32[T], %c: ", state, ") -> (", y, ", ", state,
                             ") {\n  %m = causal_mask %pos {len=P+T} : bool[T,P+T]\n  %K, %V = kv_view %c {len=P+T} : ",
                             rows, ", ", rows, "\n  %k = dequantize %K : ", floats, "\n  %v = dequantize %V : ", floats,
                             "\n  %o = attend %q, %k, %v, %m {scale=0.25} : ", y, "\n  return %o, %c\n}"),
                runs, {}, "attend");
    }
  }
  Check(suite);
  KernelSuite plain("dim T in 1..70 dim S in 1..40");
  plain.Add(
      "(%c: state<q8_0[2,3,40,64]>) -> (f32[3,S,64], state<q8_0[2,3,40,64]>) {\n"
      "  %K, %V = kv_view %c {len=S} : q8_0[3,S,64], q8_0[3,S,64]\n  %v = dequantize %V : f32[3,S,64]\n"
      "  return %v, %c\n}",
      Sizes({{1, 1}, {1, 40}, {1, 7}}), kExact, "map");
  Check(plain, "O0");
}

TEST_P(AttendKernels, MasksThatAreData) {
  KernelSuite suite(kDims);
  const auto runs = Sizes({{1, 1}, {1, 33}, {2, 129}, {4, 48}, {35, 100}});
  for (const std::string rows : {"T", "1"}) {
    for (const char* of : {"", "3,", "2,1,", "2,3,"}) {
      for (const char* along : {",S", ",1"}) {
        const std::string mask = absl::StrCat(of, rows, along);
        suite.Add(Attend({.groups = 2, .heads = 3, .width = 16, .value_width = 16, .rows = rows, .mask = mask}), runs,
                  {}, "attend");
      }
    }
    suite.Add(Attend({.groups = 1, .heads = 9, .width = 16, .value_width = 16, .rows = rows, .mask = "S"}), runs, {},
              "attend");
  }
  Check(suite);
}

// Parts of the positions around where they begin, some of them empty, short or masked off; and their join.
TEST_P(AttendKernels, PartsOfTheContext) {
  KernelSuite suite(kDims);
  std::vector<KernelRun> causal, one_row, data = Sizes({{1, 1}, {3, 64}, {2, 65}, {1, 129}, {4, 400}});
  for (const int64_t s : {1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 161, 256, 257, 400}) {
    for (const int64_t before : {int64_t{1}, s / 3, s + 1}) {  // from the end: the last one, the middle, nothing
      KernelRun run{.dims = {{"T", 1}, {"S", s}}, .args = {}};
      Tensor pos = Tensor::Zeros(DType::kI32, {1});
      pos.values[0] = static_cast<double>(s - before);
      run.args[3] = pos;
      one_row.push_back(run);
      run.dims["T"] = 3;
      run.args[3] = Tensor::Zeros(DType::kI32, {3});
      run.args[3].values = {0, pos.values[0], static_cast<double>(s - 1)};
      causal.push_back(run);
    }
  }
  for (const int64_t parts : {2, 3, 4, 16}) {
    for (const int64_t heads : {1, 3, 8, 9}) {
      Case c{.groups = 2, .heads = heads, .width = 16, .value_width = 20, .rows = "1", .parts = parts};
      suite.Add(Attend(c), Sizes({{1, 1}, {1, 64}, {1, 65}, {1, 257}, {1, 400}}), {}, "attend attend");
      c.mask = "causal";
      suite.Add(Attend(c), one_row, {}, "attend attend");
      c.rows = "T";
      suite.Add(Attend(c), causal, {}, "attend attend");
      c.mask = "T,S";
      suite.Add(Attend(c), data, {}, "attend attend");
    }
  }
  for (const char* cache : {"f16", "bf16"}) {
    suite.Add(Attend({.groups = 1,
                      .heads = 8,
                      .width = 64,
                      .value_width = 64,
                      .rows = "1",
                      .cache = cache,
                      .mask = "causal",
                      .parts = 4}),
              one_row, {}, "attend attend");
  }
  Check(suite);
}

// Keys and values of positions that are masked are not looked at: NaN there changes nothing. What is seen, is.
TEST_P(AttendKernels, MaskedPositionsMayHoldAnything) {
  KernelSuite suite(kDims);
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  for (const char* rows : {"T", "1"}) {
    const int64_t t = rows[0] == '1' ? 1 : 6, s = 60;
    std::vector<KernelRun> causal, data;
    for (const double strange : {nan, inf}) {
      for (const int64_t at : {50, 57, 59}) {
        KernelRun run{.dims = {{"T", t}, {"S", s}}, .args = {}};
        Tensor k = Tensor::Zeros(DType::kF32, {1, s, 8}), v = k, pos = Tensor::Zeros(DType::kI32, {t});
        for (size_t i = 0; i < k.values.size(); ++i) k.values[i] = 0.01 * static_cast<double>(i % 17), v.values[i] = 1;
        for (int64_t e = 0; e < 8; ++e) {
          k.values[static_cast<size_t>(at * 8 + e)] = nan;
          v.values[static_cast<size_t>(at * 8 + e)] = strange;
        }
        for (int64_t i = 0; i < t; ++i) pos.values[static_cast<size_t>(i)] = static_cast<double>(s - t + i);
        Tensor mask = Tensor::Zeros(DType::kBool, {t, s});
        for (size_t i = 0; i < mask.values.size(); ++i) {
          mask.values[i] = static_cast<int64_t>(i) % s == at && static_cast<int64_t>(i) / s != 1 ? 0 : 1;
        }
        run.args = {{1, k}, {2, v}, {3, pos}};
        causal.push_back(run);
        run.args[3] = mask;
        data.push_back(run);
      }
    }
    suite.Add(Attend({.rows = rows, .mask = "causal"}), causal, {}, "attend");
    suite.Add(Attend({.rows = rows, .mask = absl::StrCat(rows, ",S")}), data, {}, "attend");
    suite.Add(Attend({.rows = rows, .mask = "causal", .parts = 2}), causal, {}, "attend attend");
    suite.Add(Attend({.rows = rows, .mask = absl::StrCat(rows, ",S"), .parts = 2}), data, {}, "attend attend");
  }
  Check(suite);
}

// Scores up to some hundreds, in any order of tiles: the largest wins, whatever came before it. They are rounded to
// 2^-24 of their size, and so are the logarithms of the weights.
TEST_P(AttendKernels, ScoresOfEverySize) {
  KernelSuite suite(kDims);
  for (const char* rows : {"T", "1"}) {
    std::vector<KernelRun> runs = AllSizes();
    for (KernelRun& run : runs) run.float_limit = 5;
    suite.Add(Attend({.groups = 2, .width = 16, .value_width = 16, .rows = rows, .scale = "1"}), runs, {1e-4},
              "attend");
  }
  Check(suite);
}

// Operands as models have them: views of wider rows and of a cache, results merged; rows that lie across are copied.
TEST_P(AttendKernels, Views) {
  KernelSuite suite("dim T in 1..40 dim P in 0..88 bound P+T <= 90");
  std::vector<KernelRun> runs;
  for (const auto& [t, p] : std::vector<std::pair<int64_t, int64_t>>{{1, 0}, {1, 70}, {5, 3}, {33, 50}, {40, 0}}) {
    Tensor pos = Tensor::Zeros(DType::kI32, {t});
    for (int64_t i = 0; i < t; ++i) pos.values[static_cast<size_t>(i)] = static_cast<double>(p + i);
    runs.push_back({.dims = {{"T", t}, {"P", p}}, .args = {{1, pos}}});
  }
  for (const char* cache : {"f32", "f16"}) {
    const std::string state = absl::StrCat("state<", cache, "[2,2,90,16]>"), rows = absl::StrCat(cache, "[2,P+T,16]");
    suite.Add(absl::StrCat("(%h: f32[T,100], %pos: i32[T], %c: ", state, ") -> (f32[T,96], ", state, ") {\n",
                           "  %q = heads %h {first=4, groups=2} : f32[2,3,T,16]\n",
                           "  %m = causal_mask %pos {len=P+T} : bool[T,P+T]\n  %K, %V = kv_view %c {len=P+T} : ", rows,
                           ", ", rows, "\n  %o = attend %q, %K, %V, %m {scale=0.25} : f32[2,3,T,16]\n",
                           "  %y = merge_heads %o : f32[T,96]\n  return %y, %c\n}"),
              runs, {}, "attend");
  }
  suite.Add(
      "(%a: f32[2,16,T], %pos: i32[T], %b: f32[2,16,P+T], %c: f32[2,9,P+T]) -> (f32[2,T,9]) {\n"
      "  %q = transpose %a {perm=[0,2,1]} : f32[2,T,16]\n  %k = transpose %b {perm=[0,2,1]} : f32[2,P+T,16]\n"
      "  %v = transpose %c {perm=[0,2,1]} : f32[2,P+T,9]\n  %m = causal_mask %pos {len=P+T} : bool[T,P+T]\n"
      "  %y = attend %q, %k, %v, %m : f32[2,T,9]\n  return %y\n}",
      runs, {}, "move move move attend");
  // No batch; no head axis; each head its own keys; one group's keys for all.
  suite.Add(
      "(%q: f32[T,16], %pos: i32[T], %k: f32[P+T,16]) -> (f32[T,16]) {\n  %y = attend %q, %k, %k : f32[T,16]\n"
      "  return %y\n}",
      runs, {}, "attend");
  suite.Add(
      "(%q: f32[5,T,16], %pos: i32[T], %k: f32[5,P+T,16]) -> (f32[5,T,16]) {\n"
      "  %y = attend %q, %k, %k : f32[5,T,16]\n  return %y\n}",
      runs, {}, "attend");
  suite.Add(
      "(%q: f32[2,3,T,16], %pos: i32[T], %k: f32[2,3,P+T,16], %v: f32[2,1,P+T,16]) -> (f32[2,3,T,16]) {\n"
      "  %y = attend %q, %k, %v : f32[2,3,T,16]\n  return %y\n}",
      runs, {}, "attend");
  suite.Add(
      "(%q: f32[2,3,T,16], %pos: i32[T], %k: f32[P+T,16]) -> (f32[2,3,T,16]) {\n"
      "  %y = attend %q, %k, %k : f32[2,3,T,16]\n  return %y\n}",
      runs, {}, "attend");
  // A mask that something else reads, too, is a step of its own.
  suite.Add(
      "(%q: f32[T,16], %pos: i32[T], %k: f32[P+T,16]) -> (f32[T,16], bool[T,P+T]) {\n"
      "  %m = causal_mask %pos {len=P+T} : bool[T,P+T]\n  %y = attend %q, %k, %k, %m : f32[T,16]\n"
      "  return %y, %m\n}",
      runs, {}, "map attend");
  Check(suite);
}

SINTER_TARGET_TESTS(AttendKernels);

}  // namespace
}  // namespace sinter
