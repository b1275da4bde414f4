#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "ir/lexer.h"
#include "ir/ops.h"
#include "ir/text.h"

namespace sinter {
namespace {

constexpr size_t kTypeColumn = 48;  // where `: types` starts, counted from the start of the op

std::string Name(char sigil, absl::string_view name) {
  return absl::StrCat(std::string(1, sigil), IsPlainName(name) ? std::string(name) : Quote(name));
}

// A malformed op prints too: the verifier shows it.
std::string ValueText(const Graph& graph, ValueId id) {
  if (!id.valid()) return "_";
  return id.value < graph.num_values() ? Name('%', graph.value(id).name) : "%<bad>";
}

std::string DoubleText(double value) {
  if (std::isnan(value)) return "nan";
  char buffer[32];
  const std::to_chars_result end = std::to_chars(buffer, buffer + sizeof(buffer), value);
  const std::string text(buffer, end.ptr);
  return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
}

struct AttrPrinter {
  const Module& module;

  std::string operator()(int64_t value) const { return absl::StrCat(value); }
  std::string operator()(double value) const { return DoubleText(value); }
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(const std::string& value) const { return Quote(value); }
  std::string operator()(const DimExpr& value) const { return module.dims.ToString(value); }
  std::string operator()(const GraphRef& value) const {
    return module.HasGraph(value.id) ? Name('@', module.graph(value.id).name()) : "@<bad>";
  }
  template <typename T>
  std::string operator()(const std::vector<T>& values) const {
    return absl::StrCat(
        "[", absl::StrJoin(values, ", ", [this](std::string* out, const T& value) { out->append((*this)(value)); }),
        "]");
  }
};

std::string TypeText(const Graph& graph, ValueId id) {
  const ValueData& value = graph.value(id);
  std::string out = ToString(value.type, graph.module().dims);
  if (value.address) absl::StrAppend(&out, " @", SpaceName(value.address->space), "+", value.address->at);
  return out;
}

template <typename Ids, typename Text>
std::string Join(const Graph& graph, const Ids& ids, Text text) {
  return absl::StrJoin(ids, ", ", [&](std::string* out, ValueId id) { out->append(text(graph, id)); });
}

void AppendGraph(const Graph& graph, absl::string_view indent, std::string& out) {
  const auto param = [](const Graph& g, ValueId id) { return absl::StrCat(ValueText(g, id), ": ", TypeText(g, id)); };
  absl::StrAppend(&out, indent, "graph ", Name('@', graph.name()), "(", Join(graph, graph.params(), param), ") -> (",
                  Join(graph, graph.results(), TypeText), ") {\n");
  for (OpId op : graph.order()) absl::StrAppend(&out, indent, "  ", PrintOp(graph, op), "\n");
  const std::string results = Join(graph, graph.results(), ValueText);
  absl::StrAppend(&out, indent, "  return", results.empty() ? "" : " ", results, "\n", indent, "}\n");
}

}  // namespace

std::string PrintOp(const Graph& graph, OpId id) {
  const OpData& op = graph.op(id);
  const OpDef& def = op.def();
  const AttrPrinter print{graph.module()};

  std::string out = absl::StrCat(Join(graph, op.results, ValueText), op.results.empty() ? "" : " = ", def.name);
  std::vector<std::string> attrs;
  bool parenthesized = false;
  for (size_t i = 0; i < def.attrs.size() && i < op.fields.attrs.size(); ++i) {
    const Attr& attr = op.fields.attrs[i];
    std::string text = std::visit(print, attr);
    if (def.attrs[i].positional) {
      absl::StrAppend(&out, " ", text);
      parenthesized = parenthesized || std::holds_alternative<GraphRef>(attr);
    } else if (text != std::visit(print, def.attrs[i].default_value)) {
      attrs.push_back(absl::StrCat(def.attrs[i].name, "=", text));
    }
  }
  const std::string operands = Join(graph, op.fields.operands, ValueText);
  if (parenthesized) {
    absl::StrAppend(&out, "(", operands, ")");
  } else if (!operands.empty()) {
    absl::StrAppend(&out, " ", operands);
  }
  if (!attrs.empty()) absl::StrAppend(&out, " {", absl::StrJoin(attrs, ", "), "}");
  if (op.results.empty()) return out;
  out.resize(std::max(out.size() + 1, kTypeColumn), ' ');
  absl::StrAppend(&out, ": ", Join(graph, op.results, TypeText));
  if (!op.loc.empty()) absl::StrAppend(&out, "   loc ", Quote(op.loc));
  return out;
}

std::string PrintGraph(const Graph& graph) {
  std::string out;
  AppendGraph(graph, "", out);
  return out;
}

std::string Print(const Module& module) {
  std::string out = absl::StrCat("module ", Name('@', module.name()));
  if (module.stage != Stage::kGraph) absl::StrAppend(&out, " stage ", StageName(module.stage));
  absl::StrAppend(&out, " {\n");
  for (const DimSymbol& symbol : module.dims.symbols()) {
    absl::StrAppend(&out, "  dim ", symbol.name, " in ", symbol.min, "..", symbol.max, "\n");
  }
  for (const DimBound& bound : module.dims.bounds()) {
    absl::StrAppend(&out, "  bound ", module.dims.ToString(bound.expr), " <= ", bound.max, "\n");
  }
  if (module.weights) {
    absl::StrAppend(&out, "  weights ", Quote(module.weights->path), " sha256 ", Quote(module.weights->sha256), "\n");
  }
  for (GraphId id : module.graphs()) AppendGraph(module.graph(id), "  ", out);
  return out + "}\n";
}

}  // namespace sinter
