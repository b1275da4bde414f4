// Many short texts in one piece of memory: what a vocabulary is. A std::string for each of 50,000 tokens costs more
// time than all the rest of reading them.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace sinter {

class TextList {
 public:
  TextList() = default;
  TextList(std::initializer_list<absl::string_view> texts) {
    for (absl::string_view text : texts) push_back(text);
  }

  size_t size() const { return ends_.size(); }
  bool empty() const { return ends_.empty(); }
  size_t bytes() const { return bytes_.size(); }  // of all texts together
  // Valid until the list changes.
  absl::string_view operator[](size_t i) const {
    const size_t begin = i == 0 ? 0 : ends_[i - 1];
    return absl::string_view(bytes_).substr(begin, ends_[i] - begin);
  }

  void reserve(size_t texts, size_t bytes) {
    ends_.reserve(texts);
    bytes_.reserve(bytes);
  }
  void push_back(absl::string_view text) {
    bytes_.append(text.data(), text.size());
    ends_.push_back(bytes_.size());
  }
  void clear() {
    bytes_.clear();
    ends_.clear();
  }

  friend bool operator==(const TextList&, const TextList&) = default;

 private:
  std::string bytes_;
  std::vector<size_t> ends_;
};

}  // namespace sinter
