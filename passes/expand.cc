#include "passes/expand.h"

#include <cfloat>
#include <cmath>
#include <limits>

#include "base/status.h"

namespace sinter {
namespace {

// Adds ops before one op, stopping at the first that fails.
class Writer {
 public:
  Writer(Graph& graph, OpId before) : graph_(graph), before_(before) {}

  template <typename Op>
  ValueId operator()(Op op) {
    AddOptions options;
    options.before = before_;
    return Take(graph_.Add(std::move(op), std::move(options)));
  }
  ValueId Const(double value) {
    AddOptions options;
    options.before = before_;
    options.declared = {Type{DType::kF32, {1}}};
    return Take(graph_.Add(ops::Constant{.values = {value}}, std::move(options)));
  }
  // In f32, in which fused ops compute: one of f16 has one rounding, at its end.
  ValueId Wide(ValueId x) { return As(DType::kF32, x); }
  ValueId As(DType dtype, ValueId x) {
    if (!x.valid() || graph_.type(x).dtype == dtype) return x;
    AddOptions options;
    options.before = before_;
    options.declared = {Type{dtype, graph_.type(x).dims}};
    return Take(graph_.Add(ops::Convert{x}, std::move(options)));
  }
  const absl::Status& status() const { return status_; }

 private:
  ValueId Take(absl::StatusOr<ValueId> value) {
    if (value.ok()) return *value;
    if (status_.ok()) status_ = value.status();
    return graph_.params().empty() ? ValueId::None() : graph_.params()[0];
  }
  Graph& graph_;
  OpId before_;
  absl::Status status_;
};

ValueId Expand(const ops::Softmax& op, Writer& w) {
  ValueId s = w.Wide(op.x);
  if (op.scale != 1.0) s = w(ops::Mul{s, w.Const(op.scale)});
  if (op.mask.valid()) s = w(ops::Select{op.mask, s, w.Const(-std::numeric_limits<double>::infinity())});
  // A row that is all -inf: its maximum is lifted to a finite number, every exp is 0, and so is 0 / the smallest normal
  // number. A product with the reciprocal is much cheaper than a quotient; neither overflows, as e <= 1.
  const ValueId m = w(ops::Maximum{w(ops::Max{.x = s}), w.Const(-FLT_MAX)});
  const ValueId e = w(ops::Exp{w(ops::Sub{s, m})});
  return w(ops::Mul{e, w(ops::Div{w.Const(1), w(ops::Maximum{w(ops::Sum{.x = e}), w.Const(FLT_MIN)})})});
}

ValueId Expand(const ops::LayerNorm& op, Writer& w) {
  const ValueId x = w.Wide(op.x), gamma = w.Wide(op.gamma), beta = w.Wide(op.beta);
  const ValueId d = w(ops::Sub{x, w(ops::Mean{.x = x})});
  const ValueId var = w(ops::Mean{.x = w(ops::Mul{d, d})});
  ValueId y = w(ops::Mul{d, w(ops::Rsqrt{w(ops::Add{var, w.Const(op.eps)})})});
  if (gamma.valid()) y = w(ops::Mul{y, gamma});
  return beta.valid() ? w(ops::Add{y, beta}) : y;
}

ValueId Expand(const ops::RmsNorm& op, Writer& w) {
  const ValueId x = w.Wide(op.x), gamma = w.Wide(op.gamma);
  const ValueId ms = w(ops::Mean{.x = w(ops::Mul{x, x})});
  const ValueId y = w(ops::Mul{x, w(ops::Rsqrt{w(ops::Add{ms, w.Const(op.eps)})})});
  return gamma.valid() ? w(ops::Mul{y, gamma}) : y;
}

ValueId Expand(const ops::Gelu& op, Writer& w) {
  const ValueId x = w.Wide(op.x);
  if (op.form == "erf") {
    const ValueId t = w(ops::Erf{w(ops::Mul{x, w.Const(std::sqrt(0.5))})});
    return w(ops::Mul{w(ops::Mul{x, w.Const(0.5)}), w(ops::Add{t, w.Const(1)})});
  }
  // (1 + tanh(z)) / 2 = 1 / (1 + exp(-2z)), which loses nothing where tanh is near -1.
  const ValueId cube = w(ops::Mul{w(ops::Mul{x, x}), x});
  const ValueId inner = w(ops::Add{x, w(ops::Mul{cube, w.Const(0.044715)})});
  const ValueId e = w(ops::Exp{w(ops::Mul{inner, w.Const(-2 * std::sqrt(2 / M_PI))})});
  return w(ops::Div{x, w(ops::Add{e, w.Const(1)})});
}

ValueId Expand(const ops::Swiglu& op, Writer& w) {
  const ValueId gate = w.Wide(op.gate);
  const ValueId e = w(ops::Exp{w(ops::Neg{gate})});
  return w(ops::Mul{w(ops::Div{gate, w(ops::Add{e, w.Const(1)})}), w.Wide(op.up)});
}

template <typename Op>
absl::Status TryExpand(Graph& graph, OpId id) {
  const auto op = graph.As<Op>(id);
  if (!op) return absl::OkStatus();
  Writer writer(graph, id);
  const ValueId value = writer.As(graph.type(graph.op(id).results[0]).dtype, Expand(*op, writer));
  SINTER_RETURN_IF_ERROR(writer.status());
  graph.ReplaceUses(graph.op(id).results[0], value);
  graph.Erase(id);
  return absl::OkStatus();
}

}  // namespace

absl::Status ExpandFusedOps(Graph& graph) {
  const std::vector<OpId> ops = graph.order();
  for (OpId id : ops) {
    const OpKind kind = graph.op(id).kind();
    if (kind == OpKind::kSoftmax) SINTER_RETURN_IF_ERROR(TryExpand<ops::Softmax>(graph, id));
    if (kind == OpKind::kLayerNorm) SINTER_RETURN_IF_ERROR(TryExpand<ops::LayerNorm>(graph, id));
    if (kind == OpKind::kRmsNorm) SINTER_RETURN_IF_ERROR(TryExpand<ops::RmsNorm>(graph, id));
    if (kind == OpKind::kGelu) SINTER_RETURN_IF_ERROR(TryExpand<ops::Gelu>(graph, id));
    if (kind == OpKind::kSwiglu) SINTER_RETURN_IF_ERROR(TryExpand<ops::Swiglu>(graph, id));
  }
  return absl::OkStatus();
}

}  // namespace sinter
