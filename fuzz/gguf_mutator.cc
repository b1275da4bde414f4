#include "fuzz/gguf_mutator.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <utility>

namespace sinter::fuzz {
namespace {

constexpr uint64_t kMostData = 1 << 20;  // of a tensor that was made to fit its dims

// Of a container: an element to change, or nullptr of an empty one.
template <typename T>
T* PickFrom(std::vector<T>& items, Dice& dice) {
  return items.empty() ? nullptr : &dice.Pick(items);
}

template <typename T>
std::string BytesOf(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

// An item of the type.
std::string OddItem(uint32_t type, absl::string_view old, Dice& dice) {
  constexpr uint32_t kF32 = 6, kF64 = 12;
  if (type == kStringType) return OddText(old, dice);
  if (type == kF32) return BytesOf(static_cast<float>(OddFloat(dice)));
  if (type == kF64) return BytesOf(OddFloat(dice));
  std::string item = BytesOf(OddInteger(dice));
  item.resize(NumberBytes(type));
  return item;
}

void MutateValue(GgufImage::Key& key, Dice& dice) {
  if (!key.is_array || key.items.empty()) {
    if (key.items.empty()) key.items.emplace_back();
    key.items[0] = OddItem(key.type, key.items[0], dice);
    return;
  }
  const auto at = [&] { return key.items.begin() + dice.Below(static_cast<int64_t>(key.items.size())); };
  switch (dice.Below(6)) {
    case 0:
      key.items.erase(at());
      break;
    case 1:
      key.items.push_back(*at());
      break;
    case 2:
      std::iter_swap(at(), at());
      break;
    case 3:
      key.stated_count =
          dice.Chance(50) ? key.items.size() + static_cast<uint64_t>(dice.Between(-2, 2)) : OddInteger(dice);
      break;
    default:
      for (int64_t n = dice.Between(1, 4); n > 0; --n) {
        std::string& item = *at();
        item = OddItem(key.type, item, dice);
      }
  }
}

void MutateType(GgufImage::Key& key, Dice& dice) {
  key.type = static_cast<uint32_t>(dice.Below(kNumValueTypes + 1));
  if (dice.Chance(20)) key.is_array = !key.is_array;
  if (!key.is_array) key.items.resize(1);
  const size_t unit = NumberBytes(key.type);
  for (std::string& item : key.items) {
    if (unit != 0) item.resize(unit);
  }
}

// Adds a record of another file, takes one away, or copies, swaps or renames one; otherwise gives the one whose own
// fields are to be changed.
template <typename Record>
Record* MutateRecords(std::vector<Record>& records, const std::vector<Record>& donated, Dice& dice) {
  if (records.empty() || dice.Chance(8)) {
    if (!donated.empty()) records.push_back(dice.Pick(donated));
    return nullptr;
  }
  Record& record = dice.Pick(records);
  switch (dice.Below(10)) {
    case 0:
      records.erase(records.begin() + (&record - records.data()));
      return nullptr;
    case 1: {
      Record copy = record;
      records.push_back(std::move(copy));
      return nullptr;
    }
    case 2:
      std::swap(record, dice.Pick(records));
      return nullptr;
    case 3:
      record.name = dice.Chance(50) ? OddText(record.name, dice) : dice.Pick(records).name;
      return nullptr;
    default:
      return &record;
  }
}

void MutateKeys(GgufImage& image, absl::Span<const GgufImage> donors, Dice& dice) {
  GgufImage::Key* const chosen = MutateRecords(image.keys, dice.Pick(donors).keys, dice);
  if (chosen == nullptr) return;
  GgufImage::Key& key = *chosen;
  switch (dice.Below(6)) {
    case 0:
      MutateType(key, dice);
      break;
    case 1:
      key.stated_length = OddInteger(dice);
      break;
    case 2:
      if (dice.Chance(30))
        image.keys.insert(image.keys.begin(),
                          {"general.alignment", 4, false, {BytesOf(uint32_t{1} << dice.Below(32))}});
      break;
    default:
      MutateValue(key, dice);
  }
}

void MutateDims(GgufImage::Tensor& tensor, Dice& dice) {
  switch (dice.Below(5)) {
    case 0:
      tensor.dims.push_back(OddInteger(dice));
      break;
    case 1:
      if (!tensor.dims.empty()) tensor.dims.pop_back();
      break;
    case 2:
      std::reverse(tensor.dims.begin(), tensor.dims.end());
      break;
    case 3:
      tensor.stated_rank = static_cast<uint32_t>(OddInteger(dice));
      break;
    default:
      if (tensor.dims.empty()) break;
      uint64_t& dim = dice.Pick(tensor.dims);
      dim = dice.Chance(50) ? dim + static_cast<uint64_t>(dice.Between(-2, 2)) : OddInteger(dice);
  }
}

void MutateTensors(GgufImage& image, absl::Span<const GgufImage> donors, Dice& dice) {
  GgufImage::Tensor* const chosen = MutateRecords(image.tensors, dice.Pick(donors).tensors, dice);
  if (chosen == nullptr) return;
  GgufImage::Tensor& tensor = *chosen;
  switch (dice.Below(6)) {
    case 0:
      tensor.type = static_cast<uint32_t>(dice.Below(45));
      break;
    case 1:
      tensor.stated_offset =
          dice.Chance(50) ? static_cast<uint64_t>(dice.Below(64)) * image.Alignment() : OddInteger(dice);
      return;
    case 2:
    case 3:
      MutateDims(tensor, dice);
      break;
    default:
      if (!tensor.data.empty()) {
        for (int64_t n = dice.Between(1, 16); n > 0; --n) dice.Pick(tensor.data) = static_cast<char>(dice.Next());
      }
      return;
  }
  if (dice.Chance(75)) GgufImage::FitData(tensor, kMostData);
}

}  // namespace

uint64_t OddInteger(Dice& dice) {
  switch (dice.Below(4)) {
    case 0:
      return static_cast<uint64_t>(dice.Between(-3, 9));
    case 1:
      return (uint64_t{1} << dice.Below(64)) + static_cast<uint64_t>(dice.Between(-2, 2));
    case 2:
      return static_cast<uint64_t>(dice.Below(int64_t{1} << dice.Between(4, 20)));
    default:
      return dice.Next() >> dice.Below(64);
  }
}

double OddFloat(Dice& dice) {
  using Limits = std::numeric_limits<double>;
  const std::array odd = {0.0,
                          -0.0,
                          1.0,
                          -1.0,
                          1e-5,
                          1e-45,
                          1e38,
                          3.5e38,
                          Limits::quiet_NaN(),
                          Limits::infinity(),
                          -1e-5,
                          Limits::max(),
                          Limits::denorm_min(),
                          -Limits::infinity()};
  return dice.Chance(70) ? dice.Pick(odd) : dice.Uniform(-100, 100);
}

std::string OddText(absl::string_view text, Dice& dice) {
  constexpr std::array<absl::string_view, 15> kOdd = {
      "\x1b[2J", "\xe2\x80\xae", "\xff",   "\xc3",         "\n",           "\"", "\\",  "%",
      " ",       "<0x4>",        "<0xZZ>", "\xed\xa0\x80", "\xe2\x96\x81", ".",  "/../"};
  std::string out(text);
  const size_t at = static_cast<size_t>(dice.Below(static_cast<int64_t>(out.size()) + 1));
  const size_t left = out.size() - at, some = std::min(left, static_cast<size_t>(dice.Between(1, 4)));
  switch (dice.Below(6)) {
    case 0:
      out.erase(at, some);
      break;
    case 1:
      out.insert(at, out.substr(at, some));
      break;
    case 2:
      out.insert(at, std::string(dice.Pick(kOdd)));
      break;
    case 3:
      out.insert(at, 1, '\0');
      break;
    case 4:
      if (dice.Chance(20)) out.insert(at, static_cast<size_t>(dice.Below(5000)), 'x');
      if (dice.Chance(20)) out.clear();
      break;
    default:
      if (left > 0) out[at] = static_cast<char>(dice.Next());
  }
  return out;
}

std::string OddBytes(absl::string_view bytes, Dice& dice) {
  std::string out(bytes);
  if (out.empty()) return out;
  const size_t at = static_cast<size_t>(dice.Below(static_cast<int64_t>(out.size())));
  const size_t some = std::min(out.size() - at, static_cast<size_t>(dice.Between(1, 64)));
  switch (dice.Below(6)) {
    case 0:
      out.erase(at, some);
      break;
    case 1:
      out.insert(at, out.substr(at, some));
      break;
    case 2:
      std::fill_n(out.begin() + static_cast<std::ptrdiff_t>(at), some, dice.Chance(50) ? '\0' : '\xff');
      break;
    case 3:
      out.resize(at);
      break;
    case 4: {
      const uint64_t odd = OddInteger(dice);
      std::memcpy(&out[at], &odd, std::min(out.size() - at, size_t{1} << dice.Below(4)));
      break;
    }
    default:
      for (int64_t n = dice.Between(1, 8); n > 0; --n) dice.Pick(out) ^= static_cast<char>(1 << dice.Below(8));
  }
  return out;
}

std::string MutateGguf(absl::string_view bytes, absl::Span<const GgufImage> donors, Dice& dice) {
  GgufImage image = GgufImage::Read(bytes);
  for (int64_t n = 1 + (dice.Chance(40) ? dice.Below(4) : 0); n > 0; --n) {
    if (dice.Chance(55)) {
      MutateKeys(image, donors, dice);
    } else {
      MutateTensors(image, donors, dice);
    }
  }
  if (dice.Chance(3)) image.stated_keys = OddInteger(dice);
  if (dice.Chance(3)) image.stated_tensors = OddInteger(dice);
  if (dice.Chance(2)) image.version = static_cast<uint32_t>(dice.Below(5));
  std::string out = image.Write();
  if (dice.Chance(5)) out = OddBytes(out, dice);
  return out;
}

}  // namespace sinter::fuzz
