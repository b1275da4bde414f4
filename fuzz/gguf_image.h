// A GGUF file taken apart so that it can be changed and put together again, honest or lying.
//
// Called by the mutators, by seeds and by the campaign. Reading is lenient: what cannot be read ends the file, and what
// was read up to there stays. Writing lays out everything anew: counts, lengths, dims' data and offsets agree, except
// where a field says to lie.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace sinter::fuzz {

struct GgufImage {
  struct Key {
    std::string name;
    uint32_t type = 0;  // of the value, or of the array's elements
    bool is_array = false;
    std::vector<std::string> items;              // one of a scalar; bytes of numbers, content of strings
    std::optional<uint64_t> stated_count = {};   // of an array: in place of the true one
    std::optional<uint64_t> stated_length = {};  // of the last string: in place of the true one
  };
  struct Tensor {
    std::string name;
    std::vector<uint64_t> dims;  // in the file's order, innermost first
    uint32_t type = 0;
    std::string data;
    std::optional<uint64_t> stated_offset = {};  // from the start of the data
    std::optional<uint32_t> stated_rank = {};
  };

  uint32_t version = 3;
  std::vector<Key> keys;
  std::vector<Tensor> tensors;
  std::optional<uint64_t> stated_keys = {}, stated_tensors = {};

  static GgufImage Read(absl::string_view bytes);
  std::string Write() const;

  // Makes the data of a tensor as long as its dims and type say, by repeating or cutting it, where that is at most
  // `max_bytes` and the type is known.
  static void FitData(Tensor& tensor, uint64_t max_bytes);
  // What general.alignment says, where it says something that can be.
  uint64_t Alignment() const;
};

// Bytes of a number of this GGUF value type; 0 for strings, arrays and types that are none.
size_t NumberBytes(uint32_t type);

inline constexpr uint32_t kStringType = 8, kArrayType = 9, kNumValueTypes = 13;

}  // namespace sinter::fuzz
