// plan-buffers: an address for every value of every entry.
//
// Time is counted in barrier epochs, not steps: between two barriers steps of different threads overlap, so a value
// lives from the epoch of the step that writes it to the epoch of the last that reads it, both included. Values are
// placed by decreasing size at the lowest offset where they overlap no value that lives in a common epoch. All entries
// use one arena, one at a time. Sizes are those of the largest dims.
#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/checked.h"
#include "base/status.h"
#include "passes/pass.h"

namespace sinter {
namespace {

constexpr int64_t kAlignment = 64;

absl::StatusOr<int64_t> Padded(int64_t bytes) {
  const std::optional<int64_t> padded = CheckedAlign<int64_t>(bytes, kAlignment);
  if (!padded) return absl::InvalidArgumentError("a value is larger than memory can be");
  return *padded;
}

absl::StatusOr<int64_t> EndOf(int64_t offset, int64_t bytes) {
  const std::optional<int64_t> end = CheckedAdd(offset, bytes);
  if (!end) return absl::InvalidArgumentError("values are larger together than memory can be");
  return *end;
}

// Offsets of weights and tables, one for each (tensor, packing, type) of the module.
class WeightSpace {
 public:
  absl::StatusOr<int64_t> OffsetOf(const Graph& graph, OpId id) {
    SINTER_ASSIGN_OR_RETURN(const std::string key, Key(graph, id));
    const auto [it, is_new] = offsets_.emplace(key, end_);
    if (!is_new) return it->second;
    const int64_t offset = it->second;
    const auto weight = graph.As<ops::Weight>(id);
    SINTER_ASSIGN_OR_RETURN(const Packing* packing, FindPacking(weight ? weight->pack : ""));
    SINTER_ASSIGN_OR_RETURN(const int64_t bytes, PackedBytes(graph.type(graph.op(id).results[0]), *packing));
    SINTER_ASSIGN_OR_RETURN(const int64_t padded, Padded(bytes));
    SINTER_ASSIGN_OR_RETURN(end_, EndOf(end_, padded));
    return offset;
  }

 private:
  absl::StatusOr<std::string> Key(const Graph& graph, OpId id) const {
    const std::string type = ToString(graph.type(graph.op(id).results[0]), graph.module().dims);
    if (const auto weight = graph.As<ops::Weight>(id)) {
      return absl::StrCat("weight ", weight->name, "\n", weight->pack, "\n", type);
    }
    const auto table = graph.As<ops::RopeTable>(id);
    if (!table) return absl::InternalError(absl::StrCat(graph.op(id).def().name, " is no source of a planned module"));
    std::string factors;
    if (table->factors.valid()) {
      SINTER_ASSIGN_OR_RETURN(factors, Key(graph, graph.value(table->factors).def));
    }
    return absl::StrFormat("rope_table %a %a %s\n%s\n%s", table->base, table->scale, table->style, type, factors);
  }

  absl::flat_hash_map<std::string, int64_t> offsets_;
  int64_t end_ = 0;
};

struct Buffer {
  ValueId value;
  int64_t bytes = 0;
  int64_t first_epoch = 0, last_epoch = 0;
  int64_t offset = 0;
};

// First fit by decreasing size; of equal ones the first in program order comes first.
absl::Status Place(std::vector<Buffer>& buffers) {
  std::stable_sort(buffers.begin(), buffers.end(), [](const Buffer& a, const Buffer& b) { return a.bytes > b.bytes; });
  std::vector<const Buffer*> placed;  // by offset
  for (Buffer& buffer : buffers) {
    for (const Buffer* other : placed) {
      const bool together = buffer.first_epoch <= other->last_epoch && other->first_epoch <= buffer.last_epoch;
      if (!together) continue;
      if (buffer.bytes <= other->offset - buffer.offset) break;  // fits before it
      buffer.offset = std::max(buffer.offset, other->offset + other->bytes);
    }
    SINTER_RETURN_IF_ERROR(EndOf(buffer.offset, buffer.bytes).status());
    placed.insert(std::upper_bound(placed.begin(), placed.end(), &buffer,
                                   [](const Buffer* a, const Buffer* b) { return a->offset < b->offset; }),
                  &buffer);
  }
  return absl::OkStatus();
}

class EntryPlanner {
 public:
  EntryPlanner(Graph& graph, WeightSpace& weights) : graph_(graph), weights_(weights) {}

  absl::Status Run() {
    PlaceParams();
    SINTER_RETURN_IF_ERROR(PlaceResults());
    for (OpId id : graph_.order()) SINTER_RETURN_IF_ERROR(Visit(id));
    SINTER_RETURN_IF_ERROR(Place(buffers_));
    for (const Buffer& buffer : buffers_) graph_.SetAddress(buffer.value, {Space::kArena, buffer.offset});
    return absl::OkStatus();
  }

 private:
  absl::Status Wrong(ValueId value, absl::string_view what) const {
    return absl::InternalError(absl::StrCat("@", graph_.name(), " %", graph_.value(value).name, ": ", what));
  }

  void PlaceParams() {
    int64_t states = 0, inputs = 0;
    for (ValueId param : graph_.params()) {
      graph_.SetAddress(param,
                        graph_.type(param).state ? Address{Space::kState, states++} : Address{Space::kInput, inputs++});
    }
  }

  absl::Status PlaceResults() {
    int64_t outputs = 0;
    for (ValueId result : graph_.results()) {
      if (graph_.type(result).state) continue;
      const OpId def = graph_.value(result).def;
      if (!def.valid() || graph_.op(def).kind() != OpKind::kKernel) return Wrong(result, "no kernel makes this result");
      if (graph_.value(result).address) return Wrong(result, "is returned twice");
      graph_.SetAddress(result, {Space::kOutput, outputs++});
    }
    return absl::OkStatus();
  }

  absl::Status Visit(OpId id) {
    const auto kernel = graph_.As<ops::Kernel>(id);
    const auto& results = graph_.op(id).results;
    if (!kernel) {
      SINTER_ASSIGN_OR_RETURN(const int64_t offset, weights_.OffsetOf(graph_, id));
      graph_.SetAddress(results[0], {Space::kWeights, offset});
      return absl::OkStatus();
    }
    epoch_ += kernel->barrier;
    for (ValueId arg : kernel->args) {
      const auto buffer = buffer_of_.find(arg);
      if (buffer != buffer_of_.end()) buffers_[buffer->second].last_epoch = epoch_;
    }
    const auto consumed = ConsumedOperands(graph_, id);
    size_t state = 0;
    for (ValueId result : results) {
      if (graph_.type(result).state) {
        if (state == consumed.size()) return Wrong(result, "is the next version of no state");
        const auto& before = graph_.value(kernel->args[consumed[state++]]).address;
        if (!before) return Wrong(result, "is the next version of a state without an address");
        graph_.SetAddress(result, *before);
      } else if (!graph_.value(result).address) {
        SINTER_ASSIGN_OR_RETURN(const int64_t bytes, MaxBytes(graph_.type(result), graph_.module().dims));
        SINTER_ASSIGN_OR_RETURN(const int64_t padded, Padded(bytes));
        buffer_of_[result] = buffers_.size();
        buffers_.push_back({result, padded, epoch_, epoch_});
      }
    }
    return absl::OkStatus();
  }

  Graph& graph_;
  WeightSpace& weights_;
  std::vector<Buffer> buffers_;
  absl::flat_hash_map<ValueId, size_t> buffer_of_;
  int64_t epoch_ = 0;
};

}  // namespace

absl::StatusOr<bool> PlanBuffers(Module& module, PassContext&) {
  WeightSpace weights;
  for (GraphId id : module.entries()) SINTER_RETURN_IF_ERROR(EntryPlanner(module.graph(id), weights).Run());
  module.stage = Stage::kPlanned;
  return true;
}

}  // namespace sinter
