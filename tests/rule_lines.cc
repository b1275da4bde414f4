#include "tests/rule_lines.h"

#include <utility>

#include "base/status.h"

namespace sinter {
namespace {

absl::StatusOr<ValueId> Constant(Graph& graph, double number, DType dtype, int64_t max_rank, Dice& dice) {
  AddOptions options;
  options.declared = {Type{dtype, max_rank > 1 && dice.Chance(50) ? Dims{1, 1} : Dims{1}}};
  return graph.Add(ops::Constant{.values = {dice.Chance(50) ? number : RoundTo(dtype, number)}}, std::move(options));
}

// The element type of the first operand that is a number; f32 when there is none yet.
DType SiblingType(const Graph& graph, const ParsedRule::Line& line, const RuleNames& names) {
  for (const ParsedRule::Operand& operand : line.operands) {
    if (operand.value < 0 || !names.values[static_cast<size_t>(operand.value)].valid()) continue;
    const DType dtype = graph.type(names.values[static_cast<size_t>(operand.value)]).dtype;
    if (IsFloat(dtype)) return dtype;
  }
  return DType::kF32;
}

double NumberOf(const ParsedRule::Product& product, const RuleNames& names) {
  double number = 1;
  for (const ParsedRule::Factor& factor : product) {
    const double by = factor.scalar < 0 ? factor.number : names.scalars[static_cast<size_t>(factor.scalar)];
    number = factor.divides ? number / by : number * by;
  }
  return number;
}

}  // namespace

absl::StatusOr<OpFields> FieldsOfLine(Graph& graph, const ParsedRule::Line& line, const RuleNames& names,
                                      int64_t max_constant_rank, Dice& dice) {
  OpFields fields{line.kind, {}, {}};
  const DType dtype = SiblingType(graph, line, names);
  for (const ParsedRule::Operand& operand : line.operands) {
    if (operand.value >= 0) {
      fields.operands.push_back(names.values[static_cast<size_t>(operand.value)]);
      continue;
    }
    SINTER_ASSIGN_OR_RETURN(fields.operands.emplace_back(),
                            Constant(graph, NumberOf(operand.number, names), dtype, max_constant_rank, dice));
  }
  const OpDef& def = Def(line.kind);
  for (const AttrDef& row : def.attrs) fields.attrs.push_back(row.default_value);
  for (const ParsedRule::Attribute& attribute : line.attributes) {
    Attr& attr = fields.attrs[attribute.index];
    if (auto* text = std::get_if<std::string>(&attr)) {
      *text = attribute.text;
      continue;
    }
    const double number = NumberOf(attribute.number, names);
    if (auto* real = std::get_if<double>(&attr)) *real = number;
    if (auto* flag = std::get_if<bool>(&attr)) *flag = number >= 1;
    if (auto* integer = std::get_if<int64_t>(&attr)) *integer = static_cast<int64_t>(number);
  }
  const bool known = !fields.operands.empty() && fields.operands[0].valid();
  for (size_t i = 0; known && i < def.attrs.size(); ++i) {
    auto* axis = std::get_if<int64_t>(&fields.attrs[i]);
    if (def.attrs[i].name != "axis" || *axis != -1 || dice.Chance(50)) continue;
    *axis = graph.type(fields.operands[0]).rank() - 1;
  }
  return fields;
}

void ShuffleOperands(OpFields& fields, Dice& dice) {
  if (Def(fields.kind).Has(kCommutative) && dice.Chance(50)) std::swap(fields.operands[0], fields.operands[1]);
}

}  // namespace sinter
