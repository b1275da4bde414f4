#include "ir/infer.h"

#include <algorithm>
#include <cmath>

#include "base/limits.h"
#include "base/status.h"
#include "ir/infer_util.h"

namespace sinter {
namespace {

template <typename Op>
absl::Status InferAs(InferContext& ctx) {
  return Infer(Unpack<Op>(ctx.op.fields), ctx);
}

constexpr absl::Status (*kInfer[])(InferContext&) = {
#define OP(cls, mnemonic, fields, results, traits, stages, doc) InferAs<ops::cls>,
#include "ir/ops.inc"
#undef OP
};

// By OperandClass.
constexpr bool (*kAccepts[])(const Type&) = {
    [](const Type& t) { return !t.state; },
    [](const Type& t) { return !t.state && IsFloat(t.dtype); },
    [](const Type& t) { return !t.state && IsInt(t.dtype); },
    [](const Type& t) { return !t.state && (IsFloat(t.dtype) || IsInt(t.dtype)); },
    [](const Type& t) { return !t.state && t.dtype == DType::kBool; },
    [](const Type& t) { return t.state; },
};

absl::Status CheckOperands(const InferContext& ctx) {
  const OpDef& def = ctx.op.def();
  const auto& operands = ctx.op.fields.operands;
  const bool list = !def.operands.empty() && def.operands.back().list;
  if (operands.size() > def.operands.size() && !list) {
    return ctx.Error("operand-count", def.name, ": expected at most ", def.operands.size(), " operands; found ",
                     operands.size());
  }
  for (size_t i = 0; i < std::max(operands.size(), def.operands.size()); ++i) {
    const OperandDef& row = def.operands[std::min(i, def.operands.size() - 1)];
    if (i >= operands.size() || !operands[i].valid()) {
      if (row.optional || (row.list && i >= operands.size())) continue;
      return ctx.Error("operand-count", def.name, ": expected operand ", row.name, "; found none");
    }
    if (operands[i].value >= ctx.graph.num_values()) {
      return ctx.Error("operand-count", def.name, ": operand ", row.name, " is no value of this graph");
    }
    const OpId source = ctx.graph.value(operands[i]).def;
    if (source.valid() && ctx.graph.op(source).erased) {
      return ctx.Error("operand-count", def.name, ": operand ", row.name, " is the result of an op that was erased");
    }
    // A list takes states too, the operands of a kernel; Infer of the op says more.
    if (!row.list && !kAccepts[static_cast<size_t>(row.cls)](ctx.type(operands[i]))) {
      return ctx.Error("operand-class", def.name, ": expected ", OperandClassName(row.cls), " for operand ", row.name,
                       "; found ", Show(ctx, operands[i]));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckAttrs(const InferContext& ctx) {
  const OpDef& def = ctx.op.def();
  const auto& attrs = ctx.op.fields.attrs;
  if (attrs.size() != def.attrs.size()) {
    return ctx.Error("attributes", def.name, ": expected ", def.attrs.size(), " attributes; found ", attrs.size());
  }
  for (size_t i = 0; i < attrs.size(); ++i) {
    const absl::string_view name = def.attrs[i].name;
    if (attrs[i].index() != def.attrs[i].default_value.index()) {
      return ctx.Error("attributes", def.name, ": expected ", AttrTypeName(def.attrs[i].default_value), " for ", name,
                       "; found ", AttrTypeName(attrs[i]));
    }
    const auto* number = std::get_if<double>(&attrs[i]);
    if (number != nullptr && !std::isfinite(RoundTo(DType::kF32, *number))) {  // in which kernels compute
      return ctx.Error("attributes", def.name, ": expected a finite number of f32 for ", name, "; found ", *number);
    }
    const auto* dim = std::get_if<DimExpr>(&attrs[i]);
    if (dim != nullptr && dim->poisoned()) {
      return ctx.Error("attributes", def.name, ": ", name, " overflows 64 bits");
    }
    const auto* graph = std::get_if<GraphRef>(&attrs[i]);
    if (graph != nullptr && !ctx.module.HasGraph(graph->id)) {
      return ctx.Error("attributes", def.name, ": expected a graph of this module for ", name, "; found none");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckType(const InferContext& ctx, const Type& type) {
  if (type.rank() < 1 || limits::kRank.Exceeded(type.rank())) {
    return ctx.Error("type", "expected 1 to ", limits::kRank.most, " axes; found ", Show(ctx, type));
  }
  const absl::StatusOr<int64_t> bytes = MaxBytes(type, ctx.dims());
  return bytes.ok() ? absl::OkStatus() : ctx.Error("type", bytes.status().message());
}

absl::Status CheckResults(const InferContext& ctx) {
  const OpDef& def = ctx.op.def();
  for (const Type& type : ctx.results) SINTER_RETURN_IF_ERROR(CheckType(ctx, type));
  if (ctx.declared.empty()) return absl::OkStatus();
  if (ctx.declared.size() != ctx.results.size()) {
    return ctx.Error("result-type", def.name, ": expected ", ctx.results.size(), " results; found ",
                     ctx.declared.size());
  }
  for (size_t i = 0; i < ctx.results.size(); ++i) {
    if (ctx.declared[i] == ctx.results[i]) continue;
    return ctx.Error("result-type", def.name, ": expected ", Show(ctx, ctx.results[i]), " for result ", i, "; found ",
                     Show(ctx, ctx.declared[i]));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Type>> InferOp(const Graph& graph, const OpData& op, absl::Span<const Type> declared) {
  InferContext ctx{graph.module(), graph, op, declared, {}};
  SINTER_RETURN_IF_ERROR(CheckOperands(ctx));
  SINTER_RETURN_IF_ERROR(CheckAttrs(ctx));
  const OpDef& def = op.def();
  if ((def.traits & kDeclared) != 0 && def.results >= 0) {
    if (declared.size() != static_cast<size_t>(def.results)) {
      return ctx.Error("result-type", def.name, ": expected ", def.results, " declared result types; found ",
                       declared.size());
    }
    // Checked before Infer computes with them.
    for (const Type& type : declared) {
      SINTER_RETURN_IF_ERROR(CheckType(ctx, type));
      if (type.state) return ctx.Error("result-type", def.name, ": expected a tensor; found ", Show(ctx, type));
    }
  }
  SINTER_RETURN_IF_ERROR(kInfer[static_cast<size_t>(op.kind())](ctx));
  SINTER_RETURN_IF_ERROR(CheckResults(ctx));
  return std::move(ctx.results);
}

}  // namespace sinter
