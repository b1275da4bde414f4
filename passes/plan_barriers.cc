// plan-barriers: which steps must wait for all threads.
//
// A step waits when it touches what a step since the last barrier wrote, or overwrites (a state, in place) what one of
// them read. It need not wait for what its own thread wrote: the share of a thread depends on the number of grains
// alone, so two row kernels with the same grains share them out alike, and a reader whose accesses have the writer's
// strides over the outer axes reads only rows of its own; and all steps of one grain run on one thread. A run starts
// synchronized.
#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "backend/kernel_spec.h"
#include "base/status.h"
#include "passes/pass.h"

namespace sinter {
namespace {

bool IsPlain(const Access& access) { return !access.gather && !access.state; }

// Does `read` by the kernel `reader` stay within the rows that the same thread stored with `store` in `writer`?
bool ReadsOwnRows(const RowSpec& writer, const Access& store, const RowSpec& reader, const Access& read) {
  if (writer.axes.size() != reader.axes.size() || writer.row_block != reader.row_block) return false;
  const size_t inner = writer.axes.size() - 1;
  for (size_t i = 0; i < inner; ++i) {
    if (writer.axes[i] != reader.axes[i]) return false;
    if (!writer.axes[i].is_one() && store.strides[i] != read.strides[i]) return false;
  }
  // Within a row: one element of it, or the elements that were stored.
  const bool within = reader.axes[inner].is_one() || read.strides[inner] == DimExpr(0) ||
                      (read.strides[inner] == store.strides[inner] && reader.axes[inner] == writer.axes[inner]);
  return within && store.offset == read.offset;
}

bool OneGrain(const KernelSpec& spec) {
  return std::all_of(spec.extent.begin(), spec.extent.end(),
                     [](const ExtentFactor& f) { return f.expr.is_const() && f.expr.constant() <= f.block; });
}

class BarrierPlanner {
 public:
  explicit BarrierPlanner(Graph& graph) : graph_(graph) {}

  absl::StatusOr<bool> Run() {
    bool changed = false;
    for (OpId id : graph_.order()) {
      auto kernel = graph_.As<ops::Kernel>(id);
      if (!kernel) continue;
      SINTER_ASSIGN_OR_RETURN(KernelSpec spec, SpecOfKernel(graph_, id));
      const bool barrier = MustWait(id, *kernel, spec);
      if (barrier) {
        written_.clear();
        read_.clear();
      }
      Note(id, *kernel, std::move(spec));
      if (kernel->barrier == barrier) continue;
      kernel->barrier = barrier;
      graph_.SetAttrs(*std::move(kernel), id);
      changed = true;
    }
    return changed;
  }

 private:
  struct Writer {
    OpId op;
    uint32_t operand = 0;  // of its kernel
  };

  bool MustWait(OpId id, const ops::Kernel& kernel, const KernelSpec& spec) const {
    const auto consumed = ConsumedOperands(graph_, id);
    for (uint32_t i = 0; i < kernel.args.size(); ++i) {
      const auto reader = read_.find(kernel.args[i]);
      if (std::find(consumed.begin(), consumed.end(), i) != consumed.end() && reader != read_.end() &&
          !(reader->second && OneGrain(spec))) {
        return true;
      }
      const auto writer = written_.find(kernel.args[i]);
      if (writer != written_.end() && !OwnRows(writer->second, spec, i)) return true;
    }
    return false;
  }

  bool OwnRows(const Writer& writer, const KernelSpec& reader, uint32_t operand) const {
    const KernelSpec& spec = specs_.at(writer.op);
    if (OneGrain(spec) && OneGrain(reader)) return true;
    if (!spec.row || !reader.row || spec.extent != reader.extent) return false;
    const std::vector<const Access*> stores = AccessesOf(spec, writer.operand), reads = AccessesOf(reader, operand);
    if (stores.size() != 1 || !IsPlain(*stores[0])) return false;
    return std::all_of(reads.begin(), reads.end(), [&](const Access* read) {
      return IsPlain(*read) && ReadsOwnRows(*spec.row, *stores[0], *reader.row, *read);
    });
  }

  void Note(OpId id, const ops::Kernel& kernel, KernelSpec spec) {
    for (ValueId arg : kernel.args) {
      if (!graph_.type(arg).state) continue;
      const auto [it, is_new] = read_.emplace(arg, true);
      it->second &= OneGrain(spec);
    }
    uint32_t operand = static_cast<uint32_t>(kernel.args.size());
    for (ValueId result : graph_.op(id).results) {
      written_[result] = {id, graph_.type(result).state ? UINT32_MAX : operand};
      if (!graph_.type(result).state) ++operand;
    }
    specs_[id] = std::move(spec);
  }

  Graph& graph_;
  absl::flat_hash_map<OpId, KernelSpec> specs_;
  absl::flat_hash_map<ValueId, Writer> written_;  // since the last barrier
  absl::flat_hash_map<ValueId, bool> read_;       // states, since the last barrier: by steps of one grain only?
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
