// Texts of modules from which the targets sir and opt start: the golden files and the example of the documents.
#pragma once

#include <vector>

#include "fuzz/target.h"

namespace sinter::fuzz {

// Of the golden files those of at most 16 KB, up to what they expect. In the order of their names.
std::vector<Seed> TextSeeds();

}  // namespace sinter::fuzz
