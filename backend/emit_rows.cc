// Families map, row and move: for each row (all axes but the last), passes over the inner axis. A pass computes the
// reductions whose operands need no later reduction; the last pass stores. Values that do not depend on the inner axis
// are computed once a row, as splats; values that do are recomputed in each pass that needs them.
#include <algorithm>
#include <functional>
#include <limits>
#include <tuple>

#include "absl/container/flat_hash_map.h"
#include "backend/emit.h"
#include "backend/math.h"

namespace sinter {

namespace {

// What a value is while code is emitted: lanes of one of three kinds, by its dtype.
struct Lanes {
  enum Kind { kFloats, kMask, kInts } kind = kFloats;
  Vec floats;
  Mask mask;
  IntVec ints;
  static Lanes Of(Vec v) { return {kFloats, v, {}, {}}; }
  static Lanes Of(Mask m) { return {kMask, {}, m, {}}; }
  static Lanes Of(IntVec i) { return {kInts, {}, {}, i}; }
};

// How each elementwise op on floats is emitted. Convert between floats is the rounding that follows.
using EmitElementwise = Vec (*)(VectorBuilder& b, const Vec* x);
constexpr std::pair<OpKind, EmitElementwise> kElementwiseEmitters[] = {
    {OpKind::kAdd, [](VectorBuilder& b, const Vec* x) { return b.Add(x[0], x[1]); }},
    {OpKind::kSub, [](VectorBuilder& b, const Vec* x) { return b.Sub(x[0], x[1]); }},
    {OpKind::kMul, [](VectorBuilder& b, const Vec* x) { return b.Mul(x[0], x[1]); }},
    {OpKind::kDiv, [](VectorBuilder& b, const Vec* x) { return b.Div(x[0], x[1]); }},
    {OpKind::kMaximum, [](VectorBuilder& b, const Vec* x) { return b.Max(x[0], x[1]); }},
    {OpKind::kMinimum, [](VectorBuilder& b, const Vec* x) { return b.Min(x[0], x[1]); }},
    {OpKind::kNeg, [](VectorBuilder& b, const Vec* x) { return b.Neg(x[0]); }},
    {OpKind::kExp, [](VectorBuilder& b, const Vec* x) { return EmitExp(b, x[0]); }},
    {OpKind::kLog, [](VectorBuilder& b, const Vec* x) { return EmitLog(b, x[0]); }},
    {OpKind::kSqrt, [](VectorBuilder& b, const Vec* x) { return b.Sqrt(x[0]); }},
    {OpKind::kRsqrt, [](VectorBuilder& b, const Vec* x) { return b.Div(b.Splat(1.0), b.Sqrt(x[0])); }},
    {OpKind::kTanh, [](VectorBuilder& b, const Vec* x) { return EmitTanh(b, x[0]); }},
    {OpKind::kErf, [](VectorBuilder& b, const Vec* x) { return EmitErf(b, x[0]); }},
    {OpKind::kConvert, [](VectorBuilder&, const Vec* x) { return x[0]; }},
};

EmitElementwise ElementwiseEmitter(OpKind kind) {
  for (const auto& [known, emit] : kElementwiseEmitters) {
    if (known == kind) return emit;
  }
  return nullptr;  // SpecOf lets no other op through
}

class RowEmitter {
 public:
  RowEmitter(const KernelSpec& kernel, VectorBuilder& b)
      : kernel_(kernel), spec_(*kernel.row), graph_(*spec_.expr), b_(b) {
    for (const DimExpr& axis : spec_.axes) sizes_.push_back(b.Dim(axis));
    inner_ = spec_.axes.size() - 1;
    for (OpId id : graph_.order()) {
      if (graph_.op(id).def().Has(kReduce) && !spec_.leaves.contains(graph_.op(id).results[0]))
        reductions_.push_back(id);
    }
  }

  void Emit() {
    ForGrains(b_, kernel_, [&](std::vector<Int> index) {
      if (spec_.blocks[inner_] == kWholeAxis) {
        from_ = b_.Const(0);
        to_ = sizes_[inner_];
      } else {
        std::tie(from_, to_) = Block(inner_, index.back());
        index.pop_back();
      }
      Rows(index, 0);
    });
  }

 private:
  // A place along the inner axis. `mask` limits the lanes, `count` says how many elements are left.
  struct Place {
    Int at;
    const Mask* mask;
    Int count;
    absl::flat_hash_map<ValueId, Lanes> known;
  };

  // What the block numbered `at` of an axis covers.
  std::pair<Int, Int> Block(size_t axis, Int at) {
    const int64_t block = spec_.blocks[axis];
    const Int first = b_.Mul(at, b_.Const(block));
    return {first, b_.Add(first, RestOf(b_, sizes_[axis], first, block))};
  }

  // The rows of a grain: `index` holds blocks of the outer axes from `axis` on, places before it.
  void Rows(const std::vector<Int>& index, size_t axis) {
    if (axis == inner_) return Row(index);
    if (spec_.blocks[axis] == 1) return Rows(index, axis + 1);
    const auto [first, end] = Block(axis, index[axis]);
    b_.For(first, end, 1, {}, [&](Int row) {
      std::vector<Int> at = index;
      at[axis] = row;
      Rows(at, axis + 1);
    });
  }

  void Row(const std::vector<Int>& index) {
    rows_.clear();
    limits_.clear();
    addresses_.clear();
    kept_ = ValueId::None();
    // Addresses before the passes, so that they stay out of the inner loops.
    for (const auto& [value, access] : SortedLeaves()) addresses_[value] = AddressOf(b_, *access, index);
    std::vector<Ptr> stores;
    for (const RowSpec::Store& store : spec_.stores) stores.push_back(AddressOf(b_, store.to, index));

    std::vector<OpId> left = reductions_;
    while (!left.empty()) {
      std::vector<OpId> now, later;
      for (OpId id : left) (Ready(graph_.op(id).fields.operands[0]) ? now : later).push_back(id);
      const ValueId kept = later.empty() ? KeptOf(now) : ValueId::None();
      Reduce(now, kept, kept.valid() ? stores[0] : Ptr{});
      if (kept.valid()) addresses_[kept_ = kept] = stores[0];
      left = std::move(later);
    }
    std::vector<size_t> element_stores;
    for (size_t i = 0; i < spec_.stores.size(); ++i) {
      const RowSpec::Store& store = spec_.stores[i];
      if (Varies(store.value) || !store.to.strides[inner_].is_const() || store.to.strides[inner_].constant() != 0) {
        element_stores.push_back(i);
      } else {
        StoreRow(store, stores[i]);
      }
    }
    if (element_stores.empty()) return;
    for (size_t i : element_stores) Hoist(spec_.stores[i].value);
    Pass(1, {}, [&](Place& place, size_t) {
      for (size_t i : element_stores) StoreAt(spec_.stores[i], stores[i], place);
    });
  }

  // Leaves in a fixed order, so that the same spec always gives the same code.
  std::vector<std::pair<ValueId, const Access*>> SortedLeaves() const {
    std::vector<std::pair<ValueId, const Access*>> leaves;
    for (const auto& [value, access] : spec_.leaves) leaves.emplace_back(value, &access);
    std::sort(leaves.begin(), leaves.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    return leaves;
  }

  const OpData* DefOf(ValueId value) const {
    const OpId def = graph_.value(value).def;
    return def.valid() ? &graph_.op(def) : nullptr;
  }
  bool IsKind(ValueId value, OpKind kind) const {
    const OpData* def = DefOf(value);
    return def != nullptr && def->kind() == kind;
  }

  // Whether a value depends on the inner axis.
  bool Varies(ValueId value) const {
    const auto leaf = spec_.leaves.find(value);
    if (IsKind(value, OpKind::kCausalMask) || IsKind(value, OpKind::kRope)) return true;
    if (leaf != spec_.leaves.end()) {
      const DimExpr& stride = leaf->second.strides[inner_];
      return !(stride.is_const() && stride.constant() == 0);
    }
    const OpData* def = DefOf(value);
    if (def->kind() == OpKind::kConstant || def->def().Has(kReduce)) return false;
    return std::any_of(def->fields.operands.begin(), def->fields.operands.end(),
                       [this](ValueId v) { return v.valid() && Varies(v); });
  }

  // Whether computing a value anew at each place takes a polynomial.
  bool IsHeavy(ValueId value) const {
    static constexpr OpKind kPolynomials[] = {OpKind::kExp, OpKind::kLog, OpKind::kTanh, OpKind::kErf};
    const OpData* def = DefOf(value);
    if (def == nullptr || rows_.contains(value) || spec_.leaves.contains(value)) return false;
    if (std::find(std::begin(kPolynomials), std::end(kPolynomials), def->kind()) != std::end(kPolynomials)) return true;
    return std::any_of(def->fields.operands.begin(), def->fields.operands.end(),
                       [this](ValueId v) { return v.valid() && IsHeavy(v); });
  }

  // Whether a value takes nothing along the inner axis but `from`.
  bool NeedsOnly(ValueId value, ValueId from) const {
    if (value == from || rows_.contains(value)) return true;
    const OpData* def = DefOf(value);
    if (spec_.leaves.contains(value)) return !Varies(value);
    if (def->kind() == OpKind::kConstant || def->def().Has(kReduce)) return true;
    return std::all_of(def->fields.operands.begin(), def->fields.operands.end(),
                       [&](ValueId v) { return !v.valid() || NeedsOnly(v, from); });
  }

  // What the last reductions take, when it costs a polynomial and all that is stored follows from it: it is kept where
  // the result goes, and not computed again. (Nothing else is read along the inner axis after that, so the result may
  // lie where an operand lay.)
  ValueId KeptOf(const std::vector<OpId>& reductions) const {
    if (reductions.size() != 1 || spec_.stores.size() != 1) return ValueId::None();
    const RowSpec::Store& store = spec_.stores[0];
    const ValueId operand = graph_.op(reductions[0]).fields.operands[0];
    if (graph_.op(reductions[0]).kind() == OpKind::kMax || IsKind(operand, OpKind::kMul)) return ValueId::None();
    const bool plain = store.to.dtype == DType::kF32 && store.to.strides[inner_].is_one() && !store.to.gather &&
                       graph_.type(operand).dtype == DType::kF32;
    return plain && Varies(store.value) && IsHeavy(operand) && NeedsOnly(store.value, operand) ? operand
                                                                                               : ValueId::None();
  }

  // Whether every reduction that a value needs is done.
  bool Ready(ValueId value) const {
    if (rows_.contains(value) || spec_.leaves.contains(value)) return true;
    const OpData* def = DefOf(value);
    if (def == nullptr || def->kind() == OpKind::kConstant) return true;
    if (def->def().Has(kReduce)) return false;
    return std::all_of(def->fields.operands.begin(), def->fields.operands.end(),
                       [this](ValueId v) { return !v.valid() || Ready(v); });
  }

  // Walks the inner axis: `chains` vectors a round where they fit whole, then single ones, the last one masked.
  void Pass(int chains, const std::vector<Handle*>& carried, const std::function<void(Place&, size_t chain)>& body) {
    const auto visit = [&](Int at, const Mask* mask, size_t chain) {
      Place place{at, mask, b_.Sub(to_, at), {}};
      body(place, chain);
    };
    const auto whole = [&](Int from, int64_t round) {  // where whole rounds from `from` on end
      return b_.Add(from, b_.Mul(b_.Div(b_.Sub(to_, from), b_.Const(round)), b_.Const(round)));
    };
    int64_t size, from, to;
    const bool known = b_.IsConst(sizes_[inner_], &size);
    // Blocks are whole vectors, so a row of whole vectors has no tail anywhere.
    const bool has_tail = !(known && size % b_.lanes() == 0);
    const bool known_range = b_.IsConst(from_, &from) && b_.IsConst(to_, &to);
    const int64_t round = int64_t{chains} * b_.lanes();
    Int done = from_;
    if (chains > 1 && !(known_range && to - from < round)) {
      done = whole(from_, round);
      b_.For(from_, done, round, carried, [&](Int at) {
        for (int c = 0; c < chains; ++c)
          visit(b_.Add(at, b_.Const(int64_t{c} * b_.lanes())), nullptr, static_cast<size_t>(c));
      });
    }
    const Int end = has_tail ? whole(from_, b_.lanes()) : to_;
    b_.For(done, end, b_.lanes(), carried, [&](Int at) { visit(at, nullptr, 0); });
    if (!has_tail) return;
    b_.For(end, to_, b_.lanes(), carried, [&](Int at) {  // one round at most
      const Mask mask = b_.FirstLanes(b_.Sub(to_, at));
      visit(at, &mask, 0);
    });
  }

  // Computes, before a pass, every part of a value that does not vary along the inner axis.
  void Hoist(ValueId value) {
    const OpData* def = DefOf(value);
    if (rows_.contains(value) || (def != nullptr && def->kind() == OpKind::kConstant)) return;
    if (!Varies(value)) {
      Place place{b_.Const(0), nullptr, sizes_[inner_], {}};
      rows_[value] = At(value, place);
    } else if (IsKind(value, OpKind::kCausalMask)) {
      limits_[value] = b_.LoadIndex(spec_.leaves.at(value).dtype, addresses_.at(value));
    } else if (!spec_.leaves.contains(value)) {
      for (ValueId v : def->fields.operands) Hoist(v);
    }
  }

  // `kept`: the operand of the one op, if it is to be stored in the row at `row`.
  void Reduce(const std::vector<OpId>& ops, ValueId kept, Ptr row) {
    // Chains of accumulators hide the latency of additions; polynomials fill the registers by themselves.
    const bool heavy =
        std::any_of(ops.begin(), ops.end(), [this](OpId id) { return IsHeavy(graph_.op(id).fields.operands[0]); });
    const size_t chains = heavy ? static_cast<size_t>(b_.target().registers / 16) : 4;
    for (OpId id : ops) Hoist(graph_.op(id).fields.operands[0]);
    const auto neutral = [&](OpId id) {
      return b_.Splat(graph_.op(id).kind() == OpKind::kMax ? -std::numeric_limits<double>::infinity() : 0.0);
    };
    std::vector<Vec> sums(ops.size() * chains);
    std::vector<Handle*> carried;
    for (size_t i = 0; i < sums.size(); ++i) {
      sums[i] = neutral(ops[i / chains]);
      carried.push_back(&sums[i]);
    }
    Pass(static_cast<int>(chains), carried, [&](Place& place, size_t chain) {
      for (size_t i = 0; i < ops.size(); ++i) {
        Vec& sum = sums[i * chains + chain];
        const ValueId operand = graph_.op(ops[i]).fields.operands[0];
        if (graph_.op(ops[i]).kind() == OpKind::kMax) {
          Vec x = At(operand, place).floats;
          if (place.mask != nullptr) x = b_.Select(*place.mask, x, neutral(ops[i]));
          sum = b_.Max(sum, x);
          continue;
        }
        // A sum of products is a chain of fused multiply-adds.
        const OpData* product = DefOf(operand);
        const bool fuse = product != nullptr && product->kind() == OpKind::kMul && !rows_.contains(operand);
        if (fuse && place.mask == nullptr) {
          sum =
              b_.Fma(At(product->fields.operands[0], place).floats, At(product->fields.operands[1], place).floats, sum);
          continue;
        }
        Vec x = At(operand, place).floats;
        if (kept.valid()) b_.Store(DType::kF32, b_.Offset(row, DType::kF32, place.at), x, place.mask);
        if (place.mask != nullptr) x = b_.Select(*place.mask, x, b_.Splat(0.0));
        sum = b_.Add(sum, x);
      }
    });
    for (size_t i = 0; i < ops.size(); ++i) {
      Vec* s = &sums[i * chains];
      const OpKind kind = graph_.op(ops[i]).kind();
      const auto join = [&](Vec x, Vec y) { return kind == OpKind::kMax ? b_.Max(x, y) : b_.Add(x, y); };
      for (size_t half = chains / 2; half > 0; half /= 2) {
        for (size_t c = 0; c < half; ++c) s[c] = join(s[c], s[c + half]);
      }
      Vec total = s[0];
      total = kind == OpKind::kMax ? b_.ReduceMax(total) : b_.ReduceAdd(total);
      if (kind == OpKind::kMean) total = b_.Div(total, CountOfRow());
      rows_[graph_.op(ops[i]).results[0]] = Lanes::Of(total);
    }
  }

  Vec CountOfRow() { return b_.FromInt(sizes_[inner_]); }

  // A value at a place; values of the row were hoisted.
  Lanes At(ValueId value, Place& place) {
    const auto row = rows_.find(value);
    if (row != rows_.end()) return row->second;
    const auto known = place.known.find(value);
    if (known != place.known.end()) return known->second;
    const Lanes lanes = Compute(value, place);
    place.known[value] = lanes;
    return lanes;
  }

  Lanes Compute(ValueId value, Place& place) {
    const OpData* def = DefOf(value);
    if (IsKind(value, OpKind::kCausalMask)) {
      return Lanes::Of(b_.LanesAtMost(place.at, limits_.at(value)));
    }
    if (IsKind(value, OpKind::kRope)) return Lanes::Of(Rope(value, place));
    if (value == kept_) {
      return Lanes::Of(b_.Load(DType::kF32, b_.Offset(addresses_.at(value), DType::kF32, place.at), place.mask));
    }
    if (spec_.leaves.contains(value)) return LoadLeaf(value, place);
    if (def->kind() == OpKind::kConstant) {
      const std::vector<double>& values = std::get<std::vector<double>>(def->fields.attrs[0]);
      return Lanes::Of(b_.Splat(values[0]));
    }
    std::vector<Lanes> x;
    for (ValueId v : def->fields.operands) x.push_back(At(v, place));
    return Elementwise(*def, x, graph_.type(value).dtype);
  }

  Lanes LoadLeaf(ValueId value, Place& place) {
    const Access& access = spec_.leaves.at(value);
    const DimExpr& stride = access.strides[inner_];
    const bool splat = stride.is_const() && stride.constant() == 0;
    const Ptr at =
        splat ? addresses_.at(value) : b_.Offset(addresses_.at(value), access.dtype, b_.Mul(place.at, b_.Dim(stride)));
    if (access.dtype == DType::kBool) return Lanes::Of(splat ? b_.LoadMaskSplat(at) : b_.LoadMask(at, place.mask));
    if (IsInt(access.dtype)) {
      return Lanes::Of(splat ? b_.LoadIntsSplat(access.dtype, at) : b_.LoadInts(access.dtype, at, place.mask));
    }
    if (splat) return Lanes::Of(b_.LoadSplat(access.dtype, at));
    if (stride.is_one()) return Lanes::Of(b_.Load(access.dtype, at, place.mask));
    return Lanes::Of(b_.LoadStrided(access.dtype, at, b_.Dim(stride), place.count));
  }

  // x * C + partner * S; the leaf of the rope value itself is its row of the table.
  Vec Rope(ValueId value, Place& place) {
    const ops::Rope rope = *graph_.DefAs<ops::Rope>(value);
    const Access& table = spec_.leaves.at(value);
    const Int width = sizes_[inner_];
    const Ptr row = b_.Offset(addresses_.at(value), table.dtype, place.at);
    const Vec cosines = b_.Load(table.dtype, row, place.mask);
    const Vec sines = b_.Load(table.dtype, b_.Offset(row, table.dtype, width), place.mask);
    const Vec x = At(rope.x, place).floats;
    Vec partner;
    if (rope.style == "norm") {
      partner = b_.SwapPairs(x);
    } else {
      // Lane j of the first half reads j + D/2, of the second half j - D/2.
      const Access& from = spec_.leaves.at(rope.x);
      const Int half = b_.Div(width, b_.Const(2));
      const Mask first = b_.LanesAtMost(b_.Add(place.at, b_.Const(1)), half);
      const Mask low = place.mask != nullptr ? b_.And(first, *place.mask) : first;
      const Mask high = b_.AndNot(place.mask != nullptr ? *place.mask : b_.FirstLanes(b_.Const(b_.lanes())), first);
      const Ptr at = b_.Offset(addresses_.at(rope.x), from.dtype, place.at);
      const Vec above = b_.Load(from.dtype, b_.Offset(at, from.dtype, half), &low);
      const Vec below = b_.Load(from.dtype, b_.Offset(at, from.dtype, b_.Sub(b_.Const(0), half)), &high);
      partner = b_.Select(first, above, below);
    }
    return b_.Fma(x, cosines, b_.Mul(partner, sines));
  }

  Lanes Elementwise(const OpData& op, const std::vector<Lanes>& x, DType result) {
    if (op.kind() == OpKind::kSelect) {
      return Lanes::Of(b_.Select(x[0].mask, x[1].floats, x[2].floats));
    }
    if (op.kind() == OpKind::kConvert && x[0].kind == Lanes::kInts) {
      const Vec value = b_.ToFloat(graph_.type(op.fields.operands[0]).dtype, x[0].ints);
      return Lanes::Of(result == DType::kF32 ? value : b_.RoundTo(result, value));
    }
    Vec floats[2];
    for (size_t i = 0; i < x.size(); ++i) floats[i] = x[i].floats;
    const Vec y = ElementwiseEmitter(op.kind())(b_, floats);
    return Lanes::Of(result == DType::kF32 ? y : b_.RoundTo(result, y));
  }

  void StoreRow(const RowSpec::Store& store, Ptr at) {
    Place place{b_.Const(0), nullptr, sizes_[inner_], {}};
    b_.StoreFirst(store.to.dtype, at, At(store.value, place).floats);
  }

  void StoreAt(const RowSpec::Store& store, Ptr row, Place& place) {
    const DimExpr& stride = store.to.strides[inner_];
    const Lanes lanes = At(store.value, place);
    const Ptr at = b_.Offset(row, store.to.dtype, b_.Mul(place.at, b_.Dim(stride)));
    if (lanes.kind == Lanes::kMask) return b_.StoreMask(at, lanes.mask, place.mask);
    if (lanes.kind == Lanes::kInts) return b_.StoreInts(store.to.dtype, at, lanes.ints, place.mask);
    if (stride.is_one()) return b_.Store(store.to.dtype, at, lanes.floats, place.mask);
    b_.StoreStrided(store.to.dtype, at, b_.Dim(stride), place.count, lanes.floats);
  }

  const KernelSpec& kernel_;
  const RowSpec& spec_;
  const Graph& graph_;
  VectorBuilder& b_;
  std::vector<Int> sizes_;
  size_t inner_ = 0;
  Int from_, to_;  // what the grain covers of the inner axis
  std::vector<OpId> reductions_;
  absl::flat_hash_map<ValueId, Ptr> addresses_;
  absl::flat_hash_map<ValueId, Lanes> rows_;  // values of the row, as splats
  ValueId kept_ = ValueId::None();            // lies where the result goes
  absl::flat_hash_map<ValueId, Int> limits_;  // of a causal mask: the row's position
};

}  // namespace

void EmitRows(const KernelSpec& spec, VectorBuilder& b) { RowEmitter(spec, b).Emit(); }

}  // namespace sinter
