// --check-each: does a module still mean the same after a pass?
//
// Called by the instruments of RunPipeline. Every entry runs through the evaluator before and after on the same random
// inputs at small dims (T=3, P=2, L=2 and 3 for other symbols, as far as ranges and bounds allow), float values in
// double. Integers stay within the tables that they index; positions are P, P+1, ... An entry NAME.N that was not
// there before is compared with NAME at the dims of its own parameters. Tolerance: 1e-5 of the largest value of a
// result, or what its element type can tell apart where that is coarser.
#pragma once

#include "absl/status/status.h"
#include "ir/eval.h"
#include "ir/graph.h"

namespace sinter {

// What an integer parameter may hold, by what it is used for: rows of a table, or positions of a cache.
struct IndexRange {
  int64_t end = 4;  // exclusive; an invented value where nothing is indexed
  bool indexes = false;
  bool position = false;
};
// `dims`: a value of every symbol that the graph's types mention.
IndexRange IndexRangeOf(const Graph& graph, ValueId param, const IdMap<DimId, int64_t>& dims);

// kAborted names the entry, the result, the place and the first value of the entry that differs. Without `weights` each
// weight is random, of the type that the module declares. With Precision::kUnrounded roundings make no difference.
absl::Status CheckSameMeaning(const Module& before, const Module& after, const WeightReader& weights,
                              Precision precision = Precision::kDouble);

}  // namespace sinter
