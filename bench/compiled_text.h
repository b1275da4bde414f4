// A graph given as text, compiled by a pipeline and run on buffers of its own: what benchmarks of parts of a model
// share.
//
// Every dim of the graph is a number. Inputs and states are filled with small values, inputs of i32 with the last
// positions before `positions`, weights (f32) with WeightValue.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "backend/target.h"
#include "ir/graph.h"
#include "runtime/workspace.h"

namespace sinter {

// A module whose entry is `graph`, given from the parameter list on.
std::string ModuleText(absl::string_view graph);
// LayerNorm of rows in its plainest form (mean, sub, mul, rsqrt), from the parameter list (x, gamma, beta) on; `rows`
// and `width` are dims.
std::string PlainLayerNorm(absl::string_view rows, absl::string_view width);
constexpr double kLayerNormEps = 1e-5;

// Element i of a weight, counted row by row.
float WeightValue(const std::string& name, int64_t i);

struct TextOptions {
  std::string without;             // a pass that -O2 leaves out, or ""
  const Target* target = nullptr;  // nullptr: the strongest that runs here
  int threads = 1;
  int64_t positions = 1;
};

class CompiledText {
 public:
  static absl::StatusOr<std::unique_ptr<CompiledText>> Make(const std::string& text, const TextOptions& options);
  absl::Status Run();

  // What the steps of a run read and write. Of a table whose rows are chosen, as much as of the results; of the cache
  // nothing.
  double bytes() const { return bytes_; }
  absl::Span<const float> input(size_t i) const { return buffers_[i]; }
  // The last output; of a graph that has none, its last state. Both are f32.
  absl::Span<const float> result() const { return result_; }

 private:
  absl::Status CountBytes(const Module& module);
  absl::Status MakeBuffers(int64_t positions);

  std::shared_ptr<const CompiledModule> module_;
  std::unique_ptr<Workspace> workspace_;
  std::unique_ptr<Sequence> sequence_;
  std::vector<std::vector<float>> storage_;
  std::vector<absl::Span<float>> buffers_;  // in storage_, on cache lines as a model's values are: inputs, then outputs
  std::vector<const void*> inputs_;
  std::vector<void*> outputs_;
  absl::Span<const float> result_;
  double bytes_ = 0;
};

}  // namespace sinter
