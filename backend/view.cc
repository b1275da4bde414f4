#include "backend/view.h"

namespace sinter {
namespace {

bool SameExceptOnes(const Dims& a, const Dims& b) {
  const auto strip = [](const Dims& dims) {
    Dims out;
    for (const DimExpr& d : dims) {
      if (!d.is_one()) out.push_back(d);
    }
    return out;
  };
  return strip(a) == strip(b);
}

bool IsDense(const std::vector<DimExpr>& strides, const Dims& dims) {
  const std::vector<DimExpr> dense = DenseStrides(dims);
  for (size_t i = 0; i < dims.size(); ++i) {
    if (!dims[i].is_one() && !(strides[i] == dense[i])) return false;
  }
  return true;
}

std::optional<View> ResolveReshape(View from, const Dims& old_dims, const Dims& dims) {
  if (IsDense(from.strides, old_dims)) return View{from.base, from.offset, DenseStrides(dims)};
  if (!SameExceptOnes(old_dims, dims)) return std::nullopt;
  View view{from.base, from.offset, {}};
  size_t old = 0;
  for (const DimExpr& d : dims) {
    if (d.is_one()) {
      view.strides.push_back(0);
      continue;
    }
    while (old_dims[old].is_one()) ++old;
    view.strides.push_back(from.strides[old++]);
  }
  return view;
}

}  // namespace

std::vector<DimExpr> DenseStrides(absl::Span<const DimExpr> dims) {
  std::vector<DimExpr> strides(dims.size(), DimExpr(1));
  for (size_t i = dims.size(); i-- > 1;) strides[i - 1] = strides[i] * dims[i];
  return strides;
}

std::vector<DimExpr> MergedStrides(absl::Span<const DimExpr> heads) {
  return {heads[1] * heads[3], heads[3], heads[0] * heads[1] * heads[3], 1};
}

std::optional<View> ResolveView(const Graph& graph, ValueId value) {
  const ValueData& data = graph.value(value);
  if (!data.def.valid() || !graph.op(data.def).def().Has(kView)) {
    return View{value, 0, DenseStrides(data.type.dims)};
  }
  const OpId op = data.def;
  const ValueId x = graph.op(op).fields.operands[0];
  const Dims& x_dims = graph.type(x).dims;
  if (auto kv = graph.As<ops::KvView>(op)) {
    const DimExpr &groups = x_dims[1], &capacity = x_dims[2], &width = x_dims[3];
    if (ResolveView(graph, x)->base != x) return std::nullopt;
    const DimExpr plane = groups * capacity * width;
    return View{x, data.index == 0 ? DimExpr(0) : plane, {capacity * width, width, 1}};
  }
  std::optional<View> from = ResolveView(graph, x);
  if (!from) return std::nullopt;
  const std::vector<DimExpr>& s = from->strides;
  if (auto heads = graph.As<ops::Heads>(op)) {
    const DimExpr &q = data.type.dims[1], &d = data.type.dims[3];
    return View{from->base, from->offset + DimExpr(heads->first) * s[1], {q * d * s[1], d * s[1], s[0], s[1]}};
  }
  if (auto slice = graph.As<ops::Slice>(op)) {
    const size_t axis = static_cast<size_t>(slice->axis < 0 ? slice->axis + graph.type(x).rank() : slice->axis);
    from->offset = from->offset + slice->first * s[axis];
    return from;
  }
  if (auto transpose = graph.As<ops::Transpose>(op)) {
    View view{from->base, from->offset, {}};
    for (int64_t axis : transpose->perm) view.strides.push_back(s[static_cast<size_t>(axis)]);
    return view;
  }
  if (auto repeat = graph.As<ops::Repeat>(op)) {
    const size_t axis = static_cast<size_t>(repeat->axis < 0 ? repeat->axis + graph.type(x).rank() : repeat->axis);
    if (repeat->times == 1) return from;
    if (!x_dims[axis].is_one()) return std::nullopt;
    from->strides[axis] = 0;
    return from;
  }
  if (graph.op(op).kind() == OpKind::kReshape) return ResolveReshape(*from, x_dims, data.type.dims);
  return std::nullopt;
}

}  // namespace sinter
