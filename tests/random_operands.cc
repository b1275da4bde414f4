// Operands for ops of random graphs: by class, by what goes with the operands that are known, and, for ops whose rows
// of the op table do not say what fits together, by a function of their own.
#include <algorithm>
#include <optional>

#include "tests/graph_drawer.h"

namespace sinter {

// Of operands that broadcast with `type`: the same shape, a row, one element, a column.
ValueId Companion(GraphDrawer& draw, const Type& type, OperandClass cls) {
  if (cls == OperandClass::kBool) return draw.Mask(type.dims);
  Dice& dice = draw.dice();
  const int64_t form = dice.Below(20);
  if (form < 8) {
    const ValueId other = draw.Existing([&](const Type& t) {
      return t.dtype == type.dtype && Broadcast(t.dims, type.dims, draw.dims()).ok() && t.rank() <= type.rank();
    });
    if (other.valid()) return other;
  }
  if (form < 13) return draw.Like(type);
  if (form < 16) return draw.Like({type.dtype, {type.dims.back()}});
  if (form < 18 && IsFloat(type.dtype)) {
    return draw.Constant(static_cast<double>(dice.Between(-6, 6)) / 4, type.dtype);
  }
  Type column = type;
  column.dims.back() = 1;
  return draw.Like(column);
}

// A value by its class alone.
ValueId OfClass(GraphDrawer& draw, OperandClass cls) {
  const auto accepts = [&](const Type& t) {
    return cls == OperandClass::kInt    ? IsInt(t.dtype)
           : cls == OperandClass::kBool ? t.dtype == DType::kBool
                                        : IsFloat(t.dtype) || (cls == OperandClass::kNumber && IsInt(t.dtype));
  };
  if (cls == OperandClass::kState) return ValueId::None();
  const ValueId value = draw.Existing(accepts);
  if (value.valid()) return value;
  Type type = draw.RandomType();
  if (cls == OperandClass::kInt) type.dtype = DType::kI32;
  return cls == OperandClass::kBool ? draw.Mask(type.dims) : draw.Param(type);
}

// A number that divides n, from 1 to n.
int64_t Divisor(Dice& dice, int64_t n) {
  std::vector<int64_t> divisors;
  for (int64_t d = 1; d <= n; ++d) {
    if (n % d == 0) divisors.push_back(d);
  }
  return dice.Pick(divisors);
}

// b of a product with rows along `k` and batch axes that serve those of a.
Type RightSide(GraphDrawer& draw, const Dims& batch, const DimExpr& k, bool trans_b) {
  Dice& dice = draw.dice();
  Type b{dice.Chance(80) ? DType::kF32 : draw.Float(), {}};
  const int64_t shared = batch.empty() ? 0 : dice.Between(0, static_cast<int64_t>(batch.size()));
  for (int64_t i = 0; i < shared; ++i) b.dims.push_back(dice.Chance(85) ? batch[static_cast<size_t>(i)] : DimExpr(1));
  const DimExpr n = dice.Chance(25) ? draw.AnyDim() : draw.Number();
  b.dims.push_back(trans_b ? n : k);
  b.dims.push_back(trans_b ? k : n);
  if (b.dims.size() == 2 && trans_b && k.is_const() && k.constant() % 32 == 0 && dice.Chance(3)) {
    b.dtype = dice.Chance(50) ? DType::kQ8_0 : DType::kQ4_0;
  }
  return b;
}

namespace {

// For a product of which one side is known: the other.
void CompleteGemm(GraphDrawer& draw, OpFields& fields) {
  ValueId &a = fields.operands[0], &b = fields.operands[1];
  const bool trans_a = std::get<bool>(fields.attrs[0]), trans_b = std::get<bool>(fields.attrs[1]);
  if (!a.valid() && b.valid() && draw.type(b).rank() >= 2) {
    const Dims& dims = draw.type(b).dims;
    const DimExpr k = dims[dims.size() - (trans_b ? 1 : 2)];
    Type type{DType::kF32, Dims(dims.begin(), dims.end() - 2)};
    if (draw.dice().Chance(50)) type.dims.push_back(1 + draw.dice().Below(3));
    type.dims.push_back(trans_a ? k : draw.rows());
    type.dims.push_back(trans_a ? draw.rows() : k);
    a = draw.Like(type);
  }
  if (!a.valid()) a = draw.AnyFloat(2);
  if (b.valid() || !a.valid() || draw.type(a).rank() < 2) return;
  const Dims& dims = draw.type(a).dims;
  b = draw.Like(RightSide(draw, Dims(dims.begin(), dims.end() - 2), dims[dims.size() - (trans_a ? 2 : 1)], trans_b));
}

// Keys and values for queries [.., T, D], as wide as those and as many as each other.
void CompleteAttend(GraphDrawer& draw, OpFields& fields) {
  ValueId &q = fields.operands[0], &k = fields.operands[1], &v = fields.operands[2];
  const ValueId known = k.valid() ? k : v;
  if (!q.valid() && known.valid() && draw.type(known).rank() >= 2 && draw.dice().Chance(80)) {
    Type type = draw.type(known);
    type.dims[type.dims.size() - 2] = draw.rows();
    q = draw.Like(type);
  }
  if (!q.valid()) q = draw.AnyFloat(2);
  const Dims& queries = draw.type(q).dims;
  if (queries.size() < 2) return;
  const Dims batch(queries.begin(), queries.end() - 2);
  if (!k.valid() && v.valid() && draw.type(v).rank() >= 2) {
    Type type{DType::kF32, batch};
    type.dims.push_back(draw.type(v).dims[draw.type(v).dims.size() - 2]);
    type.dims.push_back(queries.back());
    k = draw.Like(type);
  }
  if (!k.valid()) k = draw.Like(RightSide(draw, batch, queries.back(), /*trans_b=*/true));
  if (!k.valid() || v.valid() || draw.type(k).rank() < 2) return;
  Type values = RightSide(draw, batch, draw.type(k).dims[draw.type(k).dims.size() - 2], /*trans_b=*/false);
  if (draw.dice().Chance(50)) values.dims.back() = queries.back();
  v = draw.Like(values);
  if (!v.valid() || fields.operands.size() < 4 || fields.operands[3].valid() || draw.dice().Chance(40)) return;
  Dims scores = queries;
  scores.back() = draw.type(k).dims[draw.type(k).dims.size() - 2];
  fields.operands[3] = draw.Mask(scores);
}

// A weight for each row of x.
void CompleteJoinParts(GraphDrawer& draw, OpFields& fields) {
  ValueId &x = fields.operands[0], &weight = fields.operands[1];
  if (!x.valid()) x = draw.AnyFloat(2);
  if (!x.valid() || weight.valid() || draw.type(x).rank() < 2) return;
  Type type = draw.type(x);
  type.dims.pop_back();
  weight = draw.Like(type);
}

void CompleteDequantize(GraphDrawer& draw, OpFields& fields) {
  const DType dtype = draw.dice().Chance(50) ? DType::kQ8_0 : DType::kQ4_0;
  if (!fields.operands[0].valid()) {
    fields.operands[0] = draw.Weight({dtype, {draw.Number(), DimExpr(32 * draw.dice().Between(1, 2))}});
  }
}

// As a rule from a narrower type.
void CompleteConvert(GraphDrawer& draw, OpFields& fields) {
  if (fields.operands[0].valid() || draw.dice().Chance(30)) return;
  Type type = draw.RandomType();
  type.dtype = draw.dice().Chance(50) ? DType::kF16 : DType::kBF16;
  const ValueId narrow = draw.Existing([](const Type& t) { return t.dtype == DType::kF16 || t.dtype == DType::kBF16; });
  fields.operands[0] = narrow.valid() && draw.dice().Chance(70) ? narrow : draw.Param(type);
}

// As a rule what has one place along the axis, as rows that heads share do.
void CompleteRepeat(GraphDrawer& draw, OpFields& fields) {
  const auto axis = static_cast<size_t>(std::get<int64_t>(fields.attrs[0]));
  if (fields.operands[0].valid() || axis > 1 || draw.dice().Chance(30)) return;
  Type type{DType::kF32, {draw.dice().Between(1, 3), draw.rows(), draw.Number()}};
  type.dims.insert(type.dims.begin() + static_cast<int64_t>(axis), 1);
  if (axis == 0 && draw.dice().Chance(50)) type.dims.erase(type.dims.begin() + 1);
  fields.operands[0] = draw.Like(type);
}

// Rows [T,C] for heads.
void CompleteHeads(GraphDrawer& draw, OpFields& fields) {
  if (!fields.operands[0].valid()) fields.operands[0] = draw.AnyFloat(2, 2);
}

void CompleteRope(GraphDrawer& draw, OpFields& fields) {
  ValueId &x = fields.operands[0], &pos = fields.operands[1], &table = fields.operands[2];
  if (!x.valid()) x = draw.AnyFloat(2);
  if (!x.valid() || draw.type(x).rank() < 2) return;
  const Dims& dims = draw.type(x).dims;
  if (!pos.valid()) pos = draw.Index(dims[dims.size() - 2]);
  if (table.valid()) return;
  table = DrawRopeTable(draw, dims.back(), std::get<std::string>(fields.attrs[0]));
}

struct Completion {
  absl::string_view op;
  void (*complete)(GraphDrawer&, OpFields&);
};

constexpr Completion kCompletions[] = {{"gemm", CompleteGemm},           {"attend", CompleteAttend},
                                       {"convert", CompleteConvert},     {"dequantize", CompleteDequantize},
                                       {"heads", CompleteHeads},         {"rope", CompleteRope},
                                       {"repeat", CompleteRepeat},       {"attend_parts", CompleteAttend},
                                       {"join_parts", CompleteJoinParts}};

}  // namespace

void CompleteOperands(GraphDrawer& draw, OpFields& fields) {
  const OpDef& def = Def(fields.kind);
  for (const Completion& completion : kCompletions) {
    if (completion.op == def.name) completion.complete(draw, fields);
  }
  std::optional<Type> known;
  for (ValueId operand : fields.operands) {
    if (operand.valid() && !draw.type(operand).state && draw.type(operand).dtype != DType::kBool)
      known = draw.type(operand);
  }
  for (size_t i = 0; i < fields.operands.size(); ++i) {
    ValueId& operand = fields.operands[i];
    const OperandDef& row = def.operands[std::min(i, def.operands.size() - 1)];
    if (operand.valid() || (row.optional && draw.dice().Chance(50))) continue;
    if (row.cls == OperandClass::kInt) {
      operand = draw.Index(draw.rows());
    } else if (known) {
      operand = Companion(draw, *known, row.cls);
    } else {
      operand = OfClass(draw, row.cls);
      if (operand.valid() && row.cls != OperandClass::kBool) known = draw.type(operand);
    }
  }
}

Type DeclaredType(GraphDrawer& draw, const OpFields& fields, const Type& x) {
  Dice& dice = draw.dice();
  if (fields.kind == OpKind::kDequantize) return {DType::kF32, x.dims};
  if (fields.kind == OpKind::kConvert) {
    const DType narrow = dice.Chance(50) ? DType::kF16 : DType::kBF16;
    return {x.dtype == DType::kF32 ? narrow : DType::kF32, x.dims};
  }
  if (fields.kind == OpKind::kReshape) {
    Type type = x;
    type.dims.insert(type.dims.begin() + dice.Below(x.rank() + 1), 1);
    return type;
  }
  if (fields.kind != OpKind::kHeads || x.rank() != 2 || !x.dims[1].is_const()) return x;
  const int64_t first = std::get<int64_t>(fields.attrs[0]),
                groups = std::max<int64_t>(1, std::get<int64_t>(fields.attrs[1]));
  const int64_t columns = std::max<int64_t>(1, (x.dims[1].constant() - first) / groups);
  const int64_t queries = Divisor(dice, columns);
  return {x.dtype, {groups, queries, x.dims[0], columns / queries}};
}

}  // namespace sinter
