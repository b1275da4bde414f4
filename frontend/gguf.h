// A memory-mapped reader of GGUF v2 and v3, little endian. Called by the importer and by tokenizer_data.h.
//
// Open and Parse check the whole header before they return: after that every key and tensor has a unique, non-empty
// name, every array and every tensor lies inside the file, tensors are aligned and do not overlap, and their sizes
// follow from their dims. The header stays where it is: names, strings and arrays are views into the mapping, decoded
// when asked for, through the same checked reads. So a Gguf must outlive every view that it gave; it may be moved.
//
// Dims are in row-major order, outermost first: the reverse of the file. Offsets are from the start of the file.
//
// Errors: kInvalidArgument for a file that contradicts itself or the format, or lacks a key that was asked for, or has
// it with another type or out of range; kUnimplemented for a tensor type that ggml_types.inc does not know. Messages
// read `m.gguf: at byte 1234: tensor "x": dims 5 x 0: every dim must be 1 or more`.
//
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Arrays of arrays, which it allows and nobody
// writes, are refused.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/hash/hash.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/bytes.h"
#include "base/file.h"

namespace sinter {

// A row of ggml_types.inc.
struct GgmlType {
  uint32_t id;
  const char* name;
  int64_t block_elems;
  int64_t block_bytes;
};
// Null when no row has this id.
const GgmlType* FindGgmlType(uint32_t id);

// Types of metadata values, with the numbers that the file uses.
enum class GgufType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };
const char* GgufTypeName(GgufType type);

struct GgufKey {
  absl::string_view name;
  GgufType type;  // of the value, or of the array's elements
  bool is_array;
  uint64_t count;         // elements of the array, else 1
  uint64_t offset;        // of the key's record
  uint64_t value_offset;  // of the value, or of the array's first element
};

struct GgufTensor {
  absl::string_view name;
  absl::InlinedVector<int64_t, 4> dims;  // 1 to 4, row-major, each 1 or more; their product fits int64_t
  const GgmlType* type;
  uint64_t record_offset;  // of the tensor's record in the header
  uint64_t offset;         // of the first byte of data, a multiple of alignment()
  uint64_t bytes;
};

class Gguf {
 public:
  static absl::StatusOr<Gguf> Open(const std::string& path);
  // Reads a file that lies in memory and outlives the Gguf. `name` is for messages.
  static absl::StatusOr<Gguf> Parse(absl::Span<const uint8_t> bytes, const std::string& name);

  const std::string& path() const { return path_; }
  uint32_t version() const { return version_; }
  uint64_t alignment() const { return alignment_; }
  // SHA-256, in hex, of all bytes before the tensor data: names a file without reading its weights.
  const std::string& header_sha256() const { return header_sha256_; }

  absl::Span<const GgufKey> keys() const { return keys_; }
  absl::Span<const GgufTensor> tensors() const { return tensors_; }
  const GgufTensor* FindTensor(absl::string_view name) const;  // null when absent
  const GgufKey* FindKey(absl::string_view name) const;        // null when absent
  bool Has(absl::string_view key) const { return FindKey(key) != nullptr; }

  // Scalars. Integers are read from any integer type, floats from f32 and f64.
  absl::StatusOr<absl::string_view> GetString(absl::string_view key) const;
  absl::StatusOr<uint64_t> GetUint(absl::string_view key, uint64_t min = 0,
                                   uint64_t max = std::numeric_limits<uint64_t>::max()) const;
  absl::StatusOr<int64_t> GetInt(absl::string_view key) const;
  absl::StatusOr<double> GetFloat(absl::string_view key) const;
  absl::StatusOr<bool> GetBool(absl::string_view key) const;
  // Arrays. GetIntArray reads any integer type and bool, GetFloatArray any number.
  absl::StatusOr<std::vector<absl::string_view>> GetStringArray(absl::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> GetIntArray(absl::string_view key) const;
  absl::StatusOr<std::vector<float>> GetFloatArray(absl::string_view key) const;

  // The tensor's bytes in the mapping; Drop tells the kernel that they will not be read again soon.
  absl::Span<const uint8_t> Bytes(const GgufTensor& tensor) const {
    return bytes_.subspan(tensor.offset, tensor.bytes);
  }
  void Drop(const GgufTensor& tensor) const { file_.Drop(tensor.offset, tensor.bytes); }
  // kInvalidArgument when the file was written to since Open.
  absl::Status CheckUnchanged() const { return file_.CheckUnchanged(); }

  // kInvalidArgument at a place of this file, for callers that find fault with what a key or a tensor says.
  absl::Status KeyError(absl::string_view key, absl::string_view message) const;
  absl::Status TensorError(const GgufTensor& tensor, absl::string_view message) const;

 private:
  Gguf() = default;
  absl::Status ParseHeader();
  absl::Status ParseKey(ByteReader& reader);
  absl::Status ParseTensor(ByteReader& reader);
  absl::Status PlaceTensors();
  absl::Status CutShort(const ByteReader& reader, absl::string_view what) const;
  absl::Status Error(uint64_t offset, absl::string_view message) const;
  absl::StatusOr<const GgufKey*> Expect(absl::string_view key, bool is_array, bool (*accepts)(GgufType),
                                        absl::string_view expected) const;

  MappedFile file_;  // unmapped when parsed from memory
  absl::Span<const uint8_t> bytes_;
  std::string path_;
  uint32_t version_ = 0;
  uint64_t alignment_ = 0, data_offset_ = 0;
  std::string header_sha256_;
  std::vector<GgufKey> keys_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<absl::string_view, uint32_t, absl::Hash<absl::string_view>> key_index_, tensor_index_;
};

}  // namespace sinter
