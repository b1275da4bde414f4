// Pieces of models as front ends write them, each in many variants: linear layers, groups of them over the same rows,
// attention with and without a cache, the rows whose logits are wanted.
#include <limits>

#include "tests/graph_drawer.h"

namespace sinter {
namespace {

// Products of x [.., M, K] and y [.., N, K] as a loop of dot products, as front ends write it, or as a gemm.
ValueId Dots(GraphDrawer& draw, ValueId x, ValueId y, absl::string_view over, absl::string_view slice_x,
             absl::string_view slice_y, bool trans_b) {
  if (!x.valid() || !y.valid()) return ValueId::None();
  if (draw.dice().Chance(25)) return draw.Add(ops::Gemm{.a = x, .b = y, .trans_b = trans_b});
  const Dims& dims = draw.type(x).dims;
  ops::Loop loop{.body = {draw.DotBody(dims.back(), draw.type(x).dtype, draw.type(y).dtype, false)},
                 .args = {x, y},
                 .over = std::string(over)};
  loop.slices = {std::string(slice_x), std::string(slice_y)};
  return draw.Add(std::move(loop));
}

// Rows [n, width], existing or fresh.
ValueId Rows(GraphDrawer& draw) {
  const ValueId x = draw.Existing([&](const Type& t) {
    return t.dtype == DType::kF32 && t.rank() == 2 && t.dims[0] == draw.rows() && t.dims[1].is_const();
  });
  return x.valid() ? x : draw.Param({DType::kF32, {draw.rows(), draw.Number()}});
}

ValueId Activation(GraphDrawer& draw, ValueId x) {
  switch (draw.dice().Below(5)) {
    case 0:
      return draw.Add(ops::Tanh{.x = x});
    case 1:
      return draw.Add(ops::Gelu{.x = x, .form = draw.dice().Chance(50) ? "tanh" : "erf"});
    case 2:
      return draw.Add(ops::Maximum{.a = x, .b = draw.Constant(0, DType::kF32)});
    default:
      return x;
  }
}

// Two or three linear layers over the same rows, then what joins them.
ValueId Group(GraphDrawer& draw) {
  const ValueId x = Rows(draw);
  const DimExpr columns = draw.Number();
  const ValueId gate = DrawLinear(draw, x, columns), up = DrawLinear(draw, x, columns);
  if (draw.dice().Chance(30)) DrawLinear(draw, x, draw.Number());
  if (!gate.valid() || !up.valid() || draw.type(gate).dtype != draw.type(up).dtype) return up;
  const ValueId joined = draw.dice().Chance(50) ? draw.Add(ops::Swiglu{.gate = gate, .up = up})
                                                : draw.Add(ops::Mul{.a = Activation(draw, gate), .b = up});
  if (!joined.valid() || draw.dice().Chance(40)) return joined;
  const ValueId down = DrawLinear(draw, joined, draw.type(x).dims[1]);
  return draw.dice().Chance(60) ? draw.Add(ops::Add{.a = down, .b = x}) : down;
}

// The rows that are wanted, and what is made of them alone.
ValueId WantedRows(GraphDrawer& draw) {
  ValueId x = Rows(draw);
  if (draw.dice().Chance(50)) x = DrawLinear(draw, x, draw.Number());
  if (!x.valid()) return x;
  ValueId wanted = draw.Add(ops::Take{.table = x, .rows = draw.Index(draw.wanted())});
  if (!wanted.valid()) return wanted;
  if (draw.dice().Chance(60)) {
    const ValueId gamma = draw.Like({draw.type(wanted).dtype, {draw.type(wanted).dims[1]}});
    wanted = draw.Add(ops::RmsNorm{.x = wanted, .gamma = gamma});
  }
  return draw.dice().Chance(60) && wanted.valid() ? DrawLinear(draw, wanted, draw.Number()) : wanted;
}

struct Head {
  int64_t groups, queries, width;
};

ValueId Rope(GraphDrawer& draw, ValueId x, ValueId pos, bool wanted, const std::string& style, ValueId table) {
  return wanted ? draw.Add(ops::Rope{.x = x, .pos = pos, .table = table, .style = style}) : x;
}

// Scores, scale, mask and softmax, fused or not.
ValueId Probabilities(GraphDrawer& draw, ValueId scores, ValueId mask, double scale) {
  Dice& dice = draw.dice();
  if (!scores.valid()) return scores;
  if (dice.Chance(35)) return draw.Add(ops::Softmax{.x = scores, .mask = mask, .scale = scale});
  const auto scaled = [&](ValueId x) {
    return dice.Chance(60) ? draw.Add(ops::Mul{.a = x, .b = draw.Constant(scale, DType::kF32)})
                           : draw.Add(ops::Div{.a = x, .b = draw.Constant(1 / scale, DType::kF32)});
  };
  const bool scale_first = dice.Chance(60);
  if (scale_first) scores = scaled(scores);
  if (mask.valid()) {
    // Minus infinity masks; a finite number is arithmetic.
    const double low = dice.Chance(85) ? -std::numeric_limits<double>::infinity() : -1000;
    scores = draw.Add(ops::Select{.mask = mask, .a = scores, .b = draw.Constant(low, DType::kF32)});
  }
  if (!scale_first) scores = scaled(scores);
  if (dice.Chance(35)) return draw.Add(ops::Softmax{.x = scores});
  const ValueId shifted = draw.Add(ops::Sub{.a = scores, .b = draw.Add(ops::Max{.x = scores, .axis = -1})});
  const ValueId e = draw.Add(ops::Exp{.x = shifted});
  return draw.Add(ops::Div{.a = e, .b = draw.Add(ops::Sum{.x = e, .axis = -1})});
}

ValueId Attention(GraphDrawer& draw) {
  Dice& dice = draw.dice();
  const ValueId x = Rows(draw);
  if (!x.valid()) return x;
  const Head head{dice.Between(1, 3), dice.Between(1, 3), 2 * dice.Between(1, 6)};
  const int64_t rows = head.groups * head.width, all = head.queries * rows;
  const DType stored = dice.Chance(75) ? DType::kF32 : draw.Float();
  const bool fused = dice.Chance(40), cached = dice.Chance(60), roped = dice.Chance(50);
  const auto heads = [&](ValueId from, int64_t first, int64_t queries) {
    return draw.Add(ops::Heads{.x = from, .first = first, .groups = head.groups},
                    {Type{DType::kF32, {head.groups, queries, draw.rows(), head.width}}});
  };
  ValueId q, k, v;
  if (fused) {
    const ValueId qkv = DrawLinear(draw, x, all + 2 * rows);
    q = heads(qkv, 0, head.queries), k = heads(qkv, all, 1), v = heads(qkv, all + rows, 1);
  } else {
    q = heads(DrawLinear(draw, x, all), 0, head.queries);
    k = heads(DrawLinear(draw, x, rows), 0, 1);
    v = heads(DrawLinear(draw, x, rows), 0, 1);
  }
  const ValueId pos = draw.Index(draw.rows());
  if (roped) {
    const std::string style = dice.Chance(50) ? "norm" : "neox";
    const ValueId table =
        draw.Add(ops::RopeTable{.style = style}, {Type{DType::kF32, {draw.positions(), 2 * head.width}}});
    q = Rope(draw, q, pos, dice.Chance(90), style, table);
    k = Rope(draw, k, pos, true, style, table);
  }
  if (!q.valid() || !k.valid() || !v.valid()) return ValueId::None();
  DimExpr seen = draw.rows();
  if (cached) {
    seen = draw.seen();
    if (stored != DType::kF32) {
      k = draw.Add(ops::Convert{.x = k}, {Type{stored, draw.type(k).dims}});
      v = draw.Add(ops::Convert{.x = v}, {Type{stored, draw.type(v).dims}});
    }
    const ValueId cache = draw.Param({stored, {2, head.groups, draw.positions(), head.width}, /*state=*/true});
    const ValueId next = draw.Add(ops::KvAppend{.cache = cache, .k = k, .v = v, .pos = pos});
    if (!next.valid()) return next;
    draw.Return(next);
    k = draw.Add(ops::KvView{.cache = next, .len = seen});
    if (!k.valid()) return k;
    v = draw.graph().op(draw.last()).results[1];
  } else {
    const Dims dims = {head.groups, draw.rows(), head.width};
    k = draw.Add(ops::Reshape{.x = k}, {Type{DType::kF32, dims}});
    v = draw.Add(ops::Reshape{.x = v}, {Type{DType::kF32, dims}});
  }
  const bool repeated = head.queries > 1 && dice.Chance(20);
  if (repeated) {  // each row once for every head that shares it
    const auto repeat = [&](ValueId rows_of) {
      const Type& type = draw.type(rows_of);
      const ValueId many = draw.Add(ops::Repeat{.x = rows_of, .axis = 0, .times = head.queries});
      return draw.Add(ops::Reshape{.x = many},
                      {Type{type.dtype, {head.groups, head.queries, type.dims[1], type.dims[2]}}});
    };
    k = repeat(k), v = repeat(v);
  }
  const char* const rows_of = repeated ? "g q s ." : "g s .";
  const ValueId scores = Dots(draw, q, k, "g q t s", "g q t .", rows_of, true);
  ValueId mask;
  if (dice.Chance(85)) mask = draw.Add(ops::CausalMask{.pos = pos, .len = seen});
  const ValueId p = Probabilities(draw, scores, mask, dice.Chance(70) ? 0.5 : 0.125);
  if (!p.valid() || !v.valid()) return ValueId::None();
  ops::Loop loop{
      .body = {draw.DotBody(seen, DType::kF32, draw.type(v).dtype, false)}, .args = {p, v}, .over = "g q t d"};
  loop.slices = {"g q t .", repeated ? "g q . d" : "g . d"};
  const ValueId o = dice.Chance(25) ? draw.Add(ops::Gemm{.a = p, .b = v}) : draw.Add(std::move(loop));
  const ValueId y = draw.Add(ops::MergeHeads{.x = o});
  if (!y.valid() || dice.Chance(40)) return y;
  const ValueId out = DrawLinear(draw, y, draw.type(x).dims[1]);
  return dice.Chance(70) ? draw.Add(ops::Add{.a = x, .b = out}) : out;
}

}  // namespace

ValueId DrawLinear(GraphDrawer& draw, ValueId x, const DimExpr& columns) {
  Dice& dice = draw.dice();
  if (!x.valid()) return x;
  const DimExpr k = draw.type(x).dims.back();
  Type type{dice.Chance(75) ? DType::kF32 : draw.Float(), {columns, k}};
  if (k.is_const() && k.constant() % 32 == 0 && dice.Chance(4))
    type.dtype = dice.Chance(50) ? DType::kQ8_0 : DType::kQ4_0;
  ValueId w = draw.Like(type);
  if (IsQuantized(type.dtype)) w = draw.Add(ops::Dequantize{.x = w}, {Type{DType::kF32, type.dims}});
  ValueId y = Dots(draw, x, w, "t n", "t .", "n .", true);
  if (y.valid() && dice.Chance(25)) {
    const ValueId bias = draw.Like({DType::kF32, {columns}});
    y = dice.Chance(50) ? draw.Add(ops::Add{.a = y, .b = bias}) : draw.Add(ops::Add{.a = bias, .b = y});
  }
  return y.valid() ? Activation(draw, y) : y;
}

ValueId DrawBlock(GraphDrawer& draw) {
  const int64_t form = draw.dice().Below(10);
  if (form < 4) return Attention(draw);
  if (form < 6) return Group(draw);
  if (form < 8) return WantedRows(draw);
  return DrawLinear(draw, Rows(draw), draw.Number());
}

}  // namespace sinter
