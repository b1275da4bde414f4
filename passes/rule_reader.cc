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
    int right_lines = 0;
    size_t values = 0, scalars = 0;  // of the left side
    for (absl::string_view text : absl::StrSplit(out_.rule->text, '\n')) {
      text = absl::StripAsciiWhitespace(text);
      if (text.empty()) continue;
      if (text == "=>") {
        right = true;
        values = out_.values.size(), scalars = out_.scalars.size();
        continue;
      }
      SINTER_ASSIGN_OR_RETURN(ParsedRule::Line line, ReadLine(text));
      if (right) {
        out_.right = std::move(line);
        ++right_lines;
        continue;
      }
      int& maker = out_.maker[static_cast<size_t>(line.result)];
      if (maker >= 0) return Wrong(text);
      maker = static_cast<int>(out_.left.size());
      out_.left.push_back(std::move(line));
    }
    const auto is_number = [](const ParsedRule::Operand& operand) { return operand.value < 0; };
    const auto& operands = out_.right.operands;
    if (out_.left.empty() || right_lines != 1 || out_.right.result != out_.left.back().result ||
        out_.values.size() != values || out_.scalars.size() != scalars ||
        std::any_of(operands.begin(), operands.end(), is_number)) {
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
    return index;
  }

  absl::Status ReadNumber(absl::string_view text, int& scalar, double& number) {
    if (absl::ConsumePrefix(&text, "$")) {
      scalar = IndexOf(out_.scalars, text);
      return absl::OkStatus();
    }
    return absl::SimpleAtod(text, &number) ? absl::OkStatus() : Wrong(text);
  }

  absl::StatusOr<ParsedRule::Attribute> ReadAttribute(const OpDef& def, absl::string_view text) {
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits('=', 1));
    const absl::string_view name = absl::StripAsciiWhitespace(parts.first);
    absl::string_view value = absl::StripAsciiWhitespace(parts.second);
    const auto row = std::find_if(def.attrs.begin(), def.attrs.end(), [&](const AttrDef& a) { return a.name == name; });
    if (row == def.attrs.end()) return Wrong(text);
    ParsedRule::Attribute attribute{.index = static_cast<size_t>(row - def.attrs.begin()), .text = {}, .factors = {}};
    if (std::holds_alternative<std::string>(row->default_value)) {
      if (!absl::ConsumePrefix(&value, "\"") || !absl::ConsumeSuffix(&value, "\"")) return Wrong(text);
      attribute.text = std::string(value);
      return attribute;
    }
    if (std::holds_alternative<bool>(row->default_value)) {
      if (value != "true" && value != "false") return Wrong(text);
      attribute.factors.push_back({.number = value == "true" ? 1.0 : 0.0});
      return attribute;
    }
    if (!std::holds_alternative<double>(row->default_value) && !std::holds_alternative<int64_t>(row->default_value)) {
      return Wrong(text);
    }
    for (bool divides = false;;) {
      const size_t end = value.find_first_of("*/");
      ParsedRule::Factor& factor = attribute.factors.emplace_back();
      factor.divides = divides;
      SINTER_RETURN_IF_ERROR(ReadNumber(value.substr(0, end), factor.scalar, factor.number));
      if (end == absl::string_view::npos) return attribute;
      divides = value[end] == '/';
      value.remove_prefix(end + 1);
    }
  }

  // %result = op operand, operand {name=value, name=value}
  absl::StatusOr<ParsedRule::Line> ReadLine(absl::string_view text) {
    const std::pair<absl::string_view, absl::string_view> sides = absl::StrSplit(text, absl::MaxSplits('=', 1));
    absl::string_view result = absl::StripAsciiWhitespace(sides.first), rest = absl::StripAsciiWhitespace(sides.second);
    const std::optional<OpKind> kind = ParseOpKind(rest.substr(0, rest.find(' ')));
    if (!absl::ConsumePrefix(&result, "%") || !kind) return Wrong(text);
    ParsedRule::Line line{.kind = *kind, .result = ValueOf(result), .operands = {}, .attributes = {}};
    rest.remove_prefix(std::min(rest.find(' '), rest.size()));
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(rest, absl::MaxSplits('{', 1));
    for (absl::string_view part : absl::StrSplit(parts.first, ',')) {
      part = absl::StripAsciiWhitespace(part);
      ParsedRule::Operand& operand = line.operands.emplace_back();
      if (absl::ConsumePrefix(&part, "%")) {
        operand.value = ValueOf(part);
      } else {
        SINTER_RETURN_IF_ERROR(ReadNumber(part, operand.scalar, operand.number));
      }
    }
    absl::string_view braces = parts.second;
    if (braces.empty()) return line;
    if (!absl::ConsumeSuffix(&braces, "}")) return Wrong(text);
    for (absl::string_view part : absl::StrSplit(braces, ',')) {
      SINTER_ASSIGN_OR_RETURN(line.attributes.emplace_back(), ReadAttribute(Def(*kind), part));
    }
    return line;
  }

  ParsedRule out_;
};

}  // namespace

absl::StatusOr<ParsedRule> ParseRule(const Rule& rule) { return RuleReader(rule).Read(); }

}  // namespace sinter
