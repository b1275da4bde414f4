// The mutators: what they leave alone, what they keep whole, and that enough of what they make passes the first gates.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "frontend/gguf.h"
#include "fuzz/gguf_mutator.h"
#include "fuzz/gguf_seeds.h"
#include "fuzz/module_mutator.h"
#include "fuzz/sir_seeds.h"
#include "fuzz/text_mutator.h"
#include "ir/text.h"
#include "runtime/module_format.h"
#include "tests/module_builder.h"

namespace sinter::fuzz {
namespace {

constexpr int kMutations = 500;

absl::Span<const uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

TEST(GgufImage, WritesWhatItRead) {
  for (const Seed& seed : GgufSeeds()) EXPECT_EQ(GgufImage::Read(seed.bytes).Write(), seed.bytes) << seed.name;
}

TEST(GgufImage, KeepsWhatCanBeReadOfAFileThatIsCutOff) {
  const std::string file = GgufSeeds()[0].bytes;
  const GgufImage whole = GgufImage::Read(file), part = GgufImage::Read(file.substr(0, file.size() / 4));
  EXPECT_FALSE(part.keys.empty());
  EXPECT_LT(part.keys.size(), whole.keys.size());
  EXPECT_TRUE(GgufImage::Read("").keys.empty());
}

TEST(Mutators, RepeatFromASeedAndChangeSomething) {
  const std::vector<Seed> texts = TextSeeds();
  const std::string file = GgufSeeds()[2].bytes;
  const std::vector<GgufImage> donors = {GgufImage::Read(file)};
  int changed = 0;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    Dice a(seed), b(seed), c(seed), d(seed);
    const std::string mutated = MutateGguf(file, donors, a);
    EXPECT_EQ(mutated, MutateGguf(file, donors, b));
    EXPECT_EQ(MutateText(texts[0].bytes, texts, c), MutateText(texts[0].bytes, texts, d));
    changed += mutated != file;
  }
  EXPECT_GT(changed, 40);
}

// Of so many mutations, how many are accepted.
template <typename Mutate, typename Accepts>
int Accepted(Mutate mutate, Accepts accepts) {
  Dice dice(1);
  int accepted = 0;
  for (int i = 0; i < kMutations; ++i) accepted += accepts(mutate(dice));
  return accepted;
}

TEST(Mutators, ManyFilesPassTheFirstGatesAndManyDoNot) {
  const std::vector<Seed> files = GgufSeeds();
  std::vector<GgufImage> donors;
  for (const Seed& seed : files) donors.push_back(GgufImage::Read(seed.bytes));
  const int accepted = Accepted([&](Dice& dice) { return MutateGguf(dice.Pick(files).bytes, donors, dice); },
                                [](const std::string& file) { return Gguf::Parse(Bytes(file), "m.gguf").ok(); });
  EXPECT_GT(accepted, kMutations / 4);
  EXPECT_LT(accepted, kMutations * 9 / 10);
}

TEST(Mutators, ManyTextsAreModulesAndManyAreNot) {
  const std::vector<Seed> texts = TextSeeds();
  const int accepted = Accepted([&](Dice& dice) { return MutateText(dice.Pick(texts).bytes, texts, dice); },
                                [](const std::string& text) { return Parse(text, "m.sir").ok(); });
  EXPECT_GT(accepted, kMutations / 10);
  EXPECT_LT(accepted, kMutations * 9 / 10);
}

std::string Module() {
  fbs::MetadataT m = testing::LanguageModel();
  m.tokenizer = std::make_unique<fbs::TokenizerT>();
  m.tokenizer->model = "llama";
  m.tokenizer->tokens = {"<unk>", "a"};
  const std::vector<uint8_t> bytes = testing::ModuleBytes(m);
  return {bytes.begin(), bytes.end()};
}

std::shared_ptr<const CompiledModule> Opened(const std::string& file) {
  const auto opened = testing::OpenBytes({file.begin(), file.end()});
  return opened.ok() ? *opened : nullptr;
}

TEST(Mutators, ManyModulesPassTheChecksumsAndManyDoNot) {
  const std::string module = Module();
  const int accepted = Accepted([&](Dice& dice) { return MutateModule(module, ModuleReach::kAll, dice); },
                                [](const std::string& file) { return Opened(file) != nullptr; });
  EXPECT_GT(accepted, kMutations / 10);
  EXPECT_LT(accepted, kMutations * 9 / 10);
}

// What kernels are given, as text: all that a run of the module computes from.
std::string WhatKernelsTrust(const CompiledModule& module) {
  std::unique_ptr<fbs::MetadataT> m(module.metadata().UnPack());
  for (auto& entry : m->entries) {
    entry->name.clear();
    for (auto* params : {&entry->inputs, &entry->outputs}) {
      for (auto& param : *params) param->name.clear();
    }
    for (auto& state : entry->states) state->name.clear();
    for (auto& step : entry->steps) step->name = step->loc = "";
  }
  for (auto& image : m->images) image->target.clear(), image->features.clear();
  for (auto& kernel : m->kernels) kernel->name = kernel->family = kernel->note = "";
  for (std::string* text :
       {&m->producer, &m->command, &m->source, &m->source_sha256, &m->model_name, &m->architecture, &m->options}) {
    text->clear();
  }
  m->layers = 0;
  m->trained_context = m->arena_bytes = m->thread_bytes = 0;
  m->tokenizer.reset();
  m->weights.clear();
  flatbuffers::FlatBufferBuilder builder;
  builder.Finish(fbs::Metadata::Pack(builder, m.get()));
  return {builder.GetBufferPointer(), builder.GetBufferPointer() + builder.GetSize()};
}

TEST(Mutators, HarmlessModulesGiveKernelsWhatTheyTrust) {
  const std::string file = Module();
  const std::shared_ptr<const CompiledModule> original = Opened(file);
  ASSERT_NE(original, nullptr);
  const std::string trusted = WhatKernelsTrust(*original);
  const auto code_of = [](const std::string& bytes) {
    FileHeader header;
    std::memcpy(&header, bytes.data(), sizeof header);
    return bytes.substr(header.code.offset, header.code.size);
  };
  const std::string code = code_of(file);
  Dice dice(1);
  int opened = 0;
  for (int i = 0; i < 4 * kMutations; ++i) {
    const std::string mutated = MutateModule(file, ModuleReach::kHarmless, dice);
    const std::shared_ptr<const CompiledModule> module = Opened(mutated);
    if (module == nullptr) continue;
    ++opened;
    EXPECT_EQ(WhatKernelsTrust(*module), trusted);
    EXPECT_EQ(code_of(mutated), code);
    EXPECT_GE(module->metadata().arena_bytes(), original->metadata().arena_bytes());
    EXPECT_GE(module->metadata().thread_bytes(), original->metadata().thread_bytes());
  }
  EXPECT_GT(opened, kMutations);
}

}  // namespace
}  // namespace sinter::fuzz
