// plan-barriers: which steps must wait for all threads, and which are run by every thread for itself.
//
// A step waits when it touches what a step since the last barrier wrote, or overwrites (a state, in place) what one of
// them read. It need not wait for what its own thread wrote: the share of a thread depends on the numbers of grains
// alone, so two kernels with the same lanes share them out alike, and a grain that reads only what the same grain of
// the other stored reads what its own thread stored; and all steps of one grain run on one thread. Nor need it wait for
// what every thread made for itself: small work (a norm of one row) is replicated where that saves a barrier. A run
// starts synchronized.
#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/container/node_hash_map.h"
#include "backend/kernel_spec.h"
#include "base/status.h"
#include "passes/pass.h"

namespace sinter {
namespace {

// Work that costs a thread less than to meet the others: the bytes that it makes.
constexpr int64_t kReplicatedBytes = int64_t{1} << 16;

// Whether the same thread does the same grains of both: their lanes have the same numbers of grains.
bool HaveSameShares(const KernelSpec& a, const KernelSpec& b) {
  const auto lanes = [](const KernelSpec& spec) {
    std::vector<std::vector<ExtentFactor>> extents;
    for (const KernelSpec& part : PartsOf(spec)) {
      if (part.lane < static_cast<int>(extents.size())) continue;
      extents.emplace_back();
      for (const ExtentFactor& f : part.extent) {
        if (!f.IsWhole()) extents.back().push_back(f);
      }
    }
    return extents;
  };
  return lanes(a) == lanes(b);
}

// Whether all that `reader` reads of its operand, its own thread stored in `writer`.
bool ReadsOwn(const KernelSpec& writer, uint32_t stored, const KernelSpec& reader, uint32_t read) {
  if (IsOneGrain(writer) && IsOneGrain(reader)) return true;
  if (!HaveSameShares(writer, reader)) return false;
  bool found = false;
  for (const KernelSpec& from : PartsOf(writer)) {
    if (AccessesOf(from, stored).empty()) continue;
    for (const KernelSpec& to : PartsOf(reader)) {
      if (AccessesOf(to, read).empty()) continue;
      found = true;
      if (from.lane != to.lane || !ReadsOwnGrains(from, stored, to, read)) return false;
    }
  }
  return found;
}

class BarrierPlanner {
 public:
  explicit BarrierPlanner(Graph& graph) : graph_(graph) {}

  absl::StatusOr<bool> Run() {
    for (OpId id : graph_.order()) {
      const auto kernel = graph_.As<ops::Kernel>(id);
      if (!kernel) continue;
      SINTER_ASSIGN_OR_RETURN(specs_[id], SpecOfKernel(graph_, id));
      bool wait = OverwritesWhatIsRead(id, *kernel);
      absl::flat_hash_set<OpId> alone = replicated_;  // if what it waits for is replicated
      for (OpId writer : WaitsFor(id, *kernel)) wait = wait || !Replicate(writer, alone);
      if (wait) {
        waiting_.insert(id);
        written_.clear();
        read_.clear();
      } else {
        replicated_ = std::move(alone);
      }
      Note(id, *kernel);
    }
    return Mark();
  }

 private:
  struct Writer {
    OpId op;
    uint32_t operand = 0;  // of its kernel; of a state, the version before
  };

  bool OverwritesWhatIsRead(OpId id, const ops::Kernel& kernel) const {
    for (uint32_t operand : ConsumedOperands(graph_, id)) {
      const auto reader = read_.find(kernel.args[operand]);
      if (reader != read_.end() && !(reader->second && IsOneGrain(specs_.at(id)))) return true;
    }
    return false;
  }

  // The steps since the last barrier that made what it reads in other threads than the one that reads it.
  std::vector<OpId> WaitsFor(OpId id, const ops::Kernel& kernel) const {
    std::vector<OpId> writers;
    for (uint32_t i = 0; i < kernel.args.size(); ++i) {
      const auto found = written_.find(kernel.args[i]);
      if (found == written_.end() || replicated_.contains(found->second.op)) continue;
      const Writer& writer = found->second;
      if (!ReadsOwn(specs_.at(writer.op), writer.operand, specs_.at(id), i)) writers.push_back(writer.op);
    }
    return writers;
  }

  // Adds `id` and what it reads of this epoch to `alone`, if that is small and nobody else's.
  bool Replicate(OpId id, absl::flat_hash_set<OpId>& alone) const {
    if (alone.contains(id)) return true;
    const OpData& op = graph_.op(id);
    if (specs_.at(id).row == std::nullopt) return false;  // no product
    int64_t bytes = 0;
    for (ValueId result : op.results) {
      const Type& type = graph_.type(result);
      const bool known = std::all_of(type.dims.begin(), type.dims.end(), [](const DimExpr& d) { return d.is_const(); });
      if (!known || type.state || graph_.IsResult(result)) return false;
      const absl::StatusOr<int64_t> size = MaxBytes(type, graph_.module().dims);
      if (!size.ok() || *size > kReplicatedBytes) return false;
      bytes += *size;
    }
    if (bytes > kReplicatedBytes) return false;
    for (ValueId arg : op.fields.operands) {
      if (graph_.type(arg).state) return false;
      const auto writer = written_.find(arg);
      if (writer != written_.end() && !Replicate(writer->second.op, alone)) return false;
    }
    alone.insert(id);
    return true;
  }

  void Note(OpId id, const ops::Kernel& kernel) {
    for (ValueId arg : kernel.args) {
      if (!graph_.type(arg).state) continue;
      const auto [it, is_new] = read_.emplace(arg, true);
      it->second &= IsOneGrain(specs_.at(id));
    }
    const auto consumed = ConsumedOperands(graph_, id);
    size_t states = 0;
    uint32_t operand = static_cast<uint32_t>(kernel.args.size());
    for (ValueId result : graph_.op(id).results) {
      written_[result] = {id, graph_.type(result).state ? consumed[states++] : operand++};
    }
  }

  bool Mark() {
    bool changed = false;
    for (OpId id : graph_.order()) {
      auto kernel = graph_.As<ops::Kernel>(id);
      if (!kernel) continue;
      const bool barrier = waiting_.contains(id);
      const std::string mode = replicated_.contains(id) ? "replicated" : "split";
      if (kernel->barrier == barrier && kernel->mode == mode) continue;
      kernel->barrier = barrier;
      kernel->mode = mode;
      graph_.SetAttrs(*std::move(kernel), id);
      changed = true;
    }
    return changed;
  }

  Graph& graph_;
  absl::node_hash_map<OpId, KernelSpec> specs_;   // too large to be moved when the table grows
  absl::flat_hash_map<ValueId, Writer> written_;  // since the last barrier
  absl::flat_hash_map<ValueId, bool> read_;       // states, since the last barrier: by steps of one grain only?
  absl::flat_hash_set<OpId> waiting_, replicated_;
};

}  // namespace

absl::StatusOr<bool> PlanBarriers(Module& module, PassContext&) {
  bool changed = false;
  for (GraphId id : module.entries()) {
    SINTER_ASSIGN_OR_RETURN(const bool entry_changed, BarrierPlanner(module.graph(id)).Run());
    changed |= entry_changed;
  }
  return changed;
}

}  // namespace sinter
