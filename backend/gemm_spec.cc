// How products are read and cut. A grain is a block of rows by a block of columns of one batch index.
#include <algorithm>

#include "backend/body_reader.h"
#include "backend/packed_blocks.h"
#include "base/status.h"
#include "ir/quant.h"

namespace sinter {

int64_t GemmSpec::k_block(int64_t columns) const {
  constexpr int64_t kPanelBytes = 512 << 10;  // half of the second-level cache of most CPUs
  if (shape != TileShape::kOuter || packing == nullptr || packing->blocks || !k.is_const()) return 0;
  const int64_t blocks = CeilDiv(k.constant() * ElemBytes(b.dtype, columns), kPanelBytes);
  return blocks > 1 ? AlignUp(CeilDiv(k.constant(), blocks), packing->depth) : 0;
}

namespace {

constexpr int64_t kNarrowBlock = 48;  // columns of a grain, where those of all others leave a rest

class GemmBuilder final : BodyReader {
 public:
  using BodyReader::BodyReader;

  absl::StatusOr<KernelSpec> Build(OpId id) {
    const ops::Gemm gemm = *body_.As<ops::Gemm>(id);
    const ValueId product = body_.op(id).results[0];
    const Dims& dims = body_.type(product).dims;
    batch_ = dims.size() - 2;
    spec_.batch.assign(dims.begin(), dims.end() - 2);
    spec_.m = dims[batch_];
    spec_.n = dims[batch_ + 1];
    SINTER_RETURN_IF_ERROR(ReadA(gemm));
    SINTER_RETURN_IF_ERROR(ReadB(gemm));
    SINTER_RETURN_IF_ERROR(StoreC(product));
    SINTER_RETURN_IF_ERROR(CheckBlocks());
    SINTER_RETURN_IF_ERROR(ChooseShape());
    KernelSpec kernel;
    kernel.family = "gemm";
    kernel.body = &body_;
    Cut(kernel);
    kernel.gemm = std::move(spec_);
    return kernel;
  }

 private:
  absl::Status ReadA(const ops::Gemm& gemm) {
    SINTER_ASSIGN_OR_RETURN(spec_.a, AccessOf(gemm.a));
    const Dims& dims = body_.type(gemm.a).dims;
    spec_.k = dims[batch_ + (gemm.trans_a ? 0 : 1)];
    if (gemm.trans_a) std::swap(spec_.a.strides[batch_], spec_.a.strides[batch_ + 1]);
    for (size_t i = 0; i < batch_; ++i) {
      if (dims[i].is_one()) spec_.a.strides[i] = 0;
    }
    return absl::OkStatus();
  }

  absl::Status ReadB(const ops::Gemm& gemm) {
    std::vector<DimExpr> strides(batch_ + 2, DimExpr(0));
    if (const absl::string_view pack = PackOf(gemm.b); !pack.empty()) {
      SINTER_ASSIGN_OR_RETURN(spec_.packing, FindPacking(pack));
      if (spec_.packing->k_major == gemm.trans_b) return No("a weight packed for the other transposition");
      if (spec_.packing->blocks != (FindQuantFormat(body_.type(gemm.b).dtype) != nullptr)) {
        return No(absl::StrCat("a weight of ", Info(body_.type(gemm.b).dtype).name, " packed as ", pack));
      }
      if (spec_.packing->depth == 2 && !(spec_.a.dtype == DType::kBF16 && spec_.a.strides[batch_ + 1].is_one())) {
        return No("a weight packed in pairs for rows that are no pairs of bf16");
      }
      spec_.b = Access{*OperandOf(gemm.b), body_.type(gemm.b).dtype, false, 0, std::move(strides), {}};
      return absl::OkStatus();
    }
    SINTER_ASSIGN_OR_RETURN(spec_.b, AccessOf(gemm.b));
    const Dims& dims = body_.type(gemm.b).dims;
    std::vector<DimExpr>& own = spec_.b.strides;
    if (gemm.trans_b) std::swap(own[own.size() - 2], own[own.size() - 1]);
    // Batch axes of b align with those of a from the first on.
    for (size_t i = 0; i + 2 < own.size(); ++i) strides[i] = dims[i].is_one() ? DimExpr(0) : own[i];
    strides[batch_] = own[own.size() - 2];
    strides[batch_ + 1] = own[own.size() - 1];
    own = std::move(strides);
    return absl::OkStatus();
  }

  absl::Status StoreC(ValueId product) {
    const ValueId result = body_.results()[0];
    const Dims& dims = body_.type(product).dims;
    std::vector<DimExpr> store = DenseStrides(dims);
    if (auto merge = body_.DefAs<ops::MergeHeads>(result); merge && merge->x == product) {
      store = MergedStrides(dims);
    } else if (result != product) {
      return No("ops after a product");
    }
    spec_.c = Access{ResultOperand(), body_.type(result).dtype, false, 0, std::move(store), {}};
    return absl::OkStatus();
  }

  bool InBlocks() const { return spec_.packing != nullptr && spec_.packing->blocks; }

  absl::Status CheckBlocks() const {
    const auto& [rows, along] = std::pair(spec_.a.strides[batch_], spec_.a.strides[batch_ + 1]);
    if (InBlocks()) {
      const bool chunks = along.is_one() && !rows.DivideExactly(PackedBlocks::kChunk).poisoned();
      return chunks ? absl::OkStatus() : No("rows for a weight in blocks that do not lie along k, whole chunks apart");
    }
    if (IsQuantized(spec_.b.dtype)) return No("a product with a quantized matrix that is no packed weight");
    if (spec_.a.dtype == DType::kQ8_R) return No("rows of q8_r without a packed weight in blocks");
    return absl::OkStatus();
  }

  absl::Status ChooseShape() {
    const bool packed = spec_.packing != nullptr, one = spec_.m.is_one();
    const bool few = packed && body_.module().dims.Max(spec_.m) <= kFewRows;
    if (InBlocks()) {
      const int bits = FindQuantFormat(spec_.b.dtype)->bits;
      const bool tight = bits == 5 || bits == 6 || spec_.a.dtype != DType::kQ8_R;
      spec_.shape = one     ? (tight ? TileShape::kBlocksTightGemv : TileShape::kBlocksGemv)
                    : few   ? TileShape::kBlocksFew
                    : tight ? TileShape::kBlocksTight
                            : TileShape::kBlocks;
    } else if (packed || spec_.b.strides[batch_ + 1].is_one()) {
      spec_.shape = one ? TileShape::kGemv : few ? TileShape::kFew : TileShape::kOuter;
    } else if (spec_.b.strides[batch_].is_one() && spec_.a.strides[batch_ + 1].is_one()) {
      spec_.shape = TileShape::kDot;
    } else {
      return No("a product whose second matrix is contiguous along neither axis");
    }
    return absl::OkStatus();
  }

  void Cut(KernelSpec& kernel) {
    // Equal blocks of columns, so that threads finish together.
    const DimExpr& n = spec_.n;
    if (!InBlocks() && n.is_const() && n.constant() % spec_.n_block != 0 && n.constant() % kNarrowBlock == 0)
      spec_.n_block = kNarrowBlock;
    // Sums that registers do not hold, of a tile or, between blocks of k, of a grain's rows; on any target.
    for (const Target& target : AllTargets()) {
      const Tile tile = TileFor(target, spec_.shape);
      const int64_t rows = InBlocks() ? tile.rows : spec_.k_block(tile.columns) > 0 ? spec_.m_block : 0;
      kernel.scratch_bytes = std::max<int64_t>(kernel.scratch_bytes, rows * tile.columns * int64_t{sizeof(float)});
    }
    for (const DimExpr& d : spec_.batch) kernel.extent.push_back({d, 1});
    // Grains run down the rows: threads share out the columns, so that each reads its panels of b once.
    kernel.extent.push_back({spec_.m, spec_.m_block, true});
    kernel.extent.push_back({spec_.n, spec_.n_block});
  }

  size_t batch_ = 0;  // axes before the last two
  GemmSpec spec_;
};

}  // namespace

absl::StatusOr<KernelSpec> GemmSpecOf(const Graph& body, OpId gemm, absl::Span<const std::string> packs) {
  return GemmBuilder(body, packs).Build(gemm);
}

}  // namespace sinter
