// Where the bytes of a model's tensors come from: a mapped GGUF file, or a preset, which makes them.
//
// Called by the graph writer (names, types, shapes), by weight packing (rows, from many threads at once) and, through
// MakeWeightReader, by the evaluator. Bytes are row-major, in the tensor's own element type or, where both are floats,
// rounded to another (nearest even); a row is one position of the first axis, so a vector has as many rows as elements.
// Reading the same rows gives the same bytes, always.
//
// Errors: kNotFound for a name that the source does not have, kOutOfRange for rows outside the tensor or a span of
// another size, kInvalidArgument for an element type that the tensor's cannot become, kUnimplemented for a tensor type
// that is not supported.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "frontend/gguf.h"
#include "ir/dtype.h"
#include "ir/eval.h"
#include "ir/graph.h"

namespace sinter {

struct TensorInfo {
  DType dtype = DType::kF32;
  std::vector<int64_t> dims;  // one or more, outermost first

  int64_t rows() const { return dims[0]; }
  int64_t row_elems() const;
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // "m.gguf" or "preset:NAME", as the module names it, and the SHA-256, in hex, that goes with it: of a file's header,
  // or of what a preset is made from.
  const std::string& path() const { return path_; }
  const std::string& digest() const { return digest_; }

  virtual absl::StatusOr<TensorInfo> Find(absl::string_view name) const = 0;
  // Writes rows [row_begin, row_end) as elements of `dtype` to `out`, which has exactly their size. Safe from many
  // threads at once.
  absl::Status Read(absl::string_view name, DType dtype, int64_t row_begin, int64_t row_end,
                    absl::Span<uint8_t> out) const;
  // The tensor will not be read again soon: its pages may go.
  virtual void Done(absl::string_view) const {}
  // kInvalidArgument when the file was written to since it was opened: what was read of it may not belong together.
  virtual absl::Status CheckUnchanged() const { return absl::OkStatus(); }

 protected:
  WeightSource(std::string path, std::string digest) : path_(std::move(path)), digest_(std::move(digest)) {}
  absl::Status NotFound(absl::string_view name) const;

 private:
  // `info` is that of the tensor; rows and size are checked.
  virtual absl::Status ReadRows(absl::string_view name, const TensorInfo& info, int64_t row_begin,
                                absl::Span<uint8_t> out) const = 0;

  std::string path_, digest_;
};

// The tensors of a file.
std::unique_ptr<WeightSource> MakeGgufWeights(std::shared_ptr<const Gguf> gguf);

// The source that a module names: a GGUF file or "preset:NAME". Does not check that the file is a model.
absl::StatusOr<std::unique_ptr<WeightSource>> OpenWeights(const std::string& path);

// Whether every weight op of the module's entries declares a tensor as the source has it: of the same shape, and of its
// element type or, where both are floats, another. kInvalidArgument otherwise. To be asked before rows are read, which
// says nothing of shapes.
absl::Status CheckWeights(const Module& module, const WeightSource& source);

// Whole tensors for the evaluator; the source must outlive the reader.
WeightReader MakeWeightReader(const WeightSource& source);

// The element type that a file's tensor type is, a float or a format of ir/quant.h; nothing for types that are not
// supported.
std::optional<DType> SupportedType(const GgmlType& type);

}  // namespace sinter
