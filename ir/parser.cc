#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/escape.h"
#include "base/limits.h"
#include "base/status.h"
#include "ir/diag.h"
#include "ir/ops.h"
#include "ir/reader.h"
#include "ir/text.h"
#include "ir/verifier.h"

namespace sinter {
namespace {

std::string UnknownOp(absl::string_view mnemonic) {
  constexpr size_t kLongest = 32;
  const absl::string_view shown = mnemonic.substr(0, kLongest);
  size_t best = 1 + std::max<size_t>(2, shown.size() / 3);
  absl::string_view nearest;
  for (const OpDef& def : AllOps()) {
    const size_t distance = EditDistance(shown, def.name);
    if (distance < best) best = distance, nearest = def.name;
  }
  return absl::StrCat("no op is called '", shown, "'",
                      nearest.empty() ? "" : absl::StrCat("; the nearest is '", nearest, "'"));
}

// "x, mask (optional)".
std::string OperandNames(const OpDef& def) {
  if (def.operands.empty()) return "no operands";
  return absl::StrJoin(def.operands, ", ", [](std::string* out, const OperandDef& operand) {
    absl::StrAppend(out, operand.name, operand.optional ? " (optional)" : operand.list ? " (any number)" : "");
  });
}

std::string AttrNames(const OpDef& def) {
  std::vector<absl::string_view> names;
  for (const AttrDef& attr : def.attrs) {
    if (!attr.positional) names.push_back(attr.name);
  }
  return names.empty() ? absl::StrCat(def.name, " has none")
                       : absl::StrCat(def.name, " has ", absl::StrJoin(names, ", "));
}

// How many views an op and those under it are.
int64_t ViewsUpTo(const Graph& graph, OpId op) {
  int64_t views = 0;
  for (; op.valid() && graph.op(op).def().Has(kView); op = graph.value(graph.op(op).fields.operands[0]).def) ++views;
  return views;
}

// Reads a module in two passes over its graphs: the first makes them by name and notes which graphs each one names, the
// second fills them, a named graph before those that name it, because inference looks into bodies.
class Parser {
 public:
  Parser(absl::string_view text, absl::string_view file_name) : in_(text, file_name), file_name_(file_name) {}

  absl::StatusOr<std::unique_ptr<Module>> ParseModule();

 private:
  struct Pending {
    Token name;
    size_t offset = 0;        // of the text after the name
    std::vector<Token> refs;  // graphs that it names
  };
  struct Result {
    Token at;
    std::string name;
    Type type;
    std::optional<Address> address;
  };

  // Whether there is room for one more after `count` of them.
  absl::Status CheckRoom(const Token& at, absl::string_view what, size_t count, const Limit& limit) const {
    if (!limit.Exceeded(count + 1)) return absl::OkStatus();
    return in_.Error(at, absl::StrCat("too many ", what, ": ", limit.Text()));
  }
  absl::Status ParseHeader();
  absl::Status ParseDim();
  absl::Status ParseBound();
  absl::Status ParseWeights();
  absl::Status ScanGraph();
  absl::Status ParseGraphs();
  absl::Status ParseGraph(GraphId id);
  absl::StatusOr<std::vector<std::pair<Type, std::optional<Address>>>> ParseSignatureResults();
  absl::Status ParseParams();
  absl::Status ParseOp();
  absl::Status ParsePositional(const OpDef& def, OpFields& fields, bool& parenthesized);
  absl::Status ParseOperands(const OpDef& def, bool parenthesized, OpFields& fields);
  absl::Status ParseAttrs(const OpDef& def, OpFields& fields);
  absl::StatusOr<ValueId> ParseUse();
  absl::Status Define(const Token& at, const std::string& name, ValueId id);

  Reader in_;
  std::string file_name_;
  std::unique_ptr<Module> module_;
  std::vector<Pending> pending_;  // by GraphId, which a new module counts from 0
  GraphNames graphs_;
  Graph* graph_ = nullptr;
  absl::flat_hash_map<std::string, ValueId> values_;  // of *graph_
};

absl::StatusOr<std::unique_ptr<Module>> Parser::ParseModule() {
  SINTER_RETURN_IF_ERROR(ParseHeader());
  while (!in_.At("}")) {
    if (in_.Accept("dim")) {
      SINTER_RETURN_IF_ERROR(ParseDim());
    } else if (in_.Accept("bound")) {
      SINTER_RETURN_IF_ERROR(ParseBound());
    } else if (in_.Accept("weights")) {
      SINTER_RETURN_IF_ERROR(ParseWeights());
    } else if (in_.Accept("graph")) {
      SINTER_RETURN_IF_ERROR(ScanGraph());
      // A graph without its end reaches the end of the text: the second pass says where it went wrong.
      const size_t offset = in_.token().offset;
      if (in_.At(TokenKind::kEnd)) {
        SINTER_RETURN_IF_ERROR(ParseGraphs());
        in_.Seek(offset);
      }
    } else {
      return in_.Expected("dim, bound, weights, graph or '}'");
    }
  }
  in_.Advance();
  if (!in_.At(TokenKind::kEnd)) return in_.Expected("the end of the text");
  SINTER_RETURN_IF_ERROR(ParseGraphs());
  const absl::Status verified = Verify(*module_);
  if (!verified.ok()) return absl::Status(verified.code(), absl::StrCat(file_name_, ": ", verified.message()));
  return std::move(module_);
}

absl::Status Parser::ParseHeader() {
  SINTER_RETURN_IF_ERROR(in_.Expect("module"));
  SINTER_ASSIGN_OR_RETURN(std::string name, in_.Name(TokenKind::kGraphName, "the module's @name"));
  module_ = std::make_unique<Module>(std::move(name));
  if (in_.Accept("stage")) {
    if (in_.Accept(StageName(Stage::kKernels))) {
      module_->stage = Stage::kKernels;
    } else if (in_.Accept(StageName(Stage::kPlanned))) {
      module_->stage = Stage::kPlanned;
    } else {
      return in_.Expected("kernels or planned");
    }
  }
  return in_.Expect("{");
}

absl::Status Parser::ParseDim() {
  const Token at = in_.token();
  SINTER_RETURN_IF_ERROR(CheckRoom(at, "dims", module_->dims.symbols().size(), limits::kTextDimSymbols));
  DimSymbol symbol;
  SINTER_ASSIGN_OR_RETURN(symbol.name, in_.Word("the dim's name"));
  SINTER_RETURN_IF_ERROR(in_.Expect("in"));
  SINTER_ASSIGN_OR_RETURN(symbol.min, in_.Integer());
  SINTER_RETURN_IF_ERROR(in_.Expect(".."));
  SINTER_ASSIGN_OR_RETURN(symbol.max, in_.Integer());
  const absl::StatusOr<DimId> id = module_->dims.Add(std::move(symbol));
  return id.ok() ? absl::OkStatus() : in_.Error(at, id.status().message());
}

absl::Status Parser::ParseBound() {
  SINTER_RETURN_IF_ERROR(CheckRoom(in_.token(), "bounds", module_->dims.bounds().size(), limits::kBounds));
  const Token at = in_.token();
  DimBound bound;
  SINTER_ASSIGN_OR_RETURN(bound.expr, in_.Dim(module_->dims));
  if (limits::kBoundTerms.Exceeded(bound.expr.terms().size())) {
    return in_.Error(at, absl::StrCat("this bound has too many terms: ", limits::kBoundTerms.Text()));
  }
  SINTER_RETURN_IF_ERROR(in_.Expect("<="));
  SINTER_ASSIGN_OR_RETURN(bound.max, in_.Integer());
  module_->dims.AddBound(std::move(bound));
  return absl::OkStatus();
}

absl::Status Parser::ParseWeights() {
  if (module_->weights) return in_.Error(in_.token(), "the module names its weight file twice");
  WeightsFile file;
  SINTER_ASSIGN_OR_RETURN(file.path, in_.String("the weight file's name in quotes"));
  SINTER_RETURN_IF_ERROR(in_.Expect("sha256"));
  SINTER_ASSIGN_OR_RETURN(file.sha256, in_.String("a digest in quotes"));
  module_->weights = std::move(file);
  return absl::OkStatus();
}

// Skips a graph: to the brace that closes it after its return, or to where the next graph shows that it has none.
absl::Status Parser::ScanGraph() {
  Pending pending{.name = in_.token()};
  SINTER_ASSIGN_OR_RETURN(const std::string name, in_.Name(TokenKind::kGraphName, "the graph's @name"));
  SINTER_RETURN_IF_ERROR(CheckRoom(pending.name, "graphs", pending_.size(), limits::kGraphs));
  if (graphs_.contains(name)) {
    return in_.Error(pending.name, absl::StrCat("graph ", Reader::Shown(pending.name.text), " is defined twice"));
  }
  graphs_.emplace(name, module_->AddGraph(name).id());
  pending.offset = in_.token().offset;
  bool returned = false;
  while (!in_.At(TokenKind::kEnd) && !in_.At("graph")) {
    if (in_.At(TokenKind::kError)) return in_.Expected("a token");
    if (returned && in_.Accept("}")) break;
    returned = returned || in_.At("return");
    const Token token = in_.token();
    in_.Advance();
    if (token.kind == TokenKind::kGraphName && in_.At("(")) pending.refs.push_back(token);
  }
  pending_.push_back(std::move(pending));
  return absl::OkStatus();
}

// Depth first without recursion: a chain of graphs may be as long as the text.
absl::Status Parser::ParseGraphs() {
  enum class Mark { kNew, kOpen, kDone };
  std::vector<Mark> marks(pending_.size(), Mark::kNew);
  std::vector<std::pair<size_t, size_t>> stack;  // a graph, and how many of its refs are done
  for (size_t root = 0; root < pending_.size(); ++root) {
    if (marks[root] == Mark::kNew) stack.emplace_back(root, 0);
    while (!stack.empty()) {
      auto& [index, next] = stack.back();
      marks[index] = Mark::kOpen;
      if (next == pending_[index].refs.size()) {
        SINTER_RETURN_IF_ERROR(ParseGraph(GraphId{static_cast<uint32_t>(index)}));
        marks[index] = Mark::kDone;
        stack.pop_back();
        continue;
      }
      const Token& ref = pending_[index].refs[next++];
      SINTER_ASSIGN_OR_RETURN(const std::string name, in_.NameIn(ref));
      const auto found = graphs_.find(name);
      if (found == graphs_.end()) continue;  // the op that names it says so
      const size_t body = found->second.value;
      if (marks[body] == Mark::kOpen) {
        return in_.Error(ref,
                         absl::StrCat("graph ", Reader::Shown(ref.text), " names itself, directly or through others"));
      }
      if (marks[body] == Mark::kNew) stack.emplace_back(body, 0);
    }
  }
  return absl::OkStatus();
}

absl::Status Parser::ParseGraph(GraphId graph) {
  graph_ = &module_->graph(graph);
  values_.clear();
  in_.Seek(pending_[graph.value].offset);
  SINTER_RETURN_IF_ERROR(ParseParams());
  SINTER_ASSIGN_OR_RETURN(const auto signature, ParseSignatureResults());
  SINTER_RETURN_IF_ERROR(in_.Expect("{"));
  while (in_.At(TokenKind::kValueName)) SINTER_RETURN_IF_ERROR(ParseOp());
  if (!in_.At("return")) return in_.Expected("an op or return");
  const Token at = in_.token();
  in_.Advance();

  std::vector<ValueId> results;
  while (in_.At(TokenKind::kValueName)) {
    const Token use = in_.token();
    SINTER_ASSIGN_OR_RETURN(const ValueId id, ParseUse());
    if (results.size() < signature.size()) {
      const auto& [type, address] = signature[results.size()];
      if (type != graph_->type(id)) {
        return in_.Error(use, absl::StrCat(Reader::Shown(use.text), " is ", ToString(graph_->type(id), module_->dims),
                                           "; the graph declares ", ToString(type, module_->dims)));
      }
      if (address && address != graph_->value(id).address) {
        return in_.Error(use, absl::StrCat(Reader::Shown(use.text), " has another address than the graph declares"));
      }
    }
    results.push_back(id);
    if (!in_.Accept(",")) break;
    if (!in_.At(TokenKind::kValueName)) return in_.Expected("a value");
  }
  if (results.size() != signature.size()) {
    return in_.Error(at, absl::StrCat("expected ", signature.size(), " values, as many as the graph declares; found ",
                                      results.size()));
  }
  graph_->SetResults(std::move(results));
  return in_.Expect("}");
}

absl::Status Parser::ParseParams() {
  SINTER_RETURN_IF_ERROR(in_.Expect("("));
  if (in_.Accept(")")) return absl::OkStatus();
  do {
    const Token at = in_.token();
    SINTER_RETURN_IF_ERROR(CheckRoom(at, "parameters", graph_->params().size(), limits::kOperands));
    SINTER_ASSIGN_OR_RETURN(const std::string name, in_.Name(TokenKind::kValueName, "a parameter or ')'"));
    SINTER_RETURN_IF_ERROR(in_.Expect(":"));
    const Token type_at = in_.token();
    SINTER_ASSIGN_OR_RETURN(Type type, in_.TypeOf(module_->dims));
    const absl::StatusOr<int64_t> bytes = MaxBytes(type, module_->dims);
    if (!bytes.ok()) return in_.Error(type_at, bytes.status().message());
    SINTER_ASSIGN_OR_RETURN(const std::optional<Address> address, in_.OptionalAddress());
    const ValueId id = graph_->AddParam(name, std::move(type));
    SINTER_RETURN_IF_ERROR(Define(at, name, id));
    if (address) graph_->SetAddress(id, *address);
  } while (in_.Accept(","));
  return in_.At(")") ? in_.Expect(")") : in_.Expected("',' or ')'");
}

// `-> (type, ...)`; the parentheses may be left out around one type.
absl::StatusOr<std::vector<std::pair<Type, std::optional<Address>>>> Parser::ParseSignatureResults() {
  std::vector<std::pair<Type, std::optional<Address>>> results;
  SINTER_RETURN_IF_ERROR(in_.Expect("->"));
  const bool parenthesized = in_.Accept("(");
  if (parenthesized && in_.Accept(")")) return results;
  do {
    SINTER_RETURN_IF_ERROR(CheckRoom(in_.token(), "results", results.size(), limits::kOperands));
    SINTER_ASSIGN_OR_RETURN(Type type, in_.TypeOf(module_->dims));
    SINTER_ASSIGN_OR_RETURN(const std::optional<Address> address, in_.OptionalAddress());
    results.emplace_back(std::move(type), address);
  } while (parenthesized && in_.Accept(","));
  if (parenthesized) SINTER_RETURN_IF_ERROR(in_.At(")") ? in_.Expect(")") : in_.Expected("',' or ')'"));
  return results;
}

absl::Status Parser::Define(const Token& at, const std::string& name, ValueId id) {
  if (values_.emplace(name, id).second) return absl::OkStatus();
  return in_.Error(at, absl::StrCat(Reader::Shown(at.text), " is defined twice"));
}

absl::StatusOr<ValueId> Parser::ParseUse() {
  const Token at = in_.token();
  SINTER_ASSIGN_OR_RETURN(const std::string name, in_.Name(TokenKind::kValueName, "a value"));
  const auto found = values_.find(name);
  if (found == values_.end())
    return in_.Error(at, absl::StrCat("no value is called ", Reader::Shown(at.text), " so far"));
  return found->second;
}

absl::Status Parser::ParseOp() {
  std::vector<Result> results;
  do {
    SINTER_RETURN_IF_ERROR(CheckRoom(in_.token(), "results", results.size(), limits::kOperands));
    Result result{.at = in_.token()};
    SINTER_ASSIGN_OR_RETURN(result.name, in_.Name(TokenKind::kValueName, "a result"));
    results.push_back(std::move(result));
  } while (in_.Accept(","));
  SINTER_RETURN_IF_ERROR(in_.Expect("="));

  const Token at = in_.token();
  if (!in_.At(TokenKind::kWord)) return in_.Expected("an op");
  const std::optional<OpKind> kind = ParseOpKind(at.text);
  if (!kind) return in_.Error(at, UnknownOp(at.text));
  const OpDef& def = Def(*kind);
  in_.Advance();
  if (def.results >= 0 && static_cast<size_t>(def.results) != results.size()) {
    return in_.Error(at, absl::StrCat("expected ", def.results, " results of ", def.name, "; found ", results.size()));
  }

  OpFields fields{*kind, {}, {}};
  for (const AttrDef& attr : def.attrs) fields.attrs.push_back(attr.default_value);
  bool parenthesized = false;
  SINTER_RETURN_IF_ERROR(ParsePositional(def, fields, parenthesized));
  SINTER_RETURN_IF_ERROR(ParseOperands(def, parenthesized, fields));
  SINTER_RETURN_IF_ERROR(ParseAttrs(def, fields));

  const Token colon = in_.token();
  if (!in_.Accept(":")) return in_.Expected(def.attrs.empty() ? "':' and the result's type" : "attributes or ':'");
  AddOptions options;
  for (Result& result : results) {
    if (&result != &results[0]) SINTER_RETURN_IF_ERROR(in_.Expect(","));
    const Token name = std::exchange(result.at, in_.token());
    SINTER_ASSIGN_OR_RETURN(result.type, in_.TypeOf(module_->dims));
    SINTER_ASSIGN_OR_RETURN(result.address, in_.OptionalAddress());
    SINTER_RETURN_IF_ERROR(Define(name, result.name, ValueId::None()));
    options.names.push_back(result.name);
    if (def.Has(kDeclared)) options.declared.push_back(result.type);
  }
  if (in_.At(",")) return in_.Error(colon, absl::StrCat("expected ", results.size(), " types; found more"));
  if (in_.Accept("loc")) {
    SINTER_ASSIGN_OR_RETURN(options.loc, in_.String("a place in quotes"));
  }

  const absl::StatusOr<OpId> id = graph_->AddFields(std::move(fields), std::move(options));
  if (!id.ok()) return in_.Error(at, id.status().message());
  const OpData& op = graph_->op(*id);
  if (op.results.size() != results.size()) {
    return in_.Error(at, absl::StrCat("expected ", op.results.size(), " results; found ", results.size()));
  }
  if (limits::kViewChain.Exceeded(ViewsUpTo(*graph_, *id))) {
    return in_.Error(at, absl::StrCat("too many views of views: ", limits::kViewChain.Text()));
  }
  for (size_t i = 0; i < results.size(); ++i) {
    const Result& result = results[i];
    const ValueId value = op.results[i];
    if (graph_->type(value) != result.type) {
      return in_.Error(result.at, absl::StrCat("declared ", ToString(result.type, module_->dims), "; inferred ",
                                               ToString(graph_->type(value), module_->dims)));
    }
    if (result.address) graph_->SetAddress(value, *result.address);
    values_[result.name] = value;
  }
  return absl::OkStatus();
}

absl::Status Parser::ParsePositional(const OpDef& def, OpFields& fields, bool& parenthesized) {
  for (size_t i = 0; i < def.attrs.size(); ++i) {
    if (!def.attrs[i].positional) continue;
    SINTER_ASSIGN_OR_RETURN(fields.attrs[i], in_.AttrLike(def.attrs[i].default_value, module_->dims, graphs_));
    parenthesized = parenthesized || std::holds_alternative<GraphRef>(fields.attrs[i]);
  }
  return absl::OkStatus();
}

absl::Status Parser::ParseOperands(const OpDef& def, bool parenthesized, OpFields& fields) {
  const Token begin = in_.token();
  if (parenthesized) SINTER_RETURN_IF_ERROR(in_.Expect("("));
  const bool list = !def.operands.empty() && def.operands.back().list;
  bool more = in_.At(TokenKind::kValueName) || in_.At("_");
  while (more) {
    const size_t position = fields.operands.size();
    if (list) SINTER_RETURN_IF_ERROR(CheckRoom(in_.token(), "operands", position, limits::kOperands));
    if (!list && position == def.operands.size()) {
      return in_.Error(in_.token(), absl::StrCat("expected fewer operands: ", def.name, " takes ", OperandNames(def)));
    }
    if (in_.At("_")) {
      if (!def.operands[std::min(position, def.operands.size() - 1)].optional) {
        return in_.Expected(absl::StrCat("a value: this operand of ", def.name, " is not optional"));
      }
      in_.Advance();
      fields.operands.push_back(ValueId::None());
    } else {
      SINTER_ASSIGN_OR_RETURN(const ValueId id, ParseUse());
      fields.operands.push_back(id);
    }
    more = in_.Accept(",");
  }
  while (!fields.operands.empty() && !fields.operands.back().valid()) fields.operands.pop_back();
  const size_t least = static_cast<size_t>(std::count_if(def.operands.begin(), def.operands.end(),
                                                         [](const OperandDef& o) { return !o.optional && !o.list; }));
  if (fields.operands.size() < least) {
    return in_.Error(begin, absl::StrCat("expected the operands of ", def.name, ", ", OperandNames(def), "; found ",
                                         fields.operands.size()));
  }
  return parenthesized ? in_.Expect(")") : absl::OkStatus();
}

absl::Status Parser::ParseAttrs(const OpDef& def, OpFields& fields) {
  if (!in_.Accept("{")) return absl::OkStatus();
  std::vector<bool> seen(def.attrs.size());
  do {
    const Token at = in_.token();
    SINTER_ASSIGN_OR_RETURN(const std::string name, in_.Word("an attribute's name"));
    const auto attr = std::find_if(def.attrs.begin(), def.attrs.end(),
                                   [&](const AttrDef& a) { return !a.positional && a.name == name; });
    if (attr == def.attrs.end()) {
      return in_.Error(at, absl::StrCat("no attribute is called '", Reader::Shown(name), "'; ", AttrNames(def)));
    }
    const size_t index = static_cast<size_t>(attr - def.attrs.begin());
    if (seen[index]) return in_.Error(at, absl::StrCat("attribute ", name, " is given twice"));
    seen[index] = true;
    SINTER_RETURN_IF_ERROR(in_.Expect("="));
    SINTER_ASSIGN_OR_RETURN(fields.attrs[index], in_.AttrLike(attr->default_value, module_->dims, graphs_));
  } while (in_.Accept(","));
  return in_.At("}") ? in_.Expect("}") : in_.Expected("',' or '}'");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Module>> Parse(absl::string_view text, absl::string_view file_name) {
  if (limits::kTextBytes.Exceeded(text.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name, ": ", text.size(), " bytes: ", limits::kTextBytes.Text()));
  }
  absl::StatusOr<std::unique_ptr<Module>> module = Parser(text, file_name).ParseModule();
  if (module.ok()) return module;
  // Names are any bytes, and stand in messages of inference and of the verifier as they are.
  return absl::Status(module.status().code(), EscapedLines(module.status().message()));
}

}  // namespace sinter
