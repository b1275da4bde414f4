// What sequences, samplers and vocabularies must have in common with the entry that is run.
#include "runtime/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/workspace.h"
#include "tests/module_builder.h"

namespace sinter {
namespace {

using ::testing::HasSubstr;
using testing::kContext;
using testing::kVocabulary;
using testing::LanguageModel;
using testing::LanguageModelEntry;
using Module = std::shared_ptr<const CompiledModule>;

Module OpenOrDie(const fbs::MetadataT& metadata) {
  absl::StatusOr<Module> module = testing::OpenBytes(testing::ModuleBytes(metadata));
  EXPECT_TRUE(module.ok()) << module.status();
  return *module;
}

// A language model, an entry like it that serves another name, and one whose state has fewer rows.
TEST(Step, RefusesASequenceOfOtherStates) {
  fbs::MetadataT m = LanguageModel();
  for (const auto& [name, rows] : {std::pair("twin", kContext), std::pair("short", int64_t{4})}) {
    fbs::EntryT entry = LanguageModelEntry();
    entry.name = name;
    entry.states[0]->dims = {rows};
    entry.states[0]->bytes = 4 * rows;
    m.entries.push_back(std::make_unique<fbs::EntryT>(std::move(entry)));
  }
  const Module module = OpenOrDie(m);
  const std::unique_ptr<Workspace> workspace = *Workspace::Open(module, 1);
  const std::unique_ptr<Sequence> twin = *Sequence::Open(module, "twin"), other = *Sequence::Open(module, "short");
  std::vector<float> row(kVocabulary);
  EXPECT_TRUE(workspace->Step(*twin, {1}, {0}, absl::MakeSpan(row)).ok());
  const absl::Status refused = workspace->Step(*other, {1}, {0}, absl::MakeSpan(row));
  EXPECT_EQ(refused.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(
      std::string(refused.message()),
      HasSubstr(
          "entry \"main\": a sequence opened for entry \"short\", whose states are others; open one for \"main\""));
  EXPECT_EQ(workspace->Prefill(*other, {1, 2, 3}, {}).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(other->position(), 0);

  const int32_t ids[] = {1}, positions[] = {0}, rows[] = {0};
  const auto run = [&](const EntryStates& states) {
    return workspace->Run(module->entries()[0], {1, 0, 1, 7}, {ids, positions, rows}, {row.data()}, states).code();
  };
  const std::unique_ptr<Sequence> own = *Sequence::Open(module);
  EXPECT_EQ(run(own->states()), absl::StatusCode::kOk);
  EXPECT_EQ(run(twin->states()), absl::StatusCode::kOk);
  EXPECT_EQ(run(other->states()), absl::StatusCode::kInternal);
  EXPECT_EQ(run({}), absl::StatusCode::kInternal);
  EXPECT_EQ(run({&module->entries()[0], {}}), absl::StatusCode::kInternal);
  const Module another = OpenOrDie(m);
  const std::unique_ptr<Sequence> foreign = *Sequence::Open(another);
  EXPECT_EQ(run(foreign->states()), absl::StatusCode::kInternal);
}

TEST(Generator, RefusesASamplerOfAnotherVocabulary) {
  const Module module = OpenOrDie(LanguageModel());
  const std::unique_ptr<Workspace> workspace = *Workspace::Open(module, 1);
  const std::unique_ptr<Sequence> sequence = *Sequence::Open(module);
  for (int32_t size : {1, 6, 8}) {
    Sampler other = *Sampler::Create({.temperature = 1, .repeat_penalty = 1.1}, size);
    const absl::Status refused = Generator::Create(*workspace, *sequence, other, {}, nullptr).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kOutOfRange);
    EXPECT_EQ(refused.message(), absl::StrCat("the sampler is for a vocabulary of ", size, ", the model's is 7"));
  }
}

// As for a vocabulary of a kind that Tokenizer::Create refuses.
TEST(Generator, EndTokensNeedNoTokenizer) {
  const Module module = OpenOrDie(LanguageModel());
  const std::unique_ptr<Workspace> workspace = *Workspace::Open(module, 1);
  const auto generate = [&](const std::vector<int32_t>& end_ids) {
    const std::unique_ptr<Sequence> sequence = *Sequence::Open(module);
    Sampler sampler = *Sampler::Create({.temperature = 0}, kVocabulary);
    Generator generator = *Generator::Create(*workspace, *sequence, sampler, end_ids, nullptr);
    EXPECT_TRUE(generator.Prefill({1, 2}).ok());
    std::vector<int32_t> ids;
    const auto emit = [](void* out, int32_t id, absl::string_view) {
      static_cast<std::vector<int32_t>*>(out)->push_back(id);
      return true;
    };
    const StopReason reason = *generator.Generate({.max_tokens = 3}, emit, &ids);
    return std::pair(reason, ids);
  };
  const auto [length, three] = generate({});
  EXPECT_EQ(length, StopReason::kLength);
  ASSERT_EQ(three.size(), 3u);
  ASSERT_NE(three[0], three[1]);
  TokenizerData data;
  data.kind = "gpt2";
  EXPECT_EQ(Tokenizer::Create(data).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(generate(*data.EndIds()), std::pair(length, three));
  const std::pair stopped(StopReason::kEndToken, std::vector<int32_t>{three[0]});
  data.eos = three[1];
  EXPECT_EQ(generate(*data.EndIds()), stopped);
  data.eos.reset();
  data.end_ids = {three[1]};
  EXPECT_EQ(generate(*data.EndIds()), stopped);
}

}  // namespace
}  // namespace sinter
