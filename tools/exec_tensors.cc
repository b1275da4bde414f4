#include "tools/exec_tensors.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/checked.h"
#include "base/limits.h"
#include "base/status.h"
#include "passes/check_each.h"
#include "runtime/memory_need.h"
#include "runtime/workspace.h"

namespace sinter {
namespace {

std::string Describe(const Tensor& tensor) {
  return absl::StrCat(Info(tensor.dtype).name, "[", absl::StrJoin(tensor.dims, ","), "]");
}

// The tensor in the type that a parameter wants: integers of either width, and f32 for bf16, which .npy does not have.
absl::StatusOr<Tensor> Convert(const std::string& name, Tensor tensor, DType wanted) {
  const bool fits = tensor.dtype == wanted || (IsInt(tensor.dtype) && IsInt(wanted)) ||
                    (wanted == DType::kBF16 && tensor.dtype == DType::kF32);
  if (!fits) {
    return absl::OutOfRangeError(
        absl::StrCat("input %", name, ": found ", Describe(tensor), ", expected elements of type ", Info(wanted).name));
  }
  if (tensor.dtype != wanted && !IsQuantized(wanted)) {
    tensor.dtype = wanted;
    if (wanted == DType::kBF16) {
      for (double& value : tensor.values) value = RoundTo(wanted, value);
    }
    const double low = wanted == DType::kI32  ? -0x1p31
                       : wanted == DType::kI8 ? -128
                       : wanted == DType::kU8 ? 0
                                              : -0x1p63;
    const double high = wanted == DType::kI32  ? 0x1p31
                        : wanted == DType::kI8 ? 128
                        : wanted == DType::kU8 ? 256
                                               : 0x1p63;
    for (double value : tensor.values) {
      if (IsInt(wanted) && (value < low || value >= high)) {
        return absl::OutOfRangeError(absl::StrCat("input %", name, ": ", value, " does not fit ", Info(wanted).name));
      }
    }
  }
  return tensor;
}

absl::Status CheckIndices(const std::string& name, const Tensor& tensor, int64_t end) {
  for (size_t i = 0; i < tensor.values.size(); ++i) {
    if (tensor.values[i] >= 0 && tensor.values[i] < static_cast<double>(end)) continue;
    return absl::OutOfRangeError(
        absl::StrCat("input %", name, ": element ", i, " is ", tensor.values[i], ", expected 0 to ", end - 1));
  }
  return absl::OkStatus();
}

absl::Status Unknown(const NamedTensors& inputs, const std::vector<std::string>& known) {
  for (const auto& [name, tensor] : inputs) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    return absl::OutOfRangeError(
        absl::StrCat("there is no input %", name, "; there are %", absl::StrJoin(known, ", %")));
  }
  return absl::OkStatus();
}

// The parameter that a state value is a version of.
ValueId StateParameter(const Graph& graph, ValueId value) {
  while (graph.value(value).def.valid()) {
    const OpId op = graph.value(value).def;
    size_t nth = 0;
    for (ValueId result : graph.op(op).results) {
      if (result == value) break;
      nth += graph.type(result).state;
    }
    value = graph.op(op).fields.operands[ConsumedOperands(graph, op)[nth]];
  }
  return value;
}

std::string DimText(const DimSum& sum, const CompiledModule& module) {
  std::string text;
  for (const DimSum::Term& term : sum.terms) {
    std::vector<std::string> factors;
    if (term.coefficient != 1 || term.symbols.empty()) factors.push_back(absl::StrCat(term.coefficient));
    for (uint16_t symbol : term.symbols) factors.push_back(module.dims()[symbol].name);
    absl::StrAppend(&text, text.empty() ? "" : "+", absl::StrJoin(factors, "*"));
  }
  return text.empty() ? "0" : text;
}

std::string ParamText(const LoadedParam& param, const CompiledModule& module) {
  return absl::StrCat("%", param.name, ": ", TypeText(param, module));
}

absl::StatusOr<std::vector<uint8_t>> BytesOf(const Tensor& tensor) {
  std::vector<uint8_t> bytes(static_cast<size_t>(ElemBytes(tensor.dtype, tensor.elems())));
  Encode(tensor.dtype, tensor.values, bytes.data());
  return bytes;
}

absl::StatusOr<std::string> ChooseName(const std::vector<std::string>& entries, const std::string& name) {
  const std::string wanted = !name.empty() ? name : entries.size() == 1 ? entries[0] : "main";
  if (std::find(entries.begin(), entries.end(), wanted) != entries.end()) return wanted;
  return absl::OutOfRangeError(absl::StrCat("there is no graph @", wanted, "; the entries are @",
                                            absl::StrJoin(entries, ", @"), "; choose one with --graph=@NAME"));
}

// "T is 9, expected 1 to 8" for each dim that --dim or a shape puts outside its range.
std::vector<std::string> OutsideRanges(const CompiledModule& module, const LoadedEntry& entry,
                                       const std::vector<std::vector<int64_t>>& shapes, std::vector<int64_t> bound) {
  for (size_t i = 0; i < shapes.size(); ++i) {
    const std::vector<DimSum>& dims = entry.inputs[i].dims;
    for (size_t axis = 0; axis < dims.size() && dims.size() == shapes[i].size(); ++axis) {
      const std::vector<DimSum::Term>& terms = dims[axis].terms;
      if (terms.size() != 1 || terms[0].coefficient != 1 || terms[0].symbols.size() != 1) continue;
      int64_t& value = bound[terms[0].symbols[0]];
      if (value == kUnbound) value = shapes[i][axis];
    }
  }
  std::vector<std::string> outside;
  for (size_t i = 0; i < bound.size(); ++i) {
    const LoadedDim& dim = module.dims()[i];
    if (bound[i] == kUnbound || (bound[i] >= dim.min && bound[i] <= dim.max)) continue;
    outside.push_back(absl::StrCat(dim.name, " is ", bound[i], ", expected ", dim.min, " to ", dim.max));
  }
  return outside;
}

// Language models take ids, positions and rows: the kernels trust that these lie within vocabulary, cache and step.
absl::Status CheckStepInputs(const LoadedEntry& entry, const Workspace& workspace, const Sequence& sequence,
                             const std::vector<Tensor>& args) {
  if (workspace.vocabulary() == 0 || entry.inputs.size() != 3) return absl::OkStatus();
  const int64_t ends[] = {workspace.vocabulary(), sequence.capacity(), args[0].elems()};
  for (size_t i = 0; i < 3; ++i) SINTER_RETURN_IF_ERROR(CheckIndices(entry.inputs[i].name, args[i], ends[i]));
  return absl::OkStatus();
}

}  // namespace

std::string TypeText(const LoadedParam& param, const CompiledModule& module) {
  const std::string dims = absl::StrJoin(
      param.dims, ",", [&](std::string* out, const DimSum& dim) { absl::StrAppend(out, DimText(dim, module)); });
  return absl::StrCat(param.dtype, "[", dims, "]");
}

absl::StatusOr<const Graph*> ChooseGraph(const Module& module, const std::string& name) {
  std::vector<std::string> entries;
  for (GraphId id : module.entries()) entries.push_back(module.graph(id).name());
  SINTER_ASSIGN_OR_RETURN(const std::string chosen, ChooseName(entries, name));
  return module.FindGraph(chosen);
}

std::vector<ExecResult> ResultsOf(const Graph& graph) {
  std::vector<ExecResult> results;
  for (ValueId value : graph.results()) {
    ExecResult result{graph.value(value).name, "", {}};
    if (graph.type(value).state) result.state = graph.value(StateParameter(graph, value)).name;
    results.push_back(std::move(result));
  }
  return results;
}

absl::StatusOr<std::vector<Tensor>> BindInputs(const Graph& graph, const NamedTensors& inputs, const NamedDims& dims,
                                               IdMap<DimId, int64_t>& bound) {
  const DimTable& table = graph.module().dims;
  std::vector<std::string> names;
  std::vector<Tensor> args;
  for (ValueId param : graph.params()) {
    const Type& type = graph.type(param);
    const std::string& name = names.emplace_back(graph.value(param).name);
    const auto given = inputs.find(name);
    if (given != inputs.end()) {
      SINTER_ASSIGN_OR_RETURN(Tensor tensor, Convert(name, given->second, type.dtype));
      args.push_back(std::move(tensor));
    } else if (type.state) {
      args.push_back({type.dtype, {}, {}});
    } else {
      return absl::OutOfRangeError(
          absl::StrCat("input %", name, ": ", ToString(type, table), " is not given; --input ", name, "=@FILE.npy"));
    }
  }
  SINTER_RETURN_IF_ERROR(Unknown(inputs, names));
  bound.Resize(table.symbols().size());
  for (int64_t& value : bound) value = kUnbound;
  for (const auto& [name, value] : dims) {
    const DimId id = table.Find(name);
    if (!id.valid()) return absl::OutOfRangeError(absl::StrCat("--dim: there is no dim ", name));
    bound[id] = value;
  }
  if (const absl::Status status = BindDims(graph, args, bound); !status.ok()) {
    const std::string name = absl::StrCat("@", graph.name(), ": ");  // which most of its messages begin with
    return absl::OutOfRangeError(absl::StrCat(name, absl::StripPrefix(status.message(), name)));
  }
  for (size_t i = 0; i < args.size(); ++i) {
    if (!IsInt(args[i].dtype)) continue;
    const IndexRange range = IndexRangeOf(graph, graph.params()[i], bound);
    if (range.indexes) SINTER_RETURN_IF_ERROR(CheckIndices(names[i], args[i], range.end));
  }
  return args;
}

absl::StatusOr<std::vector<ExecResult>> ExecReference(const Graph& graph, const NamedTensors& inputs,
                                                      const NamedDims& dims, const WeightReader& weights) {
  IdMap<DimId, int64_t> bound;
  SINTER_ASSIGN_OR_RETURN(std::vector<Tensor> args, BindInputs(graph, inputs, dims, bound));
  SINTER_ASSIGN_OR_RETURN(std::vector<Tensor> values, Evaluate(graph, std::move(args), {.weights = weights}, bound));
  std::vector<ExecResult> results = ResultsOf(graph);
  for (size_t i = 0; i < results.size(); ++i) results[i].tensor = std::move(values[i]);
  return results;
}

absl::StatusOr<std::vector<ExecResult>> ExecCompiled(std::shared_ptr<const CompiledModule> module, std::string name,
                                                     const NamedTensors& inputs, const NamedDims& dims,
                                                     const std::set<std::string>& states, int threads) {
  std::vector<std::string> entries;
  for (const LoadedEntry& entry : module->entries()) entries.push_back(entry.name);
  SINTER_ASSIGN_OR_RETURN(name, ChooseName(entries, name));
  const LoadedEntry& asked = *std::find_if(module->entries().begin(), module->entries().end(),
                                           [&](const LoadedEntry& entry) { return entry.name == name; });
  std::vector<std::string> names;
  std::vector<Tensor> args;
  std::vector<std::vector<int64_t>> shapes;
  for (const LoadedParam& param : asked.inputs) {
    names.push_back(param.name);
    const auto given = inputs.find(param.name);
    if (given == inputs.end()) {
      return absl::OutOfRangeError(
          absl::StrCat("input ", ParamText(param, *module), " is not given; --input ", param.name, "=@FILE.npy"));
    }
    SINTER_ASSIGN_OR_RETURN(Tensor tensor, Convert(param.name, given->second, *ParseDType(param.dtype)));
    shapes.push_back(tensor.dims);
    args.push_back(std::move(tensor));
  }
  for (const LoadedState& state : asked.states) names.push_back(state.name);
  SINTER_RETURN_IF_ERROR(Unknown(inputs, names));

  std::vector<int64_t> bound(module->dims().size(), kUnbound);
  for (const auto& [dim, value] : dims) {
    const auto found = std::find_if(module->dims().begin(), module->dims().end(),
                                    [&dim = dim](const LoadedDim& d) { return d.name == dim; });
    if (found == module->dims().end()) return absl::OutOfRangeError(absl::StrCat("--dim: there is no dim ", dim));
    bound[static_cast<size_t>(found - module->dims().begin())] = value;
  }
  const LoadedEntry* entry = module->FindEntry(name, shapes, bound);
  if (entry == nullptr) {
    std::vector<std::string> expected, found;
    for (const LoadedParam& param : asked.inputs) expected.push_back(ParamText(param, *module));
    for (size_t i = 0; i < args.size(); ++i) found.push_back(absl::StrCat("%", names[i], ": ", Describe(args[i])));
    std::vector<std::string> outside = OutsideRanges(*module, asked, shapes, bound);
    outside.push_back("");  // a mark behind each
    return absl::OutOfRangeError(absl::StrCat("@", name, ": ", absl::StrJoin(outside, "; "),
                                              "the inputs do not fit: found ", absl::StrJoin(found, ", "),
                                              "; expected ", absl::StrJoin(expected, ", ")));
  }
  for (uint16_t symbol : entry->symbols) {
    if (bound[symbol] != kUnbound) continue;
    const std::string& dim = module->dims()[symbol].name;
    return absl::OutOfRangeError(
        absl::StrCat("@", name, ": no input's shape says what ", dim, " is; give it with --dim ", dim, "=N"));
  }
  SINTER_RETURN_IF_ERROR(module->CheckDims(*entry, bound));
  MemoryNeed need = NeedToRun(*module, threads, WeightsPlace::kMemory, entry->name);
  for (const LoadedParam& param : entry->outputs) {  // as bytes, and as doubles
    std::optional<int64_t> bytes = param.elem_bytes + static_cast<int64_t>(sizeof(double));
    for (const DimSum& dim : param.dims) bytes = bytes ? CheckedMul(*bytes, dim.Evaluate(bound.data())) : bytes;
    const std::optional<int64_t> sum = bytes ? CheckedAdd(need.other_bytes, *bytes) : std::nullopt;
    need.other_bytes = sum.value_or(INT64_MAX);
    if (!sum) break;
  }
  SINTER_RETURN_IF_ERROR(CheckMemory(module->path(), need, MemoryLimits()));
  SINTER_ASSIGN_OR_RETURN(const auto workspace, Workspace::Open(module, threads));
  SINTER_ASSIGN_OR_RETURN(const auto sequence, Sequence::Open(module, entry->name));
  SINTER_RETURN_IF_ERROR(CheckStepInputs(*entry, *workspace, *sequence, args));

  for (size_t i = 0; i < entry->states.size(); ++i) {
    const LoadedState& state = entry->states[i];
    const auto given = inputs.find(state.name);
    if (given == inputs.end()) continue;
    SINTER_ASSIGN_OR_RETURN(const Tensor tensor, Convert(state.name, given->second, *ParseDType(state.dtype)));
    if (tensor.dims != state.dims) {
      return absl::OutOfRangeError(absl::StrCat("input %", state.name, ": found ", Describe(tensor), ", expected ",
                                                state.dtype, "[", absl::StrJoin(state.dims, ","), "]"));
    }
    Encode(tensor.dtype, tensor.values, sequence->state_data(i));
  }
  std::vector<std::vector<uint8_t>> buffers;
  std::vector<const void*> in;
  std::vector<void*> out;
  for (const Tensor& arg : args) {
    SINTER_ASSIGN_OR_RETURN(buffers.emplace_back(), BytesOf(arg));
  }
  std::vector<ExecResult> results;
  for (const LoadedParam& param : entry->outputs) {
    ExecResult& result = results.emplace_back();
    result.name = param.name;
    result.tensor.dtype = *ParseDType(param.dtype);
    std::optional<int64_t> elems = 1;
    for (const DimSum& dim : param.dims) {
      result.tensor.dims.push_back(dim.Evaluate(bound.data()));
      if (elems) elems = CheckedMul(*elems, result.tensor.dims.back());
    }
    if (!elems || limits::kEvaluatedElements.Exceeded(*elems)) {
      return absl::ResourceExhaustedError(
          absl::StrCat("result %", param.name, " is too large: ", limits::kEvaluatedElements.Text()));
    }
    result.tensor.values.resize(static_cast<size_t>(*elems));
    buffers.emplace_back(static_cast<size_t>(ElemBytes(result.tensor.dtype, *elems)));
  }
  for (size_t i = 0; i < buffers.size(); ++i) {
    if (i < args.size()) {
      in.push_back(buffers[i].data());
    } else {
      out.push_back(buffers[i].data());
    }
  }
  SINTER_RETURN_IF_ERROR(workspace->Run(*entry, bound, in, out, sequence->states()));
  for (size_t i = 0; i < results.size(); ++i) {
    Decode(results[i].tensor.dtype, buffers[args.size() + i].data(), absl::MakeSpan(results[i].tensor.values));
  }
  for (size_t i = 0; i < entry->states.size(); ++i) {
    const LoadedState& state = entry->states[i];
    if (states.count(state.name) == 0) continue;
    ExecResult& result = results.emplace_back();
    result.name = result.state = state.name;
    result.tensor = Tensor::Zeros(*ParseDType(state.dtype), state.dims);
    Decode(result.tensor.dtype, sequence->state_data(i), absl::MakeSpan(result.tensor.values));
  }
  return results;
}

}  // namespace sinter
