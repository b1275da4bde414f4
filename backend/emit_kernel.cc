// A kernel from the parts of its spec, and the code generator that emitters and LLVM make together.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "backend/codegen.h"
#include "backend/emit.h"
#include "backend/object.h"
#include "base/status.h"

namespace sinter {
namespace {

absl::Status EmitPart(const KernelSpec& part, VectorBuilder& b) {
  if (part.row) EmitRows(part, b);
  if (part.attend) EmitAttend(part, b);
  if (!part.gemm) return absl::OkStatus();
  SINTER_ASSIGN_OR_RETURN(const Tile tile, ParseTile(part.tiles, b.target()));
  // Shapes of one kind differ in how many rows they take, dot in the axis along which B must be contiguous.
  if ((tile.shape == TileShape::kDot) != (part.gemm->shape == TileShape::kDot) ||
      TakesBlocks(tile.shape) != TakesBlocks(part.gemm->shape)) {
    return absl::InvalidArgumentError(absl::StrCat("@", part.body->name(), ": a tile of shape ",
                                                   TileShapeName(tile.shape), " for a product of shape ",
                                                   TileShapeName(part.gemm->shape)));
  }
  EmitGemm(part, tile, b);
  return absl::OkStatus();
}

// Whether the parts of a lane follow one another grain by grain, so that what follows a product of many rows finds it
// in the cache. Of few rows it is there anyway, and weights are better read on and on.
bool GoesByGrain(absl::Span<const KernelSpec> lane) {
  const auto has_many_rows = [](const KernelSpec& part) {
    return part.gemm && (part.gemm->shape == TileShape::kOuter || part.gemm->shape == TileShape::kBlocks ||
                         part.gemm->shape == TileShape::kBlocksTight);
  };
  return lane.size() > 1 && std::any_of(lane.begin(), lane.end(), has_many_rows);
}

}  // namespace

absl::Status EmitKernel(const PlannedKernel& kernel, const Target& target, const DimTable& dims, Emitted& out) {
  VectorBuilder b(out, target, kernel.symbol, dims);
  const absl::Span<const KernelSpec> parts = PartsOf(kernel.spec);
  const Int begin = b.Begin(), end = b.End();
  Int first = b.Const(0);  // grain of the lane
  absl::Status status;
  for (size_t i = 0, next = 0; i < parts.size(); i = next) {
    while (next < parts.size() && parts[next].lane == parts[i].lane) ++next;
    const absl::Span<const KernelSpec> lane = parts.subspan(i, next - i);
    if (parts.back().lane > 0) {
      const Int grains = GrainsOf(b, lane[0]);
      const Int from = b.Max(b.Sub(begin, first), b.Const(0));
      b.SetGrains(from, b.Max(from, b.Min(b.Sub(end, first), grains)));  // of a lane before or behind, none
      first = b.Add(first, grains);
    }
    const auto emit = [&] {
      for (const KernelSpec& part : lane) status.Update(EmitPart(part, b));
    };
    if (!GoesByGrain(lane)) {
      emit();
      continue;
    }
    b.For(b.Begin(), b.End(), 1, {}, [&](Int grain) {
      b.SetGrains(grain, b.Add(grain, b.Const(1)));
      emit();
    });
  }
  b.Finish();
  return status;
}

namespace {

class LlvmCodegen final : public Codegen {
 public:
  absl::StatusOr<std::string> Generate(absl::Span<const PlannedKernel* const> kernels, const Target& target,
                                       const DimTable& dims, Effort effort, CodeForm form) const override {
    Emitted emitted;
    for (const PlannedKernel* kernel : kernels) {
      SINTER_RETURN_IF_ERROR(EmitKernel(*kernel, target, dims, emitted));
    }
    return GenerateCode(emitted, target, effort, form);
  }
  absl::StatusOr<LinkedImage> Link(absl::Span<const CompiledObject> objects) const override {
    return LinkImage(objects);
  }
};

}  // namespace

const Codegen& LinkedCodegen() {
  static const LlvmCodegen codegen;
  return codegen;
}

}  // namespace sinter
