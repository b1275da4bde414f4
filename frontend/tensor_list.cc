#include "frontend/tensor_list.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/escape.h"

namespace sinter {
namespace {

constexpr size_t kMaxLines = 50;

// "3" for blk.3.ffn_up.weight; empty when the name is not of that form.
absl::string_view LayerOf(absl::string_view tensor) {
  if (!absl::ConsumePrefix(&tensor, "blk.")) return "";
  const size_t dot = tensor.find('.');
  int64_t layer;
  return dot <= 6 && absl::SimpleAtoi(tensor.substr(0, dot), &layer) && layer >= 0 ? tensor.substr(0, dot) : "";
}

// "0-3, 7"
std::string Ranges(std::vector<int64_t> numbers) {
  std::sort(numbers.begin(), numbers.end());
  std::vector<std::string> parts;
  for (size_t i = 0; i < numbers.size();) {
    size_t end = i + 1;
    while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
    parts.push_back(end == i + 1 ? absl::StrCat(numbers[i]) : absl::StrCat(numbers[i], "-", numbers[end - 1]));
    i = end;
  }
  return absl::StrJoin(parts, ", ");
}

}  // namespace

void TensorNotes::Add(absl::string_view tensor, absl::string_view note) {
  const absl::string_view layer = LayerOf(tensor);
  std::string pattern = layer.empty() ? absl::StrCat(tensor) : absl::StrCat("blk.*", tensor.substr(layer.size() + 4));
  const auto [at, added] = index_.try_emplace({std::move(pattern), absl::StrCat(note)}, notes_.size());
  if (added) notes_.push_back({.first = absl::StrCat(tensor), .pattern = at->first.first, .note = absl::StrCat(note)});
  Note& entry = notes_[at->second];
  ++entry.tensors;
  int64_t number;
  if (absl::SimpleAtoi(layer, &number)) entry.layers.push_back(number);
}

std::vector<std::string> TensorNotes::Lines() const {
  std::vector<std::string> lines;
  for (const Note& n : notes_) {
    if (lines.size() == kMaxLines) {
      lines.push_back(absl::StrCat("and ", notes_.size() - kMaxLines, " more"));
      break;
    }
    const std::string tensor = n.tensors == 1
                                   ? Escaped(n.first, kShownBytes)
                                   : absl::StrCat(Escaped(n.pattern, kShownBytes), " (layers ", Ranges(n.layers), ")");
    lines.push_back(absl::StrCat(tensor, ": ", n.note));
  }
  return lines;
}

std::vector<std::string> TensorNotes::LinesByNote() const {
  std::vector<std::string> lines;
  std::map<std::string, int64_t> tensors;
  for (const Note& n : notes_) tensors[n.note] += n.tensors;
  for (const Note& n : notes_) {
    const auto at = tensors.find(n.note);
    if (at == tensors.end()) continue;
    const std::string more = at->second == 1 ? "" : absl::StrCat(" and ", at->second - 1, " more");
    lines.push_back(absl::StrCat(n.note, " (", Escaped(n.first, kShownBytes), more, ")"));
    tensors.erase(at);
  }
  return lines;
}

}  // namespace sinter
