// Gguf's typed getters: decode what ParseHeader has already walked over, through the same checked reads.
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "frontend/gguf.h"
#include "frontend/gguf_cursor.h"

namespace sinter {
namespace {

// Arrays are decoded whole when asked for; the largest vocabularies have a million tokens.
constexpr uint64_t kMaxArrayElems = uint64_t{1} << 26;

bool IsString(GgufType type) { return type == GgufType::kString; }
bool IsBool(GgufType type) { return type == GgufType::kBool; }
bool IsFloat(GgufType type) { return type == GgufType::kF32 || type == GgufType::kF64; }
bool IsInteger(GgufType type) { return !IsString(type) && !IsBool(type) && !IsFloat(type); }
bool IsIntegerOrBool(GgufType type) { return IsInteger(type) || IsBool(type); }
bool IsNumber(GgufType type) { return IsInteger(type) || IsFloat(type); }

}  // namespace

absl::StatusOr<const GgufKey*> Gguf::Expect(absl::string_view key, bool is_array, bool (*accepts)(GgufType),
                                            absl::string_view expected) const {
  const GgufKey* found = FindKey(key);
  if (found == nullptr) return KeyError(key, absl::StrCat("missing, expected ", expected));
  if (found->is_array != is_array || !accepts(found->type)) {
    return KeyError(
        key, absl::StrCat(found->is_array ? "array of " : "", GgufTypeName(found->type), ", expected ", expected));
  }
  if (found->count > kMaxArrayElems) {
    return KeyError(key, absl::StrCat("array of ", found->count, " elements, the most is ", kMaxArrayElems));
  }
  return found;
}

absl::StatusOr<absl::string_view> Gguf::GetString(absl::string_view key) const {
  SINTER_ASSIGN_OR_RETURN(const GgufKey* found, Expect(key, false, IsString, "a string"));
  GgufCursor cursor(bytes_, found->value_offset);
  absl::string_view value;
  if (!cursor.ReadString(&value)) return CutShort(cursor, "string");
  return value;
}

absl::StatusOr<uint64_t> Gguf::GetUint(absl::string_view key, uint64_t min, uint64_t max) const {
  SINTER_ASSIGN_OR_RETURN(const GgufKey* found, Expect(key, false, IsInteger, "an integer"));
  GgufCursor cursor(bytes_, found->value_offset);
  GgufNumber n;
  if (!cursor.ReadNumber(found->type, &n)) return CutShort(cursor, "integer");
  if (n.negative || n.bits < min || n.bits > max) {
    const std::string value = n.negative ? absl::StrCat(static_cast<int64_t>(n.bits)) : absl::StrCat(n.bits);
    return KeyError(key, absl::StrCat(value, ", expected ", min, " to ", max));
  }
  return n.bits;
}

absl::StatusOr<int64_t> Gguf::GetInt(absl::string_view key) const {
  SINTER_ASSIGN_OR_RETURN(const GgufKey* found, Expect(key, false, IsInteger, "an integer"));
  GgufCursor cursor(bytes_, found->value_offset);
  GgufNumber n;
  if (!cursor.ReadNumber(found->type, &n)) return CutShort(cursor, "integer");
  if (!n.negative && n.bits > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return KeyError(key, absl::StrCat(n.bits, ", expected at most ", std::numeric_limits<int64_t>::max()));
  }
  return static_cast<int64_t>(n.bits);
}

absl::StatusOr<double> Gguf::GetFloat(absl::string_view key) const {
  SINTER_ASSIGN_OR_RETURN(const GgufKey* found, Expect(key, false, IsFloat, "a floating-point number"));
  GgufCursor cursor(bytes_, found->value_offset);
  GgufNumber n;
  if (!cursor.ReadNumber(found->type, &n)) return CutShort(cursor, "number");
  return n.real;
}

absl::StatusOr<bool> Gguf::GetBool(absl::string_view key) const {
  SINTER_ASSIGN_OR_RETURN(const GgufKey* found, Expect(key, false, IsBool, "a bool"));
  GgufCursor cursor(bytes_, found->value_offset);
  GgufNumber n;
  if (!cursor.ReadNumber(found->type, &n)) return CutShort(cursor, "bool");
  if (n.bits > 1) return KeyError(key, absl::StrCat("bool of value ", n.bits, ", expected 0 or 1"));
  return n.bits == 1;
}

absl::StatusOr<std::vector<absl::string_view>> Gguf::GetStringArray(absl::string_view key) const {
  SINTER_ASSIGN_OR_RETURN(const GgufKey* found, Expect(key, true, IsString, "an array of strings"));
  GgufCursor cursor(bytes_, found->value_offset);
  std::vector<absl::string_view> values(found->count);
  for (absl::string_view& value : values) {
    if (!cursor.ReadString(&value)) return CutShort(cursor, "string");
  }
  return values;
}

absl::StatusOr<std::vector<int64_t>> Gguf::GetIntArray(absl::string_view key) const {
  SINTER_ASSIGN_OR_RETURN(const GgufKey* found, Expect(key, true, IsIntegerOrBool, "an array of integers"));
  GgufCursor cursor(bytes_, found->value_offset);
  std::vector<int64_t> values(found->count);
  for (int64_t& value : values) {
    GgufNumber n;
    if (!cursor.ReadNumber(found->type, &n)) return CutShort(cursor, "integer");
    value = static_cast<int64_t>(n.bits);
    if (value < 0 && !n.negative)
      return KeyError(key, absl::StrCat("element ", n.bits, " does not fit 64 signed bits"));
  }
  return values;
}

absl::StatusOr<std::vector<float>> Gguf::GetFloatArray(absl::string_view key) const {
  SINTER_ASSIGN_OR_RETURN(const GgufKey* found, Expect(key, true, IsNumber, "an array of numbers"));
  GgufCursor cursor(bytes_, found->value_offset);
  std::vector<float> values(found->count);
  for (float& value : values) {
    GgufNumber n;
    if (!cursor.ReadNumber(found->type, &n)) return CutShort(cursor, "number");
    value = static_cast<float>(n.real);
  }
  return values;
}

}  // namespace sinter
