// Rewrite rules as data, in the IR's own syntax: named lines, `=>`, one line that replaces the last of them.
//
//   %s = select %mask, %x, -inf
//   %p = softmax %s {scale=$a}
//   =>
//   %p = softmax %x, %mask {scale=$a}
//
// Left side: a DAG of lines in order; its root is the last one. A name that no line makes binds any value. A number as
// an operand stands for a constant whose elements all equal it (to 1e-6, so that roundings of sqrt(2/pi) count; an
// infinity exactly); $name binds such a constant's element, and as an attribute that attribute; the same name must mean
// the same every time. An attribute left out has its default; an axis counts from either end. Operands of commutative
// ops match in both orders.
// Right side: one op; an attribute is a string, true or false, or a product of numbers and $names ($a*$c, 1/$d).
//
// A match is rewritten when no value between has a user outside the match or is a result of the graph, when `when` (if
// any) agrees, and when Infer accepts the new op and gives it the root's very type. The new op takes the root's name
// and loc. Constants that lose their last user go too. A rule must not make something that it matches again forever.
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
  struct Operand {
    int value = -1, scalar = -1;  // neither: the number
    double number = 0;
  };
  struct Factor {
    int scalar = -1;  // -1: the number
    double number = 1;
    bool divides = false;
  };
  struct Attribute {
    size_t index = 0;  // in the op's row
    std::string text;  // of an attribute that is a string
    std::vector<Factor> factors;
  };
  struct Line {
    OpKind kind = {};
    int result = -1;
    std::vector<Operand> operands;
    std::vector<Attribute> attributes;
  };

  const Rule* rule = nullptr;
  std::vector<std::string> values, scalars;
  std::vector<int> maker;  // of each value: the line of the left side that makes it; -1: free
  std::vector<Line> left;
  Line right;
};

// kInternal: a text that is no rule. `rule` must outlive the result.
absl::StatusOr<ParsedRule> ParseRule(const Rule& rule);

// What the names of a rule are bound to.
struct RuleMatch {
  const ParsedRule& rule;
  std::vector<ValueId> values;  // None: not bound
  std::vector<std::optional<double>> scalars;

  double scalar(absl::string_view name) const;  // bound by the left side
};

struct RuleCount {
  std::string rule;
  int64_t tried = 0, matched = 0;  // roots of the right kind; rewrites
};

// Rewrites the entries of a module by the rules until none matches; true when one did. Adds to `counts` by rule name.
absl::StatusOr<bool> ApplyRules(absl::Span<const ParsedRule> rules, Module& module, std::vector<RuleCount>& counts);

}  // namespace sinter
