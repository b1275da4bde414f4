// split-context: attention of one row over a long cache becomes attention over parts of the positions, which are then
// joined, where so few groups of heads share keys that threads would have nothing to do.
//
// Without it a group is one thread's work, however many there are. How many parts there are is a constant, and where
// they begin depends on the number of positions alone, so results are the same for every number of threads; all parts
// are equally long at every length of the context. It costs a step and two barriers, so it is done where the cache of a
// group can grow large.
#include <bit>

#include "absl/strings/str_cat.h"
#include "base/checked.h"
#include "base/limits.h"
#include "base/status.h"
#include "passes/pass.h"

namespace sinter {
namespace {

// From this many groups on, threads have enough.
constexpr int64_t kManyGroups = 8;
// Parts of all groups together: as many threads as have the same work.
constexpr int64_t kGrains = 16;
// Bytes of keys and values of a group from which on reading them takes far longer than what the split adds.
constexpr int64_t kLongBytes = int64_t{512} << 10;

// Parts worth making of the positions of an attend; 0: none.
int64_t PartsFor(const Graph& graph, const ops::Attend& op) {
  const Type &q = graph.type(op.q), &k = graph.type(op.k), &v = graph.type(op.v);
  const DimTable& dims = graph.module().dims;
  if (!q.dims[q.dims.size() - 2].is_one() || limits::kRank.Exceeded(q.dims.size() + 1)) return 0;
  int64_t groups = 1;
  for (size_t i = 0; i + 2 < k.dims.size() && groups < kManyGroups; ++i) {
    if (!k.dims[i].is_const()) return 0;
    groups *= std::min(k.dims[i].constant(), kManyGroups);
  }
  if (groups == 0 || groups >= kManyGroups) return 0;
  const double elements = static_cast<double>(k.dims.back().constant() + v.dims.back().constant());
  const double row =
      elements * static_cast<double>(Info(k.dtype).block_bytes) / static_cast<double>(Info(k.dtype).block_elems);
  if (dims.Max(k.dims[k.dims.size() - 2]) * row < static_cast<double>(kLongBytes)) return 0;
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(CeilDiv(kGrains, groups))));
}

absl::Status Split(Graph& graph, OpId id, int64_t parts) {
  const ValueId result = graph.op(id).results[0];
  AddOptions options;
  options.before = id;
  options.loc = graph.op(id).loc;
  const std::string name = graph.value(result).name;
  options.names = {absl::StrCat(name, "_parts"), absl::StrCat(name, "_weights")};
  OpFields fields = graph.op(id).fields;  // as attend has them
  fields.kind = OpKind::kAttendParts;
  fields.attrs.emplace_back(parts);
  SINTER_ASSIGN_OR_RETURN(const OpId each, graph.AddFields(std::move(fields), options));
  options.names = {name};
  const auto& results = graph.op(each).results;
  SINTER_ASSIGN_OR_RETURN(const ValueId joined,
                          graph.Add(ops::JoinParts{.x = results[0], .weight = results[1]}, options));
  graph.ReplaceUses(result, joined);
  graph.Erase(id);
  graph.Rename(joined, name);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<bool> SplitContext(Module& module, PassContext&) {
  bool changed = false;
  for (GraphId entry : module.entries()) {
    Graph& graph = module.graph(entry);
    const std::vector<OpId> order = graph.order();
    for (OpId id : order) {
      const auto op = graph.As<ops::Attend>(id);
      const int64_t parts = op ? PartsFor(graph, *op) : 0;
      if (parts < 2) continue;
      SINTER_RETURN_IF_ERROR(Split(graph, id, parts));
      changed = true;
    }
  }
  return changed;
}

}  // namespace sinter
