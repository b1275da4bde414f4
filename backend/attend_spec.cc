// How attention is cut. A grain is some heads that share their keys (all that do, up to 32) by some rows, 32 queries at
// most. Every tile of positions that any of them sees passes through it once.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "backend/kernel_spec.h"
#include "base/status.h"

namespace sinter {
namespace {

// From this many queries of one row on, queries fill the lanes well: eight are 1.4 times as fast along their width,
// where no lane is empty, and more would not leave AVX2 the registers for that.
constexpr int64_t kWideQueries = 9;

class AttendBuilder {
 public:
  AttendBuilder(const Graph& body, absl::Span<const std::string> packs) : body_(body), packs_(packs) {}

  absl::StatusOr<KernelSpec> Build(OpId id) {
    KernelSpec kernel;
    kernel.family = "attend";
    kernel.body = &body_;
    AttendSpec& spec = kernel.attend.emplace();
    const ops::Attend op = *body_.As<ops::Attend>(id);
    const ValueId result = body_.op(id).results[0];
    const Dims &q = body_.type(op.q).dims, &v = body_.type(op.v).dims;
    const size_t batch = q.size() - 2;
    spec.batch.assign(q.begin(), q.begin() + static_cast<int64_t>(batch));
    spec.t = q[batch];
    spec.s = v[v.size() - 2];
    spec.key_width = q.back().constant();
    spec.value_width = v.back().constant();
    spec.scale = op.scale;
    SINTER_ASSIGN_OR_RETURN(spec.q, MatrixOf(op.q, batch));
    SINTER_ASSIGN_OR_RETURN(spec.k, MatrixOf(op.k, batch));
    SINTER_ASSIGN_OR_RETURN(spec.v, MatrixOf(op.v, batch));
    SINTER_RETURN_IF_ERROR(Mask(op.mask, batch, spec));
    SINTER_RETURN_IF_ERROR(Store(result, spec));

    const bool shared = batch > 0 && spec.batch.back().is_const() && spec.k.strides[batch - 1] == DimExpr(0) &&
                        spec.v.strides[batch - 1] == DimExpr(0);
    if (shared) spec.heads = std::clamp<int64_t>(spec.batch.back().constant(), 1, AttendSpec::kMaxQueries);
    spec.rows = std::clamp<int64_t>(body_.module().dims.Max(spec.t), 1, AttendSpec::kMaxQueries / spec.heads);
    spec.wide = spec.rows > 1 || spec.heads >= kWideQueries;
    for (size_t i = 0; i < batch; ++i) kernel.extent.push_back({spec.batch[i], i + 1 == batch ? spec.heads : 1});
    kernel.extent.push_back({spec.t, spec.rows});
    kernel.scratch_bytes = spec.scratch_floats() * int64_t{sizeof(float)};
    return kernel;
  }

 private:
  absl::Status No(absl::string_view what) const {
    return absl::UnimplementedError(absl::StrCat("no kernel for @", body_.name(), ": ", what));
  }

  // A look at a parameter over `rank` axes: those of the value are the first ones, but for its last `kept`, which are
  // the last ones.
  absl::StatusOr<Access> AccessOf(ValueId value, size_t rank, size_t kept) const {
    const std::optional<View> view = ResolveView(body_, value);
    if (!view) return No("a view that strides cannot express");
    const auto param = std::find(body_.params().begin(), body_.params().end(), view->base);
    if (param == body_.params().end())
      return No(absl::StrCat("a view of the computed value %", body_.value(view->base).name));
    const auto operand = static_cast<uint32_t>(param - body_.params().begin());
    if (!packs_.empty() && !packs_[operand].empty()) return No("a packed weight outside a product");
    const Type& type = body_.type(value);
    if (IsQuantized(type.dtype) && !(type.dtype == DType::kQ8_0 && body_.type(view->base).state)) {
      return No(absl::StrCat("keys or values of type ", Info(type.dtype).name, " outside a cache"));
    }
    Access access{
        operand, type.dtype, body_.type(view->base).state, view->offset, std::vector<DimExpr>(rank, DimExpr(0)), {}};
    const size_t own = type.dims.size();
    for (size_t i = 0; i < own; ++i) {
      if (!type.dims[i].is_one()) access.strides[i + kept < own ? i : rank - own + i] = view->strides[i];
    }
    return access;
  }

  // Of q, k or v: batch axes from the first on, then rows and width.
  absl::StatusOr<Access> MatrixOf(ValueId value, size_t batch) const {
    SINTER_ASSIGN_OR_RETURN(Access access, AccessOf(value, batch + 2, 2));
    const bool along = access.strides.back().is_one() || body_.type(value).dims.back().is_one();
    if (!along) return No("attention of rows whose elements are not neighbours");
    access.strides.back() = 1;
    return access;
  }

  absl::Status Mask(ValueId mask, size_t batch, AttendSpec& spec) const {
    if (!mask.valid()) return absl::OkStatus();
    if (const auto causal = body_.DefAs<ops::CausalMask>(mask)) {
      const bool one_position = body_.type(mask).dims.back().is_one() && !spec.s.is_one();
      if (one_position) return No("a causal mask of one position that serves several");
      SINTER_ASSIGN_OR_RETURN(spec.pos, AccessOf(causal->pos, batch + 1, 1));
      return absl::OkStatus();
    }
    const size_t rank = body_.type(mask).dims.size();  // it aligns at the last axis
    SINTER_ASSIGN_OR_RETURN(spec.mask, AccessOf(mask, batch + 2, rank));
    const DimExpr& stride = spec.mask->strides.back();
    return stride.is_one() || stride == DimExpr(0) ? absl::OkStatus() : No("masks along a strided axis");
  }

  absl::Status Store(ValueId product, AttendSpec& spec) const {
    Dims dims = body_.type(product).dims;
    const ValueId result = body_.results().size() == 1 ? body_.results()[0] : ValueId::None();
    const auto convert = result.valid() ? body_.DefAs<ops::Convert>(result) : std::nullopt;
    const auto quantize = result.valid() ? body_.DefAs<ops::Quantize>(result) : std::nullopt;
    const ValueId made = convert ? convert->x : quantize ? quantize->x : result;
    std::vector<DimExpr> strides = DenseStrides(dims);
    if (const auto merge = made.valid() ? body_.DefAs<ops::MergeHeads>(made) : std::nullopt;
        merge && merge->x == product) {
      strides = {dims[1] * dims[3], dims[3], dims[0] * dims[1] * dims[3], 1};
    } else if (made != product || (!quantize && !IsReal(body_.type(result).dtype))) {
      return No("ops after attention");
    }
    if (quantize && spec.value_width % Info(DType::kQ8_R).block_elems != 0) {
      return No("heads that are no whole blocks of quantized rows");
    }
    const auto operand = static_cast<uint32_t>(body_.params().size());
    spec.out = Access{operand, body_.type(result).dtype, false, 0, std::move(strides), {}};
    return absl::OkStatus();
  }

  const Graph& body_;
  absl::Span<const std::string> packs_;
};

}  // namespace

absl::StatusOr<KernelSpec> AttendSpecOf(const Graph& body, OpId attend, absl::Span<const std::string> packs) {
  return AttendBuilder(body, packs).Build(attend);
}

}  // namespace sinter
