// Loops of dot products, gemm, and kernels, which name a body.
#include <algorithm>

#include "absl/strings/str_split.h"
#include "base/limits.h"
#include "base/status.h"
#include "ir/infer_util.h"

namespace sinter {
namespace {

std::vector<absl::string_view> Words(const std::string& text) { return absl::StrSplit(text, ' ', absl::SkipEmpty()); }

bool IsLetter(absl::string_view word) {
  return word.size() == 1 && ((word[0] >= 'a' && word[0] <= 'z') || (word[0] >= 'A' && word[0] <= 'Z'));
}

// Elementwise ops and constants, then one sum over all, which is what the body returns.
absl::Status CheckBody(const InferContext& ctx, const Graph& body) {
  if (limits::kBodyOps.Exceeded(body.order().size())) {
    return ctx.Error("body-legal", "the body @", body.name(), " has ", body.order().size(),
                     " ops: ", limits::kBodyOps.Text());
  }
  for (size_t i = 0; i < body.order().size(); ++i) {
    const OpDef& def = body.op(body.order()[i]).def();
    const bool last = i + 1 == body.order().size();
    const bool legal =
        last ? def.kind == OpKind::kSum : (def.traits & kElementwise) != 0 || def.kind == OpKind::kConstant;
    if (!legal) {
      return ctx.Error("body-legal", "expected elementwise ops and then one sum in the body @", body.name(), "; found ",
                       def.name, last ? " last" : " before the last op");
    }
  }
  if (body.order().empty() || body.results().size() != 1 ||
      body.results()[0] != body.op(body.order().back()).results[0] || body.type(body.results()[0]).dims != Dims{1}) {
    return ctx.Error("body-legal", "expected the body @", body.name(), " to return its sum, one element");
  }
  return absl::OkStatus();
}

// The dim that each letter of `over` names, in a list of equal length.
struct Letters {
  std::vector<absl::string_view> names;
  std::vector<std::optional<DimExpr>> dims;
};

// Checks one slice against its operand, fills in what its letters name, and returns the type that the body gets.
absl::StatusOr<Type> ReadSlice(const InferContext& ctx, ValueId arg, const std::string& slice, Letters& letters) {
  const Type& type = ctx.type(arg);
  const std::vector<absl::string_view> words = Words(slice);
  if (type.state || words.size() != type.dims.size()) {
    return Fail(ctx, 3, "expected a slice \"", slice, "\" with as many axes as its operand; found ", Show(ctx, arg));
  }
  std::optional<DimExpr> handed;
  for (size_t i = 0; i < words.size(); ++i) {
    if (std::count(words.begin(), words.end(), words[i]) > 1) {
      return Fail(ctx, 4, "expected each letter and `.` once in a slice; found \"", slice, "\"");
    }
    if (words[i] == ".") {
      handed = type.dims[i];
      continue;
    }
    const auto at = std::find(letters.names.begin(), letters.names.end(), words[i]);
    if (at == letters.names.end()) {
      return Fail(ctx, 5, "expected letters of `over` in the slice \"", slice, "\"; found \"", words[i], "\"");
    }
    std::optional<DimExpr>& dim = letters.dims[at - letters.names.begin()];
    if (dim && *dim != type.dims[i]) {
      return Fail(ctx, 6, "expected ", words[i], " to be ", Show(ctx, *dim), " everywhere; found ",
                  Show(ctx, type.dims[i]), " in ", Show(ctx, arg));
    }
    dim = type.dims[i];
  }
  if (IsQuantized(type.dtype) && words.back() != ".") {
    return Fail(ctx, 7, "expected the slice of a quantized operand to hand over its last axis; found \"", slice,
                "\" of ", Show(ctx, arg));
  }
  return Type{type.dtype, {handed.value_or(1)}};
}

// Constraint `first`: b has no more batch axes than a; the next one: each of them is that of a, from the first on,
// or 1.
absl::Status CheckBatch(const InferContext& ctx, int first, ValueId a, ValueId b) {
  const Dims &a_dims = ctx.type(a).dims, &b_dims = ctx.type(b).dims;
  const std::string& name = ctx.graph.value(b).name;
  if (b_dims.size() > a_dims.size()) {
    return Fail(ctx, first, "expected no more batch axes in %", name, " than in %", ctx.graph.value(a).name, "; found ",
                Show(ctx, a), " and ", Show(ctx, b));
  }
  for (size_t i = 0; i + 2 < b_dims.size(); ++i) {
    if (b_dims[i] != a_dims[i] && !b_dims[i].is_one()) {
      return Fail(ctx, first + 1, "expected batch axis ", i, " of %", name, " to be ", Show(ctx, a_dims[i]),
                  " or 1; found ", Show(ctx, b));
    }
  }
  return absl::OkStatus();
}

bool IsHeadWidth(const DimExpr& dim) { return dim.is_const() && !limits::kHeadWidth.Exceeded(dim.constant()); }

}  // namespace

absl::Status Infer(const ops::Loop& op, InferContext& ctx) {
  Letters letters{.names = Words(op.over), .dims = {}};
  letters.dims.resize(letters.names.size());
  const bool distinct = std::all_of(letters.names.begin(), letters.names.end(), [&](absl::string_view name) {
    return IsLetter(name) && std::count(letters.names.begin(), letters.names.end(), name) == 1;
  });
  if (letters.names.empty() || !distinct) {
    return Fail(ctx, 1, "expected distinct letters in `over`, separated by spaces; found \"", op.over, "\"");
  }
  const Graph& body = ctx.module.graph(op.body.id);
  if (op.slices.size() != op.args.size() || body.params().size() != op.args.size()) {
    return Fail(ctx, 2, "expected one slice and one parameter of @", body.name(), " for each operand; found ",
                op.args.size(), " operands, ", op.slices.size(), " slices and ", body.params().size(), " parameters");
  }
  for (size_t i = 0; i < op.args.size(); ++i) {
    SINTER_ASSIGN_OR_RETURN(const Type slice, ReadSlice(ctx, op.args[i], op.slices[i], letters));
    if (body.type(body.params()[i]) != slice) {
      return Fail(ctx, 8, "expected parameter ", i, " of @", body.name(), " to be ", Show(ctx, slice), "; found ",
                  Show(ctx, body.type(body.params()[i])));
    }
  }
  Type result;
  for (size_t i = 0; i < letters.names.size(); ++i) {
    if (!letters.dims[i]) {
      return Fail(ctx, 9, "expected a slice that names an axis ", letters.names[i], "; found none");
    }
    result.dims.push_back(*letters.dims[i]);
  }
  SINTER_RETURN_IF_ERROR(CheckBody(ctx, body));
  result.dtype = body.type(body.results()[0]).dtype;
  ctx.results.push_back(std::move(result));
  return absl::OkStatus();
}

absl::Status Infer(const ops::Gemm& op, InferContext& ctx) {
  const Type &a = ctx.type(op.a), &b = ctx.type(op.b);
  if (a.rank() < 2 || b.rank() < 2) {
    return Fail(ctx, 1, "expected two axes or more; found ", Show(ctx, op.a), " and ", Show(ctx, op.b));
  }
  if (!IsReal(a.dtype) && a.dtype != DType::kQ8_R) {
    return Fail(ctx, 2, "expected a of f32, f16, bf16 or q8_r; found ", Show(ctx, op.a));
  }
  if (!IsReal(b.dtype) && !IsQuantized(b.dtype)) {
    return Fail(ctx, 3, "expected b of f32, f16, bf16 or quantized; found ", Show(ctx, op.b));
  }
  if (IsQuantized(b.dtype) && !op.trans_b) {
    return Fail(ctx, 4, "expected trans_b=true, so that blocks lie along K; found a quantized ", Show(ctx, op.b));
  }
  if (a.dtype == DType::kQ8_R && (!IsQuantized(b.dtype) || op.trans_a)) {
    return Fail(ctx, 7, "expected rows of q8_r by a quantized b, and trans_a=false; found ", Show(ctx, op.a), " and ",
                Show(ctx, op.b));
  }
  const size_t batch = a.dims.size() - 2, b_batch = b.dims.size() - 2;
  const DimExpr &m = a.dims[batch + (op.trans_a ? 1 : 0)], &k = a.dims[batch + (op.trans_a ? 0 : 1)];
  const DimExpr &n = b.dims[b_batch + (op.trans_b ? 0 : 1)], &b_k = b.dims[b_batch + (op.trans_b ? 1 : 0)];
  if (k != b_k) {
    return Fail(ctx, 5, "expected the same K; found ", Show(ctx, k), " in ", Show(ctx, op.a), " and ", Show(ctx, b_k),
                " in ", Show(ctx, op.b));
  }
  SINTER_RETURN_IF_ERROR(CheckBatch(ctx, 6, op.a, op.b));
  Type result{DType::kF32, a.dims};
  result.dims[batch] = m;
  result.dims[batch + 1] = n;
  ctx.results.push_back(std::move(result));
  return absl::OkStatus();
}

namespace {

// Checks the operands of attention (attend, attend_parts) and gives the dims of its values: [..,T,E].
template <typename Op>
absl::StatusOr<Dims> AttendedDims(const Op& op, const InferContext& ctx) {
  const Type &q = ctx.type(op.q), &k = ctx.type(op.k), &v = ctx.type(op.v);
  if (q.rank() < 2 || k.rank() < 2 || v.rank() < 2) {
    return Fail(ctx, 1, "expected two axes or more; found ", Show(ctx, op.q), ", ", Show(ctx, op.k), " and ",
                Show(ctx, op.v));
  }
  if (q.dtype != DType::kF32) return Fail(ctx, 2, "expected q of f32; found ", Show(ctx, op.q));
  for (ValueId id : {op.k, op.v}) {
    if (!IsReal(ctx.type(id).dtype) && !IsQuantized(ctx.type(id).dtype)) {
      return Fail(ctx, 3, "expected f32, f16, bf16 or quantized; found ", Show(ctx, id));
    }
    SINTER_RETURN_IF_ERROR(CheckBatch(ctx, 4, op.q, id));
  }
  const DimExpr &positions = k.dims[k.dims.size() - 2], &width = v.dims.back();
  if (k.dims.back() != q.dims.back()) {
    return Fail(ctx, 6, "expected keys as wide as q; found ", Show(ctx, op.q), " and ", Show(ctx, op.k));
  }
  if (v.dims[v.dims.size() - 2] != positions) {
    return Fail(ctx, 7, "expected as many values as keys; found ", Show(ctx, op.k), " and ", Show(ctx, op.v));
  }
  if (!IsHeadWidth(q.dims.back()) || !IsHeadWidth(width)) {
    return Fail(ctx, 8, "expected heads of a fixed width of at most ", limits::kHeadWidth.most, "; found ",
                Show(ctx, op.q), " and ", Show(ctx, op.v));
  }
  Dims scores = q.dims;
  scores.back() = positions;
  if (op.mask.valid()) {
    const absl::StatusOr<Dims> dims = Broadcast(scores, ctx.type(op.mask).dims, ctx.dims());
    if (!dims.ok() || *dims != scores) {
      return Fail(ctx, 9, "expected a mask that broadcasts to ", Show(ctx, Type{DType::kBool, scores}), "; found ",
                  Show(ctx, op.mask));
    }
  }
  Dims result = q.dims;
  result.back() = width;
  return result;
}

}  // namespace

absl::Status Infer(const ops::Attend& op, InferContext& ctx) {
  SINTER_ASSIGN_OR_RETURN(Dims dims, AttendedDims(op, ctx));
  ctx.results.push_back({DType::kF32, std::move(dims)});
  return absl::OkStatus();
}

absl::Status Infer(const ops::AttendParts& op, InferContext& ctx) {
  SINTER_ASSIGN_OR_RETURN(Dims dims, AttendedDims(op, ctx));
  if (op.parts < 2 || limits::kContextParts.Exceeded(op.parts)) {
    return Fail(ctx, 10, "expected 2 to ", limits::kContextParts.most, " parts; found ", op.parts);
  }
  if (limits::kRank.Exceeded(dims.size() + 1)) {
    return Fail(ctx, 11, "expected less than ", limits::kRank.most, " axes; found ", Show(ctx, op.q));
  }
  dims.insert(dims.end() - 1, op.parts);
  const DimExpr width = dims.back();
  dims.pop_back();
  ctx.results.push_back({DType::kF32, dims});
  ctx.results.push_back({DType::kF32, dims});
  ctx.results[0].dims.push_back(width);
  return absl::OkStatus();
}

absl::Status Infer(const ops::JoinParts& op, InferContext& ctx) {
  const Type &x = ctx.type(op.x), &weight = ctx.type(op.weight);
  if (x.dtype != DType::kF32 || weight.dtype != DType::kF32 || x.rank() < 2 || !IsHeadWidth(x.dims.back())) {
    return Fail(ctx, 1, "expected f32 of two axes or more, the last of a fixed size of at most ",
                limits::kHeadWidth.most, "; found ", Show(ctx, op.x), " and ", Show(ctx, op.weight));
  }
  Type result = x;
  result.dims.pop_back();
  if (result.dims != weight.dims) {
    return Fail(ctx, 2, "expected a weight for each row of x; found ", Show(ctx, op.x), " and ", Show(ctx, op.weight));
  }
  result.dims.back() = x.dims.back();
  ctx.results.push_back(std::move(result));
  return absl::OkStatus();
}

absl::Status Infer(const ops::Kernel& op, InferContext& ctx) {
  const Graph& body = ctx.module.graph(op.body.id);
  if (op.args.size() != body.params().size()) {
    return Fail(ctx, 1, "expected ", body.params().size(), " operands, the parameters of @", body.name(), "; found ",
                op.args.size());
  }
  std::vector<const Type*> args;
  for (ValueId arg : op.args) args.push_back(&ctx.type(arg));
  const auto dims = CallDims(body, args);
  for (size_t i = 0; !dims && i < op.args.size(); ++i) {
    const Type& expected = body.type(body.params()[i]);
    if (*args[i] != expected) {
      return Fail(ctx, 2, "expected ", Show(ctx, expected), " for parameter ", i, " of @", body.name(), "; found ",
                  Show(ctx, op.args[i]));
    }
  }
  if (op.family.empty()) return Fail(ctx, 3, "expected the name of a kernel family; found \"\"");
  if (op.mode != "split" && op.mode != "replicated") {
    return Fail(ctx, 4, "expected mode \"split\" or \"replicated\"; found \"", op.mode, "\"");
  }
  for (ValueId result : body.results()) ctx.results.push_back(Substitute(body.type(result), *dims));
  return absl::OkStatus();
}

}  // namespace sinter
