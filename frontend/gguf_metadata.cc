// Gguf's typed getters: decode what ParseHeader has already walked over, through the same checked reads.
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/status.h"
#include "frontend/gguf.h"

namespace sinter {
namespace {

bool IsString(GgufType type) { return type == GgufType::kString; }
bool IsBool(GgufType type) { return type == GgufType::kBool; }
bool IsFloat(GgufType type) { return type == GgufType::kF32 || type == GgufType::kF64; }
bool IsInteger(GgufType type) { return !IsString(type) && !IsBool(type) && !IsFloat(type); }
bool IsIntegerOrBool(GgufType type) { return IsInteger(type) || IsBool(type); }
bool IsNumber(GgufType type) { return IsInteger(type) || IsFloat(type); }

struct Number {
  uint64_t bits = 0;  // of an integer: two's complement
  bool negative = false;
  double real = 0;
};

template <typename T>
bool ReadAs(ByteReader& reader, Number* n) {
  T value;
  if (!reader.Read(&value)) return false;
  if constexpr (std::is_integral_v<T>) n->bits = static_cast<uint64_t>(+value);  // extends the sign
  n->negative = value < T{0};
  n->real = static_cast<double>(value);
  return true;
}

bool ReadNumber(ByteReader& reader, GgufType type, Number* n) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kBool:
      return ReadAs<uint8_t>(reader, n);
    case GgufType::kI8:
      return ReadAs<int8_t>(reader, n);
    case GgufType::kU16:
      return ReadAs<uint16_t>(reader, n);
    case GgufType::kI16:
      return ReadAs<int16_t>(reader, n);
    case GgufType::kU32:
      return ReadAs<uint32_t>(reader, n);
    case GgufType::kI32:
      return ReadAs<int32_t>(reader, n);
    case GgufType::kU64:
      return ReadAs<uint64_t>(reader, n);
    case GgufType::kI64:
      return ReadAs<int64_t>(reader, n);
    case GgufType::kF32:
      return ReadAs<float>(reader, n);
    case GgufType::kF64:
      return ReadAs<double>(reader, n);
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  return false;
}

}  // namespace

absl::StatusOr<const GgufKey*> Gguf::Expect(absl::string_view key, bool is_array, bool (*accepts)(GgufType),
                                            absl::string_view expected) const {
  const GgufKey* found = FindKey(key);
  if (found == nullptr) return KeyError(key, absl::StrCat("missing, expected ", expected));
  if (found->is_array != is_array || !accepts(found->type)) {
    return KeyError(
        key, absl::StrCat(found->is_array ? "array of " : "", GgufTypeName(found->type), ", expected ", expected));
  }
  return found;
}

absl::StatusOr<absl::string_view> Gguf::GetString(absl::string_view key) const {
  SINTER_ASSIGN_OR_RETURN(const GgufKey* found, Expect(key, false, IsString, "a string"));
  ByteReader reader(bytes_, found->value_offset);
  absl::string_view value;
  if (!reader.ReadPrefixedText<uint64_t>(&value)) return CutShort(reader, "string");
  return value;
}

absl::StatusOr<uint64_t> Gguf::GetUint(absl::string_view key, uint64_t min, uint64_t max) const {
  SINTER_ASSIGN_OR_RETURN(const GgufKey* found, Expect(key, false, IsInteger, "an integer"));
  ByteReader reader(bytes_, found->value_offset);
  Number n;
  if (!ReadNumber(reader, found->type, &n)) return CutShort(reader, "integer");
  if (n.negative || n.bits < min || n.bits > max) {
    const std::string value = n.negative ? absl::StrCat(static_cast<int64_t>(n.bits)) : absl::StrCat(n.bits);
    return KeyError(key, absl::StrCat(value, ", expected ", min, " to ", max));
  }
  return n.bits;
}

absl::StatusOr<int64_t> Gguf::GetInt(absl::string_view key) const {
  SINTER_ASSIGN_OR_RETURN(const GgufKey* found, Expect(key, false, IsInteger, "an integer"));
  ByteReader reader(bytes_, found->value_offset);
  Number n;
  if (!ReadNumber(reader, found->type, &n)) return CutShort(reader, "integer");
  if (!n.negative && n.bits > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return KeyError(key, absl::StrCat(n.bits, ", expected at most ", std::numeric_limits<int64_t>::max()));
  }
  return static_cast<int64_t>(n.bits);
}

absl::StatusOr<double> Gguf::GetFloat(absl::string_view key) const {
  SINTER_ASSIGN_OR_RETURN(const GgufKey* found, Expect(key, false, IsFloat, "a floating-point number"));
  ByteReader reader(bytes_, found->value_offset);
  Number n;
  if (!ReadNumber(reader, found->type, &n)) return CutShort(reader, "number");
  return n.real;
}

absl::StatusOr<bool> Gguf::GetBool(absl::string_view key) const {
  SINTER_ASSIGN_OR_RETURN(const GgufKey* found, Expect(key, false, IsBool, "a bool"));
  ByteReader reader(bytes_, found->value_offset);
  Number n;
  if (!ReadNumber(reader, found->type, &n)) return CutShort(reader, "bool");
  if (n.bits > 1) return KeyError(key, absl::StrCat("bool of value ", n.bits, ", expected 0 or 1"));
  return n.bits == 1;
}

absl::StatusOr<std::vector<absl::string_view>> Gguf::GetStringArray(absl::string_view key) const {
  SINTER_ASSIGN_OR_RETURN(const GgufKey* found, Expect(key, true, IsString, "an array of strings"));
  ByteReader reader(bytes_, found->value_offset);
  std::vector<absl::string_view> values(found->count);
  for (absl::string_view& value : values) {
    if (!reader.ReadPrefixedText<uint64_t>(&value)) return CutShort(reader, "string");
  }
  return values;
}

absl::StatusOr<std::vector<int64_t>> Gguf::GetIntArray(absl::string_view key) const {
  SINTER_ASSIGN_OR_RETURN(const GgufKey* found, Expect(key, true, IsIntegerOrBool, "an array of integers"));
  ByteReader reader(bytes_, found->value_offset);
  std::vector<int64_t> values(found->count);
  for (int64_t& value : values) {
    Number n;
    if (!ReadNumber(reader, found->type, &n)) return CutShort(reader, "integer");
    value = static_cast<int64_t>(n.bits);
    if (value < 0 && !n.negative)
      return KeyError(key, absl::StrCat("element ", n.bits, " does not fit 64 signed bits"));
  }
  return values;
}

absl::StatusOr<std::vector<float>> Gguf::GetFloatArray(absl::string_view key) const {
  SINTER_ASSIGN_OR_RETURN(const GgufKey* found, Expect(key, true, IsNumber, "an array of numbers"));
  ByteReader reader(bytes_, found->value_offset);
  std::vector<float> values(found->count);
  for (float& value : values) {
    Number n;
    if (!ReadNumber(reader, found->type, &n)) return CutShort(reader, "number");
    value = static_cast<float>(n.real);
  }
  return values;
}

}  // namespace sinter
