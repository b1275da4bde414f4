// Draws the values and ops of one random graph: the tool box of random_graph.cc.
//
// Nothing that it adds is ill-formed, because Infer judges every op: what it refuses, and what would be larger than
// kMaxElems, is not added, and the answer is None. Handing a None on as an operand is refused in turn, so that a chain
// of calls needs one check at its end.
#pragma once

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "base/limits.h"
#include "ir/graph.h"
#include "tests/dice.h"

namespace sinter {

inline constexpr int64_t kMaxElems = 8192;  // of a value, at the largest dims
inline constexpr size_t kMaxOpKinds = 256;  // OpKind is a byte

using OpCounts = std::array<int64_t, kMaxOpKinds>;  // by OpKind

class GraphDrawer {
 public:
  // `graph` is empty; `counts` gets one more for every op that is added.
  GraphDrawer(Graph& graph, Dice& dice, OpCounts& counts);

  Graph& graph() { return graph_; }
  Dice& dice() { return dice_; }
  const Type& type(ValueId value) const { return graph_.type(value); }
  const DimTable& dims() const { return graph_.module().dims; }

  // Dims: one of the few numbers of this graph; the rows of a step (T), the rows that are wanted (L), the positions
  // seen (P+T).
  DimExpr Number() { return dice_.Pick(numbers_); }
  const DimExpr& rows() const { return rows_; }
  const DimExpr& wanted() const { return wanted_; }
  const DimExpr& seen() const { return seen_; }
  DimExpr AnyDim();
  // The positions of caches and of tables of sines: the largest P+T.
  int64_t positions() const { return positions_; }
  DType Float() { return dice_.Chance(80) ? DType::kF32 : other_float_; }
  Type RandomType();  // a tensor of floats

  // A value from outside: a parameter, or, where the type allows, a weight or a constant.
  ValueId Fresh(const Type& type);
  ValueId Param(const Type& type);
  ValueId Weight(const Type& type);
  ValueId Constant(double number, DType dtype, Dims dims = {1});
  // A parameter of positions or row numbers, i32[n] or i64[n], that rows of a table of `table` rows may be chosen by.
  // It is used for nothing else, lest a change of it lead out of the table.
  ValueId Index(const DimExpr& n);
  // A mask that broadcasts to `dims`.
  ValueId Mask(const Dims& dims);

  // An existing value that `fits`, recent ones preferred; None when there is none.
  template <typename Predicate>
  ValueId Existing(Predicate fits) {
    std::vector<ValueId> found;
    for (ValueId value : values_) {
      if (fits(type(value))) found.push_back(value);
    }
    if (found.empty()) return ValueId::None();
    const auto n = static_cast<int64_t>(found.size());
    return found[static_cast<size_t>(std::max(dice_.Below(n), dice_.Below(n)))];
  }
  // Any float value; there always is one.
  ValueId AnyFloat(int64_t min_rank = 1, int64_t max_rank = limits::kRank.most);
  // A value of exactly this type, existing or fresh.
  ValueId Like(const Type& type);
  // x made positive and not too small, so that it may be divided by and has a logarithm.
  ValueId Positive(ValueId x);

  // Adds an op; its first result, which may be used from now on.
  ValueId AddFields(const OpFields& fields, std::vector<Type> declared = {}, const std::string& loc = "");
  template <typename Op>
  [[gnu::noinline]] ValueId Add(Op op, std::vector<Type> declared = {}) {
    const OpFields fields = Pack(std::move(op));
    return AddFields(fields, std::move(declared));
  }
  // The op of the last AddFields that added one.
  OpId last() const { return last_; }

  // The body `sum over i of f(a[i], b[i])` of loops, for operands of these types; a plain dot product unless `variant`.
  GraphId DotBody(const DimExpr& k, DType a, DType b, bool variant);

  const std::vector<ValueId>& values() const { return values_; }
  // A value that must be returned: the last version of a state.
  void Return(ValueId value) { must_return_.push_back(value); }
  const std::vector<ValueId>& must_return() const { return must_return_; }
  // Takes a value out of what later ops may use.
  void Retire(ValueId value) { std::erase(values_, value); }
  void Use(ValueId value) { values_.push_back(value); }

 private:
  bool Fits(const Type& type) const;

  Graph& graph_;
  Dice& dice_;
  OpCounts& counts_;
  std::vector<DimExpr> numbers_;
  DimExpr rows_, wanted_, seen_;
  int64_t positions_;
  DType other_float_;
  OpId last_;
  std::vector<ValueId> values_;  // that ops may use: no states, no indices
  std::vector<ValueId> indices_, must_return_;
  absl::flat_hash_map<std::string, GraphId> bodies_;
  int weights_ = 0;
};

// Draws an op of this kind whose operands are existing or fresh values: by its recipe in random_ops.cc, or, for a row
// of the op table without one, with operands from CompleteOperands. Its first result, or None.
ValueId DrawOp(GraphDrawer& draw, OpKind kind);
// An operand of that class that broadcasts with `type`.
ValueId Companion(GraphDrawer& draw, const Type& type, OperandClass cls);
// A value by its class alone; None for states.
ValueId OfClass(GraphDrawer& draw, OperandClass cls);
// The type of a b for products of a [batch.., M, K] with it.
Type RightSide(GraphDrawer& draw, const Dims& batch, const DimExpr& k, bool trans_b);
// A number that divides n, from 1 to n.
int64_t Divisor(Dice& dice, int64_t n);
// A table of sines for rope of rows of this width.
ValueId DrawRopeTable(GraphDrawer& draw, const DimExpr& width, const std::string& style);
// Gives operands that are None a value, so that the op may be accepted; attributes stay as they are.
void CompleteOperands(GraphDrawer& draw, OpFields& fields);
// The result type of an op that declares it, of its first operand, whose type is `x`.
Type DeclaredType(GraphDrawer& draw, const OpFields& fields, const Type& x);

// Pieces of a model as a front end writes them, drawn in one of their many variants; the result, or None.
ValueId DrawLinear(GraphDrawer& draw, ValueId x, const DimExpr& columns);
ValueId DrawBlock(GraphDrawer& draw);

}  // namespace sinter
