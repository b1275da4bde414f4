// One fuzzed graph judged: its inputs, what it means (by the evaluator), how far roundings may carry a result, and
// whether a plan (a list of passes, a target, threads) keeps that meaning.
//
// Called by fuzzer.cc and shrink.cc. Inputs depend on the seed and on the names of parameters and weights alone, so
// that a graph with less in it still gets the same data.
//
// The tolerance of an element of a result is kSlack times the largest distance, over that result, between exact
// evaluation in double and evaluations that round and then move every value, those within fused ops included, by up to
// one unit in the last place, plus two roundings of the result's own type. Inputs avoid NaN and infinity; a mask sees
// the first position of each row. A graph that still meets them in between, or values over kMaxValue, is unusable as it
// is: unusable() names the op.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "ir/eval.h"
#include "ir/graph.h"
#include "passes/pipeline.h"

namespace sinter {

inline constexpr double kSlack = 8;
inline constexpr double kMaxValue = 1e4;

struct FuzzPlan {
  std::vector<const PassInfo*> passes;
  const Target* target = nullptr;
  bool compile = false;  // make code and run it; otherwise only the evaluator runs
  int threads = 1;
};
std::string PassesText(const FuzzPlan& plan);

enum class Verdict : uint8_t { kSame, kUnsupported, kFailed };

struct Outcome {
  Verdict verdict = Verdict::kSame;
  std::string where;    // what failed, the same for the same mistake: "pass fuse-softmax: kInternal", "code"
  std::string message;  // for people
};

// What RunPlan tells while it works. Both may be empty.
struct FuzzObserver {
  std::function<void(absl::string_view)> phase;      // what is about to be done: should it crash, this is where
  std::function<void(const PassRecord&)> pass_done;  // once a pass
};

class FuzzCase {
 public:
  // kInvalidArgument: the graph has no meaning for these inputs.
  static absl::StatusOr<std::unique_ptr<FuzzCase>> Make(const Module& module, const IdMap<DimId, int64_t>& dims,
                                                        uint64_t data_seed);

  // The first op that makes NaN, +inf or something too large of these inputs; None when the graph can be judged.
  OpId unusable() const { return unusable_; }
  // Whether the tolerance of some result is more than a hundredth of its largest element.
  bool loose() const { return loose_; }

  Outcome Run(const FuzzPlan& plan, const FuzzObserver& observer = {}) const;

 private:
  struct WeightData {
    Tensor tensor;
    std::vector<uint8_t> bytes;
  };

  FuzzCase(const Module& module, IdMap<DimId, int64_t> dims) : module_(module), dims_(std::move(dims)) {}
  absl::Status MakeData(uint64_t seed);
  absl::Status MakeReference(uint64_t seed);
  absl::StatusOr<std::vector<Tensor>> EvaluateGraph(const Graph& graph, const EvalOptions& options) const;
  // "" or what differs.
  std::string Difference(const std::vector<Tensor>& found) const;
  std::string EvaluatedDifference(const Module& module) const;
  Outcome RunPasses(const FuzzPlan& plan, Module& module, size_t count, const FuzzObserver& observer) const;
  Outcome Blame(const FuzzPlan& plan, const std::string& difference) const;
  Outcome RunCode(const FuzzPlan& plan, const Module& planned) const;
  WeightReader Reader() const;

  const Module& module_;
  const IdMap<DimId, int64_t> dims_;
  std::vector<Tensor> args_;
  std::map<std::string, WeightData> weights_;
  std::vector<Tensor> exact_;
  std::vector<double> allowed_;  // of each result
  OpId unusable_ = OpId::None();
  bool loose_ = false;
};

}  // namespace sinter
