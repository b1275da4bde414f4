// Target sir: IR text through parser, verifier and printer, and back.
//
// What parses prints; what was printed parses again, and prints the same.
#include "absl/strings/str_cat.h"
#include "fuzz/sir_seeds.h"
#include "fuzz/target.h"
#include "fuzz/text_mutator.h"
#include "ir/hash.h"
#include "ir/text.h"
#include "ir/verifier.h"

namespace sinter::fuzz {

std::vector<Seed> Seeds() { return TextSeeds(); }

namespace {

void Run(absl::string_view text) {
  const auto module = Parse(text, "m.sir");
  if (!module.ok()) {
    Expect(absl::IsInvalidArgument(module.status()), absl::StrCat("Parse refuses with ", module.status().ToString()));
    return;
  }
  Expect(Verify(**module).ok(), "Parse verifies");
  const std::string printed = Print(**module);
  const auto again = Parse(printed, "printed.sir");
  Expect(again.ok(), absl::StrCat("what was printed parses: ", again.status().message()));
  Expect(Print(**again) == printed, "what was printed prints the same");
  Expect(HashModule(**module) == HashModule(**again), "text that prints the same has the same hash");
}

}  // namespace
}  // namespace sinter::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sinter::fuzz::Run(sinter::fuzz::View(data, size));
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  static const auto& donors = *new std::vector<sinter::fuzz::Seed>(sinter::fuzz::Seeds());
  return sinter::fuzz::MutateOr(data, size, max_size, seed, [](absl::string_view text, sinter::Dice& dice) {
    return sinter::fuzz::MutateText(text, donors, dice);
  });
}
