// The spec of a kernel as a step runs it: called with the types of its arguments, alone or as a part of a group.
#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "backend/kernel_spec.h"
#include "base/status.h"

namespace sinter {
namespace {

using DimMap = IdMap<DimId, DimExpr>;

void Replace(std::vector<DimExpr>& dims, const DimMap& by) {
  for (DimExpr& d : dims) d = d.Substitute(by);
}

void Replace(Access& access, const DimMap& by) {
  access.offset = access.offset.Substitute(by);
  Replace(access.strides, by);
  if (!access.gather) return;
  access.gather->offset = access.gather->offset.Substitute(by);
  Replace(access.gather->strides, by);
  access.gather->row_stride = access.gather->row_stride.Substitute(by);
  access.gather->rows = access.gather->rows.Substitute(by);
}

// Calls `visit` on every access of a spec that is no group.
template <typename Spec, typename Visit>
void VisitAccesses(Spec& spec, const Visit& visit) {
  if (spec.row) {
    for (auto& [value, access] : spec.row->leaves) visit(access);
    for (auto& store : spec.row->stores) visit(store.to);
  }
  if (spec.gemm) {
    for (auto* access : {&spec.gemm->a, &spec.gemm->b, &spec.gemm->c}) visit(*access);
  }
  if (spec.attend) {
    auto& attend = *spec.attend;
    if (!attend.has_scores) visit(attend.q);
    for (auto* access : {&attend.k, &attend.v, &attend.out}) visit(*access);
    for (auto* access : {&attend.pos, &attend.mask, &attend.weight}) {
      if (*access) visit(**access);
    }
  }
}

void Replace(KernelSpec& spec, const DimMap& by) {
  for (ExtentFactor& factor : spec.extent) factor.expr = factor.expr.Substitute(by);
  for (KernelSpec& part : spec.parts) Replace(part, by);
  if (spec.row) Replace(spec.row->axes, by);
  if (spec.gemm) {
    Replace(spec.gemm->batch, by);
    for (DimExpr* d : {&spec.gemm->m, &spec.gemm->n, &spec.gemm->k}) *d = d->Substitute(by);
  }
  if (spec.attend) {
    Replace(spec.attend->batch, by);
    for (DimExpr* d : {&spec.attend->t, &spec.attend->s}) *d = d->Substitute(by);
  }
  VisitAccesses(spec, [&](Access& access) { Replace(access, by); });
}

// The axes of a kernel: those of its grains, and for a row kernel the inner one.
std::vector<ExtentFactor> AxesOf(const KernelSpec& spec) {
  std::vector<ExtentFactor> axes = spec.extent;
  if (spec.row && axes.size() < spec.row->axes.size()) axes.push_back({spec.row->axes.back(), kWholeAxis});
  return axes;
}

// Whether what a grain reads lies within what the grain of the same number stored. Of an axis that one grain has as a
// whole, it may read the first place alone.
bool StaysIn(const std::vector<ExtentFactor>& stored_axes, const Access& stored,
             const std::vector<ExtentFactor>& read_axes, const Access& read) {
  if (stored.gather || stored.state || read.gather || read.state || stored.offset != read.offset) return false;
  if (stored_axes.size() != read_axes.size()) return false;
  for (size_t i = 0; i < read_axes.size(); ++i) {
    const bool whole = stored_axes[i].block == kWholeAxis || stored_axes[i].IsWhole();
    if (whole && (read_axes[i].expr.is_one() || read.strides[i] == DimExpr(0))) continue;
    if (stored_axes[i] != read_axes[i]) return false;
    if (!stored_axes[i].expr.is_one() && stored.strides[i] != read.strides[i]) return false;
  }
  return true;
}

// The grains of a kernel, axes of one grain left out, each with its axis.
struct GrainAxis {
  ExtentFactor factor;
  size_t axis = 0;
};
std::vector<GrainAxis> GrainAxesOf(const KernelSpec& spec) {
  std::vector<GrainAxis> axes;
  for (size_t i = 0; i < spec.extent.size(); ++i) {
    if (!spec.extent[i].IsWhole()) axes.push_back({spec.extent[i], i});
  }
  return axes;
}

// How far from its first element what an access touches goes, all places of `axis` being one.
double ReachOf(const KernelSpec& spec, const Access& access, size_t axis) {
  const DimTable& dims = spec.body->module().dims;
  const auto steps = [&](const DimExpr& size, const DimExpr& stride) {
    return static_cast<double>(dims.Max(size) - 1) * static_cast<double>(dims.Max(stride));
  };
  const std::vector<DimExpr> sizes = SizesOf(spec, access);
  double reach = access.gather ? steps(access.gather->rows, access.gather->row_stride) : 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (i != axis) reach += steps(sizes[i], access.strides[i]);
  }
  return reach;
}

// Whether both kernels have a grain for each place of one axis, at which each keeps to a slab of its own: of the cache,
// what a group of heads reads and writes. Slabs of different offsets (keys, values) may be others altogether.
bool StaysInSlab(const KernelSpec& writer, const Access& stored, const KernelSpec& reader, const Access& read) {
  const std::vector<GrainAxis> a = GrainAxesOf(writer), b = GrainAxesOf(reader);
  if (a.size() != 1 || b.size() != 1 || a[0].factor != b[0].factor || a[0].factor.block != 1) return false;
  if (writer.gemm || reader.gemm || stored.dtype != read.dtype) return false;
  const DimExpr &slab = stored.strides[a[0].axis], &count = a[0].factor.expr;
  if (!slab.is_const() || !count.is_const() || read.strides[b[0].axis] != slab) return false;
  const double size = static_cast<double>(slab.constant());
  if (ReachOf(writer, stored, a[0].axis) >= size || ReachOf(reader, read, b[0].axis) >= size) return false;
  const DimExpr apart = stored.offset - read.offset;
  return apart.is_const() && (apart.constant() == 0 || std::abs(static_cast<double>(apart.constant())) >=
                                                           size * static_cast<double>(count.constant()));
}

// An elementwise kernel takes the axes of a product as they are cut into grains there.
void TakeGrains(KernelSpec& part, const KernelSpec& lead) {
  if (!part.row || part.row->reduces || HasRope(*part.row) || part.extent == lead.extent ||
      lead.extent.size() != part.row->axes.size()) {
    return;
  }
  const auto splits_blocks = [&](const RowSpec::Store& store) {
    return lead.extent.back().block % Info(store.to.dtype).block_elems != 0 && !lead.extent.back().IsWhole();
  };
  if (std::any_of(part.row->stores.begin(), part.row->stores.end(), splits_blocks)) return;
  for (size_t i = 0; i < lead.extent.size(); ++i) {
    if (part.row->axes[i] != lead.extent[i].expr) return;
  }
  part.extent = lead.extent;
  for (size_t i = 0; i < lead.extent.size(); ++i) part.row->blocks[i] = lead.extent[i].block;
}

class GroupBuilder {
 public:
  GroupBuilder(const Graph& body, absl::Span<const std::string> packs) : body_(body), packs_(packs) {}

  absl::StatusOr<KernelSpec> Build() {
    KernelSpec group;
    group.family = "group";
    group.body = &body_;
    SINTER_RETURN_IF_ERROR(NumberOperands());
    for (OpId id : body_.order()) SINTER_RETURN_IF_ERROR(AddPart(id));
    SINTER_RETURN_IF_ERROR(FormLanes());
    // Lanes in the order of their first parts, a lane's parts together.
    std::vector<size_t> order(parts_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return lanes_[a] < lanes_[b]; });
    for (size_t i : order) {
      const bool first = group.parts.empty() || lanes_[i] != last_;
      last_ = lanes_[i];
      parts_[i].lane = group.parts.empty() ? 0 : group.parts.back().lane + (first ? 1 : 0);
      group.scratch_bytes = std::max(group.scratch_bytes, parts_[i].scratch_bytes);
      group.parts.push_back(std::move(parts_[i]));
    }
    return group;
  }

 private:
  absl::Status No(absl::string_view what) const {
    return absl::UnimplementedError(absl::StrCat("no group of kernels for @", body_.name(), ": ", what));
  }

  // Operands of the group: parameters, then results. Every value that a part makes is a result, and so has a place.
  absl::Status NumberOperands() {
    for (ValueId param : body_.params()) {
      if (body_.type(param).state) return No("a state");
      operand_.emplace(param, static_cast<uint32_t>(operand_.size()));
    }
    for (ValueId result : body_.results()) {
      if (!operand_.emplace(result, static_cast<uint32_t>(operand_.size())).second) return No("a result twice");
    }
    return absl::OkStatus();
  }

  absl::Status AddPart(OpId id) {
    const ops::Kernel kernel = *body_.As<ops::Kernel>(id);
    const Graph& own = body_.module().graph(kernel.body.id);
    if (IsGroup(own)) return No("a group within it");
    std::vector<std::string> packs;
    std::vector<uint32_t> operands;
    for (ValueId arg : kernel.args) {
      const bool param = !body_.value(arg).def.valid();
      packs.push_back(param && !packs_.empty() ? packs_[operand_.at(arg)] : "");
      operands.push_back(operand_.at(arg));
    }
    for (ValueId result : body_.op(id).results) {
      if (!operand_.contains(result)) return No(absl::StrCat("%", body_.value(result).name, " is no result of it"));
      operands.push_back(operand_.at(result));
    }
    SINTER_ASSIGN_OR_RETURN(KernelSpec part, SpecOf(own, packs));
    std::vector<const Type*> args;
    for (ValueId arg : kernel.args) args.push_back(&body_.type(arg));
    const auto by = CallDims(own, args);
    if (!by) return No("a call that does not fit");
    Replace(part, *by);
    VisitAccesses(part, [&](Access& access) {
      access.operand = operands[access.operand];
      if (access.gather) access.gather->operand = operands[access.gather->operand];
    });
    part.tiles = kernel.tiles;
    makers_.push_back(body_.op(id).results);
    args_.push_back(kernel.args);
    parts_.push_back(std::move(part));
    return absl::OkStatus();
  }

  // Joins parts of which one reads what others made: it has the grains of the last of them, and they must be those of
  // all.
  absl::Status FormLanes() {
    lanes_.resize(parts_.size());
    std::iota(lanes_.begin(), lanes_.end(), size_t{0});
    for (size_t reader = 0; reader < parts_.size(); ++reader) {
      std::vector<std::pair<size_t, ValueId>> reads;  // who made it, what
      for (size_t writer = 0; writer < reader; ++writer) {
        for (ValueId made : makers_[writer]) {
          const std::vector<ValueId>& args = args_[reader];
          if (std::find(args.begin(), args.end(), made) != args.end()) reads.emplace_back(writer, made);
        }
      }
      for (const auto& [writer, made] : reads) TakeGrains(parts_[reader], parts_[writer]);
      for (const auto& [writer, made] : reads) {
        if (!ReadsOwnGrains(parts_[writer], operand_.at(made), parts_[reader], operand_.at(made))) {
          return No(absl::StrCat("a grain of %", body_.value(makers_[reader][0]).name, " reads other grains of %",
                                 body_.value(made).name));
        }
        const size_t from = std::max(lanes_[reader], lanes_[writer]), to = std::min(lanes_[reader], lanes_[writer]);
        std::replace(lanes_.begin(), lanes_.end(), from, to);
      }
    }
    return absl::OkStatus();
  }

  const Graph& body_;
  absl::Span<const std::string> packs_;
  absl::flat_hash_map<ValueId, uint32_t> operand_;
  std::vector<KernelSpec> parts_;
  std::vector<absl::InlinedVector<ValueId, 2>> makers_;  // the values that each part makes
  std::vector<std::vector<ValueId>> args_;
  std::vector<size_t> lanes_;  // of each part; lanes have gaps
  size_t last_ = 0;
};

}  // namespace

absl::StatusOr<KernelSpec> SpecOf(const Graph& body, absl::Span<const std::string> packs) {
  return IsGroup(body) ? GroupBuilder(body, packs).Build() : SpecOfOne(body, packs);
}

std::vector<std::string> PacksOf(const Graph& graph, OpId kernel) {
  std::vector<std::string> packs;
  for (ValueId arg : graph.op(kernel).fields.operands) {
    const auto weight = graph.DefAs<ops::Weight>(arg);
    const auto packing = FindPacking(weight ? weight->pack : "");
    const bool as_in_file = packing.ok() && (*packing)->panel == 0;
    packs.push_back(weight && !as_in_file ? weight->pack : "");
  }
  return packs;
}

absl::StatusOr<KernelSpec> SpecOfKernel(const Graph& graph, OpId id) {
  const ops::Kernel kernel = *graph.As<ops::Kernel>(id);
  const Graph& body = graph.module().graph(kernel.body.id);
  SINTER_ASSIGN_OR_RETURN(KernelSpec spec, SpecOf(body, PacksOf(graph, id)));
  std::vector<const Type*> args;
  for (ValueId arg : kernel.args) args.push_back(&graph.type(arg));
  Replace(spec, *CallDims(body, args));  // the verifier saw that it fits
  return spec;
}

bool HasRope(const RowSpec& row) {
  const std::vector<OpId>& order = row.expr->order();
  return std::any_of(order.begin(), order.end(), [&](OpId id) { return row.expr->op(id).kind() == OpKind::kRope; });
}

absl::Span<const KernelSpec> PartsOf(const KernelSpec& spec) {
  return spec.parts.empty() ? absl::MakeConstSpan(&spec, 1) : absl::MakeConstSpan(spec.parts);
}

std::vector<const Access*> AccessesOf(const KernelSpec& spec, uint32_t operand) {
  std::vector<const Access*> found;
  for (const KernelSpec& part : PartsOf(spec)) {
    VisitAccesses(part, [&](const Access& access) {
      if (access.operand == operand || (access.gather && access.gather->operand == operand)) found.push_back(&access);
    });
  }
  return found;
}

std::vector<DimExpr> SizesOf(const KernelSpec& spec, const Access& access) {
  if (spec.row) return spec.row->axes;
  if (spec.gemm) {
    const GemmSpec& gemm = *spec.gemm;
    std::vector<DimExpr> sizes = gemm.batch;
    sizes.push_back(&access == &gemm.b ? gemm.k : gemm.m);
    sizes.push_back(&access == &gemm.a ? gemm.k : gemm.n);
    return sizes;
  }
  const AttendSpec& attend = *spec.attend;
  std::vector<DimExpr> sizes = attend.batch;
  const bool by_position = &access == &attend.k || &access == &attend.v;
  sizes.push_back(by_position ? attend.s : attend.t);
  const bool of_keys = &access == &attend.q || &access == &attend.k;
  sizes.push_back(attend.mask && &access == &*attend.mask ? attend.s
                                                          : DimExpr(of_keys ? attend.key_width : attend.value_width));
  sizes.resize(access.strides.size());
  return sizes;
}

bool IsOneGrain(const KernelSpec& spec) {
  if (PartsOf(spec).back().lane > 0) return false;
  const KernelSpec& part = PartsOf(spec)[0];
  return std::all_of(part.extent.begin(), part.extent.end(), [](const ExtentFactor& f) { return f.IsWhole(); });
}

bool ReadsOwnGrains(const KernelSpec& writer, uint32_t stored, const KernelSpec& reader, uint32_t read) {
  if (IsOneGrain(writer) && IsOneGrain(reader)) return true;
  if (reader.gemm) return false;  // it reads whole rows and columns
  const std::vector<ExtentFactor> stored_axes = AxesOf(writer), read_axes = AxesOf(reader);
  const std::vector<const Access*> stores = AccessesOf(writer, stored), reads = AccessesOf(reader, read);
  const auto own = [&](const Access* to, const Access* from) {
    const bool same_rows = reader.row && writer.extent == reader.extent && stores.size() == 1;
    return (same_rows && StaysIn(stored_axes, *to, read_axes, *from)) || StaysInSlab(writer, *to, reader, *from);
  };
  return !stores.empty() && std::all_of(reads.begin(), reads.end(), [&](const Access* from) {
    return std::all_of(stores.begin(), stores.end(), [&](const Access* to) { return own(to, from); });
  });
}

}  // namespace sinter
