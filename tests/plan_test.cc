// Plans of random modules pass the independent checker, and the checker refuses every plan that was spoilt.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/placement.h"
#include "base/status.h"
#include "frontend/model.h"
#include "frontend/presets.h"
#include "ir/text.h"
#include "passes/pipeline.h"
#include "passes/plan_check.h"
#include "random_module.h"

namespace sinter {
namespace {

using testing::HasSubstr;

constexpr char kBlock[] = R"(module @block {
  dim T in 1..4
  dim P in 0..7
  bound P+T <= 8
  weights "w.gguf" sha256 "0000000000000000000000000000000000000000000000000000000000000000"
  graph @main(%x: f32[T,8], %pos: i32[T], %c: state<f32[2,1,8,4]>, %d: state<f32[2,1,8,4]>) -> (f32[T,8], state<f32[2,1,8,4]>, state<f32[2,1,8,4]>) {
    %g = weight "norm" : f32[8]
    %wqkv = weight "qkv" : f32[16,8]
    %table = rope_table : f32[8,8]
    %n = rms_norm %x, %g : f32[T,8]
    %h = gemm %n, %wqkv {trans_b=true} : f32[T,16]
    %q = heads %h {first=0, groups=1} : f32[1,2,T,4]
    %k = heads %h {first=8, groups=1} : f32[1,1,T,4]
    %v = heads %h {first=12, groups=1} : f32[1,1,T,4]
    %kr = rope %k, %pos, %table : f32[1,1,T,4]
    %c1 = kv_append %c, %kr, %v, %pos : state<f32[2,1,8,4]>
    %K, %V = kv_view %c1 {len=P+T} : f32[1,P+T,4], f32[1,P+T,4]
    %s = gemm %q, %K {trans_b=true} : f32[1,2,T,P+T]
    %m = causal_mask %pos {len=P+T} : bool[T,P+T]
    %p = softmax %s, %m {scale=0.5} : f32[1,2,T,P+T]
    %o = gemm %p, %V : f32[1,2,T,4]
    %y = merge_heads %o : f32[T,8]
    %d1 = kv_append %d, %k, %v, %pos : state<f32[2,1,8,4]>
    %z = add %x, %y : f32[T,8]
    %a = gelu %z : f32[T,8]
    %b = add %a, %z : f32[T,8]
    return %b, %c1, %d1
  }
}
)";

absl::StatusOr<std::unique_ptr<Module>> Planned(const std::string& text, absl::string_view passes) {
  SINTER_ASSIGN_OR_RETURN(std::unique_ptr<Module> module, Parse(text, "plan.sir"));
  SINTER_ASSIGN_OR_RETURN(const auto list, ParsePipeline(passes, module->stage));
  PassContext context{{&AllTargets()[0]}};
  PipelineOptions options;
  options.repro_path = "";
  options.check_changed = options.check_each = true;
  SINTER_RETURN_IF_ERROR(RunPipeline(*module, list, context, options).status());
  return module;
}

std::unique_ptr<Module> Block() {
  absl::StatusOr<std::unique_ptr<Module>> module =
      Planned(kBlock, "canonicalize,select-kernels,plan-barriers,plan-buffers");
  EXPECT_TRUE(module.ok()) << module.status();
  EXPECT_TRUE(CheckPlan(**module).ok()) << CheckPlan(**module);
  return *std::move(module);
}

Graph& Main(Module& module) { return module.graph(module.FindGraph("main")->id()); }

ValueId Find(const Graph& graph, absl::string_view name) {
  for (uint32_t i = 0; i < graph.num_values(); ++i) {
    const ValueData& data = graph.value(ValueId{i});
    if (data.name == name && (!data.def.valid() || !graph.op(data.def).erased)) return ValueId{i};
  }
  ADD_FAILURE() << "no value " << name;
  return ValueId{0};
}

TEST(Plan, RandomModules) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    const std::string text = RandomModuleText(1000 + seed, 10);
    for (absl::string_view pipeline : PipelineNames()) {
      const auto module = Planned(text, pipeline);
      ASSERT_TRUE(module.ok()) << "seed " << seed << " " << pipeline << ": " << module.status() << "\n" << text;
      EXPECT_TRUE(CheckPlan(**module).ok()) << "seed " << seed << " " << pipeline << ": " << CheckPlan(**module) << "\n"
                                            << Print(**module);
    }
  }
}

// The front end's plain form: every dot product becomes a gemm, every pipeline ends in a sound plan.
TEST(Plan, Presets) {
  for (absl::string_view name : PresetNames()) {
    for (absl::string_view type : {"", ":f16"}) {
      const std::string path = absl::StrCat(kPresetPrefix, name, type);
      for (absl::string_view pipeline : PipelineNames()) {
        const absl::StatusOr<Model> model = OpenModel(path);
        ASSERT_TRUE(model.ok()) << model.status();
        Module& module = *model->module;
        const auto list = ParsePipeline(pipeline, module.stage);
        ASSERT_TRUE(list.ok()) << list.status();
        PassContext context{{&AllTargets()[0]}};
        PipelineOptions options;
        options.repro_path = "";
        options.check_changed = true;
        options.check_each = name == "smallmind";
        const auto records = RunPipeline(module, *list, context, options);
        ASSERT_TRUE(records.ok()) << path << " " << pipeline << ": " << records.status();
        EXPECT_TRUE(CheckPlan(module).ok()) << path << " " << pipeline << ": " << CheckPlan(module);
        for (GraphId id : module.graphs()) {
          for (OpId op : module.graph(id).order()) {
            EXPECT_TRUE(pipeline == "O0" || module.graph(id).op(op).kind() != OpKind::kLoop) << path;
          }
        }
      }
    }
  }
}

TEST(Plan, ReusesTheArena) {
  const auto module = Block();
  const auto sizes = PlacementOf(*module);
  ASSERT_TRUE(sizes.ok()) << sizes.status();
  int64_t sum = 0, weights = 0;
  const Graph& graph = Main(*module);
  for (OpId op : graph.order()) {
    for (ValueId value : graph.op(op).results) {
      const Space space = graph.value(value).address->space;
      const int64_t bytes = (*MaxBytes(graph.type(value), module->dims) + 63) / 64 * 64;
      if (space == Space::kArena) sum += bytes;
      if (space == Space::kWeights) weights += bytes;
    }
  }
  EXPECT_LT(sizes->arena_bytes, sum * 3 / 4);
  EXPECT_EQ(sizes->weights_bytes, weights);
  EXPECT_EQ(sizes->thread_bytes, 0);
}

TEST(Plan, EntriesShareWeightsAndStartTheArenaAtZero) {
  const auto module = Planned(kBlock, "O2");
  ASSERT_TRUE(module.ok()) << module.status();
  const Graph *general = (*module)->FindGraph("main"), *one = (*module)->FindGraph("main.1");
  ASSERT_TRUE(general != nullptr && one != nullptr);
  for (const char* name : {"g", "wqkv_1", "table"}) {
    EXPECT_EQ(general->value(Find(*general, name)).address, one->value(Find(*one, name)).address) << name;
  }
  for (const Graph* graph : {general, one}) {
    bool zero = false;
    for (OpId op : graph->order()) zero |= graph->value(graph->op(op).results[0]).address == Address{Space::kArena, 0};
    EXPECT_TRUE(zero) << graph->name();
  }
}

TEST(Plan, StatesKeepTheirIndexAndInputsCountApart) {
  const auto module = Block();
  const Graph& graph = Main(*module);
  EXPECT_EQ(graph.value(Find(graph, "pos")).address, (Address{Space::kInput, 1}));
  EXPECT_EQ(graph.value(Find(graph, "d")).address, (Address{Space::kState, 1}));
  EXPECT_EQ(graph.value(Find(graph, "d1")).address, (Address{Space::kState, 1}));
  EXPECT_EQ(graph.value(Find(graph, "b")).address, (Address{Space::kOutput, 0}));
}

TEST(PlanCheck, RefusesWrongAddresses) {
  const struct {
    const char* value;
    Address address;
    const char* message;
  } cases[] = {
      {"n", {Space::kArena, 32}, "is not aligned"},
      {"n", {Space::kArena, -64}, "negative"},
      {"n", {Space::kOutput, 1}, "is not in arena"},
      {"n", {Space::kArena, INT64_MAX / 64 * 64}, "ends past"},
      {"x", {Space::kInput, 1}, "shares its address"},
      {"x", {Space::kArena, 0}, "is not in input"},
      {"c", {Space::kState, 1}, "shares its address"},
      {"c1", {Space::kState, 1}, "is not where its state is"},
      {"b", {Space::kArena, 0}, "is not in output"},
      {"g", {Space::kArena, 0}, "is not in weights"},
      {"table", {Space::kWeights, 64}, "overlaps another tensor"},
      {"g", {Space::kWeights, 64}, "overlaps another tensor"},
  };
  for (const auto& c : cases) {
    const auto module = Block();
    Graph& graph = Main(*module);
    graph.SetAddress(Find(graph, c.value), c.address);
    const absl::Status status = CheckPlan(*module);
    EXPECT_THAT(status.message(), HasSubstr(c.message)) << c.value;
  }
}

// Any two values of the arena that live together, put at one place.
TEST(PlanCheck, RefusesOverlaps) {
  int refused = 0;
  for (const auto& [a, b] : {std::pair{"n", "h"}, std::pair{"p", "o"}, std::pair{"m", "s"}, std::pair{"h", "kr"}}) {
    const auto module = Block();
    Graph& graph = Main(*module);
    graph.SetAddress(Find(graph, b), *graph.value(Find(graph, a)).address);
    const absl::Status status = CheckPlan(*module);
    EXPECT_THAT(status.message(), HasSubstr("while both live")) << a << " " << b;
    refused += !status.ok();
  }
  EXPECT_EQ(refused, 4);
}

// A value that a kernel takes twice may be overwritten only if both ways of reading it allow that.
TEST(PlanCheck, LooksAtEachOperandThatAValueStandsFor) {
  for (const char* read : {"%a1, %a0", "%a1, %t"}) {
    const auto planned = Planned(
        absl::StrCat("module @m stage kernels {\n  graph @main(%x: f32[64,64]) -> (f32[64,64]) {\n"
                     "    %v = kernel @neg(%x) {family=\"map\", barrier=true} : f32[64,64]\n"
                     "    %w = kernel @both(%v, %v) {family=\"map\", barrier=true} : f32[64,64]\n"
                     "    %r = kernel @neg(%w) {family=\"map\", barrier=true} : f32[64,64]\n    return %r\n  }\n"
                     "  graph @neg(%a0: f32[64,64]) -> (f32[64,64]) {\n    %n = neg %a0 : f32[64,64]\n    return %n\n"
                     "  }\n  graph @both(%a0: f32[64,64], %a1: f32[64,64]) -> (f32[64,64]) {\n"
                     "    %t = transpose %a0 {perm=[1,0]} : f32[64,64]\n    %n = add ",
                     read, " : f32[64,64]\n    return %n\n  }\n}\n"),
        "plan-buffers");
    ASSERT_TRUE(planned.ok()) << planned.status();
    Graph& graph = Main(**planned);
    const ValueId v = Find(graph, "v"), w = Find(graph, "w");
    const bool reads_itself = absl::string_view(read) == "%a1, %a0";
    EXPECT_EQ(graph.value(v).address->at == graph.value(w).address->at, reads_itself);
    EXPECT_TRUE(CheckPlan(**planned).ok());
    graph.SetAddress(w, *graph.value(v).address);
    EXPECT_EQ(CheckPlan(**planned).ok(), reads_itself);
  }
}

// Barriers are not there for nothing: without any one of them the plan is refused.
TEST(PlanCheck, RefusesAPlanWithoutOneOfItsBarriers) {
  const auto block = Block();
  int barriers = 0;
  for (OpId id : Main(*block).order()) {
    const auto module = Block();
    Graph& graph = Main(*module);
    auto kernel = graph.As<ops::Kernel>(id);
    if (!kernel || !kernel->barrier) continue;
    ++barriers;
    kernel->barrier = false;
    graph.SetAttrs(*std::move(kernel), id);
    EXPECT_FALSE(CheckPlan(*module).ok()) << PrintOp(graph, id);
  }
  EXPECT_GE(barriers, 6);
}

// A step that every thread does whole reads rows that other threads made.
TEST(PlanCheck, RefusesAReplicatedStepWithoutABarrier) {
  for (const char* mode : {"split", "replicated"}) {
    const auto module = Block();
    EXPECT_TRUE(CheckPlan(*module).ok());
    Graph& graph = Main(*module);
    const OpId id = graph.value(Find(graph, "b")).def;  // after %a, by the same rows
    auto kernel = graph.As<ops::Kernel>(id);
    ASSERT_FALSE(kernel->barrier);
    kernel->mode = mode;
    graph.SetAttrs(*std::move(kernel), id);
    EXPECT_EQ(CheckPlan(*module).ok(), std::string(mode) == "split") << mode;
  }
}

TEST(PlanCheck, RefusesOtherStages) {
  const auto module = Planned(kBlock, "canonicalize");
  ASSERT_TRUE(module.ok()) << module.status();
  EXPECT_FALSE(CheckPlan(**module).ok());
}

// Rows that a thread wrote itself need no barrier; other rows, gathered rows and overwritten states do.
TEST(PlanBarriers, Rows) {
  const struct {
    const char *line, *what;
    bool barrier;
  } cases[] = {
      {"%r = neg %e : f32[T,8]", "the same rows", false},
      {"%r = softmax %e : f32[T,8]", "the same rows, reduced", false},
      {"%s = slice %e {axis=1, first=0, len=4} : f32[T,4]\n    %r = neg %s : f32[T,4]", "a part of each row", true},
      {"%s = transpose %e {perm=[1,0]} : f32[8,T]\n    %r = neg %s : f32[8,T]", "columns", true},
      {"%s = reshape %e : f32[T,2,4]\n    %r = neg %s : f32[T,2,4]", "rows cut otherwise", true},
      {"%s = slice %e {axis=0, first=0, len=1} : f32[1,8]\n    %r = add %e, %s : f32[T,8]",
       "the first row beside the own", true},
      {"%r = take %e, %i : f32[T,8]", "rows that data choose", true},
      {"%r = neg %x : f32[T,8]", "older values", false},
  };
  for (const auto& c : cases) {
    const std::string line = c.line, type = line.substr(line.rfind(": ") + 2);
    const auto module =
        Planned(absl::StrCat("module @m {\n  dim T in 1..8\n  graph @main(%x: f32[T,8], %i: i32[T]) -> (f32[T,8], ",
                             type, ") {\n    %e = exp %x : f32[T,8]\n    ", line, "\n    return %e, %r\n  }\n}\n"),
                "O0");
    ASSERT_TRUE(module.ok()) << c.what << ": " << module.status();
    const Graph& graph = Main(**module);
    EXPECT_EQ(graph.As<ops::Kernel>(graph.order().back())->barrier, c.barrier) << c.what;
    EXPECT_TRUE(CheckPlan(**module).ok()) << c.what << ": " << CheckPlan(**module);
  }
}

TEST(PlanBarriers, AStateIsOverwrittenOnlyAfterItWasRead) {
  const auto module = Planned(R"(module @m {
  dim T in 1..4
  graph @main(%k: f32[2,1,T,4], %pos: i32[T], %c: state<f32[2,2,8,4]>) -> (f32[2,8,4], state<f32[2,2,8,4]>) {
    %K, %V = kv_view %c {len=8} : f32[2,8,4], f32[2,8,4]
    %s = add %K, %V : f32[2,8,4]
    %c1 = kv_append %c, %k, %k, %pos : state<f32[2,2,8,4]>
    return %s, %c1
  }
}
)",
                              "O0");
  ASSERT_TRUE(module.ok()) << module.status();
  const Graph& graph = Main(**module);
  EXPECT_TRUE(graph.As<ops::Kernel>(graph.order().back())->barrier);
}

}  // namespace
}  // namespace sinter
