// Reads the text of rules: ParseRule of rule.h.
#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "passes/rule.h"

namespace sinter {
namespace {

// Reads the text of one rule; the first thing that is wrong ends it.
class RuleReader {
 public:
  explicit RuleReader(const Rule& rule) { out_.rule = &rule; }

  absl::StatusOr<ParsedRule> Read() {
    bool right = false;
    size_t scalars = 0;  // of the left side
    for (absl::string_view text : absl::StrSplit(out_.rule->text, '\n')) {
      text = absl::StripAsciiWhitespace(text);
      if (text.empty()) continue;
      if (text == "=>") {
        if (right || out_.left.empty()) return Wrong(text);
        right = true;
        out_.left_values = out_.values.size(), scalars = out_.scalars.size();
        continue;
      }
      SINTER_ASSIGN_OR_RETURN(ParsedRule::Line line, right ? ReadLine(text, made_) : ReadLine(text, out_.maker));
      (right ? out_.right : out_.left).push_back(std::move(line));
    }
    if (out_.right.empty() || out_.right.back().result != out_.left.back().result || out_.scalars.size() != scalars) {
      return Wrong("=>");
    }
    return std::move(out_);
  }

 private:
  absl::Status Wrong(absl::string_view part) const {
    return absl::InternalError(absl::StrCat("rule ", out_.rule->name, ": cannot read \"", part, "\""));
  }

  static int IndexOf(std::vector<std::string>& names, absl::string_view name) {
    const auto index = static_cast<int>(std::find(names.begin(), names.end(), name) - names.begin());
    if (index == static_cast<int>(names.size())) names.emplace_back(name);
    return index;
  }
  int ValueOf(absl::string_view name) {
    const int index = IndexOf(out_.values, name);
    out_.maker.resize(out_.values.size(), -1);
    made_.resize(out_.values.size(), -1);
    return index;
  }

  // A number, $name, true or false; on the right side products and quotients of them.
  absl::StatusOr<ParsedRule::Product> ReadProduct(absl::string_view text) {
    ParsedRule::Product product;
    for (bool divides = false;;) {
      const size_t end = text.find_first_of("*/");
      absl::string_view factor = text.substr(0, end);
      ParsedRule::Factor& read = product.emplace_back();
      read.divides = divides;
      if (absl::ConsumePrefix(&factor, "$")) {
        read.scalar = IndexOf(out_.scalars, factor);
      } else if (factor == "true" || factor == "false") {
        read.number = factor == "true" ? 1 : 0;
      } else if (!absl::SimpleAtod(factor, &read.number)) {
        return Wrong(text);
      }
      if (end == absl::string_view::npos) return product;
      if (out_.left_values == 0) return Wrong(text);  // still on the left side
      divides = text[end] == '/';
      text.remove_prefix(end + 1);
    }
  }

  absl::StatusOr<ParsedRule::Attribute> ReadAttribute(const OpDef& def, absl::string_view text) {
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits('=', 1));
    const absl::string_view name = absl::StripAsciiWhitespace(parts.first);
    absl::string_view value = absl::StripAsciiWhitespace(parts.second);
    const auto row = std::find_if(def.attrs.begin(), def.attrs.end(), [&](const AttrDef& a) { return a.name == name; });
    if (row == def.attrs.end()) return Wrong(text);
    ParsedRule::Attribute attribute{.index = static_cast<size_t>(row - def.attrs.begin()), .text = {}, .number = {}};
    if (std::holds_alternative<std::string>(row->default_value)) {
      if (!absl::ConsumePrefix(&value, "\"") || !absl::ConsumeSuffix(&value, "\"")) return Wrong(text);
      attribute.text = std::string(value);
      return attribute;
    }
    const bool number = std::holds_alternative<double>(row->default_value) ||
                        std::holds_alternative<int64_t>(row->default_value) ||
                        std::holds_alternative<bool>(row->default_value);
    if (!number) return Wrong(text);
    SINTER_ASSIGN_OR_RETURN(attribute.number, ReadProduct(value));
    if (name == "axis" && attribute.number[0].scalar >= 0) return Wrong(text);
    return attribute;
  }

  // [shared] %result = op operand, operand {name=value, name=value}
  // `makers` says of each value which line of this side makes it; a right side may name what the left side does, or
  // what it made itself.
  absl::StatusOr<ParsedRule::Line> ReadLine(absl::string_view text, std::vector<int>& makers) {
    ParsedRule::Line line{.text = std::string(text)};
    const bool right = &makers == &made_;
    line.shared = absl::ConsumePrefix(&text, "shared ");
    const std::pair<absl::string_view, absl::string_view> sides = absl::StrSplit(text, absl::MaxSplits('=', 1));
    absl::string_view result = absl::StripAsciiWhitespace(sides.first), rest = absl::StripAsciiWhitespace(sides.second);
    const std::optional<OpKind> kind = ParseOpKind(rest.substr(0, rest.find(' ')));
    if (!absl::ConsumePrefix(&result, "%") || !kind) return Wrong(text);
    line.kind = *kind;
    rest.remove_prefix(std::min(rest.find(' '), rest.size()));
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(rest, absl::MaxSplits('{', 1));
    for (absl::string_view part : absl::StrSplit(parts.first, ',')) {
      part = absl::StripAsciiWhitespace(part);
      ParsedRule::Operand& operand = line.operands.emplace_back();
      if (absl::ConsumePrefix(&part, "%")) {
        operand.value = ValueOf(part);
        const auto index = static_cast<size_t>(operand.value);
        if (right && index >= out_.left_values && made_[index] < 0) return Wrong(text);
      } else {
        SINTER_ASSIGN_OR_RETURN(operand.number, ReadProduct(part));
      }
    }
    line.result = ValueOf(result);
    int& maker = makers[static_cast<size_t>(line.result)];
    const bool free =
        right && line.result < static_cast<int>(out_.left_values) && out_.maker[static_cast<size_t>(line.result)] < 0;
    if (maker >= 0 || free) return Wrong(text);
    maker = static_cast<int>(right ? out_.right.size() : out_.left.size());
    absl::string_view braces = parts.second;
    if (braces.empty()) return line;
    if (!absl::ConsumeSuffix(&braces, "}")) return Wrong(text);
    for (absl::string_view part : absl::StrSplit(braces, ',')) {
      SINTER_ASSIGN_OR_RETURN(line.attributes.emplace_back(), ReadAttribute(Def(*kind), part));
    }
    return line;
  }

  std::vector<int> made_;  // by which line of the right side
  ParsedRule out_;
};

}  // namespace

absl::StatusOr<ParsedRule> ParseRule(const Rule& rule) { return RuleReader(rule).Read(); }

}  // namespace sinter
