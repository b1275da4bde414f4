// Judges a plan by bytes: what a step touches is a range of a space, and nothing is taken from how the plan was made.
#include "passes/plan_check.h"

#include <algorithm>
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
  uint32_t operand = 0;  // of the kernel spec; states that it makes have none
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
        const Space expected = graph_.type(value).state           ? Space::kState
                               : graph_.op(op).def().Has(kSource) ? Space::kWeights
                               : graph_.IsResult(value)           ? Space::kOutput
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
          if (state == consumed.size()) return Wrong(graph_, result, "is the next version of no state");
          const Touch& before = step.touches[consumed[state++]];
          if (before.range.begin != range.begin) return Wrong(graph_, result, "is not where its state is");
        }
        step.touches.push_back({result, is_state ? UINT32_MAX : operand++, true, range});
      }
    }
    return absl::OkStatus();
  }

  // Values whose bytes overlap in the arena have no epoch in common.
  absl::Status CheckLives() const {
    struct Life {
      Range range;
      int64_t first = 0, last = 0;
    };
    std::map<ValueId, Life> lives;
    for (const Step& step : steps_) {
      for (const Touch& touch : step.touches) {
        if (touch.range.space != Space::kArena) continue;
        const auto [it, is_new] = lives.emplace(touch.value, Life{touch.range, step.epoch, step.epoch});
        it->second.last = step.epoch;
      }
    }
    for (auto a = lives.begin(); a != lives.end(); ++a) {
      for (auto b = std::next(a); b != lives.end(); ++b) {
        const bool together = a->second.first <= b->second.last && b->second.first <= a->second.last;
        if (!together || !Overlap(a->second.range, b->second.range)) continue;
        return Wrong(graph_, b->first, absl::StrCat("overlaps %", graph_.value(a->first).name, " while both live"));
      }
    }
    return absl::OkStatus();
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

  // Shape of the part of an operand that one grain touches: where it starts by grain, and how far it goes on from
  // there. Both are equal exactly when a thread touches in both steps the same rows.
  static bool SameThread(const Step& a, const Touch& in_a, const Step& b, const Touch& in_b) {
    if (a.replicated != b.replicated) return false;
    if (a.replicated) return true;  // each thread does all of both, and all write the same
    const auto grains = [](const Step& step) {
      bool one = true;
      for (const ExtentFactor& f : step.spec.extent)
        one &= f.expr.is_const() && CeilDiv(f.expr.constant(), f.block) <= 1;
      return one;
    };
    if (grains(a) && grains(b)) return true;
    if (!a.spec.row || !b.spec.row || !(a.spec.extent == b.spec.extent) || in_a.value != in_b.value) return false;
    const RowSpec &x = *a.spec.row, &y = *b.spec.row;
    if (x.axes.size() != y.axes.size() || x.row_block != y.row_block) return false;
    const auto accesses_a = AccessesOf(a.spec, in_a.operand), accesses_b = AccessesOf(b.spec, in_b.operand);
    if (accesses_a.empty() || accesses_b.empty()) return false;
    for (const Access* p : accesses_a) {
      for (const Access* q : accesses_b) {
        if (p->gather || q->gather || p->state || q->state || !(p->offset == q->offset)) return false;
        for (size_t axis = 0; axis < x.axes.size(); ++axis) {
          const bool inner = axis + 1 == x.axes.size();
          const DimExpr steps_p = x.axes[axis].is_one() ? DimExpr(0) : p->strides[axis];
          const DimExpr steps_q = y.axes[axis].is_one() ? DimExpr(0) : q->strides[axis];
          const bool stays = inner && steps_q == DimExpr(0);  // one element of the row
          if (!stays && !(steps_p == steps_q && x.axes[axis] == y.axes[axis])) return false;
          if (!inner && !(x.axes[axis] == y.axes[axis])) return false;
        }
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
