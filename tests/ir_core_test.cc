#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "ir/docs.h"
#include "ir/graph.h"
#include "ir/hash.h"

namespace sinter {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kMax = std::numeric_limits<int64_t>::max(), kMin = std::numeric_limits<int64_t>::min();

// The value of a half by the definition of the format.
double HalfByDefinition(uint16_t half) {
  const double sign = (half & 0x8000) != 0 ? -1 : 1;
  const int exponent = half >> 10 & 31, mantissa = half & 1023;
  if (exponent == 31) return mantissa != 0 ? std::nan("") : sign * HUGE_VAL;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(DTypeTest, EveryHalfWidensAndComesBack) {
  for (uint32_t i = 0; i < 65536; ++i) {
    const uint16_t half = static_cast<uint16_t>(i);
    const double expected = HalfByDefinition(half);
    const float got = HalfToFloat(half);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(got)) << i;
      ASSERT_TRUE(std::isnan(HalfToFloat(FloatToHalf(got)))) << i;
      continue;
    }
    ASSERT_EQ(got, expected) << i;
    ASSERT_EQ(std::signbit(got), std::signbit(expected)) << i;
    ASSERT_EQ(FloatToHalf(got), half) << i;
  }
}

// Between two neighbouring halves: below the middle goes down, above goes up, the middle goes to the even one.
TEST(DTypeTest, HalvesRoundToNearestEven) {
  for (uint32_t i = 0; i < 0x7bff; ++i) {
    const uint16_t low = static_cast<uint16_t>(i), high = static_cast<uint16_t>(i + 1);
    const double middle = (HalfByDefinition(low) + HalfByDefinition(high)) / 2;
    const uint16_t even = (low & 1) == 0 ? low : high;
    const float m = static_cast<float>(middle);  // exact: 12 bits
    ASSERT_EQ(FloatToHalf(m), even) << i;
    ASSERT_EQ(FloatToHalf(std::nextafter(m, 0.0f)), low) << i;
    ASSERT_EQ(FloatToHalf(std::nextafter(m, HUGE_VALF)), high) << i;
    ASSERT_EQ(FloatToHalf(-m), even | 0x8000) << i;
    // Once, not twice: a double that f32 would round to the middle.
    ASSERT_EQ(RoundTo(DType::kF16, std::nextafter(middle, 1e9)), HalfByDefinition(high)) << i;
  }
  EXPECT_EQ(FloatToHalf(65519.996f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(-1e30f), 0xfc00);
}

TEST(DTypeTest, EveryBf16WidensAndComesBack) {
  for (uint32_t i = 0; i < 65536; ++i) {
    const uint16_t bits = static_cast<uint16_t>(i);
    const float value = Bf16ToFloat(bits);
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(value)))) << i;
      continue;
    }
    ASSERT_EQ(FloatToBf16(value), bits) << i;
    if (!std::isfinite(value)) continue;
    // The middle to the next value away from zero is the next bit of the f32.
    const uint32_t word = std::bit_cast<uint32_t>(value);
    const uint16_t even = (bits & 1) == 0 ? bits : static_cast<uint16_t>(bits + 1);
    ASSERT_EQ(FloatToBf16(std::bit_cast<float>(word | 0x8000)), even) << i;
    ASSERT_EQ(FloatToBf16(std::bit_cast<float>(word | 0x7fff)), bits) << i;
    ASSERT_EQ(FloatToBf16(std::bit_cast<float>(word | 0x8001)), bits + 1) << i;
  }
}

TEST(DTypeTest, IntegersRoundToEvenAndSaturate) {
  EXPECT_EQ(RoundTo(DType::kI8, 2.5), 2);
  EXPECT_EQ(RoundTo(DType::kI8, 3.5), 4);
  EXPECT_EQ(RoundTo(DType::kI8, -1000), -128);
  EXPECT_EQ(RoundTo(DType::kU8, 255.4), 255);
  EXPECT_EQ(RoundTo(DType::kU8, -0.6), 0);
  EXPECT_EQ(RoundTo(DType::kI32, 1e300), 2147483647.0);
  EXPECT_EQ(RoundTo(DType::kI32, std::nan("")), 0);
  EXPECT_EQ(RoundTo(DType::kBool, -3), 1);
  uint8_t bytes[8];
  int64_t value;
  Encode(DType::kI64, {1e19}, bytes);
  std::memcpy(&value, bytes, 8);
  EXPECT_EQ(value, kMax);
  Encode(DType::kI64, {-1e19}, bytes);
  std::memcpy(&value, bytes, 8);
  EXPECT_EQ(value, kMin);
}

TEST(DTypeTest, QuantizedBlocksDecode) {
  uint8_t q8[2 * 34] = {};
  q8[0] = 0x00, q8[1] = 0x38;    // 0.5
  q8[34] = 0x00, q8[35] = 0xc0;  // -2
  for (int i = 0; i < 32; ++i) {
    q8[2 + i] = static_cast<uint8_t>(i - 16);
    q8[36 + i] = static_cast<uint8_t>(127 - i);
  }
  std::vector<double> out(64);
  Decode(DType::kQ8_0, q8, absl::MakeSpan(out));
  for (int i = 0; i < 32; ++i) {
    EXPECT_EQ(out[i], 0.5 * (i - 16));
    EXPECT_EQ(out[32 + i], -2.0 * (127 - i));
  }
  uint8_t q4[18] = {0x00, 0x3c};  // 1
  for (int i = 0; i < 16; ++i) q4[2 + i] = static_cast<uint8_t>(i | (15 - i) << 4);
  out.resize(32);
  Decode(DType::kQ4_0, q4, absl::MakeSpan(out));
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(out[i], i - 8);
    EXPECT_EQ(out[16 + i], 7 - i);
  }
  EXPECT_EQ(ElemBytes(DType::kQ4_0, 64), 36);
  EXPECT_EQ(ElemBytes(DType::kF16, 3), 6);
}

TEST(DTypeTest, BlocksOfQ8AreEncoded) {
  std::vector<double> values(96), back(96);
  for (size_t i = 0; i < 32; ++i) {
    values[i] = 0.25 * (static_cast<double>(i) * 4 - 127);  // multiples of the scale
    values[64 + i] = i == 3 ? std::numeric_limits<double>::infinity() : 1;
  }
  uint8_t bytes[3 * 34];
  Encode(DType::kQ8_0, values, bytes);
  Decode(DType::kQ8_0, bytes, absl::MakeSpan(back));
  for (size_t i = 0; i < 64; ++i) EXPECT_EQ(back[i], values[i]) << i;
  for (size_t i = 64; i < 96; ++i) EXPECT_TRUE(std::isnan(back[i])) << "a block that is not finite has no scale";
  for (size_t i = 0; i < 96; ++i) values[i] = std::sin(static_cast<double>(i));
  Encode(DType::kQ8_0, values, bytes);
  Decode(DType::kQ8_0, bytes, absl::MakeSpan(back));
  for (size_t i = 0; i < 96; ++i) EXPECT_NEAR(back[i], values[i], 0.51 / 127) << i;
}

TEST(DTypeTest, PlainTypesSurviveEncodeAndDecode) {
  for (const DTypeInfo& info : AllDTypes()) {
    EXPECT_EQ(ParseDType(info.name), info.dtype);
    if (info.cls == DTypeClass::kQuantized) continue;
    const std::vector<double> values = {0, 1, 1, 0};
    std::vector<uint8_t> bytes(ElemBytes(info.dtype, 4));
    std::vector<double> back(4);
    Encode(info.dtype, values, bytes.data());
    Decode(info.dtype, bytes.data(), absl::MakeSpan(back));
    EXPECT_EQ(back, values) << info.name;
  }
  EXPECT_EQ(ParseDType("f8"), std::nullopt);
}

class DimsTest : public ::testing::Test {
 protected:
  DimTable table_;
  DimId t_ = *table_.Add({"T", 1, 512}), p_ = *table_.Add({"P", 0, 4095});
  DimExpr T = DimExpr::Symbol(t_), P = DimExpr::Symbol(p_);
};

TEST_F(DimsTest, EqualExactlyWhenCanonicallyEqual) {
  EXPECT_EQ(P + T, T + P);
  EXPECT_EQ((P + T) * (P - T), P * P - T * T);
  EXPECT_EQ(T - T, DimExpr(0));
  EXPECT_EQ(DimExpr(), DimExpr(0));
  EXPECT_TRUE((T + DimExpr(1) - T).is_one());
  EXPECT_NE(P + T, P);
  EXPECT_NE(DimExpr(2) * T, T * T);
  EXPECT_FALSE(T.is_const());
  EXPECT_TRUE((T - T).is_const());
  EXPECT_EQ((T + DimExpr(7)).constant(), 7);
}

TEST_F(DimsTest, TextIsSortedByNameWithTheConstantLast) {
  EXPECT_EQ(table_.ToString(DimExpr(1) + T * DimExpr(2)), "2*T+1");
  EXPECT_EQ(table_.ToString(T + P), "P+T");
  EXPECT_EQ(table_.ToString(T * P - T), "P*T-T");
  EXPECT_EQ(table_.ToString(DimExpr(-3) - T), "-T-3");
  EXPECT_EQ(table_.ToString(DimExpr(0)), "0");
  EXPECT_EQ(table_.ToString(DimExpr::Poison()), "<overflow>");
}

TEST_F(DimsTest, OverflowPoisonsForGood) {
  const DimExpr big = kMax;
  EXPECT_TRUE((big + DimExpr(1)).poisoned());
  EXPECT_TRUE((big * DimExpr(2)).poisoned());
  EXPECT_TRUE((big * T * DimExpr(2) - T).poisoned());
  EXPECT_TRUE(DimExpr(kMin).poisoned());
  EXPECT_FALSE((DimExpr(0) - big).poisoned());
  EXPECT_TRUE((DimExpr::Poison() * DimExpr(0)).poisoned());
  EXPECT_FALSE(DimExpr::Poison().is_const());
  DimExpr power = 1;
  for (int i = 0; i < 9; ++i) power = power * T;
  EXPECT_TRUE(power.poisoned()) << "degree";
  EXPECT_FALSE(DimExpr::Poison().Evaluate({}).ok());
}

TEST_F(DimsTest, Evaluate) {
  IdMap<DimId, int64_t> values;
  values.Resize(2);
  values[t_] = 3, values[p_] = 10;
  EXPECT_EQ(*(P * T + T - DimExpr(4)).Evaluate(values), 29);
  values[p_] = kMax;
  EXPECT_FALSE((P + T).Evaluate(values).ok());
  values[p_] = -1;
  EXPECT_FALSE((P + T).Evaluate(values).ok()) << "unbound";
  EXPECT_EQ(*(T * T).Evaluate(values), 9);
}

TEST_F(DimsTest, SubstituteKeepsSymbolsOutsideTheMap) {
  IdMap<DimId, DimExpr> by;
  by.Add(DimExpr(1));  // T
  EXPECT_EQ((P * T + T).Substitute(by), P + DimExpr(1));
  EXPECT_EQ((P + T).Substitute({}), P + T);
}

TEST_F(DimsTest, DivideExactly) {
  EXPECT_EQ((DimExpr(6) * T * P).DivideExactly(DimExpr(2) * T), DimExpr(3) * P);
  EXPECT_EQ((DimExpr(64) * T + DimExpr(32)).DivideExactly(32), DimExpr(2) * T + DimExpr(1));
  EXPECT_EQ((P + T).DivideExactly(P + T), DimExpr(1));
  EXPECT_TRUE((P + T).DivideExactly(T).poisoned());
  EXPECT_TRUE(DimExpr(5).DivideExactly(2).poisoned());
  EXPECT_TRUE(DimExpr(5).DivideExactly(0).poisoned());
  EXPECT_EQ(DimExpr(0).DivideExactly(4), DimExpr(0));
}

TEST_F(DimsTest, RangesOfExpressions) {
  EXPECT_EQ(table_.Max(T * DimExpr(3) + DimExpr(1)), 1537);
  EXPECT_EQ(table_.Min(T * DimExpr(3) + DimExpr(1)), 4);
  EXPECT_EQ(table_.Max(P - T), 4094);
  EXPECT_EQ(table_.Min(P - T), -512);
  EXPECT_EQ(table_.Max(P * T), 4095 * 512);
  EXPECT_EQ(table_.Max(P + T), 4607);
  EXPECT_EQ(table_.Max(DimExpr::Poison()), kMax);
  EXPECT_EQ(table_.Min(DimExpr::Poison()), kMin);
}

TEST_F(DimsTest, JointBoundsTighten) {
  table_.AddBound({P + T, 4096});
  EXPECT_EQ(table_.Max(P + T), 4096);
  EXPECT_EQ(table_.Max(P + T + T), 4608);
  EXPECT_EQ(table_.Max(DimExpr(64) * (P + T)), 64 * 4096);
  EXPECT_EQ(table_.Max(P + T - DimExpr(4096)), 0);
  EXPECT_EQ(table_.Min(DimExpr(4096) - P - T), 0);
  EXPECT_EQ(table_.Max(T), 512);
}

TEST_F(DimsTest, RangesSaturate) {
  const DimExpr huge = DimExpr::Symbol(*table_.Add({"H", 1, kMax}));
  EXPECT_EQ(table_.Max(huge * huge * huge), kMax);
  EXPECT_EQ(table_.Max(huge * huge - T), kMax);
  EXPECT_EQ(table_.Min(T - huge * huge), kMin);
  EXPECT_EQ(table_.Max(T - huge * huge), 511);
}

TEST_F(DimsTest, TableRefusesLies) {
  EXPECT_THAT(table_.Add({"T", 1, 2}).status().message(), HasSubstr("twice"));
  EXPECT_FALSE(table_.Add({"A", -1, 2}).ok());
  EXPECT_FALSE(table_.Add({"A", 3, 2}).ok());
  EXPECT_EQ(table_.Find("P"), p_);
  EXPECT_FALSE(table_.Find("A").valid());
}

TEST_F(DimsTest, TypesHaveSizes) {
  table_.AddBound({P + T, 4096});
  EXPECT_EQ(ToString(Type{DType::kF32, {12, T, P + T}}, table_), "f32[12,T,P+T]");
  EXPECT_EQ(ToString(Type{DType::kF16, {2, 4}, true}, table_), "state<f16[2,4]>");
  EXPECT_EQ(*MaxElems({DType::kF32, {12, P + T, 64}}, table_), 12 * 4096 * 64);
  EXPECT_EQ(*MaxBytes({DType::kQ8_0, {T, 64}}, table_), 512 * 68);
  EXPECT_EQ(*MaxBytes({DType::kF16, {2, 3, T - T}}, table_), 0);
  EXPECT_THAT(MaxElems({DType::kF32, {T - DimExpr(2)}}, table_).status().message(), HasSubstr("negative"));
  EXPECT_THAT(MaxElems({DType::kQ4_0, {32, T}}, table_).status().message(), HasSubstr("block"));
  EXPECT_TRUE(MaxElems({DType::kQ4_0, {T, DimExpr(32) * T}}, table_).ok());
  EXPECT_THAT(MaxElems({DType::kF32, {int64_t{1} << 40, int64_t{1} << 40}}, table_).status().message(),
              HasSubstr("the limit \"tensor"));
  EXPECT_THAT(MaxBytes({DType::kF64, {int64_t{1} << 61}}, table_).status().message(),
              HasSubstr("too many bytes: the limit \"tensor"));
  EXPECT_EQ(*MaxElems({DType::kF32, {int64_t{1} << 40, int64_t{1} << 40, 0}}, table_), 0);
  EXPECT_FALSE(MaxElems({DType::kF32, {DimExpr::Poison()}}, table_).ok());
}

TEST_F(DimsTest, BroadcastAlignsAtTheLastAxis) {
  EXPECT_EQ(*Broadcast({4, T, 8}, {8}, table_), (Dims{4, T, 8}));
  EXPECT_EQ(*Broadcast({T, 1}, {3, 1, 8}, table_), (Dims{3, T, 8}));
  EXPECT_FALSE(Broadcast({T}, {P}, table_).ok());
  EXPECT_FALSE(Broadcast({T, 8}, {T}, table_).ok());
}

class GraphTest : public ::testing::Test {
 protected:
  GraphTest() { module_.dims.AddBound({T, 100}); }
  Module module_{"m"};
  DimExpr T = DimExpr::Symbol(*module_.dims.Add({"T", 1, 512}));
  Graph& graph_ = module_.AddGraph("main");
  ValueId x_ = graph_.AddParam("x", {DType::kF32, {T, 8}});
};

TEST_F(GraphTest, AddInfersNamesAndRecordsUses) {
  const ValueId a = *graph_.Add(ops::Add{.a = x_, .b = x_});
  const ValueId b = *graph_.Add(ops::Neg{.x = a}, {.names = {"x"}});
  const ValueId c = *graph_.Add(ops::Neg{.x = a});
  graph_.SetResults({b, b});
  EXPECT_EQ(graph_.value(a).name, "v0");
  EXPECT_EQ(graph_.value(b).name, "x_1");
  EXPECT_EQ(graph_.value(c).name, "v1");
  EXPECT_EQ(graph_.type(a), (Type{DType::kF32, {T, 8}}));
  const OpId add = graph_.value(a).def;
  EXPECT_THAT(graph_.value(x_).uses, ElementsAre(Use{add, 0}, Use{add, 1}));
  EXPECT_EQ(graph_.UseCount(a), 2);
  EXPECT_EQ(graph_.UseCount(b), 2);
  EXPECT_TRUE(graph_.IsResult(b));
  EXPECT_FALSE(graph_.IsResult(c));
  EXPECT_EQ(graph_.DefAs<ops::Neg>(c)->x, a);
  EXPECT_EQ(graph_.DefAs<ops::Exp>(c), std::nullopt);
  EXPECT_EQ(graph_.DefAs<ops::Exp>(x_), std::nullopt);
}

TEST_F(GraphTest, AddBefore) {
  const ValueId a = *graph_.Add(ops::Neg{.x = x_});
  const OpId neg = graph_.value(a).def;
  const ValueId b = *graph_.Add(ops::Exp{.x = x_}, {.before = neg});
  EXPECT_THAT(graph_.order(), ElementsAre(graph_.value(b).def, neg));
}

// Whoever builds or rewrites a graph may hold on to what it was told of a value.
TEST_F(GraphTest, WhatIsKnownOfValuesStaysWhereItIs) {
  const ValueId a = *graph_.Add(ops::Neg{.x = x_});
  const ValueData* const value = &graph_.value(a);
  const OpData* const op = &graph_.op(value->def);
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(graph_.Add(ops::Exp{.x = a}).ok());
  EXPECT_EQ(&graph_.value(a), value);
  EXPECT_EQ(&graph_.op(value->def), op);
  EXPECT_EQ(value->uses.size(), 1000u);
}

TEST_F(GraphTest, RefusedOpsLeaveNoTrace) {
  EXPECT_FALSE(graph_.Add(ops::Sum{.x = x_, .axis = 5}).ok());
  EXPECT_EQ(graph_.num_ops(), 0u);
  EXPECT_EQ(graph_.num_values(), 1u);
  EXPECT_THAT(graph_.value(x_).uses, IsEmpty());
}

TEST_F(GraphTest, ReplaceUsesAndErase) {
  const ValueId a = *graph_.Add(ops::Neg{.x = x_}, {.names = {"a"}});
  const ValueId b = *graph_.Add(ops::Mul{.a = a, .b = a});
  graph_.SetResults({b, a});
  graph_.ReplaceUses(a, x_);
  EXPECT_THAT(graph_.value(a).uses, IsEmpty());
  EXPECT_THAT(graph_.results(), ElementsAre(b, x_));
  EXPECT_EQ(graph_.value(x_).uses.size(), 3u);
  EXPECT_EQ(graph_.DefAs<ops::Mul>(b)->b, x_);
  const OpId neg = graph_.value(a).def;
  graph_.Erase(neg);
  EXPECT_TRUE(graph_.op(neg).erased);
  EXPECT_EQ(graph_.value(x_).uses.size(), 2u);
  EXPECT_EQ(graph_.order().size(), 1u);
  // The name is free again.
  EXPECT_EQ(graph_.value(*graph_.Add(ops::Exp{.x = x_}, {.names = {"a"}})).name, "a");
}

TEST_F(GraphTest, RenameAndSetAttrs) {
  const ValueId a = *graph_.Add(ops::Gelu{.x = x_}, {.names = {"a"}});
  graph_.Rename(a, "x");
  EXPECT_EQ(graph_.value(a).name, "x_1");
  auto gelu = *graph_.DefAs<ops::Gelu>(a);
  EXPECT_EQ(gelu.form, "tanh");
  gelu.form = "erf";
  graph_.SetAttrs(gelu, graph_.value(a).def);
  EXPECT_EQ(graph_.DefAs<ops::Gelu>(a)->form, "erf");
}

TEST_F(GraphTest, AbsentOptionalOperands) {
  const ValueId s = *graph_.Add(ops::Softmax{.x = x_, .scale = 0.5});
  EXPECT_EQ(graph_.op(graph_.value(s).def).fields.operands.size(), 1u);
  const auto softmax = *graph_.DefAs<ops::Softmax>(s);
  EXPECT_FALSE(softmax.mask.valid());
  EXPECT_EQ(softmax.scale, 0.5);
}

TEST_F(GraphTest, GraphNamesAreUniqueAndEntriesAreNotNamed) {
  Graph& second = module_.AddGraph("main");
  EXPECT_EQ(second.name(), "main_1");
  const ValueId y = second.AddParam("y", {DType::kF32, {T, 8}});
  second.SetResults({*second.Add(ops::Neg{.x = y})});
  ASSERT_TRUE(graph_.Add(ops::Kernel{.body = {second.id()}, .args = {x_}, .family = "map"}).ok());
  EXPECT_THAT(module_.entries(), ElementsAre(graph_.id()));
  EXPECT_EQ(module_.FindGraph("main_1"), &second);
  EXPECT_EQ(module_.FindGraph("nobody"), nullptr);
}

// A graph that calls a body with T in its types and one without.
class CloneTest : public GraphTest {
 protected:
  CloneTest() {
    Graph& neg = module_.AddGraph("neg");
    neg.SetResults({*neg.Add(ops::Neg{.x = neg.AddParam("y", {DType::kF32, {T, 8}})})});
    Graph& dot = module_.AddGraph("dot");
    const ValueId a = dot.AddParam("a", {DType::kF32, {8}}), b = dot.AddParam("b", {DType::kF32, {8}});
    dot.SetResults({*dot.Add(ops::Sum{.x = *dot.Add(ops::Mul{.a = a, .b = b})})});
    const ValueId n =
        *graph_.Add(ops::Kernel{.body = {neg.id()}, .args = {x_}, .family = "map"}, {.names = {"n"}, .loc = "here"});
    const ValueId s =
        *graph_.Add(ops::Loop{.body = {dot.id()}, .args = {n, x_}, .over = "i j", .slices = {"i .", "j ."}});
    graph_.SetResults({s});
    graph_.SetAddress(s, {Space::kOutput, 3});
    neg_ = neg.id(), dot_ = dot.id();
  }
  GraphId neg_, dot_;
};

TEST_F(CloneTest, ModuleCloneIsDeepAndEqual) {
  const uint64_t hash = HashGraph(graph_);
  const std::unique_ptr<Module> clone = module_.Clone();
  EXPECT_EQ(clone->graphs(), module_.graphs());
  EXPECT_EQ(HashGraph(clone->graph(graph_.id())), hash);
  EXPECT_EQ(&clone->graph(graph_.id()).module(), clone.get());
  ASSERT_TRUE(graph_.Add(ops::Exp{.x = x_}).ok());
  EXPECT_NE(HashGraph(graph_), hash);
  EXPECT_EQ(HashGraph(clone->graph(graph_.id())), hash);
}

TEST_F(CloneTest, CloneGraphSharesBodiesThatStayAsTheyAre) {
  const GraphId copy = *CloneGraph(graph_, module_, "copy", {});
  EXPECT_EQ(module_.graphs().size(), 4u);
  EXPECT_EQ(HashGraph(module_.graph(copy)), HashGraph(graph_));
  EXPECT_EQ(module_.graph(copy).name(), "copy");
}

TEST_F(CloneTest, CloneGraphSubstitutesInTypesAndBodies) {
  IdMap<DimId, DimExpr> by;
  by.Add(DimExpr(1));
  const GraphId copy = *CloneGraph(graph_, module_, "main_t1", by);
  EXPECT_EQ(module_.graphs().size(), 5u);  // neg_1, which mentions T, beside the shared dot
  const Graph& one = module_.graph(copy);
  EXPECT_EQ(one.type(one.params()[0]), (Type{DType::kF32, {1, 8}}));
  EXPECT_EQ(one.type(one.results()[0]), (Type{DType::kF32, {1, 1}}));
  EXPECT_EQ(one.value(one.results()[0]).address, (Address{Space::kOutput, 3}));
  const OpId kernel = one.order()[0];
  EXPECT_EQ(one.op(kernel).loc, "here");
  EXPECT_EQ(one.value(one.op(kernel).results[0]).name, "n");
  const GraphId body = one.As<ops::Kernel>(kernel)->body.id;
  EXPECT_NE(body, neg_);
  EXPECT_EQ(module_.graph(body).name(), "neg_1");
  EXPECT_EQ(one.As<ops::Loop>(one.order()[1])->body.id, dot_);
}

TEST_F(CloneTest, FailedCloneLeavesNothing) {
  IdMap<DimId, DimExpr> by;
  by.Add(DimExpr::Poison());
  EXPECT_FALSE(CloneGraph(graph_, module_, "bad", by).ok());
  EXPECT_EQ(module_.graphs().size(), 3u);
}

TEST_F(CloneTest, CloneGraphIntoAnotherModule) {
  Module other("other");
  other.dims = module_.dims;
  const GraphId copy = *CloneGraph(graph_, other, "main", {});
  EXPECT_EQ(other.graphs().size(), 3u);
  EXPECT_EQ(HashGraph(other.graph(copy)), HashGraph(graph_));
  EXPECT_EQ(other.entries().size(), 1u);
}

TEST_F(GraphTest, EraseOfManyIsEraseOfEach) {
  Graph& graph = module_.AddGraph("many");
  const ValueId x = graph.AddParam("x", {DType::kF32, {8}});
  const ValueId a = *graph.Add(ops::Mul{.a = x, .b = x}), b = *graph.Add(ops::Exp{.x = x}, {.names = {"b"}});
  const ValueId c = *graph.Add(ops::Add{.a = a, .b = x});
  graph.Erase({graph.value(c).def, graph.value(a).def});
  EXPECT_THAT(graph.order(), ElementsAre(graph.value(b).def));
  EXPECT_THAT(graph.value(x).uses, ElementsAre(Use{graph.value(b).def, 0}));
  graph.Erase(graph.value(b).def);
  EXPECT_THAT(graph.order(), IsEmpty());
  const ValueId anew = *graph.Add(ops::Exp{.x = x}, {.names = {"b"}});
  EXPECT_EQ(graph.value(anew).name, "b");
}

TEST_F(GraphTest, ConsumedOperandsFollowKernelBodies) {
  const Type cache{DType::kF32, {2, 1, 16, 8}, true}, row{DType::kF32, {1, 1, T, 8}}, pos{DType::kI32, {T}};
  Graph& body = module_.AddGraph("append");
  const ValueId k = body.AddParam("k", row), p = body.AddParam("p", pos), c = body.AddParam("c", cache);
  const ValueId c1 = *body.Add(ops::KvAppend{.cache = c, .k = k, .v = k, .pos = p});
  const ValueId c2 = *body.Add(ops::KvAppend{.cache = c1, .k = k, .v = k, .pos = p});
  body.SetResults({*body.Add(ops::Neg{.x = k}), c2});
  const ValueId gk = graph_.AddParam("k", row), gp = graph_.AddParam("p", pos), gc = graph_.AddParam("c", cache);
  const ValueId kernel = *graph_.Add(ops::Kernel{.body = {body.id()}, .args = {gk, gp, gc}, .family = "move"});
  EXPECT_THAT(ConsumedOperands(body, body.value(c2).def), ElementsAre(0));
  EXPECT_THAT(ConsumedOperands(graph_, graph_.value(kernel).def), ElementsAre(2));
  EXPECT_THAT(ConsumedOperands(body, body.value(body.results()[0]).def), IsEmpty());
}

TEST_F(CloneTest, HashesSeeMeaningAndNotNames) {
  const uint64_t hash = HashGraph(graph_);
  graph_.Rename(graph_.results()[0], "other");
  EXPECT_EQ(HashGraph(graph_), hash);
  auto loop = *graph_.DefAs<ops::Loop>(graph_.results()[0]);
  loop.over = "j i";
  graph_.SetAttrs(loop, graph_.order()[1]);
  EXPECT_NE(HashGraph(graph_), hash);
}

TEST_F(CloneTest, HashesFollowBodies) {
  const uint64_t hash = HashGraph(graph_);
  Graph& dot = module_.graph(dot_);
  auto sum = *dot.DefAs<ops::Sum>(dot.results()[0]);
  sum.axis = 0;
  dot.SetAttrs(sum, dot.value(dot.results()[0]).def);
  EXPECT_NE(HashGraph(graph_), hash);
}

TEST(OpsTest, TableAnswers) {
  EXPECT_EQ(ParseOpKind("rms_norm"), OpKind::kRmsNorm);
  EXPECT_EQ(ParseOpKind("conv"), std::nullopt);
  for (const OpDef& def : AllOps()) {
    EXPECT_EQ(&Def(def.kind), &def);
    EXPECT_EQ(ParseOpKind(def.name), def.kind);
  }
  const OpDef& loop = Def(OpKind::kLoop);
  EXPECT_TRUE(loop.operands[0].list);
  EXPECT_TRUE(loop.attrs[0].positional);
  EXPECT_EQ(AttrTypeName(loop.attrs[2].default_value), "a list of strings");
  EXPECT_TRUE(Def(OpKind::kSoftmax).operands[1].optional);
  EXPECT_TRUE(Def(OpKind::kAdd).Has(kCommutative));
  EXPECT_EQ(Def(OpKind::kKernel).results, -1);
}

TEST(OpsTest, MarkdownHasEveryOp) {
  const std::string text = OpsMarkdown();
  for (const OpDef& def : AllOps()) EXPECT_THAT(text, HasSubstr("\n## " + std::string(def.name) + "\n"));
  EXPECT_THAT(text, HasSubstr("`softmax %x, %mask?`"));
  EXPECT_THAT(text, HasSubstr("- `scale`: a number, default `1`"));
  EXPECT_THAT(text, HasSubstr("`loop <body>, %args...`"));
}

}  // namespace
}  // namespace sinter
