#include "ir/diag.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace sinter {
namespace {

constexpr size_t kShownBefore = 100, kShownAfter = 60;  // bytes of a line around the caret

bool IsControl(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }
bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }  // of a UTF-8 sequence

}  // namespace

absl::Status ErrorInText(absl::string_view text, absl::string_view file_name, size_t offset,
                         absl::string_view message) {
  offset = std::min(offset, text.size());
  const absl::string_view before = text.substr(0, offset);
  const size_t line = 1 + static_cast<size_t>(std::count(before.begin(), before.end(), '\n'));
  const size_t newline = before.rfind('\n');
  const size_t begin = newline == absl::string_view::npos ? 0 : newline + 1;
  const size_t end = std::min(text.find('\n', offset), text.size());

  const size_t shown = std::max(begin, offset - std::min(offset, kShownBefore));
  std::string excerpt(text.substr(shown, std::min(end, offset + kShownAfter) - shown));
  std::replace_if(excerpt.begin(), excerpt.end(), IsControl, ' ');
  while (!excerpt.empty() && excerpt.back() == ' ') excerpt.pop_back();
  const absl::string_view left = text.substr(shown, offset - shown);
  const size_t indent = left.size() - static_cast<size_t>(std::count_if(left.begin(), left.end(), IsContinuation));

  return absl::InvalidArgumentError(absl::StrCat(file_name, ":", line, ":", offset - begin + 1, ": ", message, "\n    ",
                                                 excerpt, "\n    ", std::string(indent, ' '), "^"));
}

size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replace = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({replace, row[j] + 1, row[j - 1] + 1}));
    }
  }
  return row[b.size()];
}

}  // namespace sinter
