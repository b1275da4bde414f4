// The reference evaluator: the meaning of the language. Slow, obvious, in double.
//
// It judges every pass and every kernel, and is never part of a run. A value of type f32 is rounded to f32 after each
// op by default; with Precision::kDouble float values of 4 bytes and more stay in double, so that the distance between
// both says how much rounding a graph amplifies. An op of the kernels and planned stages evaluates through the body
// that it names.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "ir/graph.h"

namespace sinter {

// A concrete tensor: dims are numbers, elements are doubles in row-major order, bool as 0 and 1.
struct Tensor {
  DType dtype = DType::kF32;
  std::vector<int64_t> dims;
  std::vector<double> values;

  int64_t elems() const { return static_cast<int64_t>(values.size()); }
  static Tensor Zeros(DType dtype, std::vector<int64_t> dims);
};

// How results are rounded: to their type; the same, but f32 not at all; only integers.
enum class Precision : uint8_t { kAsTyped, kDouble, kUnrounded };

// Supplies the tensor of a weight op by name, decoded (a quantized one as its decoded values, with its quantized
// dtype).
using WeightReader = std::function<absl::StatusOr<Tensor>(const std::string& name)>;

struct EvalOptions {
  Precision precision = Precision::kAsTyped;
  WeightReader weights;  // may be empty when the graph has no weights
  // Called with every value of the graph (not of its bodies) as it is made.
  std::function<void(ValueId, const Tensor&)> observe = {};
  // Called with every value as it is made and rounded, those of bodies included; may change its elements a little, so
  // that several runs say what roundings in other places do to a result. May be empty.
  std::function<void(Tensor&)> perturb = {};
};

// Evaluates one graph. Dims are bound from the shapes of the arguments and from `dims` (symbol -> value, -1 where
// unbound), which must agree; a state argument with no values is an empty state (zeros). Returns the graph's results,
// states included. kInvalidArgument: wrong count, type or shape, a dim outside its range or bound, an id outside its
// table.
absl::StatusOr<std::vector<Tensor>> Evaluate(const Graph& graph, std::vector<Tensor> args, const EvalOptions& options,
                                             IdMap<DimId, int64_t> dims = {});

// Binds dim symbols by unifying the types of `params` with the shapes of `args`, on top of `dims` (resized to the
// module's symbols, -1 where unbound). Checks ranges and bounds of what is bound; every symbol that `params` mention
// must end bound.
absl::Status BindDims(const Graph& graph, absl::Span<const Tensor> args, IdMap<DimId, int64_t>& dims);

// What Eval functions see: operands as tensors, results to fill in. Types have numbers for dims here.
struct EvalContext {
  const Graph& graph;
  const OpData& op;
  const IdMap<DimId, int64_t>& dims;
  const EvalOptions& options;
  absl::Span<const Tensor* const> operands;  // by position; nullptr for an absent optional one
  std::vector<Tensor> results;               // allocated with the concrete result types, zero-filled

  // The operand that the struct's field holds.
  const Tensor& tensor(ValueId id) const;
  int64_t Dim(const DimExpr& expr) const;
};

#define OP(cls, mnemonic, fields, results, traits, stages, doc) absl::Status Eval(const ops::cls& op, EvalContext& ctx);
#include "ir/ops.inc"
#undef OP

// C*D of the rope_table with these settings at one position: the formula in double that Eval and the compiler share.
// out[0..width) are cosines, out[width..2*width) signed sines, by output lane. `factors` may be empty (all ones).
void RopeRow(int64_t position, int64_t width, double base, double scale, absl::string_view style,
             absl::Span<const double> factors, absl::Span<double> out);

}  // namespace sinter
