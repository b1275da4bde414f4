#include "runtime/team_size.h"

#include <algorithm>

namespace sinter {

void TeamSize::Ran(int64_t took, int64_t waited) {
  took_ += took;
  waited_ += waited;
  rest_ -= took;
  if (took_ < kJudged) return;
  // One that has half a core makes the others wait half of their time, however many they are.
  const bool late = threads_ > 1 && static_cast<double>(waited_) > kLate * (threads_ - 1) * static_cast<double>(took_);
  took_ = waited_ = 0;
  if (late) {
    --threads_;
    rest_ = next_rest_;
    next_rest_ = std::min(2 * next_rest_, kLongestRest);
  } else if (threads_ == most_) {
    next_rest_ = kShortestRest;
  } else if (rest_ <= 0) {
    ++threads_;
  }
}

}  // namespace sinter
