// The meaning of products, views, moves and states, and what the evaluator says of dims and arguments.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/eval_run.h"

namespace sinter {
namespace {

using ::testing::DoubleEq;
using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pointwise;

TEST(EvalProducts, Gemm) {
  const Tensor a = F32({2, 3}, {1, 2, 3, 4, 5, 6}), b = F32({3, 2}, {1, 0, 2, 1, 0, -1});
  const Tensor at = F32({3, 2}, {1, 4, 2, 5, 3, 6}), bt = F32({2, 3}, {1, 2, 0, 0, 1, -1});
  const auto gemm = [](const std::string& attrs, const Tensor& x, const Tensor& y) {
    const auto type = [](const Tensor& t) { return absl::StrCat("f32[", t.dims[0], ",", t.dims[1], "]"); };
    return RunMain(absl::StrCat("graph @main(%a: ", type(x), ", %b: ", type(y), ") -> f32[2,2] { %y = gemm %a, %b ",
                                attrs, " : f32[2,2] return %y }"),
                   {x, y})
        .values;
  };
  EXPECT_THAT(gemm("", a, b), ElementsAre(5, -1, 14, -1));
  EXPECT_THAT(gemm("{trans_a=true}", at, b), ElementsAre(5, -1, 14, -1));
  EXPECT_THAT(gemm("{trans_b=true}", a, bt), ElementsAre(5, -1, 14, -1));
  EXPECT_THAT(gemm("{trans_a=true, trans_b=true}", at, bt), ElementsAre(5, -1, 14, -1));
}

// [G,Q,T,D] by [G,S,D]: each group's matrix serves its Q heads; a batch axis of 1 serves all.
TEST(EvalProducts, GemmBatches) {
  const Values q = Random(2 * 3 * 2 * 4, 12), k = Random(2 * 5 * 4, 13), one = Random(5 * 4, 14);
  const auto run = [&](const std::string& groups, const Values& b) {
    return RunMain(absl::StrCat("graph @main(%a: f32[2,3,2,4], %b: f32[", groups,
                                ",5,4]) -> f32[2,3,2,5] "
                                "{ %y = gemm %a, %b {trans_b=true} : f32[2,3,2,5] return %y }"),
                   {F32({2, 3, 2, 4}, q), F32({groups == "2" ? 2 : 1, 5, 4}, b)}, {.precision = Precision::kDouble});
  };
  const Tensor y = run("2", k), z = run("1", one);
  EXPECT_EQ(y.dtype, DType::kF32);
  for (size_t head = 0; head < 6; ++head) {
    for (size_t t = 0; t < 2; ++t) {
      for (size_t s = 0; s < 5; ++s) {
        double shared = 0, single = 0;
        for (size_t d = 0; d < 4; ++d) {
          shared += q[(head * 2 + t) * 4 + d] * k[(head / 3 * 5 + s) * 4 + d];
          single += q[(head * 2 + t) * 4 + d] * one[s * 4 + d];
        }
        EXPECT_NEAR(y.values[(head * 2 + t) * 5 + s], shared, 1e-12);
        EXPECT_NEAR(z.values[(head * 2 + t) * 5 + s], single, 1e-12);
      }
    }
  }
}

constexpr char kDot[] = R"(
  graph @dot(%a: f32[4], %b: f32[4]) -> f32[1] { %m = mul %a, %b : f32[4]  %r = sum %m {axis=0} : f32[1]  return %r }
)";

// attend is gemm, softmax, gemm: heads that share keys, values of another width, a mask with a row of nothing.
TEST(EvalProducts, AttendIsItsThreeOps) {
  const std::string head =
      "graph @main(%q: f32[2,3,T,4], %k: f32[2,1,5,4], %v: f32[2,5,3], %m: bool[T,5]) -> f32[2,3,T,3] {\n";
  Tensor mask = Bool({4, 5}, Values(20, 1));
  for (const size_t hidden : {1u, 4u, 5u, 10u, 11u, 12u, 13u, 14u}) mask.values[hidden] = 0;
  const std::vector<Tensor> args = {F32({2, 3, 4, 4}, Random(96, 1)), F32({2, 1, 5, 4}, Random(40, 2)),
                                    F32({2, 5, 3}, Random(30, 3)), mask};
  const EvalOptions in_double{.precision = Precision::kDouble};
  const Tensor attend =
      RunMain(absl::StrCat(head, "%o = attend %q, %k, %v, %m {scale=0.5} : f32[2,3,T,3] return %o }"), args, in_double);
  const Tensor three = RunMain(absl::StrCat(head,
                                            "%s = gemm %q, %k {trans_b=true} : f32[2,3,T,5]\n"
                                            "%p = softmax %s, %m {scale=0.5} : f32[2,3,T,5]\n"
                                            "%o = gemm %p, %v : f32[2,3,T,3] return %o }"),
                               args, in_double);
  EXPECT_THAT(attend.values, Pointwise(DoubleNear(1e-14), three.values));
  EXPECT_THAT(Values(attend.values.begin() + 6, attend.values.begin() + 9), ElementsAre(0, 0, 0));
}

// What is masked may be anything; a NaN that is seen travels.
TEST(EvalProducts, AttendLooksAtNothingMasked) {
  const std::string text =
      "graph @main(%q: f32[T,2], %k: f32[3,2], %v: f32[3,1], %m: bool[T,3]) -> f32[T,1] "
      "{ %o = attend %q, %k, %v, %m : f32[T,1] return %o }";
  const double nan = std::nan("");
  const Tensor q = F32({2, 2}, {1, 2, 3, 4}), mask = Bool({2, 3}, {1, 0, 0, 1, 1, 0});
  const Tensor y = RunMain(text, {q, F32({3, 2}, {1, 1, 2, nan, nan, nan}), F32({3, 1}, {7, 8, nan}), mask});
  EXPECT_EQ(y.values[0], 7);
  EXPECT_TRUE(std::isnan(y.values[1]));
}

TEST(EvalProducts, JoinOfNoPartsIsZeros) {
  const Tensor y =
      RunMain("graph @main(%x: f32[3,0,2], %w: f32[3,0]) -> f32[3,2] { %y = join_parts %x, %w : f32[3,2] return %y }",
              {F32({3, 0, 2}, {}), F32({3, 0}, {})});
  EXPECT_THAT(y.values, ElementsAre(0, 0, 0, 0, 0, 0));
}

TEST(EvalProducts, LoopOfDotsIsGemm) {
  const Tensor q = F32({2, 3, 2, 4}, Random(48, 15)), k = F32({2, 5, 4}, Random(40, 16));
  const Tensor loop = RunMain(absl::StrCat(kDot,
                                           "graph @main(%q: f32[2,3,T,4], %k: f32[2,5,4]) -> f32[2,3,T,5] { %y = loop "
                                           "@dot(%q, %k) {over=\"g q t s\", slices=[\"g q t .\", \"g s .\"]} : "
                                           "f32[2,3,T,5] return %y }"),
                              {q, k}, {.precision = Precision::kDouble});
  const Tensor gemm = RunMain(
      "graph @main(%q: f32[2,3,T,4], %k: f32[2,5,4]) -> f32[2,3,T,5] "
      "{ %y = gemm %q, %k {trans_b=true} : f32[2,3,T,5] return %y }",
      {q, k}, {.precision = Precision::kDouble});
  EXPECT_THAT(loop.values, Pointwise(DoubleEq(), gemm.values));
}

// The axis that is handed over may be any one, and letters may stand in any order.
TEST(EvalProducts, LoopSlicesAnyAxis) {
  const Values a = Random(4 * 3, 17), b = Random(4 * 2, 18);
  const Tensor y = RunMain(absl::StrCat(kDot,
                                        "graph @main(%a: f32[4,3], %b: f32[2,4]) -> f32[2,3] { %y = loop @dot(%a, %b) "
                                        "{over=\"i j\", slices=[\". j\", \"i .\"]} : f32[2,3] return %y }"),
                           {F32({4, 3}, a), F32({2, 4}, b)}, {.precision = Precision::kDouble});
  for (size_t i = 0; i < 2; ++i) {
    for (size_t j = 0; j < 3; ++j) {
      double sum = 0;
      for (size_t k = 0; k < 4; ++k) sum += a[k * 3 + j] * b[i * 4 + k];
      EXPECT_NEAR(y.values[i * 3 + j], sum, 1e-12);
    }
  }
}

TEST(EvalProducts, LoopRoundsInsideItsBody) {
  const double third = static_cast<float>(1.0 / 3);
  const Tensor x = F32({1, 4}, Values(4, third));
  const std::string text = absl::StrCat(kDot,
                                        "graph @main(%a: f32[1,4]) -> f32[1] { %y = loop @dot(%a, %a) {over=\"i\", "
                                        "slices=[\"i .\", \"i .\"]} : f32[1] return %y }");
  EXPECT_EQ(RunMain(text, {x}).values[0], static_cast<float>(4.0 * static_cast<float>(third * third)));
  EXPECT_EQ(RunMain(text, {x}, {.precision = Precision::kDouble}).values[0], 4 * third * third);
}

TEST(EvalProducts, KernelEvaluatesItsBody) {
  int observed = 0;
  EvalOptions options;
  options.observe = [&](ValueId, const Tensor&) { ++observed; };
  const auto results = TryRun(R"(
    graph @main(%x: f32[T,2]) -> f32[T,1] {
      %s, %n = kernel @both(%x) {family="row"} : f32[T,1], f32[T,2]
      %r = kernel @total(%n) {family="row"} : f32[T,1]
      return %r
    }
    graph @both(%x: f32[T,2]) -> (f32[T,1], f32[T,2]) { %s = sum %x : f32[T,1] %n = neg %x : f32[T,2] return %s, %n }
    graph @total(%x: f32[T,2]) -> f32[T,1] { %s = sum %x : f32[T,1] return %s })",
                              {F32({2, 2}, {1, 2, 3, 4})}, options, "stage kernels");
  ASSERT_TRUE(results.ok()) << results.status().message();
  EXPECT_THAT((*results)[0].values, ElementsAre(-3, -7));
  EXPECT_EQ(observed, 4);  // %x %s %n %r, and nothing of the bodies
}

TEST(EvalViews, Views) {
  const Values x = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const auto view = [&](const std::string& op, const std::string& type) {
    return RunMain(absl::StrCat("graph @main(%x: f32[2,6]) -> ", type, " { %y = ", op, " : ", type, " return %y }"),
                   {F32({2, 6}, x)})
        .values;
  };
  EXPECT_THAT(view("slice %x {axis=1, first=2, len=3}", "f32[2,3]"), ElementsAre(3, 4, 5, 9, 10, 11));
  EXPECT_THAT(view("slice %x {first=1}", "f32[1,6]"), ElementsAre(7, 8, 9, 10, 11, 12));
  EXPECT_THAT(view("transpose %x {perm=[1, 0]}", "f32[6,2]"), ElementsAre(1, 7, 2, 8, 3, 9, 4, 10, 5, 11, 6, 12));
  EXPECT_THAT(view("repeat %x {axis=1, times=2}", "f32[2,12]"),
              ElementsAre(1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12));
  EXPECT_THAT(view("repeat %x {times=2}", "f32[4,6]"),
              ElementsAre(1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 7, 8, 9, 10, 11, 12));
  const Tensor reshaped =
      RunMain("graph @main(%x: f32[2,6]) -> f32[3,4] { %y = reshape %x : f32[3,4] return %y }", {F32({2, 6}, x)});
  EXPECT_EQ(reshaped.values, x);
  EXPECT_THAT(reshaped.dims, ElementsAre(3, 4));
  // Columns 1..5 are two groups of one head of width 2.
  EXPECT_THAT(view("heads %x {first=1, groups=2}", "f32[2,1,2,2]"), ElementsAre(2, 3, 8, 9, 4, 5, 10, 11));
}

TEST(EvalViews, TransposeOfThreeAxes) {
  const Values x = Random(24, 19);
  const Tensor y =
      RunMain("graph @main(%x: f32[2,3,4]) -> f32[4,2,3] { %y = transpose %x {perm=[2, 0, 1]} : f32[4,2,3] return %y }",
              {F32({2, 3, 4}, x)});
  for (size_t i = 0; i < 2; ++i) {
    for (size_t j = 0; j < 3; ++j) {
      for (size_t k = 0; k < 4; ++k) EXPECT_EQ(y.values[(k * 2 + i) * 3 + j], x[(i * 3 + j) * 4 + k]);
    }
  }
}

TEST(EvalViews, MergeHeadsIsTheOppositeOfHeads) {
  const Values x = Random(3 * 12, 20);
  EXPECT_EQ(RunMain("graph @main(%x: f32[3,12]) -> f32[3,12] { %h = heads %x {groups=2} : f32[2,3,3,2] "
                    "%y = merge_heads %h : f32[3,12] return %y }",
                    {F32({3, 12}, x)})
                .values,
            x);
}

TEST(EvalViews, Take) {
  const std::string text =
      "graph @main(%t: f32[3,2], %r: i32[T]) -> f32[T,2] { %y = take %t, %r : f32[T,2] return %y }";
  const Tensor table = F32({3, 2}, {1, 2, 3, 4, 5, 6});
  EXPECT_THAT(RunMain(text, {table, I32({2, 0, 2})}).values, ElementsAre(5, 6, 1, 2, 5, 6));
  for (double row : {3.0, -1.0, kNan}) {
    EXPECT_THAT(Message(TryRun(text, {table, I32({0, row})}).status()), HasSubstr("is outside 0..2"));
  }
}

TEST(EvalState, AppendAndView) {
  const std::string text = R"(
    graph @main(%c: state<f32[2,2,10,1]>, %k: f32[2,1,T,1], %v: f32[2,1,T,1], %p: i32[T], %old: f32[P])
        -> (state<f32[2,2,10,1]>, f32[2,P+T,1], f32[2,P+T,1]) {
      %c1 = kv_append %c, %k, %v, %p : state<f32[2,2,10,1]>
      %K, %V = kv_view %c1 {len=P+T} : f32[2,P+T,1], f32[2,P+T,1]
      return %c1, %K, %V
    })";
  const Tensor empty{DType::kF32, {}, {}};
  auto first = TryRun(
      text, {empty, F32({2, 1, 2, 1}, {1, 2, 3, 4}), F32({2, 1, 2, 1}, {5, 6, 7, 8}), I32({0, 1}), F32({0}, {})});
  ASSERT_TRUE(first.ok()) << first.status().message();
  EXPECT_THAT((*first)[1].values, ElementsAre(1, 2, 3, 4));
  EXPECT_THAT((*first)[2].values, ElementsAre(5, 6, 7, 8));
  EXPECT_THAT((*first)[0].dims, ElementsAre(2, 2, 10, 1));

  // The next step goes on from the state that the first one returned, and may write positions in any order.
  const auto second = TryRun(text, {(*first)[0], F32({2, 1, 2, 1}, {-1, -2, -3, -4}),
                                    F32({2, 1, 2, 1}, {-5, -6, -7, -8}), I32({3, 2}), F32({2}, {0, 0})});
  ASSERT_TRUE(second.ok()) << second.status().message();
  EXPECT_THAT((*second)[1].values, ElementsAre(1, 2, -2, -1, 3, 4, -4, -3));
  EXPECT_THAT((*second)[2].values, ElementsAre(5, 6, -6, -5, 7, 8, -8, -7));

  const auto past =
      TryRun(text, {empty, F32({2, 1, 1, 1}, {1, 2}), F32({2, 1, 1, 1}, {1, 2}), I32({10}), F32({0}, {})});
  EXPECT_THAT(Message(past.status()), HasSubstr("position 10 is outside 0..9"));
}

TEST(EvalDims, BindFromShapes) {
  const auto module = Parse(
      "module @m { dim T in 1..8 dim P in 0..8 dim U in 1..4 bound P+T <= 10\n"
      "graph @main(%s: f32[P+T,2], %x: f32[2*T], %c: state<f32[2,1,T,4]>, %z: f32[P*T+1]) -> f32[2*T] "
      "{ return %x } }",
      "test");
  ASSERT_TRUE(module.ok()) << module.status().message();
  const Graph& graph = *(*module)->FindGraph("main");
  const auto bind = [&](std::vector<std::vector<int64_t>> shapes, IdMap<DimId, int64_t> dims = {}) {
    std::vector<Tensor> args;
    for (auto& shape : shapes) args.push_back({DType::kF32, shape, {}});
    const absl::Status status = BindDims(graph, args, dims);
    return status.ok() ? absl::StrCat("T=", dims[DimId{0}], " P=", dims[DimId{1}], " U=", dims[DimId{2}])
                       : Message(status);
  };
  EXPECT_EQ(bind({{7, 2}, {6}, {}, {13}}), "T=3 P=4 U=-1");
  EXPECT_EQ(bind({{3, 2}, {6}, {}, {1}}), "T=3 P=0 U=-1");
  EXPECT_THAT(bind({{7, 2}, {6}, {}, {14}}),
              HasSubstr("%z: f32[P*T+1]: expected P*T+1 = 13 on axis 0; found the shape [14]"));
  EXPECT_THAT(bind({{7, 2}, {5}, {}, {13}}), HasSubstr("dim P+T is not bound"));
  EXPECT_THAT(bind({{7, 3}, {6}, {}, {13}}), HasSubstr("expected 2 = 2 on axis 1; found the shape [7,3]"));
  EXPECT_THAT(bind({{7}, {6}, {}, {13}}), HasSubstr("expected 2 axes; found the shape [7]"));
  EXPECT_THAT(bind({{7, 2}, {6}}), HasSubstr("expected 4 arguments; found 2"));
  EXPECT_THAT(bind({{12, 2}, {18}, {}, {28}}), HasSubstr("dim T is 9, outside 1..8"));
  EXPECT_THAT(bind({{11, 2}, {6}, {}, {25}}), HasSubstr("P+T is 11, over its bound of 10"));
  EXPECT_THAT(bind({{2, 2}, {6}, {}, {13}}), HasSubstr("expected P+T = 7 on axis 0; found the shape [2,2]"));
  // What is given beforehand must agree.
  IdMap<DimId, int64_t> given;
  for (int64_t value : {3, -1, 2}) given.Add(value);
  EXPECT_EQ(bind({{7, 2}, {6}, {}, {13}}, given), "T=3 P=4 U=2");
  given[DimId{0}] = 4;
  EXPECT_THAT(bind({{7, 2}, {6}, {}, {13}}, given), HasSubstr("expected 2*T = 8 on axis 0; found the shape [6]"));
  given.Add(1);
  EXPECT_THAT(bind({{7, 2}, {6}, {}, {13}}, given), HasSubstr("more dims are bound than the module has"));
}

TEST(EvalDims, ArgumentsAreChecked) {
  const std::string text = "graph @main(%x: f32[2], %c: state<f32[2,1,4,1]>) -> f32[2] { return %x }";
  const Tensor state{DType::kF32, {2, 1, 4, 1}, Values(8)};
  EXPECT_TRUE(TryRun(text, {F32({2}, {1, 2}), state}).ok());
  EXPECT_TRUE(TryRun(text, {F32({2}, {1, 2}), Tensor{DType::kF32, {}, {}}}).ok());
  EXPECT_THAT(Message(TryRun(text, {F64({2}, {1, 2}), state}).status()),
              HasSubstr("%x: f32[2]: found elements of type f64"));
  EXPECT_THAT(Message(TryRun(text, {F32({2}, {1}), state}).status()),
              HasSubstr("expected the shape [2]; found [2] with 1 elements"));
  EXPECT_THAT(Message(TryRun(text, {F32({3}, {1, 2, 3}), state}).status()), HasSubstr("expected 2 = 2"));
}

TEST(EvalDims, GivenDimsReachAttributesAndResults) {
  const auto module = Parse(
      "module @m { dim T in 1..8 dim L in 0..4\n"
      "graph @main(%x: f32[8]) -> f32[L] { %y = slice %x {first=T-1, len=L} : f32[L] return %y } }",
      "test");
  ASSERT_FALSE(module.ok());  // T-1+L may pass the end
  const auto bounded = Parse(
      "module @m { dim T in 1..8 dim L in 0..4 bound T+L <= 9\n"
      "graph @main(%x: f32[8]) -> f32[L] { %y = slice %x {first=T-1, len=L} : f32[L] return %y } }",
      "test");
  ASSERT_TRUE(bounded.ok()) << bounded.status().message();
  const Graph& graph = *(*bounded)->FindGraph("main");
  const Tensor x = F32({8}, {0, 1, 2, 3, 4, 5, 6, 7});
  IdMap<DimId, int64_t> dims;
  for (int64_t value : {3, 2}) dims.Add(value);
  const auto y = Evaluate(graph, {x}, {}, dims);
  ASSERT_TRUE(y.ok()) << y.status().message();
  EXPECT_THAT((*y)[0].values, ElementsAre(2, 3));
  EXPECT_THAT(Message(Evaluate(graph, {x}, {}).status()), HasSubstr("has no value"));
  dims[DimId{0}] = 8;
  EXPECT_THAT(Message(Evaluate(graph, {x}, {}, dims).status()), HasSubstr("L+T is 10, over its bound of 9"));
}

TEST(EvalDims, HugeTensorsAreRefusedBeforeTheyAreMade) {
  const absl::Status status =
      TryRun(
          "graph @main(%x: f32[1]) -> f32[1] { %h = constant {values=[1]} : f32[1048576,1048576] "
          "%s = sum %h {axis=0} : f32[1,1048576] return %x }",
          {F32({1}, {0})})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(status), HasSubstr("too many elements: the limit \"evaluated elements\" is 2147483648"));
}

TEST(EvalGraph, ObserverSeesEveryValueOnceAndResultsMayRepeat) {
  std::vector<std::string> seen;
  const auto module = Parse(
      "module @m { graph @main(%x: f32[1]) -> (f32[1], f32[1], f32[1]) "
      "{ %a = neg %x : f32[1] %b = exp %a : f32[1] return %a, %x, %a } }",
      "test");
  ASSERT_TRUE(module.ok());
  const Graph& graph = *(*module)->FindGraph("main");
  EvalOptions options;
  options.observe = [&](ValueId id, const Tensor& value) {
    seen.push_back(absl::StrCat(graph.value(id).name, "=", value.values[0]));
  };
  const auto results = Evaluate(graph, {F32({1}, {0})}, options);
  ASSERT_TRUE(results.ok());
  EXPECT_THAT(seen, ElementsAre("x=0", "a=-0", "b=1"));
  ASSERT_EQ(results->size(), 3u);
  for (const Tensor& result : *results) EXPECT_EQ(result.values.size(), 1u);
}

}  // namespace
}  // namespace sinter
