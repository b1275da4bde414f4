// How operands and attributes of each op are drawn. A row of the op table whose operand classes say enough needs
// nothing here: CompleteOperands gives it operands by class, and Infer has the last word. What says more is a recipe.
#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "tests/graph_drawer.h"

namespace sinter {
namespace {

OpFields Defaults(OpKind kind) {
  const OpDef& def = Def(kind);
  OpFields fields{kind, {}, {}};
  for (const OperandDef& operand : def.operands) {
    if (!operand.list) fields.operands.emplace_back();
  }
  for (const AttrDef& attr : def.attrs) fields.attrs.push_back(attr.default_value);
  return fields;
}

int64_t AnyAxis(GraphDrawer& draw, ValueId x) {
  const int64_t rank = draw.type(x).rank();
  if (draw.dice().Chance(60)) return draw.dice().Chance(50) ? -1 : rank - 1;
  return draw.dice().Between(-rank, rank - 1);
}

// Ops that are not defined everywhere.
template <typename Op>
ValueId OfPositive(GraphDrawer& draw) {
  return draw.Add(Op{.x = draw.Positive(draw.AnyFloat())});
}

ValueId DrawDiv(GraphDrawer& draw) {
  const ValueId a = draw.AnyFloat();
  const ValueId b = draw.dice().Chance(30)
                        ? draw.Constant(static_cast<double>(draw.dice().Between(1, 6)) / 2, draw.type(a).dtype)
                        : draw.Positive(Companion(draw, draw.type(a), OperandClass::kFloat));
  return draw.Add(ops::Div{.a = a, .b = b});
}

ValueId DrawSelect(GraphDrawer& draw) {
  const ValueId a = draw.AnyFloat();
  const ValueId mask = draw.Mask(draw.type(a).dims);
  const ValueId b = Companion(draw, draw.type(a), OperandClass::kFloat);
  return draw.dice().Chance(50) ? draw.Add(ops::Select{.mask = mask, .a = a, .b = b})
                                : draw.Add(ops::Select{.mask = mask, .a = b, .b = a});
}

ValueId DrawConvert(GraphDrawer& draw) {
  // Not from float to integer: rounding before it would show as a whole unit.
  const ValueId x = draw.Existing([](const Type& t) { return IsFloat(t.dtype) || IsInt(t.dtype); });
  if (!x.valid()) return x;
  constexpr DType kTypes[] = {DType::kF32, DType::kF32, DType::kF16, DType::kBF16};
  return draw.Add(ops::Convert{.x = x}, {Type{kTypes[draw.dice().Below(std::size(kTypes))], draw.type(x).dims}});
}

ValueId DrawDequantize(GraphDrawer& draw) {
  const DType dtype = draw.dice().Chance(50) ? DType::kQ8_0 : DType::kQ4_0;
  const Dims dims = {draw.Number(), DimExpr(32 * draw.dice().Between(1, 2))};
  return draw.Add(ops::Dequantize{.x = draw.Weight({dtype, dims})}, {Type{DType::kF32, dims}});
}

ValueId DrawGelu(GraphDrawer& draw) {
  return draw.Add(ops::Gelu{.x = draw.AnyFloat(), .form = draw.dice().Chance(50) ? "tanh" : "erf"});
}

ValueId DrawCausalMask(GraphDrawer& draw) {
  const DimExpr n = draw.dice().Chance(70) ? draw.rows() : draw.AnyDim();
  return draw.Add(ops::CausalMask{.pos = draw.Index(n), .len = draw.dice().Chance(70) ? draw.seen() : draw.AnyDim()});
}

template <typename Op>
ValueId DrawReduction(GraphDrawer& draw) {
  const ValueId x = draw.AnyFloat();
  return draw.Add(Op{.x = x, .axis = AnyAxis(draw, x)});
}

ValueId DrawSoftmax(GraphDrawer& draw) {
  const ValueId x = draw.AnyFloat();
  ops::Softmax op{.x = x, .scale = draw.dice().Chance(50) ? 1.0 : static_cast<double>(draw.dice().Between(1, 8)) / 8};
  if (draw.dice().Chance(50)) op.mask = draw.Mask(draw.type(x).dims);
  return draw.Add(op);
}

double Epsilon(Dice& dice) {
  constexpr double kEpsilons[] = {1e-5, 1e-6, 1e-5, 0.25, 1e-3};
  return kEpsilons[dice.Below(std::size(kEpsilons))];
}

ValueId RowOf(GraphDrawer& draw, ValueId x) { return draw.Like({draw.type(x).dtype, {draw.type(x).dims.back()}}); }

ValueId DrawLayerNorm(GraphDrawer& draw) {
  const ValueId x = draw.AnyFloat();
  ops::LayerNorm op{.x = x, .gamma = RowOf(draw, x), .eps = Epsilon(draw.dice())};
  if (draw.dice().Chance(60)) op.beta = RowOf(draw, x);
  return draw.Add(op);
}

ValueId DrawRmsNorm(GraphDrawer& draw) {
  const ValueId x = draw.AnyFloat();
  return draw.Add(ops::RmsNorm{.x = x, .gamma = RowOf(draw, x), .eps = Epsilon(draw.dice())});
}

ValueId DrawGemm(GraphDrawer& draw) {
  Dice& dice = draw.dice();
  const ValueId a = draw.AnyFloat(2);
  const Dims dims = draw.type(a).dims;
  const bool trans_a = dice.Chance(20), trans_b = dice.Chance(60);
  const Dims batch(dims.begin(), dims.end() - 2);
  const DimExpr k = dims[dims.size() - (trans_a ? 2 : 1)];
  // Another value of the graph, where one fits.
  const ValueId other = draw.Existing([&](const Type& t) {
    return IsFloat(t.dtype) && t.rank() >= 2 && t.rank() <= static_cast<int64_t>(dims.size()) &&
           t.dims[t.dims.size() - (trans_b ? 1 : 2)] == k;
  });
  if (other.valid() && dice.Chance(40)) {
    const ValueId made = draw.Add(ops::Gemm{.a = a, .b = other, .trans_a = trans_a, .trans_b = trans_b});
    if (made.valid()) return made;
  }
  const ValueId b = draw.Like(RightSide(draw, batch, k, trans_b));
  return draw.Add(ops::Gemm{.a = a, .b = b, .trans_a = trans_a, .trans_b = trans_b});
}

// A loop of dot products over axes in any order: letters of a, then one of b that a does not have.
ValueId DrawLoop(GraphDrawer& draw) {
  Dice& dice = draw.dice();
  const ValueId a = draw.AnyFloat(1, 4);
  const Type left = draw.type(a);
  const int64_t rank = left.rank(), summed = dice.Chance(75) ? rank - 1 : dice.Below(rank);
  const DimExpr k = left.dims[static_cast<size_t>(summed)];
  std::vector<std::string> over, slice_a, slice_b;
  Type right{dice.Chance(80) ? DType::kF32 : draw.Float(), {}};
  const auto add_b = [&](const std::string& letter, const DimExpr& dim) {
    slice_b.push_back(letter);
    right.dims.push_back(dim);
  };
  for (int64_t axis = 0; axis < rank; ++axis) {
    const std::string letter = axis == summed ? "." : std::string(1, static_cast<char>('g' + axis));
    slice_a.push_back(letter);
    if (axis == summed) continue;
    over.push_back(letter);
    const bool row = axis + 2 >= rank;  // as a rule the last letter is a's alone
    if (dice.Chance(row ? 10 : 60)) add_b(letter, left.dims[static_cast<size_t>(axis)]);
  }
  if (dice.Chance(95)) {
    over.insert(dice.Chance(85) ? over.end() : over.begin() + dice.Below(static_cast<int64_t>(over.size()) + 1), "z");
    add_b("z", dice.Chance(25) ? draw.AnyDim() : draw.Number());
  }
  add_b(".", k);
  if (over.empty()) return ValueId::None();
  if (dice.Chance(25)) {  // the axes of b in another order
    const size_t i = static_cast<size_t>(dice.Below(static_cast<int64_t>(slice_b.size())));
    std::swap(slice_b[i], slice_b.back());
    std::swap(right.dims[i], right.dims.back());
  }
  if (right.dims.size() == 2 && slice_b.back() == "." && k.is_const() && k.constant() % 32 == 0 && dice.Chance(3)) {
    right.dtype = DType::kQ8_0;
  }
  const ValueId b = draw.Like(right);
  const auto words = [](const std::vector<std::string>& letters) {
    std::string text;
    for (const std::string& letter : letters) absl::StrAppend(&text, text.empty() ? "" : " ", letter);
    return text;
  };
  ops::Loop loop{
      .body = {draw.DotBody(k, left.dtype, right.dtype, dice.Chance(12))}, .args = {a, b}, .over = words(over)};
  loop.slices = {words(slice_a), words(slice_b)};
  return draw.Add(std::move(loop));
}

ValueId DrawHeads(GraphDrawer& draw) {
  Dice& dice = draw.dice();
  const ValueId x =
      draw.Existing([](const Type& t) { return IsFloat(t.dtype) && t.rank() == 2 && t.dims[1].is_const(); });
  if (!x.valid()) return x;
  const Type type = draw.type(x);
  const int64_t columns = type.dims[1].constant(), used = dice.Chance(60) ? columns : dice.Between(1, columns);
  const int64_t width = Divisor(dice, used), groups = Divisor(dice, used / width);
  const DimExpr heads = used / width / groups;
  return draw.Add(ops::Heads{.x = x, .first = dice.Between(0, columns - used), .groups = groups},
                  {Type{type.dtype, {groups, heads, type.dims[0], width}}});
}

ValueId DrawSlice(GraphDrawer& draw) {
  Dice& dice = draw.dice();
  const ValueId x = OfClass(draw, OperandClass::kNumber);
  const Type type = draw.type(x);
  const int64_t axis = dice.Below(type.rank());
  const DimExpr& dim = type.dims[static_cast<size_t>(axis)];
  ops::Slice slice{.x = x, .axis = dice.Chance(50) ? axis : axis - type.rank(), .first = 0, .len = dim};
  if (dim.is_const()) {
    const int64_t len = dice.Between(1, dim.constant());
    slice.len = len;
    slice.first = dice.Between(0, dim.constant() - len);
  } else if (dim == draw.seen() && dice.Chance(70)) {
    slice.first = draw.seen() - draw.rows();
    slice.len = draw.rows();
  } else if (dice.Chance(50)) {
    slice.first = dim - DimExpr(1);
    slice.len = 1;
  }
  return draw.Add(slice);
}

ValueId DrawReshape(GraphDrawer& draw) {
  Dice& dice = draw.dice();
  const ValueId x = OfClass(draw, OperandClass::kNumber);
  Type type = draw.type(x);
  const auto rank = type.rank();
  const auto at = static_cast<size_t>(dice.Below(rank));
  const int64_t form = dice.Below(3);
  if (form == 0 && at + 1 < type.dims.size()) {  // two axes into one
    type.dims[at] = type.dims[at] * type.dims[at + 1];
    type.dims.erase(type.dims.begin() + static_cast<int64_t>(at) + 1);
  } else if (form == 1 && type.dims[at].is_const() && rank < 5) {  // one into two
    const int64_t inner = Divisor(dice, type.dims[at].constant());
    type.dims.insert(type.dims.begin() + static_cast<int64_t>(at), type.dims[at].constant() / inner);
    type.dims[at + 1] = inner;
  } else if (rank < 5) {
    type.dims.insert(type.dims.begin() + static_cast<int64_t>(at), 1);
  }
  return draw.Add(ops::Reshape{.x = x}, {type});
}

ValueId DrawTranspose(GraphDrawer& draw) {
  const ValueId x = OfClass(draw, OperandClass::kNumber);
  ops::Transpose op{.x = x, .perm = std::vector<int64_t>(static_cast<size_t>(draw.type(x).rank()))};
  std::iota(op.perm.begin(), op.perm.end(), 0);
  for (size_t i = op.perm.size(); i-- > 1;) {
    std::swap(op.perm[i], op.perm[static_cast<size_t>(draw.dice().Below(static_cast<int64_t>(i) + 1))]);
  }
  return draw.Add(op);
}

ValueId DrawRepeat(GraphDrawer& draw) {
  const ValueId x = OfClass(draw, OperandClass::kNumber);
  return draw.Add(ops::Repeat{.x = x, .axis = AnyAxis(draw, x), .times = draw.dice().Between(1, 3)});
}

ValueId DrawMergeHeads(GraphDrawer& draw) { return draw.Add(ops::MergeHeads{.x = draw.AnyFloat(4, 4)}); }

ValueId DrawTake(GraphDrawer& draw) {
  const ValueId existing = draw.Existing([](const Type& t) { return IsFloat(t.dtype) && t.rank() == 2; });
  const ValueId table = existing.valid() && draw.dice().Chance(60)
                            ? existing
                            : draw.Fresh({draw.Float(), {draw.Number(), draw.Number()}});
  return draw.Add(
      ops::Take{.table = table, .rows = draw.Index(draw.dice().Chance(60) ? draw.wanted() : draw.AnyDim())});
}

ValueId DrawRope(GraphDrawer& draw) {
  Dice& dice = draw.dice();
  const ValueId x = draw.Existing([](const Type& t) {
    return IsFloat(t.dtype) && t.rank() >= 2 && !t.dims.back().DivideExactly(2).poisoned() && t.dims.back().is_const();
  });
  if (!x.valid()) return x;
  const Dims& dims = draw.type(x).dims;
  const std::string style = dice.Chance(50) ? "norm" : "neox";
  const Type type{DType::kF32, {draw.positions(), dims.back() * DimExpr(2)}};
  const DimExpr rows = dims[dims.size() - 2];
  const ValueId angles = dice.Chance(85) ? DrawRopeTable(draw, dims.back(), style) : draw.Param(type);
  return draw.Add(ops::Rope{.x = x, .pos = draw.Index(rows), .table = angles, .style = style});
}

// A cache, rows written to it once or twice, and what it then holds.
ValueId DrawKvAppend(GraphDrawer& draw) {
  Dice& dice = draw.dice();
  const auto is_rows = [&](const Type& t) {
    return t.rank() == 4 && t.dims[1].is_one() && IsFloat(t.dtype) && t.dtype != DType::kF64 && t.dims[0].is_const() &&
           t.dims[3].is_const() && draw.dims().Max(t.dims[2]) <= draw.positions();
  };
  ValueId k = draw.Existing(is_rows);
  if (!k.valid()) k = draw.Param({draw.Float(), {1 + dice.Below(3), 1, draw.rows(), 4 * dice.Between(1, 3)}});
  if (!k.valid()) return k;
  const Type type = draw.type(k);
  ValueId cache = draw.Param({type.dtype, {2, type.dims[0], draw.positions(), type.dims[3]}, /*state=*/true});
  if (!cache.valid()) return cache;
  const ValueId initial = cache;
  const int64_t times = dice.Chance(90) ? 1 : 2;
  for (int64_t i = 0; i < times; ++i) {
    const ValueId next =
        draw.Add(ops::KvAppend{.cache = cache, .k = k, .v = draw.Like(type), .pos = draw.Index(type.dims[2])});
    if (!next.valid()) break;
    cache = next;
  }
  if (cache != initial || dice.Chance(50)) draw.Return(cache);
  if (dice.Chance(10)) return cache;
  return draw.Add(
      ops::KvView{.cache = cache, .len = dice.Chance(80) ? draw.seen() : DimExpr(dice.Between(1, draw.positions()))});
}

template <OpKind kKind>
ValueId DrawAttend(GraphDrawer& draw) {
  OpFields fields = Defaults(kKind);
  for (Attr& attr : fields.attrs) {
    if (auto* scale = std::get_if<double>(&attr)) *scale = static_cast<double>(draw.dice().Between(1, 4)) / 4;
    if (auto* parts = std::get_if<int64_t>(&attr)) *parts = draw.dice().Between(2, 5);
  }
  CompleteOperands(draw, fields);
  return draw.AddFields(fields);
}

struct Recipe {
  absl::string_view op;
  ValueId (*draw)(GraphDrawer&);
};

constexpr Recipe kRecipes[] = {
    {"log", OfPositive<ops::Log>},
    {"sqrt", OfPositive<ops::Sqrt>},
    {"rsqrt", OfPositive<ops::Rsqrt>},
    {"div", DrawDiv},
    {"select", DrawSelect},
    {"convert", DrawConvert},
    {"dequantize", DrawDequantize},
    {"gelu", DrawGelu},
    {"causal_mask", DrawCausalMask},
    {"sum", DrawReduction<ops::Sum>},
    {"mean", DrawReduction<ops::Mean>},
    {"max", DrawReduction<ops::Max>},
    {"softmax", DrawSoftmax},
    {"layer_norm", DrawLayerNorm},
    {"rms_norm", DrawRmsNorm},
    {"loop", DrawLoop},
    {"gemm", DrawGemm},
    {"attend", DrawAttend<OpKind::kAttend>},
    {"attend_parts", DrawAttend<OpKind::kAttendParts>},
    {"heads", DrawHeads},
    {"slice", DrawSlice},
    {"reshape", DrawReshape},
    {"transpose", DrawTranspose},
    {"repeat", DrawRepeat},
    {"merge_heads", DrawMergeHeads},
    {"take", DrawTake},
    {"rope_table", DrawRope},
    {"rope", DrawRope},
    {"kv_append", DrawKvAppend},
    {"kv_view", DrawKvAppend},
};

}  // namespace

ValueId DrawRopeTable(GraphDrawer& draw, const DimExpr& width, const std::string& style) {
  Dice& dice = draw.dice();
  if (!width.is_const()) return ValueId::None();
  ops::RopeTable table{.base = dice.Chance(50) ? 10000.0 : 100.0, .scale = dice.Chance(70) ? 1.0 : 0.5, .style = style};
  if (dice.Chance(15)) table.factors = draw.Weight({DType::kF32, {width.constant() / 2}});
  return draw.Add(table, {Type{DType::kF32, {draw.positions(), width * DimExpr(2)}}});
}

ValueId DrawOp(GraphDrawer& draw, OpKind kind) {
  for (const Recipe& recipe : kRecipes) {
    if (recipe.op == Def(kind).name) return recipe.draw(draw);
  }
  for (int attempt = 0; attempt < 8; ++attempt) {
    OpFields fields = Defaults(kind);
    CompleteOperands(draw, fields);
    std::vector<Type> declared;
    if (Def(kind).Has(kDeclared) && !fields.operands.empty() && fields.operands[0].valid()) {
      declared = {DeclaredType(draw, fields, draw.type(fields.operands[0]))};
    }
    const ValueId made = draw.AddFields(fields, std::move(declared));
    if (made.valid()) return made;
  }
  return ValueId::None();
}

}  // namespace sinter
