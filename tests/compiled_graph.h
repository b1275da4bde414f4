// Graphs through the whole compiler, in memory: passes, code for one target, load, run, and the results as tensors.
//
// CompiledGraphs is one module compiled. KernelSuite is how kernels are tested: it collects many small graphs with the
// runs that each is to make, compiles them as the entries of one module, and compares every result with the evaluator.
// Inputs are random unless a run supplies them; so are weights. Buffers of inputs and outputs end where a page ends
// that cannot be touched, so that a kernel that leaves its operand dies.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "backend/compile.h"
#include "gtest/gtest.h"
#include "ir/eval.h"
#include "ir/graph.h"
#include "runtime/workspace.h"
#include "tests/targets.h"

namespace sinter {

using Tensors = std::vector<Tensor>;
using NamedDims = std::map<std::string, int64_t>;
// A weight; `bytes` are those of its rows where values alone do not say them, as of blocks.
struct StoredTensor : Tensor {
  StoredTensor() = default;
  StoredTensor(Tensor tensor, std::vector<uint8_t> stored = {}) : Tensor(std::move(tensor)), bytes(std::move(stored)) {}
  std::vector<uint8_t> bytes;
};
using WeightTensors = std::map<std::string, StoredTensor>;

class CompiledGraphs {
 public:
  // Runs the pipeline on `module` and compiles what it makes.
  static absl::StatusOr<std::unique_ptr<CompiledGraphs>> Make(std::unique_ptr<Module> module, const Target& target,
                                                              absl::string_view passes, WeightRows weights);

  // As Evaluate: arguments and results in the graph's order, states among them (without values: zeros).
  absl::StatusOr<Tensors> Run(const std::string& entry, const Tensors& args, const NamedDims& dims = {},
                              int threads = 1);

  // As it was before the passes, and after.
  const Module& source() const { return *source_; }
  const Module& planned() const { return *planned_; }
  std::shared_ptr<const CompiledModule> module() const { return module_; }

 private:
  CompiledGraphs() = default;
  std::unique_ptr<Module> source_, planned_;
  std::shared_ptr<const CompiledModule> module_;
  std::map<int, std::unique_ptr<Workspace>> workspaces_;  // by threads
};

// The weights of a module, random, by name; those in blocks are of random blocks.
WeightTensors RandomWeights(const Module& module, uint32_t seed);
WeightRows RowsOf(const WeightTensors& weights);
WeightReader ReaderOf(const WeightTensors& weights);

// Elements are within `relative` of the largest element of the tensor (`each`: of themselves), plus 8 times what f32
// rounding does to that element in the evaluator; the result's own type adds its rounding. Zero: bit for bit.
struct Tolerance {
  double relative = 2e-6;
  bool each = false;
};
inline constexpr Tolerance kExact{0, false};

// What a run of a graph is given.
struct KernelRun {
  NamedDims dims;
  std::map<size_t, Tensor> args;  // by parameter; all others are random
  int64_t int_limit = 4;          // random integers are in [0, int_limit)
  double float_limit = 1;         // random floats in [-float_limit, float_limit)
};

class KernelSuite {
 public:
  // `header`: dims and bounds in the text form.
  explicit KernelSuite(std::string header = "") : header_(std::move(header)) {}

  // `graph` is text from the parameter list on: "(%x: f32[3]) -> (f32[3]) {..}". `families`: the kernels that it must
  // become, in order ("move gemm"); "" for any.
  void Add(std::string graph, std::vector<KernelRun> runs, Tolerance tolerance = {}, std::string families = "");
  void AddBody(const std::string& text) { bodies_ += text; }  // a graph that others name

  // Compiles for `target` with these passes and checks every run, with 1 and with 3 threads. Returns how many ran.
  int64_t Check(const Target& target, absl::string_view passes) const;

 private:
  // Cases [begin, end), as one module.
  int64_t CheckSome(const Target& target, absl::string_view passes, size_t begin, size_t end) const;

  struct Case {
    std::string name, graph;
    std::vector<KernelRun> runs;
    Tolerance tolerance;
    std::string families;
  };
  std::string header_, bodies_;
  std::vector<Case> cases_;
};

// A test per target: skipped where the CPU cannot run it, failed when it could and nothing ran.
class TargetTest : public testing::TestWithParam<Target> {
 protected:
  void SetUp() override {
    if (!HostRuns(GetParam())) GTEST_SKIP() << "this CPU does not run " << GetParam().name;
  }
  void TearDown() override {
    if (!IsSkipped()) {
      EXPECT_GT(ran_, 0) << "nothing ran on " << GetParam().name;
    }
  }
  void Check(const KernelSuite& suite, absl::string_view passes = "O2") { ran_ += suite.Check(GetParam(), passes); }

  int64_t ran_ = 0;
};

// Fails when `found` is not `exact` within the tolerance; `typed` is what the evaluator gives with f32 rounding.
void ExpectClose(const Tensor& found, const Tensor& typed, const Tensor& exact, Tolerance tolerance);
// The largest difference, relative to the largest element of `expected`.
double Distance(const Tensor& found, const Tensor& expected);

}  // namespace sinter
