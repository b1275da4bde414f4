// Modules and graphs: straight-line SSA, ids and vectors.
//
// A module owns graphs, dim symbols and the name of its weight file. A graph owns its values and ops; `order` lists the
// live ops, each after the ops whose results it uses. Add, ReplaceUses and Erase keep the use lists true; nothing else
// writes operands. References from op(), value() and type() stay valid while ops are added; those from order() do not.
// A graph that a loop or a kernel names is a body; every other graph is an entry. The stage is the module's: entries of
// the kernels and planned stages hold only ops that are legal there; a body holds ops of the graph stage, or is a
// group: kernels that one step runs.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "ir/dims.h"
#include "ir/ids.h"
#include "ir/ops.h"
#include "ir/types.h"

namespace sinter {

class Module;

// Where the bytes of a value of a planned module lie. `at` is a byte offset for arena, thread and weights, and an index
// for input, output and state (a state keeps its index through all its versions).
enum class Space : uint8_t { kArena, kThread, kWeights, kInput, kOutput, kState };
absl::string_view SpaceName(Space space);
std::optional<Space> ParseSpace(absl::string_view name);

struct Address {
  Space space = Space::kArena;
  int64_t at = 0;
  friend bool operator==(const Address&, const Address&) = default;
};

struct Use {
  OpId op;
  uint32_t operand = 0;
  friend bool operator==(const Use&, const Use&) = default;
};

struct OpData {
  OpFields fields;
  absl::InlinedVector<ValueId, 2> results;
  std::string loc;  // the model's own name for this place, "blk.0.attn_output"; may be empty
  bool erased = false;

  OpKind kind() const { return fields.kind; }
  const OpDef& def() const { return Def(fields.kind); }
};

struct ValueData {
  std::string name;  // unique in its graph, without the percent sign
  Type type;
  OpId def;                          // None for a parameter
  uint32_t index = 0;                // which result of `def`, or which parameter
  absl::InlinedVector<Use, 2> uses;  // by ops; results of the graph are not uses
  std::optional<Address> address;
};

// What Add may be told beside the op itself.
struct AddOptions {
  std::vector<Type> declared;      // result types; required for ops that declare them
  std::vector<std::string> names;  // result names; made unique, invented when absent
  std::string loc;
  OpId before;  // insert before this op; None appends
};

class Graph {
 public:
  Graph(Module* module, GraphId id, std::string name) : module_(module), id_(id), name_(std::move(name)) {}
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  Module& module() const { return *module_; }
  GraphId id() const { return id_; }
  const std::string& name() const { return name_; }

  ValueId AddParam(std::string name, Type type);
  void SetResults(std::vector<ValueId> results) { results_ = std::move(results); }

  // Adds an op and infers its result types. Fails when the op is not well formed (kInvalidArgument with the
  // constraint's label).
  template <typename Op>
  absl::StatusOr<ValueId> Add(Op op, AddOptions options = {}) {  // NOLINT(performance-unnecessary-value-param): moved
    absl::StatusOr<OpId> id = AddFields(Pack(std::move(op)), std::move(options));
    if (!id.ok()) return id.status();
    return ops_[*id].results.empty() ? ValueId::None() : ops_[*id].results[0];
  }
  absl::StatusOr<OpId> AddFields(OpFields fields, AddOptions options = {});

  // Every use of `from`, results of the graph included, becomes a use of `to`, which must have the same type.
  void ReplaceUses(ValueId from, ValueId to);
  // Removes an op whose results nobody uses.
  void Erase(OpId id);
  // Removes ops whose results they alone use; of many, in less time than one by one.
  void Erase(absl::Span<const OpId> ids);

  // The typed view of an op, when it is of that kind.
  template <typename Op>
  std::optional<Op> As(OpId id) const {
    if (!id.valid() || ops_[id].kind() != Op::kKind) return std::nullopt;
    return Unpack<Op>(ops_[id].fields);
  }
  template <typename Op>
  std::optional<Op> DefAs(ValueId value) const {
    return As<Op>(values_[value].def);
  }
  // Rewrites attributes (never operands) of an op in place; the result types must not change.
  template <typename Op>
  void SetAttrs(Op op, OpId id) {
    ops_[id].fields.attrs = Pack(std::move(op)).attrs;
  }

  const OpData& op(OpId id) const { return ops_[id]; }
  const ValueData& value(ValueId id) const { return values_[id]; }
  const Type& type(ValueId id) const { return values_[id].type; }
  const std::vector<OpId>& order() const { return order_; }
  const std::vector<ValueId>& params() const { return params_; }
  const std::vector<ValueId>& results() const { return results_; }
  size_t num_values() const { return values_.size(); }
  size_t num_ops() const { return ops_.size(); }

  bool IsResult(ValueId id) const;
  // Uses by ops plus times that the graph returns it.
  int64_t UseCount(ValueId id) const;

  void SetAddress(ValueId id, Address address) { values_[id].address = address; }
  void Rename(ValueId id, std::string name);  // made unique

 private:
  friend class Module;  // Clone
  std::unique_ptr<Graph> CopyInto(Module* module) const;
  std::string UniqueName(std::string wish);
  ValueId NewValue(std::string name, Type type, OpId def, uint32_t index);

  Module* module_;
  GraphId id_;
  std::string name_;
  IdMap<ValueId, ValueData, std::deque<ValueData>> values_;  // deques: references outlive additions
  IdMap<OpId, OpData, std::deque<OpData>> ops_;
  std::vector<OpId> order_;
  std::vector<ValueId> params_, results_;
  absl::flat_hash_map<std::string, int> names_;
};

struct WeightsFile {
  std::string path;    // "gpt.gguf", or "preset:smallmind"
  std::string sha256;  // of the file's header: everything before the tensor data; 64 hex digits
};

class Module {
 public:
  explicit Module(std::string name) : name_(std::move(name)) {}
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  const std::string& name() const { return name_; }
  Stage stage = Stage::kGraph;
  DimTable dims;
  std::optional<WeightsFile> weights;

  // A new empty graph; the name is made unique.
  Graph& AddGraph(const std::string& name);
  void EraseGraph(GraphId id);
  const Graph* FindGraph(absl::string_view name) const;
  bool HasGraph(GraphId id) const { return graphs_.Has(id) && graphs_[id] != nullptr; }
  Graph& graph(GraphId id) { return *graphs_[id]; }
  const Graph& graph(GraphId id) const { return *graphs_[id]; }
  // Live graphs in the order of their making.
  std::vector<GraphId> graphs() const;
  // Live graphs that no loop or kernel names.
  std::vector<GraphId> entries() const;

  std::unique_ptr<Module> Clone() const;

 private:
  std::string name_;
  IdMap<GraphId, std::unique_ptr<Graph>> graphs_;
  absl::flat_hash_map<std::string, GraphId> graph_names_;  // of live graphs
};

// A copy of `from` in `module` (which may be another module with the same dims) under the name given, with dim symbols
// replaced by `by` (see DimExpr::Substitute; may be empty) in every type and attribute, in the graphs that it names
// too.
absl::StatusOr<GraphId> CloneGraph(const Graph& from, Module& module, const std::string& name,
                                   const IdMap<DimId, DimExpr>& by);

// Appends the ops of `body` to `into`, with `args` (of the parameters' types, substituted) for its parameters, and
// returns what its results are there.
absl::StatusOr<std::vector<ValueId>> InlineGraph(const Graph& body, Graph& into, absl::Span<const ValueId> args,
                                                 const IdMap<DimId, DimExpr>& by);

// Whether a body is a group: kernels, and at least one.
bool IsGroup(const Graph& body);

// What the symbols of a body stand for in a call with arguments of these types: themselves, or, for symbols that only
// the body mentions, their smallest value (which is what a kernel sees of a symbol that a run leaves unbound). So an
// entry specialized to one row shares the kernels of the general one. nullopt when the argument types do not fit the
// parameters.
std::optional<IdMap<DimId, DimExpr>> CallDims(const Graph& body, absl::Span<const Type* const> args);
// The symbols that a graph mentions itself: in the types of its values and in attributes, not in bodies that its ops
// name. Each once, in order.
std::vector<DimId> MentionedDims(const Graph& graph);
// A type with symbols replaced.
Type Substitute(const Type& type, const IdMap<DimId, DimExpr>& by);

// The parameters whose state an op consumes: for each state result of the op, in order, the operand that it is the next
// version of.
absl::InlinedVector<uint32_t, 2> ConsumedOperands(const Graph& graph, OpId op);

}  // namespace sinter
