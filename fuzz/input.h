// Values drawn from a target's bytes, for targets whose input is no file: the first bytes decide the first values. When
// the bytes end, what is drawn is zeros.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"

namespace sinter::fuzz {

class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}

  // Any value of a number type, NaNs among the floats.
  template <typename T>
  T Any() {
    T value = {};
    const size_t size = std::min(sizeof value, rest_.size());
    std::memcpy(&value, rest_.data(), size);
    rest_.remove_prefix(size);
    return value;
  }
  bool Flag() { return (Any<uint8_t>() & 1) != 0; }
  // 0 to n - 1.
  size_t Below(size_t n) { return Any<uint16_t>() % n; }
  // Up to `most` bytes.
  absl::string_view Text(size_t most) {
    const size_t wanted = Below(most + 1);  // takes bytes itself
    const size_t size = std::min(wanted, rest_.size());
    const absl::string_view text = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return text;
  }
  absl::string_view Rest() { return std::exchange(rest_, {}); }
  bool empty() const { return rest_.empty(); }

 private:
  absl::string_view rest_;
};

}  // namespace sinter::fuzz
