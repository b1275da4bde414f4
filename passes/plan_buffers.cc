// plan-buffers: an address for every value of every entry.
//
// Time is counted in barrier epochs, not steps: between two barriers steps of different threads overlap, so a value
// lives from the epoch of the step that writes it to the epoch of the last that reads it, both included. Values are
// placed by decreasing size at the lowest offset where they overlap no value that lives in a common epoch; what an
// elementwise kernel makes takes the place of an operand that nobody reads later. All entries use one arena, one at a
// time; what replicated steps make lies in an arena that each thread has. Sizes are those of the largest dims.
#include <algorithm>
#include <map>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "backend/kernel_spec.h"
#include "base/checked.h"
#include "base/status.h"
#include "passes/pass.h"

namespace sinter {
namespace {

constexpr int64_t kAlignment = 64;

absl::StatusOr<int64_t> Padded(int64_t bytes) {
  const std::optional<int64_t> padded = CheckedAlign<int64_t>(bytes, kAlignment);
  if (!padded) return absl::ResourceExhaustedError("a value is larger than memory can be");
  return *padded;
}

absl::StatusOr<int64_t> EndOf(int64_t offset, int64_t bytes) {
  const std::optional<int64_t> end = CheckedAdd(offset, bytes);
  if (!end) return absl::ResourceExhaustedError("values are larger together than memory can be");
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

struct BufferReport {
  int64_t values = 0, in_place = 0;  // that steps make; those that took an operand's place
  int64_t arena_bytes = 0;
  int64_t bytes_of_all = 0;  // had each value a place of its own
};

// A place in the arena, or in each thread's own, and the values that have it one after another.
struct Buffer {
  std::vector<ValueId> values;
  int64_t bytes = 0;
  int64_t first_epoch = 0, last_epoch = 0;
  int64_t replaced_epoch = -1;  // in which the last of the values took the place of the one before
  int64_t offset = 0;
};

// First fit by decreasing size; of equal ones the first in program order comes first. Returns the end of the last.
absl::StatusOr<int64_t> Place(std::vector<Buffer>& buffers) {
  std::stable_sort(buffers.begin(), buffers.end(), [](const Buffer& a, const Buffer& b) { return a.bytes > b.bytes; });
  std::vector<const Buffer*> placed;  // by offset
  int64_t end = 0;
  for (Buffer& buffer : buffers) {
    for (const Buffer* other : placed) {
      const bool together = buffer.first_epoch <= other->last_epoch && other->first_epoch <= buffer.last_epoch;
      if (!together) continue;
      if (buffer.bytes <= other->offset - buffer.offset) break;  // fits before it
      buffer.offset = std::max(buffer.offset, other->offset + other->bytes);
    }
    SINTER_ASSIGN_OR_RETURN(const int64_t own_end, EndOf(buffer.offset, buffer.bytes));
    end = std::max(end, own_end);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), &buffer,
                                   [](const Buffer* a, const Buffer* b) { return a->offset < b->offset; }),
                  &buffer);
  }
  return end;
}

// Whether the kernel may store `result` where its operand `arg` lies: each element of arg is read for the same element
// of the result alone, by the kernel that stores it or by an earlier one of its lane.
bool CanOverwrite(const KernelSpec& spec, uint32_t arg, uint32_t result) {
  const absl::Span<const KernelSpec> parts = PartsOf(spec);
  const auto storing = std::find_if(parts.begin(), parts.end(),
                                    [&](const KernelSpec& part) { return !AccessesOf(part, result).empty(); });
  if (storing == parts.end() || !storing->row) return false;
  const std::vector<const Access*> stores = AccessesOf(*storing, result);
  if (stores.size() != 1) return false;
  const auto same_elements = [&](const Access& read) {
    for (size_t i = 0; i < read.strides.size(); ++i) {
      if (!storing->row->axes[i].is_one() && read.strides[i] != stores[0]->strides[i]) return false;
    }
    return read.strides.size() == stores[0]->strides.size() && read.offset == stores[0]->offset;
  };
  for (const KernelSpec& part : parts) {
    for (const Access* read : AccessesOf(part, arg)) {
      const bool made_here = part.gemm && read == &part.gemm->c;
      const bool same = (part.row || made_here) && !read->gather && !read->state && read->dtype == stores[0]->dtype &&
                        same_elements(*read);
      if (!same || part.lane != storing->lane || &part > &*storing) return false;
    }
  }
  return !HasRope(*storing->row);
}

class EntryPlanner {
 public:
  EntryPlanner(Graph& graph, WeightSpace& weights) : graph_(graph), weights_(weights) {}

  absl::StatusOr<BufferReport> Run() {
    PlaceParams();
    SINTER_RETURN_IF_ERROR(PlaceResults());
    for (OpId id : graph_.order()) {
      const auto kernel = graph_.As<ops::Kernel>(id);
      if (!kernel) continue;
      epoch_of_[id] = epoch_ += kernel->barrier;
      for (ValueId arg : kernel->args) last_use_[arg] = epoch_;
    }
    epoch_ = 0;
    for (OpId id : graph_.order()) SINTER_RETURN_IF_ERROR(Visit(id));
    for (auto& [space, buffers] : buffers_) {
      SINTER_ASSIGN_OR_RETURN(const int64_t end, Place(buffers));
      if (space == Space::kArena) report_.arena_bytes = end;
      for (const Buffer& buffer : buffers) {
        for (ValueId value : buffer.values) graph_.SetAddress(value, {space, buffer.offset});
      }
    }
    return report_;
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
    SINTER_ASSIGN_OR_RETURN(const KernelSpec spec, SpecOfKernel(graph_, id));
    const Space space = kernel->mode == "replicated" ? Space::kThread : Space::kArena;
    const auto consumed = ConsumedOperands(graph_, id);
    size_t state = 0;
    std::vector<ValueId> operands = kernel->args;
    for (ValueId result : results) {
      if (graph_.type(result).state) {
        if (state == consumed.size()) return Wrong(result, "is the next version of no state");
        const auto& before = graph_.value(kernel->args[consumed[state++]]).address;
        if (!before) return Wrong(result, "is the next version of a state without an address");
        graph_.SetAddress(result, *before);
        continue;
      }
      operands.push_back(result);
      if (!graph_.value(result).address) SINTER_RETURN_IF_ERROR(PlaceValue(id, spec, operands, space));
    }
    return absl::OkStatus();
  }

  // A place for the last of the operands that a step has so far: that of an operand which nobody reads later, or one of
  // its own.
  absl::Status PlaceValue(OpId id, const KernelSpec& spec, const std::vector<ValueId>& operands, Space space) {
    const ValueId result = operands.back();
    SINTER_ASSIGN_OR_RETURN(const int64_t bytes, MaxBytes(graph_.type(result), graph_.module().dims));
    SINTER_ASSIGN_OR_RETURN(const int64_t padded, Padded(bytes));
    SINTER_ASSIGN_OR_RETURN(report_.bytes_of_all, EndOf(report_.bytes_of_all, padded));
    ++report_.values;
    const auto used = last_use_.find(result);
    const int64_t last_epoch = used == last_use_.end() ? epoch_ : used->second;
    std::vector<Buffer>& buffers = buffers_[space];
    for (uint32_t i = 0; i + 1 < operands.size(); ++i) {
      const auto held = buffer_of_.find(operands[i]);
      if (held == buffer_of_.end() || held->second.first != space) continue;
      const std::pair<Space, size_t> place = held->second;
      Buffer& buffer = buffers[place.second];
      const DimExpr left = Product(graph_.type(operands[i]).dims) - Product(graph_.type(result).dims);
      const bool fits = buffer.bytes == padded && left.is_const() && left.constant() >= 0;
      if (!fits || buffer.values.back() != operands[i] || !IsLastReader(id, operands[i])) continue;
      // A thread that is still at the value before the last would see what this step stores.
      if (buffer.replaced_epoch == epoch_) continue;
      const auto made = static_cast<uint32_t>(operands.size() - 1);
      bool free = true;  // a value may be given for several operands
      for (uint32_t j = 0; j < made; ++j) free &= operands[j] != operands[i] || CanOverwrite(spec, j, made);
      if (!free) continue;
      buffer.values.push_back(result);
      buffer.last_epoch = last_epoch;
      buffer.replaced_epoch = epoch_;
      buffer_of_[result] = place;
      ++report_.in_place;
      return absl::OkStatus();
    }
    buffer_of_[result] = {space, buffers.size()};
    buffers.push_back({{result}, padded, epoch_, last_epoch});
    return absl::OkStatus();
  }

  // Whether no other step of this epoch or later reads the value.
  bool IsLastReader(OpId id, ValueId value) const {
    for (const Use& use : graph_.value(value).uses) {
      const auto epoch = epoch_of_.find(use.op);
      if (use.op != id && (epoch == epoch_of_.end() || epoch->second >= epoch_)) return false;
    }
    return true;
  }

  Graph& graph_;
  WeightSpace& weights_;
  BufferReport report_;
  std::map<Space, std::vector<Buffer>> buffers_;
  absl::flat_hash_map<ValueId, std::pair<Space, size_t>> buffer_of_;
  absl::flat_hash_map<OpId, int64_t> epoch_of_;
  absl::flat_hash_map<ValueId, int64_t> last_use_;  // epoch
  int64_t epoch_ = 0;
};

}  // namespace

absl::StatusOr<bool> PlanBuffers(Module& module, PassContext& context) {
  WeightSpace weights;
  for (GraphId id : module.entries()) {
    SINTER_ASSIGN_OR_RETURN(const BufferReport report, EntryPlanner(module.graph(id), weights).Run());
    context.notes.push_back(absl::StrFormat(
        "@%s: %d values in an arena of %d bytes, %d of them in place; one buffer "
        "each would take %d bytes",
        module.graph(id).name(), report.values, report.arena_bytes, report.in_place, report.bytes_of_all));
  }
  module.stage = Stage::kPlanned;
  return true;
}

}  // namespace sinter
