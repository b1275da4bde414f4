#include "backend/kernel_spec.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "backend/body_reader.h"
#include "base/limits.h"
#include "base/status.h"
#include "ir/quant.h"

namespace sinter {

namespace {

constexpr int64_t kDotsOfGrain = 64;     // of a loop, along its last letter
constexpr int64_t kElemsOfGrain = 4096;  // of a row kernel whose rows are short

// Kernels compute in f32 lanes, with masks beside them; integers are only moved and converted to float. What stands in
// the way of that in an op, or "".
std::string TypeProblem(const Graph& expr, const OpData& op) {
  if (op.kind() == OpKind::kConstant && std::get<std::vector<double>>(op.fields.attrs[0]).size() != 1) {
    return "a constant of several values";
  }
  if (op.def().Has(kView) || !(op.def().Has(kElementwise) || op.def().Has(kReduce))) return "";
  for (ValueId v : op.fields.operands) {
    const DType t = expr.type(v).dtype;
    const bool mask = t == DType::kBool && op.kind() == OpKind::kSelect;
    const bool convertible = IsInt(t) && t != DType::kI64 && op.kind() == OpKind::kConvert;
    const bool blocks = op.kind() == OpKind::kDequantize;  // a leaf, which is checked as such
    if (!mask && !convertible && !blocks && !IsReal(t)) return absl::StrCat(op.def().name, " of ", Info(t).name);
  }
  const DType t = expr.type(op.results[0]).dtype;
  return IsReal(t) ? "" : absl::StrCat(op.def().name, " to ", Info(t).name);
}

// The same of a row kernel. Integers and masks move along an inner axis of stride 1 or 0 only, and rope reads
// neighbours.
std::string TypeProblem(const RowSpec& row) {
  const Graph& expr = *row.expr;
  for (OpId id : expr.order()) {
    if (std::string problem = TypeProblem(expr, expr.op(id)); !problem.empty()) return problem;
  }
  const auto strided = [](const Access& access) {
    const DimExpr& stride = access.strides.back();
    return !stride.is_one() && !(stride.is_const() && stride.constant() == 0);
  };
  for (const auto& [value, access] : row.leaves) {
    // Of a cache, whole blocks of q8_0 are read by dequantize alone.
    const bool cached = access.state && access.dtype == DType::kQ8_0 && access.strides.back().is_one();
    if ((IsQuantized(access.dtype) && !cached && !access.blocks) || access.dtype == DType::kF64) {
      return absl::StrCat("elements of type ", Info(access.dtype).name);
    }
    const auto& uses = expr.value(value).uses;
    const bool dequantized = !expr.IsResult(value) && std::all_of(uses.begin(), uses.end(), [&](const Use& use) {
      return expr.op(use.op).kind() == OpKind::kDequantize;
    });
    if (access.blocks && !(dequantized && access.strides.back().is_one())) {
      return absl::StrCat("rows of ", Info(access.dtype).name, " that are not dequantized along the inner axis");
    }
    const auto rope = expr.DefAs<ops::Rope>(value);
    if (rope && !row.leaves.at(rope->x).strides.back().is_one()) return "rope along a strided axis";
    const bool one_position = expr.DefAs<ops::CausalMask>(value) && expr.type(value).dims.back().is_one();
    if (one_position && !row.axes.back().is_one()) return "a causal mask of one position that serves several";
    if (!IsFloat(access.dtype) && strided(access)) return "integers or masks along a strided axis";
  }
  for (const RowSpec::Store& store : row.stores) {
    if (!IsFloat(store.to.dtype) && strided(store.to)) return "integers or masks along a strided axis";
  }
  return "";
}

// Builds the spec of one body that is no product and no attention, which have builders of their own.
class SpecBuilder final : BodyReader {
 public:
  using BodyReader::BodyReader;

  absl::StatusOr<KernelSpec> Build() {
    OpId gemm, attend, loop, append;
    bool moves = false, computes = false;
    for (OpId id : body_.order()) {
      const OpData& op = body_.op(id);
      if (op.kind() == OpKind::kGemm) gemm = id;
      if (op.def().Has(kAttention)) attend = id;
      if (op.kind() == OpKind::kLoop) loop = id;
      if (op.kind() == OpKind::kKvAppend && append.valid()) return No("two cache writes");
      if (op.kind() == OpKind::kKvAppend) append = id;
      moves |= op.kind() == OpKind::kTake || op.kind() == OpKind::kMergeHeads;
      computes |= op.def().Has(kElementwise) || op.kind() == OpKind::kRope || op.kind() == OpKind::kCausalMask ||
                  op.kind() == OpKind::kQuantize;
    }
    if (attend.valid()) return AttendSpecOf(body_, attend, packs_);
    if (body_.results().size() != 1) return No("not one result");
    if (gemm.valid()) return GemmSpecOf(body_, gemm, packs_);
    spec_.body = &body_;
    spec_.row.emplace();
    if (loop.valid()) {
      SINTER_RETURN_IF_ERROR(Loop(loop));
    } else if (append.valid()) {
      SINTER_RETURN_IF_ERROR(Append(append));
    } else {
      SINTER_RETURN_IF_ERROR(Rows());
    }
    if (std::string problem = TypeProblem(*spec_.row); !problem.empty()) return No(problem);
    spec_.family = append.valid() || (moves && !computes) || (!computes && !spec_.row->reduces) ? "move"
                   : spec_.row->reduces                                                         ? "row"
                                                                                                : "map";
    RowSpec& row = *spec_.row;
    row.blocks.assign(row.axes.size(), 1);
    if (loop.valid() && row.axes.size() > 1) row.blocks[row.axes.size() - 2] = kDotsOfGrain;
    row.blocks.back() = kWholeAxis;
    if (!loop.valid()) WidenGrains(row);
    for (size_t i = 0; i + 1 < row.axes.size(); ++i) spec_.extent.push_back({row.axes[i], row.blocks[i]});
    return std::move(spec_);
  }

 private:
  // A grain takes short axes as a whole, but for the first that has more than one place, which the threads share.
  static void WidenGrains(RowSpec& row) {
    const size_t inner = row.axes.size() - 1;
    size_t first = 0;
    while (first < inner && row.axes[first].is_one()) ++first;
    if (!row.axes[inner].is_const()) return;
    int64_t elems = row.axes[inner].constant();
    for (size_t i = inner; i-- > first + 1;) {
      if (!row.axes[i].is_const() || row.axes[i].constant() > kElemsOfGrain / std::max<int64_t>(1, elems)) return;
      elems *= row.axes[i].constant();
      row.blocks[i] = std::max<int64_t>(1, row.axes[i].constant());
    }
  }

  // An access to the rows of a weight in blocks: `value` is the parameter.
  absl::StatusOr<Access> BlocksOf(ValueId value) const {
    if (PackOf(value).empty()) {
      return No(absl::StrCat("elements of type ", Info(body_.type(value).dtype).name, " that are no packed weight"));
    }
    const Type& type = body_.type(value);
    Access access{*OperandOf(value), type.dtype, false, 0, DenseStrides(type.dims), {}};
    access.blocks = true;
    return access;
  }
  bool IsInBlocks(ValueId value) const {
    return FindQuantFormat(body_.type(value).dtype) != nullptr && !body_.type(value).state &&
           !body_.value(value).def.valid();
  }

  // Aligns an access of rank r at the last of `dims.size()` axes; axes where the value has a literal 1 get stride 0.
  static void AlignTo(Access& access, const Dims& value_dims, size_t rank) {
    std::vector<DimExpr> strides(rank, DimExpr(0));
    const size_t skip = rank - value_dims.size();
    for (size_t i = 0; i < value_dims.size(); ++i) {
      if (!value_dims[i].is_one()) strides[skip + i] = access.strides[i];
    }
    access.strides = std::move(strides);
  }

  absl::StatusOr<Access::Gather> GatherBy(ValueId index, DimExpr row_stride, DimExpr rows, size_t rank,
                                          size_t axis) const {
    if (body_.module().dims.Min(rows) < 1) return No("a choice among rows of which there may be none");
    SINTER_ASSIGN_OR_RETURN(Access at, AccessOf(index));
    Access::Gather gather{
        at.operand,     at.dtype, at.offset, std::vector<DimExpr>(rank, DimExpr(0)), std::move(row_stride),
        std::move(rows)};
    if (!body_.type(index).dims[0].is_one()) gather.strides[axis] = at.strides[0];  // one row may serve many
    return gather;
  }

  // Makes a leaf of `value` when it is a load, aligned at the last of `axes`.
  absl::Status AddLeaf(ValueId value, absl::Span<const DimExpr> axes) {
    const size_t rank = axes.size();
    RowSpec& row = *spec_.row;
    if (row.leaves.contains(value)) return absl::OkStatus();
    const ValueData& data = body_.value(value);
    const bool is_view = !data.def.valid() || body_.op(data.def).def().Has(kView);
    const Dims& dims = data.type.dims;
    if (dims.size() > rank) return No("a value of more axes than the result has");
    for (size_t i = 0; i < dims.size(); ++i) {
      if (!dims[i].is_one() && dims[i] != axes[rank - dims.size() + i])
        return No("a value of other dims than the result");
    }
    if (is_view) {
      SINTER_ASSIGN_OR_RETURN(Access access, IsInBlocks(value) ? BlocksOf(value) : AccessOf(value));
      AlignTo(access, dims, rank);
      row.leaves.emplace(value, std::move(access));
    } else if (auto take = body_.As<ops::Take>(data.def)) {
      SINTER_ASSIGN_OR_RETURN(Access table, IsInBlocks(take->table) ? BlocksOf(take->table) : AccessOf(take->table));
      SINTER_ASSIGN_OR_RETURN(table.gather,
                              GatherBy(take->rows, table.strides[0], body_.type(take->table).dims[0], rank, rank - 2));
      table.strides[0] = 0;
      AlignTo(table, dims, rank);
      row.leaves.emplace(value, std::move(table));
    } else if (auto mask = body_.As<ops::CausalMask>(data.def)) {
      SINTER_ASSIGN_OR_RETURN(Access pos, AccessOf(mask->pos));
      pos.strides.push_back(0);
      AlignTo(pos, dims, rank);
      row.leaves.emplace(value, std::move(pos));
    } else if (auto rope = body_.As<ops::Rope>(data.def)) {
      SINTER_RETURN_IF_ERROR(AddLeaf(rope->x, axes));
      if (!row.leaves.contains(rope->x) || body_.DefAs<ops::Rope>(rope->x)) return No("rope of a computed value");
      SINTER_ASSIGN_OR_RETURN(Access table, AccessOf(rope->table));
      SINTER_ASSIGN_OR_RETURN(table.gather,
                              GatherBy(rope->pos, table.strides[0], body_.type(rope->table).dims[0], rank, rank - 2));
      table.strides.assign(rank, DimExpr(0));
      table.strides[rank - 1] = 1;
      row.leaves.emplace(value, std::move(table));
    }
    return absl::OkStatus();
  }

  // Leaves of everything that the body computes.
  absl::Status AddLeaves(absl::Span<const DimExpr> axes) {
    for (OpId id : body_.order()) {
      const OpData& op = body_.op(id);
      if (op.def().Has(kView) || op.kind() == OpKind::kConstant) continue;
      if (op.kind() == OpKind::kTake || op.kind() == OpKind::kCausalMask || op.kind() == OpKind::kRope) {
        SINTER_RETURN_IF_ERROR(AddLeaf(op.results[0], axes));
        continue;
      }
      if (op.kind() == OpKind::kQuantize && body_.results()[0] != op.results[0]) return No("quantized rows inside it");
      if (op.kind() == OpKind::kMergeHeads && body_.results()[0] != op.results[0]) return No("merged heads inside it");
      const bool stores =
          op.kind() == OpKind::kKvAppend || op.kind() == OpKind::kMergeHeads || op.kind() == OpKind::kQuantize;
      if (stores || op.def().Has(kElementwise) || op.def().Has(kReduce)) {
        const auto append = body_.As<ops::KvAppend>(id);
        for (ValueId v : op.fields.operands) {
          if (append && v == append->pos) continue;  // says where, and is no part of the rows
          if (v.valid() && !body_.type(v).state) SINTER_RETURN_IF_ERROR(AddLeaf(v, axes));
        }
        continue;
      }
      return No(absl::StrCat("op ", op.def().name, " beside others"));
    }
    return absl::OkStatus();
  }

  // The axis of a reduction: 1 is the last.
  int64_t AxisFromEnd(const OpData& op) const {
    const int64_t axis = std::get<int64_t>(op.fields.attrs[0]);
    return axis < 0 ? -axis : body_.type(op.fields.operands[0]).rank() - axis;
  }

  absl::Status Rows() {
    RowSpec& row = *spec_.row;
    row.expr = &body_;
    ValueId result = body_.results()[0];
    const DType stored = body_.type(result).dtype;
    if (const auto quantize = body_.DefAs<ops::Quantize>(result)) result = quantize->x;
    Dims axes = body_.type(result).dims;
    std::vector<DimExpr> store = DenseStrides(axes);
    int64_t reduced_from_end = 0;  // 1: the last axis
    for (OpId id : body_.order()) {
      const OpData& op = body_.op(id);
      if (!op.def().Has(kReduce)) continue;
      const ValueId x = op.fields.operands[0];
      const int64_t from_end = AxisFromEnd(op);
      if (reduced_from_end != 0 && reduced_from_end != from_end) return No("reductions along different axes");
      reduced_from_end = from_end;
      if (axes.size() < body_.type(x).dims.size()) return No("a reduction of more axes than the result has");
      const size_t at = axes.size() - static_cast<size_t>(from_end);
      const DimExpr& length = body_.type(x).dims[static_cast<size_t>(body_.type(x).rank() - from_end)];
      if (axes[at].is_one()) axes[at] = length;
      if (axes[at] != length) return No("a reduction of another length than the row");
    }
    row.reduces = reduced_from_end != 0;
    if (auto merge = body_.DefAs<ops::MergeHeads>(result)) {
      result = merge->x;
      axes = body_.type(result).dims;
      store = MergedStrides(axes);
    }
    const auto repeat = body_.DefAs<ops::Repeat>(result);
    const bool repeats = repeat && !ResolveView(body_, result);
    if (IsQuantized(stored) && (repeats || !store.back().is_one()))
      return No("quantized rows that do not lie along it");
    if (repeats && result != body_.results()[0]) return No("merged heads of what is repeated");
    if (repeats) {  // [.., n, ..] -> [.., n, times, ..], stored densely
      const size_t axis =
          static_cast<size_t>(repeat->axis < 0 ? repeat->axis + body_.type(result).rank() : repeat->axis);
      SINTER_ASSIGN_OR_RETURN(Access from, AccessOf(repeat->x));
      axes = body_.type(repeat->x).dims;
      axes.insert(axes.begin() + static_cast<int64_t>(axis) + 1, DimExpr(repeat->times));
      from.strides.insert(from.strides.begin() + static_cast<int64_t>(axis) + 1, DimExpr(0));
      store = DenseStrides(axes);
      row.leaves.emplace(result, std::move(from));
    } else {
      SINTER_RETURN_IF_ERROR(AddLeaf(result, axes));
      SINTER_RETURN_IF_ERROR(AddLeaves(axes));
    }
    Access to{ResultOperand(), stored, false, 0, std::move(store), {}};
    if (row.reduces && body_.type(result).dims[axes.size() - static_cast<size_t>(reduced_from_end)].is_one()) {
      to.strides[axes.size() - static_cast<size_t>(reduced_from_end)] = 0;
    }
    row.stores.push_back({result, std::move(to)});
    row.axes.assign(axes.begin(), axes.end());
    if (reduced_from_end > 1 && (IsQuantized(stored) || LiesAlongTheLastAxis())) {
      return No("a reduction along another axis than rope, a mask or quantized rows");
    }
    if (reduced_from_end > 1) MoveInner(axes.size() - static_cast<size_t>(reduced_from_end));
    if (row.axes.empty()) return No("a value without axes");
    return absl::OkStatus();
  }

  // Whether an op's values depend on their place along the last axis.
  bool LiesAlongTheLastAxis() const {
    return std::any_of(body_.order().begin(), body_.order().end(), [this](OpId id) {
      return body_.op(id).kind() == OpKind::kRope || body_.op(id).kind() == OpKind::kCausalMask;
    });
  }

  // Makes `axis` the inner axis of everything.
  void MoveInner(size_t axis) {
    const auto move = [axis](std::vector<DimExpr>& v) {
      std::rotate(v.begin() + static_cast<int64_t>(axis), v.begin() + static_cast<int64_t>(axis) + 1, v.end());
    };
    RowSpec& row = *spec_.row;
    move(row.axes);
    for (auto& [value, access] : row.leaves) {
      move(access.strides);
      if (access.gather) move(access.gather->strides);
    }
    for (RowSpec::Store& store : row.stores) move(store.to.strides);
  }

  absl::Status Loop(OpId id) {
    const ops::Loop loop = *body_.As<ops::Loop>(id);
    const Graph& expr = body_.module().graph(loop.body.id);
    RowSpec& row = *spec_.row;
    row.expr = &expr;
    row.reduces = true;
    const std::vector<std::string> over = absl::StrSplit(loop.over, ' ', absl::SkipEmpty());
    const ValueId result = body_.op(id).results[0];
    if (body_.results()[0] != result) return No("ops after a loop");
    const Dims& dims = body_.type(result).dims;
    row.axes.assign(dims.begin(), dims.end());
    const OpData& sum = expr.op(expr.order().back());
    row.axes.push_back(expr.type(sum.fields.operands[0]).dims[0]);
    for (size_t i = 0; i < loop.args.size(); ++i) {
      SINTER_ASSIGN_OR_RETURN(Access from, AccessOf(loop.args[i]));
      const std::vector<std::string> letters = absl::StrSplit(loop.slices[i], ' ', absl::SkipEmpty());
      std::vector<DimExpr> strides(row.axes.size(), DimExpr(0));
      for (size_t j = 0; j < letters.size(); ++j) {
        if (letters[j] == "." && body_.type(loop.args[i]).dims[j].is_one()) continue;
        const size_t axis = letters[j] == "."
                                ? over.size()
                                : static_cast<size_t>(std::find(over.begin(), over.end(), letters[j]) - over.begin());
        strides[axis] = strides[axis] + from.strides[j];
      }
      from.strides = std::move(strides);
      row.leaves.emplace(expr.params()[i], std::move(from));
    }
    std::vector<DimExpr> strides = DenseStrides(dims);
    strides.push_back(0);
    row.stores.push_back(
        {expr.results()[0], Access{ResultOperand(), body_.type(result).dtype, false, 0, std::move(strides), {}}});
    return absl::OkStatus();
  }

  absl::Status Append(OpId id) {
    const ops::KvAppend append = *body_.As<ops::KvAppend>(id);
    RowSpec& row = *spec_.row;
    row.expr = &body_;
    const Dims& cache = body_.type(append.cache).dims;
    const DimExpr &groups = cache[1], &capacity = cache[2], &width = cache[3];
    const Dims& k = body_.type(append.k).dims;
    row.axes.assign(k.begin(), k.end());  // [G,1,T,D]
    if (body_.results()[0] != body_.op(id).results[0]) return No("ops after a cache write");
    for (OpId op : body_.order()) {
      if (body_.op(op).def().Has(kReduce) && AxisFromEnd(body_.op(op)) != 1) return No("a reduction across rows");
    }
    SINTER_RETURN_IF_ERROR(AddLeaves(row.axes));
    const uint32_t cache_operand = *OperandOf(append.cache);
    for (const auto& [value, access] : row.leaves) {
      if (access.operand == cache_operand) return No("a cache write of what the cache holds");
    }
    SINTER_ASSIGN_OR_RETURN(Access::Gather at, GatherBy(append.pos, width, capacity, 4, 2));
    for (const auto& [value, plane] :
         {std::pair{append.k, DimExpr(0)}, std::pair{append.v, groups * capacity * width}}) {
      Access to{cache_operand, body_.type(append.cache).dtype, true, plane, {capacity * width, 0, 0, 1}, at};
      row.stores.push_back({value, std::move(to)});
    }
    return absl::OkStatus();
  }

  KernelSpec spec_;
};

}  // namespace

absl::StatusOr<KernelSpec> SpecOfOne(const Graph& body, absl::Span<const std::string> packs) {
  if (limits::kBodyOps.Exceeded(body.order().size())) {  // values are followed through it by recursion
    return absl::UnimplementedError(
        absl::StrCat("@", body.name(), ": a kernel of ", body.order().size(), " ops: ", limits::kBodyOps.Text()));
  }
  return SpecBuilder(body, packs).Build();
}

}  // namespace sinter
