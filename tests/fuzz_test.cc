// The fuzzer finds what is wrong: passes that were made wrong on purpose, a crash among them, are caught within 2,000
// graphs and shrunk to a few ops, and what it writes replays.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>

#include "absl/strings/match.h"
#include "ir/text.h"
#include "ir/verifier.h"
#include "tests/fuzzer.h"
#include "tests/shrink.h"

namespace sinter {
namespace {

constexpr int64_t kGraphs = 2000;

// A rule with a wrong sign: -(x - y) is y - x.
std::vector<Rule> SwapSub() {
  return {{"swap-sub", R"(
      %d = sub %x, %y
      %n = neg %d
    =>
      %n = sub %x, %y
    )"}};
}

absl::StatusOr<bool> RunRules(std::vector<Rule> rules, Module& module, PassContext& context) {
  std::vector<ParsedRule> parsed;
  for (const Rule& rule : rules) parsed.push_back(*ParseRule(rule));
  return ApplyRules(parsed, module, context.rule_counts);
}

absl::StatusOr<bool> ApplySwapSub(Module& module, PassContext& context) { return RunRules(SwapSub(), module, context); }

// Each pass below does something to the first op of a kind that it finds.
OpId FindOp(const Graph& graph, OpKind kind) {
  for (OpId op : graph.order()) {
    if (graph.op(op).kind() == kind) return op;
  }
  return OpId::None();
}

// Forgets beta.
absl::StatusOr<bool> DropBeta(Module& module, PassContext&) {
  bool changed = false;
  for (GraphId id : module.entries()) {
    Graph& graph = module.graph(id);
    const OpId op = FindOp(graph, OpKind::kLayerNorm);
    if (!op.valid() || graph.op(op).fields.operands.size() < 3) continue;
    OpFields fields = graph.op(op).fields;
    fields.operands.resize(2);
    AddOptions options;
    options.before = op;
    graph.ReplaceUses(graph.op(op).results[0], graph.op(*graph.AddFields(fields, std::move(options))).results[0]);
    graph.Erase(op);
    changed = true;
  }
  return changed;
}

// Says that it changed something, and did not.
absl::StatusOr<bool> Boast(Module& module, PassContext&) {
  return FindOp(*module.FindGraph("main"), OpKind::kTanh).valid();
}

absl::StatusOr<bool> Crash(Module& module, PassContext&) {
  if (FindOp(*module.FindGraph("main"), OpKind::kErf).valid()) std::raise(SIGKILL);
  return false;
}

struct Wrong {
  const char* name;
  PassFunction run;
  std::vector<Rule> (*rules)();
  size_t most_ops;    // that remain
  const char* where;  // what the failure is called
};

void PrintTo(const Wrong& wrong, std::ostream* out) { *out << wrong.name; }

class WrongPassTest : public testing::TestWithParam<Wrong> {};

TEST_P(WrongPassTest, IsCaughtAndShrunk) {
  const Wrong& wrong = GetParam();
  const PassInfo pass{wrong.name, wrong.run, Stage::kGraph, Stage::kGraph, "Wrong on purpose.", wrong.rules};
  FuzzOptions options{.seed = 3, .graphs = kGraphs, .code_every = 0};
  for (const PassInfo& known : AllPasses()) options.passes.push_back(&known);
  options.passes.push_back(&pass);
  options.targets = {*NativeTarget()};
  auto fuzzer = Fuzzer::Create(options);
  ASSERT_TRUE(fuzzer.ok()) << fuzzer.status();
  auto failure = (*fuzzer)->Run(0);
  ASSERT_TRUE(failure.ok()) << failure.status();
  ASSERT_TRUE(failure->has_value()) << "not caught within " << kGraphs << " graphs";
  EXPECT_EQ((*failure)->outcome.where, wrong.where) << (*failure)->outcome.message;
  const FuzzInput small = Shrink(std::move((*failure)->input), (*failure)->outcome, TryInputApart);
  const Graph& graph = *small.module->FindGraph("main");
  EXPECT_LE(graph.order().size(), wrong.most_ops) << Print(*small.module);
  EXPECT_EQ(PassesText(small.plan), wrong.name) << Print(*small.module);
  EXPECT_EQ((*failure)->outcome.where, wrong.where);
  // What is written is what failed.
  const std::string text = ReproText(small, (*failure)->outcome, "repro.sir");
  EXPECT_TRUE(absl::StartsWith(text, "// RUN: graph_fuzz --replay=repro.sir --passes=")) << text;
  const auto parsed = Parse(text, "repro.sir");
  ASSERT_TRUE(parsed.ok()) << parsed.status() << text;
  EXPECT_EQ(Print(**parsed), Print(*small.module));
  EXPECT_EQ(TryInputApart(small).where, wrong.where);
}

INSTANTIATE_TEST_SUITE_P(Fuzzer, WrongPassTest,
                         testing::Values(Wrong{"swap-sub", ApplySwapSub, SwapSub, 3, "meaning after swap-sub"},
                                         Wrong{"drop-beta", DropBeta, nullptr, 3, "meaning after drop-beta"},
                                         Wrong{"boast", Boast, nullptr, 1, "pass boast: INTERNAL"},
                                         Wrong{"crash", Crash, nullptr, 1, "crash in pass crash"}),
                         [](const testing::TestParamInfo<Wrong>& wrong) { return absl::StrCat("Pass", wrong.index); });

// Graph i of a seed is the same whatever ran before it, and its text is its own.
TEST(Fuzzer, GraphsAreReproducible) {
  FuzzOptions options{.seed = 5, .code_every = 0};
  for (const PassInfo& known : AllPasses()) options.passes.push_back(&known);
  options.targets = {*NativeTarget()};
  const auto one = Fuzzer::Create(options), other = Fuzzer::Create(options);
  ASSERT_TRUE(one.ok() && other.ok());
  for (int64_t i = 0; i < 40; ++i) {
    const auto input = (*one)->Draw(i);
    if (!input) continue;
    EXPECT_TRUE(Verify(*input->module).ok());
    const auto parsed = Parse(Print(*input->module), "drawn.sir");
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    if (i % 3 != 0) continue;
    const auto again = (*other)->Draw(i);
    ASSERT_TRUE(again.has_value());
    EXPECT_EQ(Print(*again->module), Print(*input->module));
    EXPECT_EQ(again->data_seed, input->data_seed);
    EXPECT_EQ(PassesText(again->plan), PassesText(input->plan));
  }
}

}  // namespace
}  // namespace sinter
