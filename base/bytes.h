// The one way in which bytes of a file become values: a reader that goes forward and never past the end.
//
// Used for GGUF headers, `.npy`, the header and sections of compiled modules, and by whatever reads a format next. It
// holds no copy and allocates nothing: what it gives are values, or views of the bytes it reads, which must outlive
// them.
//
// Every read says whether it could be done. One that could not consumes nothing, and the reader then knows for a
// message that wanted() bytes were needed at pos(), and left() are there. Counts and sizes may be any 64-bit number of
// a hostile file: count * unit is never computed before it is known to be inside. Numbers are little-endian, as is the
// machine, and need no alignment; views of bytes have none. Units are bytes, positions count from the first byte of the
// span.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/checked.h"

namespace sinter {

static_assert(std::endian::native == std::endian::little, "numbers are copied as they lie in the file");

class ByteReader {
 public:
  // Begins at `pos`, or at the end where that lies behind it.
  explicit ByteReader(absl::Span<const uint8_t> bytes, uint64_t pos = 0)
      : bytes_(bytes), pos_(pos < bytes.size() ? pos : bytes.size()) {}

  uint64_t pos() const { return pos_; }
  uint64_t left() const { return bytes_.size() - pos_; }
  // Of the read that failed last; the largest number where it passes 64 bits.
  uint64_t wanted() const { return wanted_; }
  // "needs 8 bytes and the file has 3 more", after a read that failed.
  std::string Lack() const { return absl::StrCat("needs ", wanted_, " bytes and the file has ", left(), " more"); }

  // Whether `count` records of at least `unit` (> 0) bytes each can follow: to be asked before room is made for them.
  bool Has(uint64_t count, uint64_t unit = 1) {
    if (count <= left() / unit) return true;
    wanted_ = CheckedMul(count, unit).value_or(std::numeric_limits<uint64_t>::max());
    return false;
  }
  bool Skip(uint64_t count, uint64_t unit = 1) {
    if (!Has(count, unit)) return false;
    pos_ += count * unit;
    return true;
  }

  // A number, or a struct without padding and without values that are no values (no bool, no enum).
  template <typename T>
  bool Read(T* value) {
    static_assert(std::is_trivially_copyable_v<T> && !std::is_same_v<T, bool> && !std::is_enum_v<T> &&
                  !std::is_pointer_v<T>);
    if (!Has(1, sizeof(T))) return false;
    std::memcpy(value, bytes_.data() + pos_, sizeof(T));
    pos_ += sizeof(T);
    return true;
  }
  // A view of the next `count` * `unit` bytes.
  bool ReadSpan(uint64_t count, uint64_t unit, absl::Span<const uint8_t>* value) {
    const uint64_t begin = pos_;
    if (!Skip(count, unit)) return false;
    *value = bytes_.subspan(begin, pos_ - begin);
    return true;
  }
  // A view of the next `size` bytes as text; which bytes they are is not judged (see utf8.h).
  bool ReadText(uint64_t size, absl::string_view* value) {
    absl::Span<const uint8_t> span;
    if (!ReadSpan(size, 1, &span)) return false;
    *value = absl::string_view(reinterpret_cast<const char*>(span.data()), span.size());
    return true;
  }
  // A text behind its length. Where the length can be read and the text cannot, pos() is behind the length: that is
  // where the bytes are wanted.
  template <typename Length>
  bool ReadPrefixedText(absl::string_view* value) {
    static_assert(std::is_unsigned_v<Length>);
    Length size;
    return Read(&size) && ReadText(size, value);
  }

 private:
  absl::Span<const uint8_t> bytes_;
  uint64_t pos_, wanted_ = 0;
};

// Whether bytes [offset, offset + size) lie within `total`.
constexpr bool Fits(uint64_t offset, uint64_t size, uint64_t total) {
  return offset <= total && size <= total - offset;
}
// Whether an object that asks for `alignment` (a power of two) may be read in place.
inline bool IsAligned(const void* at, uint64_t alignment) {
  return (reinterpret_cast<uintptr_t>(at) & (alignment - 1)) == 0;
}

}  // namespace sinter
