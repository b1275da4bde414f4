// sink-rows: `take %x, %rows` moves up through what is computed row by row, so that only the rows which are wanted
// leave the last layer: its attention, its products and the final norm work on them alone. Keys and values keep all
// rows.
//
// A value is sunk when it has one axis of rows, its op makes each row of the same row of its operands (RowsOfOperands
// says how), and nobody but sunk ops and the take reads it. Where that ends, rows are taken: of a matrix as it is, of
// positions i32[T] as a matrix of one column; what has its rows elsewhere cannot be taken, so what reads it is not
// sunk.
#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "base/status.h"
#include "passes/cleanup.h"
#include "passes/pass.h"

namespace sinter {
namespace {

using Axis = std::optional<size_t>;  // of rows; none: the same for all rows

// The axis of an operand that lies at `axis` of a result to which it broadcasts.
Axis Aligned(const Type& operand, size_t result_rank, size_t axis) {
  const size_t missing = result_rank - operand.dims.size();
  if (axis < missing || operand.dims[axis - missing].is_one()) return std::nullopt;
  return axis - missing;
}

// Where the rows of each operand are, for an op whose result has them at `axis`; nullopt: the op mixes them.
std::optional<std::vector<Axis>> RowsOfOperands(const Graph& graph, const OpData& op, size_t axis) {
  const auto& operands = op.fields.operands;
  const Type& result = graph.type(op.results[0]);
  const size_t rank = result.dims.size();
  std::vector<Axis> axes(operands.size());
  const auto broadcast = [&] {
    for (size_t i = 0; i < operands.size(); ++i) {
      if (operands[i].valid()) axes[i] = Aligned(graph.type(operands[i]), rank, axis);
    }
  };
  switch (op.kind()) {
    case OpKind::kLayerNorm:
    case OpKind::kRmsNorm:
    case OpKind::kSoftmax:
      if (axis + 1 == rank) return std::nullopt;
      broadcast();
      return axes;
    case OpKind::kGemm: {
      if (axis + 2 != rank) return std::nullopt;
      const bool trans_a = std::get<bool>(op.fields.attrs[0]);
      axes[0] = trans_a ? axis + 1 : axis;
      return axes;
    }
    case OpKind::kAttend:
      if (axis + 2 != rank) return std::nullopt;
      axes[0] = axis;
      if (operands.size() > 3) axes[3] = Aligned(graph.type(operands[3]), rank, axis);
      return axes;
    case OpKind::kHeads:
      if (axis != 2) return std::nullopt;
      axes[0] = 0;
      return axes;
    case OpKind::kMergeHeads:
      if (axis != 0) return std::nullopt;
      axes[0] = 2;
      return axes;
    case OpKind::kRope:
      if (axis + 2 != rank) return std::nullopt;
      axes[0] = axis, axes[1] = 0;
      return axes;
    case OpKind::kCausalMask:
      if (axis != 0) return std::nullopt;
      axes[0] = 0;
      return axes;
    default:
      break;
  }
  if (op.def().Has(kReduce)) {
    const auto along = std::get<int64_t>(op.fields.attrs[0]);
    if (static_cast<int64_t>(axis) == (along < 0 ? along + static_cast<int64_t>(rank) : along)) return std::nullopt;
    axes[0] = axis;
    return axes;
  }
  if (!op.def().Has(kElementwise)) return std::nullopt;
  broadcast();
  return axes;
}

class Sinker {
 public:
  Sinker(Graph& graph, const ops::Take& take)
      : graph_(graph), table_(take.table), rows_(take.rows), to_(graph.type(take.rows).dims[0]) {}

  absl::StatusOr<bool> Run() {
    const DimExpr& from = graph_.type(table_).dims[0];
    const DimTable& dims = graph_.module().dims;
    // Rows that a parameter names are known wherever they are wanted.
    if (graph_.value(rows_).def.valid() || from == to_ || from.is_const() || dims.Max(to_) > dims.Max(from))
      return false;
    Collect(table_);
    while (Shrink()) {
    }
    if (!sunk_.contains(table_)) return false;
    const std::vector<OpId> order = graph_.order();
    for (OpId op : order) {
      if (graph_.op(op).results.size() != 1 || !sunk_.contains(graph_.op(op).results[0])) continue;
      SINTER_RETURN_IF_ERROR(Sink(op));
    }
    return ReplaceTakes();
  }

 private:
  struct Sunk {
    size_t axis;
    std::vector<Axis> operands;
  };

  bool IsTake(OpId op) const {
    const auto take = graph_.As<ops::Take>(op);
    return take && take->table == table_ && take->rows == rows_;
  }

  // All that might be sunk, from `table` with its rows at axis 0 upwards.
  void Collect(ValueId table) {
    std::vector<std::pair<ValueId, size_t>> stack = {{table, 0}};
    while (!stack.empty()) {
      const auto [value, axis] = stack.back();
      stack.pop_back();
      const auto found = sunk_.find(value);
      if (found != sunk_.end()) {
        if (found->second.axis != axis) mixed_.insert(value);
        continue;
      }
      const OpId def = graph_.value(value).def;
      if (!def.valid() || graph_.op(def).results.size() != 1 || graph_.type(value).state) continue;
      const std::optional<std::vector<Axis>> operands = RowsOfOperands(graph_, graph_.op(def), axis);
      if (!operands) continue;
      sunk_[value] = {axis, *operands};
      for (size_t i = operands->size(); i-- > 0;) {
        if ((*operands)[i]) stack.emplace_back(graph_.op(def).fields.operands[i], *(*operands)[i]);
      }
    }
  }

  bool CanTake(ValueId value, size_t axis) const {
    const Type& type = graph_.type(value);
    if (axis != 0 || type.state || type.dtype == DType::kBool || IsQuantized(type.dtype)) return false;
    return type.rank() == 2 || type.rank() == 1;
  }

  bool Stays(ValueId value, const Sunk& sunk) const {
    if (mixed_.contains(value) || graph_.IsResult(value)) return true;
    bool wanted = false, others = false;
    for (const Use& use : graph_.value(value).uses) {
      const OpData& user = graph_.op(use.op);
      const auto at = user.results.size() == 1 ? sunk_.find(user.results[0]) : sunk_.end();
      const bool by_rows = at != sunk_.end() && at->second.operands[use.operand] == sunk.axis;
      (by_rows || (value == table_ && IsTake(use.op)) ? wanted : others) = true;
    }
    const OpData& op = graph_.op(graph_.value(value).def);
    if (!wanted || (others && op.kind() != OpKind::kCausalMask)) return true;
    const auto& operands = op.fields.operands;
    for (size_t i = 0; i < operands.size(); ++i) {
      const Axis axis = sunk.operands[i];
      if (axis && !sunk_.contains(operands[i]) && !CanTake(operands[i], *axis)) return true;
    }
    return false;
  }

  // Drops what cannot be sunk for what is not; true when there was something.
  bool Shrink() {
    std::vector<ValueId> stay;
    for (const auto& [value, sunk] : sunk_) {
      if (Stays(value, sunk)) stay.push_back(value);
    }
    for (ValueId value : stay) sunk_.erase(value);
    return !stay.empty();
  }

  AddOptions Before(OpId op, const std::string& name) const {
    AddOptions options;
    options.before = op;
    options.loc = graph_.op(op).loc;
    options.names = {name};
    return options;
  }

  // The wanted rows of a value that keeps all of them.
  absl::StatusOr<ValueId> Taken(ValueId value, OpId before) {
    ValueId& taken = taken_[value];
    if (taken.valid()) return taken;
    const Type type = graph_.type(value);
    AddOptions options = Before(before, graph_.value(value).name);
    if (type.rank() == 2) {
      SINTER_ASSIGN_OR_RETURN(taken, graph_.Add(ops::Take{value, rows_}, std::move(options)));
      return taken;
    }
    AddOptions column = options, wanted = options;
    column.declared = {{type.dtype, {type.dims[0], 1}}};
    options.declared = {{type.dtype, {to_}}};
    SINTER_ASSIGN_OR_RETURN(const ValueId matrix, graph_.Add(ops::Reshape{value}, std::move(column)));
    SINTER_ASSIGN_OR_RETURN(const ValueId rows, graph_.Add(ops::Take{matrix, rows_}, std::move(wanted)));
    SINTER_ASSIGN_OR_RETURN(taken, graph_.Add(ops::Reshape{rows}, std::move(options)));
    return taken;
  }

  absl::Status Sink(OpId id) {
    const OpData op = graph_.op(id);
    const ValueId value = op.results[0];
    const Sunk& sunk = sunk_.at(value);
    OpFields fields = op.fields;
    for (size_t i = 0; i < fields.operands.size(); ++i) {
      if (!sunk.operands[i]) continue;
      const auto made = made_.find(fields.operands[i]);
      if (made != made_.end()) {
        fields.operands[i] = made->second;
        continue;
      }
      SINTER_ASSIGN_OR_RETURN(fields.operands[i], Taken(fields.operands[i], id));
    }
    AddOptions options = Before(id, graph_.value(value).name);
    if (op.def().Has(kDeclared)) {
      Type type = graph_.type(value);
      type.dims[sunk.axis] = to_;
      options.declared = {std::move(type)};
    }
    SINTER_ASSIGN_OR_RETURN(const OpId made, graph_.AddFields(std::move(fields), std::move(options)));
    made_[value] = graph_.op(made).results[0];
    return absl::OkStatus();
  }

  // The take becomes the last sunk value; what was sunk goes, and leaves its names.
  absl::StatusOr<bool> ReplaceTakes() {
    const auto uses = graph_.value(table_).uses;
    for (const Use& use : uses) {
      const ValueId result = graph_.op(use.op).results[0];
      const std::string name = graph_.value(result).name;
      graph_.ReplaceUses(result, made_.at(table_));
      graph_.Erase(use.op);
      graph_.Rename(made_.at(table_), name);
    }
    const std::vector<OpId> order = graph_.order();
    for (size_t i = order.size(); i-- > 0;) {
      if (graph_.op(order[i]).results.size() != 1) continue;
      const ValueId value = graph_.op(order[i]).results[0];
      const auto made = made_.find(value);
      if (made == made_.end() || graph_.UseCount(value) > 0) continue;
      const std::string name = graph_.value(value).name;
      graph_.Erase(order[i]);
      if (value != table_) graph_.Rename(made->second, name);
    }
    return true;
  }

  Graph& graph_;
  const ValueId table_, rows_;
  const DimExpr to_;
  absl::flat_hash_map<ValueId, Sunk> sunk_;
  absl::flat_hash_set<ValueId> mixed_;  // with their rows at two axes
  absl::flat_hash_map<ValueId, ValueId> taken_, made_;
};

}  // namespace

absl::StatusOr<bool> SinkRows(Module& module, PassContext&) {
  bool changed = false;
  for (GraphId id : module.entries()) {
    Graph& graph = module.graph(id);
    // Fewer rows are other shapes, hence other kernels: in a small model they cost more to make than they save. What
    // has no weights, a part of a model, says nothing of that.
    const int64_t weights = WeightBytes(graph);
    if (weights > 0 && weights < kStreamedBytes) continue;
    const std::vector<OpId> order = graph.order();
    for (OpId op : order) {
      if (graph.op(op).erased) continue;
      const auto take = graph.As<ops::Take>(op);
      if (!take) continue;
      SINTER_ASSIGN_OR_RETURN(const bool sunk, Sinker(graph, *take).Run());
      changed |= sunk;
    }
  }
  return changed;
}

}  // namespace sinter
