// Every constraint of every Infer beside an accepted twin.
#include "ir/infer.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "ir/graph.h"

namespace sinter {
namespace {

using ::testing::HasSubstr;

constexpr DType kF32 = DType::kF32, kF16 = DType::kF16, kI32 = DType::kI32, kBool = DType::kBool;
const double kInf = HUGE_VAL;

class InferTest : public ::testing::Test {
 protected:
  InferTest() { module_.dims.AddBound({P + T, 4096}); }

  ValueId Param(Type type) { return graph_.AddParam("", std::move(type)); }
  ValueId F(Dims dims) { return Param({kF32, std::move(dims)}); }
  ValueId I(Dims dims) { return Param({kI32, std::move(dims)}); }

  template <typename Op>
  Type Accept(Op op, std::vector<Type> declared = {}) {
    const absl::StatusOr<ValueId> value = graph_.Add(std::move(op), {.declared = std::move(declared)});
    EXPECT_TRUE(value.ok()) << value.status();
    return value.ok() ? graph_.type(*value) : Type{};
  }
  template <typename Op>
  void Refuse(absl::string_view label, Op op, std::vector<Type> declared = {}) {
    const absl::StatusOr<ValueId> value = graph_.Add(std::move(op), {.declared = std::move(declared)});
    EXPECT_FALSE(value.ok()) << "accepted, and should have been refused by " << label;
    EXPECT_EQ(value.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(value.status().message()), HasSubstr(absl::StrCat("[", label, "] ")));
  }

  Module module_{"m"};
  DimExpr T = DimExpr::Symbol(*module_.dims.Add({"T", 1, 512}));
  DimExpr P = DimExpr::Symbol(*module_.dims.Add({"P", 0, 4095}));
  Graph& graph_ = module_.AddGraph("main");
  const Type cache_{kF16, {2, 4, 4096, 64}, true};
};

TEST_F(InferTest, OperandsAndAttributes) {
  const ValueId x = F({T, 8}), i = I({8}), s = Param(cache_);
  EXPECT_EQ(Accept(ops::Exp{.x = x}), (Type{kF32, {T, 8}}));
  Refuse("operand-class", ops::Exp{.x = i});
  Refuse("operand-class", ops::Reshape{.x = s}, {{kF16, {2, 4, 4096, 64}}});
  Refuse("operand-class", ops::KvView{.cache = x, .len = 1});
  Refuse("operand-count", ops::Add{.a = x});
  Refuse("operand-count", ops::Add{.a = x, .b = ValueId{77}});
  EXPECT_THAT(graph_.AddFields({OpKind::kExp, {x, x}, {}}).status().message(), HasSubstr("[operand-count]"));
  EXPECT_THAT(graph_.AddFields({OpKind::kSum, {x}, {}}).status().message(), HasSubstr("[attributes]"));
  EXPECT_THAT(graph_.AddFields({OpKind::kSum, {x}, {Attr(1.0)}}).status().message(),
              HasSubstr("[attributes] sum: expected an integer for axis; found a number"));
  Refuse("attributes", ops::Softmax{.x = x, .scale = kInf});
  Accept(ops::Softmax{.x = x, .scale = 3e38});
  Refuse("attributes", ops::Softmax{.x = x, .scale = 4e38});
  Refuse("attributes", ops::RmsNorm{.x = x, .eps = 1e300});
  Refuse("attributes", ops::KvView{.cache = s, .len = DimExpr::Poison()});
  Refuse("attributes", ops::Kernel{.body = {GraphId{9}}, .family = "map"});
  Refuse("attributes", ops::Loop{.over = "i"});
  const ValueId dead = *graph_.Add(ops::Neg{.x = x});
  graph_.Erase(graph_.value(dead).def);
  Refuse("operand-count", ops::Neg{.x = dead});
}

TEST_F(InferTest, ResultTypes) {
  const ValueId x = F({T, 8});
  Accept(ops::Exp{.x = x}, {{kF32, {T, 8}}});
  Refuse("result-type", ops::Exp{.x = x}, {{kF32, {8, T}}});
  Refuse("result-type", ops::Exp{.x = x}, {{kF32, {T, 8}}, {kF32, {T, 8}}});
  Refuse("result-type", ops::Weight{.name = "w"});
  Refuse("result-type", ops::Weight{.name = "w"}, {cache_});
  Accept(ops::Reshape{.x = F({1, 1, 1, 1, 1, 1, 1, 1})}, {{kF32, {1}}});
  Refuse("type", ops::Reshape{.x = x}, {{kF32, {T, 8, 1, 1, 1, 1, 1, 1, 1}}});
  Refuse("type", ops::Reshape{.x = F({1})}, {{kF32, {}}});
  Refuse("type", ops::Weight{.name = "w"}, {{DType::kQ8_0, {4, 33}}});
  Refuse("type", ops::Weight{.name = "w"}, {{kF32, {int64_t{1} << 31, int64_t{1} << 31}}});
  Refuse("type", ops::Repeat{.x = x, .axis = 1, .times = int64_t{1} << 62});
  Refuse("type", ops::CausalMask{.pos = I({T}), .len = T - DimExpr(2)});
}

TEST_F(InferTest, Weight) {
  EXPECT_EQ(Accept(ops::Weight{.name = "w"}, {{DType::kQ4_0, {5, 64}}}), (Type{DType::kQ4_0, {5, 64}}));
  Refuse("weight-c1", ops::Weight{}, {{kF32, {5}}});
  Refuse("weight-c2", ops::Weight{.name = "w"}, {{kF32, {T}}});
  Refuse("weight-c2", ops::Weight{.name = "w"}, {{kF32, {0}}});
}

TEST_F(InferTest, Constant) {
  Accept(ops::Constant{.values = {0.1}}, {{kF32, {T, 8}}});
  Accept(ops::Constant{.values = {1, 2, -kInf}}, {{kF16, {3}}});
  Accept(ops::Constant{.values = {1, 0}}, {{kBool, {2}}});
  Refuse("constant-c1", ops::Constant{.values = {1}}, {{DType::kQ8_0, {32}}});
  Refuse("constant-c2", ops::Constant{.values = {}}, {{kF32, {3}}});
  Refuse("constant-c2", ops::Constant{.values = {1, 2}}, {{kF32, {3}}});
  Refuse("constant-c2", ops::Constant{.values = {1, 2}}, {{kF32, {T}}});
  Refuse("constant-c3", ops::Constant{.values = {1e6}}, {{kF16, {1}}});
  Refuse("constant-c3", ops::Constant{.values = {1.5}}, {{kI32, {1}}});
  Refuse("constant-c3", ops::Constant{.values = {300}}, {{DType::kU8, {1}}});
  Refuse("constant-c3", ops::Constant{.values = {2}}, {{kBool, {1}}});
}

TEST_F(InferTest, RopeTable) {
  const ValueId factors = *graph_.Add(ops::Weight{.name = "f"}, {.declared = {{kF32, {32}}}});
  Accept(ops::RopeTable{.factors = factors, .style = "neox"}, {{kF32, {4096, 128}}});
  Accept(ops::RopeTable{}, {{kF32, {4096, 128}}});
  Refuse("rope_table-c1", ops::RopeTable{}, {{kF16, {4096, 128}}});
  Refuse("rope_table-c1", ops::RopeTable{}, {{kF32, {4096, 126}}});
  Refuse("rope_table-c1", ops::RopeTable{}, {{kF32, {T, 128}}});
  Refuse("rope_table-c2", ops::RopeTable{.style = "gptj"}, {{kF32, {4096, 128}}});
  Refuse("rope_table-c3", ops::RopeTable{.base = 0}, {{kF32, {4096, 128}}});
  Refuse("rope_table-c4", ops::RopeTable{.factors = factors}, {{kF32, {4096, 64}}});
}

// One element type and shapes that broadcast, for each of the rows that say so.
TEST_F(InferTest, Elementwise) {
  const ValueId x = F({4, T, 8}), row = F({8}), one = F({T, 1}), other = F({P, 8}), half = Param({kF16, {8}});
  const auto check = [&](auto make, const char* name) {
    EXPECT_EQ(Accept(make(x, row)), (Type{kF32, {4, T, 8}}));
    EXPECT_EQ(Accept(make(row, one)), (Type{kF32, {T, 8}}));
    Refuse(absl::StrCat(name, "-c1"), make(x, half));
    Refuse(absl::StrCat(name, "-c2"), make(x, other));
  };
  check([](ValueId a, ValueId b) { return ops::Add{.a = a, .b = b}; }, "add");
  check([](ValueId a, ValueId b) { return ops::Sub{.a = a, .b = b}; }, "sub");
  check([](ValueId a, ValueId b) { return ops::Mul{.a = a, .b = b}; }, "mul");
  check([](ValueId a, ValueId b) { return ops::Div{.a = a, .b = b}; }, "div");
  check([](ValueId a, ValueId b) { return ops::Maximum{.a = a, .b = b}; }, "maximum");
  check([](ValueId a, ValueId b) { return ops::Minimum{.a = a, .b = b}; }, "minimum");
  check([](ValueId a, ValueId b) { return ops::Swiglu{.gate = a, .up = b}; }, "swiglu");
  const ValueId i = I({T});
  EXPECT_EQ(Accept(ops::Add{.a = i, .b = i}), (Type{kI32, {T}}));
  Refuse("operand-class", ops::Div{.a = i, .b = i});
}

TEST_F(InferTest, Unary) {
  const ValueId x = Param({kF16, {T, 8}}), i = I({T});
  const Type type{kF16, {T, 8}};
  EXPECT_EQ(Accept(ops::Neg{.x = x}), type);
  EXPECT_EQ(Accept(ops::Neg{.x = i}), (Type{kI32, {T}}));
  EXPECT_EQ(Accept(ops::Log{.x = x}), type);
  EXPECT_EQ(Accept(ops::Sqrt{.x = x}), type);
  EXPECT_EQ(Accept(ops::Rsqrt{.x = x}), type);
  EXPECT_EQ(Accept(ops::Tanh{.x = x}), type);
  EXPECT_EQ(Accept(ops::Erf{.x = x}), type);
  EXPECT_EQ(Accept(ops::Gelu{.x = x, .form = "erf"}), type);
  Refuse("gelu-c3", ops::Gelu{.x = x, .form = "quick"});
}

TEST_F(InferTest, Select) {
  const ValueId mask = Param({kBool, {T, P + T}}), x = F({4, T, P + T}), low = F({1}), i = I({1});
  EXPECT_EQ(Accept(ops::Select{.mask = mask, .a = x, .b = low}), (Type{kF32, {4, T, P + T}}));
  EXPECT_EQ(Accept(ops::Select{.mask = mask, .a = low, .b = low}), (Type{kF32, {T, P + T}}));
  Refuse("select-c1", ops::Select{.mask = mask, .a = x, .b = i});
  Refuse("select-c2", ops::Select{.mask = mask, .a = F({T, T}), .b = low});
  Refuse("operand-class", ops::Select{.mask = x, .a = x, .b = x});
}

TEST_F(InferTest, ConvertAndDequantize) {
  const ValueId x = F({T, 32}), q = Param({DType::kQ8_0, {5, 32}});
  EXPECT_EQ(Accept(ops::Convert{.x = x}, {{kF16, {T, 32}}}), (Type{kF16, {T, 32}}));
  Refuse("convert-c1", ops::Convert{.x = x}, {{DType::kQ8_0, {T, 32}}});
  Refuse("convert-c1", ops::Convert{.x = x}, {{kBool, {T, 32}}});
  Refuse("convert-c2", ops::Convert{.x = x}, {{kF16, {32, T}}});
  Refuse("operand-class", ops::Convert{.x = q}, {{kF32, {5, 32}}});
  Accept(ops::Dequantize{.x = q}, {{kF32, {5, 32}}});
  Refuse("dequantize-c1", ops::Dequantize{.x = x}, {{kF32, {T, 32}}});
  Refuse("dequantize-c2", ops::Dequantize{.x = q}, {{kF16, {5, 32}}});
  Refuse("dequantize-c2", ops::Dequantize{.x = q}, {{kF32, {32, 5}}});
}

TEST_F(InferTest, CausalMask) {
  EXPECT_EQ(Accept(ops::CausalMask{.pos = I({T}), .len = P + T}), (Type{kBool, {T, P + T}}));
  Refuse("causal_mask-c1", ops::CausalMask{.pos = I({T, 1}), .len = P + T});
  Refuse("causal_mask-c1", ops::CausalMask{.pos = Param({DType::kU8, {T}}), .len = P + T});
}

TEST_F(InferTest, Reductions) {
  const ValueId x = F({4, T, 8});
  EXPECT_EQ(Accept(ops::Sum{.x = x}), (Type{kF32, {4, T, 1}}));
  EXPECT_EQ(Accept(ops::Mean{.x = x, .axis = 0}), (Type{kF32, {1, T, 8}}));
  EXPECT_EQ(Accept(ops::Max{.x = x, .axis = -2}), (Type{kF32, {4, 1, 8}}));
  Refuse("sum-c1", ops::Sum{.x = x, .axis = 3});
  Refuse("mean-c1", ops::Mean{.x = x, .axis = -4});
  Refuse("max-c1", ops::Max{.x = x, .axis = INT64_MIN});
}

TEST_F(InferTest, Softmax) {
  const ValueId x = F({4, 1, T, P + T}), mask = Param({kBool, {T, P + T}});
  EXPECT_EQ(Accept(ops::Softmax{.x = x, .mask = mask, .scale = 0.125}), (Type{kF32, {4, 1, T, P + T}}));
  Accept(ops::Softmax{.x = x});
  Refuse("softmax-c1", ops::Softmax{.x = x, .mask = Param({kBool, {T, T}})});
  Refuse("softmax-c1", ops::Softmax{.x = x, .mask = Param({kBool, {9, 4, 1, T, P + T}})});
  Refuse("operand-class", ops::Softmax{.x = x, .mask = x});
}

TEST_F(InferTest, Norms) {
  const ValueId x = F({T, 8}), row = F({8}), wide = F({9}), half = Param({kF16, {8}});
  EXPECT_EQ(Accept(ops::LayerNorm{.x = x, .gamma = row, .beta = row}), (Type{kF32, {T, 8}}));
  EXPECT_EQ(Accept(ops::RmsNorm{.x = x, .gamma = row, .eps = 0}), (Type{kF32, {T, 8}}));
  Accept(ops::LayerNorm{.x = x, .gamma = row});
  Accept(ops::LayerNorm{.x = x, .beta = row});
  EXPECT_EQ(Accept(ops::RmsNorm{.x = x}), (Type{kF32, {T, 8}}));
  Refuse("layer_norm-c1", ops::LayerNorm{.x = x, .gamma = wide});
  Refuse("layer_norm-c2", ops::LayerNorm{.x = x, .gamma = row, .beta = half});
  Refuse("layer_norm-c3", ops::LayerNorm{.x = x, .gamma = row, .eps = -1});
  Refuse("rms_norm-c1", ops::RmsNorm{.x = x, .gamma = F({1, 8})});
  Refuse("rms_norm-c2", ops::RmsNorm{.x = x, .gamma = row, .eps = -1});
}

class LoopTest : public InferTest {
 protected:
  LoopTest() { dot_ = MakeDot({kF32, {64}}, {kF32, {64}}); }

  GraphId MakeDot(Type a, Type b) {
    Graph& body = module_.AddGraph("dot");
    const ValueId x = body.AddParam("a", a), y = body.AddParam("b", b);
    body.SetResults({*body.Add(ops::Sum{.x = *body.Add(ops::Mul{.a = x, .b = y}), .axis = 0})});
    return body.id();
  }
  ops::Loop Attention() const {
    return {.body = {dot_}, .args = {q_, k_}, .over = "g q t s", .slices = {"g q t .", "g s ."}};
  }
  GraphId dot_;
  ValueId q_ = F({12, 1, T, 64}), k_ = F({12, P + T, 64});
};

TEST_F(LoopTest, Shapes) {
  EXPECT_EQ(Accept(Attention()), (Type{kF32, {12, 1, T, P + T}}));
  // An operand that hands over no axis gives one element.
  const GraphId scaled = MakeDot({kF32, {64}}, {kF32, {1}});
  EXPECT_EQ(Accept(ops::Loop{.body = {scaled}, .args = {F({T, 64}), F({3})}, .over = "s t", .slices = {"t .", "s"}}),
            (Type{kF32, {3, T}}));
  // The axis handed over need not be the last.
  EXPECT_EQ(
      Accept(ops::Loop{.body = {dot_}, .args = {F({T, 64}), F({64, 9})}, .over = "m n", .slices = {"m .", ". n"}}),
      (Type{kF32, {T, 9}}));
}

TEST_F(LoopTest, Constraints) {
  const auto with = [&](auto change) {
    ops::Loop loop = Attention();
    change(loop);
    return loop;
  };
  Refuse("loop-c1", with([](ops::Loop& l) { l.over = ""; }));
  Refuse("loop-c1", with([](ops::Loop& l) { l.over = "g q t s s"; }));
  Refuse("loop-c1", with([](ops::Loop& l) { l.over = "g q t ."; }));
  Refuse("loop-c1", with([](ops::Loop& l) { l.over = "gq t s"; }));
  Refuse("loop-c2", with([](ops::Loop& l) { l.slices.pop_back(); }));
  Refuse("loop-c2", with([&](ops::Loop& l) {
           l.args.push_back(q_);
           l.slices.push_back("g q t .");
         }));
  Refuse("loop-c3", with([](ops::Loop& l) { l.slices[0] = "g t ."; }));
  Refuse("loop-c3", with([&](ops::Loop& l) { l.args[0] = Param(cache_); }));
  Refuse("loop-c4", with([](ops::Loop& l) { l.slices[0] = "g . t ."; }));
  Refuse("loop-c4", with([](ops::Loop& l) { l.slices[0] = "g g t ."; }));
  Refuse("loop-c5", with([](ops::Loop& l) { l.slices[0] = "g q x ."; }));
  Refuse("loop-c6", with([](ops::Loop& l) { l.slices[1] = "g t ."; }));
  Refuse("loop-c8", with([](ops::Loop& l) { l.slices[1] = "g . s"; }));
  Refuse("loop-c8", with([&](ops::Loop& l) { l.args[1] = Param({kF16, {12, P + T, 64}}); }));
  Refuse("loop-c9", with([](ops::Loop& l) { l.over = "g q t s u"; }));
}

TEST_F(LoopTest, QuantizedOperandsHandOverTheirLastAxis) {
  const Type q{DType::kQ8_0, {64}};
  Graph& body = module_.AddGraph("qdot");
  const ValueId x = body.AddParam("a", {kF32, {64}}), y = body.AddParam("b", q);
  const ValueId d = *body.Add(ops::Dequantize{.x = y}, {.declared = {{kF32, {64}}}});
  body.SetResults({*body.Add(ops::Sum{.x = *body.Add(ops::Mul{.a = x, .b = d})})});
  const ValueId w = Param({DType::kQ8_0, {64, 64}}), a = F({T, 64});
  Accept(ops::Loop{.body = {body.id()}, .args = {a, w}, .over = "m n", .slices = {"m .", "n ."}});
  Refuse("loop-c7", ops::Loop{.body = {body.id()}, .args = {a, w}, .over = "m n", .slices = {"m .", ". n"}});
}

TEST_F(LoopTest, BodiesAreElementwiseThenOneSum) {
  const auto refuse = [&](auto build) {
    Graph& body = module_.AddGraph("bad");
    const ValueId a = body.AddParam("a", {kF32, {64}}), b = body.AddParam("b", {kF32, {64}});
    build(body, a, b);
    ops::Loop loop = Attention();
    loop.body = {body.id()};
    Refuse("body-legal", loop);
  };
  refuse([](Graph&, ValueId, ValueId) {});
  refuse([](Graph& g, ValueId a, ValueId b) { g.SetResults({*g.Add(ops::Mul{.a = a, .b = b})}); });
  refuse([](Graph& g, ValueId a, ValueId) { g.SetResults({*g.Add(ops::Mean{.x = a})}); });
  refuse([](Graph& g, ValueId a, ValueId) { g.SetResults({*g.Add(ops::Sum{.x = *g.Add(ops::Softmax{.x = a})})}); });
  refuse([](Graph& g, ValueId a, ValueId b) {
    const ValueId s = *g.Add(ops::Sum{.x = a});
    g.SetResults({*g.Add(ops::Sum{.x = *g.Add(ops::Mul{.a = s, .b = b})})});
  });
  refuse([](Graph& g, ValueId a, ValueId) {
    const ValueId s = *g.Add(ops::Sum{.x = a});
    g.SetResults({s, s});
  });
  refuse([](Graph& g, ValueId a, ValueId b) {
    (void)*g.Add(ops::Sum{.x = a});
    g.SetResults({b});
  });
}

TEST_F(InferTest, Attend) {
  const ValueId q = F({4, 3, T, 64}), k = F({4, P + T, 64}), v = Param({kF16, {4, P + T, 48}}), x = F({T, 64});
  const ValueId mask = Param({kBool, {T, P + T}});
  EXPECT_EQ(Accept(ops::Attend{.q = q, .k = k, .v = v, .mask = mask, .scale = 0.125}), (Type{kF32, {4, 3, T, 48}}));
  EXPECT_EQ(Accept(ops::Attend{.q = x, .k = x, .v = F({T, 9})}), (Type{kF32, {T, 9}}));
  Accept(ops::Attend{.q = q, .k = F({4, 1, P + T, 64}), .v = F({1, 3, P + T, 64}), .mask = Param({kBool, {3, T, 1}})});
  Refuse("attend-c1", ops::Attend{.q = F({64}), .k = x, .v = x});
  Refuse("attend-c2", ops::Attend{.q = Param({kF16, {T, 64}}), .k = x, .v = x});
  Refuse("attend-c3", ops::Attend{.q = x, .k = x, .v = Param({DType::kF64, {T, 64}})});
  Refuse("attend-c4", ops::Attend{.q = x, .k = k, .v = v});
  Refuse("attend-c5", ops::Attend{.q = q, .k = k, .v = F({3, P + T, 64})});
  Refuse("attend-c6", ops::Attend{.q = q, .k = v, .v = v});
  Refuse("attend-c7", ops::Attend{.q = q, .k = k, .v = F({4, T, 64})});
  Refuse("attend-c8", ops::Attend{.q = x, .k = x, .v = F({T, T})});
  Refuse("attend-c8", ops::Attend{.q = F({T, 4097}), .k = F({9, 4097}), .v = F({9, 8})});
  Refuse("attend-c9", ops::Attend{.q = q, .k = k, .v = v, .mask = Param({kBool, {T, T}})});
  Refuse("attend-c9", ops::Attend{.q = q, .k = k, .v = v, .mask = Param({kBool, {9, 4, 3, T, P + T}})});
}

TEST_F(InferTest, Parts) {
  const ValueId q = F({4, 3, T, 64}), k = F({4, P + T, 64}), v = Param({kF16, {4, P + T, 48}}), x = F({T, 64});
  EXPECT_EQ(Accept(ops::AttendParts{.q = q, .k = k, .v = v, .parts = 256}), (Type{kF32, {4, 3, T, 256, 48}}));
  EXPECT_EQ(Accept(ops::AttendParts{.q = x, .k = x, .v = F({T, 9})}), (Type{kF32, {T, 2, 9}}));
  Refuse("attend_parts-c7", ops::AttendParts{.q = q, .k = k, .v = F({4, T, 64})});
  Refuse("attend_parts-c10", ops::AttendParts{.q = x, .k = x, .v = x, .parts = 1});
  Refuse("attend_parts-c10", ops::AttendParts{.q = x, .k = x, .v = x, .parts = 257});
  Refuse("attend_parts-c11", ops::AttendParts{.q = F({1, 1, 1, 1, 1, 1, T, 64}), .k = x, .v = x});
  EXPECT_EQ(Accept(ops::JoinParts{.x = F({4, T, 9, 48}), .weight = F({4, T, 9})}), (Type{kF32, {4, T, 48}}));
  Refuse("join_parts-c1", ops::JoinParts{.x = F({64}), .weight = F({64})});
  Refuse("join_parts-c1", ops::JoinParts{.x = F({9, T}), .weight = F({9})});
  Refuse("join_parts-c1", ops::JoinParts{.x = F({9, 8}), .weight = Param({kF16, {9}})});
  Refuse("join_parts-c2", ops::JoinParts{.x = F({T, 9, 8}), .weight = F({T, 8})});
}

TEST_F(InferTest, Gemm) {
  const ValueId x = F({T, 64}), w = F({64, 9}), wt = F({9, 64});
  EXPECT_EQ(Accept(ops::Gemm{.a = x, .b = w}), (Type{kF32, {T, 9}}));
  EXPECT_EQ(Accept(ops::Gemm{.a = x, .b = wt, .trans_b = true}), (Type{kF32, {T, 9}}));
  EXPECT_EQ(Accept(ops::Gemm{.a = F({64, T}), .b = w, .trans_a = true}), (Type{kF32, {T, 9}}));
  EXPECT_EQ(Accept(ops::Gemm{.a = Param({DType::kBF16, {T, 64}}), .b = Param({kF16, {64, 9}})}), (Type{kF32, {T, 9}}));
  // Batch axes of b align with a's from the first on.
  const ValueId q = F({4, 3, T, 64}), k = F({4, P + T, 64});
  EXPECT_EQ(Accept(ops::Gemm{.a = q, .b = k, .trans_b = true}), (Type{kF32, {4, 3, T, P + T}}));
  Accept(ops::Gemm{.a = q, .b = w});
  Accept(ops::Gemm{.a = q, .b = F({1, 3, 64, 9})});
  const ValueId quantized = Param({DType::kQ4_0, {96, 64}});
  Accept(ops::Gemm{.a = x, .b = quantized, .trans_b = true});
  Refuse("gemm-c1", ops::Gemm{.a = F({64}), .b = w});
  Refuse("gemm-c1", ops::Gemm{.a = x, .b = F({64})});
  Refuse("gemm-c2", ops::Gemm{.a = Param({DType::kF64, {T, 64}}), .b = w});
  Refuse("gemm-c3", ops::Gemm{.a = x, .b = I({64, 9})});
  Refuse("gemm-c4", ops::Gemm{.a = F({T, 96}), .b = quantized});
  Refuse("gemm-c5", ops::Gemm{.a = x, .b = wt});
  Refuse("gemm-c6", ops::Gemm{.a = x, .b = F({1, 64, 9})});
  Refuse("gemm-c7", ops::Gemm{.a = q, .b = F({3, 64, 9})});
  Refuse("gemm-c7", ops::Gemm{.a = F({1, T, 64}), .b = F({4, 64, 9})});
}

TEST_F(InferTest, Heads) {
  const ValueId x = F({T, 768});
  const Type type{kF32, {2, 4, T, 64}};
  EXPECT_EQ(Accept(ops::Heads{.x = x, .first = 256, .groups = 2}, {type}), type);
  Refuse("heads-c1", ops::Heads{.x = F({1, T, 768}), .groups = 2}, {type});
  Refuse("heads-c2", ops::Heads{.x = x, .groups = 2}, {{kF16, {2, 4, T, 64}}});
  Refuse("heads-c2", ops::Heads{.x = x, .groups = 2}, {{kF32, {2, 4, P, 64}}});
  Refuse("heads-c2", ops::Heads{.x = x, .groups = 2}, {{kF32, {2, T, 64}}});
  Refuse("heads-c3", ops::Heads{.x = x, .groups = 3}, {type});
  Refuse("heads-c4", ops::Heads{.x = x, .first = 257, .groups = 2}, {type});
  Refuse("heads-c4", ops::Heads{.x = x, .first = -1, .groups = 2}, {type});
  Refuse("heads-c4", ops::Heads{.x = x, .first = INT64_MAX, .groups = 2}, {type});
}

TEST_F(InferTest, Slice) {
  const ValueId x = F({4096, 96}), q = Param({DType::kQ8_0, {8, 96}});
  EXPECT_EQ(Accept(ops::Slice{.x = x, .axis = 0, .first = P, .len = T}), (Type{kF32, {T, 96}}));
  EXPECT_EQ(Accept(ops::Slice{.x = x, .axis = -1, .first = 95, .len = 1}), (Type{kF32, {4096, 1}}));
  EXPECT_EQ(Accept(ops::Slice{.x = q, .axis = 1, .first = 32, .len = 64}), (Type{DType::kQ8_0, {8, 64}}));
  Refuse("slice-c1", ops::Slice{.x = x, .axis = 2});
  Refuse("slice-c2", ops::Slice{.x = x, .axis = 1, .first = 95, .len = 2});
  Refuse("slice-c2", ops::Slice{.x = x, .axis = 0, .first = P + DimExpr(1), .len = T});
  Refuse("slice-c2", ops::Slice{.x = x, .axis = 0, .first = T - DimExpr(2), .len = 1});
  Refuse("slice-c2", ops::Slice{.x = x, .axis = 0, .first = INT64_MAX, .len = 1});
  Refuse("slice-c3", ops::Slice{.x = q, .axis = 1, .first = 16, .len = 32});
  Refuse("type", ops::Slice{.x = q, .axis = 1, .first = 32, .len = 16});
}

TEST_F(InferTest, Reshape) {
  const ValueId x = F({T, 12, 64}), q = Param({DType::kQ8_0, {4, 64}});
  Accept(ops::Reshape{.x = x}, {{kF32, {DimExpr(12) * T, 64}}});
  Accept(ops::Reshape{.x = q}, {{DType::kQ8_0, {2, 2, 64}}});
  Refuse("reshape-c1", ops::Reshape{.x = x}, {{kF16, {T, 768}}});
  Refuse("reshape-c2", ops::Reshape{.x = x}, {{kF32, {T, 767}}});
  Refuse("reshape-c2", ops::Reshape{.x = x}, {{kF32, {P, 768}}});
  Refuse("reshape-c3", ops::Reshape{.x = q}, {{DType::kQ8_0, {8, 32}}});
}

TEST_F(InferTest, TransposeAndRepeat) {
  const ValueId x = F({4, T, 8}), q = Param({DType::kQ8_0, {2, 4, 64}});
  EXPECT_EQ(Accept(ops::Transpose{.x = x, .perm = {1, 2, 0}}), (Type{kF32, {T, 8, 4}}));
  Accept(ops::Transpose{.x = q, .perm = {1, 0, 2}});
  Refuse("transpose-c1", ops::Transpose{.x = x, .perm = {0, 1}});
  Refuse("transpose-c1", ops::Transpose{.x = x, .perm = {0, 1, 1}});
  Refuse("transpose-c1", ops::Transpose{.x = x, .perm = {0, 1, 3}});
  Refuse("transpose-c1", ops::Transpose{.x = x, .perm = {-1, 0, 1}});
  Refuse("transpose-c2", ops::Transpose{.x = q, .perm = {0, 2, 1}});
  EXPECT_EQ(Accept(ops::Repeat{.x = x, .axis = 1, .times = 3}), (Type{kF32, {4, DimExpr(3) * T, 8}}));
  Accept(ops::Repeat{.x = q, .axis = 0, .times = 3});
  Refuse("repeat-c1", ops::Repeat{.x = x, .axis = 3, .times = 3});
  Refuse("repeat-c2", ops::Repeat{.x = x, .axis = 1, .times = 0});
  Refuse("repeat-c3", ops::Repeat{.x = q, .axis = -1, .times = 2});
}

TEST_F(InferTest, MergeHeadsAndTake) {
  EXPECT_EQ(Accept(ops::MergeHeads{.x = F({4, 3, T, 64})}), (Type{kF32, {T, 768}}));
  Refuse("merge_heads-c1", ops::MergeHeads{.x = F({4, T, 64})});
  const ValueId table = F({1000, 64});
  EXPECT_EQ(Accept(ops::Take{.table = table, .rows = I({T})}), (Type{kF32, {T, 64}}));
  Refuse("take-c1", ops::Take{.table = F({64}), .rows = I({T})});
  Refuse("take-c2", ops::Take{.table = table, .rows = I({T, 1})});
  Refuse("take-c2", ops::Take{.table = table, .rows = Param({DType::kU8, {T}})});
}

TEST_F(InferTest, Rope) {
  const ValueId x = F({4, 3, T, 64}), pos = I({T}), table = F({4096, 128});
  EXPECT_EQ(Accept(ops::Rope{.x = x, .pos = pos, .table = table}), (Type{kF32, {4, 3, T, 64}}));
  Refuse("rope-c1", ops::Rope{.x = F({64}), .pos = pos, .table = table});
  Refuse("rope-c1", ops::Rope{.x = F({T, 63}), .pos = pos, .table = table});
  Refuse("rope-c2", ops::Rope{.x = x, .pos = I({P}), .table = table});
  Refuse("rope-c2", ops::Rope{.x = x, .pos = Param({DType::kI8, {T}}), .table = table});
  Refuse("rope-c3", ops::Rope{.x = x, .pos = pos, .table = F({4096, 64})});
  Refuse("rope-c3", ops::Rope{.x = x, .pos = pos, .table = Param({kF16, {4096, 128}})});
  Refuse("rope-c4", ops::Rope{.x = x, .pos = pos, .table = table, .style = "x"});
  const ValueId neox = *graph_.Add(ops::RopeTable{.style = "neox"}, {.declared = {{kF32, {4096, 128}}}});
  Accept(ops::Rope{.x = x, .pos = pos, .table = neox, .style = "neox"});
  Refuse("rope-c5", ops::Rope{.x = x, .pos = pos, .table = neox});
}

TEST_F(InferTest, KvAppend) {
  const ValueId cache = Param(cache_), k = Param({kF16, {4, 1, T, 64}}), pos = I({T});
  EXPECT_EQ(Accept(ops::KvAppend{.cache = cache, .k = k, .v = k, .pos = pos}), cache_);
  const ValueId odd = Param({kF16, {3, 4, 4096, 64}, true}), k32 = F({4, 1, T, 64}),
                wide = Param({kF16, {4, 2, T, 64}});
  Refuse("kv_append-c1", ops::KvAppend{.cache = odd, .k = k, .v = k, .pos = pos});
  Refuse("kv_append-c2", ops::KvAppend{.cache = cache, .k = k, .v = k, .pos = Param({DType::kU8, {T}})});
  Refuse("kv_append-c3", ops::KvAppend{.cache = cache, .k = k32, .v = k, .pos = pos});
  Refuse("kv_append-c3", ops::KvAppend{.cache = cache, .k = k, .v = k, .pos = I({P})});
  Refuse("kv_append-c4", ops::KvAppend{.cache = cache, .k = k, .v = wide, .pos = pos});
  const Type blocks{DType::kQ8_0, {2, 4, 4096, 64}, true};
  const ValueId quantized = Param(blocks);
  EXPECT_EQ(Accept(ops::KvAppend{.cache = quantized, .k = k32, .v = k32, .pos = pos}), blocks);
  Refuse("kv_append-c3", ops::KvAppend{.cache = quantized, .k = k, .v = k32, .pos = pos});
  const ValueId nibbles = Param({DType::kQ4_0, {2, 4, 4096, 64}, true});
  Refuse("kv_append-c1", ops::KvAppend{.cache = nibbles, .k = k32, .v = k32, .pos = pos});
}

TEST_F(InferTest, KvView) {
  const ValueId cache = Param(cache_);
  EXPECT_EQ(Accept(ops::KvView{.cache = cache, .len = P + T}), (Type{kF16, {4, P + T, 64}}));
  EXPECT_EQ(graph_.op(graph_.order()[0]).results.size(), 2u);
  Refuse("kv_view-c1", ops::KvView{.cache = Param({kF16, {2, 4, 4096}, true}), .len = P + T});
  Refuse("kv_view-c2", ops::KvView{.cache = cache, .len = P + T + DimExpr(1)});
  Refuse("kv_view-c2", ops::KvView{.cache = Param({kF16, {2, 4, 4095, 64}, true}), .len = P + T});
}

TEST_F(InferTest, Kernel) {
  Graph& body = module_.AddGraph("body");
  const ValueId y = body.AddParam("y", {kF32, {T, 8}});
  body.SetResults({*body.Add(ops::Neg{.x = y}), y});
  const ValueId x = F({T, 8});
  const auto with = [&](auto change) {
    ops::Kernel kernel{.body = {body.id()}, .args = {x}, .family = "map"};
    change(kernel);
    return kernel;
  };
  EXPECT_EQ(Accept(with([](ops::Kernel& k) { k.mode = "replicated"; })), (Type{kF32, {T, 8}}));
  EXPECT_EQ(graph_.op(graph_.order()[0]).results.size(), 2u);
  Refuse("kernel-c1", with([](ops::Kernel& k) { k.args.clear(); }));
  Refuse("kernel-c2", with([&](ops::Kernel& k) { k.args[0] = F({8, T}); }));
  Refuse("kernel-c3", with([](ops::Kernel& k) { k.family = ""; }));
  Refuse("kernel-c4", with([](ops::Kernel& k) { k.mode = "some"; }));
}

}  // namespace
}  // namespace sinter
