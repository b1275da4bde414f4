// specialize: beside an entry NAME for any number of tokens, an entry NAME.1 for one and, where the weights are more
// than caches hold, NAME.8 for 2 to 8, all over the same weights.
//
// T is the number of tokens in a step and L the number of rows whose logits are wanted; decoding has T = L = 1, and
// with numbers in their place products become products with a vector. A few tokens (a short prompt, several guesses at
// once) cost what reading the weights costs, if the weights are read once for all of them.
#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/limits.h"
#include "base/status.h"
#include "ir/lexer.h"
#include "passes/pass.h"

namespace sinter {
namespace {

bool Mentions(const Dims& dims, DimId symbol) {
  return std::any_of(dims.begin(), dims.end(), [&](const DimExpr& dim) {
    return std::any_of(dim.terms().begin(), dim.terms().end(), [&](const DimExpr::Term& term) {
      return std::find(term.symbols.begin(), term.symbols.end(), symbol) != term.symbols.end();
    });
  });
}

bool TakesTokens(const Graph& graph, DimId tokens) {
  return std::any_of(graph.params().begin(), graph.params().end(),
                     [&](ValueId param) { return Mentions(graph.type(param).dims, tokens); });
}

// T and L as other symbols, T in 2..8 and L up to 8, with the bounds of the old ones; None when T cannot be in 2..8, or
// text may not state so many dims or bounds.
absl::StatusOr<std::optional<IdMap<DimId, DimExpr>>> FewTokens(Module& module) {
  IdMap<DimId, DimExpr> by;
  DimTable dims = module.dims;
  for (uint32_t i = 0; i < module.dims.symbols().size(); ++i) {
    const DimSymbol& symbol = module.dims.symbols()[DimId{i}];
    if (symbol.name != "T" && symbol.name != "L") {
      by.Add(DimExpr::Symbol(DimId{i}));
      continue;
    }
    const int64_t least = std::max<int64_t>(symbol.min, symbol.name == "T" ? 2 : 1);
    const int64_t most = std::min<int64_t>(symbol.max, kFewRows);
    const std::string name = absl::StrCat(symbol.name, kFewRows);
    if (least > most || dims.Find(name).valid()) return std::nullopt;
    SINTER_ASSIGN_OR_RETURN(const DimId few, dims.Add({name, least, most}));
    by.Add(DimExpr::Symbol(few));
  }
  for (const DimBound& bound : module.dims.bounds()) {
    const DimExpr expr = bound.expr.Substitute(by);
    if (expr == bound.expr) continue;
    dims.AddBound({expr, bound.max});
  }
  if (limits::kTextDimSymbols.Exceeded(dims.symbols().size()) || limits::kBounds.Exceeded(dims.bounds().size())) {
    return std::nullopt;
  }
  module.dims = std::move(dims);
  return by;
}

}  // namespace

absl::StatusOr<bool> Specialize(Module& module, PassContext&) {
  IdMap<DimId, DimExpr> one;
  for (uint32_t i = 0; i < module.dims.symbols().size(); ++i) {
    const DimSymbol& symbol = module.dims.symbols()[DimId{i}];
    const bool rows = symbol.name == "T" || symbol.name == "L";
    if (rows && (symbol.min > 1 || symbol.max < 1)) return false;
    one.Add(rows ? DimExpr(1) : DimExpr::Symbol(DimId{i}));
  }
  // With a number for T a joint bound says nothing of T any more: what it allowed the other symbols, their ranges must.
  for (const DimBound& bound : module.dims.bounds()) {
    if (module.dims.Max(bound.expr.Substitute(one)) > bound.max) return false;
  }
  const DimId tokens = module.dims.Find("T");
  if (!tokens.valid()) return false;
  std::vector<GraphId> general;
  for (GraphId id : module.entries()) {
    const Graph& graph = module.graph(id);
    const std::string name = absl::StrCat(graph.name(), ".1");
    const bool free = module.FindGraph(name) == nullptr && !limits::kTextNameBytes.Exceeded(Quote(name).size());
    if (graph.name().find('.') == std::string::npos && TakesTokens(graph, tokens) && free) general.push_back(id);
  }
  for (GraphId id : general) {
    SINTER_RETURN_IF_ERROR(
        CloneGraph(module.graph(id), module, absl::StrCat(module.graph(id).name(), ".1"), one).status());
  }
  const bool streams = std::any_of(general.begin(), general.end(),
                                   [&](GraphId id) { return WeightBytes(module.graph(id)) >= kStreamedBytes; });
  if (!streams) return !general.empty();
  SINTER_ASSIGN_OR_RETURN(const auto few, FewTokens(module));
  for (GraphId id : general) {
    if (!few || WeightBytes(module.graph(id)) < kStreamedBytes) continue;
    const std::string name = absl::StrCat(module.graph(id).name(), ".", kFewRows);
    SINTER_RETURN_IF_ERROR(CloneGraph(module.graph(id), module, name, *few).status());
  }
  return !general.empty();
}

}  // namespace sinter
