// Compile's own parts: packing, placement, linking, and what is refused.
#include "backend/compile.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "backend/object.h"
#include "backend/placement.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "ir/text.h"
#include "passes/pipeline.h"
#include "tests/compiled_graph.h"

namespace sinter {
namespace {

using testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

std::unique_ptr<Module> Parsed(const std::string& text) {
  auto module = Parse(absl::StrCat("module @m ", text), "test");
  EXPECT_TRUE(module.ok()) << module.status();
  return module.ok() ? *std::move(module) : nullptr;
}

constexpr char kWeightsLine[] =
    "weights \"w\" sha256 \"0000000000000000000000000000000000000000000000000000000000000000\"\n";

std::unique_ptr<Module> Planned(const std::string& text) {
  auto module = Parsed(absl::StrCat("{\n", kWeightsLine, text, "}\n"));
  PassContext context{{FindTarget("avx2")}};
  PipelineOptions options;
  options.repro_path = "";
  const auto records = RunPipeline(*module, *ParsePipeline("O2", Stage::kGraph), context, options);
  EXPECT_TRUE(records.ok()) << records.status();
  return module;
}

constexpr char kLinear[] =
    "graph @main(%x: f32[3,8]) -> (f32[3,5]) {\n  %w = weight \"w\" : f32[5,8]\n"
    "  %y = gemm %x, %w {trans_b=true} : f32[3,5]\n  return %y\n}\n";

absl::StatusOr<OutputFile> CompileWith(const Module& module, CompileOptions options) {
  options.targets = {FindTarget("avx2")};
  auto file = OutputFile::Create("");
  EXPECT_TRUE(file.ok()) << file.status();
  return Compile(module, {.command = "test"}, options, *std::move(file));
}

TEST(Placement, OfAPlannedModule) {
  const auto module = Planned(kLinear);
  const auto placement = PlacementOf(*module);
  ASSERT_TRUE(placement.ok()) << placement.status();
  ASSERT_EQ(placement->weights.size(), 1u);
  EXPECT_EQ(placement->weights[0].name, "w");
  EXPECT_EQ(placement->weights[0].pack, "panel16");
  EXPECT_EQ(placement->weights[0].bytes, 16 * 8 * 4);
  EXPECT_EQ(placement->weights_bytes, placement->weights[0].offset + 16 * 8 * 4);
}

TEST(Placement, RefusesModulesThatAreNotPlanned) {
  const auto graph = Parsed(absl::StrCat("{\n", kWeightsLine, kLinear, "}\n"));
  EXPECT_EQ(PlacementOf(*graph).status().code(), absl::StatusCode::kInvalidArgument);
  const absl::Status status = CompileWith(*graph, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), HasSubstr("not planned"));
}

TEST(Placement, RefusesAddressesThatDoNotHold) {
  struct Case {
    const char* what;
    Address address;
    const char* says;
  };
  for (const Case& c : {Case{"negative", {Space::kArena, -64}, "no address"},
                        Case{"overflowing", {Space::kArena, INT64_MAX - 8}, "overflows"},
                        Case{"not a weight", {Space::kWeights, 0}, "only weights"}}) {
    SCOPED_TRACE(c.what);
    const auto module = Planned(
        "graph @main(%x: f32[3,8]) -> (f32[3,8]) {\n  %a = neg %x : f32[3,8]\n  %b = exp %a : f32[3,8]\n  return "
        "%b\n}\n");
    EXPECT_TRUE(PlacementOf(*module).ok());
    Graph& graph = module->graph(module->entries()[0]);
    graph.SetAddress(graph.op(graph.order()[0]).results[0], c.address);
    const absl::Status status = PlacementOf(*module).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(status), HasSubstr(c.says));
  }
  const auto module = Planned(
      "graph @main() -> (f32[8], f32[8]) {\n  %v = weight \"v\" : f32[8]\n  %w = weight \"w\" : f32[8]\n"
      "  %a = neg %v : f32[8]\n  %b = neg %w : f32[8]\n  return %a, %b\n}\n");
  const auto placement = PlacementOf(*module);
  ASSERT_TRUE(placement.ok()) << placement.status();
  Graph& graph = module->graph(module->entries()[0]);
  for (OpId op : graph.order()) {
    if (graph.op(op).kind() == OpKind::kWeight) graph.SetAddress(graph.op(op).results[0], {Space::kWeights, 64});
  }
  const absl::Status status = PlacementOf(*module).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), HasSubstr("overlap"));
}

TEST(Compile, NeedsTheWeights) {
  const auto module = Planned(kLinear);
  const absl::Status none = CompileWith(*module, {}).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(none), HasSubstr("weight \"w\""));
  const WeightTensors others = {{"v", Tensor::Zeros(DType::kF32, {5, 8})}};
  const absl::Status missing = CompileWith(*module, {.weights = RowsOf(others)}).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(missing), HasSubstr("no weight w"));
  const WeightTensors right = {{"w", Tensor::Zeros(DType::kF32, {5, 8})}};
  EXPECT_TRUE(CompileWith(*module, {.weights = RowsOf(right)}).ok());
}

TEST(Compile, SaysHowFarItIsAndWhatIsDone) {
  const auto module = Planned(
      "graph @main(%x: f32[3,8]) -> (f32[3,5]) {\n  %w = weight \"w\" : f32[5,8]\n  %b = weight \"b\" : f32[5]\n"
      "  %y = gemm %x, %w {trans_b=true} : f32[3,5]\n  %z = add %y, %b : f32[3,5]\n  return %z\n}\n");
  const WeightTensors weights = {{"w", Tensor::Zeros(DType::kF32, {5, 8})}, {"b", Tensor::Zeros(DType::kF32, {5})}};
  std::map<std::string, std::vector<std::pair<int64_t, int64_t>>> said;
  std::vector<std::string> done;
  CompileOptions options;
  options.weights = RowsOf(weights);
  options.weight_done = [&](const std::string& name) { done.push_back(name); };
  options.progress = [&](absl::string_view what, int64_t at, int64_t total) {
    said[std::string(what)].emplace_back(at, total);
  };
  ASSERT_TRUE(CompileWith(*module, options).ok());
  EXPECT_THAT(done, testing::UnorderedElementsAre("w", "b"));
  EXPECT_THAT(said, testing::UnorderedElementsAre(testing::Key("kernels"), testing::Key("weights")));
  EXPECT_EQ(said["weights"].size(), 2u);
  for (const auto& [what, steps] : said) {
    for (size_t i = 0; i < steps.size(); ++i) {
      EXPECT_EQ(steps[i].first, static_cast<int64_t>(i + 1)) << what;
      EXPECT_EQ(steps[i].second, static_cast<int64_t>(steps.size())) << what;
    }
  }
}

// "plain" is no packing: the weight lies as in the file, and no product may walk it in panels.
TEST(PacksOf, PlainIsNoPacking) {
  for (const auto& [pack, expected] : {std::pair{"", ""}, std::pair{"plain", ""}, std::pair{"panel16", "panel16"}}) {
    const auto module = Parsed(absl::StrCat(
        "stage kernels {\n", kWeightsLine, "graph @main(%x: f32[3,8]) -> (f32[3,5]) {\n  %w = weight \"w\" {pack=\"",
        pack, "\"} : f32[5,8]\n  %y = kernel @k(%x, %w) {family=\"gemm\"} : f32[3,5]\n  return %y\n}\n",
        "graph @k(%a: f32[3,8], %b: f32[5,8]) -> (f32[3,5]) {\n  %c = gemm %a, %b {trans_b=true} : f32[3,5]\n",
        "  return %c\n}\n}\n"));
    const Graph& graph = *module->FindGraph("main");
    EXPECT_THAT(PacksOf(graph, graph.order()[1]), testing::ElementsAre("", expected));
    EXPECT_EQ(SpecOfKernel(graph, graph.order()[1])->gemm->packing == nullptr, std::string(expected).empty());
  }
}

TEST(CollectKernels, SharesEqualOnes) {
  const auto module = Planned(
      "graph @main(%x: f32[3,8], %y: f32[3,8]) -> (f32[3,8], f32[3,8], f32[3,8]) {\n  %a = neg %x : f32[3,8]\n"
      "  %b = neg %y : f32[3,8]\n  %c = exp %y : f32[3,8]\n  return %a, %b, %c\n}\n");
  const auto table = CollectKernels(*module);
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->kernels.size(), 2u);
  EXPECT_EQ(table->index.size(), 3u);
  EXPECT_THAT(table->kernels[0].symbol, testing::MatchesRegex("map_[0-9a-f]+"));
}

// A relocatable x86-64 object as a compiler that calls memcpy would make it: `call memcpy; ret` under the symbol "f".
class ObjectFile {
 public:
  explicit ObjectFile(uint32_t relocation) {
    const std::vector<uint8_t> code = {0xe8, 0, 0, 0, 0, 0xc3, 0x90, 0x90, 0, 0, 0, 0, 0, 0, 0, 0};
    const std::string names("\0f\0memcpy\0.text\0.rela.text\0.symtab\0.strtab\0", 43);
    Put(
        std::string("\x7f"
                    "ELF\2\1\1\0\0\0\0\0\0\0\0\0",
                    16));
    Put<uint16_t>(1), Put<uint16_t>(62), Put<uint32_t>(1);
    Put<uint64_t>(0), Put<uint64_t>(0), Put<uint64_t>(64), Put<uint32_t>(0);
    Put<uint16_t>(64), Put<uint16_t>(0), Put<uint16_t>(0), Put<uint16_t>(64), Put<uint16_t>(5), Put<uint16_t>(4);
    const uint64_t text = 64 + 5 * 64, rela = text + 16, symbols = rela + 24, strings = symbols + 72;
    Section(0, 0, 0, 0, 0, 0, 0, 0, 0);
    Section(10, 1, 6, text, 16, 0, 0, 16, 0);              // .text
    Section(16, 4, 0x40, rela, 24, 3, 1, 8, 24);           // .rela.text
    Section(27, 2, 0, symbols, 72, 4, 1, 8, 24);           // .symtab
    Section(35, 3, 0, strings, names.size(), 0, 0, 1, 0);  // .strtab
    bytes_.append(code.begin(), code.end());
    Put<uint64_t>(1), Put<uint64_t>(uint64_t{2} << 32 | relocation), Put<int64_t>(-4);
    Symbol(0, 0, 0, 0);
    Symbol(1, 0x12, 1, 16);  // f: global function in .text
    Symbol(3, 0x10, 0, 0);   // memcpy: global, undefined
    bytes_ += names;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void Put(const std::string& bytes) { bytes_ += bytes; }
  template <typename T>
  void Put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void Section(uint32_t name, uint32_t type, uint64_t flags, uint64_t offset, uint64_t size, uint32_t link,
               uint32_t info, uint64_t align, uint64_t entry) {
    Put(name), Put(type), Put(flags), Put<uint64_t>(0), Put(offset), Put(size), Put(link), Put(info), Put(align),
        Put(entry);
  }
  void Symbol(uint32_t name, uint8_t info, uint16_t section, uint64_t size) {
    Put(name), Put(info), Put<uint8_t>(0), Put(section), Put<uint64_t>(0), Put(size);
  }
  std::string bytes_;
};

TEST(LinkImage, RefusesCallsOutOfTheImage) {
  const ObjectFile calls(4);  // R_X86_64_PLT32
  const absl::Status status = LinkImage({CompiledObject{calls.bytes(), {"f"}}}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(Message(status), HasSubstr("f"));
  EXPECT_THAT(Message(status), HasSubstr("memcpy"));
}

TEST(LinkImage, RefusesWhatIsNoObject) {
  EXPECT_EQ(LinkImage({CompiledObject{"no object", {"f"}}}).status().code(), absl::StatusCode::kInternal);
  std::string cut = ObjectFile(4).bytes();
  cut.resize(100);
  EXPECT_EQ(LinkImage({CompiledObject{cut, {"f"}}}).status().code(), absl::StatusCode::kInternal);
}

TEST(LinkImage, LaysKernelsOutTheSameWayEveryTime) {
  std::vector<CompiledObject> objects;
  for (const char* name : {"first", "second"}) {
    const Target& target = *FindTarget("avx2");
    const DimTable dims;
    Emitted emitted;
    VectorBuilder b(emitted, target, name, dims);
    b.Store(DType::kF32, b.Operand(0, false), b.Splat(objects.size() + 0.125));
    b.Finish();
    auto object = GenerateCode(emitted, target, Effort::kFull, CodeForm::kObject);
    ASSERT_TRUE(object.ok()) << object.status();
    objects.push_back({*std::move(object), {name}});
  }
  const auto image = LinkImage(objects), again = LinkImage(objects);
  ASSERT_TRUE(image.ok() && again.ok()) << image.status() << again.status();
  EXPECT_EQ(image->bytes, again->bytes);
  EXPECT_EQ(image->entry_points.size(), 2u);
  EXPECT_LT(image->entry_points.at("first"), image->entry_points.at("second"));
  EXPECT_LT(image->entry_points.at("second"), image->bytes.size());
}

}  // namespace
}  // namespace sinter
