#include "frontend/gguf.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "base/escape.h"
#include "base/limits.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "frontend/sha256.h"

namespace sinter {
namespace {

constexpr GgmlType kGgmlTypes[] = {
#define GGML_TYPE(id, name, block_elems, block_bytes) {id, #name, block_elems, block_bytes},
#include "frontend/ggml_types.inc"
#undef GGML_TYPE
};

// Value types, indexed by their number in the file. `bytes` is the smallest that a value takes: a string's is its
// length.
struct ValueType {
  const char* name;
  uint64_t bytes;
};
constexpr ValueType kValueTypes[] = {{"u8", 1},  {"i8", 1},  {"u16", 2},  {"i16", 2},    {"u32", 4},
                                     {"i32", 4}, {"f32", 4}, {"bool", 1}, {"string", 8}, {"array", 0},
                                     {"u64", 8}, {"i64", 8}, {"f64", 8}};
constexpr uint32_t kNumValueTypes = sizeof kValueTypes / sizeof kValueTypes[0];

constexpr uint64_t kMinAlignment = 8, kDefaultAlignment = 32;  // the format asks for a multiple of 8
// Smallest records: length, one byte of name, type, value; length, one byte of name, rank, one dim, type, offset.
constexpr uint64_t kMinKeyBytes = 8 + 1 + 4 + 1, kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

std::string DimsText(absl::Span<const uint64_t> dims) { return absl::StrCat("dims ", absl::StrJoin(dims, " x ")); }

}  // namespace

const GgmlType* FindGgmlType(uint32_t id) {
  const auto* row = std::lower_bound(std::begin(kGgmlTypes), std::end(kGgmlTypes), id,
                                     [](const GgmlType& type, uint32_t wanted) { return type.id < wanted; });
  return row != std::end(kGgmlTypes) && row->id == id ? row : nullptr;
}

const char* GgufTypeName(GgufType type) { return kValueTypes[static_cast<uint32_t>(type)].name; }

absl::StatusOr<Gguf> Gguf::Open(const std::string& path) {
  return WithoutExceptions(path, [&]() -> absl::StatusOr<Gguf> {
    Gguf gguf;
    SINTER_ASSIGN_OR_RETURN(gguf.file_, MappedFile::Open(path));
    gguf.path_ = path;
    gguf.bytes_ = gguf.file_.bytes();
    SINTER_RETURN_IF_ERROR(gguf.ParseHeader());
    return gguf;
  });
}

absl::StatusOr<Gguf> Gguf::Parse(absl::Span<const uint8_t> bytes, const std::string& name) {
  return WithoutExceptions(name, [&]() -> absl::StatusOr<Gguf> {
    Gguf gguf;
    gguf.path_ = name;
    gguf.bytes_ = bytes;
    SINTER_RETURN_IF_ERROR(gguf.ParseHeader());
    return gguf;
  });
}

absl::Status Gguf::ParseHeader() {
  ByteReader reader(bytes_);
  absl::string_view magic;
  uint64_t num_tensors, num_keys;
  if (!reader.ReadText(4, &magic)) return CutShort(reader, "magic \"GGUF\"");
  if (magic != "GGUF") {
    const bool swapped = magic == "FUGG";
    return Error(0, absl::StrCat("not a GGUF file: it begins with ", Quoted(magic), ", expected \"GGUF\"",
                                 swapped ? "; it looks big-endian, and only little-endian files are read" : ""));
  }
  if (!reader.Read(&version_)) return CutShort(reader, "version");
  if (version_ < 2 || version_ > 3) {
    // A small number whose bytes are reversed has zeros where the small number would be.
    const bool swapped = version_ != 0 && (version_ & 0xffff) == 0;
    return Error(4, absl::StrCat("GGUF version ", version_, ", expected 2 or 3",
                                 swapped ? "; it looks big-endian, and only little-endian files are read" : ""));
  }
  if (!reader.Read(&num_tensors)) return CutShort(reader, "number of tensors");
  if (!reader.Read(&num_keys)) return CutShort(reader, "number of keys");
  if (num_tensors > reader.left() / kMinTensorBytes) {
    return Error(8, absl::StrCat(num_tensors, " tensors do not fit in the ", reader.left(), " bytes that follow"));
  }
  if (limits::kTensors.Exceeded(num_tensors)) {
    return Error(8, absl::StrCat(num_tensors, " tensors: ", limits::kTensors.Text()));
  }
  if (num_keys > reader.left() / kMinKeyBytes) {
    return Error(16, absl::StrCat(num_keys, " keys do not fit in the ", reader.left(), " bytes that follow"));
  }
  if (limits::kKeys.Exceeded(num_keys)) return Error(16, absl::StrCat(num_keys, " keys: ", limits::kKeys.Text()));
  for (uint64_t i = 0; i < num_keys; ++i) {
    SINTER_RETURN_IF_ERROR(ParseKey(reader));
    if (limits::kMetadataBytes.Exceeded(reader.pos())) {
      return KeyError(keys_.back().name, absl::StrCat("the metadata up to its end has ", reader.pos(),
                                                      " bytes: ", limits::kMetadataBytes.Text()));
    }
  }

  alignment_ = kDefaultAlignment;
  if (Has("general.alignment")) {
    SINTER_ASSIGN_OR_RETURN(alignment_, GetUint("general.alignment", kMinAlignment, limits::kAlignment.most));
    if ((alignment_ & (alignment_ - 1)) != 0) {
      return KeyError("general.alignment", absl::StrCat(alignment_, ", expected a power of two"));
    }
  }
  for (uint64_t i = 0; i < num_tensors; ++i) SINTER_RETURN_IF_ERROR(ParseTensor(reader));

  // Cannot overflow: pos is within the file and the alignment is small. Without tensors there need be no padding.
  data_offset_ = std::min<uint64_t>(*CheckedAlign(reader.pos(), alignment_), bytes_.size());
  SINTER_RETURN_IF_ERROR(PlaceTensors());

  header_sha256_ = Sha256({reinterpret_cast<const char*>(bytes_.data()), data_offset_});
  return absl::OkStatus();
}

absl::Status Gguf::ParseKey(ByteReader& reader) {
  GgufKey key;
  key.offset = reader.pos();
  if (!reader.ReadPrefixedText<uint64_t>(&key.name))
    return CutShort(reader, absl::StrCat("name of key number ", keys_.size()));
  if (key.name.empty()) return Error(key.offset, absl::StrCat("key number ", keys_.size(), " has an empty name"));
  const std::string what = absl::StrCat("key ", Quoted(key.name));
  if (limits::kKeyNameBytes.Exceeded(key.name.size())) {
    return Error(key.offset,
                 absl::StrCat(what, ": a name of ", key.name.size(), " bytes: ", limits::kKeyNameBytes.Text()));
  }
  if (!key_index_.try_emplace(key.name, static_cast<uint32_t>(keys_.size())).second) {
    return Error(key.offset, absl::StrCat(what, " appears twice"));
  }
  auto read_type = [&]() -> absl::StatusOr<GgufType> {
    uint32_t type;
    if (!reader.Read(&type)) return CutShort(reader, what);
    if (type < kNumValueTypes) return static_cast<GgufType>(type);
    return Error(reader.pos() - 4,
                 absl::StrCat(what, ": value type ", type, " is not one of the format's 0 to ", kNumValueTypes - 1));
  };
  SINTER_ASSIGN_OR_RETURN(key.type, read_type());
  key.is_array = key.type == GgufType::kArray;
  key.count = 1;
  if (key.is_array) {
    SINTER_ASSIGN_OR_RETURN(key.type, read_type());
    if (key.type == GgufType::kArray) return Error(reader.pos() - 4, absl::StrCat(what, ": an array of arrays"));
    if (!reader.Read(&key.count)) return CutShort(reader, what);
  }
  key.value_offset = reader.pos();
  const ValueType& type = kValueTypes[static_cast<uint32_t>(key.type)];
  if (!reader.Has(key.count, type.bytes)) {
    return CutShort(reader, absl::StrCat(what, ": ", key.is_array ? absl::StrCat(key.count, " x ") : "", type.name));
  }
  if (limits::kArrayElements.Exceeded(key.count)) {
    return Error(key.value_offset - 8,
                 absl::StrCat(what, ": an array of ", key.count, " elements: ", limits::kArrayElements.Text()));
  }
  if (key.type == GgufType::kString) {
    for (uint64_t i = 0; i < key.count; ++i) {
      absl::string_view text;
      if (!reader.ReadPrefixedText<uint64_t>(&text)) return CutShort(reader, absl::StrCat(what, ": string number ", i));
      if (limits::kStringBytes.Exceeded(text.size())) {
        return Error(reader.pos() - text.size() - 8, absl::StrCat(what, ": string number ", i, " of ", text.size(),
                                                                  " bytes: ", limits::kStringBytes.Text()));
      }
    }
  } else {
    reader.Skip(key.count, type.bytes);
  }
  keys_.push_back(key);
  return absl::OkStatus();
}

absl::Status Gguf::ParseTensor(ByteReader& reader) {
  GgufTensor tensor;
  tensor.record_offset = reader.pos();
  if (!reader.ReadPrefixedText<uint64_t>(&tensor.name)) {
    return CutShort(reader, absl::StrCat("name of tensor number ", tensors_.size()));
  }
  if (tensor.name.empty()) {
    return Error(tensor.record_offset, absl::StrCat("tensor number ", tensors_.size(), " has an empty name"));
  }
  const std::string what = absl::StrCat("tensor ", Quoted(tensor.name));
  if (limits::kTensorNameBytes.Exceeded(tensor.name.size())) {
    return Error(tensor.record_offset,
                 absl::StrCat(what, ": a name of ", tensor.name.size(), " bytes: ", limits::kTensorNameBytes.Text()));
  }
  if (!tensor_index_.try_emplace(tensor.name, static_cast<uint32_t>(tensors_.size())).second) {
    return Error(tensor.record_offset, absl::StrCat(what, " appears twice"));
  }

  uint32_t rank, type;
  if (!reader.Read(&rank)) return CutShort(reader, what);
  if (rank < 1 || limits::kTensorDims.Exceeded(rank)) {
    return Error(reader.pos() - 4, absl::StrCat(what, ": ", rank, " dims, expected 1 to ", limits::kTensorDims.most));
  }
  const uint64_t dims_offset = reader.pos();
  absl::InlinedVector<uint64_t, 4> dims(rank);
  for (uint32_t i = rank; i-- > 0;) {  // the file has the innermost first
    if (!reader.Read(&dims[i])) return CutShort(reader, what);
  }
  std::optional<int64_t> elems = 1;
  for (uint64_t dim : dims) {
    if (dim == 0) return Error(dims_offset, absl::StrCat(what, ": ", DimsText(dims), ": every dim must be 1 or more"));
    const bool fits = elems && dim <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    elems = fits ? CheckedMul(*elems, static_cast<int64_t>(dim)) : std::nullopt;
  }
  if (!elems) return Error(dims_offset, absl::StrCat(what, ": ", DimsText(dims), ": the number of elements overflows"));
  tensor.dims.assign(dims.begin(), dims.end());

  if (!reader.Read(&type)) return CutShort(reader, what);
  tensor.type = FindGgmlType(type);
  if (tensor.type == nullptr) {
    absl::Status status = Error(reader.pos() - 4, absl::StrCat(what, ": tensor type ", type, " is not known"));
    return absl::UnimplementedError(status.message());
  }
  if (tensor.dims.back() % tensor.type->block_elems != 0) {
    return Error(dims_offset, absl::StrCat(what, ": ", DimsText(dims), ": the last must be a multiple of ",
                                           tensor.type->block_elems, ", the block of ", tensor.type->name));
  }
  const std::optional<int64_t> bytes = CheckedMul(*elems / tensor.type->block_elems, tensor.type->block_bytes);
  if (!bytes) return Error(dims_offset, absl::StrCat(what, ": ", DimsText(dims), ": the number of bytes overflows"));
  tensor.bytes = static_cast<uint64_t>(*bytes);
  if (!reader.Read(&tensor.offset)) return CutShort(reader, what);
  tensors_.push_back(std::move(tensor));
  return absl::OkStatus();
}

// Turns the offsets, which the file counts from the start of its data, into offsets in the file.
absl::Status Gguf::PlaceTensors() {
  std::vector<const GgufTensor*> by_offset;
  for (GgufTensor& tensor : tensors_) {
    const uint64_t field = tensor.record_offset + 8 + tensor.name.size() + 4 + 8 * tensor.dims.size() + 4;
    const std::string what = absl::StrCat("tensor ", Quoted(tensor.name), ": data offset ", tensor.offset);
    if (tensor.offset % alignment_ != 0) {
      return Error(field, absl::StrCat(what, ": not a multiple of the alignment ", alignment_));
    }
    const std::optional<uint64_t> begin = CheckedAdd(data_offset_, tensor.offset);
    const std::optional<uint64_t> end = begin ? CheckedAdd(*begin, tensor.bytes) : std::nullopt;
    if (!end || *end > bytes_.size()) {
      return Error(field,
                   absl::StrCat(what, " and ", tensor.bytes, " bytes end past the file: its data begins at byte ",
                                data_offset_, " and it has ", bytes_.size(), " bytes"));
    }
    tensor.offset = *begin;
    by_offset.push_back(&tensor);
  }
  std::sort(by_offset.begin(), by_offset.end(),
            [](const GgufTensor* a, const GgufTensor* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < by_offset.size(); ++i) {
    if (by_offset[i]->offset < by_offset[i - 1]->offset + by_offset[i - 1]->bytes) {
      return TensorError(*by_offset[i],
                         absl::StrCat("its data overlaps that of tensor ", Quoted(by_offset[i - 1]->name)));
    }
  }
  return absl::OkStatus();
}

const GgufTensor* Gguf::FindTensor(absl::string_view name) const {
  auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

const GgufKey* Gguf::FindKey(absl::string_view name) const {
  auto it = key_index_.find(name);
  return it == key_index_.end() ? nullptr : &keys_[it->second];
}

absl::Status Gguf::Error(uint64_t offset, absl::string_view message) const {
  return absl::InvalidArgumentError(absl::StrCat(path_, ": at byte ", offset, ": ", message));
}

absl::Status Gguf::CutShort(const ByteReader& reader, absl::string_view what) const {
  return Error(reader.pos(), absl::StrCat(what, ": ", reader.Lack()));
}

absl::Status Gguf::KeyError(absl::string_view key, absl::string_view message) const {
  const GgufKey* found = FindKey(key);
  const std::string text = absl::StrCat("key ", Quoted(key), ": ", message);
  if (found != nullptr) return Error(found->offset, text);
  return absl::InvalidArgumentError(absl::StrCat(path_, ": ", text));
}

absl::Status Gguf::TensorError(const GgufTensor& tensor, absl::string_view message) const {
  return Error(tensor.record_offset, absl::StrCat("tensor ", Quoted(tensor.name), ": ", message));
}

}  // namespace sinter
