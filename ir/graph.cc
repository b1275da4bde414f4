#include "ir/graph.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "ir/infer.h"

namespace sinter {
namespace {

constexpr absl::string_view kSpaceNames[] = {"arena", "thread", "weights", "input", "output", "state"};

}  // namespace

absl::string_view SpaceName(Space space) { return kSpaceNames[static_cast<size_t>(space)]; }

std::optional<Space> ParseSpace(absl::string_view name) {
  for (size_t i = 0; i < std::size(kSpaceNames); ++i) {
    if (kSpaceNames[i] == name) return static_cast<Space>(i);
  }
  return std::nullopt;
}

// names_ holds the names that are taken, each with the next suffix to try; "" stands for the invented ones.
std::string Graph::UniqueName(std::string wish) {
  if (!wish.empty() && names_.emplace(wish, 1).second) return wish;
  for (int& next = names_.emplace(wish, 0).first->second;; ++next) {
    std::string name = wish.empty() ? absl::StrCat("v", next) : absl::StrCat(wish, "_", next);
    if (names_.contains(name)) continue;
    ++next;  // before the insertion, which moves the counter
    names_.emplace(name, 1);
    return name;
  }
}

ValueId Graph::NewValue(std::string name, Type type, OpId def, uint32_t index) {
  return values_.Add({.name = UniqueName(std::move(name)), .type = std::move(type), .def = def, .index = index});
}

ValueId Graph::AddParam(std::string name, Type type) {
  const ValueId id = NewValue(std::move(name), std::move(type), OpId::None(), static_cast<uint32_t>(params_.size()));
  params_.push_back(id);
  return id;
}

absl::StatusOr<OpId> Graph::AddFields(OpFields fields, AddOptions options) {
  OpData data{.fields = std::move(fields), .results = {}, .loc = std::move(options.loc)};
  SINTER_ASSIGN_OR_RETURN(std::vector<Type> types, InferOp(*this, data, options.declared));
  const OpId id = ops_.Add(std::move(data));
  order_.insert(options.before.valid() ? std::find(order_.begin(), order_.end(), options.before) : order_.end(), id);
  for (uint32_t i = 0; i < types.size(); ++i) {
    std::string name = i < options.names.size() ? std::move(options.names[i]) : "";
    ops_[id].results.push_back(NewValue(std::move(name), std::move(types[i]), id, i));
  }
  const auto& operands = ops_[id].fields.operands;
  for (uint32_t i = 0; i < operands.size(); ++i) {
    if (operands[i].valid()) values_[operands[i]].uses.push_back({id, i});
  }
  return id;
}

void Graph::ReplaceUses(ValueId from, ValueId to) {
  if (from == to) return;
  for (const Use& use : values_[from].uses) {
    ops_[use.op].fields.operands[use.operand] = to;
    values_[to].uses.push_back(use);
  }
  values_[from].uses.clear();
  std::replace(results_.begin(), results_.end(), from, to);
}

void Graph::Erase(OpId id) {
  OpData& data = ops_[id];
  for (uint32_t i = 0; i < data.fields.operands.size(); ++i) {
    const ValueId operand = data.fields.operands[i];
    if (!operand.valid()) continue;
    auto& uses = values_[operand].uses;
    uses.erase(std::find(uses.begin(), uses.end(), Use{id, i}));
  }
  for (ValueId result : data.results) names_.erase(values_[result].name);
  data.fields.operands.clear();
  data.erased = true;
  order_.erase(std::find(order_.begin(), order_.end(), id));
}

void Graph::Erase(absl::Span<const OpId> ids) {
  if (ids.empty()) return;
  absl::flat_hash_set<ValueId> read;
  for (OpId id : ids) {
    OpData& data = ops_[id];
    for (ValueId operand : data.fields.operands) {
      if (operand.valid()) read.insert(operand);
    }
    for (ValueId result : data.results) names_.erase(values_[result].name);
    data.fields.operands.clear();
    data.erased = true;
  }
  for (ValueId value : read) {
    auto& uses = values_[value].uses;
    const auto erased = [&](const Use& use) { return ops_[use.op].erased; };
    uses.erase(std::remove_if(uses.begin(), uses.end(), erased), uses.end());
  }
  std::erase_if(order_, [&](OpId id) { return ops_[id].erased; });
}

bool Graph::IsResult(ValueId id) const { return std::find(results_.begin(), results_.end(), id) != results_.end(); }

int64_t Graph::UseCount(ValueId id) const {
  return static_cast<int64_t>(values_[id].uses.size()) + std::count(results_.begin(), results_.end(), id);
}

void Graph::Rename(ValueId id, std::string name) {
  if (values_[id].name == name) return;
  names_.erase(values_[id].name);
  values_[id].name = UniqueName(std::move(name));
}

Graph& Module::AddGraph(const std::string& name) {
  const GraphId id{static_cast<uint32_t>(graphs_.size())};
  std::string unique = name;
  for (int next = 1; !graph_names_.emplace(unique, id).second; ++next) unique = absl::StrCat(name, "_", next);
  graphs_.Add(std::make_unique<Graph>(this, id, std::move(unique)));
  return *graphs_[id];
}

void Module::EraseGraph(GraphId id) {
  if (!HasGraph(id)) return;
  graph_names_.erase(graphs_[id]->name());
  graphs_[id].reset();
}

const Graph* Module::FindGraph(absl::string_view name) const {
  const auto it = graph_names_.find(name);
  return it == graph_names_.end() ? nullptr : graphs_[it->second].get();
}

std::vector<GraphId> Module::graphs() const {
  std::vector<GraphId> ids;
  for (const auto& graph : graphs_) {
    if (graph != nullptr) ids.push_back(graph->id());
  }
  return ids;
}

std::vector<GraphId> Module::entries() const {
  absl::flat_hash_set<GraphId> bodies;
  for (GraphId id : graphs()) {
    for (OpId op : graph(id).order()) {
      for (const Attr& attr : graph(id).op(op).fields.attrs) {
        if (const auto* body = std::get_if<GraphRef>(&attr)) bodies.insert(body->id);
      }
    }
  }
  std::vector<GraphId> ids = graphs();
  std::erase_if(ids, [&](GraphId id) { return bodies.contains(id); });
  return ids;
}

bool IsGroup(const Graph& body) {
  return !body.order().empty() && std::all_of(body.order().begin(), body.order().end(),
                                              [&](OpId id) { return body.op(id).kind() == OpKind::kKernel; });
}

std::unique_ptr<Graph> Graph::CopyInto(Module* module) const {
  auto copy = std::make_unique<Graph>(module, id_, name_);
  copy->values_ = values_;
  copy->ops_ = ops_;
  copy->order_ = order_;
  copy->params_ = params_;
  copy->results_ = results_;
  copy->names_ = names_;
  return copy;
}

std::unique_ptr<Module> Module::Clone() const {
  auto clone = std::make_unique<Module>(name_);
  clone->stage = stage;
  clone->dims = dims;
  clone->weights = weights;
  clone->graph_names_ = graph_names_;
  for (const auto& graph : graphs_) {
    clone->graphs_.Add(graph == nullptr ? nullptr : graph->CopyInto(clone.get()));
  }
  return clone;
}

}  // namespace sinter
