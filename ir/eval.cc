#include "ir/eval.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/checked.h"
#include "base/limits.h"
#include "base/status.h"
#include "ir/eval_internal.h"
#include "ir/verifier.h"

namespace sinter {
namespace {

using EvalFunction = absl::Status (*)(EvalContext&);

template <typename Op>
absl::Status EvalAs(EvalContext& ctx) {
  return Eval(Unpack<Op>(ctx.op.fields), ctx);
}

// By OpKind.
constexpr EvalFunction kEvalFunctions[] = {
#define OP(cls, mnemonic, fields, results, traits, stages, doc) EvalAs<ops::cls>,
#include "ir/ops.inc"
#undef OP
};

std::string DimsText(absl::Span<const int64_t> dims) { return absl::StrCat("[", absl::StrJoin(dims, ","), "]"); }

// The dims of `type` as numbers; their product is at most limits::kEvaluatedElements.
absl::StatusOr<std::vector<int64_t>> ConcreteDims(const Type& type, const DimTable& table,
                                                  const IdMap<DimId, int64_t>& dims) {
  std::vector<int64_t> concrete;
  int64_t elems = 1;
  for (const DimExpr& dim : type.dims) {
    SINTER_ASSIGN_OR_RETURN(const int64_t value, dim.Evaluate(dims));
    if (value < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("dim ", table.ToString(dim), " of ", ToString(type, table), " is ", value));
    }
    const std::optional<int64_t> product = CheckedMul(elems, value);
    if (!product || limits::kEvaluatedElements.Exceeded(*product)) {
      return absl::ResourceExhaustedError(absl::StrCat("a tensor of type ", ToString(type, table),
                                                       " has too many elements: ", limits::kEvaluatedElements.Text()));
    }
    elems = *product;
    concrete.push_back(value);
  }
  return concrete;
}

absl::Status At(const Graph& graph, OpId op, const absl::Status& status) {
  return status.ok() ? status : absl::Status(status.code(), ErrorAt(graph, op, status.message()).message());
}

double Wrap(DType dtype, double value) {
  const int bits = static_cast<int>(8 * Info(dtype).block_bytes);
  const bool is_signed = dtype != DType::kU8;
  const double modulus = std::ldexp(1.0, bits), top = is_signed ? modulus / 2 : modulus;
  double wrapped = std::fmod(std::trunc(value), modulus);
  if (wrapped >= top) wrapped -= modulus;
  if (wrapped < top - modulus) wrapped += modulus;
  return wrapped;
}

bool IsBound(const DimExpr& expr, const IdMap<DimId, int64_t>& dims) {
  for (const DimExpr::Term& term : expr.terms()) {
    for (DimId id : term.symbols) {
      if (dims[id] < 0) return false;
    }
  }
  return true;
}

// Solves `expr == value` for the one symbol that is unbound, when it stands alone in its terms; nothing when it cannot.
struct Solution {
  DimId symbol;
  int64_t value;
};
std::optional<Solution> Solve(const DimExpr& expr, int64_t value, const IdMap<DimId, int64_t>& dims) {
  DimId symbol = DimId::None();
  DimExpr known, factor;
  for (const DimExpr::Term& term : expr.terms()) {
    DimExpr product(term.coefficient);
    bool has_unbound = false;
    for (DimId id : term.symbols) {
      if (dims[id] >= 0) {
        product = product * DimExpr(dims[id]);
      } else if (has_unbound || (symbol.valid() && id != symbol)) {
        return std::nullopt;
      } else {
        symbol = id;
        has_unbound = true;
      }
    }
    (has_unbound ? factor : known) = (has_unbound ? factor : known) + product;
  }
  const DimExpr rest = DimExpr(value) - known;
  if (!symbol.valid() || factor.poisoned() || rest.poisoned() || factor.constant() == 0) return std::nullopt;
  if (rest.constant() % factor.constant() != 0) return std::nullopt;
  const int64_t solution = rest.constant() / factor.constant();
  return solution < 0 ? std::nullopt : std::optional<Solution>({symbol, solution});
}

absl::Status CheckRanges(const DimTable& table, const IdMap<DimId, int64_t>& dims) {
  IdMap<DimId, DimExpr> by;
  for (uint32_t i = 0; i < dims.size(); ++i) {
    const DimSymbol& symbol = table.symbols()[DimId{i}];
    const int64_t value = dims[DimId{i}];
    by.Add(value == -1 ? DimExpr::Symbol(DimId{i}) : DimExpr(value));
    if (value != -1 && (value < symbol.min || value > symbol.max)) {
      return absl::InvalidArgumentError(
          absl::StrCat("dim ", symbol.name, " is ", value, ", outside ", symbol.min, "..", symbol.max));
    }
  }
  for (const DimBound& bound : table.bounds()) {
    // Symbols that the graph does not use are free to be whatever fits.
    const DimExpr left = bound.expr.Substitute(by);
    const int64_t value = left.poisoned() ? INT64_MAX : table.Min(left);
    if (value > bound.max) {
      return absl::InvalidArgumentError(
          absl::StrCat(table.ToString(bound.expr), " is ", value, ", over its bound of ", bound.max));
    }
  }
  return absl::OkStatus();
}

bool IsEmptyState(const Type& type, const Tensor& arg) { return type.state && arg.values.empty(); }

std::string ParamText(const Graph& graph, size_t i) {
  const ValueId id = graph.params()[i];
  return absl::StrCat("@", graph.name(), ": %", graph.value(id).name, ": ",
                      ToString(graph.type(id), graph.module().dims));
}

// Checks arguments against the parameters once all dims are bound, and fills in empty states.
absl::Status CompleteArgs(const Graph& graph, const IdMap<DimId, int64_t>& dims, std::vector<Tensor>& args) {
  for (size_t i = 0; i < args.size(); ++i) {
    const Type& type = graph.type(graph.params()[i]);
    Tensor& arg = args[i];
    SINTER_ASSIGN_OR_RETURN(std::vector<int64_t> expected, ConcreteDims(type, graph.module().dims, dims));
    if (arg.dtype != type.dtype) {
      return absl::InvalidArgumentError(
          absl::StrCat(ParamText(graph, i), ": found elements of type ", Info(arg.dtype).name));
    }
    if (IsEmptyState(type, arg)) {
      arg = Tensor::Zeros(type.dtype, std::move(expected));
      continue;
    }
    int64_t elems = 1;
    for (int64_t dim : expected) elems *= dim;
    if (arg.dims != expected || arg.elems() != elems) {
      return absl::InvalidArgumentError(absl::StrCat(ParamText(graph, i), ": expected the shape ", DimsText(expected),
                                                     "; found ", DimsText(arg.dims), " with ", arg.elems(),
                                                     " elements"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

Tensor Tensor::Zeros(DType dtype, std::vector<int64_t> dims) {
  int64_t elems = 1;
  for (int64_t dim : dims) elems *= dim;
  return Tensor{dtype, std::move(dims), std::vector<double>(static_cast<size_t>(elems))};
}

const Tensor& EvalContext::tensor(ValueId id) const {
  const auto& ids = op.fields.operands;
  return *operands[static_cast<size_t>(std::find(ids.begin(), ids.end(), id) - ids.begin())];
}

// GraphRunner::Prepare has evaluated every dim of an op before, so this cannot fail.
int64_t EvalContext::Dim(const DimExpr& expr) const { return expr.Evaluate(dims).value(); }

void RoundElements(DType dtype, Precision precision, absl::Span<double> values) {
  const bool is_double = dtype == DType::kF64 || (dtype == DType::kF32 && precision == Precision::kDouble) ||
                         (IsFloat(dtype) && precision == Precision::kUnrounded);
  if (is_double || IsQuantized(dtype)) return;
  if (dtype == DType::kF32) {
    for (double& value : values) value = static_cast<float>(value);
  } else if (IsInt(dtype)) {
    for (double& value : values) value = Wrap(dtype, value);
  } else {
    for (double& value : values) value = RoundTo(dtype, value);
  }
}

Broadcasted::Broadcasted(const Tensor& tensor, absl::Span<const int64_t> dims) : data_(tensor.values.data()) {
  int64_t elems = 1;
  for (int64_t dim : dims) elems *= dim;
  if (tensor.elems() == 1) step_ = 0;
  if (tensor.elems() == 1 || tensor.elems() == elems) return;
  map_.assign(static_cast<size_t>(elems), 0);
  int64_t inner = 1, stride = 1;  // places and elements after the axis
  for (size_t back = 1; back <= tensor.dims.size(); ++back) {
    const int64_t dim = dims[dims.size() - back], own = tensor.dims[tensor.dims.size() - back];
    if (own != 1) {
      for (int64_t i = 0; i < elems; ++i) map_[static_cast<size_t>(i)] += i / inner % dim * stride;
    }
    inner *= dim;
    stride *= own;
  }
}

int64_t RowIndex(double value, int64_t count) {
  return value >= 0 && value < static_cast<double>(count) ? static_cast<int64_t>(value) : kOutOfTable;
}

absl::Status OutOfTable(absl::string_view what, double value, int64_t count) {
  return absl::InvalidArgumentError(absl::StrCat(what, " ", value, " is outside 0..", count - 1));
}

AxisSplit SplitAt(absl::Span<const int64_t> dims, int64_t axis) {
  const size_t at = static_cast<size_t>(axis < 0 ? axis + static_cast<int64_t>(dims.size()) : axis);
  AxisSplit split;
  for (size_t i = 0; i < dims.size(); ++i) (i < at ? split.outer : i == at ? split.n : split.inner) *= dims[i];
  return split;
}

absl::Status GraphRunner::Prepare() {
  const DimTable& table = graph_.module().dims;
  for (ValueId id : graph_.params()) {
    SINTER_ASSIGN_OR_RETURN(std::vector<int64_t> dims, ConcreteDims(graph_.type(id), table, dims_));
    param_shapes_.push_back({graph_.type(id).dtype, std::move(dims)});
  }
  std::vector<size_t> last(graph_.num_values(), SIZE_MAX);
  for (OpId id : graph_.order()) {
    const OpData& op = graph_.op(id);
    Step step{.op = id, .operands = {}, .shapes = {}, .results = {}, .last_uses = {}};
    for (ValueId result : op.results) {
      absl::StatusOr<std::vector<int64_t>> dims = ConcreteDims(graph_.type(result), table, dims_);
      SINTER_RETURN_IF_ERROR(At(graph_, id, dims.status()));
      step.shapes.push_back({graph_.type(result).dtype, *std::move(dims)});
      last[result.value] = steps_.size();
    }
    for (const Attr& attr : op.fields.attrs) {
      if (const auto* dim = std::get_if<DimExpr>(&attr)) {
        SINTER_RETURN_IF_ERROR(At(graph_, id, dim->Evaluate(dims_).status()));
      }
    }
    for (ValueId operand : op.fields.operands) {
      if (operand.valid()) last[operand.value] = steps_.size();
    }
    step.operands.resize(op.fields.operands.size());
    steps_.push_back(std::move(step));
  }
  for (ValueId id : graph_.results()) last[id.value] = SIZE_MAX;
  for (uint32_t i = 0; i < last.size(); ++i) {
    if (once_ && last[i] != SIZE_MAX) steps_[last[i]].last_uses.push_back(ValueId{i});
  }
  values_.assign(graph_.num_values(), nullptr);
  return absl::OkStatus();
}

void GraphRunner::AllocateParams() {
  for (const Shape& shape : param_shapes_) params_.push_back(Tensor::Zeros(shape.dtype, shape.dims));
}

absl::Status GraphRunner::Run() {
  for (size_t i = 0; i < params_.size(); ++i) {
    values_[graph_.params()[i].value] = &params_[i];
    if (options_.observe) options_.observe(graph_.params()[i], params_[i]);
  }
  for (Step& step : steps_) SINTER_RETURN_IF_ERROR(RunStep(step));
  return absl::OkStatus();
}

absl::Status GraphRunner::RunStep(Step& step) {
  const OpData& op = graph_.op(step.op);
  if (step.results.empty()) {
    for (const Shape& shape : step.shapes) step.results.push_back(Tensor::Zeros(shape.dtype, shape.dims));
  } else {
    for (Tensor& result : step.results) std::fill(result.values.begin(), result.values.end(), 0.0);
  }
  for (size_t i = 0; i < step.operands.size(); ++i) {
    const ValueId operand = op.fields.operands[i];
    step.operands[i] = operand.valid() ? values_[operand.value] : nullptr;
  }
  EvalContext ctx{graph_, op, dims_, options_, step.operands, std::move(step.results)};
  SINTER_RETURN_IF_ERROR(At(graph_, step.op, kEvalFunctions[static_cast<size_t>(op.kind())](ctx)));
  step.results = std::move(ctx.results);
  for (size_t i = 0; i < step.results.size(); ++i) {
    Tensor& result = step.results[i];
    RoundElements(result.dtype, options_.precision, absl::MakeSpan(result.values));
    if (options_.perturb) options_.perturb(result);
    values_[op.results[i].value] = &result;
    if (options_.observe) options_.observe(op.results[i], result);
  }
  for (ValueId id : step.last_uses) *values_[id.value] = Tensor();
  return absl::OkStatus();
}

absl::Status BindDims(const Graph& graph, absl::Span<const Tensor> args, IdMap<DimId, int64_t>& dims) {
  const DimTable& table = graph.module().dims;
  if (dims.size() > table.symbols().size())
    return absl::InvalidArgumentError("more dims are bound than the module has");
  while (dims.size() < table.symbols().size()) dims.Add(-1);
  if (args.size() != graph.params().size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("@", graph.name(), ": expected ", graph.params().size(), " arguments; found ", args.size()));
  }
  bool progress = true;
  while (std::exchange(progress, false)) {
    for (size_t i = 0; i < args.size(); ++i) {
      const Type& type = graph.type(graph.params()[i]);
      if (IsEmptyState(type, args[i])) continue;
      if (args[i].dims.size() != type.dims.size()) {
        return absl::InvalidArgumentError(absl::StrCat(ParamText(graph, i), ": expected ", type.rank(),
                                                       " axes; found the shape ", DimsText(args[i].dims)));
      }
      for (size_t axis = 0; axis < type.dims.size(); ++axis) {
        const std::optional<Solution> solution = Solve(type.dims[axis], args[i].dims[axis], dims);
        if (!solution) continue;
        dims[solution->symbol] = solution->value;
        progress = true;
      }
    }
  }
  for (size_t i = 0; i < args.size(); ++i) {
    const Type& type = graph.type(graph.params()[i]);
    for (size_t axis = 0; axis < type.dims.size(); ++axis) {
      const DimExpr& dim = type.dims[axis];
      const absl::string_view state = IsEmptyState(type, args[i]) ? " (an empty state binds nothing)" : "";
      if (!IsBound(dim, dims)) {
        return absl::InvalidArgumentError(
            absl::StrCat(ParamText(graph, i), ": dim ", table.ToString(dim), " is not bound", state));
      }
      SINTER_ASSIGN_OR_RETURN(const int64_t value, dim.Evaluate(dims));
      if (state.empty() && value != args[i].dims[axis]) {
        return absl::InvalidArgumentError(absl::StrCat(ParamText(graph, i), ": expected ", table.ToString(dim), " = ",
                                                       value, " on axis ", axis, "; found the shape ",
                                                       DimsText(args[i].dims)));
      }
    }
  }
  return CheckRanges(table, dims);
}

absl::StatusOr<std::vector<Tensor>> Evaluate(const Graph& graph, std::vector<Tensor> args, const EvalOptions& options,
                                             IdMap<DimId, int64_t> dims) {
  SINTER_RETURN_IF_ERROR(BindDims(graph, args, dims));
  SINTER_RETURN_IF_ERROR(CompleteArgs(graph, dims, args));
  GraphRunner runner(graph, dims, options, /*once=*/true);
  SINTER_RETURN_IF_ERROR(runner.Prepare());
  runner.SetParams(std::move(args));
  SINTER_RETURN_IF_ERROR(runner.Run());
  std::vector<Tensor> results;
  for (size_t i = 0; i < graph.results().size(); ++i) results.push_back(runner.result(i));
  return results;
}

}  // namespace sinter
