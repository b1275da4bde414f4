#include "tests/random_graph.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "tests/rule_lines.h"

namespace sinter {
namespace {

// How a planted pattern is changed.
enum class NearMiss : uint8_t {
  kNone,
  kUser,
  kResult,
  kNumber,
  kAxis,
  kFiniteMask,
  kOp,
  kOperand,
  kSwap,
  kLast = kSwap
};

// Rows of the op table with the same operands and attributes, so that one can stand for the other.
std::vector<OpKind> Alike(OpKind kind) {
  const OpDef& def = Def(kind);
  std::vector<OpKind> alike;
  for (const OpDef& other : AllOps()) {
    const bool same =
        other.kind != kind && other.operands.size() == def.operands.size() && other.attrs.size() == def.attrs.size() &&
        (other.traits & ~kCommutative) == (def.traits & ~kCommutative) &&
        std::equal(def.operands.begin(), def.operands.end(), other.operands.begin(),
                   [](const OperandDef& a, const OperandDef& b) {
                     return a.optional == b.optional && a.list == b.list &&
                            (a.cls == OperandClass::kBool) == (b.cls == OperandClass::kBool);
                   }) &&
        std::equal(def.attrs.begin(), def.attrs.end(), other.attrs.begin(), [](const AttrDef& a, const AttrDef& b) {
          return a.default_value.index() == b.default_value.index();
        });
    if (same) alike.push_back(other.kind);
  }
  return alike;
}

// Plants one rule: an attempt that Infer refuses on the way leaves nothing behind but parameters.
class Planter {
 public:
  Planter(GraphDrawer& draw, const ParsedRule& rule, NearMiss miss) : draw_(draw), rule_(rule), miss_(miss) {}

  ValueId Plant() {
    Dice& dice = draw_.dice();
    names_ = {std::vector<ValueId>(rule_.values.size(), ValueId::None()), {}};
    DrawScalars();
    const size_t before = draw_.graph().order().size();
    const int64_t changed = dice.Below(static_cast<int64_t>(rule_.left.size()));
    for (size_t i = 0; i < rule_.left.size(); ++i) {
      ParsedRule::Line line = rule_.left[i];
      if (static_cast<int64_t>(i) == changed) ChangeLine(line);
      if (AddLine(line, static_cast<int64_t>(i) == changed)) continue;
      Undo(before);
      return ValueId::None();
    }
    if (miss_ == NearMiss::kNone && !WouldFire()) {
      Undo(before);
      return ValueId::None();
    }
    LookOutside();
    return Root();
  }

 private:
  using Product = ParsedRule::Product;

  ValueId Named(int name) const { return names_.values[static_cast<size_t>(name)]; }
  ValueId Root() const { return Named(rule_.left.back().result); }

  void DrawScalars() {
    Dice& dice = draw_.dice();
    for (const std::string& name : rule_.scalars) {
      constexpr double kEpsilons[] = {1e-5, 1e-6, 1e-5, 0.25, 1e-3};
      const DimExpr length = draw_.Number();
      names_.scalars.push_back(name == "eps"                          ? kEpsilons[dice.Below(std::size(kEpsilons))]
                               : length.is_const() && dice.Chance(25) ? 1 / static_cast<double>(length.constant())
                                                                      : static_cast<double>(dice.Between(1, 8)) / 4);
    }
    for (const ParsedRule::Line& line : rule_.left) {
      for (const ParsedRule::Attribute& attribute : line.attributes) {
        const int scalar = attribute.number.empty() ? -1 : attribute.number[0].scalar;
        const bool integer = std::holds_alternative<int64_t>(Def(line.kind).attrs[attribute.index].default_value);
        if (scalar >= 0 && integer)
          names_.scalars[static_cast<size_t>(scalar)] = static_cast<double>(dice.Between(1, 3));
      }
    }
  }

  void ChangeLine(ParsedRule::Line& line) {
    Dice& dice = draw_.dice();
    if (miss_ == NearMiss::kOp) {
      const std::vector<OpKind> alike = Alike(line.kind);
      if (!alike.empty()) line.kind = dice.Pick(alike);
    }
    for (ParsedRule::Operand& operand : line.operands) {
      if (operand.value >= 0) continue;
      Product& number = operand.number;
      if (miss_ == NearMiss::kNumber) number.push_back({.number = dice.Chance(50) ? 1.25 : 1.001});
      const bool masks = number[0].scalar < 0 && number[0].number == -std::numeric_limits<double>::infinity();
      if (miss_ == NearMiss::kFiniteMask && masks) number = {{.number = -1000}};
    }
    if (miss_ == NearMiss::kOperand && line.operands.size() > 1) {
      line.operands[dice.Chance(50) ? 0 : 1] = {.value = kAnother, .number = {}};
    }
    if (miss_ == NearMiss::kSwap && line.operands.size() > 1 && !Def(line.kind).Has(kCommutative)) {
      std::swap(line.operands[0], line.operands[1]);
    }
  }

  bool AddLine(const ParsedRule::Line& line, bool changed) {
    Dice& dice = draw_.dice();
    RuleNames names = names_;
    names.values.push_back(ValueId::None());  // what kAnother reads
    ParsedRule::Line resolved = line;
    for (ParsedRule::Operand& operand : resolved.operands) {
      if (operand.value == kAnother) operand.value = static_cast<int>(names.values.size()) - 1;
    }
    absl::StatusOr<OpFields> fields = FieldsOfLine(draw_.graph(), resolved, names, 2, dice);
    if (!fields.ok()) return false;
    if (changed && miss_ == NearMiss::kAxis && fields->operands[0].valid()) {
      for (Attr& attr : fields->attrs) {
        if (auto* axis = std::get_if<int64_t>(&attr)) *axis = dice.Below(draw_.type(fields->operands[0]).rank());
      }
    }
    CompleteOperands(draw_, *fields);
    for (size_t i = 0; i < line.operands.size(); ++i) {
      if (line.operands[i].value < 0 || line.operands[i].value == kAnother) continue;
      ValueId& named = names_.values[static_cast<size_t>(line.operands[i].value)];
      if (!named.valid()) named = fields->operands[i];
      fields->operands[i] = named;
    }
    ShuffleOperands(*fields, dice);
    return (names_.values[static_cast<size_t>(line.result)] = draw_.AddFields(*fields, Declared(*fields))).valid();
  }

  // What an op makes that declares its result.
  std::vector<Type> Declared(const OpFields& fields) {
    if (!Def(fields.kind).Has(kDeclared) || !fields.operands[0].valid()) return {};
    Type type = draw_.type(fields.operands[0]);
    return {DeclaredType(draw_, fields, type)};
  }

  // Whether the rule rewrites what was planted: tried on a copy.
  bool WouldFire() {
    const OpId root = draw_.graph().value(Root()).def;
    const std::unique_ptr<Module> copy = draw_.graph().module().Clone();
    const absl::StatusOr<OpId> op = TryRule(copy->graph(draw_.graph().id()), rule_, root);
    return op.ok() && op->valid();
  }

  // What happens to the values between. Unchanged patterns as a rule keep them to themselves.
  void LookOutside() {
    Dice& dice = draw_.dice();
    for (size_t i = 0; i + 1 < rule_.left.size(); ++i) {
      if (miss_ == NearMiss::kNone || dice.Chance(50)) draw_.Retire(Named(rule_.left[i].result));
    }
    if (rule_.left.size() < 2 || (miss_ != NearMiss::kUser && miss_ != NearMiss::kResult)) return;
    const auto line = static_cast<size_t>(dice.Below(static_cast<int64_t>(rule_.left.size()) - 1));
    const ValueId value = Named(rule_.left[line].result);
    const ValueId returned = miss_ == NearMiss::kResult ? value : draw_.Add(ops::Tanh{.x = value});
    if (returned.valid() && !draw_.type(returned).state) draw_.Return(returned);
  }

  void Undo(size_t before) {
    Graph& graph = draw_.graph();
    while (graph.order().size() > before) {
      const OpId op = graph.order().back();
      for (ValueId result : graph.op(op).results) draw_.Retire(result);
      graph.Erase(op);
    }
  }

  static constexpr int kAnother = std::numeric_limits<int>::max();  // the name of any other value

  GraphDrawer& draw_;
  const ParsedRule& rule_;
  const NearMiss miss_;
  RuleNames names_;
};

// Enough for patterns whose operands must fit each other in several ways.
constexpr int kAttempts = 100;

void PlantRule(GraphDrawer& draw, const RuleBook& rules, DrawStats& stats) {
  Dice& dice = draw.dice();
  if (rules.rules.empty()) return;
  const size_t name = static_cast<size_t>(dice.Below(static_cast<int64_t>(rules.names.size())));
  const RuleBook::Entry& entry = *rules.rules[dice.Pick(rules.variants[name])];
  const NearMiss miss =
      dice.Chance(60) ? NearMiss::kNone : static_cast<NearMiss>(dice.Between(1, static_cast<int64_t>(NearMiss::kLast)));
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    if (!Planter(draw, entry.parsed, miss).Plant().valid()) continue;
    if (miss == NearMiss::kNone) ++stats.planted[name];
    return;
  }
}

// What the graph returns: the states and values that must be, and values that nobody used.
std::vector<ValueId> ChooseResults(GraphDrawer& draw) {
  Dice& dice = draw.dice();
  std::vector<ValueId> results = draw.must_return();
  const int64_t wanted = dice.Between(1, 3);
  int64_t chosen = 0;
  for (size_t i = draw.values().size(); i-- > 0 && chosen < wanted;) {
    const ValueId value = draw.values()[i];
    if (!draw.graph().value(value).uses.empty() || !draw.graph().value(value).def.valid()) continue;
    results.push_back(value);
    ++chosen;
  }
  if (chosen == 0 || dice.Chance(4)) results.push_back(dice.Pick(draw.values()));
  if (dice.Chance(2) && !draw.type(results.back()).state) results.push_back(results.back());
  return results;
}

IdMap<DimId, int64_t> DrawDims(const DimTable& table, Dice& dice) {
  IdMap<DimId, int64_t> values;
  for (const DimSymbol& symbol : table.symbols()) {
    values.Add(symbol.name == "T" && dice.Chance(25) ? symbol.min : dice.Between(symbol.min, symbol.max));
  }
  return values;
}

}  // namespace

absl::StatusOr<RuleBook> RuleBook::Of(absl::Span<const PassInfo* const> passes) {
  RuleBook book;
  for (const PassInfo* pass : passes) {
    if (pass->rules == nullptr) continue;
    for (Rule& rule : pass->rules()) {
      std::vector<std::string>& names = book.names;
      const auto at = static_cast<size_t>(std::find(names.begin(), names.end(), rule.name) - names.begin());
      if (at == names.size()) {
        names.push_back(rule.name);
        book.variants.emplace_back();
      }
      auto entry = std::make_unique<Entry>(Entry{std::move(rule), {}, at});
      SINTER_ASSIGN_OR_RETURN(entry->parsed, ParseRule(entry->rule));
      book.variants[at].push_back(book.rules.size());
      book.rules.push_back(std::move(entry));
    }
  }
  if (book.names.size() > kMaxRuleNames) return absl::InternalError("more rules than kMaxRuleNames");
  return book;
}

absl::StatusOr<RandomGraph> DrawGraph(uint64_t seed, const RuleBook& rules, DrawStats& stats) {
  Dice dice(SeedFor(seed, "graph"));
  RandomGraph drawn{std::make_unique<Module>("fuzz"), {}};
  Module& module = *drawn.module;
  module.weights = WeightsFile{"fuzz.gguf", std::string(64, '0')};
  if (dice.Chance(85)) {
    const int64_t most = dice.Chance(88) ? dice.Between(1, 6) : dice.Between(7, 80);
    for (const DimSymbol& symbol :
         {DimSymbol{"T", 1, most}, DimSymbol{"P", 0, dice.Between(0, 12)}, DimSymbol{"L", 1, dice.Between(1, 4)}}) {
      SINTER_RETURN_IF_ERROR(module.dims.Add(symbol).status());
    }
  }
  drawn.dims = DrawDims(module.dims, dice);
  GraphDrawer draw(module.AddGraph("main"), dice, stats.ops);
  draw.Param(draw.RandomType());
  if (dice.Chance(8)) {  // integers that nothing indexes
    Type type = draw.RandomType();
    type.dtype = dice.Chance(50) ? DType::kI32 : dice.Chance(50) ? DType::kI64 : DType::kI8;
    draw.Param(type);
  }
  const absl::Span<const OpDef> all = AllOps();
  const int64_t pieces = dice.Between(2, 10);
  for (int64_t i = 0; i < pieces; ++i) {
    const int64_t form = dice.Below(100);
    if (form < 35) {
      PlantRule(draw, rules, stats);
    } else if (form < 45) {
      DrawBlock(draw);
    } else {
      const OpDef& def = all[static_cast<size_t>(dice.Below(static_cast<int64_t>(all.size())))];
      if (def.legal != Legal::kLowered && def.kind != OpKind::kWeight && def.kind != OpKind::kConstant) {
        DrawOp(draw, def.kind);
      }
    }
  }
  const std::vector<ValueId> results = ChooseResults(draw);
  draw.graph().SetResults(results);
  if (dice.Chance(15)) {  // with dead ops and parameters that nobody reads
    for (GraphId id : module.entries()) {
      if (id != draw.graph().id()) module.EraseGraph(id);
    }
    return drawn;
  }
  SINTER_ASSIGN_OR_RETURN(drawn.module, Rebuild(module, {.results = results}));
  return drawn;
}

absl::StatusOr<std::unique_ptr<Module>> Rebuild(const Module& module, const GraphEdit& edit) {
  const Graph& from = *module.FindGraph("main");
  auto made = std::make_unique<Module>(module.name());
  made->dims = module.dims;
  Graph& to = made->AddGraph("main");

  std::vector<ValueId> stands_for(from.num_values());
  for (uint32_t i = 0; i < stands_for.size(); ++i) stands_for[i] = ValueId{i};
  for (const auto& [old, by] : edit.replaced) stands_for[old.value] = by;
  const auto is_in = [](const std::vector<bool>& set, OpId op) { return op.value < set.size() && set[op.value]; };
  const auto is_param = [&](OpId op) { return is_in(edit.as_params, op); };

  // What the results need.
  std::vector<bool> needed(from.num_values());
  for (ValueId result : edit.results) needed[stands_for[result.value].value] = true;
  const std::vector<OpId>& order = from.order();
  std::vector<bool> kept(from.num_ops());
  for (size_t i = order.size(); i-- > 0;) {
    const OpData& op = from.op(order[i]);
    kept[order[i].value] = is_in(edit.kept_dead, order[i]) || std::any_of(op.results.begin(), op.results.end(),
                                                                          [&](ValueId v) { return needed[v.value]; });
    if (!kept[order[i].value] || is_param(order[i])) continue;
    for (ValueId operand : op.fields.operands) {
      if (operand.valid()) needed[stands_for[operand.value].value] = true;
    }
  }

  std::vector<ValueId> there(from.num_values(), ValueId::None());
  const auto add_param = [&](ValueId value) {
    there[value.value] = to.AddParam(from.value(value).name, Substitute(from.type(value), edit.dims));
  };
  for (ValueId param : from.params()) {
    if (needed[param.value]) add_param(param);
  }
  absl::flat_hash_map<GraphId, GraphId> bodies;
  bool weights = false;
  for (OpId id : order) {
    if (!kept[id.value]) continue;
    const OpData& op = from.op(id);
    if (is_param(id)) {
      for (ValueId result : op.results) {
        if (needed[result.value]) add_param(result);
      }
      continue;
    }
    OpFields fields = op.fields;
    for (ValueId& operand : fields.operands) {
      if (operand.valid()) operand = there[stands_for[operand.value].value];
    }
    for (Attr& attr : fields.attrs) {
      if (auto* dim = std::get_if<DimExpr>(&attr)) *dim = dim->Substitute(edit.dims);
      auto* body = std::get_if<GraphRef>(&attr);
      if (body == nullptr) continue;
      if (!bodies.contains(body->id)) {
        const Graph& inner = module.graph(body->id);
        SINTER_ASSIGN_OR_RETURN(bodies[body->id], CloneGraph(inner, *made, inner.name(), edit.dims));
      }
      body->id = bodies[body->id];
    }
    weights |= op.kind() == OpKind::kWeight;
    AddOptions options;
    options.loc = op.loc;
    for (ValueId result : op.results) {
      options.declared.push_back(Substitute(from.type(result), edit.dims));
      options.names.push_back(from.value(result).name);
    }
    SINTER_ASSIGN_OR_RETURN(const OpId copy, to.AddFields(std::move(fields), std::move(options)));
    for (size_t i = 0; i < op.results.size(); ++i) there[op.results[i].value] = to.op(copy).results[i];
  }
  std::vector<ValueId> results;
  for (ValueId result : edit.results) results.push_back(there[stands_for[result.value].value]);
  to.SetResults(std::move(results));
  if (weights) made->weights = module.weights;
  return made;
}

}  // namespace sinter
