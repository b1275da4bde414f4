#include "passes/check_each.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"

namespace sinter {
namespace {

using DimValues = IdMap<DimId, int64_t>;

// SplitMix64: the same numbers with every library.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }  // [0, 1)
  int64_t Below(int64_t n) { return static_cast<int64_t>(Next() % static_cast<uint64_t>(n)); }

 private:
  uint64_t state_;
};

struct SmallDim {
  absl::string_view name;
  int64_t value;
};
constexpr SmallDim kSmallDims[] = {{"T", 3}, {"P", 2}, {"L", 2}};
constexpr int64_t kOtherDim = 3;

// The symbols of the first bound that `values` break; null when they break none.
const DimBound* BrokenBound(const DimTable& dims, const DimValues& values) {
  for (const DimBound& bound : dims.bounds()) {
    const absl::StatusOr<int64_t> value = bound.expr.Evaluate(values);
    if (!value.ok() || *value > bound.max) return &bound;
  }
  return nullptr;
}

absl::StatusOr<DimValues> ChooseDims(const DimTable& dims) {
  DimValues values;
  for (const DimSymbol& symbol : dims.symbols()) {
    int64_t value = kOtherDim;
    for (const SmallDim& small : kSmallDims) {
      if (symbol.name == small.name) value = small.value;
    }
    values.Add(std::clamp(value, symbol.min, symbol.max));
  }
  while (const DimBound* broken = BrokenBound(dims, values)) {
    bool reduced = false;
    for (const DimExpr::Term& term : broken->expr.terms()) {
      for (DimId id : term.symbols) {
        if (reduced || values[id] == dims.symbols()[id].min) continue;
        --values[id];
        reduced = true;
      }
    }
    if (!reduced) {
      return absl::UnimplementedError(
          absl::StrCat("no small dims satisfy bound ", dims.ToString(broken->expr), " <= ", broken->max));
    }
  }
  return values;
}

class UseTracer {
 public:
  explicit UseTracer(const DimValues& dims) : dims_(dims) {}

  void Follow(const Graph& graph, ValueId value, IndexRange& range) const {
    for (const Use& use : graph.value(value).uses) {
      const OpData& op = graph.op(use.op);
      if (const auto take = graph.As<ops::Take>(use.op); take && take->rows == value) {
        Limit(graph.type(take->table).dims[0], range);
      } else if (const auto rope = graph.As<ops::Rope>(use.op)) {
        Limit(graph.type(rope->table).dims[0], range);
        range.position = true;
      } else if (const auto append = graph.As<ops::KvAppend>(use.op); append && append->pos == value) {
        Limit(graph.type(append->cache).dims[2], range);
        range.position = true;
      } else if (op.kind() == OpKind::kCausalMask) {
        range.position = true;
      } else if (op.kind() == OpKind::kConvert || op.def().Has(kView)) {
        Follow(graph, op.results[0], range);
      } else {
        for (const Attr& attr : op.fields.attrs) {
          const auto* body = std::get_if<GraphRef>(&attr);
          if (body == nullptr) continue;
          const Graph& inner = graph.module().graph(body->id);
          Follow(inner, inner.params()[use.operand], range);
        }
      }
    }
  }

 private:
  void Limit(const DimExpr& rows, IndexRange& range) const {
    const absl::StatusOr<int64_t> n = rows.Evaluate(dims_);
    if (!n.ok()) return;
    range.end = range.indexes ? std::min(range.end, *n) : *n;
    range.indexes = true;
  }
  const DimValues& dims_;
};

}  // namespace

IndexRange IndexRangeOf(const Graph& graph, ValueId param, const IdMap<DimId, int64_t>& dims) {
  IndexRange range;
  UseTracer(dims).Follow(graph, param, range);
  return range;
}

namespace {

absl::StatusOr<Tensor> ZerosOf(const Type& type, const DimValues& dims) {
  std::vector<int64_t> sizes;
  for (const DimExpr& dim : type.dims) {
    SINTER_ASSIGN_OR_RETURN(sizes.emplace_back(), dim.Evaluate(dims));
  }
  return Tensor::Zeros(type.dtype, std::move(sizes));
}

double RandomFloat(DType dtype, double low, double high, Random& random) {
  const double value = low + (high - low) * random.Uniform();
  return IsQuantized(dtype) ? value : RoundTo(dtype, value);
}

// The dims of `before` when it gets arguments of the shapes in `args`: its own symbols from them, all others from
// `dims`.
DimValues DimsFor(const Graph& before, const std::vector<Tensor>& args, DimValues dims) {
  for (size_t i = 0; i < args.size(); ++i) {
    const Dims& expected = before.type(before.params()[i]).dims;
    for (size_t axis = 0; axis < expected.size() && axis < args[i].dims.size(); ++axis) {
      const auto& terms = expected[axis].terms();
      if (terms.size() == 1 && terms[0].coefficient == 1 && terms[0].symbols.size() == 1) {
        dims[terms[0].symbols[0]] = args[i].dims[axis];
      }
    }
  }
  dims.Resize(before.module().dims.symbols().size());  // those that the pass added come last
  return dims;
}

// What both graphs want of a parameter: a pass may drop the last use of one.
IndexRange Both(const IndexRange& a, const IndexRange& b) {
  if (!a.indexes || !b.indexes) return {(a.indexes ? a : b).end, a.indexes || b.indexes, a.position || b.position};
  return {std::min(a.end, b.end), true, a.position || b.position};
}

// Arguments of the shapes that `graph` has at `dims`.
absl::StatusOr<std::vector<Tensor>> RandomArgs(const Graph& before, const Graph& graph, const DimValues& dims) {
  const DimId past = graph.module().dims.Find("P");
  std::vector<Tensor> args;
  for (ValueId param : graph.params()) {
    SINTER_ASSIGN_OR_RETURN(args.emplace_back(), ZerosOf(graph.type(param), dims));
  }
  const DimValues dims_before = DimsFor(before, args, dims);
  for (size_t n = 0; n < args.size(); ++n) {
    const Type& type = graph.type(graph.params()[n]);
    Tensor& tensor = args[n];
    Random random(n + 1);
    IndexRange range;
    if (IsInt(type.dtype)) {
      range = Both(IndexRangeOf(before, before.params()[n], dims_before), IndexRangeOf(graph, graph.params()[n], dims));
    }
    const int64_t rows = tensor.dims.back();
    int64_t first = past.valid() ? dims[past] : 0;
    if (range.indexes) first = std::max<int64_t>(0, std::min(first, range.end - rows));
    for (int64_t i = 0; i < tensor.elems(); ++i) {
      double& value = tensor.values[i];
      if (range.position) {
        value = static_cast<double>(first + i % rows);
      } else if (IsInt(type.dtype)) {
        value = static_cast<double>(random.Below(std::max<int64_t>(range.end, 1)));
      } else if (type.dtype == DType::kBool) {
        value = static_cast<double>(random.Below(2));
      } else {
        value = RandomFloat(type.dtype, -1, 1, random);
      }
    }
  }
  return args;
}

// Random weights of the types that the modules declare: matrices small enough that sums stay near 1, vectors near 1.
WeightReader RandomWeights(std::initializer_list<const Module*> modules) {
  absl::flat_hash_map<std::string, Type> types;
  for (const Module* module : modules) {
    for (GraphId id : module->graphs()) {
      const Graph& graph = module->graph(id);
      for (OpId op : graph.order()) {
        if (const auto weight = graph.As<ops::Weight>(op))
          types.emplace(weight->name, graph.type(graph.op(op).results[0]));
      }
    }
  }
  return [types = std::move(types)](const std::string& name) -> absl::StatusOr<Tensor> {
    const auto found = types.find(name);
    if (found == types.end()) return absl::NotFoundError(absl::StrCat("no weight \"", name, "\""));
    SINTER_ASSIGN_OR_RETURN(Tensor tensor, ZerosOf(found->second, {}));
    uint64_t seed = 0;
    for (char c : name) seed = seed * 131 + static_cast<unsigned char>(c);
    Random random(seed);
    const bool matrix = tensor.dims.size() > 1;
    const double high = matrix ? 2 / std::sqrt(static_cast<double>(tensor.dims.back())) : 1.5;
    for (double& value : tensor.values) value = RandomFloat(tensor.dtype, matrix ? -high : 0.5, high, random);
    return tensor;
  };
}

// Relative to the largest value: what an element type cannot tell apart is no difference.
double Tolerance(DType dtype) {
  if (!IsFloat(dtype)) return 0;
  return dtype == DType::kF16 ? 0x1p-10 : dtype == DType::kBF16 ? 0x1p-7 : 1e-5;
}

// The first element that differs, described; "" when none does.
std::string Difference(const Tensor& before, const Tensor& after) {
  if (before.dtype != after.dtype || before.dims != after.dims) {
    return absl::StrCat("is ", Info(before.dtype).name, "[", absl::StrJoin(before.dims, ","), "] before, ",
                        Info(after.dtype).name, "[", absl::StrJoin(after.dims, ","), "] after");
  }
  double largest = 0;
  for (double value : before.values) {
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  }
  const double limit = Tolerance(before.dtype) * largest;
  for (size_t i = 0; i < before.values.size(); ++i) {
    const double x = before.values[i], y = after.values[i];
    if (x == y || (std::isnan(x) && std::isnan(y)) || std::abs(x - y) <= limit) continue;
    return absl::StrCat("element ", i, " is ", x, " before, ", y, " after (largest ", largest, ")");
  }
  return "";
}

// The values of a run that differ first, by name; for the message alone.
std::string FirstDifference(const Graph& before, const Graph& after, const std::vector<Tensor>& args,
                            const EvalOptions& options, const DimValues& dims_before, const DimValues& dims_after) {
  absl::flat_hash_map<std::string, Tensor> seen;
  EvalOptions observing = options;
  observing.observe = [&](ValueId id, const Tensor& tensor) { seen[before.value(id).name] = tensor; };
  if (!Evaluate(before, args, observing, dims_before).ok()) return "";
  std::string first;
  observing.observe = [&](ValueId id, const Tensor& tensor) {
    const auto old = seen.find(after.value(id).name);
    if (!first.empty() || old == seen.end() || old->second.dims != tensor.dims) return;
    const std::string difference = Difference(old->second, tensor);
    if (!difference.empty())
      first = absl::StrCat("; the first that differs is %", after.value(id).name, ": ", difference);
  };
  if (!Evaluate(after, args, observing, dims_after).ok()) return "";
  return first;
}

absl::Status CompareEntries(const Graph& before, const Graph& after, const EvalOptions& options) {
  const auto wrong = [&](const auto&... parts) {
    return absl::AbortedError(absl::StrCat("@", after.name(), ": ", parts...));
  };
  if (before.params().size() != after.params().size() || before.results().size() != after.results().size()) {
    return wrong("parameters or results are not as many as before");
  }
  SINTER_ASSIGN_OR_RETURN(const DimValues dims, ChooseDims(after.module().dims));
  SINTER_ASSIGN_OR_RETURN(const std::vector<Tensor> args, RandomArgs(before, after, dims));
  const DimValues dims_before = DimsFor(before, args, dims), dims_after = DimsFor(after, args, dims);
  SINTER_ASSIGN_OR_RETURN(const std::vector<Tensor> expected, Evaluate(before, args, options, dims_before));
  const absl::StatusOr<std::vector<Tensor>> found = Evaluate(after, args, options, dims_after);
  if (!found.ok()) return wrong("evaluates no more: ", found.status().message());
  for (size_t i = 0; i < expected.size(); ++i) {
    const std::string difference = Difference(expected[i], (*found)[i]);
    if (difference.empty()) continue;
    return wrong("result ", i, " (%", after.value(after.results()[i]).name, ") ", difference,
                 FirstDifference(before, after, args, options, dims_before, dims_after));
  }
  return absl::OkStatus();
}

// The entry that `name` was made from: itself, or NAME of NAME.N.
const Graph* EntryBefore(const Module& before, absl::string_view name) {
  if (const Graph* graph = before.FindGraph(name)) return graph;
  const size_t dot = name.rfind('.');
  return dot == absl::string_view::npos ? nullptr : before.FindGraph(name.substr(0, dot));
}

}  // namespace

absl::Status CheckSameMeaning(const Module& before, const Module& after, const WeightReader& weights,
                              Precision precision) {
  EvalOptions options{.precision = precision};
  options.weights = weights ? weights : RandomWeights({&before, &after});
  for (GraphId id : after.entries()) {
    const Graph& entry = after.graph(id);
    const Graph* old = EntryBefore(before, entry.name());
    if (old == nullptr)
      return absl::AbortedError(absl::StrCat("@", entry.name(), " is an entry that was not there before"));
    SINTER_RETURN_IF_ERROR(CompareEntries(*old, entry, options));
  }
  for (GraphId id : before.entries()) {
    if (after.FindGraph(before.graph(id).name()) == nullptr) {
      return absl::AbortedError(absl::StrCat("entry @", before.graph(id).name(), " is gone"));
    }
  }
  return absl::OkStatus();
}

}  // namespace sinter
