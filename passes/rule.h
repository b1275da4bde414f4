// Rewrite rules as data, in the IR's own syntax: named lines, `=>`, the lines that replace the last of them.
//
//   %s = select %mask, %x, -inf
//   %p = softmax %s {scale=$a}
//   =>
//   %p = softmax %x, %mask {scale=$a}
//
// Left side: a DAG of lines in order; its root is the last one. A name that no line makes binds any value. A number as
// an operand stands for a constant whose elements all equal it (to 1e-6, so that roundings of sqrt(2/pi) count; an
// infinity exactly); $name binds such a constant's element, and as an attribute that attribute; the same name must mean
// the same every time. An attribute left out has its default; an axis counts from either end; true and false are 1 and
// 0. Operands of commutative ops match in both orders. Before a line of free names, `shared` lets other ops use its
// value too: what they use stays.
// Right side: lines of which the last makes the root anew. An attribute is a string or a product of numbers and $names
// ($a*$c, 1/$d); a number as an operand is such a product, too, a constant of one element in the root's element type. A
// line that makes a name of the left side anew stands in the place of that op and has its result type, name and loc.
//
// A match is rewritten when no value between has a user outside the match or is a result of the graph, when no value
// that it reads looks at a state that is overwritten (the new op may stand after that), when `when` (if any) agrees,
// and when Infer accepts the new ops and gives the root its very type. The new root takes the old one's name and loc.
// Constants that lose their last user go too. A rule must not make something that it matches again forever.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "ir/graph.h"

namespace sinter {

struct RuleMatch;

struct Rule {
  std::string name;  // variants of one rule share it
  std::string text;
  bool (*when)(const RuleMatch& match) = nullptr;
};

// A rule read from its text. Names are indices: of `values` for %name, of `scalars` for $name.
struct ParsedRule {
  struct Factor {
    int scalar = -1;  // -1: the number
    double number = 1;
    bool divides = false;
  };
  using Product = std::vector<Factor>;  // on the left side one factor
  struct Operand {
    int value = -1;  // -1: the number
    Product number;
  };
  struct Attribute {
    size_t index = 0;  // in the op's row
    std::string text;  // of an attribute that is a string
    Product number;
  };
  struct Line {
    std::string text;
    OpKind kind = {};
    bool shared = false;
    int result = -1;
    std::vector<Operand> operands;
    std::vector<Attribute> attributes;
  };

  const Rule* rule = nullptr;
  std::vector<std::string> values, scalars;
  std::vector<int> maker;  // of each value: the line of the left side that makes it; -1: free, or of the right side
  size_t left_values = 0;  // those that the left side names come first
  std::vector<Line> left, right;
};

// kInternal: a text that is no rule. `rule` must outlive the result.
absl::StatusOr<ParsedRule> ParseRule(const Rule& rule);

// What the names of a rule are bound to.
struct RuleMatch {
  const ParsedRule& rule;
  const Graph& graph;
  std::vector<ValueId> values;  // None: not bound
  std::vector<std::optional<double>> scalars;

  // Of names that the left side binds.
  double scalar(absl::string_view name) const;
  const Type& type(absl::string_view name) const;
  bool is_constant(absl::string_view name) const;
};

// A condition of rules: %wide is a conversion of %narrow to a wider type, made for the precision that fused ops have
// anyway.
bool Widens(const RuleMatch& match);

// How far a rule got at one root: the attempt that found most lines.
struct RuleTrace {
  size_t lines = 0;  // found, of the left side
  OpId root;
  const ParsedRule* rule = nullptr;
  ParsedRule::Operand expected;  // what the left side says
  ValueId bound;                 // where that is a name which stands for a value already: the value
  ValueId found;                 // what stood there instead; None: all was as expected, and
  std::string refusal;           // this is why the match was not rewritten
};

// Rewrites the op `root` by the rule; its replacement, or None where the rule does not apply. A trace that found fewer
// lines is replaced.
absl::StatusOr<OpId> TryRule(Graph& graph, const ParsedRule& rule, OpId root, RuleTrace* trace = nullptr);

struct RuleCount {
  std::string rule;
  int64_t tried = 0, matched = 0;  // roots of the right kind; rewrites
  double milliseconds = 0;
};

// Rewrites the entries of a module by the rules until none matches; true when one did. Adds to `counts` by rule name.
absl::StatusOr<bool> ApplyRules(absl::Span<const ParsedRule> rules, Module& module, std::vector<RuleCount>& counts);

}  // namespace sinter
