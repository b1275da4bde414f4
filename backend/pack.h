// Weight bytes as a compiled module holds them: packed from rows of the model file, streamed by ranges so that no
// tensor stands whole in memory. Layouts: packings.inc.
//
// Errors, beside those of readers and sinks: kInvalidArgument for a block of a quantized weight whose scale or minimum
// is not a finite number, which no product could be computed with.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "backend/target.h"
#include "ir/types.h"

namespace sinter {

// Reads rows [begin, end) of a tensor's first axis, as the file stores them, into exactly that many bytes.
using RowReader = std::function<absl::Status(int64_t begin, int64_t end, absl::Span<uint8_t> out)>;
// Receives packed bytes at an offset from the tensor's start.
using ByteSink = std::function<absl::Status(int64_t offset, absl::Span<const uint8_t> bytes)>;

// A tensor is packed in units that may run on different threads.
int64_t PackUnits(const Type& type, const Packing& packing);
// Packs unit `unit` of the weight `name`. Thread-safe when `read` and `sink` are.
absl::Status PackUnit(absl::string_view name, const Type& type, const Packing& packing, int64_t unit,
                      const RowReader& read, const ByteSink& sink);

}  // namespace sinter
