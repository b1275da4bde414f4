// Makes an input that fails smaller, as long as it fails in the same way (Outcome::where).
//
// Called by graph_fuzz.cc and fuzz_test.cc. Tried over and over until nothing helps: fewer passes, no code, fewer
// results, an op's result as a parameter, an op's result replaced by one of its operands, symbols as numbers, smaller
// numbers. Deterministic.
#pragma once

#include <functional>

#include "tests/fuzzer.h"

namespace sinter {

using TryFunction = std::function<Outcome(const FuzzInput&)>;

struct ShrinkLimits {
  int64_t tries = 3000;
  double seconds = 60;
};

// `outcome` becomes that of the result.
FuzzInput Shrink(FuzzInput input, Outcome& outcome, const TryFunction& attempt, const ShrinkLimits& limits = {});

}  // namespace sinter
