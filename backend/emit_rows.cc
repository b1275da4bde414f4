// Families map, row and move: for each row (all axes but the last), passes over the inner axis. A pass computes the
// reductions whose operands need no later reduction; the last pass stores. Values that do not depend on the inner axis
// are computed once a row, as splats; values that do are recomputed in each pass that needs them.
//
// Where a grain is one row that is reduced, two rows go side by side: one's chain of reductions runs in the shadow of
// the other's, and what both read (the weights of a norm) is loaded once. Each row is computed as it would be alone.
#include <algorithm>
#include <functional>
#include <limits>
#include <optional>
#include <tuple>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "backend/emit.h"
#include "backend/math.h"
#include "backend/row_values.h"

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
    {OpKind::kDequantize, [](VectorBuilder&, const Vec* x) { return x[0]; }},
};

EmitElementwise ElementwiseEmitter(OpKind kind) {
  for (const auto& [known, emit] : kElementwiseEmitters) {
    if (known == kind) return emit;
  }
  return nullptr;  // SpecOf lets no other op through
}

class RowEmitter : RowValues {
 public:
  RowEmitter(const KernelSpec& kernel, VectorBuilder& b) : RowValues(*kernel.row), kernel_(kernel), b_(b) {
    for (const DimExpr& axis : spec_.axes) sizes_.push_back(b.Dim(axis));
    for (OpId id : graph_.order()) {
      if (graph_.op(id).def().Has(kReduce) && !spec_.leaves.contains(graph_.op(id).results[0]))
        reductions_.push_back(id);
    }
  }

  void Emit() {
    if (GoTogether()) {
      from_ = b_.Const(0);
      to_ = sizes_[inner_];
      return ForGrainsTogether(b_, kernel_, kRowsTogether,
                               [&](const std::vector<std::vector<Int>>& rows) { RowsTogether(rows); });
    }
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
  static constexpr int kRowsTogether = 2;
  static constexpr int64_t kFewVectors = 16;
  static constexpr int kSampled = 2;  // vectors of a row near whose mean its moments are taken

  std::vector<absl::flat_hash_map<ValueId, Lanes>> Known() const {
    return std::vector<absl::flat_hash_map<ValueId, Lanes>>(group_.size() + 1);
  }

  // A place along the inner axis. `mask` limits the lanes, `count` says how many elements are left.
  struct Place {
    Int at;
    const Mask* mask;
    Int count;
    std::vector<absl::flat_hash_map<ValueId, Lanes>> known;  // of each row, then of all
  };

  // Whether rows go side by side. Those of few vectors do not: what is gained of them is less than what the code costs
  // to compile.
  bool GoTogether() const {
    int64_t size;
    return !reductions_.empty() && !(b_.IsConst(sizes_[inner_], &size) && size <= kFewVectors * b_.lanes()) &&
           std::all_of(spec_.blocks.begin(), spec_.blocks.end() - 1, [](int64_t block) { return block == 1; });
  }

  // What is known of one of the rows.
  struct RowState {
    absl::flat_hash_map<ValueId, Ptr> addresses;
    absl::flat_hash_map<ValueId, Lanes> values;        // those that do not vary along it, as splats
    absl::flat_hash_map<ValueId, Int> limits;          // of a causal mask: the row's position
    absl::flat_hash_map<ValueId, RowOfBlocks> blocks;  // of a weight in blocks
    std::vector<Ptr> stores;
  };
  RowState& row() { return group_[row_]; }
  const RowState& row() const { return group_[row_]; }
  void ForEachRow(const std::function<void()>& body) {
    for (row_ = 0; row_ < group_.size(); ++row_) body();
    row_ = 0;
  }

  // What the block numbered `at` of an axis covers.
  std::pair<Int, Int> Block(size_t axis, Int at) {
    const int64_t block = spec_.blocks[axis];
    const Int first = b_.Mul(at, b_.Const(block));
    return {first, b_.Add(first, RestOf(b_, sizes_[axis], first, block))};
  }

  // The rows of a grain: `index` holds blocks of the outer axes from `axis` on, places before it.
  void Rows(const std::vector<Int>& index, size_t axis) {
    if (axis == inner_) return RowsTogether({index});
    if (spec_.blocks[axis] == 1) return Rows(index, axis + 1);
    const auto [first, end] = Block(axis, index[axis]);
    b_.For(first, end, 1, {}, [&](Int row) {
      std::vector<Int> at = index;
      at[axis] = row;
      Rows(at, axis + 1);
    });
  }

  // Rows side by side; what is decided of them is the same for each.
  void RowsTogether(const std::vector<std::vector<Int>>& indices) {
    group_.assign(indices.size(), {});
    kept_ = ValueId::None();
    // Addresses before the passes, so that they stay out of the inner loops.
    ForEachRow([&] {
      const std::vector<Int>& index = indices[row_];
      for (const auto& [value, access] : SortedLeaves()) {
        if (access->blocks) {
          row().blocks.emplace(value, RowOfBlocks(b_, *access, graph_.type(value).dims.back().constant(), index));
        } else {
          row().addresses[value] = AddressOf(b_, *access, index);
        }
      }
      for (const RowSpec::Store& store : spec_.stores) row().stores.push_back(AddressOf(b_, store.to, index));
    });

    std::vector<OpId> left = reductions_;
    while (!left.empty()) {
      std::vector<OpId> now, later;
      for (OpId id : left) (Ready(graph_.op(id).fields.operands[0]) ? now : later).push_back(id);
      left = std::move(later);
      if (const auto variance = VarianceAround(now, left); variance != left.end()) {
        Moments(now[0], *variance);
        left.erase(variance);
        continue;
      }
      const ValueId kept = left.empty() ? KeptOf(now) : ValueId::None();
      Reduce(now, kept);
      if (!kept.valid()) continue;
      kept_ = kept;
      ForEachRow([&] { row().addresses[kept] = row().stores[0]; });
    }
    std::vector<size_t> element_stores;
    for (size_t i = 0; i < spec_.stores.size(); ++i) {
      const RowSpec::Store& store = spec_.stores[i];
      if (Varies(store.value) || !store.to.strides[inner_].is_const() || store.to.strides[inner_].constant() != 0) {
        element_stores.push_back(i);
      } else {
        ForEachRow([&] { StoreRow(store, row().stores[i]); });
      }
    }
    if (element_stores.empty()) return;
    ForEachRow([&] {
      for (size_t i : element_stores) Hoist(spec_.stores[i].value);
    });
    const DType stored = spec_.stores[element_stores[0]].to.dtype;  // quantized: so are all, as those of a cache are
    const int64_t block = Info(stored).block_elems;
    std::vector<std::vector<Vec>> blocks(group_.size() * spec_.stores.size());
    Pass(block > 1 ? static_cast<int>(block / b_.lanes()) : 1, {}, [&](Place& place, size_t chain) {
      for (size_t i : element_stores) {
        if (block == 1) {
          StoreAt(spec_.stores[i], row().stores[i], place);
          continue;
        }
        std::vector<Vec>& vectors = blocks[row_ * spec_.stores.size() + i];
        if (chain == 0) vectors.clear();
        vectors.push_back(At(spec_.stores[i].value, place).floats);
        const int64_t first = static_cast<int64_t>(chain) * b_.lanes();
        if (first + b_.lanes() < block) continue;
        b_.StoreBlock(stored, b_.Offset(row().stores[i], stored, b_.Sub(place.at, b_.Const(first))), vectors);
      }
    });
  }

  // Leaves in a fixed order, so that the same spec always gives the same code.
  std::vector<std::pair<ValueId, const Access*>> SortedLeaves() const {
    std::vector<std::pair<ValueId, const Access*>> leaves;
    for (const auto& [value, access] : spec_.leaves) leaves.emplace_back(value, &access);
    std::sort(leaves.begin(), leaves.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    return leaves;
  }

  // Whether computing a value anew at each place takes a polynomial.
  bool IsHeavy(ValueId value) const {
    static constexpr OpKind kPolynomials[] = {OpKind::kExp, OpKind::kLog, OpKind::kTanh, OpKind::kErf};
    return Any(value, [this](ValueId v, const OpData* def) -> std::optional<bool> {
      if (def == nullptr || row().values.contains(v) || spec_.leaves.contains(v)) return false;
      if (std::find(std::begin(kPolynomials), std::end(kPolynomials), def->kind()) != std::end(kPolynomials)) {
        return true;
      }
      return std::nullopt;
    });
  }

  // Whether a value takes nothing along the inner axis but `from`.
  bool NeedsOnly(ValueId value, ValueId from) const {
    return !Any(value, [&](ValueId v, const OpData* def) -> std::optional<bool> {
      if (v == from || row().values.contains(v)) return false;
      if (spec_.leaves.contains(v)) return Varies(v);
      if (def->kind() == OpKind::kConstant || def->def().Has(kReduce)) return false;
      return std::nullopt;
    });
  }

  // Whether it is a leaf that all rows read at the same place.
  bool IsSameInRows(ValueId value) const {
    const auto leaf = spec_.leaves.find(value);
    if (leaf == spec_.leaves.end() || leaf->second.gather || IsKind(value, OpKind::kCausalMask)) return false;
    if (IsKind(value, OpKind::kRope) || value == kept_) return false;
    const std::vector<DimExpr>& strides = leaf->second.strides;
    return std::all_of(strides.begin(), strides.begin() + static_cast<int64_t>(inner_),
                       [](const DimExpr& stride) { return stride.is_const() && stride.constant() == 0; });
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
    return !Any(value, [this](ValueId v, const OpData* def) -> std::optional<bool> {
      if (row().values.contains(v) || spec_.leaves.contains(v)) return false;
      if (def == nullptr || def->kind() == OpKind::kConstant) return false;
      if (def->def().Has(kReduce)) return true;
      return std::nullopt;
    });
  }

  // Walks the inner axis: `chains` vectors a round where they fit whole, then single ones, the last one masked.
  void Pass(int chains, const std::vector<Handle*>& carried, const std::function<void(Place&, size_t chain)>& body) {
    const auto visit = [&](Int at, const Mask* mask, size_t chain) {
      Place place{at, mask, b_.Sub(to_, at), Known()};
      ForEachRow([&] { body(place, chain); });
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
    absl::flat_hash_set<ValueId> seen;
    Hoist(value, seen);
  }
  void Hoist(ValueId value, absl::flat_hash_set<ValueId>& seen) {
    const OpData* def = DefOf(value);
    if (!seen.insert(value).second) return;
    if (row().values.contains(value) || (def != nullptr && def->kind() == OpKind::kConstant)) return;
    if (!Varies(value)) {
      Place place{b_.Const(0), nullptr, sizes_[inner_], Known()};
      row().values[value] = At(value, place);
    } else if (IsKind(value, OpKind::kCausalMask)) {
      row().limits[value] = b_.LoadIndex(spec_.leaves.at(value).dtype, row().addresses.at(value));
    } else if (!spec_.leaves.contains(value)) {
      for (ValueId v : def->fields.operands) Hoist(v, seen);
    }
  }

  // The variance around the mean that is the only one of `now`, which Moments computes with it; or left.end().
  std::vector<OpId>::const_iterator VarianceAround(const std::vector<OpId>& now, const std::vector<OpId>& left) const {
    int64_t size;
    if (now.size() != 1 || graph_.op(now[0]).kind() != OpKind::kMean) return left.end();
    if (!b_.IsConst(sizes_[inner_], &size) || size < kSampled * b_.lanes()) return left.end();
    return std::find_if(left.begin(), left.end(), [&](OpId id) {
      const auto square = graph_.DefAs<ops::Mul>(graph_.op(id).fields.operands[0]);
      if (graph_.op(id).kind() != OpKind::kMean || !square || square->a != square->b) return false;
      const auto distance = graph_.DefAs<ops::Sub>(square->a);
      return distance && distance->a == graph_.op(now[0]).fields.operands[0] &&
             distance->b == graph_.op(now[0]).results[0];
    });
  }

  // The mean of x and the variance around it in one pass. With s near x, d = x - s and e the mean of d: the mean is
  // s + e, the variance mean(d * d) - e * e. s is the mean of the first elements, a count / kSampled * lanes of them,
  // so that e * e is at most that many times the variance: as many roundings may be left of it, and of rows whose first
  // elements are like the others no more than of two passes.
  void Moments(OpId mean, OpId variance) {
    // A row alone needs four chains for its latency to be hidden; two rows of four fill half of 32 registers.
    const size_t chains = static_cast<size_t>(b_.target().registers / 8), rows = group_.size();
    const ValueId x = graph_.op(mean).fields.operands[0];
    std::vector<Vec> around(rows), sums(rows * chains, b_.Splat(0.0)), squares(rows * chains, b_.Splat(0.0));
    ForEachRow([&] {
      Hoist(x);
      Vec sum;
      for (int i = 0; i < kSampled; ++i) {
        const Int at = b_.Const(int64_t{i} * b_.lanes());
        Place place{at, nullptr, b_.Sub(to_, at), Known()};
        const Vec first = At(x, place).floats;
        sum = i == 0 ? first : b_.Add(sum, first);
      }
      around[row_] = b_.Mul(b_.ReduceAdd(sum), b_.Splat(1.0 / (kSampled * b_.lanes())));
    });
    std::vector<Handle*> carried = Carry(sums);
    for (Handle* square : Carry(squares)) carried.push_back(square);
    Pass(static_cast<int>(chains), carried, [&](Place& place, size_t chain) {
      Vec d = b_.Sub(At(x, place).floats, around[row_]);
      if (place.mask != nullptr) d = b_.Select(*place.mask, d, b_.Splat(0.0));
      Vec &sum = sums[row_ * chains + chain], &square = squares[row_ * chains + chain];
      sum = b_.Add(sum, d);
      square = b_.Fma(d, d, square);
    });
    ForEachRow([&] {
      const Vec d = b_.Div(Total(&sums[row_ * chains], chains, OpKind::kMean), CountOfRow());
      const Vec dd = b_.Div(Total(&squares[row_ * chains], chains, OpKind::kMean), CountOfRow());
      SetOfRow(mean, b_.Add(around[row_], d));
      SetOfRow(variance, b_.Sub(dd, b_.Mul(d, d)));
    });
  }

  // The accumulators of the chains of one row, joined, in every lane.
  Vec Total(Vec* s, size_t chains, OpKind kind) {
    const bool max = kind == OpKind::kMax;
    for (size_t half = chains / 2; half > 0; half /= 2) {
      for (size_t c = 0; c < half; ++c) s[c] = max ? b_.Max(s[c], s[c + half]) : b_.Add(s[c], s[c + half]);
    }
    return max ? b_.ReduceMax(s[0]) : b_.ReduceAdd(s[0]);
  }

  // `kept`: the operand of the one op, if it is to be stored where the result goes.
  void Reduce(const std::vector<OpId>& ops, ValueId kept) {
    // Chains of accumulators hide the latency of additions; polynomials fill the registers by themselves.
    const bool heavy =
        std::any_of(ops.begin(), ops.end(), [this](OpId id) { return IsHeavy(graph_.op(id).fields.operands[0]); });
    const size_t chains = heavy ? static_cast<size_t>(b_.target().registers / 16) : 4;
    ForEachRow([&] {
      for (OpId id : ops) Hoist(graph_.op(id).fields.operands[0]);
    });
    const auto neutral = [&](OpId id) {
      return b_.Splat(graph_.op(id).kind() == OpKind::kMax ? -std::numeric_limits<double>::infinity() : 0.0);
    };
    std::vector<Vec> sums;  // of each op, of each row, of each chain
    for (OpId id : ops) sums.insert(sums.end(), group_.size() * chains, neutral(id));
    const auto sums_of = [&](size_t op) { return &sums[(op * group_.size() + row_) * chains]; };
    Pass(static_cast<int>(chains), Carry(sums), [&](Place& place, size_t chain) {
      for (size_t i = 0; i < ops.size(); ++i) {
        Vec& sum = sums_of(i)[chain];
        const ValueId operand = graph_.op(ops[i]).fields.operands[0];
        if (graph_.op(ops[i]).kind() == OpKind::kMax) {
          Vec x = At(operand, place).floats;
          if (place.mask != nullptr) x = b_.Select(*place.mask, x, neutral(ops[i]));
          sum = b_.Max(sum, x);
          continue;
        }
        // A sum of products is a chain of fused multiply-adds.
        const OpData* product = DefOf(operand);
        const bool fuse = product != nullptr && product->kind() == OpKind::kMul && !row().values.contains(operand) &&
                          graph_.type(operand).dtype == DType::kF32;  // others round each product
        if (fuse && place.mask == nullptr) {
          sum =
              b_.Fma(At(product->fields.operands[0], place).floats, At(product->fields.operands[1], place).floats, sum);
          continue;
        }
        Vec x = At(operand, place).floats;
        if (kept.valid()) b_.Store(DType::kF32, b_.Offset(row().stores[0], DType::kF32, place.at), x, place.mask);
        if (place.mask != nullptr) x = b_.Select(*place.mask, x, b_.Splat(0.0));
        sum = b_.Add(sum, x);
      }
    });
    ForEachRow([&] {
      for (size_t i = 0; i < ops.size(); ++i) {
        const OpKind kind = graph_.op(ops[i]).kind();
        Vec total = Total(sums_of(i), chains, kind);
        if (kind == OpKind::kMean) total = b_.Div(total, CountOfRow());
        SetOfRow(ops[i], total);
      }
    });
  }

  void SetOfRow(OpId reduction, Vec total) {
    const ValueId value = graph_.op(reduction).results[0];
    row().values[value] = Lanes::Of(Rounded(graph_.type(value).dtype, total));
  }

  // As a value of that type: kernels compute in f32.
  Vec Rounded(DType dtype, Vec x) { return dtype == DType::kF32 ? x : b_.RoundTo(dtype, x); }

  Vec CountOfRow() { return b_.FromInt(sizes_[inner_]); }

  // A value at a place; values of the row were hoisted.
  Lanes At(ValueId value, Place& place) {
    const auto& values = row().values;
    if (const auto of_row = values.find(value); of_row != values.end()) return of_row->second;
    const size_t of = IsSameInRows(value) ? group_.size() : row_;
    if (const auto known = place.known[of].find(value); known != place.known[of].end()) return known->second;
    const Lanes lanes = Compute(value, place);
    place.known[of][value] = lanes;
    return lanes;
  }

  Lanes Compute(ValueId value, Place& place) {
    const OpData* def = DefOf(value);
    if (IsKind(value, OpKind::kCausalMask)) {
      return Lanes::Of(b_.LanesAtMost(place.at, row().limits.at(value)));
    }
    if (IsKind(value, OpKind::kRope)) return Lanes::Of(Rope(value, place));
    if (value == kept_) {
      return Lanes::Of(b_.Load(DType::kF32, b_.Offset(row().addresses.at(value), DType::kF32, place.at), place.mask));
    }
    if (spec_.leaves.contains(value)) return LoadLeaf(value, place);
    if (def->kind() == OpKind::kConstant) {
      const double number = std::get<std::vector<double>>(def->fields.attrs[0])[0];
      const DType dtype = graph_.type(value).dtype;
      return Lanes::Of(b_.Splat(IsReal(dtype) ? sinter::RoundTo(dtype, number) : number));
    }
    std::vector<Lanes> x;
    for (ValueId v : def->fields.operands) x.push_back(At(v, place));
    return Elementwise(*def, x, graph_.type(value).dtype);
  }

  Lanes LoadLeaf(ValueId value, Place& place) {
    const Access& access = spec_.leaves.at(value);
    if (access.blocks) return Lanes::Of(row().blocks.at(value).Load(b_, place.at));
    const DimExpr& stride = access.strides[inner_];
    const bool splat = stride.is_const() && stride.constant() == 0;
    if (IsQuantized(access.dtype)) {  // rows of whole blocks, hence of whole vectors
      const Ptr block = b_.Offset(row().addresses.at(value), access.dtype, place.at);
      return Lanes::Of(b_.LoadOfBlock(block, b_.Rem(place.at, b_.Const(Info(access.dtype).block_elems))));
    }
    const Ptr at = splat ? row().addresses.at(value)
                         : b_.Offset(row().addresses.at(value), access.dtype, b_.Mul(place.at, b_.Dim(stride)));
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
    const Ptr angles = b_.Offset(row().addresses.at(value), table.dtype, place.at);
    const Vec cosines = b_.Load(table.dtype, angles, place.mask);
    const Vec sines = b_.Load(table.dtype, b_.Offset(angles, table.dtype, width), place.mask);
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
      const Ptr at = b_.Offset(row().addresses.at(rope.x), from.dtype, place.at);
      const Vec above = b_.Load(from.dtype, b_.Offset(at, from.dtype, half), &low);
      const Vec below = b_.Load(from.dtype, b_.Offset(at, from.dtype, b_.Sub(b_.Const(0), half)), &high);
      partner = b_.Select(first, above, below);
    }
    return Rounded(graph_.type(value).dtype, b_.Fma(x, cosines, b_.Mul(partner, sines)));
  }

  Lanes Elementwise(const OpData& op, const std::vector<Lanes>& x, DType result) {
    if (op.kind() == OpKind::kSelect) {
      return Lanes::Of(b_.Select(x[0].mask, x[1].floats, x[2].floats));
    }
    if (op.kind() == OpKind::kConvert && x[0].kind == Lanes::kInts) {
      const Vec value = b_.ToFloat(graph_.type(op.fields.operands[0]).dtype, x[0].ints);
      return Lanes::Of(Rounded(result, value));
    }
    Vec floats[2];
    for (size_t i = 0; i < x.size(); ++i) floats[i] = x[i].floats;
    const Vec y = ElementwiseEmitter(op.kind())(b_, floats);
    return Lanes::Of(Rounded(result, y));
  }

  void StoreRow(const RowSpec::Store& store, Ptr at) {
    Place place{b_.Const(0), nullptr, sizes_[inner_], Known()};
    b_.StoreFirst(store.to.dtype, at, At(store.value, place).floats);
  }

  void StoreAt(const RowSpec::Store& store, Ptr begin, Place& place) {
    const DimExpr& stride = store.to.strides[inner_];
    const Lanes lanes = At(store.value, place);
    const Ptr at = b_.Offset(begin, store.to.dtype, b_.Mul(place.at, b_.Dim(stride)));
    if (lanes.kind == Lanes::kMask) return b_.StoreMask(at, lanes.mask, place.mask);
    if (lanes.kind == Lanes::kInts) return b_.StoreInts(store.to.dtype, at, lanes.ints, place.mask);
    if (stride.is_one()) return b_.Store(store.to.dtype, at, lanes.floats, place.mask);
    b_.StoreStrided(store.to.dtype, at, b_.Dim(stride), place.count, lanes.floats);
  }

  const KernelSpec& kernel_;
  VectorBuilder& b_;
  std::vector<Int> sizes_;
  Int from_, to_;  // what the grain covers of the inner axis
  std::vector<OpId> reductions_;
  ValueId kept_ = ValueId::None();  // lies where the result goes
  std::vector<RowState> group_;     // the rows that go side by side
  size_t row_ = 0;                  // the one of them at hand
};

}  // namespace

void EmitRows(const KernelSpec& spec, VectorBuilder& b) { RowEmitter(spec, b).Emit(); }

}  // namespace sinter
