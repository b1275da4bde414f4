#include "ir/verifier.h"

#include <algorithm>
#include <tuple>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/limits.h"
#include "ir/infer.h"
#include "ir/text.h"

namespace sinter {
namespace {

constexpr size_t kMaxProblems = 50;
constexpr int64_t kNowhere = -1;

std::string Located(const Graph& graph, OpId op, absl::string_view message) {
  constexpr size_t kShown = 400;  // of an op with a long list
  std::string line = PrintOp(graph, op);
  if (line.size() > kShown) line = absl::StrCat(line.substr(0, kShown), "...");
  const size_t equals = graph.op(op).results.empty() ? std::string::npos : line.find(" = ");
  const size_t caret = equals == std::string::npos ? 0 : equals + 3;
  return absl::StrCat("graph @", graph.name(), ": ", message, "\n    ", line, "\n    ", std::string(caret, ' '), "^");
}

class Verifier {
 public:
  explicit Verifier(const Module& module) : module_(module) {}

  absl::Status Run() {
    CheckDims();
    CheckNesting();
    // What names itself has no meaning, and nothing below may follow it.
    if (problems_.empty()) {
      const std::vector<GraphId> entries = module_.entries();
      const absl::flat_hash_set<GraphId> entry_set(entries.begin(), entries.end());
      for (GraphId id : module_.graphs()) CheckGraph(module_.graph(id), entry_set.contains(id));
    }
    if (problems_.empty()) return absl::OkStatus();
    if (dropped_ > 0) problems_.push_back(absl::StrCat("and ", dropped_, " more problems"));
    return absl::InvalidArgumentError(absl::StrJoin(problems_, "\n"));
  }

 private:
  template <typename... Parts>
  void Problem(const Parts&... parts) {
    if (problems_.size() == kMaxProblems) {
      ++dropped_;
      return;
    }
    problems_.push_back(absl::StrCat(parts...));
  }
  void ProblemAt(const Graph& graph, OpId op, absl::string_view message) {
    if (problems_.size() == kMaxProblems) {
      ++dropped_;  // printing the op is work
      return;
    }
    problems_.push_back(Located(graph, op, message));
  }
  void ProblemIn(const Graph& graph, absl::string_view message) { Problem("graph @", graph.name(), ": ", message); }

  void CheckDims() {
    for (const DimBound& bound : module_.dims.bounds()) {
      if (bound.expr.poisoned()) {
        Problem("[bound] a bound overflows 64 bits");
      } else if (module_.dims.Min(bound.expr) > bound.max) {
        Problem("[bound] ", module_.dims.ToString(bound.expr), " <= ", bound.max, " can never hold");
      }
    }
  }

  void CheckNesting() {
    for (GraphId id : module_.graphs()) Height(module_.graph(id), 0);
  }

  // How many graphs deep the bodies of `graph` nest. Each graph is visited once; the depth is bounded.
  int Height(const Graph& graph, int depth) {
    const auto it = heights_.find(graph.id());
    if (it != heights_.end()) {
      if (it->second < 0) ProblemIn(graph, "[recursion] names itself, directly or through other graphs");
      if (!limits::kNesting.Exceeded(depth + it->second)) return it->second;
    }
    if (limits::kNesting.Exceeded(depth + 1) || it != heights_.end()) {
      ProblemIn(graph, absl::StrCat("[nesting] bodies nest too deep: ", limits::kNesting.Text()));
      return 0;
    }
    heights_[graph.id()] = -1;
    int height = 0;
    for (OpId op : graph.order()) {
      for (const Attr& attr : graph.op(op).fields.attrs) {
        const auto* body = std::get_if<GraphRef>(&attr);
        if (body == nullptr) continue;
        if (!module_.HasGraph(body->id)) {
          ProblemIn(graph, absl::StrCat("[body] op ", graph.op(op).def().name, " names a graph that was erased"));
        } else {
          height = std::max(height, 1 + Height(module_.graph(body->id), depth + 1));
        }
      }
    }
    return heights_[graph.id()] = height;
  }

  void CheckGraph(const Graph& graph, bool entry) {
    const size_t before = problems_.size();
    CheckValues(graph);
    // Positions in `order`; a result of the graph is read at order().size().
    position_.assign(graph.num_ops(), kNowhere);
    for (size_t i = 0; i < graph.order().size(); ++i) {
      const OpId op = graph.order()[i];
      if (!op.valid() || op.value >= graph.num_ops() || graph.op(op).erased || position_[op.value] != kNowhere) {
        return ProblemIn(graph, absl::StrCat("[order] position ", i, " holds no live op, or one for the second time"));
      }
      position_[op.value] = static_cast<int64_t>(i);
    }
    for (uint32_t i = 0; i < graph.num_ops(); ++i) {
      if (!graph.op(OpId{i}).erased && position_[i] == kNowhere) {
        ProblemIn(graph, absl::StrCat("[order] a live op, ", graph.op(OpId{i}).def().name, ", is not in the order"));
      }
    }
    const bool lowered = module_.stage != Stage::kGraph && (entry || IsGroup(graph));
    for (OpId op : graph.order()) {
      CheckOp(graph, op);
      CheckLegal(graph, op, entry, lowered);
      if (graph.op(op).def().Has(kSource)) CheckSource(graph, op);
    }
    for (ValueId result : graph.results()) {
      if (!result.valid() || result.value >= graph.num_values() || !Defined(graph, result, graph.order().size())) {
        ProblemIn(graph, "[results] expected values of the graph to be returned");
      }
    }
    if (problems_.size() != before) return;  // what follows relies on it
    CheckUses(graph);
    CheckStates(graph);
    if (entry && module_.stage == Stage::kPlanned) CheckAddresses(graph);
  }

  // Types of parameters, which no Infer sees, and what each value says of its origin.
  void CheckValues(const Graph& graph) {
    for (size_t i = 0; i < graph.params().size(); ++i) {
      const ValueData& param = graph.value(graph.params()[i]);
      if (param.def.valid() || param.index != i) {
        ProblemIn(graph, absl::StrCat("[params] %", param.name, " is not parameter ", i));
      }
      if (param.type.rank() < 1 || limits::kRank.Exceeded(param.type.rank())) {
        ProblemIn(graph, absl::StrCat("[type] expected 1 to ", limits::kRank.most, " axes; found %", param.name, ": ",
                                      ToString(param.type, module_.dims)));
      }
      const absl::StatusOr<int64_t> bytes = MaxBytes(param.type, module_.dims);
      if (!bytes.ok()) ProblemIn(graph, absl::StrCat("[type] %", param.name, ": ", bytes.status().message()));
    }
  }

  bool Defined(const Graph& graph, ValueId value, size_t at) const {
    const OpId def = graph.value(value).def;
    return !def.valid() || (position_[def.value] != kNowhere && position_[def.value] < static_cast<int64_t>(at));
  }

  void CheckOp(const Graph& graph, OpId op) {
    const OpData& data = graph.op(op);
    std::vector<Type> types;
    for (size_t i = 0; i < data.results.size(); ++i) {
      const ValueData& result = graph.value(data.results[i]);
      if (result.def != op || result.index != i) {
        ProblemAt(graph, op, absl::StrCat("[results] %", result.name, " is not result ", i, " of its op"));
      }
      types.push_back(result.type);
    }
    for (ValueId operand : data.fields.operands) {
      if (operand.valid() && !Defined(graph, operand, position_[op.value])) {
        ProblemAt(graph, op, absl::StrCat("[order] %", graph.value(operand).name, " is used before it is defined"));
      }
    }
    const absl::StatusOr<std::vector<Type>> inferred = InferOp(graph, data, types);
    if (!inferred.ok()) {
      ProblemAt(graph, op, inferred.status().message());
    } else if (inferred->size() != types.size()) {
      ProblemAt(graph, op, absl::StrCat("[result-type] expected ", inferred->size(), " results; found ", types.size()));
    }
  }

  void CheckLegal(const Graph& graph, OpId op, bool entry, bool lowered) {
    const OpDef& def = graph.op(op).def();
    if (def.legal == Legal::kAll || (def.legal == Legal::kLowered) == lowered) return;
    ProblemAt(graph, op,
              absl::StrCat("[stage] ", def.name, " is not legal in ", entry ? "an entry" : "a body", " of the stage ",
                           StageName(module_.stage)));
  }

  // The bytes of a source are made when the module is compiled, so its operands are known then.
  void CheckSource(const Graph& graph, OpId op) {
    for (ValueId operand : graph.op(op).fields.operands) {
      if (!operand.valid()) continue;
      const OpId def = graph.value(operand).def;
      if (def.valid() && (graph.op(def).def().Has(kSource) || graph.op(def).kind() == OpKind::kConstant)) continue;
      ProblemAt(graph, op,
                absl::StrCat("[source] expected a weight or a constant; found %", graph.value(operand).name,
                             ", which only a run supplies"));
    }
  }

  void CheckUses(const Graph& graph) {
    std::vector<std::vector<Use>> expected(graph.num_values());
    for (OpId op : graph.order()) {
      const auto& operands = graph.op(op).fields.operands;
      for (uint32_t i = 0; i < operands.size(); ++i) {
        if (operands[i].valid()) expected[operands[i].value].push_back({op, i});
      }
    }
    const auto by_place = [](const Use& a, const Use& b) {
      return std::tie(a.op, a.operand) < std::tie(b.op, b.operand);
    };
    for (uint32_t i = 0; i < graph.num_values(); ++i) {
      const ValueData& value = graph.value(ValueId{i});
      std::vector<Use> found(value.uses.begin(), value.uses.end());
      std::sort(found.begin(), found.end(), by_place);
      std::sort(expected[i].begin(), expected[i].end(), by_place);
      if (found != expected[i]) {
        ProblemIn(graph, absl::StrCat("[uses] the use list of %", value.name, " is not what the operands say"));
      }
    }
  }

  // ConsumedOperands; of a kernel, which follows states through its whole body, once for all that call it.
  const absl::InlinedVector<uint32_t, 2>& Consumed(const Graph& graph, OpId op) {
    const auto kernel = graph.As<ops::Kernel>(op);
    if (!kernel) return consumed_ = ConsumedOperands(graph, op);
    const auto [it, inserted] = consumed_by_kernel_.try_emplace(kernel->body.id);
    if (inserted) it->second = ConsumedOperands(graph, op);
    return it->second;
  }

  void CheckStates(const Graph& graph) {
    absl::flat_hash_map<ValueId, std::vector<Use>> consumers;
    for (OpId op : graph.order()) {
      for (uint32_t operand : Consumed(graph, op)) {
        const auto& operands = graph.op(op).fields.operands;
        if (operand >= operands.size()) {
          ProblemAt(graph, op, "[state-origin] a state result is the next version of no operand");
        } else {
          consumers[operands[operand]].push_back({op, operand});
        }
      }
    }
    for (uint32_t i = 0; i < graph.num_values(); ++i) {
      const ValueId id{i};
      const ValueData& value = graph.value(id);
      if (!value.type.state || (value.def.valid() && graph.op(value.def).erased)) continue;
      const auto it = consumers.find(id);
      const std::vector<Use> uses = it == consumers.end() ? std::vector<Use>() : it->second;
      const auto returned = std::count(graph.results().begin(), graph.results().end(), id);
      for (size_t j = 1; j < uses.size(); ++j) {
        ProblemAt(graph, uses[j].op, absl::StrCat("[state-twice] %", value.name, " is consumed a second time"));
      }
      if (returned > 1 || (returned == 1 && !uses.empty())) {
        ProblemIn(graph, absl::StrCat("[state-twice] %", value.name, " is returned and consumed, or returned twice"));
      }
      if (uses.empty() && returned == 0 && value.def.valid()) {
        ProblemIn(graph,
                  absl::StrCat("[state-lost] %", value.name, ", the last version of its state, is not returned"));
      }
      if (!uses.empty()) CheckReads(graph, id, uses[0]);
    }
  }

  // Whoever looks at this version of the state, through views or not, must stand before the op that overwrites it.
  void CheckReads(const Graph& graph, ValueId state, const Use& consumer) {
    const int64_t overwritten = position_[consumer.op.value];
    std::vector<ValueId> looks{state};
    absl::flat_hash_set<ValueId> seen{state};
    while (!looks.empty()) {
      const ValueId look = looks.back();
      looks.pop_back();
      if (look != state && graph.IsResult(look)) {
        ProblemIn(graph, absl::StrCat("[state-stale] returns %", graph.value(look).name, ", a view of %",
                                      graph.value(state).name, ", which was overwritten"));
      }
      for (const Use& use : graph.value(look).uses) {
        // A second consumer is reported as such.
        const auto& consumed = Consumed(graph, use.op);
        const bool consumes = std::find(consumed.begin(), consumed.end(), use.operand) != consumed.end();
        if (!(look == state && consumes) && position_[use.op.value] >= overwritten) {
          ProblemAt(graph, use.op,
                    absl::StrCat("[state-stale] reads %", graph.value(look).name, " after %", graph.value(state).name,
                                 " was overwritten"));
        }
        if (!graph.op(use.op).def().Has(kView)) continue;
        for (ValueId result : graph.op(use.op).results) {
          if (seen.insert(result).second) looks.push_back(result);
        }
      }
    }
  }

  void CheckAddresses(const Graph& graph) {
    const auto check = [&](ValueId id) {
      const ValueData& value = graph.value(id);
      if (!value.address) {
        ProblemIn(graph, absl::StrCat("[address] expected an address of %", value.name, "; found none"));
      } else if (value.address->at < 0) {
        ProblemIn(graph,
                  absl::StrCat("[address] expected an address of %", value.name, " >= 0; found ", value.address->at));
      }
    };
    for (ValueId param : graph.params()) check(param);
    for (OpId op : graph.order()) {
      for (ValueId result : graph.op(op).results) check(result);
    }
  }

  const Module& module_;
  absl::flat_hash_map<GraphId, int> heights_;  // -1 while a graph is being visited
  absl::flat_hash_map<GraphId, absl::InlinedVector<uint32_t, 2>> consumed_by_kernel_;
  absl::InlinedVector<uint32_t, 2> consumed_;  // of any other op
  std::vector<int64_t> position_;
  std::vector<std::string> problems_;
  size_t dropped_ = 0;
};

}  // namespace

absl::Status Verify(const Module& module) { return Verifier(module).Run(); }

absl::Status ErrorAt(const Graph& graph, OpId op, absl::string_view message) {
  return absl::InvalidArgumentError(Located(graph, op, message));
}

}  // namespace sinter
