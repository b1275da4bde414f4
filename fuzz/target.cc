#include "fuzz/target.h"

#include <cstdio>
#include <cstdlib>

namespace sinter::fuzz {

void Expect(bool holds, absl::string_view what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz target: not as expected: %.*s\n", static_cast<int>(what.size()), what.data());
  std::abort();
}

void Touch(absl::Span<const uint8_t> bytes) {
  [[maybe_unused]] static volatile uint8_t sink;
  uint8_t sum = 0;
  for (uint8_t byte : bytes) sum = static_cast<uint8_t>(sum + byte);
  sink = sum;
}

void Touch(absl::string_view text) { Touch({reinterpret_cast<const uint8_t*>(text.data()), text.size()}); }

}  // namespace sinter::fuzz
