#include "ir/docs.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "ir/ops.h"

namespace sinter {
namespace {

struct TraitRow {
  Trait trait;
  absl::string_view name;
};
constexpr TraitRow kTraits[] = {
    {kElementwise, "elementwise"}, {kCommutative, "commutative"}, {kReduce, "reduce"},      {kView, "view"},
    {kSource, "source"},           {kDeclared, "declared"},       {kAttention, "attention"}};

// By Legal.
constexpr absl::string_view kLegal[] = {"graph stage and bodies", "kernels and planned stages", "every stage"};

struct DefaultToString {
  std::string operator()(int64_t value) const { return absl::StrCat(value); }
  std::string operator()(double value) const { return absl::StrCat(value); }
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(const std::string& value) const { return absl::StrCat("\"", value, "\""); }
  std::string operator()(const DimExpr& value) const { return absl::StrCat(value.constant()); }
  std::string operator()(GraphRef) const { return "none"; }
  template <typename T>
  std::string operator()(const std::vector<T>& values) const {
    return absl::StrCat("[", absl::StrJoin(values, ", "), "]");
  }
};

std::string Signature(const OpDef& def) {
  std::vector<std::string> parts;
  for (const AttrDef& attr : def.attrs) {
    if (attr.positional) parts.push_back(absl::StrCat("<", attr.name, ">"));
  }
  for (const OperandDef& operand : def.operands) {
    parts.push_back(absl::StrCat("%", operand.name, operand.list ? "..." : "", operand.optional ? "?" : ""));
  }
  return absl::StrCat(def.name, parts.empty() ? "" : " ", absl::StrJoin(parts, ", "));
}

}  // namespace

std::string OpsMarkdown() {
  std::string text =
      "# Ops\n\nMade from `ir/ops.inc`; do not edit. `?` marks an operand that may be absent, `...` one that takes all "
      "that "
      "follow, `<>` an attribute that stands before the operands.\n";
  for (const OpDef& def : AllOps()) {
    absl::StrAppend(&text, "\n## ", def.name, "\n\n`", Signature(def), "`\n\n", def.doc, "\n\n");
    for (const OperandDef& operand : def.operands) {
      absl::StrAppend(&text, "- `%", operand.name, "`: ", OperandClassName(operand.cls),
                      operand.optional ? ", optional" : "", operand.list ? ", any number" : "", "\n");
    }
    for (const AttrDef& attr : def.attrs) {
      absl::StrAppend(&text, "- `", attr.name, "`: ", AttrTypeName(attr.default_value));
      if (!attr.positional)
        absl::StrAppend(&text, ", default `", std::visit(DefaultToString(), attr.default_value), "`");
      text += "\n";
    }
    if (def.results != 1) {
      absl::StrAppend(
          &text, "- results: ", def.results < 0 ? "as many as the graph returns" : absl::StrCat(def.results), "\n");
    }
    std::vector<absl::string_view> traits;
    for (const TraitRow& row : kTraits) {
      if (def.Has(row.trait)) traits.push_back(row.name);
    }
    if (!traits.empty()) absl::StrAppend(&text, "- traits: ", absl::StrJoin(traits, ", "), "\n");
    absl::StrAppend(&text, "- legal in: ", kLegal[static_cast<size_t>(def.legal)], "\n");
  }
  return text;
}

}  // namespace sinter
