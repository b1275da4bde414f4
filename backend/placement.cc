#include "backend/placement.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "backend/target.h"
#include "base/checked.h"
#include "base/status.h"

namespace sinter {
namespace {

absl::StatusOr<PlacedWeight> WeightAt(const Graph& graph, OpId op, int64_t offset) {
  PlacedWeight placed{&graph, op, std::string(graph.op(op).def().name), "plain", offset, 0};
  if (auto weight = graph.As<ops::Weight>(op)) {
    SINTER_ASSIGN_OR_RETURN(const Packing* packing, FindPacking(weight->pack));
    placed.name = weight->name;
    placed.pack = std::string(packing->name);
  }
  SINTER_ASSIGN_OR_RETURN(const Packing* packing, FindPacking(placed.pack));
  SINTER_ASSIGN_OR_RETURN(placed.bytes, PackedBytes(placed.type(), *packing));
  // Tensors of a file are as large as the file; what is made from nothing has to end somewhere.
  constexpr int64_t kMostMade = int64_t{1} << 32;
  if (graph.op(op).kind() != OpKind::kWeight && placed.bytes > kMostMade) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a ", placed.name, " of ", placed.bytes, " bytes is larger than ", kMostMade));
  }
  return placed;
}

}  // namespace

absl::StatusOr<Placement> PlacementOf(const Module& module) {
  if (module.stage != Stage::kPlanned) return absl::InvalidArgumentError("the module is not planned");
  Placement placement;
  for (GraphId id : module.entries()) {
    const Graph& graph = module.graph(id);
    const auto add = [&](ValueId v) -> absl::Status {
      const ValueData& data = graph.value(v);
      if (!data.address || data.address->at < 0) {
        return absl::InvalidArgumentError(absl::StrCat("@", graph.name(), " %", data.name, ": no address"));
      }
      const int64_t at = data.address->at;
      const bool weights = data.address->space == Space::kWeights;
      if (!weights && data.address->space != Space::kArena && data.address->space != Space::kThread)
        return absl::OkStatus();
      int64_t bytes;
      if (weights) {
        if (!data.def.valid() || !graph.op(data.def).def().Has(kSource)) {
          return absl::InvalidArgumentError(
              absl::StrCat("@", graph.name(), " %", data.name, ": only weights and tables lie in @weights"));
        }
        SINTER_ASSIGN_OR_RETURN(PlacedWeight placed, WeightAt(graph, data.def, at));
        bytes = placed.bytes;
        placement.weights.push_back(std::move(placed));
      } else {
        SINTER_ASSIGN_OR_RETURN(bytes, MaxBytes(data.type, module.dims));
      }
      const std::optional<int64_t> end = CheckedAdd(at, bytes);
      if (!end)
        return absl::InvalidArgumentError(absl::StrCat("@", graph.name(), " %", data.name, ": the address overflows"));
      int64_t& size = weights                                ? placement.weights_bytes
                      : data.address->space == Space::kArena ? placement.arena_bytes
                                                             : placement.thread_bytes;
      size = std::max(size, std::max(*end, at + 1));  // one of no bytes has a place, too
      return absl::OkStatus();
    };
    for (ValueId v : graph.params()) SINTER_RETURN_IF_ERROR(add(v));
    for (OpId op : graph.order()) {
      for (ValueId v : graph.op(op).results) SINTER_RETURN_IF_ERROR(add(v));
    }
  }
  std::vector<PlacedWeight>& weights = placement.weights;
  std::stable_sort(weights.begin(), weights.end(), [](const auto& a, const auto& b) { return a.offset < b.offset; });
  size_t kept = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (kept > 0 && weights[i].offset < weights[kept - 1].offset + weights[kept - 1].bytes) {
      const PlacedWeight& other = weights[kept - 1];
      const bool same = weights[i].offset == other.offset && weights[i].name == other.name &&
                        weights[i].pack == other.pack && weights[i].type() == other.type() &&
                        weights[i].bytes == other.bytes;
      if (!same)
        return absl::InvalidArgumentError(absl::StrCat("weights ", other.name, " and ", weights[i].name, " overlap"));
      continue;
    }
    std::swap(weights[kept++], weights[i]);
  }
  weights.resize(kept);
  return placement;
}

}  // namespace sinter
