#include "passes/pipeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/match.h"
#include "base/file.h"
#include "base/status.h"
#include "ir/text.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kModule[] = R"(module @m {
  dim T in 1..8
  graph @main(%x: f32[T,4], %y: f32[T,4]) -> (f32[T,4]) {
    %one = constant {values=[1]} : f32[1]
    %a = mul %x, %one : f32[T,4]
    %z = sub %a, %y : f32[T,4]
    %e = exp %z : f32[T,4]
    return %e
  }
}
)";

std::unique_ptr<Module> M() {
  absl::StatusOr<std::unique_ptr<Module>> module = Parse(kModule, "m.sir");
  EXPECT_TRUE(module.ok()) << module.status();
  return *std::move(module);
}

std::vector<std::string> Names(const std::vector<const PassInfo*>& passes) {
  std::vector<std::string> names;
  names.reserve(passes.size());
  for (const PassInfo* pass : passes) names.emplace_back(pass->name);
  return names;
}

// A folder of its own for each test.
std::string Folder() {
  const fs::path folder = fs::path(testing::TempDir()) / testing::UnitTest::GetInstance()->current_test_info()->name();
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder.string();
}

absl::StatusOr<std::vector<PassRecord>> RunOn(Module& module, absl::string_view passes,
                                              const PipelineOptions& options) {
  SINTER_ASSIGN_OR_RETURN(const auto list, ParsePipeline(passes, module.stage));
  PassContext context{{&AllTargets()[0]}};
  return RunPipeline(module, list, context, options);
}

PipelineOptions Quiet() {
  PipelineOptions options;
  options.repro_path = "";
  return options;
}

TEST(ParsePipeline, Texts) {
  EXPECT_THAT(Names(*ParsePipeline("", Stage::kGraph)), ElementsAre());
  EXPECT_THAT(Names(*ParsePipeline("canonicalize", Stage::kGraph)), ElementsAre("canonicalize"));
  EXPECT_THAT(Names(*ParsePipeline("canonicalize, O0", Stage::kGraph)),
              ElementsAre("canonicalize", "select-kernels", "plan-barriers", "plan-buffers"));
  EXPECT_THAT(Names(*ParsePipeline("plan-barriers", Stage::kKernels)), ElementsAre("plan-barriers"));
}

TEST(ParsePipeline, Refuses) {
  const struct {
    const char *text, *message;
  } cases[] = {
      {"dots-to-gem", "the nearest is dots-to-gemm"},
      {"o2", "the nearest is O2"},
      {"canonicalize,", "there is no pass \"\""},
      {"plan-buffers", "needs a module at stage kernels; it is at stage graph at the start"},
      {"O0,canonicalize", "needs a module at stage graph; it is at stage planned after plan-buffers"},
      {"select-kernels,select-kernels", "at stage kernels after select-kernels"},
  };
  for (const auto& c : cases) {
    const auto passes = ParsePipeline(c.text, Stage::kGraph);
    EXPECT_EQ(passes.status().code(), absl::StatusCode::kOutOfRange) << c.text;
    EXPECT_THAT(std::string(passes.status().message()), HasSubstr(c.message)) << c.text;
  }
}

TEST(ParsePipeline, NamedPipelinesEndPlanned) {
  for (absl::string_view name : PipelineNames()) {
    const auto passes = ParsePipeline(name, Stage::kGraph);
    ASSERT_TRUE(passes.ok()) << passes.status();
    EXPECT_EQ(passes->back()->to, Stage::kPlanned) << name;
  }
}

TEST(RunPipeline, Records) {
  const auto module = M();
  const auto records = RunOn(*module, "canonicalize,canonicalize", Quiet());
  ASSERT_TRUE(records.ok()) << records.status();
  ASSERT_EQ(records->size(), 2u);
  EXPECT_TRUE((*records)[0].changed);
  EXPECT_EQ((*records)[0].ops_before, 4);
  EXPECT_EQ((*records)[0].ops_after, 2);
  EXPECT_FALSE((*records)[1].changed);
  const std::string table = FormatRecords(*records, true, true);
  EXPECT_THAT(table, HasSubstr("ops before"));
  EXPECT_THAT(table, HasSubstr("total"));
  EXPECT_THAT(FormatRecords(*records, false, false), testing::Not(HasSubstr("total")));
}

TEST(RunPipeline, DisableAndStop) {
  const auto ran = [](absl::string_view passes, std::vector<std::string> disable,
                      std::string stop) -> absl::StatusOr<size_t> {
    PipelineOptions options = Quiet();
    options.disable = std::move(disable);
    options.stop_after = std::move(stop);
    SINTER_ASSIGN_OR_RETURN(const auto records, RunOn(*M(), passes, options));
    return records.size();
  };
  const size_t all = ParsePipeline("O2", Stage::kGraph)->size();
  EXPECT_EQ(*ran("O2", {}, ""), all);
  EXPECT_EQ(*ran("O2", {"canonicalize"}, ""), all - 3);
  EXPECT_EQ(*ran("O2", {"canonicalize:2"}, ""), all - 1);
  EXPECT_EQ(*ran("O2", {}, "canonicalize"), 1u);
  EXPECT_EQ(*ran("O2", {}, "canonicalize:2"), 4u);
  EXPECT_EQ(*ran("O2", {"canonicalize:1"}, "canonicalize:2"), 3u);
  EXPECT_THAT(ran("O2", {"select-kernels"}, "").status().message(), HasSubstr("cannot be disabled"));
  EXPECT_THAT(ran("O2", {"canonicalise"}, "").status().message(), HasSubstr("the nearest is canonicalize"));
  EXPECT_THAT(ran("O2", {"canonicalize:0"}, "").status().message(), HasSubstr("n from 1"));
  EXPECT_THAT(ran("O2", {"canonicalize:"}, "").status().message(), HasSubstr("n from 1"));
  EXPECT_THAT(ran("O2", {}, "canonicalize:4").status().message(), HasSubstr("does not have it"));
  EXPECT_EQ(ran("O1", {}, "specialize").status().code(), absl::StatusCode::kOutOfRange);
}

TEST(RunPipeline, PrintAfter) {
  const auto printed = [](std::string what) {
    PipelineOptions options = Quiet();
    std::string out, progress;
    options.print_after = std::move(what);
    options.out = [&](absl::string_view text) { absl::StrAppend(&out, text); };
    options.progress = [&](absl::string_view pass) { absl::StrAppend(&progress, pass, " "); };
    EXPECT_TRUE(RunOn(*M(), "canonicalize,dots-to-gemm", options).ok());
    EXPECT_EQ(progress, "canonicalize dots-to-gemm ");
    return out;
  };
  EXPECT_EQ(printed(""), "");
  EXPECT_THAT(printed("changed"), testing::StartsWith("// after canonicalize (changed)\nmodule @m {\n"));
  EXPECT_THAT(printed("changed"), testing::Not(HasSubstr("dots-to-gemm")));
  EXPECT_THAT(printed("all"), HasSubstr("// after dots-to-gemm (unchanged)\n"));
  EXPECT_THAT(printed("dots-to-gemm"), testing::StartsWith("// after dots-to-gemm (unchanged)\n"));
  PipelineOptions options = Quiet();
  options.print_after = "nothing";
  EXPECT_EQ(RunOn(*M(), "canonicalize", options).status().code(), absl::StatusCode::kOutOfRange);
}

TEST(RunPipeline, DumpDir) {
  const fs::path folder = Folder();
  PipelineOptions options = Quiet();
  options.dump_dir = (folder / "new").string();
  const fs::path dumps = options.dump_dir;
  fs::create_directories(dumps);
  for (const char* name : {"007.specialize.sir", "000.mine.sir", "notes.txt", "1.import.sir"}) {
    ASSERT_TRUE(WriteFile((dumps / name).string(), "old").ok());
  }
  const auto module = M();
  ASSERT_TRUE(RunOn(*module, "dots-to-gemm,canonicalize,select-kernels", options).ok());
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(dumps)) names.push_back(entry.path().filename().string());
  EXPECT_THAT(names, testing::UnorderedElementsAre("000.import.sir", "002.canonicalize.sir", "003.select-kernels.sir",
                                                   "000.mine.sir", "notes.txt", "1.import.sir"));
  EXPECT_EQ(*ReadFile((dumps / "000.import.sir").string()), Print(*M()));
  EXPECT_EQ(*ReadFile((dumps / "003.select-kernels.sir").string()), Print(*module));
  options.dump_dir = (dumps / "notes.txt").string();
  EXPECT_EQ(RunOn(*M(), "", options).status().code(), absl::StatusCode::kNotFound);
}

// Passes that are wrong on purpose.
absl::StatusOr<bool> AddForSub(Module& module, PassContext&) {
  Graph& graph = module.graph(module.entries()[0]);
  for (OpId id : std::vector<OpId>(graph.order())) {
    const auto sub = graph.As<ops::Sub>(id);
    if (!sub) continue;
    AddOptions at;
    at.before = id;
    SINTER_ASSIGN_OR_RETURN(const ValueId sum, graph.Add(ops::Add{.a = sub->a, .b = sub->b}, std::move(at)));
    const std::string name = graph.value(graph.op(id).results[0]).name;
    graph.ReplaceUses(graph.op(id).results[0], sum);
    graph.Erase(id);
    graph.Rename(sum, name);
  }
  return true;
}
absl::StatusOr<bool> AddForSubSecretly(Module& module, PassContext& context) {
  SINTER_RETURN_IF_ERROR(AddForSub(module, context).status());
  return false;
}
absl::StatusOr<bool> NothingLoudly(Module&, PassContext&) { return true; }
absl::StatusOr<bool> NewStage(Module& module, PassContext&) {
  module.stage = Stage::kPlanned;
  return true;
}
absl::StatusOr<bool> Malformed(Module& module, PassContext&) {
  Graph& graph = module.graph(module.entries()[0]);
  graph.SetResults({});
  graph.Erase(graph.order().back());
  graph.SetResults({graph.value(graph.params()[0]).def.valid() ? graph.params()[0] : graph.op(OpId{3}).results[0]});
  return true;
}
absl::StatusOr<bool> WrongSpecialization(Module& module, PassContext& context) {
  const Graph& main = module.graph(module.entries()[0]);
  IdMap<DimId, DimExpr> by;
  by.Add(DimExpr(1));
  SINTER_ASSIGN_OR_RETURN(const GraphId clone, CloneGraph(main, module, "main.1", by));
  Graph& graph = module.graph(clone);
  const ValueId old = graph.results()[0];
  AddOptions end;
  SINTER_ASSIGN_OR_RETURN(const ValueId twice, graph.Add(ops::Add{.a = old, .b = old}, std::move(end)));
  graph.SetResults({twice});
  (void)context;
  return true;
}
absl::StatusOr<bool> AddForSubIfFast(Module& module, PassContext& context) {
  return context.fast ? AddForSub(module, context) : absl::StatusOr<bool>(false);
}
absl::StatusOr<bool> Unsupported(Module&, PassContext&) { return absl::UnimplementedError("3 ops have no kernel"); }

absl::Status RunWrong(PassFunction run, const PipelineOptions& options, Module& module) {
  const PassInfo pass{"wrong", run, Stage::kGraph, Stage::kGraph, "is wrong"};
  PassContext context{{&AllTargets()[0]}};
  return RunPipeline(module, {&pass}, context, options).status();
}

TEST(Instruments, CheckEachNamesPassEntryAndValue) {
  PipelineOptions options = Quiet();
  options.check_each = true;
  const absl::Status status = RunWrong(AddForSub, options, *M());
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(status.message(), HasSubstr("after pass wrong: @main: result 0 (%e) element 0 is "));
  EXPECT_THAT(status.message(), HasSubstr("the first that differs is %z"));
}

TEST(Instruments, CheckEachComparesNewEntries) {
  PipelineOptions options = Quiet();
  options.check_each = true;
  const absl::Status status = RunWrong(WrongSpecialization, options, *M());
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(status.message(), HasSubstr("@main.1: result 0"));
}

TEST(Instruments, CheckChanged) {
  PipelineOptions options = Quiet();
  options.check_changed = true;
  EXPECT_THAT(RunWrong(AddForSubSecretly, options, *M()).message(),
              HasSubstr("changed something, and does not say so"));
  EXPECT_THAT(RunWrong(NothingLoudly, options, *M()).message(),
              HasSubstr("says that it changed something, and did not"));
  EXPECT_TRUE(RunWrong(AddForSub, options, *M()).ok());
}

TEST(Instruments, VerifyEach) {
  const absl::Status status = RunWrong(Malformed, Quiet(), *M());
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(status.message(), HasSubstr("after pass wrong"));
  EXPECT_THAT(RunWrong(NewStage, Quiet(), *M()).message(),
              HasSubstr("stage planned after pass wrong, which leads to stage graph"));
}

TEST(Instruments, ReproIsTheModuleBeforeThePass) {
  PipelineOptions options;
  options.repro_path = Folder() + "/repro.sir";
  options.check_each = true;
  const auto module = M();
  const std::string before = Print(*module);
  const absl::Status status = RunWrong(AddForSub, options, *module);
  EXPECT_THAT(status.message(), HasSubstr("repro.sir replays pass wrong"));
  const absl::StatusOr<std::string> repro = ReadFile(options.repro_path);
  ASSERT_TRUE(repro.ok());
  EXPECT_THAT(*repro,
              testing::StartsWith("// RUN: sinter opt " + options.repro_path + " --passes=wrong --check-each\n"));
  const auto parsed = Parse(*repro, "repro.sir");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(Print(**parsed), before);
}

TEST(Instruments, ReproIsMadeInTheSameContext) {
  PipelineOptions options;
  options.repro_path = Folder() + "/repro.sir";
  const PassInfo first{"first", AddForSubIfFast, Stage::kGraph, Stage::kGraph, "is the first"};
  const PassInfo second{"second", Unsupported, Stage::kGraph, Stage::kGraph, "fails"};
  PassContext context{.targets = {&AllTargets()[0]}, .fast = true};
  EXPECT_FALSE(RunPipeline(*M(), {&first, &second}, context, options).ok());
  const absl::StatusOr<std::string> repro = ReadFile(options.repro_path);
  ASSERT_TRUE(repro.ok());
  EXPECT_THAT(*repro, HasSubstr("= add %"));
}

TEST(Instruments, APassKeepsItsCode) {
  const absl::Status status = RunWrong(Unsupported, Quiet(), *M());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(status.message(), "3 ops have no kernel");
  PipelineOptions options;
  options.repro_path = Folder() + "/missing/repro.sir";
  EXPECT_THAT(RunWrong(Unsupported, options, *M()).message(), HasSubstr("no reproducer: "));
}

TEST(Instruments, WeightsAreTheCallers) {
  const auto module = Parse(R"(module @w {
  weights "w.gguf" sha256 "0000000000000000000000000000000000000000000000000000000000000000"
  graph @main(%x: f32[4]) -> (f32[4]) {
    %w = weight "w" : f32[4]
    %one = constant {values=[1]} : f32[1]
    %a = mul %w, %one : f32[4]
    %y = add %x, %a : f32[4]
    return %y
  }
}
)",
                            "w.sir");
  ASSERT_TRUE(module.ok()) << module.status();
  PipelineOptions options = Quiet();
  options.check_each = true;
  int reads = 0;
  options.weights = [&](const std::string& name) -> absl::StatusOr<Tensor> {
    EXPECT_EQ(name, "w");
    ++reads;
    return Tensor{DType::kF32, {4}, {1, 2, 3, 4}};
  };
  EXPECT_TRUE(RunOn(**module, "canonicalize", options).ok());
  EXPECT_GE(reads, 2);
}

}  // namespace
}  // namespace sinter
