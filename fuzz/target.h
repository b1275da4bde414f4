// A fuzz target: bytes in, nothing out; whatever it finds ends the process. NAME_fuzz.cc is one target and defines the
// functions below; libFuzzer calls them in NAME_fuzz, replay.cc in NAME_replay.
//
// A target takes any bytes. What it expects of the code it calls is said by Expect: that a run ends, and stays within
// time and memory, is libFuzzer's to judge, and what the sanitizers see is theirs. It holds no state from one call to
// the next, so that one input repeats a finding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "tests/dice.h"

extern "C" {
int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
// Optional: changes data[0, size) to at most `max_size` bytes, decided by `seed`; returns how many.
size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed);
// libFuzzer's own mutations, which know nothing of formats. replay.cc has a plain stand-in.
size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);
}

namespace sinter::fuzz {

// What a target's fuzzing starts from.
struct Seed {
  std::string name;  // of a file
  std::string bytes;
};
std::vector<Seed> Seeds();  // defined by each target

// Says what was wrong and aborts, unless `holds`.
void Expect(bool holds, absl::string_view what);

// Reads every byte of it, so that a sanitizer sees what lies outside.
void Touch(absl::Span<const uint8_t> bytes);
void Touch(absl::string_view text);

inline absl::string_view View(const uint8_t* data, size_t size) { return {reinterpret_cast<const char*>(data), size}; }

// What most custom mutators are: one time in three libFuzzer's own mutation, else `mutate` of the bytes as text, which
// returns new bytes. Bytes past `max_size` are cut off.
template <typename Mutate>
size_t MutateOr(uint8_t* data, size_t size, size_t max_size, unsigned seed, Mutate mutate) {
  Dice dice(seed);
  if (dice.Chance(33)) return LLVMFuzzerMutate(data, size, max_size);
  const std::string bytes = mutate(View(data, size), dice);
  const size_t kept = bytes.copy(reinterpret_cast<char*>(data), max_size);
  return kept;
}

}  // namespace sinter::fuzz
