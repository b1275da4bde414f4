#include "ir/ops.h"

#include "absl/container/flat_hash_map.h"

namespace sinter {
namespace {

struct DefBuilder {
  OpDef& def;
  void Operand(absl::string_view name, ValueId&, OperandClass cls, bool optional) {
    def.operands.push_back({name, cls, optional, false});
  }
  void List(absl::string_view name, std::vector<ValueId>&, OperandClass cls) {
    def.operands.push_back({name, cls, false, true});
  }
  template <typename T>
  void Attribute(absl::string_view name, T& value, bool positional) {
    def.attrs.push_back({name, Attr(value), positional});
  }
};

template <typename Op>
OpDef MakeDef(absl::string_view name, absl::string_view doc, int results, uint32_t traits, Legal legal) {
  OpDef def{Op::kKind, name, doc, {}, {}, results, traits, legal};
  Op op;
  ops::VisitFields(op, DefBuilder{def});
  return def;
}

const std::vector<OpDef>& Table() {
  using enum Legal;
  static const auto* const kTable = new std::vector<OpDef>{
#define OP(cls, mnemonic, fields, results, traits, stages, doc) \
  MakeDef<ops::cls>(#mnemonic, doc, results, traits, stages),
#include "ir/ops.inc"
#undef OP
  };
  return *kTable;
}

constexpr absl::string_view kStageNames[] = {"graph", "kernels", "planned"};

// By OperandClass.
constexpr absl::string_view kOperandClassNames[] = {
    "a tensor", "a float tensor", "an integer tensor", "a float or integer tensor", "a bool tensor", "a state"};

// By the index of the alternative in Attr.
constexpr absl::string_view kAttrTypeNames[] = {
    "an integer", "a number",           "true or false",     "a string",         "a dim",
    "a graph",    "a list of integers", "a list of numbers", "a list of strings"};
static_assert(std::size(kAttrTypeNames) == std::variant_size_v<Attr>);

}  // namespace

absl::string_view StageName(Stage stage) { return kStageNames[static_cast<size_t>(stage)]; }

const OpDef& Def(OpKind kind) { return Table()[static_cast<size_t>(kind)]; }

absl::Span<const OpDef> AllOps() { return Table(); }

std::optional<OpKind> ParseOpKind(absl::string_view mnemonic) {
  static const auto* const kByName = [] {
    auto* map = new absl::flat_hash_map<absl::string_view, OpKind>;
    for (const OpDef& def : Table()) map->emplace(def.name, def.kind);
    return map;
  }();
  const auto it = kByName->find(mnemonic);
  if (it == kByName->end()) return std::nullopt;
  return it->second;
}

absl::string_view OperandClassName(OperandClass cls) { return kOperandClassNames[static_cast<size_t>(cls)]; }

absl::string_view AttrTypeName(const Attr& attr) { return kAttrTypeNames[attr.index()]; }

}  // namespace sinter
