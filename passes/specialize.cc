// specialize: beside an entry NAME for any number of tokens, an entry NAME.1 for one, over the same weights.
//
// T is the number of tokens in a step and L the number of rows whose logits are wanted; decoding has T = L = 1, and
// with numbers in their place products become products with a vector.
#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "passes/pass.h"

namespace sinter {
namespace {

bool Mentions(const Graph& graph, DimId symbol) {
  for (ValueId param : graph.params()) {
    for (const DimExpr& dim : graph.type(param).dims) {
      for (const DimExpr::Term& term : dim.terms()) {
        if (std::find(term.symbols.begin(), term.symbols.end(), symbol) != term.symbols.end()) return true;
      }
    }
  }
  return false;
}

}  // namespace

absl::StatusOr<bool> Specialize(Module& module, PassContext&) {
  IdMap<DimId, DimExpr> by;
  for (uint32_t i = 0; i < module.dims.symbols().size(); ++i) {
    const DimSymbol& symbol = module.dims.symbols()[DimId{i}];
    const bool rows = symbol.name == "T" || symbol.name == "L";
    if (rows && symbol.min > 1) return false;
    by.Add(rows ? DimExpr(1) : DimExpr::Symbol(DimId{i}));
  }
  const DimId tokens = module.dims.Find("T");
  if (!tokens.valid()) return false;
  bool changed = false;
  for (GraphId id : module.entries()) {
    const Graph& graph = module.graph(id);
    const std::string name = absl::StrCat(graph.name(), ".1");
    if (graph.name().find('.') != std::string::npos || !Mentions(graph, tokens) || module.FindGraph(name) != nullptr)
      continue;
    SINTER_RETURN_IF_ERROR(CloneGraph(graph, module, name, by).status());
    changed = true;
  }
  return changed;
}

}  // namespace sinter
