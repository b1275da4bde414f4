// Small GGUF files from which the target gguf starts: models of each architecture, vocabularies, and every type of
// value.
#pragma once

#include <vector>

#include "fuzz/target.h"

namespace sinter::fuzz {

// A few KB each.
std::vector<Seed> GgufSeeds();

}  // namespace sinter::fuzz
