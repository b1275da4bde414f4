// A graph given as text, compiled by a pipeline and run on buffers of its own: what benchmarks of parts of a model
// share.
//
// Every dim of the graph is a number. Inputs are filled with small values, or with the last positions before
// `positions` where they are i32; weights with values that depend on their names.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "ir/graph.h"
#include "runtime/workspace.h"

namespace sinter {

class CompiledText {
 public:
  // Level -O2 for this CPU; `without`: a pass that is left out, or "".
  static absl::StatusOr<std::unique_ptr<CompiledText>> Make(const std::string& text, const std::string& without,
                                                            int threads, int64_t positions = 1);
  absl::Status Run();

  // What the steps of a run read and write. Of a table whose rows are chosen, as much as of the results; of the cache
  // nothing.
  double bytes() const { return bytes_; }
  const std::vector<float>& input(size_t i) const { return buffers_[i]; }
  const std::vector<float>& result() const { return buffers_.back(); }  // the last

 private:
  absl::Status CountBytes(const Module& module);
  absl::Status MakeBuffers(int64_t positions);

  std::shared_ptr<const CompiledModule> module_;
  std::unique_ptr<Workspace> workspace_;
  std::unique_ptr<Sequence> sequence_;
  std::vector<std::vector<float>> buffers_;
  std::vector<const void*> inputs_;
  std::vector<void*> outputs_;
  double bytes_ = 0;
};

// The seconds of the steady clock.
double SecondsNow();
double MedianOf(std::vector<double> values);
// Seconds to read as many bytes, from whatever holds them: the best of several rounds.
double SecondsToRead(double bytes);

}  // namespace sinter
