// Judges a plan by bytes: what a step touches is a range of a space, and nothing is taken from how the plan was made.
#include "passes/plan_check.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "absl/base/casts.h"
#include "absl/strings/str_cat.h"
#include "backend/kernel_spec.h"
#include "base/checked.h"
#include "base/status.h"

namespace sinter {
namespace {

constexpr int64_t kAlignment = 64;

// Bytes [begin, end) of a space; of a space of whole buffers (input, output, state), the buffer numbered begin.
struct Range {
  Space space = Space::kArena;
  int64_t begin = 0, end = 0;
};

bool Overlap(const Range& a, const Range& b) { return a.space == b.space && a.begin < b.end && b.begin < a.end; }

absl::Status Wrong(const Graph& graph, ValueId value, absl::string_view what) {
  return absl::InternalError(absl::StrCat("plan of @", graph.name(), ": %", graph.value(value).name, " ", what));
}

bool IsOffset(Space space) { return space == Space::kArena || space == Space::kThread || space == Space::kWeights; }

// What a source must share with another to share its bytes, and "" for what is no source.
absl::StatusOr<std::string> SourceKey(const Graph& graph, ValueId value) {
  const OpId def = graph.value(value).def;
  if (!def.valid() || !graph.op(def).def().Has(kSource)) return std::string();
  std::string key = ToString(graph.type(value), graph.module().dims);
  if (const auto weight = graph.As<ops::Weight>(def))
    return absl::StrCat(key, " weight ", weight->name, " in ", weight->pack);
  const auto table = graph.As<ops::RopeTable>(def);
  if (!table) return Wrong(graph, value, "is an unknown source");
  // Tables of equal settings are equal; shortest decimal text tells two doubles apart only up to its digits, so their
  // bits are used.
  const auto bits = [](double x) { return absl::StrCat(absl::Hex(absl::bit_cast<uint64_t>(x))); };
  std::string factors;
  if (table->factors.valid()) {
    SINTER_ASSIGN_OR_RETURN(factors, SourceKey(graph, table->factors));
  }
  return absl::StrCat(key, " table ", bits(table->base), " ", bits(table->scale), " ", table->style, " ", factors);
}

absl::StatusOr<int64_t> BytesOf(const Graph& graph, ValueId value) {
  if (const auto weight = graph.DefAs<ops::Weight>(value)) {
    SINTER_ASSIGN_OR_RETURN(const Packing* packing, FindPacking(weight->pack));
    return PackedBytes(graph.type(value), *packing);
  }
  return MaxBytes(graph.type(value), graph.module().dims);
}

absl::StatusOr<Range> RangeOf(const Graph& graph, ValueId value) {
  const std::optional<Address>& address = graph.value(value).address;
  if (!address) return Wrong(graph, value, "has no address");
  if (address->at < 0) return Wrong(graph, value, "has a negative address");
  if (!IsOffset(address->space)) return Range{address->space, address->at, address->at + 1};
  if (address->at % kAlignment != 0) return Wrong(graph, value, "is not aligned to 64 bytes");
  SINTER_ASSIGN_OR_RETURN(const int64_t bytes, BytesOf(graph, value));
  const std::optional<int64_t> end = CheckedAdd(address->at, bytes);
  if (!end) return Wrong(graph, value, "ends past what 64 bits can say");
  return Range{address->space, address->at, *end};
}

// One operand of a step.
struct Touch {
  ValueId value;
  uint32_t operand = 0;  // of the kernel spec; a state that it makes has that of the version before
  bool writes = false;
  Range range;
};

struct Step {
  OpId op;
  int64_t epoch = 0;
  bool replicated = false;
  KernelSpec spec;
  std::vector<Touch> touches;
};

bool IsOne(const Step& step) {
  for (const KernelSpec& part : PartsOf(step.spec)) {
    if (part.lane > 0) return false;
    for (const ExtentFactor& f : part.extent) {
      if (!f.expr.is_const() || CeilDiv(f.expr.constant(), f.block) > 1) return false;
    }
  }
  return true;
}

// The axes of a kernel, the block of each that a grain takes, and which elements of an operand lie at a place of them.
struct Footprint {
  const KernelSpec* part = nullptr;
  const Access* access = nullptr;

  size_t rank() const { return part->row ? part->row->axes.size() : part->extent.size(); }
  DimExpr axis(size_t i) const { return part->row ? part->row->axes[i] : part->extent[i].expr; }
  int64_t block(size_t i) const { return part->row ? part->row->blocks[i] : part->extent[i].block; }
  DimExpr stride(size_t i) const { return axis(i).is_one() ? DimExpr(0) : access->strides[i]; }
  bool Within(size_t i) const {  // one grain has all of the axis
    return block(i) == kWholeAxis || (axis(i).is_const() && axis(i).constant() <= block(i));
  }
};

// Whether rope turns what is read: each element along the last axis with another one.
bool IsTurned(const Footprint& f) {
  if (!f.part->row) return false;
  const RowSpec& row = *f.part->row;
  const std::vector<OpId>& order = row.expr->order();
  return std::any_of(order.begin(), order.end(), [&](OpId id) {
    const auto rope = row.expr->As<ops::Rope>(id);
    const auto leaf = rope ? row.leaves.find(rope->x) : row.leaves.end();
    return leaf != row.leaves.end() && &leaf->second == f.access;
  });
}

// Whether a grain finds in `b` only elements that the grain of the same number finds in `a`.
bool Covers(const Footprint& a, const Footprint& b) {
  for (const Footprint* f : {&a, &b}) {  // products and attention read whole rows and columns
    if (!f->part->row && !(f->part->gemm && f->access == &f->part->gemm->c)) return false;
  }
  const Access &p = *a.access, &q = *b.access;
  if (p.gather || q.gather || p.state || q.state || !(p.offset == q.offset) || p.dtype != q.dtype ||
      a.rank() != b.rank()) {
    return false;
  }
  if (!b.Within(b.rank() - 1) && IsTurned(b)) return false;
  for (size_t i = 0; i < a.rank(); ++i) {
    const bool whole = a.Within(i) && b.Within(i);
    if (whole && b.stride(i) == DimExpr(0)) continue;  // at the first of what the grain has
    if (!(a.axis(i) == b.axis(i)) || !(a.stride(i) == b.stride(i))) return false;
    if (!whole && a.block(i) != b.block(i)) return false;
  }
  return true;
}

// Whether what grain i of one touches lies in the i-th of equal slabs, and what grain i of the other touches, too; or
// they touch different bytes whatever the grains. Both are cut along one axis, one place a grain.
bool KeepToSlabs(const Footprint& a, const Footprint& b, const DimTable& dims) {
  for (const Footprint* f : {&a, &b}) {
    if (f->part->gemm && f->access != &f->part->gemm->c) return false;
  }
  if (a.access->dtype != b.access->dtype) return false;
  DimExpr slab[2], count[2];
  for (int side = 0; side < 2; ++side) {
    const Footprint& f = side == 0 ? a : b;
    const std::vector<DimExpr> sizes = SizesOf(*f.part, *f.access);
    int cut = -1;
    for (size_t i = 0; i < f.part->extent.size(); ++i) {
      const ExtentFactor& factor = f.part->extent[i];
      if (factor.expr.is_const() && factor.expr.constant() <= factor.block) continue;
      if (cut >= 0 || factor.block != 1) return false;
      cut = static_cast<int>(i);
    }
    if (cut < 0) return false;
    count[side] = sizes[static_cast<size_t>(cut)];
    slab[side] = f.access->strides[static_cast<size_t>(cut)];
    if (!count[side].is_const() || !slab[side].is_const()) return false;
    double last = 0;  // the farthest element within a slab
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (static_cast<int>(i) == cut) continue;
      last += static_cast<double>(dims.Max(sizes[i]) - 1) * static_cast<double>(dims.Max(f.access->strides[i]));
    }
    if (const auto& gather = f.access->gather) {
      last += static_cast<double>(dims.Max(gather->rows) - 1) * static_cast<double>(dims.Max(gather->row_stride));
    }
    if (last >= static_cast<double>(slab[side].constant())) return false;
  }
  if (!(slab[0] == slab[1]) || !(count[0] == count[1])) return false;
  const DimExpr between = a.access->offset - b.access->offset;
  if (!between.is_const()) return false;
  const double all = static_cast<double>(slab[0].constant()) * static_cast<double>(count[0].constant());
  return between.constant() == 0 || std::abs(static_cast<double>(between.constant())) >= all;
}

std::vector<Footprint> FootprintsOf(const Step& step, const Touch& touch) {
  std::vector<Footprint> footprints;
  for (const KernelSpec& part : PartsOf(step.spec)) {
    for (const Access* access : AccessesOf(part, touch.operand)) footprints.push_back({&part, access});
  }
  return footprints;
}

// The factors of which there is more than one grain.
std::vector<ExtentFactor> Cuts(const KernelSpec& part) {
  std::vector<ExtentFactor> cuts;
  for (const ExtentFactor& f : part.extent) {
    if (!f.expr.is_const() || CeilDiv(f.expr.constant(), f.block) > 1) cuts.push_back(f);
  }
  return cuts;
}

// Whether two steps share their grains out among threads alike.
bool SameShares(const Step& a, const Step& b) {
  const auto x = PartsOf(a.spec), y = PartsOf(b.spec);
  if (x.back().lane != y.back().lane) return false;
  return std::all_of(x.begin(), x.end(), [&](const KernelSpec& part) {
    return std::all_of(y.begin(), y.end(),
                       [&](const KernelSpec& other) { return part.lane != other.lane || Cuts(part) == Cuts(other); });
  });
}

class EntryChecker {
 public:
  explicit EntryChecker(const Graph& graph) : graph_(graph) {}

  absl::Status Run() {
    SINTER_RETURN_IF_ERROR(CheckSpaces());
    SINTER_RETURN_IF_ERROR(ReadSteps());
    SINTER_RETURN_IF_ERROR(CheckLives());
    return CheckHazards();
  }

 private:
  // Spaces that suit: by what a value is.
  absl::Status CheckSpaces() const {
    std::set<std::pair<Space, int64_t>> taken;
    const auto owns = [&](ValueId value, Space space) -> absl::Status {
      SINTER_ASSIGN_OR_RETURN(const Range range, RangeOf(graph_, value));
      if (range.space != space) return Wrong(graph_, value, absl::StrCat("is not in ", SpaceName(space)));
      if (!taken.emplace(space, range.begin).second) return Wrong(graph_, value, "shares its address");
      return absl::OkStatus();
    };
    for (ValueId param : graph_.params()) {
      SINTER_RETURN_IF_ERROR(owns(param, graph_.type(param).state ? Space::kState : Space::kInput));
    }
    for (ValueId result : graph_.results()) {
      if (!graph_.type(result).state) SINTER_RETURN_IF_ERROR(owns(result, Space::kOutput));
    }
    for (OpId op : graph_.order()) {
      for (ValueId value : graph_.op(op).results) {
        SINTER_ASSIGN_OR_RETURN(const Range range, RangeOf(graph_, value));
        const auto kernel = graph_.As<ops::Kernel>(op);
        const Space expected = graph_.type(value).state                 ? Space::kState
                               : graph_.op(op).def().Has(kSource)       ? Space::kWeights
                               : kernel && kernel->mode == "replicated" ? Space::kThread
                               : graph_.IsResult(value)                 ? Space::kOutput
                                                                        : Space::kArena;
        if (range.space != expected) return Wrong(graph_, value, absl::StrCat("is not in ", SpaceName(expected)));
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadSteps() {
    int64_t epoch = 0;
    for (OpId id : graph_.order()) {
      const auto kernel = graph_.As<ops::Kernel>(id);
      if (!kernel) continue;
      epoch += kernel->barrier ? 1 : 0;
      Step& step = steps_.emplace_back();
      step.op = id;
      step.epoch = epoch;
      step.replicated = kernel->mode == "replicated";
      SINTER_ASSIGN_OR_RETURN(step.spec, SpecOfKernel(graph_, id));
      uint32_t operand = 0;
      for (ValueId arg : kernel->args) {
        SINTER_ASSIGN_OR_RETURN(const Range range, RangeOf(graph_, arg));
        step.touches.push_back({arg, operand++, false, range});
      }
      const auto consumed = ConsumedOperands(graph_, id);
      size_t state = 0;
      for (ValueId result : graph_.op(id).results) {
        SINTER_ASSIGN_OR_RETURN(const Range range, RangeOf(graph_, result));
        const bool is_state = graph_.type(result).state;
        if (is_state) {
          if (step.replicated) return Wrong(graph_, result, "is a state that every thread writes");
          if (state == consumed.size()) return Wrong(graph_, result, "is the next version of no state");
          const Touch& before = step.touches[consumed[state++]];
          if (before.range.begin != range.begin) return Wrong(graph_, result, "is not where its state is");
        }
        step.touches.push_back({result, is_state ? consumed[state - 1] : operand++, true, range});
      }
    }
    return absl::OkStatus();
  }

  // Values whose bytes overlap have no epoch in common, unless one takes the other's place.
  absl::Status CheckLives() const {
    struct Life {
      Range range;
      size_t first = 0, last = 0;  // steps
    };
    std::map<ValueId, Life> lives;
    for (size_t i = 0; i < steps_.size(); ++i) {
      for (const Touch& touch : steps_[i].touches) {
        if (touch.range.space != Space::kArena && touch.range.space != Space::kThread) continue;
        const auto [it, is_new] = lives.emplace(touch.value, Life{touch.range, i, i});
        it->second.last = i;
      }
    }
    for (auto a = lives.begin(); a != lives.end(); ++a) {
      for (auto b = std::next(a); b != lives.end(); ++b) {
        const Life &x = a->second, &y = b->second;
        const bool together =
            steps_[x.first].epoch <= steps_[y.last].epoch && steps_[y.first].epoch <= steps_[x.last].epoch;
        if (!together || !Overlap(x.range, y.range)) continue;
        const bool same_place = x.range.begin == y.range.begin;  // one may end before the other
        if (same_place && x.last == y.first && TakesPlace(steps_[y.first], a->first, b->first)) continue;
        if (same_place && y.last == x.first && TakesPlace(steps_[x.first], b->first, a->first)) continue;
        return Wrong(graph_, b->first, absl::StrCat("overlaps %", graph_.value(a->first).name, " while both live"));
      }
    }
    return absl::OkStatus();
  }

  // Whether a step that stores `made` over `old` has read each element of old before, in the thread that stores there.
  bool TakesPlace(const Step& step, ValueId old, ValueId made) const {
    std::vector<Footprint> reads, stores;
    for (const Touch& touch : step.touches) {
      if (touch.value != old && touch.value != made) continue;
      std::vector<Footprint>& footprints = touch.value == old ? reads : stores;  // a value may be given twice
      for (const Footprint& footprint : FootprintsOf(step, touch)) footprints.push_back(footprint);
    }
    if (stores.empty() || !stores[0].part->row) return false;  // later parts read what the first of them stored
    const Graph& expr = *stores[0].part->row->expr;
    for (OpId op : expr.order()) {
      if (expr.op(op).kind() == OpKind::kRope) return false;  // reads beside what it stores
    }
    return std::all_of(reads.begin(), reads.end(), [&](const Footprint& read) {
      return read.part <= stores[0].part && read.part->lane == stores[0].part->lane && Covers(stores[0], read) &&
             Covers(read, stores[0]);
    });
  }

  // Of two steps of one epoch that touch the same bytes, one of them writing, each thread touches rows of its own.
  absl::Status CheckHazards() const {
    for (size_t j = 0; j < steps_.size(); ++j) {
      for (size_t i = j; i-- > 0 && steps_[i].epoch == steps_[j].epoch;) {
        for (const Touch& earlier : steps_[i].touches) {
          for (const Touch& later : steps_[j].touches) {
            if (!(earlier.writes || later.writes) || !Overlap(earlier.range, later.range)) continue;
            if (SameThread(steps_[i], earlier, steps_[j], later)) continue;
            return Wrong(graph_, graph_.op(steps_[j].op).results[0],
                         absl::StrCat("is made without a barrier after %", graph_.value(earlier.value).name));
          }
        }
      }
    }
    return absl::OkStatus();
  }

  // Whether what a thread touches here in step b, it alone touches in step a.
  bool SameThread(const Step& a, const Touch& in_a, const Step& b, const Touch& in_b) const {
    if (in_a.range.space == Space::kThread) return true;  // each has its own
    if (a.replicated || b.replicated) return false;
    if (IsOne(a) && IsOne(b)) return true;
    if (!SameShares(a, b)) return false;
    if (in_a.range.begin != in_b.range.begin || in_a.range.end != in_b.range.end) return false;
    const auto of_a = FootprintsOf(a, in_a), of_b = FootprintsOf(b, in_b);
    if (of_a.empty() || of_b.empty()) return false;
    for (const Footprint& x : of_a) {
      for (const Footprint& y : of_b) {
        if (x.part->lane != y.part->lane) return false;
        if (!Covers(x, y) && !KeepToSlabs(x, y, graph_.module().dims)) return false;
      }
    }
    return true;
  }

  const Graph& graph_;
  std::vector<Step> steps_;
};

// Two tensors overlap in the weights only as the same bytes.
absl::Status CheckWeights(const Module& module) {
  std::map<int64_t, std::pair<int64_t, std::string>> placed;  // begin -> end, key
  for (GraphId id : module.entries()) {
    const Graph& graph = module.graph(id);
    for (OpId op : graph.order()) {
      if (!graph.op(op).def().Has(kSource)) continue;
      const ValueId value = graph.op(op).results[0];
      SINTER_ASSIGN_OR_RETURN(const Range range, RangeOf(graph, value));
      SINTER_ASSIGN_OR_RETURN(const std::string key, SourceKey(graph, value));
      const auto [it, is_new] = placed.emplace(range.begin, std::pair{range.end, key});
      if (!is_new && it->second.second != key) return Wrong(graph, value, "overlaps another tensor in the weights");
      const auto next = std::next(it);
      const bool hits = (next != placed.end() && next->first < range.end) ||
                        (it != placed.begin() && std::prev(it)->second.first > range.begin);
      if (hits) return Wrong(graph, value, "overlaps another tensor in the weights");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckPlan(const Module& module) {
  if (module.stage != Stage::kPlanned) {
    return absl::InternalError(absl::StrCat("a module at stage ", StageName(module.stage), " has no plan"));
  }
  for (GraphId id : module.entries()) SINTER_RETURN_IF_ERROR(EntryChecker(module.graph(id)).Run());
  return CheckWeights(module);
}

}  // namespace sinter
