#include "fuzz/gguf_image.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "frontend/gguf.h"

namespace sinter::fuzz {
namespace {

constexpr uint64_t kMostAlignment = 1 << 16, kUsualAlignment = 32;
// Of one image, whatever its file says.
constexpr uint64_t kMostRecords = 1 << 16;
// Where the data of a file that is written ends: with the gaps between thousands of tensors it would need gigabytes.
constexpr size_t kMostBytes = 16 << 20;

class Cursor {
 public:
  explicit Cursor(absl::string_view bytes) : rest_(bytes), size_(bytes.size()) {}

  template <typename T>
  bool Read(T& value) {
    if (rest_.size() < sizeof value) return false;
    std::memcpy(&value, rest_.data(), sizeof value);
    rest_.remove_prefix(sizeof value);
    return true;
  }
  bool ReadBytes(uint64_t size, std::string& out) {
    if (rest_.size() < size) return false;
    out.assign(rest_.data(), size);
    rest_.remove_prefix(size);
    return true;
  }
  bool ReadString(std::string& out) {
    uint64_t size;
    return Read(size) && ReadBytes(size, out);
  }
  uint64_t at() const { return size_ - rest_.size(); }

 private:
  absl::string_view rest_;
  size_t size_;
};

bool ReadKey(Cursor& cursor, GgufImage::Key& key) {
  uint64_t count = 1;
  if (!cursor.ReadString(key.name) || !cursor.Read(key.type)) return false;
  key.is_array = key.type == kArrayType;
  if (key.is_array && (!cursor.Read(key.type) || !cursor.Read(count))) return false;
  const size_t unit = NumberBytes(key.type);
  if (unit == 0 && key.type != kStringType) return false;
  for (uint64_t i = 0; i < std::min(count, kMostRecords); ++i) {
    std::string item;
    if (!(unit == 0 ? cursor.ReadString(item) : cursor.ReadBytes(unit, item))) return false;
    key.items.push_back(std::move(item));
  }
  return count <= kMostRecords;
}

bool ReadTensor(Cursor& cursor, GgufImage::Tensor& tensor, uint64_t& offset) {
  uint32_t rank;
  if (!cursor.ReadString(tensor.name) || !cursor.Read(rank) || rank > 8) return false;
  tensor.dims.resize(rank);
  for (uint64_t& dim : tensor.dims) {
    if (!cursor.Read(dim)) return false;
  }
  return cursor.Read(tensor.type) && cursor.Read(offset);
}

// Bytes of a tensor; nothing when they cannot be said.
std::optional<uint64_t> DataBytes(const GgufImage::Tensor& tensor) {
  const GgmlType* type = FindGgmlType(tensor.type);
  if (type == nullptr) return std::nullopt;
  std::optional<uint64_t> elems = 1;
  for (uint64_t dim : tensor.dims) elems = elems ? CheckedMul(*elems, dim) : elems;
  if (!elems) return std::nullopt;
  return CheckedMul(*elems / static_cast<uint64_t>(type->block_elems), static_cast<uint64_t>(type->block_bytes));
}

template <typename T>
void Put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}
void PutString(std::string& out, absl::string_view text, std::optional<uint64_t> stated = {}) {
  Put(out, stated.value_or(text.size()));
  out.append(text.data(), text.size());
}

}  // namespace

size_t NumberBytes(uint32_t type) {
  constexpr size_t kBytes[kNumValueTypes] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < kNumValueTypes ? kBytes[type] : 0;
}

GgufImage GgufImage::Read(absl::string_view bytes) {
  GgufImage image;
  Cursor cursor(bytes);
  uint32_t magic = 0;
  uint64_t num_tensors = 0, num_keys = 0;
  if (!cursor.Read(magic) || !cursor.Read(image.version) || !cursor.Read(num_tensors) || !cursor.Read(num_keys)) {
    return image;
  }
  for (uint64_t i = 0; i < std::min(num_keys, kMostRecords); ++i) {
    Key key;
    if (!ReadKey(cursor, key)) return image;
    image.keys.push_back(std::move(key));
  }
  std::vector<uint64_t> offsets;
  for (uint64_t i = 0; i < std::min(num_tensors, kMostRecords); ++i) {
    Tensor tensor;
    uint64_t offset = 0;
    if (!ReadTensor(cursor, tensor, offset)) break;
    image.tensors.push_back(std::move(tensor));
    offsets.push_back(offset);
  }
  const uint64_t alignment = image.Alignment(), data = (cursor.at() + alignment - 1) / alignment * alignment;
  for (size_t i = 0; i < offsets.size(); ++i) {
    const std::optional<uint64_t> begin = CheckedAdd(data, offsets[i]);
    const std::optional<uint64_t> size = DataBytes(image.tensors[i]);
    if (!begin || !size || *begin > bytes.size()) continue;
    const absl::string_view content = bytes.substr(*begin, *size);
    image.tensors[i].data.assign(content.data(), content.size());
  }
  return image;
}

uint64_t GgufImage::Alignment() const {
  for (const Key& key : keys) {
    if (key.name != "general.alignment" || key.is_array || key.items.empty()) continue;
    uint64_t value = 0;
    std::memcpy(&value, key.items[0].data(), std::min(key.items[0].size(), sizeof value));
    if (value >= 1 && value <= kMostAlignment) return value;
  }
  return kUsualAlignment;
}

std::string GgufImage::Write() const {
  std::string out = "GGUF";
  Put(out, version);
  Put(out, stated_tensors.value_or(tensors.size()));
  Put(out, stated_keys.value_or(keys.size()));
  for (const Key& key : keys) {
    PutString(out, key.name);
    if (key.is_array) Put(out, kArrayType);
    Put(out, key.type);
    if (key.is_array) Put(out, key.stated_count.value_or(key.items.size()));
    for (size_t i = 0; i < key.items.size(); ++i) {
      if (key.type == kStringType) {
        PutString(out, key.items[i], i + 1 == key.items.size() ? key.stated_length : std::nullopt);
      } else {
        out += key.items[i];
      }
    }
  }
  const uint64_t alignment = Alignment();
  const auto aligned = [alignment](uint64_t n) { return (n + alignment - 1) / alignment * alignment; };
  uint64_t offset = 0;
  for (const Tensor& tensor : tensors) {
    PutString(out, tensor.name);
    Put(out, tensor.stated_rank.value_or(static_cast<uint32_t>(tensor.dims.size())));
    for (uint64_t dim : tensor.dims) Put(out, dim);
    Put(out, tensor.type);
    Put(out, tensor.stated_offset.value_or(offset));
    offset = aligned(offset + tensor.data.size());
  }
  for (const Tensor& tensor : tensors) {
    if (out.size() > kMostBytes) break;
    out.resize(aligned(out.size()));
    out += tensor.data;
  }
  return out;
}

void GgufImage::FitData(Tensor& tensor, uint64_t max_bytes) {
  const std::optional<uint64_t> wanted = DataBytes(tensor);
  if (!wanted || *wanted > max_bytes || *wanted == tensor.data.size()) return;
  const std::string old = tensor.data.empty() ? std::string(1, '\0') : tensor.data;
  while (tensor.data.size() < *wanted) tensor.data.append(old, 0, *wanted - tensor.data.size());
  tensor.data.resize(*wanted);
}

}  // namespace sinter::fuzz
