#include "ir/diag.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/utf8.h"

namespace sinter {
namespace {

constexpr size_t kShownBefore = 100, kShownAfter = 60;  // bytes of a line around the caret

// What can be shown of a text, and a space for each character and byte that cannot, so that places stay in line.
// `width`: the number of characters.
std::string Visible(absl::string_view text, size_t* width = nullptr) {
  std::string out;
  size_t characters = 0;
  for (; !text.empty(); ++characters) {
    const Utf8Step step = DecodeUtf8(text);
    const size_t bytes = step.valid ? step.bytes : 1;
    if (step.valid && IsShowable(step.code)) {
      out.append(text.data(), bytes);
    } else {
      out += ' ';
    }
    text.remove_prefix(bytes);
  }
  if (width != nullptr) *width = characters;
  return out;
}

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
  size_t indent;
  std::string excerpt = Visible(text.substr(shown, offset - shown), &indent);
  excerpt += Visible(text.substr(offset, std::min(end, offset + kShownAfter) - offset));
  while (!excerpt.empty() && excerpt.back() == ' ') excerpt.pop_back();

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
