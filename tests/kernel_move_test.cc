// Kernels of family move, and rope and masks, against the evaluator: rows of tables, the cache, copies of views.
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/compiled_graph.h"
#include "tests/quant_blocks.h"

namespace sinter {
namespace {

Tensor Ids(std::vector<double> values, DType dtype = DType::kI32) {
  const auto n = static_cast<int64_t>(values.size());
  return {dtype, {n}, std::move(values)};
}

using MoveKernels = TargetTest;

TEST_P(MoveKernels, TakesRows) {
  KernelSuite suite("dim T in 1..40");
  for (const char* index : {"i32", "i64"}) {
    const DType type = *ParseDType(index);
    std::vector<KernelRun> runs = {{.dims = {{"T", 1}}, .args = {{0, Ids({4}, type)}}},
                                   {.dims = {{"T", 5}}, .args = {{0, Ids({3, 3, 0, 4, 3}, type)}}},
                                   {.dims = {{"T", 40}}, .args = {}, .int_limit = 5}};
    for (const char* dtype : {"f32", "f16", "bf16", "i8", "u8", "i32"}) {
      for (int64_t width : {1, 2, 7, 8, 15, 16, 17, 33, 64, 100}) {
        suite.Add(absl::StrCat("(%i: ", index, "[T], %t: ", dtype, "[5,", width, "]) -> (", dtype, "[T,", width,
                               "]) {\n  %y = take %t, %i : ", dtype, "[T,", width, "]\n  return %y\n}"),
                  runs, kExact, "move");
      }
      suite.Add(absl::StrCat("(%i: ", index, "[T]) -> (", dtype, "[T,33]) {\n  %t = weight \"table_", dtype,
                             "\" : ", dtype, "[5,33]\n  %y = take %t, %i : ", dtype, "[T,33]\n  return %y\n}"),
                runs, kExact, "move");
    }
    suite.Add(absl::StrCat("(%i: ", index, "[T]) -> (f32[T,33]) {\n  %t = weight \"table_f16\" : f16[5,33]\n",
                           "  %r = take %t, %i : f16[T,33]\n  %y = convert %r : f32[T,33]\n  return %y\n}"),
              runs, kExact);
    // Rows of a table that is itself a view.
    suite.Add(absl::StrCat("(%i: ", index, "[T], %t: f32[5,40]) -> (f32[T,17]) {\n  %s = slice %t {axis=1, first=3, ",
                           "len=17} : f32[5,17]\n  %y = take %s, %i : f32[T,17]\n  return %y\n}"),
              runs, kExact, "move");
  }
  Check(suite);
}

// Rows of tables in blocks, and whole tables: each element is what Decode makes of it.
TEST_P(MoveKernels, DequantizesRowsOfBlocks) {
  KernelSuite suite("dim T in 1..40");
  for (const BlockScales& format : kBlockScales) {
    for (int64_t blocks : {1, 3}) {
      const int64_t columns = blocks * Info(format.dtype).block_elems;
      const absl::string_view name = Info(format.dtype).name;
      const auto type = [&](int64_t rows) { return absl::StrCat(name, "[", rows, ",", columns, "]"); };
      const std::string rows = absl::StrCat("f32[T,", columns, "]"), from = absl::StrCat(name, "[T,", columns, "]");
      for (int64_t table : {19, 16, 1}) {
        const double last = static_cast<double>(table - 1);
        const std::vector<KernelRun> runs = {
            {.dims = {{"T", 1}}, .args = {{0, Ids({last})}}},
            {.dims = {{"T", 5}}, .args = {{0, Ids({last, 0, std::floor(last / 2), std::floor(last / 3), last})}}},
            {.dims = {{"T", 40}}, .args = {}, .int_limit = table}};
        const std::string weight =
            absl::StrCat("  %w = weight \"", name, table, "x", columns, "\" : ", type(table), "\n");
        const std::string take =
            absl::StrCat(weight, "  %r = take %w, %i : ", from, "\n  %d = dequantize %r : ", rows, "\n");
        suite.Add(absl::StrCat("(%i: i32[T]) -> (", rows, ") {\n", take, "  return %d\n}"), runs, kExact, "map");
        suite.Add(absl::StrCat("() -> (f32[", table, ",", columns, "]) {\n", weight, "  %d = dequantize %w : f32[",
                               table, ",", columns, "]\n  return %d\n}"),
                  {{}}, kExact, "map");
        if (table != 19) continue;
        // Read by others: positions are added, another type is stored, a row is reduced.
        suite.Add(absl::StrCat("(%i: i32[T], %p: ", rows, ") -> (", rows, ") {\n", take, "  %y = add %d, %p : ", rows,
                               "\n  return %y\n}"),
                  runs, kExact);
        suite.Add(absl::StrCat("(%i: i32[T]) -> (f16[T,", columns, "]) {\n", take, "  %y = convert %d : f16[T,",
                               columns, "]\n  return %y\n}"),
                  runs, kExact);
        suite.Add(absl::StrCat("(%i: i32[T]) -> (f32[T,1]) {\n", take, "  %y = max %d : f32[T,1]\n  return %y\n}"),
                  runs, kExact);
      }
    }
  }
  Check(suite);
  Check(suite, "O0");
}

TEST_P(MoveKernels, Rope) {
  KernelSuite suite("dim T in 1..9");
  const std::vector<KernelRun> runs = {{.dims = {{"T", 1}}, .args = {{1, Ids({37})}}},
                                       {.dims = {{"T", 4}}, .args = {{1, Ids({0, 1, 2, 3})}}},
                                       {.dims = {{"T", 9}}, .args = {{1, Ids({5, 5, 39, 0, 7, 1, 38, 2, 9})}}}};
  for (const char* style : {"norm", "neox"}) {
    for (int64_t width : {2, 4, 8, 16, 20, 64, 128}) {
      const std::string table = absl::StrCat("f32[40,", 2 * width, "]");
      for (const bool factors : {false, true}) {
        const std::string make =
            absl::StrCat(factors ? absl::StrCat("  %f = weight \"factors", width, "\" : f32[", width / 2, "]\n") : "",
                         "  %table = rope_table ", factors ? "%f " : "", "{base=500, scale=0.25, style=\"", style,
                         "\"} : ", table, "\n");
        suite.Add(absl::StrCat("(%x: f32[2,3,T,", width, "], %pos: i32[T]) -> (f32[2,3,T,", width, "]) {\n", make,
                               "  %y = rope %x, %pos, %table {style=\"", style, "\"} : f32[2,3,T,", width,
                               "]\n  return %y\n}"),
                  runs, {}, "map");
        // Of heads of a wider row, as models have it.
        suite.Add(absl::StrCat("(%h: f32[T,", 5 * width + 3, "], %pos: i32[T]) -> (f32[2,1,T,", width, "]) {\n", make,
                               "  %x = heads %h {first=", 3 * width + 1, ", groups=2} : f32[2,1,T,", width,
                               "]\n  %y = rope %x, %pos, %table {style=\"", style, "\"} : f32[2,1,T,", width,
                               "]\n  return %y\n}"),
                  runs, {}, "map");
      }
      suite.Add(
          absl::StrCat("(%x: f32[T,", width, "], %pos: i32[T], %table: ", table, ") -> (f32[T,", width, "]) {\n",
                       "  %y = rope %x, %pos, %table {style=\"", style, "\"} : f32[T,", width, "]\n  return %y\n}"),
          runs, {}, "map");
    }
  }
  Check(suite);
}

TEST_P(MoveKernels, AppendsToTheCacheAndReadsIt) {
  KernelSuite suite("dim T in 1..6 dim P in 0..11 bound P+T <= 12");
  std::vector<KernelRun> runs;
  for (const auto& [p, t] : std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {0, 6}, {5, 1}, {5, 3}, {6, 6}, {11, 1}}) {
    KernelRun run{.dims = {{"P", p}, {"T", t}}};
    std::vector<double> positions;
    for (int64_t i = 0; i < t; ++i) positions.push_back(static_cast<double>(p + i));
    run.args[3] = Ids(positions);
    runs.push_back(run);
  }
  for (const char* dtype : {"f32", "f16", "bf16"}) {
    for (int64_t d : {1, 7, 16, 33, 64}) {
      const std::string state = absl::StrCat("state<", dtype, "[2,3,12,", d, "]>"),
                        row = absl::StrCat(dtype, "[3,1,T,", d, "]"), seen = absl::StrCat(dtype, "[3,P+T,", d, "]");
      suite.Add(absl::StrCat("(%c: ", state, ", %k: ", row, ", %v: ", row, ", %pos: i32[T]) -> (", state, ", ", seen,
                             ", ", seen, ") {\n  %n = kv_append %c, %k, %v, %pos : ", state,
                             "\n  %K, %V = kv_view %n {len=P+T} : ", seen, ", ", seen, "\n  return %n, %K, %V\n}"),
                runs, kExact, "move move move");
      // From heads of one wide row, converted to the cache's type on the way.
      suite.Add(absl::StrCat("(%c: ", state, ", %h: f32[T,", 7 * d, "], %w: f32[T,", 7 * d, "], %pos: i32[T]) -> (",
                             state, ") {\n  %hk = heads %h {first=", d, ", groups=3} : f32[3,1,T,", d,
                             "]\n  %hv = heads %w {first=", 4 * d, ", groups=3} : f32[3,1,T,", d, "]\n",
                             std::string(dtype) == "f32"
                                 ? absl::StrCat("  %n = kv_append %c, %hk, %hv, %pos : ", state)
                                 : absl::StrCat("  %k = convert %hk : ", row, "\n  %v = convert %hv : ", row,
                                                "\n  %n = kv_append %c, %k, %v, %pos : ", state),
                             "\n  return %n\n}"),
                runs, kExact);
    }
  }
  Check(suite);
}

// Rows whose largest element is 127 quantize to themselves; a row of zeros and one of halves, whose ties go to even.
TEST_P(MoveKernels, AppendsQuantizedRows) {
  KernelSuite suite("dim T in 1..6 dim P in 0..11 bound P+T <= 12");
  for (const int64_t d : {32, 64, 96}) {
    std::vector<KernelRun> runs;
    for (const auto& [p, t] : std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {0, 6}, {5, 3}, {11, 1}}) {
      KernelRun run{.dims = {{"P", p}, {"T", t}}};
      Tensor k = Tensor::Zeros(DType::kF32, {3, 1, t, d}), v = k, pos = Tensor::Zeros(DType::kI32, {t});
      for (size_t i = 0; i < k.values.size(); ++i) {
        const auto at = static_cast<double>(i % 32);
        k.values[i] = i % 32 == 9 ? -127 : 7 * at - 100;
        v.values[i] = i < static_cast<size_t>(d) ? 0 : i % 32 == 31 ? 254 : 3 * at - 40;
      }
      for (int64_t i = 0; i < t; ++i) pos.values[static_cast<size_t>(i)] = static_cast<double>(p + i);
      run.args = {{1, k}, {2, v}, {3, pos}};
      runs.push_back(run);
    }
    const std::string state = absl::StrCat("state<q8_0[2,3,12,", d, "]>"), row = absl::StrCat("f32[3,1,T,", d, "]");
    suite.Add(absl::StrCat("(%c: ", state, ", %k: ", row, ", %v: ", row, ", %pos: i32[T]) -> (", state,
                           ") {\n  %n = kv_append %c, %k, %v, %pos : ", state, "\n  return %n\n}"),
              runs, kExact, "move");
    // Any numbers: f32 may tip one to the next quantum, or the scale to the next f16.
    for (KernelRun& run : runs) run.args.erase(1), run.args.erase(2), run.float_limit = 3;
    suite.Add(absl::StrCat("(%c: ", state, ", %h: f32[T,", 3 * d, "], %v: ", row, ", %pos: i32[T]) -> (", state,
                           ") {\n  %k = heads %h {groups=3} : ", row, "\n  %n = kv_append %c, %k, %v, %pos : ", state,
                           "\n  return %n\n}"),
              runs, {1.1 / 127}, "move");
  }
  Check(suite);
}

TEST_P(MoveKernels, CopiesViews) {
  KernelSuite suite("dim T in 1..40 dim S in 1..40");
  const std::vector<KernelRun> runs = {{.dims = {{"T", 1}, {"S", 1}}},
                                       {.dims = {{"T", 3}, {"S", 40}}},
                                       {.dims = {{"T", 17}, {"S", 8}}},
                                       {.dims = {{"T", 40}, {"S", 33}}}};
  for (const char* t : {"f32", "f16", "bf16"}) {
    const auto add = [&](const std::string& text) {
      std::string graph;
      for (char c : text) graph += c == '?' ? std::string(t) : std::string(1, c);
      suite.Add(graph, runs, kExact);
    };
    for (const char* d : {"1", "7", "16", "33"}) {
      add(absl::StrCat("(%x: ?[T,200]) -> (?[2,3,T,", d, "]) {\n  %y = heads %x {first=1, groups=2} : ?[2,3,T,", d,
                       "]\n  return %y\n}"));
      add(absl::StrCat("(%x: ?[2,3,T,", d, "]) -> (?[T,", 6 * std::stoi(d), "]) {\n  %y = merge_heads %x : ?[T,",
                       6 * std::stoi(d), "]\n  return %y\n}"));
    }
    add("(%x: ?[T,S,6]) -> (?[T,S,3]) {\n  %y = slice %x {axis=2, first=2, len=3} : ?[T,S,3]\n  return %y\n}");
    add("(%x: ?[T,6,S]) -> (?[T,3,S]) {\n  %y = slice %x {axis=-2, first=2, len=3} : ?[T,3,S]\n  return %y\n}");
    add("(%x: ?[T+2,S]) -> (?[T,S]) {\n  %y = slice %x {axis=0, first=2, len=T} : ?[T,S]\n  return %y\n}");
    add("(%x: ?[T,S,6]) -> (?[T,6,S]) {\n  %y = transpose %x {perm=[0,2,1]} : ?[T,6,S]\n  return %y\n}");
    add("(%x: ?[T,S,6]) -> (?[6,S,T]) {\n  %y = transpose %x {perm=[2,1,0]} : ?[6,S,T]\n  return %y\n}");
    add("(%x: ?[T,S,6]) -> (?[S,T,6]) {\n  %y = transpose %x {perm=[1,0,2]} : ?[S,T,6]\n  return %y\n}");
    add("(%x: ?[T,S,6]) -> (?[T*S,6]) {\n  %y = reshape %x : ?[T*S,6]\n  return %y\n}");
    add("(%x: ?[T,S,6]) -> (?[S*T,2,3]) {\n  %t = transpose %x {perm=[1,0,2]} : ?[S,T,6]\n"
        "  %y = reshape %t : ?[S*T,2,3]\n  return %y\n}");
    add("(%x: ?[T,S]) -> (?[T,1,S,1]) {\n  %s = slice %x {axis=1, first=0, len=S} : ?[T,S]\n"
        "  %y = reshape %s : ?[T,1,S,1]\n  return %y\n}");
    for (int axis = 0; axis < 3; ++axis) {
      const char* dims[] = {"4*T,S,6", "T,4*S,6", "T,S,24"};
      add(absl::StrCat("(%x: ?[T,S,6]) -> (?[", dims[axis], "]) {\n  %y = repeat %x {axis=", axis, ", times=4} : ?[",
                       dims[axis], "]\n  return %y\n}"));
    }
    add("(%x: ?[T,1,S]) -> (?[T,5,S]) {\n  %y = repeat %x {axis=1, times=5} : ?[T,5,S]\n  return %y\n}");
    add("(%x: ?[T,S]) -> (?[2*S,3*T]) {\n  %t = transpose %x {perm=[1,0]} : ?[S,T]\n"
        "  %r = repeat %t {axis=0, times=2} : ?[2*S,T]\n  %y = repeat %r {axis=1, times=3} : ?[2*S,3*T]\n  return "
        "%y\n}");
    // Results that no op makes, and the same one twice.
    add("(%x: ?[T,S]) -> (?[T,S], ?[T,S], ?[3,5]) {\n  %w = weight \"w?\" : ?[3,5]\n  return %x, %x, %w\n}");
  }
  suite.Add(
      "(%x: f32[T]) -> (f32[T], f32[2,2], f32[T,3]) {\n  %c = constant {values=[0.1]} : f32[T]\n"
      "  %d = constant {values=[2.5]} : f32[2,2]\n  %e = constant {values=[-inf]} : f32[T,3]\n  return %c, %d, %e\n}",
      {{.dims = {{"T", 7}}}}, kExact);
  Check(suite);
}

TEST_P(MoveKernels, MovesIntegersAndMasks) {
  KernelSuite suite("dim T in 1..40 dim S in 1..40");
  const std::vector<KernelRun> runs = {{.dims = {{"T", 1}, {"S", 1}}, .args = {}, .int_limit = 128},
                                       {.dims = {{"T", 17}, {"S", 33}}, .args = {}, .int_limit = 128}};
  for (const char* t : {"i8", "u8", "i32", "bool"}) {
    suite.Add(absl::StrCat("(%x: ", t, "[T,S]) -> (", t, "[T,S]) {\n  return %x\n}"), runs, kExact, "move");
    suite.Add(absl::StrCat("(%x: ", t, "[T,3,S]) -> (", t, "[3,T,S]) {\n  %y = transpose %x {perm=[1,0,2]} : ", t,
                           "[3,T,S]\n  return %y\n}"),
              runs, kExact, "move");
    suite.Add(absl::StrCat("(%x: ", t, "[T,1]) -> (", t, "[T,9]) {\n  %y = repeat %x {axis=1, times=9} : ", t,
                           "[T,9]\n  return %y\n}"),
              runs, kExact, "move");
  }
  Check(suite);
}

TEST_P(MoveKernels, CausalMasks) {
  KernelSuite suite("dim T in 1..40 dim S in 1..80");
  std::vector<KernelRun> runs;
  for (int64_t s : {1, 7, 8, 16, 17, 65}) {
    runs.push_back({.dims = {{"T", 1}, {"S", s}}, .args = {{0, Ids({static_cast<double>(s / 2)})}}});
    runs.push_back({.dims = {{"T", 5}, {"S", s}}, .args = {{0, Ids({0, 1, static_cast<double>(s - 1), 100, 0})}}});
  }
  suite.Add("(%pos: i32[T]) -> (bool[T,S]) {\n  %m = causal_mask %pos {len=S} : bool[T,S]\n  return %m\n}", runs,
            kExact, "map");
  suite.Add(
      "(%pos: i32[T], %x: f32[3,T,S]) -> (f32[3,T,S]) {\n  %m = causal_mask %pos {len=S} : bool[T,S]\n"
      "  %y = softmax %x, %m {scale=2} : f32[3,T,S]\n  return %y\n}",
      runs);
  for (KernelRun& run : runs) run.args[0].dtype = DType::kI64;
  suite.Add("(%pos: i64[T]) -> (bool[T,S]) {\n  %m = causal_mask %pos {len=S} : bool[T,S]\n  return %m\n}", runs,
            kExact, "map");
  Check(suite);
}

SINTER_TARGET_TESTS(MoveKernels);

}  // namespace
}  // namespace sinter
