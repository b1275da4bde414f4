// dots-to-gemm: a loop of dot products becomes one batched gemm.
//
// The body must be the sum of a product of its two parameters, equally long and each perhaps converted to f32 first.
// Then every index letter has a role:
//   `.` is k;  a letter of both slices is batch;  a letter of a alone is m (the last one) or batch;  a letter of b
//   alone is n.
// The output must end in m n, with either operand as a. Axes in another order become trans_a, trans_b or transpose
// views; batch letters that b has come first in the gemm, and a transpose view of its result restores their order. Any
// other loop stays as it is.
#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "passes/cleanup.h"
#include "passes/pass.h"

namespace sinter {
namespace {

using Letters = std::vector<std::string>;

bool Contains(const Letters& letters, absl::string_view letter) {
  return std::find(letters.begin(), letters.end(), letter) != letters.end();
}

int64_t IndexOf(const Letters& letters, absl::string_view letter) {
  return std::find(letters.begin(), letters.end(), letter) - letters.begin();
}

bool Multiplies(DType t) { return t == DType::kF32 || t == DType::kF16 || t == DType::kBF16; }

// The parameter that `value` is, perhaps converted to f32; -1 for anything else.
int64_t ParamOf(const Graph& body, ValueId value) {
  if (body.type(value).dtype != DType::kF32) return -1;
  if (const auto convert = body.DefAs<ops::Convert>(value)) value = convert->x;
  const ValueData& data = body.value(value);
  return !data.def.valid() && Multiplies(data.type.dtype) ? int64_t{data.index} : -1;
}

bool IsDotProduct(const Graph& body) {
  if (body.params().size() != 2 || body.results().size() != 1) return false;
  const auto sum = body.DefAs<ops::Sum>(body.results()[0]);
  if (!sum || body.type(sum->x).rank() != 1) return false;
  const auto mul = body.DefAs<ops::Mul>(sum->x);
  if (!mul) return false;
  const int64_t a = ParamOf(body, mul->a), b = ParamOf(body, mul->b);
  return a >= 0 && b >= 0 && a != b && body.type(body.params()[0]).dims == body.type(body.params()[1]).dims;
}

struct Operand {
  ValueId value;
  Letters axes;
};

struct Roles {
  Operand a, b;
  Letters batch;      // of a, those of b first
  size_t shared = 0;  // how many of them b has
  std::string m, n;
};

std::optional<Roles> Classify(const Letters& over, const Operand& a, const Operand& b) {
  if (over.size() < 2 || !Contains(a.axes, ".") || !Contains(b.axes, ".")) return std::nullopt;
  Roles roles{a, b, {}, 0, over[over.size() - 2], over.back()};
  if (!Contains(a.axes, roles.m) || Contains(b.axes, roles.m)) return std::nullopt;
  if (!Contains(b.axes, roles.n) || Contains(a.axes, roles.n)) return std::nullopt;
  roles.batch.assign(over.begin(), over.end() - 2);
  for (const std::string& letter : roles.batch) {
    if (!Contains(a.axes, letter)) return std::nullopt;
  }
  const auto own = std::stable_partition(roles.batch.begin(), roles.batch.end(),
                                         [&](const std::string& letter) { return Contains(b.axes, letter); });
  roles.shared = static_cast<size_t>(own - roles.batch.begin());
  return roles;
}

// The operand with its axes in the order batch.., then `row` and k as they lie, and whether they had to be named k,
// row.
struct Arranged {
  ValueId value;
  bool k_first = false;
};

absl::StatusOr<Arranged> Arrange(Graph& graph, OpId before, const Operand& operand, Letters batch,
                                 const std::string& row) {
  const bool k_first = IndexOf(operand.axes, ".") < IndexOf(operand.axes, row);
  Letters order = std::move(batch);
  order.push_back(k_first ? "." : row);
  order.push_back(k_first ? row : ".");
  if (order == operand.axes) return Arranged{operand.value, k_first};
  ops::Transpose transpose{.x = operand.value};
  for (const std::string& letter : order) transpose.perm.push_back(IndexOf(operand.axes, letter));
  AddOptions options;
  options.before = before;
  options.names = {absl::StrCat(graph.value(operand.value).name, "_t")};
  SINTER_ASSIGN_OR_RETURN(const ValueId view, graph.Add(std::move(transpose), std::move(options)));
  return Arranged{view, k_first};
}

absl::StatusOr<ValueId> BuildGemm(Graph& graph, OpId loop, const Letters& over, const Roles& roles) {
  const Letters shared(roles.batch.begin(), roles.batch.begin() + static_cast<int64_t>(roles.shared));
  SINTER_ASSIGN_OR_RETURN(const Arranged a, Arrange(graph, loop, roles.a, roles.batch, roles.m));
  SINTER_ASSIGN_OR_RETURN(const Arranged b, Arrange(graph, loop, roles.b, shared, roles.n));
  AddOptions options;
  options.before = loop;
  options.loc = graph.op(loop).loc;
  const ops::Gemm gemm{.a = a.value, .b = b.value, .trans_a = a.k_first, .trans_b = !b.k_first};
  Letters order = roles.batch;
  order.push_back(roles.m);
  order.push_back(roles.n);
  if (order == over) return graph.Add(gemm, std::move(options));
  options.names = {absl::StrCat(graph.value(graph.op(loop).results[0]).name, "_g")};
  SINTER_ASSIGN_OR_RETURN(const ValueId product, graph.Add(gemm, std::move(options)));
  ops::Transpose back{.x = product};
  for (const std::string& letter : over) back.perm.push_back(IndexOf(order, letter));
  AddOptions view;
  view.before = loop;
  return graph.Add(std::move(back), std::move(view));
}

absl::StatusOr<bool> Rewrite(Graph& graph, OpId id) {
  const auto loop = graph.As<ops::Loop>(id);
  if (!loop || loop->args.size() != 2 || !IsDotProduct(graph.module().graph(loop->body.id))) return false;
  const Letters over = absl::StrSplit(loop->over, ' ', absl::SkipEmpty());
  std::array<Operand, 2> operands;
  for (size_t i = 0; i < 2; ++i) operands[i] = {loop->args[i], absl::StrSplit(loop->slices[i], ' ', absl::SkipEmpty())};
  std::optional<Roles> roles = Classify(over, operands[0], operands[1]);
  if (!roles) roles = Classify(over, operands[1], operands[0]);
  if (!roles) return false;
  SINTER_ASSIGN_OR_RETURN(const ValueId product, BuildGemm(graph, id, over, *roles));
  const ValueId result = graph.op(id).results[0];
  const std::string name = graph.value(result).name;
  graph.ReplaceUses(result, product);
  graph.Erase(id);
  graph.Rename(product, name);
  return true;
}

}  // namespace

absl::StatusOr<bool> DotsToGemm(Module& module, PassContext&) {
  const absl::flat_hash_set<GraphId> bodies = Bodies(module);
  bool changed = false;
  for (GraphId id : module.entries()) {
    Graph& graph = module.graph(id);
    const std::vector<OpId> order = graph.order();
    for (OpId op : order) {
      SINTER_ASSIGN_OR_RETURN(const bool rewritten, Rewrite(graph, op));
      changed |= rewritten;
    }
  }
  EraseUnusedBodies(module, bodies);
  return changed;
}

}  // namespace sinter
