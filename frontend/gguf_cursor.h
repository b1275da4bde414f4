// Checked reads of a GGUF header, shared by gguf.cc and gguf_metadata.cc; nobody else needs it.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/checked.h"
#include "frontend/gguf.h"

namespace sinter {

struct GgufNumber {
  uint64_t bits = 0;  // of an integer: two's complement
  bool negative = false;
  double real = 0;
};

// Reads forward and never past the end. After a read that failed, wanted() bytes were needed at pos().
class GgufCursor {
 public:
  GgufCursor(absl::Span<const uint8_t> bytes, uint64_t pos) : bytes_(bytes), pos_(pos) {}

  uint64_t pos() const { return pos_; }
  uint64_t left() const { return bytes_.size() - pos_; }
  uint64_t wanted() const { return wanted_; }

  bool Has(uint64_t count, uint64_t unit) {
    if (count <= left() / unit) return true;
    wanted_ = CheckedMul(count, unit).value_or(std::numeric_limits<uint64_t>::max());
    return false;
  }
  template <typename T>
  bool Read(T* value) {
    if (!Has(1, sizeof(T))) return false;
    std::memcpy(value, bytes_.data() + pos_, sizeof(T));
    pos_ += sizeof(T);
    return true;
  }
  bool ReadString(absl::string_view* value) {
    uint64_t size;
    if (!Read(&size)) return false;
    if (!Has(size, 1)) return false;
    *value = absl::string_view(reinterpret_cast<const char*>(bytes_.data()) + pos_, size);
    pos_ += size;
    return true;
  }
  bool Skip(uint64_t count, uint64_t unit) {
    if (!Has(count, unit)) return false;
    pos_ += count * unit;
    return true;
  }
  bool ReadNumber(GgufType type, GgufNumber* n) {
    switch (type) {
      case GgufType::kU8:
        return Get<uint8_t>(n);
      case GgufType::kI8:
        return Get<int8_t>(n);
      case GgufType::kU16:
        return Get<uint16_t>(n);
      case GgufType::kI16:
        return Get<int16_t>(n);
      case GgufType::kU32:
        return Get<uint32_t>(n);
      case GgufType::kI32:
        return Get<int32_t>(n);
      case GgufType::kU64:
        return Get<uint64_t>(n);
      case GgufType::kI64:
        return Get<int64_t>(n);
      case GgufType::kBool:
        return Get<uint8_t>(n);
      case GgufType::kF32:
        return Get<float>(n);
      case GgufType::kF64:
        return Get<double>(n);
      case GgufType::kString:
      case GgufType::kArray:
        break;
    }
    return false;
  }

 private:
  template <typename T>
  bool Get(GgufNumber* n) {
    T value;
    if (!Read(&value)) return false;
    if constexpr (std::is_integral_v<T>) n->bits = static_cast<uint64_t>(+value);  // extends the sign
    n->negative = value < T{0};
    n->real = static_cast<double>(value);
    return true;
  }

  absl::Span<const uint8_t> bytes_;
  uint64_t pos_, wanted_ = 0;
};

}  // namespace sinter
