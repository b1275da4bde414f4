// canonicalize: each op in its simplest form, until nothing changes.
//
// Rows of kSimplifications say what the result of an op equals; constants of at most kMaxFolded elements are computed
// by the evaluator; ops that say the same of the same operands are shared; what nobody uses is erased; the rules of
// canonical_forms.cc write what can be written in several ways in one. An op that yields a state stays as it is, and
// what looks at a state that is overwritten gets no reader in place of a copy.
#include <algorithm>

#include "absl/base/casts.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "ir/eval.h"
#include "passes/cleanup.h"
#include "passes/pass.h"

namespace sinter {
namespace {

constexpr int64_t kMaxFolded = 64;

// What the one result of the op equals: a value of the graph, perhaps made by an op added before it; None: nothing
// simpler is known.
using Simplification = absl::StatusOr<ValueId> (*)(Graph&, OpId);

bool IsSplat(const Graph& graph, ValueId value, double number) {
  const auto constant = graph.DefAs<ops::Constant>(value);
  return constant &&
         std::all_of(constant->values.begin(), constant->values.end(), [&](double v) { return v == number; });
}

// x op neutral -> x. Types must agree: the constant may be what gives the result its shape.
template <typename Op>
absl::StatusOr<ValueId> DropNeutral(Graph& graph, OpId id, double neutral, bool either_side) {
  const Op op = *graph.As<Op>(id);
  const Type& type = graph.type(graph.op(id).results[0]);
  if (IsSplat(graph, op.b, neutral) && graph.type(op.a) == type) return op.a;
  if (either_side && IsSplat(graph, op.a, neutral) && graph.type(op.b) == type) return op.b;
  return ValueId::None();
}

absl::StatusOr<ValueId> SimplifyMul(Graph& graph, OpId id) { return DropNeutral<ops::Mul>(graph, id, 1, true); }
absl::StatusOr<ValueId> SimplifyDiv(Graph& graph, OpId id) { return DropNeutral<ops::Div>(graph, id, 1, false); }
absl::StatusOr<ValueId> SimplifyAdd(Graph& graph, OpId id) { return DropNeutral<ops::Add>(graph, id, 0, true); }
absl::StatusOr<ValueId> SimplifySub(Graph& graph, OpId id) { return DropNeutral<ops::Sub>(graph, id, 0, false); }

// -(-x) -> x
absl::StatusOr<ValueId> SimplifyNeg(Graph& graph, OpId id) {
  const auto inner = graph.DefAs<ops::Neg>(graph.As<ops::Neg>(id)->x);
  return inner ? inner->x : ValueId::None();
}

// A conversion, a slice or a repeat that yields the type of x yields x: a slice of an axis in full can only start at 0.
absl::StatusOr<ValueId> SimplifySameType(Graph& graph, OpId id) {
  const ValueId x = graph.op(id).fields.operands[0];
  return graph.type(x) == graph.type(graph.op(id).results[0]) ? x : ValueId::None();
}

AddOptions InPlaceOf(const Graph& graph, OpId id) {
  AddOptions options;
  options.loc = graph.op(id).loc;
  options.before = id;
  return options;
}

// To the same shape -> x; reshape(reshape(x)) -> reshape(x).
absl::StatusOr<ValueId> SimplifyReshape(Graph& graph, OpId id) {
  const ValueId x = graph.As<ops::Reshape>(id)->x;
  const Type& type = graph.type(graph.op(id).results[0]);
  if (graph.type(x) == type) return x;
  const auto inner = graph.DefAs<ops::Reshape>(x);
  if (!inner) return ValueId::None();
  if (graph.type(inner->x) == type) return inner->x;
  AddOptions options = InPlaceOf(graph, id);
  options.declared = {type};
  return graph.Add(ops::Reshape{.x = inner->x}, std::move(options));
}

// By the identity -> x; transpose(transpose(x, p), q) -> transpose(x, p after q).
absl::StatusOr<ValueId> SimplifyTranspose(Graph& graph, OpId id) {
  ops::Transpose outer = *graph.As<ops::Transpose>(id);
  if (std::is_sorted(outer.perm.begin(), outer.perm.end())) return outer.x;
  const auto inner = graph.DefAs<ops::Transpose>(outer.x);
  if (!inner) return ValueId::None();
  for (int64_t& axis : outer.perm) axis = inner->perm[axis];
  if (std::is_sorted(outer.perm.begin(), outer.perm.end())) return inner->x;
  return graph.Add(ops::Transpose{.x = inner->x, .perm = std::move(outer.perm)}, InPlaceOf(graph, id));
}

// Of a table of one row -> the table: the one index that names a row of it is 0.
absl::StatusOr<ValueId> SimplifyTake(Graph& graph, OpId id) {
  const ValueId table = graph.As<ops::Take>(id)->table;
  const Type& type = graph.type(table);
  return type.dims[0].is_one() && type == graph.type(graph.op(id).results[0]) ? table : ValueId::None();
}

struct Row {
  OpKind kind;
  Simplification simplify;
};

constexpr Row kSimplifications[] = {
    {OpKind::kMul, SimplifyMul},         {OpKind::kDiv, SimplifyDiv},
    {OpKind::kAdd, SimplifyAdd},         {OpKind::kSub, SimplifySub},
    {OpKind::kNeg, SimplifyNeg},         {OpKind::kConvert, SimplifySameType},
    {OpKind::kSlice, SimplifySameType},  {OpKind::kRepeat, SimplifySameType},
    {OpKind::kReshape, SimplifyReshape}, {OpKind::kTranspose, SimplifyTranspose},
    {OpKind::kTake, SimplifyTake},
};

bool IsSmall(const Type& type) {
  int64_t elems = 1;
  for (const DimExpr& dim : type.dims) {
    if (!dim.is_const() || dim.constant() < 1 || dim.constant() > kMaxFolded) return false;
    elems *= dim.constant();
    if (elems > kMaxFolded) return false;
  }
  return !type.state;
}

bool CanFold(const Graph& graph, const OpData& op) {
  if (op.fields.operands.empty() || op.results.size() != 1 || !IsSmall(graph.type(op.results[0]))) return false;
  if (op.def().Has(kSource) || IsQuantized(graph.type(op.results[0]).dtype)) return false;
  if (op.def().Has(kReduce) && graph.IsResult(op.results[0])) return false;  // the sum that a loop's body must end with
  for (const Attr& attr : op.fields.attrs) {
    if (std::holds_alternative<GraphRef>(attr)) return false;
  }
  return std::all_of(op.fields.operands.begin(), op.fields.operands.end(), [&](ValueId v) {
    return !v.valid() || (graph.DefAs<ops::Constant>(v) && IsSmall(graph.type(v)));
  });
}

// The op over constants as a constant, computed in a graph of its own; None when it has no value (an index outside its
// table) or NaN.
absl::StatusOr<ValueId> Fold(Graph& graph, OpId id) {
  const OpData& op = graph.op(id);
  if (!CanFold(graph, op)) return ValueId::None();
  Module scratch("fold");
  scratch.dims = graph.module().dims;
  Graph& inner = scratch.AddGraph("fold");
  OpFields fields = op.fields;
  for (ValueId& operand : fields.operands) {
    if (!operand.valid()) continue;
    AddOptions options;
    options.declared = {graph.type(operand)};
    SINTER_ASSIGN_OR_RETURN(operand, inner.Add(*graph.DefAs<ops::Constant>(operand), std::move(options)));
  }
  const Type type = graph.type(op.results[0]);
  AddOptions options;
  options.declared = {type};
  SINTER_ASSIGN_OR_RETURN(const OpId copy, inner.AddFields(std::move(fields), std::move(options)));
  inner.SetResults({inner.op(copy).results[0]});
  const absl::StatusOr<std::vector<Tensor>> results = Evaluate(inner, {}, {});
  if (!results.ok()) return ValueId::None();
  std::vector<double> values = (*results)[0].values;
  if (std::any_of(values.begin(), values.end(), [](double v) { return v != v; })) return ValueId::None();
  // One value for all, when they are the same bits.
  if (std::all_of(values.begin(), values.end(),
                  [&](double v) { return absl::bit_cast<uint64_t>(v) == absl::bit_cast<uint64_t>(values[0]); })) {
    values.resize(1);
  }
  AddOptions made = InPlaceOf(graph, id);
  made.declared = {type};
  return graph.Add(ops::Constant{.values = std::move(values)}, std::move(made));
}

absl::StatusOr<ValueId> Simpler(Graph& graph, OpId id) {
  for (const Row& row : kSimplifications) {
    if (row.kind != graph.op(id).kind()) continue;
    SINTER_ASSIGN_OR_RETURN(const ValueId value, row.simplify(graph, id));
    if (value.valid()) return value;
  }
  return Fold(graph, id);
}

absl::StatusOr<bool> SimplifyOps(Graph& graph) {
  std::vector<OpId> replaced;
  std::vector<std::pair<ValueId, std::string>> names;  // that they leave
  const std::vector<OpId> order = graph.order();
  for (OpId id : order) {
    SINTER_ASSIGN_OR_RETURN(const ValueId value, Simpler(graph, id));
    if (!value.valid()) continue;
    // A copy may be read after the state was overwritten, its view not.
    if (!graph.op(id).def().Has(kView) && LooksAtOverwritten(graph, value)) continue;
    const std::string name = graph.value(graph.op(id).results[0]).name;
    const bool made = graph.value(value).def.valid() && graph.value(value).uses.empty() && !graph.IsResult(value);
    graph.ReplaceUses(graph.op(id).results[0], value);
    replaced.push_back(id);
    if (made) names.emplace_back(value, name);
  }
  graph.Erase(replaced);
  for (const auto& [value, name] : names) graph.Rename(value, name);
  return !replaced.empty();
}

// Everything that makes two ops the same, as text.
std::string Key(const Graph& graph, const OpData& op) {
  std::vector<uint32_t> operands;
  for (ValueId v : op.fields.operands) operands.push_back(v.value);
  if (op.def().Has(kCommutative)) std::sort(operands.begin(), operands.begin() + 2);
  std::string key = absl::StrCat(op.def().name, " ", absl::StrJoin(operands, ","));
  const DimTable& dims = graph.module().dims;
  for (const Attr& attr : op.fields.attrs) {
    key += '|';
    std::visit(
        [&](const auto& value) {
          using T = std::decay_t<decltype(value)>;
          const auto add = [&](const auto& item) {
            if constexpr (std::is_same_v<std::decay_t<decltype(item)>, double>) {
              absl::StrAppend(&key, absl::bit_cast<uint64_t>(item), ",");
            } else if constexpr (std::is_same_v<std::decay_t<decltype(item)>, std::string>) {
              absl::StrAppend(&key, item.size(), ":", item, ",");
            } else {
              absl::StrAppend(&key, item, ",");
            }
          };
          if constexpr (std::is_same_v<T, DimExpr>) {
            add(dims.ToString(value));
          } else if constexpr (std::is_same_v<T, GraphRef>) {
            add(value.id.value);
          } else if constexpr (std::is_same_v<T, std::string> || std::is_arithmetic_v<T>) {
            add(value);
          } else {
            for (const auto& item : value) add(item);
          }
        },
        attr);
  }
  for (ValueId result : op.results) absl::StrAppend(&key, ";", ToString(graph.type(result), dims));
  return key;
}

bool ShareCommon(Graph& graph) {
  std::vector<OpId> shared;
  absl::flat_hash_map<std::string, OpId> first;
  const std::vector<OpId> order = graph.order();
  for (OpId id : order) {
    const OpData& op = graph.op(id);
    const auto state = [&](ValueId v) { return graph.type(v).state; };
    if (std::any_of(op.results.begin(), op.results.end(), state)) continue;
    const auto [it, is_new] = first.emplace(Key(graph, op), id);
    if (is_new) continue;
    for (size_t i = 0; i < op.results.size(); ++i) graph.ReplaceUses(op.results[i], graph.op(it->second).results[i]);
    shared.push_back(id);
  }
  graph.Erase(shared);
  return !shared.empty();
}

}  // namespace

absl::StatusOr<bool> Canonicalize(Module& module, PassContext& context) {
  const absl::flat_hash_set<GraphId> bodies = Bodies(module);
  bool changed = false;
  for (bool rewritten = true; rewritten;) {
    for (GraphId id : module.graphs()) {
      Graph& graph = module.graph(id);
      for (bool again = true; again;) {
        SINTER_ASSIGN_OR_RETURN(again, SimplifyOps(graph));
        again |= ShareCommon(graph);
        again |= EraseDeadOps(graph);
        changed |= again;
      }
    }
    SINTER_ASSIGN_OR_RETURN(rewritten, RunRules<CanonicalForms>(module, context));
    changed |= rewritten;
  }
  changed |= EraseUnusedBodies(module, bodies);
  return changed;
}

}  // namespace sinter
