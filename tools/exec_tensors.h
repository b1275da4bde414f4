// Runs one graph of a module on tensors, compiled or by the evaluator: what `exec` does between its files.
//
// Inputs are named like the graph's parameters; a state that is not given is empty (zeros). Dims are bound from the
// shapes of the inputs and from `dims`, by name. Errors: kOutOfRange for an input that is missing, unknown, of another
// type or shape, for a dim outside its range, and for an integer outside the table that it indexes.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "ir/eval.h"
#include "ir/graph.h"
#include "runtime/module.h"

namespace sinter {

using NamedTensors = std::map<std::string, Tensor>;
using NamedDims = std::map<std::string, int64_t>;

// The type of a compiled parameter: "f32[T,4]".
std::string TypeText(const LoadedParam& param, const CompiledModule& module);

// A result: what the graph returns, or a state after the run.
struct ExecResult {
  std::string name;   // of the value that is returned
  std::string state;  // of the state parameter that this is the last version of; "" for an ordinary result
  Tensor tensor;
};

// The graph called `name`, or, when it is "", @main or the only entry.
absl::StatusOr<const Graph*> ChooseGraph(const Module& module, const std::string& name);

// What a graph returns, without values. Survives the passes.
std::vector<ExecResult> ResultsOf(const Graph& graph);

// Checks inputs against the parameters; arguments in their order, each in the parameter's type, and `bound` dims.
absl::StatusOr<std::vector<Tensor>> BindInputs(const Graph& graph, const NamedTensors& inputs, const NamedDims& dims,
                                               IdMap<DimId, int64_t>& bound);

absl::StatusOr<std::vector<ExecResult>> ExecReference(const Graph& graph, const NamedTensors& inputs,
                                                      const NamedDims& dims, const WeightReader& weights);

// Runs the entry `name` of a compiled module ("" as in ChooseGraph). Of states, which are large, only those named in
// `states` are results.
absl::StatusOr<std::vector<ExecResult>> ExecCompiled(std::shared_ptr<const CompiledModule> module, std::string name,
                                                     const NamedTensors& inputs, const NamedDims& dims,
                                                     const std::set<std::string>& states, int threads);

}  // namespace sinter
