// Changes compiled modules field by field: every number, text, list and vector of the metadata, the header, the bytes
// of the sections; and puts them together again with true checksums, or leaves them lying.
//
// The same bytes, options and dice make the same bytes.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "tests/dice.h"

namespace sinter::fuzz {

// What may be changed under checksums that are made true again.
enum class ModuleReach {
  kAll,
  // Nothing that kernels trust. A module is a program: how far a kernel reaches from an operand's offset, in a state of
  // stated size, for dims of a stated range, is its own promise (runtime/module_check.h), and so is its code. Left are
  // names, the vocabulary, the table of weights and what is told to people; memory may be stated larger; weights may
  // hold any bytes; and header, metadata and code may hold any bytes under checksums that are then false.
  kHarmless,
};

std::string MutateModule(absl::string_view bytes, ModuleReach reach, Dice& dice);

}  // namespace sinter::fuzz
