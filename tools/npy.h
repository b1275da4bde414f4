// NumPy's .npy files, version 1.0: what `run --logits` writes and `exec` reads and writes.
// Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "ir/eval.h"

namespace sinter {

// A C-order array of f4, f8, f2, i1, u1, i4, i8 or b1, little-endian, of at most limits::kRank dims, as a tensor.
// kInvalidArgument with the place for anything else: `x.npy: at byte 10: the array is not in C order`.
absl::StatusOr<Tensor> ReadNpy(const std::string& path);
// The same of a file that lies in memory; `name` is for messages.
absl::StatusOr<Tensor> ParseNpy(absl::Span<const uint8_t> bytes, const std::string& name);
// In the tensor's own type (bf16 as float32).
absl::Status WriteNpy(const std::string& path, const Tensor& tensor);
absl::Status WriteNpy(const std::string& path, absl::Span<const float> values, const std::vector<int64_t>& dims);

}  // namespace sinter
