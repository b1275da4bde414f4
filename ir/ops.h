// Ops as typed structs, and reflection over the op table.
//
// ops::Softmax{.x = s, .mask = m, .scale = 0.125} is what a builder adds and what a pass reads; OpDef is what the
// parser, the printer and the verifier read. Both come from the rows of ops.inc. An operand of a struct is a ValueId of
// the graph that the op stands in; an absent optional operand is ValueId::None().
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "ir/dims.h"
#include "ir/ids.h"

namespace sinter {

// The graph that a loop or a kernel names.
struct GraphRef {
  GraphId id;
  friend bool operator==(const GraphRef&, const GraphRef&) = default;
};

enum class OpKind : uint8_t {
#define OP(cls, mnemonic, fields, results, traits, stages, doc) k##cls,
#include "ir/ops.inc"
#undef OP
};

using Attr = std::variant<int64_t, double, bool, std::string, DimExpr, GraphRef, std::vector<int64_t>,
                          std::vector<double>, std::vector<std::string>>;

enum class OperandClass : uint8_t { kAny, kFloat, kInt, kNumber, kBool, kState };

// attend_parts cuts positions into parts that begin at multiples of this: one part is
// kPartStep * ceil(positions / (kPartStep * parts)) of them.
inline constexpr int64_t kPartStep = 32;

enum Trait : uint32_t {
  kNoTrait = 0,
  kElementwise = 1,
  kCommutative = 2,
  kReduce = 4,
  kView = 8,
  kSource = 16,
  kDeclared = 32,
  kAttention = 64,
};

enum class Stage : uint8_t { kGraph, kKernels, kPlanned };
absl::string_view StageName(Stage stage);

// Where an op may stand: in graphs of the graph stage and bodies, in entries of the lowered stages, or in both.
enum class Legal : uint8_t { kBody, kLowered, kAll };

namespace ops {
using enum OperandClass;
using VectorOfStrings = std::vector<std::string>;

#define IN(name, cls) ValueId name = {};
#define IN_OPT(name, cls) ValueId name = {};
#define IN_LIST(name, cls) std::vector<ValueId> name = {};
#define POS(type, name) type name = {};
#define ATTR(type, name, ...) type name = __VA_ARGS__;
#define OP(cls, mnemonic, fields, results, traits, stages, doc) \
  struct cls {                                                  \
    static constexpr OpKind kKind = OpKind::k##cls;             \
    fields                                                      \
  };
#include "ir/ops.inc"
#undef OP
#undef IN
#undef IN_OPT
#undef IN_LIST
#undef POS
#undef ATTR

// VisitFields(op, visitor) calls, field by field in the order of the row:
//   visitor.Operand(name, ValueId&, class, optional)   visitor.List(name, std::vector<ValueId>&, class)
//   visitor.Attribute(name, value&, positional)
#define IN(name, cls) visitor.Operand(#name, op.name, cls, false);
#define IN_OPT(name, cls) visitor.Operand(#name, op.name, cls, true);
#define IN_LIST(name, cls) visitor.List(#name, op.name, cls);
#define POS(type, name) visitor.Attribute(#name, op.name, true);
#define ATTR(type, name, ...) visitor.Attribute(#name, op.name, false);
#define OP(cls, mnemonic, fields, results, traits, stages, doc) \
  template <typename Visitor>                                   \
  void VisitFields(cls& op, Visitor&& visitor) {                \
    fields                                                      \
  }
#include "ir/ops.inc"
#undef OP
#undef IN
#undef IN_OPT
#undef IN_LIST
#undef POS
#undef ATTR
}  // namespace ops

struct OperandDef {
  absl::string_view name;
  OperandClass cls = OperandClass::kAny;
  bool optional = false;
  bool list = false;  // stands last and takes every further operand
};

struct AttrDef {
  absl::string_view name;
  Attr default_value;  // its alternative is the attribute's type
  bool positional = false;
};

struct OpDef {
  OpKind kind;
  absl::string_view name;  // the mnemonic
  absl::string_view doc;
  std::vector<OperandDef> operands;
  std::vector<AttrDef> attrs;
  int results = 1;  // -1: as the graph named
  uint32_t traits = 0;
  Legal legal = Legal::kBody;

  bool Has(Trait trait) const { return (traits & trait) != 0; }
};

const OpDef& Def(OpKind kind);
absl::Span<const OpDef> AllOps();
std::optional<OpKind> ParseOpKind(absl::string_view mnemonic);
// "a float tensor", ... and "an integer", "a list of strings", ... for messages and docs.
absl::string_view OperandClassName(OperandClass cls);
absl::string_view AttrTypeName(const Attr& attr);

// The erased form of an op, as a graph stores it. Operands in declaration order, absent optional ones as None (absent
// ones at the end are left out), attributes in declaration order, none missing.
struct OpFields {
  OpKind kind;
  absl::InlinedVector<ValueId, 4> operands;
  absl::InlinedVector<Attr, 4> attrs;
};

namespace internal {
struct Packer {
  OpFields& out;
  void Operand(absl::string_view, ValueId& v, OperandClass, bool) { out.operands.push_back(v); }
  void List(absl::string_view, std::vector<ValueId>& vs, OperandClass) {
    out.operands.insert(out.operands.end(), vs.begin(), vs.end());
  }
  template <typename T>
  void Attribute(absl::string_view, T& value, bool) {
    out.attrs.push_back(Attr(value));
  }
};
struct Unpacker {
  const OpFields& in;
  size_t operand = 0, attr = 0;
  void Operand(absl::string_view, ValueId& v, OperandClass, bool) {
    v = operand < in.operands.size() ? in.operands[operand] : ValueId::None();
    ++operand;
  }
  void List(absl::string_view, std::vector<ValueId>& vs, OperandClass) {
    for (; operand < in.operands.size(); ++operand) vs.push_back(in.operands[operand]);
  }
  template <typename T>
  void Attribute(absl::string_view, T& value, bool) {
    value = std::get<T>(in.attrs[attr++]);
  }
};
}  // namespace internal

template <typename Op>
OpFields Pack(Op op) {
  OpFields out{Op::kKind, {}, {}};
  ops::VisitFields(op, internal::Packer{out});
  while (!out.operands.empty() && !out.operands.back().valid()) out.operands.pop_back();
  return out;
}

// The typed struct of `fields`, whose kind must be Op's.
template <typename Op>
Op Unpack(const OpFields& fields) {
  Op op;
  ops::VisitFields(op, internal::Unpacker{fields});
  return op;
}

}  // namespace sinter
