// Notes about many tensors, as few lines of text: the same note about the same tensor of several layers is one line,
// `blk.*.attn_q.weight (layers 0-3, 7): expected [64,64]; found none`. Used in the messages of config.cc.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace sinter {

class TensorNotes {
 public:
  void Add(absl::string_view tensor, absl::string_view note);
  bool empty() const { return notes_.empty(); }

  // Lines in the order in which their first tensor was added, at most 50 and then how many more there are.
  std::vector<std::string> Lines() const;
  // One line a note: `NOTE (first tensor and 30 more)`.
  std::vector<std::string> LinesByNote() const;

 private:
  struct Note {
    std::string first, pattern, note;  // the first tensor; its name with the layer as `*`
    std::vector<int64_t> layers;
    int64_t tensors = 0;
  };
  std::vector<Note> notes_;
  std::map<std::pair<std::string, std::string>, size_t> index_;  // by pattern and note
};

}  // namespace sinter
