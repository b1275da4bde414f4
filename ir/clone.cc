// CloneGraph, CallDims and ConsumedOperands: what follows the graphs that ops name.
#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "ir/graph.h"

namespace sinter {
namespace {

class Cloner {
 public:
  Cloner(const Module& from, Module& to, const IdMap<DimId, DimExpr>& by) : from_(from), to_(to), by_(by) {}

  // On an error nothing stays.
  absl::StatusOr<GraphId> Run(const Graph& from, const std::string& name) {
    absl::StatusOr<GraphId> clone = Clone(from, name);
    if (!clone.ok()) {
      for (GraphId id : made_) to_.EraseGraph(id);
    }
    return clone;
  }

  absl::StatusOr<std::vector<ValueId>> RunInline(const Graph& from, Graph& into, absl::Span<const ValueId> args) {
    IdMap<ValueId, ValueId> values;
    values.Resize(from.num_values());
    for (size_t i = 0; i < args.size(); ++i) values[from.params()[i]] = args[i];
    SINTER_RETURN_IF_ERROR(CopyOps(from, into.id(), values));
    return ResultsOf(from, values);
  }

 private:
  absl::StatusOr<GraphId> Clone(const Graph& from, const std::string& name) {
    // Substitution and inference read the new module only, so `to` may be the module that `from` is in.
    const GraphId id = to_.AddGraph(name).id();
    made_.push_back(id);
    IdMap<ValueId, ValueId> values;
    values.Resize(from.num_values());
    for (ValueId param : from.params()) {
      values[param] = to_.graph(id).AddParam(from.value(param).name, sinter::Substitute(from.type(param), by_));
      CopyAddress(from, param, id, values[param]);
    }
    SINTER_RETURN_IF_ERROR(CopyOps(from, id, values));
    to_.graph(id).SetResults(ResultsOf(from, values));
    return id;
  }

  static std::vector<ValueId> ResultsOf(const Graph& from, const IdMap<ValueId, ValueId>& values) {
    std::vector<ValueId> results;
    for (ValueId result : from.results()) results.push_back(values[result]);
    return results;
  }

  // Appends the ops of `from` to graph `id`. `values`: what its values are there; the parameters' are given.
  absl::Status CopyOps(const Graph& from, GraphId id, IdMap<ValueId, ValueId>& values) {
    for (OpId op : from.order()) {
      const OpData& data = from.op(op);
      OpFields fields = data.fields;
      for (ValueId& operand : fields.operands) {
        if (operand.valid()) operand = values[operand];
      }
      for (Attr& attr : fields.attrs) {
        if (auto* dim = std::get_if<DimExpr>(&attr)) *dim = dim->Substitute(by_);
        if (auto* body = std::get_if<GraphRef>(&attr)) {
          SINTER_ASSIGN_OR_RETURN(body->id, CloneBody(body->id));
        }
      }
      AddOptions options{.loc = data.loc};
      for (ValueId result : data.results) {
        options.declared.push_back(sinter::Substitute(from.type(result), by_));
        options.names.push_back(from.value(result).name);
      }
      SINTER_ASSIGN_OR_RETURN(const OpId copy, to_.graph(id).AddFields(std::move(fields), std::move(options)));
      for (size_t i = 0; i < data.results.size(); ++i) {
        values[data.results[i]] = to_.graph(id).op(copy).results[i];
        CopyAddress(from, data.results[i], id, values[data.results[i]]);
      }
    }
    return absl::OkStatus();
  }

  // A body that the substitution leaves as it is is shared within a module; every other is cloned once.
  absl::StatusOr<GraphId> CloneBody(GraphId body) {
    if (&from_ == &to_ && !Changes(body)) return body;
    const auto [it, inserted] = bodies_.emplace(body, GraphId::None());
    if (!inserted) {
      if (it->second.valid()) return it->second;
      return absl::InvalidArgumentError(absl::StrCat("graph @", from_.graph(body).name(), " names itself"));
    }
    SINTER_ASSIGN_OR_RETURN(const GraphId clone, Clone(from_.graph(body), from_.graph(body).name()));
    bodies_[body] = clone;
    return clone;
  }

  bool Changes(GraphId id) {
    const auto [it, inserted] = changes_.emplace(id, false);
    if (!inserted) return it->second;
    const Graph& graph = from_.graph(id);
    bool changes = false;
    for (ValueId param : graph.params()) changes |= graph.type(param) != sinter::Substitute(graph.type(param), by_);
    for (OpId op : graph.order()) {
      for (ValueId result : graph.op(op).results)
        changes |= graph.type(result) != sinter::Substitute(graph.type(result), by_);
      for (const Attr& attr : graph.op(op).fields.attrs) {
        if (const auto* dim = std::get_if<DimExpr>(&attr)) changes |= *dim != dim->Substitute(by_);
        if (const auto* body = std::get_if<GraphRef>(&attr)) changes |= Changes(body->id);
      }
    }
    return changes_[id] = changes;
  }

  void CopyAddress(const Graph& from, ValueId value, GraphId to, ValueId copy) {
    if (from.value(value).address) to_.graph(to).SetAddress(copy, *from.value(value).address);
  }

  const Module& from_;
  Module& to_;
  const IdMap<DimId, DimExpr>& by_;
  absl::flat_hash_map<GraphId, GraphId> bodies_;
  absl::flat_hash_map<GraphId, bool> changes_;
  std::vector<GraphId> made_;
};

// The parameter whose version `value` is, through the ops that consume and yield; UINT32_MAX when there is none.
uint32_t StateOrigin(const Graph& body, ValueId value) {
  while (body.value(value).def.valid()) {
    const OpId def = body.value(value).def;
    if (body.op(def).kind() == OpKind::kKernel) return UINT32_MAX;  // a group has no states
    uint32_t index = 0;
    for (ValueId result : body.op(def).results) {
      if (result == value) break;
      index += body.type(result).state;
    }
    const auto consumed = ConsumedOperands(body, def);
    if (index >= consumed.size()) return UINT32_MAX;
    value = body.op(def).fields.operands[consumed[index]];
  }
  return body.value(value).index;
}

// Adds the symbols of a dim, or of a type, to `mentioned`.
void Mention(const DimExpr& dim, IdMap<DimId, uint8_t>& mentioned) {
  for (const DimExpr::Term& term : dim.terms()) {
    for (DimId symbol : term.symbols) mentioned[symbol] = 1;
  }
}
void Mention(const Type& type, IdMap<DimId, uint8_t>& mentioned) {
  for (const DimExpr& dim : type.dims) Mention(dim, mentioned);
}

}  // namespace

std::vector<DimId> MentionedDims(const Graph& graph) {
  IdMap<DimId, uint8_t> mentioned;
  mentioned.Resize(graph.module().dims.symbols().size());
  for (ValueId param : graph.params()) Mention(graph.type(param), mentioned);
  for (OpId op : graph.order()) {
    for (ValueId result : graph.op(op).results) Mention(graph.type(result), mentioned);
    for (const Attr& attr : graph.op(op).fields.attrs) {
      if (const auto* dim = std::get_if<DimExpr>(&attr)) Mention(*dim, mentioned);
    }
  }
  std::vector<DimId> dims;
  for (uint32_t i = 0; i < mentioned.size(); ++i) {
    if (mentioned[DimId{i}] != 0) dims.push_back(DimId{i});
  }
  return dims;
}

Type Substitute(const Type& type, const IdMap<DimId, DimExpr>& by) {
  Type result = type;
  for (DimExpr& dim : result.dims) dim = dim.Substitute(by);
  return result;
}

std::optional<IdMap<DimId, DimExpr>> CallDims(const Graph& body, absl::Span<const Type* const> args) {
  if (args.size() != body.params().size()) return std::nullopt;
  const IdMap<DimId, DimSymbol>& symbols = body.module().dims.symbols();
  IdMap<DimId, uint8_t> inside, outside;
  inside.Resize(symbols.size());
  outside.Resize(symbols.size());
  for (size_t i = 0; i < args.size(); ++i) {
    Mention(body.type(body.params()[i]), inside);
    Mention(*args[i], outside);
  }
  IdMap<DimId, DimExpr> by;
  for (uint32_t i = 0; i < symbols.size(); ++i) {
    const DimId id{i};
    by.Add(inside[id] != 0 && outside[id] == 0 ? DimExpr(symbols[id].min) : DimExpr::Symbol(id));
  }
  for (size_t i = 0; i < args.size(); ++i) {
    if (sinter::Substitute(body.type(body.params()[i]), by) != *args[i]) return std::nullopt;
  }
  return by;
}

absl::StatusOr<GraphId> CloneGraph(const Graph& from, Module& module, const std::string& name,
                                   const IdMap<DimId, DimExpr>& by) {
  return Cloner(from.module(), module, by).Run(from, name);
}

absl::StatusOr<std::vector<ValueId>> InlineGraph(const Graph& body, Graph& into, absl::Span<const ValueId> args,
                                                 const IdMap<DimId, DimExpr>& by) {
  return Cloner(body.module(), into.module(), by).RunInline(body, into, args);
}

// A kernel consumes what its body consumes; every other op yields the next version of its state operands, in order.
absl::InlinedVector<uint32_t, 2> ConsumedOperands(const Graph& graph, OpId op) {
  const OpData& data = graph.op(op);
  absl::InlinedVector<uint32_t, 2> consumed;
  if (const auto kernel = graph.As<ops::Kernel>(op)) {
    const Graph& body = graph.module().graph(kernel->body.id);
    for (ValueId result : body.results()) {
      if (body.type(result).state) consumed.push_back(StateOrigin(body, result));
    }
    return consumed;
  }
  const auto states =
      std::count_if(data.results.begin(), data.results.end(), [&](ValueId result) { return graph.type(result).state; });
  for (uint32_t i = 0; i < data.fields.operands.size() && consumed.size() < static_cast<size_t>(states); ++i) {
    if (data.fields.operands[i].valid() && graph.type(data.fields.operands[i]).state) consumed.push_back(i);
  }
  return consumed;
}

}  // namespace sinter
