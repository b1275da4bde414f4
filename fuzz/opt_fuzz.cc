// Target opt: IR text through the passes of -O0, -O1 or -O2, which the first byte chooses.
//
// A pass refuses what it cannot handle or no memory holds, or leaves a module that is verified; a plan that was made
// passes the independent check.
#include "absl/strings/str_cat.h"
#include "fuzz/sir_seeds.h"
#include "fuzz/target.h"
#include "fuzz/text_mutator.h"
#include "ir/text.h"
#include "passes/pipeline.h"
#include "passes/plan_check.h"

namespace sinter::fuzz {
namespace {

constexpr const char* kPipelines[] = {"O0", "O1", "O2"};
constexpr char kFirst = '0';

}  // namespace

std::vector<Seed> Seeds() {
  std::vector<Seed> seeds;
  for (Seed& seed : TextSeeds()) {
    const char pipeline = static_cast<char>(kFirst + static_cast<char>(seeds.size() % std::size(kPipelines)));
    seeds.push_back({seed.name, absl::StrCat(std::string(1, pipeline), seed.bytes)});
  }
  return seeds;
}

namespace {

void Run(absl::string_view input) {
  if (input.empty()) return;
  const auto chosen = static_cast<size_t>(static_cast<unsigned char>(input[0] - kFirst)) % std::size(kPipelines);
  const auto module = Parse(input.substr(1), "m.sir");
  if (!module.ok()) return;
  // A text of a later stage takes the passes from there on.
  auto passes = ParsePipeline(kPipelines[chosen], Stage::kGraph);
  const auto targets = ParseTargets("avx2,avx512");
  Expect(passes.ok() && targets.ok(), "pipelines and targets have these names");
  while (!passes->empty() && passes->front()->from != (*module)->stage) passes->erase(passes->begin());
  if (passes->empty()) return;
  PassContext context{.targets = *targets, .fast = (input[0] & 1) != 0};
  PipelineOptions options;
  options.repro_path = "";
  const auto records = RunPipeline(**module, *passes, context, options);
  if (!records.ok()) {
    const bool expected = absl::IsUnimplemented(records.status()) || absl::IsResourceExhausted(records.status());
    Expect(expected, absl::StrCat("passes fail with ", records.status().ToString()));
    return;
  }
  const absl::Status plan = CheckPlan(**module);
  Expect(plan.ok(), absl::StrCat("the plan that was made is none: ", plan.message()));
}

}  // namespace
}  // namespace sinter::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sinter::fuzz::Run(sinter::fuzz::View(data, size));
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  static const auto& donors = *new std::vector<sinter::fuzz::Seed>(sinter::fuzz::TextSeeds());
  if (size == 0 || seed % 16 == 0) return LLVMFuzzerMutate(data, size, max_size);
  return 1 +
         sinter::fuzz::MutateOr(data + 1, size - 1, max_size - 1, seed, [](absl::string_view text, sinter::Dice& dice) {
           return sinter::fuzz::MutateText(text, donors, dice);
         });
}
