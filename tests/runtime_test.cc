// Modules made by hand, run: round trip through a file, threads, entries, sequences, the token loop, and no heap
// allocations.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <numeric>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "runtime/cpu.h"
#include "runtime/generate.h"
#include "runtime/workspace.h"
#include "tests/heap_counter.h"
#include "tests/memory_maps.h"
#include "tests/module_builder.h"

namespace sinter {
namespace {

using testing::BaseMetadata;
using ::testing::ElementsAre;
using testing::Factor;
using ::testing::HasSubstr;
using testing::kContext;
using testing::kL;
using testing::kMostTokens;
using testing::kP;
using testing::kT;
using testing::kVocabulary;
using testing::LanguageModelEntry;
using testing::List;
using testing::MakeEntry;
using testing::ModuleBytes;
using testing::Number;
using testing::OpenBytes;
using testing::Param;
using testing::Symbol;

using Module = std::shared_ptr<const CompiledModule>;

Module OpenOrDie(const fbs::MetadataT& metadata) {
  absl::StatusOr<Module> module = OpenBytes(ModuleBytes(metadata));
  EXPECT_TRUE(module.ok()) << module.status();
  return *module;
}

fbs::MetadataT LanguageModel() {
  fbs::MetadataT metadata = testing::LanguageModel();
  return metadata;
}

// y = x * sum(x) + w: a split copy, a replicated total into each thread's arena after a barrier, and two split steps
// more.
fbs::EntryT MixedEntry() {
  const auto split = fbs::StepMode_Split, replicated = fbs::StepMode_Replicated;
  const fbs::Operand x(fbs::Space_Input, 0), y(fbs::Space_Output, 0), a(fbs::Space_Arena, 0), b(fbs::Space_Arena, 1024),
      s(fbs::Space_Thread, 64), w(fbs::Space_Weights, 0);
  return MakeEntry("f", List(Param("x", "f32", List(Symbol(kT)))), List(Param("y", "f32", List(Symbol(kT)))), {},
                   List(testing::KernelStep(testing::kCopy, split, false, List(Factor(Symbol(kT))), {x, a}),
                        testing::KernelStep(testing::kTotal, replicated, true, List(Factor(Symbol(kT))), {a, s}),
                        testing::KernelStep(testing::kScale, split, false, List(Factor(Symbol(kT))), {a, s, b}),
                        testing::KernelStep(testing::kAdd, split, false, List(Factor(Symbol(kT))), {b, w, y})));
}

class Threads : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Counts, Threads, ::testing::Values(1, 2, 3, 8));

TEST_P(Threads, SplitReplicatedAndBarriers) {
  fbs::MetadataT metadata = BaseMetadata();
  metadata.entries.push_back(std::make_unique<fbs::EntryT>(MixedEntry()));
  const Module module = OpenOrDie(metadata);
  absl::StatusOr<std::unique_ptr<Workspace>> workspace = Workspace::Open(module, GetParam());
  ASSERT_TRUE(workspace.ok()) << workspace.status();
  EXPECT_EQ((*workspace)->threads(), GetParam());
  for (int repeat = 0; repeat < 20; ++repeat) {
    for (int64_t t = 1; t <= kMostTokens; ++t) {
      std::vector<float> x(static_cast<size_t>(t)), y(x.size() + 1, -1), expected;
      for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>((i * 7 + static_cast<size_t>(repeat)) % 13);
      const float total = std::accumulate(x.begin(), x.end(), 0.0f);
      for (size_t i = 0; i < x.size(); ++i) expected.push_back(x[i] * total + static_cast<float>(i));
      expected.push_back(-1);  // not written
      const absl::Status status = (*workspace)->Run(module->entries()[0], {t, -1, -1, -1}, {x.data()}, {y.data()}, {});
      ASSERT_TRUE(status.ok()) << status;
      ASSERT_EQ(y, expected) << t;
    }
  }
}

TEST_P(Threads, ExtentsAreSumsOfProductsOfBlocks) {
  // ceil(T / 4) * 2 + 2 grains of one element each.
  fbs::MetadataT metadata = BaseMetadata();
  fbs::FactorT second = Factor(Number(2));
  second.lane = 1;
  metadata.entries.push_back(std::make_unique<fbs::EntryT>(
      MakeEntry("f", List(Param("x", "f32", List(Symbol(kT)))), List(Param("y", "f32", List(Symbol(kT)))), {},
                List(testing::KernelStep(testing::kCopy, fbs::StepMode_Split, false,
                                         List(Factor(Symbol(kT), 4), Factor(Number(2)), second),
                                         {{fbs::Space_Input, 0}, {fbs::Space_Output, 0}})))));
  const Module module = OpenOrDie(metadata);
  const std::unique_ptr<Workspace> workspace = *Workspace::Open(module, GetParam());
  const std::vector<float> x(9, 1);
  std::vector<float> y(9, 0);
  ASSERT_TRUE(workspace->Run(module->entries()[0], {9, -1, -1, -1}, {x.data()}, {y.data()}, {}).ok());
  EXPECT_THAT(y, ElementsAre(1, 1, 1, 1, 1, 1, 1, 1, 0));
}

TEST(Run, RefusesDimsOutsideTheirRangesAndBounds) {
  fbs::MetadataT metadata = BaseMetadata();
  metadata.entries.push_back(std::make_unique<fbs::EntryT>(MixedEntry()));
  const Module module = OpenOrDie(metadata);
  const LoadedEntry& entry = module->entries()[0];
  const std::unique_ptr<Workspace> workspace = *Workspace::Open(module, 1);
  std::vector<float> x(64), y(64);
  const auto run = [&](std::vector<int64_t> dims) { return workspace->Run(entry, dims, {x.data()}, {y.data()}, {}); };
  EXPECT_TRUE(run({1, 255, 0, 7}).ok());
  EXPECT_EQ(run({2, 255, 0, 7}).code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(std::string(run({2, 255, 0, 7}).message()), HasSubstr("bound 0 of the dims: 257 is more than 256"));
  EXPECT_THAT(std::string(run({65, -1, -1, -1}).message()), HasSubstr("dim T = 65 is not within 1..64"));
  EXPECT_THAT(std::string(run({0, -1, -1, -1}).message()), HasSubstr("dim T = 0 is not within 1..64"));
  EXPECT_THAT(std::string(run({-1, 0, 0, 7}).message()), HasSubstr("dim T has no value"));
  EXPECT_EQ(run({1, 0, 0}).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(workspace->Run(entry, {1, -1, -1, -1}, {}, {y.data()}, {}).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(workspace->Run(LoadedEntry(entry), {1, -1, -1, -1}, {x.data()}, {y.data()}, {}).code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(Workspace::Open(module, 0).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(Workspace::Open(module, 1025).status().code(), absl::StatusCode::kOutOfRange);
}

TEST(Module, RoundTripThroughAFile) {
  fbs::MetadataT metadata = BaseMetadata();
  metadata.entries.push_back(std::make_unique<fbs::EntryT>(MixedEntry()));
  const std::vector<uint8_t> bytes = ModuleBytes(metadata);
  const std::string path = absl::StrCat(::testing::TempDir(), "runtime_test_", getpid(), ".sinter");
  ASSERT_TRUE(WriteFile(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}).ok());
  const absl::StatusOr<Module> module = CompiledModule::Open(path);
  ASSERT_TRUE(module.ok()) << module.status();
  EXPECT_EQ((*module)->path(), path);
  EXPECT_EQ((*module)->target(), "any");
  EXPECT_EQ((*module)->file_bytes(), bytes.size());
  EXPECT_EQ((*module)->metadata().producer()->str(), "test");
  EXPECT_TRUE((*module)->VerifyWeights().ok());
  ASSERT_TRUE((*module)->MoveWeightsToHugePages(3).ok());
  EXPECT_TRUE((*module)->VerifyWeights().ok());
  float weight;
  std::memcpy(&weight, (*module)->weights() + 4 * 63, 4);
  EXPECT_EQ(weight, 63);
  const absl::StatusOr<Module> inspected = CompiledModule::OpenForInspection(path);
  ASSERT_TRUE(inspected.ok());
  EXPECT_EQ((*inspected)->entries()[0].steps[0].kernel, nullptr);
  EXPECT_EQ(Workspace::Open(*inspected, 1).status().code(), absl::StatusCode::kInternal);
  std::remove(path.c_str());
}

// The permissions that /proc/self/maps states for the page at `address`.
std::string PermissionsAt(const void* address) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin, end;
    char permissions[5];
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, permissions) != 3) continue;
    const uintptr_t at = reinterpret_cast<uintptr_t>(address);
    if (at >= begin && at < end) return permissions;
  }
  return "";
}

TEST(Module, OnlyTheChosenImageIsExecutableAndNothingIsWritable) {
  fbs::MetadataT metadata = BaseMetadata();
  fbs::ImageT second = *metadata.images[0];
  second.target = "second";
  second.offset = kModulePage;
  metadata.images.push_back(std::make_unique<fbs::ImageT>(second));
  metadata.entries.push_back(std::make_unique<fbs::EntryT>(MixedEntry()));
  const std::vector<uint8_t> bytes = ModuleBytes(metadata);
  const Module first = *OpenBytes(bytes, "any"), last = *OpenBytes(bytes);
  EXPECT_EQ(first->target(), "any");
  EXPECT_EQ(last->target(), "second");
  for (const Module& module : {first, last}) {
    const uint8_t* code = reinterpret_cast<const uint8_t*>(module->entries()[0].steps[0].kernel);
    EXPECT_EQ(PermissionsAt(code).substr(0, 3), "r-x");
    EXPECT_EQ(PermissionsAt(code - kModulePage).substr(0, 3), "r--");
    EXPECT_EQ(PermissionsAt(code + kModulePage).substr(0, 3), "r--");
    EXPECT_EQ(PermissionsAt(module->weights()).substr(0, 3), "r--");
  }
  const absl::Status none = OpenBytes(bytes, "third").status();
  EXPECT_EQ(none.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(none.message()), HasSubstr("no code for target \"third\", only for \"any\", \"second\""));
}

TEST(Module, FeaturesThatTheCpuLacksAreNamed) {
  std::string lacking;
  for (const std::string& feature : AllCpuFeatures()) {
    if (!HostHas(feature)) lacking = feature;
  }
  if (lacking.empty()) GTEST_SKIP() << "this CPU has every feature of the table";
  fbs::MetadataT metadata = BaseMetadata();
  fbs::ImageT second = *metadata.images[0];
  second.target = "second";
  second.offset = kModulePage;
  second.features = HostCpuFeatures();
  second.features.push_back(lacking);
  metadata.images.push_back(std::make_unique<fbs::ImageT>(second));
  metadata.entries.push_back(std::make_unique<fbs::EntryT>(MixedEntry()));
  const std::vector<uint8_t> bytes = ModuleBytes(metadata);
  EXPECT_EQ((*OpenBytes(bytes))->target(), "any");
  const absl::Status status = OpenBytes(bytes, "second").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("\"second\" needs ", lacking, "; make")));
}

TEST(Module, TokenizerComesBack) {
  fbs::MetadataT metadata = BaseMetadata();
  metadata.entries.push_back(std::make_unique<fbs::EntryT>(MixedEntry()));
  EXPECT_EQ(OpenOrDie(metadata)->tokenizer().status().code(), absl::StatusCode::kUnimplemented);
  fbs::TokenizerT tokenizer;
  tokenizer.model = "llama";
  tokenizer.tokens = {"<unk>", "<s>", std::string("\xff\0", 2)};
  tokenizer.scores = {0, 0, -1.5};
  tokenizer.types = {2, 3, 1};
  tokenizer.unk = 0;
  tokenizer.bos = 1;
  tokenizer.end_of_generation = {1, 2};
  tokenizer.add_eos = true;
  metadata.tokenizer = std::make_unique<fbs::TokenizerT>(tokenizer);
  const absl::StatusOr<TokenizerData> data = OpenOrDie(metadata)->tokenizer();
  ASSERT_TRUE(data.ok());
  EXPECT_EQ(data->kind, "llama");
  EXPECT_EQ(data->tokens, TextList({"<unk>", "<s>", absl::string_view("\xff\0", 2)}));
  EXPECT_EQ(data->scores, tokenizer.scores);
  EXPECT_EQ(data->types, tokenizer.types);
  EXPECT_EQ(data->unk, 0);
  EXPECT_EQ(data->bos, 1);
  EXPECT_EQ(data->eos, std::nullopt);
  EXPECT_EQ(data->end_ids, tokenizer.end_of_generation);
  EXPECT_TRUE(data->add_eos);
  EXPECT_FALSE(data->add_bos);
}

TEST(FindEntry, TheFirstWhoseTypesFit) {
  fbs::MetadataT metadata = BaseMetadata();
  for (const auto& [name, lone] :
       {std::pair("main.aux", true), std::pair("main.1", true), std::pair("main", false), std::pair("mainly", false)}) {
    fbs::EntryT entry = LanguageModelEntry();
    entry.name = name;
    if (lone) {
      for (auto& input : entry.inputs) input->type->dims[0] = std::make_unique<fbs::ExprT>(Number(1));
      entry.outputs[0]->type->dims[0] = std::make_unique<fbs::ExprT>(Number(1));
    }
    metadata.entries.push_back(std::make_unique<fbs::EntryT>(std::move(entry)));
  }
  const Module module = OpenOrDie(metadata);
  const auto find = [&](absl::string_view name, std::vector<std::vector<int64_t>> shapes, std::vector<int64_t>& dims) {
    const LoadedEntry* entry = module->FindEntry(name, shapes, dims);
    return entry == nullptr ? std::string("none") : entry->name;
  };
  std::vector<int64_t> dims = {-1, 5, -1, -1};
  EXPECT_EQ(find("main", {{1}, {1}, {1}}, dims), "main.1");
  EXPECT_THAT(dims, ElementsAre(-1, 5, -1, -1));
  EXPECT_EQ(find("main", {{1}, {1}, {0}}, dims), "main");
  EXPECT_THAT(dims, ElementsAre(1, 5, 0, -1));
  dims = {-1, -1, -1, -1};
  EXPECT_EQ(find("main", {{3}, {4}, {1}}, dims), "none");
  EXPECT_THAT(dims, ElementsAre(-1, -1, -1, -1));
  EXPECT_EQ(find("main", {{65}, {65}, {1}}, dims), "none");
  EXPECT_EQ(find("main", {{3}, {3}}, dims), "none");
  EXPECT_EQ(find("main", {{3}, {3}, {1, 1}}, dims), "none");
  EXPECT_EQ(find("mai", {{3}, {3}, {1}}, dims), "none");
  EXPECT_EQ(find("mainly", {{3}, {3}, {1}}, dims), "mainly");
  dims = {4, -1, -1, -1};
  EXPECT_EQ(find("main", {{3}, {3}, {1}}, dims), "none");
  dims = {-1, 1000, -1, -1};
  EXPECT_EQ(find("main", {{3}, {3}, {1}}, dims), "none");
}

std::vector<int32_t> Ids(size_t n) {
  std::vector<int32_t> ids(n);
  for (size_t i = 0; i < n; ++i) ids[i] = static_cast<int32_t>((i * i + 3 * i) % kVocabulary);
  return ids;
}

// What the logits kernel makes of the text `ids`.
std::vector<float> LogitsAfter(absl::Span<const int32_t> ids) {
  std::vector<float> logits;
  const int64_t sum = std::accumulate(ids.begin(), ids.end(), int64_t{0});
  for (int64_t v = 0; v < kVocabulary; ++v) logits.push_back(static_cast<float>((sum + 3 * v) % kVocabulary));
  return logits;
}

TEST_P(Threads, StepAndPrefillAgree) {
  const Module module = OpenOrDie(LanguageModel());
  const std::unique_ptr<Workspace> workspace = *Workspace::Open(module, GetParam());
  ASSERT_EQ(workspace->max_tokens(), kMostTokens);
  ASSERT_EQ(workspace->vocabulary(), kVocabulary);
  const std::vector<int32_t> ids = Ids(150);  // three chunks
  const size_t v = kVocabulary;

  const std::unique_ptr<Sequence> prefilled = *Sequence::Open(module);
  EXPECT_EQ(prefilled->capacity(), kContext);
  std::vector<float> all(ids.size() * v);
  ASSERT_TRUE(workspace->Prefill(*prefilled, ids, absl::MakeSpan(all)).ok());
  EXPECT_EQ(prefilled->position(), 150);
  const std::unique_ptr<Sequence> stepped = *Sequence::Open(module);
  std::vector<float> row(v);
  for (size_t i = 0; i < ids.size(); ++i) {
    ASSERT_TRUE(workspace->Step(*stepped, absl::MakeConstSpan(ids).subspan(i, 1), {0}, absl::MakeSpan(row)).ok());
    ASSERT_EQ(row, LogitsAfter(absl::MakeConstSpan(ids).first(i + 1))) << i;
    ASSERT_EQ(row, std::vector<float>(all.begin() + static_cast<ptrdiff_t>(i * v),
                                      all.begin() + static_cast<ptrdiff_t>((i + 1) * v)));
  }
  EXPECT_EQ(std::memcmp(prefilled->state_data(0), stepped->state_data(0), 4 * kContext), 0);

  // The last row alone, no row, some rows; and a truncated sequence goes on as if the rest had never been.
  ASSERT_TRUE(stepped->Truncate(10).ok());
  ASSERT_TRUE(workspace->Prefill(*stepped, absl::MakeConstSpan(ids).subspan(10, 100), absl::MakeSpan(row)).ok());
  EXPECT_EQ(row, LogitsAfter(absl::MakeConstSpan(ids).first(110)));
  ASSERT_TRUE(stepped->Truncate(0).ok());
  ASSERT_TRUE(workspace->Prefill(*stepped, absl::MakeConstSpan(ids).first(5), {}).ok());
  std::vector<float> two(2 * v);
  ASSERT_TRUE(workspace->Step(*stepped, absl::MakeConstSpan(ids).subspan(5, 4), {1, 3}, absl::MakeSpan(two)).ok());
  std::vector<float> expected = LogitsAfter(absl::MakeConstSpan(ids).first(7));
  const std::vector<float> last = LogitsAfter(absl::MakeConstSpan(ids).first(9));
  expected.insert(expected.end(), last.begin(), last.end());
  EXPECT_EQ(two, expected);
}

TEST(Step, StatesOfLongSequencesAreInHugePages) {
  if (!testing::KernelHasHugePages()) GTEST_SKIP() << "this kernel has no huge pages";
  constexpr int64_t kLong = int64_t{1} << 20, kEighth = kLong / 8;
  fbs::MetadataT metadata = LanguageModel();
  metadata.entries[0]->states[0]->dims = {kLong};
  metadata.entries[0]->states[0]->bytes = 4 * kLong;
  metadata.dims[kP]->max = kLong - 1;
  metadata.bounds[0]->max = kLong;
  const Module module = OpenOrDie(metadata);
  const std::unique_ptr<Workspace> workspace = *Workspace::Open(module, 1);
  const std::unique_ptr<Sequence> sequence = *Sequence::Open(module);
  std::vector<float> row(kVocabulary);
  ASSERT_TRUE(workspace->Prefill(*sequence, Ids(100), absl::MakeSpan(row)).ok());
  sequence->Advance(kEighth - 102);  // of zeros
  ASSERT_TRUE(workspace->Prefill(*sequence, Ids(1), absl::MakeSpan(row)).ok());
  EXPECT_EQ(sequence->position(), kEighth - 1);
  EXPECT_FALSE(testing::WantsHugePages(sequence->state_data(0)));
  ASSERT_TRUE(workspace->Prefill(*sequence, {5}, absl::MakeSpan(row)).ok());
  EXPECT_TRUE(testing::WantsHugePages(sequence->state_data(0)));
  std::vector<int32_t> ids = Ids(100);  // all are there still
  ids.push_back(Ids(1)[0]);
  ids.push_back(5);
  EXPECT_EQ(row, LogitsAfter(ids));
}

TEST(Step, EntriesThatAlwaysMakeARowServeStepsWithoutOne) {
  fbs::MetadataT metadata = LanguageModel();
  metadata.dims[kL]->min = 1;
  const Module module = OpenOrDie(metadata);
  const std::unique_ptr<Workspace> workspace = *Workspace::Open(module, 2);
  const std::unique_ptr<Sequence> sequence = *Sequence::Open(module);
  std::vector<float> row(kVocabulary);
  ASSERT_TRUE(workspace->Prefill(*sequence, Ids(100), absl::MakeSpan(row)).ok());
  EXPECT_EQ(row, LogitsAfter(Ids(100)));
  ASSERT_TRUE(workspace->Prefill(*sequence, Ids(3), {}).ok());
  EXPECT_EQ(sequence->position(), 103);
}

// Room for the results is made for as many rows as are asked for.
TEST(Step, LogitsOfOtherRowsAreNoLanguageModel) {
  fbs::MetadataT m = testing::LanguageModel();
  m.entries[0]->outputs[0]->type->dims[0] = std::make_unique<fbs::ExprT>(testing::Symbol(testing::kT));
  const auto module = *testing::OpenBytes(testing::ModuleBytes(m));
  const std::unique_ptr<Workspace> workspace = *Workspace::Open(module, 1);
  EXPECT_EQ(workspace->vocabulary(), 0);
  const std::unique_ptr<Sequence> sequence = *Sequence::Open(module);
  const std::vector<int32_t> ids = {1, 2, 3}, rows = {2};
  std::vector<float> logits(testing::kVocabulary);
  EXPECT_EQ(workspace->Step(*sequence, ids, rows, absl::MakeSpan(logits)).code(), absl::StatusCode::kUnimplemented);
}

TEST(Step, Refuses) {
  const Module module = OpenOrDie(LanguageModel());
  const std::unique_ptr<Workspace> workspace = *Workspace::Open(module, 1);
  const std::unique_ptr<Sequence> sequence = *Sequence::Open(module);
  std::vector<float> row(kVocabulary), two(2 * kVocabulary);
  const auto step = [&](std::vector<int32_t> ids, std::vector<int32_t> rows, std::vector<float>& logits) {
    const absl::Status status = workspace->Step(*sequence, ids, rows, absl::MakeSpan(logits));
    return absl::StrCat(absl::StatusCodeToString(status.code()), " ", status.message());
  };
  EXPECT_THAT(step({7}, {0}, row), HasSubstr("OUT_OF_RANGE token 7 at position 0 is outside the vocabulary of 7"));
  EXPECT_THAT(step({1, -1}, {0}, row), HasSubstr("token -1 at position 1"));
  EXPECT_THAT(step({}, {}, row), HasSubstr("OUT_OF_RANGE a step takes 1 to 64 tokens, not 0"));
  EXPECT_THAT(step(Ids(65), {0}, row), HasSubstr("not 65"));
  EXPECT_THAT(step({1, 2}, {0, 1}, row), HasSubstr("OUT_OF_RANGE room for 7 logits, expected 2 rows of 7"));
  EXPECT_THAT(step({1, 2}, {1, 0}, two), HasSubstr("OUT_OF_RANGE row 0 is not ascending within the step's 2 tokens"));
  EXPECT_THAT(step({1, 2}, {1, 1}, two), HasSubstr("row 1 is not ascending"));
  EXPECT_THAT(step({1, 2}, {2}, row), HasSubstr("row 2 is not"));
  EXPECT_THAT(step({1, 2}, {-1}, row), HasSubstr("row -1 is not"));
  EXPECT_EQ(sequence->position(), 0);
  ASSERT_TRUE(workspace->Prefill(*sequence, Ids(255), {}).ok());
  EXPECT_THAT(step({1, 2}, {1}, row),
              HasSubstr("OUT_OF_RANGE the context of 256 positions is full: 255 are taken, 2 more are asked for"));
  EXPECT_EQ(workspace->Prefill(*sequence, Ids(2), {}).code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(step({1}, {0}, row), HasSubstr("OK"));
  EXPECT_THAT(step({1}, {0}, row), HasSubstr("full"));
  EXPECT_EQ(sequence->Truncate(257).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(sequence->Truncate(-1).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(sequence->position(), 256);
  const Module twin = OpenOrDie(LanguageModel());
  const std::unique_ptr<Sequence> other = *Sequence::Open(twin);
  EXPECT_EQ(workspace->Step(*other, {1}, {0}, absl::MakeSpan(row)).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Sequence::Open(module, "train").status().code(), absl::StatusCode::kNotFound);

  fbs::MetadataT mixed = BaseMetadata();
  mixed.entries.push_back(std::make_unique<fbs::EntryT>(MixedEntry()));
  const std::unique_ptr<Workspace> no_model = *Workspace::Open(OpenOrDie(mixed), 1);
  EXPECT_EQ(no_model->Prefill(*other, {1}, {}).code(), absl::StatusCode::kUnimplemented);
}

// A vocabulary for the language model: its tokens print as a to f, token 6 is the end.
Tokenizer Letters() {
  TokenizerData data;
  data.kind = "llama";
  data.tokens = {"<unk>", "a", "b", "c", "d", "\xc3\xa9", "</s>"};
  data.scores.assign(7, 0);
  data.types = {2, 1, 1, 1, 1, 1, 3};
  data.unk = 0;
  data.eos = 6;
  data.add_bos = false;
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Create(std::move(data));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

struct Collected {
  std::vector<int32_t> ids;
  std::string text;
  size_t stop_after = SIZE_MAX;
  static bool Emit(void* self, int32_t id, absl::string_view text) {
    Collected& c = *static_cast<Collected*>(self);
    if (id >= 0) c.ids.push_back(id);
    c.text.append(text.data(), text.size());
    return c.ids.size() < c.stop_after;
  }
};

// The greedy continuation by the definition of the logits kernel.
std::vector<int32_t> Greedy(std::vector<int32_t> ids, size_t n) {
  const size_t prompt = ids.size();
  for (size_t i = 0; i < n; ++i) {
    const std::vector<float> logits = LogitsAfter(ids);
    ids.push_back(static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
  }
  return {ids.begin() + static_cast<ptrdiff_t>(prompt), ids.end()};
}

struct Loop {
  explicit Loop(const Tokenizer* t, int threads = 2)
      : tokenizer(t),
        module(OpenOrDie(LanguageModel())),
        workspace(*Workspace::Open(module, threads)),
        sequence(*Sequence::Open(module)),
        sampler(*Sampler::Create({.temperature = 0}, kVocabulary)) {
    if (t != nullptr) stream = *TokenStream::Create(*t, false);
    const std::vector<int32_t> end_ids = t == nullptr ? std::vector<int32_t>() : *t->data().EndIds();
    generator = *Generator::Create(*workspace, *sequence, sampler, end_ids, t == nullptr ? nullptr : &*stream);
  }
  const Tokenizer* tokenizer;
  Module module;
  std::unique_ptr<Workspace> workspace;
  std::unique_ptr<Sequence> sequence;
  Sampler sampler;
  std::optional<TokenStream> stream;
  std::optional<Generator> generator;
};

TEST(Generator, LengthAndContinuation) {
  Loop loop(nullptr);
  Collected got;
  ASSERT_TRUE(loop.generator->Prefill({1, 2}).ok());
  absl::StatusOr<StopReason> reason = loop.generator->Generate({.max_tokens = 30}, Collected::Emit, &got);
  ASSERT_TRUE(reason.ok()) << reason.status();
  EXPECT_EQ(*reason, StopReason::kLength);
  EXPECT_EQ(got.ids, Greedy({1, 2}, 30));
  EXPECT_EQ(loop.sequence->position(), 31);  // nobody wanted the logits of the last token
  reason = loop.generator->Generate({.max_tokens = 5}, Collected::Emit, &got);
  EXPECT_EQ(got.ids, Greedy({1, 2}, 35));
}

TEST(Generator, TextEndTokenCallerAndContext) {
  const Tokenizer tokenizer = Letters();
  std::vector<int32_t> prompt;
  for (int32_t first = 1; first < 6 && prompt.empty(); ++first) {
    for (int32_t second = 1; second < 6 && prompt.empty(); ++second) {
      const std::vector<int32_t> next = Greedy({first, second}, 4);
      if (next[3] == 6 && next[0] != 6 && next[1] != 6 && next[2] != 6) prompt = {first, second};
    }
  }
  ASSERT_FALSE(prompt.empty()) << "no prompt ends after three tokens";
  const std::vector<int32_t> three = Greedy(prompt, 3);
  std::string text;
  for (int32_t id : three) text += std::string(tokenizer.Piece(id));
  {
    Loop loop(&tokenizer);
    Collected got;
    ASSERT_TRUE(loop.generator->Prefill(prompt).ok());
    EXPECT_EQ(*loop.generator->Generate({.max_tokens = 30}, Collected::Emit, &got), StopReason::kEndToken);
    EXPECT_EQ(got.ids, three);
    EXPECT_EQ(got.text, text);
  }
  {
    Loop loop(&tokenizer);
    Collected got;
    ASSERT_TRUE(loop.generator->Prefill(prompt).ok());
    const GenerateOptions forever = {.max_tokens = 1'000'000'000'000, .ignore_end = true};
    EXPECT_EQ(*loop.generator->Generate(forever, Collected::Emit, &got), StopReason::kContextFull);
    EXPECT_EQ(got.ids, Greedy(prompt, kContext - 2 + 1));
    EXPECT_EQ(loop.sequence->position(), kContext);
  }
  {
    Loop loop(&tokenizer);
    Collected got;
    got.stop_after = 2;
    ASSERT_TRUE(loop.generator->Prefill(prompt).ok());
    EXPECT_EQ(*loop.generator->Generate({.max_tokens = 30}, Collected::Emit, &got), StopReason::kCaller);
    EXPECT_EQ(got.ids.size(), 2u);
  }
  Loop loop(nullptr);
  Collected got;
  EXPECT_EQ(loop.generator->Prefill({}).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(loop.generator->Generate({}, Collected::Emit, &got).status().code(), absl::StatusCode::kOutOfRange);
}

TEST_P(Threads, NoHeapAllocations) {
  const Tokenizer tokenizer = Letters();
  Loop loop(&tokenizer, GetParam());
  struct Counter {
    size_t first = 0, last = 0, tokens = 0;
    bool plant = false;
    static bool Emit(void* self, int32_t, absl::string_view) {
      Counter& counter = *static_cast<Counter*>(self);
      if (counter.tokens++ == 0) counter.first = HeapAllocations();
      if (counter.plant) ::operator delete(::operator new(16));
      counter.last = HeapAllocations();
      return true;
    }
  };
  ASSERT_TRUE(loop.generator->Prefill(Ids(20)).ok());
  const GenerateOptions options = {.max_tokens = 100, .ignore_end = true};
  Counter honest;
  ASSERT_TRUE(loop.generator->Generate(options, Counter::Emit, &honest).ok());
  EXPECT_GE(honest.tokens, 100u);
  EXPECT_EQ(honest.last - honest.first, 0u);
  Counter planted;
  planted.plant = true;
  ASSERT_TRUE(loop.generator->Generate(options, Counter::Emit, &planted).ok());
  EXPECT_EQ(planted.last - planted.first, planted.tokens);

  const std::vector<int32_t> ids = Ids(130);
  std::vector<float> all(ids.size() * kVocabulary);
  ASSERT_TRUE(loop.sequence->Truncate(0).ok());
  const size_t before = HeapAllocations();
  const bool ok = loop.workspace->Prefill(*loop.sequence, ids, absl::MakeSpan(all)).ok();
  EXPECT_EQ(HeapAllocations() - before, 0u);
  EXPECT_TRUE(ok);
}

TEST(HeapCounter, SeesOtherThreadsAndMalloc) {
  const std::unique_ptr<ThreadTeam> team = *ThreadTeam::Create(3);
  const size_t before = HeapAllocations();
  team->Run(
      team->threads(), [](void*, int) { ::operator delete(::operator new(8)); }, nullptr);
  EXPECT_EQ(HeapAllocations() - before, 3u);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  team->Run(
      team->threads(),
      [](void*, int) {
        void* volatile p = std::malloc(8);
        p = std::realloc(p, 80);
        std::free(p);
        p = std::calloc(2, 8);
        std::free(p);
        p = std::aligned_alloc(64, 64);
        std::free(p);
      },
      nullptr);
  EXPECT_EQ(HeapAllocations() - before, 15u);
#endif
}

}  // namespace
}  // namespace sinter
