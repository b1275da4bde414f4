#include "fuzz/campaign_files.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "fuzz/gguf_mutator.h"
#include "fuzz/module_mutator.h"
#include "fuzz/sir_seeds.h"
#include "fuzz/text_mutator.h"
#include "tests/tiny_models.h"

namespace sinter::fuzz {
namespace {

// The ways in which a file of each format is given to the program.
struct Way {
  Format format;
  Verb verb;
  std::vector<std::string> arguments;
  int weight;  // how often, of 100 of the format
};
const std::vector<Way>& Ways() {
  static const auto& ways = *new std::vector<Way>{
      {Format::kGguf, Verb::kInspect, {}, 30},
      {Format::kGguf, Verb::kInspect, {"--json"}, 20},
      {Format::kGguf, Verb::kRun, {"--no-cache", "-t1", "-n2", "--temp=0", "-pab a"}, 30},
      {Format::kGguf,
       Verb::kRun,
       {"--no-cache", "-t1", "-n1", "--seed=1", "-O0", "--prompt-ids=1,2", "--logits=out"},
       20},
      {Format::kModule, Verb::kInspect, {}, 25},
      {Format::kModule, Verb::kInspect, {"--json", "--verify"}, 25},
      {Format::kModule, Verb::kRun, {"--no-cache", "-t1", "-n4", "--temp=0", "-pab a"}, 25},
      {Format::kModule, Verb::kRun, {"--no-cache", "-t2", "-n4", "--seed=1", "--prompt-ids=1,2", "--logits=out"}, 25},
      {Format::kText, Verb::kOpt, {"-o", "out"}, 40},
      {Format::kText, Verb::kOpt, {"-o", "out", "--passes=O1", "--target=avx2"}, 30},
      {Format::kText, Verb::kOpt, {"-o", "out", "--passes=O2", "--target=avx512"}, 30},
  };
  return ways;
}

const Way& WayFor(Format format, Dice& dice) {
  int64_t left = dice.Below(100);
  for (const Way& way : Ways()) {
    if (way.format == format && (left -= way.weight) < 0) return way;
  }
  return Ways().back();  // not reached: weights sum to 100
}

}  // namespace

absl::string_view NameOf(Format format) {
  constexpr absl::string_view kNames[] = {"gguf", "sinter", "sir"};
  return kNames[static_cast<size_t>(format)];
}
absl::string_view NameOf(Verb verb) {
  constexpr absl::string_view kNames[] = {"run", "inspect", "opt"};
  return kNames[static_cast<size_t>(verb)];
}

absl::StatusOr<CampaignFiles> CampaignFiles::Make(const std::string& folder, const Compile& compile) {
  CampaignFiles files;
  const auto add = [&files](std::string name, std::string bytes, Format format) {
    files.of_format_[static_cast<size_t>(format)].push_back(files.originals_.size());
    files.originals_.push_back({std::move(name), std::move(bytes), format});
  };
  std::vector<TinyCase> models = TinyCases();
  for (TinyCase& model : QuantizedCases()) models.push_back(std::move(model));
  for (const TinyCase& model : models) {
    const std::string bytes = MakeTinyModel(model.options).File();
    files.images_.push_back(GgufImage::Read(bytes));
    add(absl::StrCat(model.name, ".gguf"), bytes, Format::kGguf);
    const std::string path = absl::StrCat(folder, "/", model.name);
    SINTER_RETURN_IF_ERROR(WriteFile(path + ".gguf", bytes));
    SINTER_RETURN_IF_ERROR(compile({path + ".gguf", "-o", path + ".sinter"}));
    SINTER_ASSIGN_OR_RETURN(std::string module, ReadFile(path + ".sinter"));
    add(absl::StrCat(model.name, ".sinter"), std::move(module), Format::kModule);
  }
  for (Seed& text : TextSeeds()) {
    // Those that are wrong on purpose are no originals.
    if (!absl::StrContains(text.name, "fail_")) files.texts_.push_back(std::move(text));
  }
  for (const char* stage : {"sir", "kernels", "planned"}) {
    for (const char* model : {"llama", "gpt2", "q4_k_mixed"}) {
      const std::string path = absl::StrCat(folder, "/", model, "_", stage, ".sir");
      SINTER_RETURN_IF_ERROR(
          compile({absl::StrCat(folder, "/", model, ".gguf"), absl::StrCat("--emit=", stage), "-o", path}));
      SINTER_ASSIGN_OR_RETURN(std::string text, ReadFile(path));
      files.texts_.push_back({absl::StrCat(model, "_", stage, ".sir"), std::move(text)});
    }
  }
  for (const Seed& text : files.texts_) add(text.name, text.bytes, Format::kText);
  return files;
}

std::string CampaignFiles::Mutate(const Original& original, Verb verb, Dice& dice) const {
  const int64_t how = dice.Below(100);
  if (how < 10) return OddBytes(original.bytes, dice);
  if (how < 15) {  // the beginning of one, the end of another
    const Original& other = dice.Pick(originals_);
    const size_t cut = static_cast<size_t>(dice.Below(static_cast<int64_t>(original.bytes.size())));
    return original.bytes.substr(0, cut) + other.bytes.substr(std::min(cut, other.bytes.size()));
  }
  switch (original.format) {
    case Format::kGguf:
      return MutateGguf(original.bytes, images_, dice);
    case Format::kModule:
      return MutateModule(original.bytes, verb == Verb::kRun ? ModuleReach::kHarmless : ModuleReach::kAll, dice);
    case Format::kText:
      return MutateText(original.bytes, texts_, dice);
  }
  return original.bytes;
}

Case CampaignFiles::Draw(uint64_t seed, int64_t i) const {
  Dice dice(SeedFor(seed, absl::StrCat("case ", i)));
  const int64_t format = dice.Below(100);
  const auto chosen = format < 38 ? Format::kGguf : format < 70 ? Format::kModule : Format::kText;
  Case drawn;
  drawn.original = dice.Pick(of_format_[static_cast<size_t>(chosen)]);
  const Way& way = WayFor(chosen, dice);
  drawn.verb = way.verb;
  drawn.arguments = way.arguments;
  drawn.bytes = Mutate(originals_[drawn.original], way.verb, dice);
  return drawn;
}

}  // namespace sinter::fuzz
