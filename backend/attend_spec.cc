// How attention is cut. A grain is some heads that share their keys (all that do, up to 32) by some rows, 32 queries at
// most, and of attend_parts one part. Every tile of positions that any of them sees passes through it once.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/body_reader.h"
#include "base/status.h"

namespace sinter {
namespace {

// From this many queries of one row on, queries fill the lanes well: eight are 1.4 times as fast along their width,
// where no lane is empty, and more would not leave AVX2 the registers for that.
constexpr int64_t kWideQueries = 9;

class AttendBuilder final : BodyReader {
 public:
  using BodyReader::BodyReader;

  absl::StatusOr<KernelSpec> Build(OpId id) {
    if (const auto join = body_.As<ops::JoinParts>(id)) return Join(*join, id);
    const auto parts = body_.As<ops::AttendParts>(id);
    return parts ? Attend(*parts, id, parts->parts) : Attend(*body_.As<ops::Attend>(id), id, 0);
  }

 private:
  KernelSpec NewKernel() const {
    KernelSpec kernel;
    kernel.family = "attend";
    kernel.body = &body_;
    kernel.attend.emplace();
    return kernel;
  }

  template <typename Op>
  absl::StatusOr<KernelSpec> Attend(const Op& op, OpId id, int64_t parts) {
    KernelSpec kernel = NewKernel();
    AttendSpec& spec = *kernel.attend;
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

    const bool shared = batch > 0 && spec.batch.back().is_const() && spec.k.strides[batch - 1] == DimExpr(0) &&
                        spec.v.strides[batch - 1] == DimExpr(0);
    if (shared) spec.heads = std::clamp<int64_t>(spec.batch.back().constant(), 1, AttendSpec::kMaxQueries);
    spec.rows = std::clamp<int64_t>(body_.module().dims.Max(spec.t), 1, AttendSpec::kMaxQueries / spec.heads);
    spec.wide = spec.rows > 1 || spec.heads >= kWideQueries;
    if (parts == 0) {
      SINTER_RETURN_IF_ERROR(Store(result, spec));
    } else {
      SINTER_RETURN_IF_ERROR(StoreParts(id, parts, spec));
    }
    for (size_t i = 0; i < spec.batch.size(); ++i) {
      kernel.extent.push_back({spec.batch[i], i + 1 == spec.batch.size() && batch > 0 ? spec.heads : 1});
    }
    kernel.extent.push_back({spec.t, spec.rows});
    kernel.scratch_bytes = spec.scratch_floats() * int64_t{sizeof(float)};
    return kernel;
  }

  // Each row of the result is attention of one row over the parts, whose scores are given: the rows are batch axes.
  absl::StatusOr<KernelSpec> Join(const ops::JoinParts& op, OpId id) {
    KernelSpec kernel = NewKernel();
    AttendSpec& spec = *kernel.attend;
    const Dims& x = body_.type(op.x).dims;
    const size_t batch = x.size() - 2;
    spec.batch.assign(x.begin(), x.begin() + static_cast<int64_t>(batch));
    spec.t = 1;
    spec.s = x[batch];
    spec.key_width = 1;
    spec.value_width = x.back().constant();
    spec.has_scores = true;
    SINTER_ASSIGN_OR_RETURN(spec.v, MatrixOf(op.x, batch));
    SINTER_ASSIGN_OR_RETURN(spec.k, AccessOf(op.weight, batch + 2, 1));
    if (spec.k.strides[batch + 1] != DimExpr(1) && !spec.s.is_one()) return No("weights that are not neighbours");
    std::swap(spec.k.strides[batch], spec.k.strides[batch + 1]);
    SINTER_RETURN_IF_ERROR(Store(body_.op(id).results[0], spec));
    spec.out.strides.insert(spec.out.strides.end() - 1, DimExpr(0));
    for (const DimExpr& dim : spec.batch) kernel.extent.push_back({dim, 1});
    kernel.extent.push_back({spec.t, 1});
    kernel.scratch_bytes = spec.scratch_floats() * int64_t{sizeof(float)};
    return kernel;
  }

  // The same over `rank` axes: those of the value are the first ones, but for its last `kept`, which are the last ones.
  absl::StatusOr<Access> AccessOf(ValueId value, size_t rank, size_t kept) const {
    SINTER_ASSIGN_OR_RETURN(Access access, BodyReader::AccessOf(value));
    if (IsQuantized(access.dtype) && !(access.dtype == DType::kQ8_0 && access.state)) {
      return No(absl::StrCat("keys or values of type ", Info(access.dtype).name, " outside a cache"));
    }
    const Dims& dims = body_.type(value).dims;
    const std::vector<DimExpr> own = std::exchange(access.strides, std::vector<DimExpr>(rank, DimExpr(0)));
    for (size_t i = 0; i < dims.size(); ++i) {
      if (!dims[i].is_one()) access.strides[i + kept < dims.size() ? i : rank - dims.size() + i] = own[i];
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
      strides = MergedStrides(dims);
    } else if (made != product || (!quantize && !IsReal(body_.type(result).dtype))) {
      return No("ops after attention");
    }
    if (quantize && spec.value_width % Info(DType::kQ8_R).block_elems != 0) {
      return No("heads that are no whole blocks of quantized rows");
    }
    spec.out = Access{ResultOperand(), body_.type(result).dtype, false, 0, std::move(strides), {}};
    return absl::OkStatus();
  }

  // [..,T,parts,E] and [..,T,parts], as they are: the parts become the first axis of all.
  absl::Status StoreParts(OpId id, int64_t parts, AttendSpec& spec) const {
    const auto& results = body_.op(id).results;
    if (body_.results().size() != 2 || body_.results()[0] != results[0] || body_.results()[1] != results[1]) {
      return No("ops after attention to parts");
    }
    const auto access = [&](uint32_t result, size_t axis) {
      std::vector<DimExpr> strides = DenseStrides(body_.type(results[result]).dims);
      std::rotate(strides.begin(), strides.begin() + static_cast<int64_t>(axis),
                  strides.begin() + static_cast<int64_t>(axis) + 1);
      return Access{ResultOperand() + result, DType::kF32, false, 0, std::move(strides), {}};
    };
    const size_t axis = spec.batch.size() + 1;
    spec.out = access(0, axis);
    spec.weight = access(1, axis);
    spec.batch.insert(spec.batch.begin(), parts);
    for (Access* read : {&spec.q, &spec.k, &spec.v}) read->strides.insert(read->strides.begin(), 0);
    for (auto* read : {&spec.pos, &spec.mask}) {
      if (*read) (*read)->strides.insert((*read)->strides.begin(), 0);
    }
    return absl::OkStatus();
  }
};

}  // namespace

absl::StatusOr<KernelSpec> AttendSpecOf(const Graph& body, OpId attend, absl::Span<const std::string> packs) {
  return AttendBuilder(body, packs).Build(attend);
}

}  // namespace sinter
