// What the Eval functions and the evaluator share; nobody else includes it.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "ir/eval.h"

namespace sinter {

// Runs one graph over and over on tensors that are allocated once: a body of a loop, or a whole graph.
//
// Prepare resolves every dim and checks every size before anything is allocated. Each Run reads the parameters, which
// stay the caller's to write between runs. With `once`, a value is freed after its last use, parameters included.
class GraphRunner {
 public:
  GraphRunner(const Graph& graph, const IdMap<DimId, int64_t>& dims, const EvalOptions& options, bool once)
      : graph_(graph), dims_(dims), options_(options), once_(once) {}

  absl::Status Prepare();
  // Allocates the parameters, zero-filled.
  void AllocateParams();
  void SetParams(std::vector<Tensor> params) { params_ = std::move(params); }
  Tensor& param(size_t i) { return params_[i]; }
  absl::Status Run();
  const Tensor& result(size_t i) const { return *values_[graph_.results()[i].value]; }

 private:
  struct Shape {
    DType dtype;
    std::vector<int64_t> dims;
  };
  struct Step {
    OpId op;
    std::vector<const Tensor*> operands;
    std::vector<Shape> shapes;
    std::vector<Tensor> results;
    std::vector<ValueId> last_uses;  // what nobody reads after this step
  };

  absl::Status RunStep(Step& step);

  const Graph& graph_;
  const IdMap<DimId, int64_t>& dims_;
  const EvalOptions& options_;
  const bool once_;
  std::vector<Step> steps_;
  std::vector<Shape> param_shapes_;
  std::vector<Tensor> params_;
  std::vector<Tensor*> values_;  // by ValueId; null until made
};

// Rounds elements as values of `dtype` are: f16 and bf16 always, f32 unless `precision` is double; integers wrap
// around.
void RoundElements(DType dtype, Precision precision, absl::Span<double> values);

// Reads elements of a tensor by their place in a shape that it broadcasts to.
class Broadcasted {
 public:
  Broadcasted(const Tensor& tensor, absl::Span<const int64_t> dims);
  double operator[](int64_t i) const { return data_[map_.empty() ? i * step_ : map_[static_cast<size_t>(i)]]; }

 private:
  const double* data_;
  int64_t step_ = 1;          // 0: one element for all; 1: the same shape
  std::vector<int64_t> map_;  // otherwise the element for each place
};

// `value` as an index into `count` rows, or kOutOfTable.
inline constexpr int64_t kOutOfTable = -1;
int64_t RowIndex(double value, int64_t count);
absl::Status OutOfTable(absl::string_view what, double value, int64_t count);

// A shape seen around one axis: element (o, i, j) is at (o * n + i) * inner + j.
struct AxisSplit {
  int64_t outer = 1, n = 1, inner = 1;
};
AxisSplit SplitAt(absl::Span<const int64_t> dims, int64_t axis);  // negative axes count from the last

}  // namespace sinter
