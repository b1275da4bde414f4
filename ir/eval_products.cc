// The meaning of loops, matrix products, attention and kernels.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/checked.h"
#include "base/status.h"
#include "ir/eval_internal.h"

namespace sinter {
namespace {

std::vector<absl::string_view> Letters(absl::string_view text) { return absl::StrSplit(text, ' ', absl::SkipEmpty()); }

std::vector<int64_t> RowMajorStrides(absl::Span<const int64_t> dims) {
  std::vector<int64_t> strides(dims.size());
  int64_t stride = 1;
  for (size_t i = dims.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= dims[i];
  }
  return strides;
}

// How an operand of a loop is cut: where its slice begins, by index letter, and how the slice steps.
struct Slicer {
  const Tensor* tensor = nullptr;
  std::vector<int64_t> letter_strides;  // by position in `over`; 0 for a letter that the operand does not have
  int64_t n = 1, stride = 0;            // the axis handed over

  void CopyTo(absl::Span<const int64_t> letters, Tensor& slice) const {
    int64_t at = 0;
    for (size_t i = 0; i < letters.size(); ++i) at += letters[i] * letter_strides[i];
    for (int64_t i = 0; i < n; ++i)
      slice.values[static_cast<size_t>(i)] = tensor->values[static_cast<size_t>(at + i * stride)];
  }
};

absl::StatusOr<Slicer> MakeSlicer(const Tensor& tensor, absl::string_view text,
                                  absl::Span<const absl::string_view> over, absl::Span<const int64_t> extents) {
  Slicer slicer{.tensor = &tensor, .letter_strides = std::vector<int64_t>(over.size())};
  const std::vector<absl::string_view> axes = Letters(text);
  const std::vector<int64_t> strides = RowMajorStrides(tensor.dims);
  if (axes.size() != tensor.dims.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("slice \"", text, "\" of an operand with ", tensor.dims.size(), " axes"));
  }
  for (size_t axis = 0; axis < axes.size(); ++axis) {
    if (axes[axis] == ".") {
      slicer.n = tensor.dims[axis];
      slicer.stride = strides[axis];
      continue;
    }
    const size_t letter = static_cast<size_t>(std::find(over.begin(), over.end(), axes[axis]) - over.begin());
    if (letter == over.size() || extents[letter] != tensor.dims[axis]) {
      return absl::InvalidArgumentError(
          absl::StrCat("slice \"", text, "\": axis ", axis, " does not follow the result"));
    }
    slicer.letter_strides[letter] += strides[axis];
  }
  return slicer;
}

// Advances an index over `dims`, the last one fastest.
void Increment(std::vector<int64_t>& index, absl::Span<const int64_t> dims) {
  for (size_t i = index.size(); i-- > 0;) {
    if (++index[i] < dims[i]) return;
    index[i] = 0;
  }
}

// The last two axes of an operand of a gemm, and its batch axes.
struct Matrix {
  const Tensor& tensor;
  int64_t rows, cols, row_stride, col_stride;

  Matrix(const Tensor& t, bool transposed) : tensor(t) {
    const size_t rank = t.dims.size();
    rows = t.dims[rank - 2], cols = t.dims[rank - 1], row_stride = cols, col_stride = 1;
    if (transposed) std::swap(rows, cols), std::swap(row_stride, col_stride);
  }
  absl::Span<const int64_t> batch() const { return absl::MakeConstSpan(tensor.dims).first(tensor.dims.size() - 2); }
  double At(int64_t matrix, int64_t row, int64_t col) const {
    return tensor.values[static_cast<size_t>(matrix * rows * cols + row * row_stride + col * col_stride)];
  }
  // Its matrix for matrix `index` of an operand with the batch axes `of`: its axes are the first of those, or 1.
  int64_t Serving(int64_t index, absl::Span<const int64_t> of) const {
    int64_t matrix = 0, stride = 1;
    for (size_t axis = of.size(); axis-- > 0; index /= of[axis]) {
      if (axis >= batch().size()) continue;
      if (batch()[axis] != 1) matrix += index % of[axis] * stride;
      stride *= batch()[axis];
    }
    return matrix;
  }
};

int64_t Product(absl::Span<const int64_t> dims) {
  int64_t product = 1;
  for (int64_t dim : dims) product *= dim;
  return product;
}

}  // namespace

absl::Status Eval(const ops::Loop& op, EvalContext& ctx) {
  const Graph& body = ctx.graph.module().graph(op.body.id);
  Tensor& out = ctx.results[0];
  const std::vector<absl::string_view> over = Letters(op.over);
  if (over.size() != out.dims.size() || op.slices.size() != op.args.size()) {
    return absl::InvalidArgumentError("the index letters do not follow the result and the operands");
  }
  std::vector<Slicer> slicers;
  for (size_t i = 0; i < op.args.size(); ++i) {
    SINTER_ASSIGN_OR_RETURN(Slicer slicer, MakeSlicer(ctx.tensor(op.args[i]), op.slices[i], over, out.dims));
    slicers.push_back(std::move(slicer));
  }

  EvalOptions options = ctx.options;
  options.observe = nullptr;
  GraphRunner runner(body, ctx.dims, options, /*once=*/false);
  SINTER_RETURN_IF_ERROR(runner.Prepare());
  runner.AllocateParams();
  for (size_t i = 0; i < slicers.size(); ++i) {
    if (runner.param(i).elems() != slicers[i].n) {
      return absl::InvalidArgumentError(absl::StrCat("the body's parameter ", i, " has ", runner.param(i).elems(),
                                                     " elements; its slice ", slicers[i].n));
    }
  }
  std::vector<int64_t> index(out.dims.size());
  for (double& element : out.values) {
    for (size_t i = 0; i < slicers.size(); ++i) slicers[i].CopyTo(index, runner.param(i));
    SINTER_RETURN_IF_ERROR(runner.Run());
    element = runner.result(0).values[0];
    Increment(index, out.dims);
  }
  return absl::OkStatus();
}

absl::Status Eval(const ops::Gemm& op, EvalContext& ctx) {
  const Matrix a(ctx.tensor(op.a), op.trans_a), b(ctx.tensor(op.b), op.trans_b);
  Tensor& out = ctx.results[0];
  size_t at = 0;
  for (int64_t batch = 0, batches = Product(a.batch()); batch < batches; ++batch) {
    const int64_t b_matrix = b.Serving(batch, a.batch());
    for (int64_t m = 0; m < a.rows; ++m) {
      for (int64_t n = 0; n < b.cols; ++n) {
        double sum = 0;
        for (int64_t k = 0; k < a.cols; ++k) sum += a.At(batch, m, k) * b.At(b_matrix, k, n);
        out.values[at++] = sum;
      }
    }
  }
  return absl::OkStatus();
}

namespace {

// Attention of one row over positions first .. end: the values into `out`, and the logarithm of the sum of exp(score).
// score(s) is nullopt where a position is masked; a score of -inf masks, too.
double AttendRow(int64_t first, int64_t end, absl::FunctionRef<std::optional<double>(int64_t)> score,
                 absl::FunctionRef<double(int64_t s, int64_t e)> value, absl::Span<double> out) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  std::vector<double> p;
  double max = -kInf, sum = 0;
  for (int64_t s = first; s < end; ++s) {
    p.push_back(score(s).value_or(-kInf));
    if (std::isnan(p.back()) || p.back() > max) max = p.back();  // a NaN stays
  }
  std::fill(out.begin(), out.end(), 0.0);
  if (max == -kInf) return -kInf;
  for (int64_t s = first; s < end; ++s) {
    const double weight = std::exp(p[static_cast<size_t>(s - first)] - max);
    sum += weight;
    for (size_t e = 0; e < out.size() && weight != 0; ++e) out[e] += weight * value(s, static_cast<int64_t>(e));
  }
  for (double& o : out) o /= sum;
  return max + std::log(sum);
}

// Over parts of `length` positions: [..,T,parts,E] into the first result, and the logarithms into the second if there
// is one.
template <typename Op>
absl::Status EvalAttention(const Op& op, int64_t parts, int64_t length, EvalContext& ctx) {
  const Matrix q(ctx.tensor(op.q), false), k(ctx.tensor(op.k), false), v(ctx.tensor(op.v), false);
  std::vector<int64_t> shape = ctx.tensor(op.q).dims;
  shape.back() = k.rows;
  std::optional<Broadcasted> mask;
  if (op.mask.valid()) mask.emplace(ctx.tensor(op.mask), shape);
  size_t row = 0;
  for (int64_t batch = 0, batches = Product(q.batch()); batch < batches; ++batch) {
    const int64_t keys = k.Serving(batch, q.batch()), values = v.Serving(batch, q.batch());
    for (int64_t t = 0; t < q.rows; ++t) {
      const auto score = [&](int64_t s) -> std::optional<double> {
        if (mask && (*mask)[(batch * q.rows + t) * k.rows + s] == 0) return std::nullopt;
        double dot = 0;
        for (int64_t d = 0; d < k.cols; ++d) dot += q.At(batch, t, d) * k.At(keys, s, d);
        return op.scale * dot;
      };
      const auto value = [&](int64_t s, int64_t e) { return v.At(values, s, e); };
      for (int64_t part = 0; part < parts; ++part, ++row) {
        const int64_t first = std::min(part * length, k.rows), end = std::min(first + length, k.rows);
        const auto width = static_cast<size_t>(v.cols);
        const absl::Span<double> out = absl::MakeSpan(ctx.results[0].values).subspan(row * width, width);
        const double weight = AttendRow(first, end, score, value, out);
        if (ctx.results.size() > 1) ctx.results[1].values[row] = weight;
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Eval(const ops::Attend& op, EvalContext& ctx) {
  return EvalAttention(op, 1, std::numeric_limits<int32_t>::max(), ctx);
}

absl::Status Eval(const ops::AttendParts& op, EvalContext& ctx) {
  const Tensor& k = ctx.tensor(op.k);
  const int64_t positions = k.dims[k.dims.size() - 2];
  return EvalAttention(op, op.parts, kPartStep * CeilDiv(positions, kPartStep * op.parts), ctx);
}

absl::Status Eval(const ops::JoinParts& op, EvalContext& ctx) {
  const Tensor &x = ctx.tensor(op.x), &weight = ctx.tensor(op.weight);
  const int64_t parts = weight.dims.back(), width = x.dims.back();
  std::vector<double>& out = ctx.results[0].values;
  const int64_t rows = Product(absl::MakeConstSpan(weight.dims).first(weight.dims.size() - 1));
  for (int64_t row = 0; row < rows; ++row) {
    const auto value = [&](int64_t p, int64_t e) {
      return x.values[static_cast<size_t>((row * parts + p) * width + e)];
    };
    AttendRow(
        0, parts, [&](int64_t p) { return weight.values[static_cast<size_t>(row * parts + p)]; }, value,
        absl::MakeSpan(out).subspan(static_cast<size_t>(row * width), static_cast<size_t>(width)));
  }
  return absl::OkStatus();
}

absl::Status Eval(const ops::Kernel& op, EvalContext& ctx) {
  EvalOptions options = ctx.options;
  options.observe = nullptr;
  std::vector<Tensor> args;
  for (const Tensor* operand : ctx.operands) args.push_back(*operand);
  const Graph& body = ctx.graph.module().graph(op.body.id);
  std::vector<const Type*> types;
  for (ValueId arg : op.args) types.push_back(&ctx.graph.type(arg));
  const auto call = CallDims(body, types);
  IdMap<DimId, int64_t> dims = ctx.dims;
  for (uint32_t i = 0; call && i < call->size() && i < dims.size(); ++i) {
    if ((*call)[DimId{i}].is_const()) dims[DimId{i}] = (*call)[DimId{i}].constant();
  }
  SINTER_ASSIGN_OR_RETURN(std::vector<Tensor> results, Evaluate(body, std::move(args), options, std::move(dims)));
  for (size_t i = 0; i < results.size(); ++i) ctx.results[i] = std::move(results[i]);
  return absl::OkStatus();
}

}  // namespace sinter
