// Every promise of ir/verifier.h: a module that keeps it, and one that breaks it.
#include "ir/verifier.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "ir/graph.h"

namespace sinter {
namespace {

using ::testing::HasSubstr;

class VerifierTest : public ::testing::Test {
 protected:
  VerifierTest() { module_.dims.AddBound({T, 100}); }

  void ExpectOk() { EXPECT_EQ(Verify(module_), absl::OkStatus()); }
  void ExpectProblem(absl::string_view text) {
    const absl::Status status = Verify(module_);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(text)));
  }
  // A body `name`(y: f32[T,8]) that negates.
  Graph& Negate(std::string name) {
    Graph& body = module_.AddGraph(std::move(name));
    body.SetResults({*body.Add(ops::Neg{.x = body.AddParam("y", rows_)})});
    return body;
  }

  Module module_{"m"};
  DimExpr T = DimExpr::Symbol(*module_.dims.Add({"T", 1, 512}));
  const Type rows_{DType::kF32, {T, 8}};
  const Type cache_{DType::kF32, {2, 1, 128, 8}, true};
  Graph& graph_ = module_.AddGraph("main");
  ValueId x_ = graph_.AddParam("x", rows_);
};

TEST_F(VerifierTest, UseBeforeDefinition) {
  const ValueId a = *graph_.Add(ops::Neg{.x = x_}, {.names = {"a"}});
  const ValueId b = *graph_.Add(ops::Exp{.x = a}, {.names = {"b"}});
  graph_.SetResults({b});
  ExpectOk();
  const ValueId c = *graph_.Add(ops::Tanh{.x = b}, {.names = {"c"}, .before = graph_.value(a).def});
  ExpectProblem("graph @main: [order] %b is used before it is defined\n    %c = tanh %b");
  graph_.Erase(graph_.value(c).def);
  ExpectOk();
}

TEST_F(VerifierTest, CaretStandsUnderTheMnemonic) {
  const ValueId a = *graph_.Add(ops::Neg{.x = x_}, {.names = {"abc"}});
  const std::string message(ErrorAt(graph_, graph_.value(a).def, "[label] text").message());
  const std::vector<std::string> lines = absl::StrSplit(message, '\n');
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0], "graph @main: [label] text");
  EXPECT_EQ(lines[1].find("    %abc = neg %x"), 0u);
  EXPECT_EQ(lines[2].find('^'), lines[1].find("neg"));
}

TEST_F(VerifierTest, InferIsAskedAgain) {
  const ValueId s = *graph_.Add(ops::Sum{.x = x_, .axis = 1});
  graph_.SetResults({s});
  ExpectOk();
  graph_.SetAttrs(ops::Sum{.axis = 7}, graph_.value(s).def);
  ExpectProblem("[sum-c1]");
  graph_.SetAttrs(ops::Sum{.axis = 0}, graph_.value(s).def);
  ExpectProblem("[result-type]");
}

TEST_F(VerifierTest, AllProblemsAreTold) {
  const ValueId s = *graph_.Add(ops::Sum{.x = x_, .axis = 1}), m = *graph_.Add(ops::Max{.x = x_, .axis = 1});
  graph_.SetResults({s, m});
  graph_.SetAttrs(ops::Sum{.axis = 7}, graph_.value(s).def);
  graph_.SetAttrs(ops::Max{.axis = 7}, graph_.value(m).def);
  ExpectProblem("[sum-c1]");
  ExpectProblem("[max-c1]");
}

TEST_F(VerifierTest, ReplacedUsesOfAnotherType) {
  const ValueId y = graph_.AddParam("y", {DType::kF32, {8, T}});
  const ValueId a = *graph_.Add(ops::Add{.a = x_, .b = x_});
  graph_.SetResults({a});
  ExpectOk();
  graph_.ReplaceUses(x_, y);
  ExpectProblem("[result-type]");
}

TEST_F(VerifierTest, ReturnedValuesAreAlive) {
  const ValueId a = *graph_.Add(ops::Neg{.x = x_});
  graph_.SetResults({a});
  ExpectOk();
  graph_.Erase(graph_.value(a).def);
  ExpectProblem("[results]");
  graph_.SetResults({ValueId{99}});
  ExpectProblem("[results]");
}

TEST_F(VerifierTest, ParameterTypes) {
  const ValueId x = graph_.AddParam("q", {DType::kQ8_0, {T, 64}});
  graph_.SetResults({x});
  ExpectOk();
  graph_.AddParam("huge", {DType::kF32, {int64_t{1} << 40, int64_t{1} << 40}});
  ExpectProblem("%huge");
}

TEST_F(VerifierTest, ParameterRanks) {
  graph_.AddParam("flat", {DType::kF32, {}});
  ExpectProblem("[type] expected 1 to 8 axes; found %flat: f32[]");
}

TEST_F(VerifierTest, BoundsCanHold) {
  ExpectOk();
  module_.dims.AddBound({T, 0});
  ExpectProblem("[bound] T <= 0 can never hold");
}

TEST_F(VerifierTest, PoisonedBounds) {
  module_.dims.AddBound({DimExpr::Poison(), 5});
  ExpectProblem("[bound]");
}

TEST_F(VerifierTest, StagesOfOps) {
  Graph& body = Negate("body");
  const ValueId k = *graph_.Add(ops::Kernel{.body = {body.id()}, .args = {x_}, .family = "map"});
  graph_.SetResults({k});
  ExpectProblem("[stage] kernel is not legal in an entry of the stage graph");
  module_.stage = Stage::kKernels;
  ExpectOk();
  graph_.SetResults({*graph_.Add(ops::Exp{.x = k})});
  ExpectProblem("[stage] exp is not legal in an entry of the stage kernels");
}

TEST_F(VerifierTest, BodiesHoldKernelsOrOtherOps) {
  Graph& inner = Negate("inner");
  Graph& outer = module_.AddGraph("outer");
  const ValueId y = outer.AddParam("y", rows_);
  const ValueId z = *outer.Add(ops::Kernel{.body = {inner.id()}, .args = {y}, .family = "map"});
  outer.SetResults({z});
  module_.stage = Stage::kKernels;
  ExpectOk();
  graph_.SetResults({*graph_.Add(ops::Kernel{.body = {outer.id()}, .args = {x_}, .family = "group"})});
  ExpectOk();
  outer.SetResults({*outer.Add(ops::Neg{z})});
  ExpectProblem("[stage] kernel is not legal in a body");
}

TEST_F(VerifierTest, RecursionDirectly) {
  module_.stage = Stage::kKernels;
  ASSERT_TRUE(graph_.Add(ops::Kernel{.body = {graph_.id()}, .args = {x_}, .family = "map"}).ok());
  ExpectProblem("graph @main: [recursion]");
}

TEST_F(VerifierTest, RecursionRoundAbout) {
  module_.stage = Stage::kKernels;
  Graph& other = module_.AddGraph("other");
  const ValueId y = other.AddParam("y", rows_);
  ASSERT_TRUE(other.Add(ops::Kernel{.body = {graph_.id()}, .args = {y}, .family = "map"}).ok());
  ASSERT_TRUE(graph_.Add(ops::Kernel{.body = {other.id()}, .args = {x_}, .family = "map"}).ok());
  ExpectProblem("[recursion]");
}

TEST_F(VerifierTest, NestingIsBounded) {
  module_.stage = Stage::kKernels;
  GraphId inner = Negate("g").id();
  for (int i = 0; i < 10000; ++i) {
    Graph& outer = module_.AddGraph(absl::StrCat("h", i));
    const ValueId y = outer.AddParam("y", rows_);
    ASSERT_TRUE(outer.Add(ops::Kernel{.body = {inner}, .args = {y}, .family = "map"}).ok());
    inner = outer.id();
  }
  ExpectProblem("[nesting]");
}

TEST_F(VerifierTest, ErasedBodies) {
  module_.stage = Stage::kKernels;
  Graph& body = Negate("body");
  graph_.SetResults({*graph_.Add(ops::Kernel{.body = {body.id()}, .args = {x_}, .family = "map"})});
  ExpectOk();
  module_.EraseGraph(body.id());
  ExpectProblem("[body] op kernel names a graph that was erased");
}

TEST_F(VerifierTest, OperandsOfSources) {
  const Type table{DType::kF32, {16, 8}};
  const ValueId weight = *graph_.Add(ops::Weight{.name = "f"}, {.declared = {{DType::kF32, {2}}}});
  graph_.SetResults({*graph_.Add(ops::RopeTable{.factors = weight}, {.declared = {table}})});
  ExpectOk();
  const ValueId param = graph_.AddParam("f", {DType::kF32, {2}});
  graph_.SetResults({*graph_.Add(ops::RopeTable{.factors = param}, {.declared = {table}})});
  ExpectProblem("[source] expected a weight or a constant; found %f");
}

class StateTest : public VerifierTest {
 protected:
  ValueId Append(ValueId cache, std::string name) {
    return *graph_.Add(ops::KvAppend{.cache = cache, .k = k_, .v = k_, .pos = pos_}, {.names = {std::move(name)}});
  }
  ValueId k_ = graph_.AddParam("k", {DType::kF32, {1, 1, T, 8}});
  ValueId pos_ = graph_.AddParam("pos", {DType::kI32, {T}});
  ValueId c_ = graph_.AddParam("c", cache_);
};

TEST_F(StateTest, ChainsOfVersions) {
  const ValueId c1 = Append(c_, "c1"), c2 = Append(c1, "c2");
  graph_.SetResults({c2});
  ExpectOk();
}

TEST_F(StateTest, ReadOnlyStatesNeedNotBeReturned) {
  graph_.SetResults({*graph_.Add(ops::KvView{.cache = c_, .len = T})});
  ExpectOk();
}

TEST_F(StateTest, ConsumedTwice) {
  const ValueId c1 = Append(c_, "c1"), c2 = Append(c_, "c2");
  graph_.SetResults({c1, c2});
  ExpectProblem("[state-twice] %c is consumed a second time\n    %c2 = kv_append %c");
}

TEST_F(StateTest, ConsumedAndReturned) {
  const ValueId c1 = Append(c_, "c1");
  graph_.SetResults({c1, c_});
  ExpectProblem("[state-twice] %c is returned and consumed");
  graph_.SetResults({c1, c1});
  ExpectProblem("[state-twice] %c1");
}

TEST_F(StateTest, LastVersionLost) {
  Append(c_, "c1");
  ExpectProblem("[state-lost] %c1");
}

TEST_F(StateTest, ReadAfterConsumption) {
  const ValueId view = *graph_.Add(ops::KvView{.cache = c_, .len = T});
  const ValueId read = *graph_.Add(ops::Neg{.x = view});
  const ValueId c1 = Append(c_, "c1");
  graph_.SetResults({read, c1});
  ExpectOk();
  const ValueId late = *graph_.Add(ops::KvView{.cache = c_, .len = T});
  graph_.SetResults({read, c1, *graph_.Add(ops::Neg{.x = late})});
  ExpectProblem("[state-stale] reads %c after %c was overwritten");
}

TEST_F(StateTest, ReadThroughViewsAfterConsumption) {
  const ValueId view = *graph_.Add(ops::KvView{.cache = c_, .len = T}, {.names = {"K", "V"}});
  const ValueId slice = *graph_.Add(ops::Slice{.x = view, .axis = 2, .first = 0, .len = 4}, {.names = {"part"}});
  const ValueId c1 = Append(c_, "c1");
  graph_.SetResults({c1});
  ExpectOk();
  const ValueId late = *graph_.Add(ops::Neg{.x = slice});
  graph_.SetResults({c1, late});
  ExpectProblem("[state-stale] reads %part after %c was overwritten");
  graph_.Erase(graph_.value(late).def);
  graph_.SetResults({c1, slice});
  ExpectProblem("[state-stale] returns %part, a view of %c");
}

TEST_F(StateTest, KernelsConsumeWhatTheirBodiesConsume) {
  Graph& body = module_.AddGraph("append");
  const ValueId k = body.AddParam("k", graph_.type(k_)), pos = body.AddParam("pos", graph_.type(pos_));
  const ValueId c = body.AddParam("c", cache_);
  body.SetResults({*body.Add(ops::KvAppend{.cache = c, .k = k, .v = k, .pos = pos})});
  module_.stage = Stage::kKernels;
  const ops::Kernel kernel{.body = {body.id()}, .args = {k_, pos_, c_}, .family = "move"};
  const ValueId c1 = *graph_.Add(kernel, {.names = {"c1"}});
  graph_.SetResults({c1});
  ExpectOk();
  const ValueId c2 = *graph_.Add(kernel, {.names = {"c2"}});
  graph_.SetResults({c1, c2});
  ExpectProblem("[state-twice] %c is consumed a second time\n    %c2 = kernel");
}

TEST_F(StateTest, StateOutOfNothing) {
  Graph& body = module_.AddGraph("swap");
  const ValueId a = body.AddParam("a", cache_);
  body.SetResults({a, a});
  ExpectProblem("[state-twice] %a");
}

TEST_F(VerifierTest, PlannedEntriesHaveAddresses) {
  module_.stage = Stage::kPlanned;
  Graph& body = Negate("body");
  const ValueId k = *graph_.Add(ops::Kernel{.body = {body.id()}, .args = {x_}, .family = "map"}, {.names = {"k"}});
  graph_.SetResults({k});
  graph_.SetAddress(x_, {Space::kInput, 0});
  ExpectProblem("[address] expected an address of %k; found none");
  graph_.SetAddress(k, {Space::kOutput, -1});
  ExpectProblem("[address]");
  graph_.SetAddress(k, {Space::kOutput, 0});
  ExpectOk();
}

}  // namespace
}  // namespace sinter
