// Target module: compiled modules through the loader, and what is read of them before code runs.
//
// Everything that inspection reads, dims at both ends of their ranges, workspace and sequences. Nothing of the code
// runs: a module is a program.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/file.h"
#include "fuzz/module_mutator.h"
#include "fuzz/target.h"
#include "runtime/module.h"
#include "runtime/module_format.h"
#include "runtime/workspace.h"
#include "tests/module_builder.h"

namespace sinter::fuzz {
namespace {

using testing::Factor;
using testing::KernelStep;
using testing::LanguageModel;
using testing::List;
using testing::Number;
using testing::Param;
using testing::State;
using testing::Symbol;

// One of everything that the language model has not: sums in extents, lanes, spaces, blocks, texts.
fbs::MetadataT Everything() {
  fbs::MetadataT m = testing::BaseMetadata();
  fbs::ExprT sum = Symbol(testing::kT);
  sum.terms.push_back(std::move(Number(3).terms[0]));
  sum.terms.push_back(std::move(Symbol(testing::kP).terms[0]));
  sum.terms[2]->symbols.push_back(testing::kL);
  std::vector<fbs::FactorT> extent = List(Factor(std::move(sum), 4), Factor(Symbol(testing::kT), 16));
  extent[1].lane = 1;
  fbs::StepT step = KernelStep(testing::kAdd, fbs::StepMode_Replicated, true, std::move(extent),
                               {{fbs::Space_Arena, 64}, {fbs::Space_Thread, 128}, {fbs::Space_Weights, 0}});
  step.name = "y";
  step.loc = "blk.0.ffn";
  fbs::EntryT entry = testing::MakeEntry(
      "work", List(Param("x", "f32", List(Symbol(testing::kT), Number(8)))),
      List(Param("y", "f16", List(Symbol(testing::kT)))), List(State("kv", "q8_0", {2, 256, 32}, 1, 2 * 256 * 34)),
      List(std::move(step), KernelStep(testing::kCopy, fbs::StepMode_Split, false, {},
                                       {{fbs::Space_Input, 0}, {fbs::Space_Output, 0}, {fbs::Space_State, 0}})));
  entry.symbols = {testing::kP};
  m.entries.push_back(std::make_unique<fbs::EntryT>(std::move(entry)));
  m.architecture = "llama";
  m.layers = 1;
  m.trained_context = 256;
  m.images[0]->scratch_bytes = 4096;
  m.kernels[0]->note = "tile";
  return m;
}

fbs::MetadataT WithVocabulary() {
  fbs::MetadataT m = LanguageModel();
  m.tokenizer = std::make_unique<fbs::TokenizerT>();
  m.tokenizer->model = "llama";
  m.tokenizer->tokens = {"<unk>", "<s>", "</s>", "<0x0A>", "a", "\u2581", "\u2581a"};
  m.tokenizer->scores = {0, 0, 0, 0, -1, -2, -0.5f};
  m.tokenizer->types = {2, 3, 3, 6, 1, 1, 1};
  m.tokenizer->unk = 0;
  m.tokenizer->bos = 1;
  m.tokenizer->eos = 2;
  m.tokenizer->end_of_generation = {2};
  m.tokenizer->add_bos = true;
  return m;
}

}  // namespace

std::vector<Seed> Seeds() {
  std::vector<Seed> seeds;
  const auto add = [&seeds](const char* name, const fbs::MetadataT& metadata) {
    const std::vector<uint8_t> bytes = testing::ModuleBytes(metadata);
    seeds.push_back({name, {bytes.begin(), bytes.end()}});
  };
  add("language_model", LanguageModel());
  add("everything", Everything());
  add("vocabulary", WithVocabulary());
  // Found once: a module opened without a target was taken for one opened for inspection.
  fbs::MetadataT no_target = LanguageModel();
  no_target.images[0]->target = "";
  add("image_without_target", no_target);
  // Found once: the product of dims that a factor of 0 is multiplied with passed 64 bits.
  fbs::MetadataT zero = LanguageModel();
  zero.dims[0]->max = zero.dims[1]->max = int64_t{1} << 60;
  fbs::ExprT product = Symbol(testing::kT);
  product.terms[0]->coefficient = 0;
  product.terms[0]->symbols.push_back(testing::kP);
  zero.entries[0]->steps[0]->extent[0]->expr = std::make_unique<fbs::ExprT>(std::move(product));
  add("dims_times_zero", zero);
  return seeds;
}

namespace {

// The bytes in a memory file, mapped as any file is.
MappedFile Mapped(absl::string_view bytes) {
  static const int descriptor = memfd_create("m.sinter", MFD_CLOEXEC);
  const bool written = ftruncate(descriptor, 0) == 0 &&
                       pwrite(descriptor, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size());
  Expect(written, "a memory file is written");
  auto file = MappedFile::FromDescriptor(descriptor, "m.sinter");
  Expect(file.ok(), "a memory file is mapped");
  return *std::move(file);
}

void ExpectRefusal(const absl::Status& status, absl::string_view what) {
  Expect(absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status) || absl::IsUnimplemented(status) ||
             absl::IsResourceExhausted(status) || absl::IsNotFound(status),
         absl::StrCat(what, " refuses with ", status.ToString()));
  Expect(!status.message().empty(), absl::StrCat(what, " says why it refuses"));
}

// Dims at one end of their ranges, and what is computed from them before a kernel is called.
void ComputeWith(const CompiledModule& module, const LoadedEntry& entry, bool largest) {
  std::vector<int64_t> dims;
  for (const LoadedDim& dim : module.dims()) dims.push_back(largest ? dim.max : dim.min);
  module.CheckDims(entry, dims).IgnoreError();
  for (const LoadedStep& step : entry.steps) Expect(step.Grains(dims.data()) >= 0, "a step has no fewer grains than 0");
  std::vector<std::vector<int64_t>> shapes;
  for (const LoadedParam& input : entry.inputs) {
    std::vector<int64_t>& shape = shapes.emplace_back();
    for (const DimSum& dim : input.dims) shape.push_back(dim.Evaluate(dims.data()));
  }
  const std::vector<int64_t> bound = dims;
  std::fill(dims.begin(), dims.end(), -1);
  for (const auto& known : {dims, bound}) {
    std::vector<int64_t> found = known;
    module.FindEntry(entry.name, shapes, found);
  }
}

// What code and weights of the metadata lie in, which opening itself does not read.
void ExpectInSections(const fbs::MetadataT& m, absl::string_view bytes) {
  FileHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  for (const auto& weight : m.weights) {
    Expect(Fits(weight->offset, weight->bytes, header.weights.size), "a weight lies in its section");
  }
  for (const auto& image : m.images) {
    Expect(Fits(image->offset, image->size, header.code.size), "an image lies in its section");
    for (uint64_t at : image->entry_points) Expect(at < image->size, "a kernel begins in its image");
  }
}

void Run(absl::string_view bytes) {
  auto opened = CompiledModule::FromFile(Mapped(bytes));
  if (!opened.ok()) return ExpectRefusal(opened.status(), "FromFile");
  const std::shared_ptr<const CompiledModule> module = *std::move(opened);
  // Every field, as inspection reads them.
  const std::unique_ptr<fbs::MetadataT> metadata(module->metadata().UnPack());
  Expect(metadata->entries.size() == module->entries().size(), "every entry is loaded");
  ExpectInSections(*metadata, bytes);
  for (const LoadedEntry& entry : module->entries()) {
    ComputeWith(*module, entry, false);
    ComputeWith(*module, entry, true);
  }
  module->VerifyWeights().IgnoreError();
  if (auto data = module->tokenizer(); data.ok()) {
    const auto tokenizer = Tokenizer::Create(*std::move(data));
    if (!tokenizer.ok()) ExpectRefusal(tokenizer.status(), "Tokenizer::Create");
    if (tokenizer.ok()) Expect(tokenizer->Encode(" a\xff<s>", /*special=*/true).ok(), "any text can be encoded");
  }
  const auto workspace = Workspace::Open(module, 1);
  if (!workspace.ok()) ExpectRefusal(workspace.status(), "Workspace::Open");
  for (const LoadedEntry& entry : module->entries()) {
    const auto sequence = Sequence::Open(module, entry.name);
    if (!sequence.ok()) ExpectRefusal(sequence.status(), "Sequence::Open");
  }
}

}  // namespace
}  // namespace sinter::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sinter::fuzz::Run(sinter::fuzz::View(data, size));
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return sinter::fuzz::MutateOr(data, size, max_size, seed, [](absl::string_view bytes, sinter::Dice& dice) {
    return sinter::fuzz::MutateModule(bytes, sinter::fuzz::ModuleReach::kAll, dice);
  });
}
