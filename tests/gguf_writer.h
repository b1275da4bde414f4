// Writes GGUF files for tests: metadata of every kind, tensors of F32, F16, BF16 or raw blocks, in v2 or v3.
//
//   GgufWriter w;
//   w.Set("general.architecture", "llama").Set("llama.block_count", uint32_t{2});
//   w.Set("tokenizer.ggml.tokens", std::vector<std::string>{"<unk>", "a"});
//   w.Tensor("blk.0.attn_q.weight", {64, 64}, GgufWriter::kF16, values);  // dims in row-major order
//   std::string file = w.Build();
//
// Malformed files are made by patching a well-formed one: Build notes where each field went, and at("tensor:x:dims")
// gives the offset. Notes: magic, version, tensors, keys (the two counts), data; key:NAME and tensor:NAME (their
// records), :type, :value (the value, or an array's count with :element_type before it and :elements after it), :rank,
// :dims (innermost first, 8 bytes each), :offset, :data.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace sinter {

class GgufWriter {
 public:
  enum Type : uint32_t {
    kF32 = 0,
    kF16 = 1,
    kQ4_0 = 2,
    kQ4_1 = 3,
    kQ5_0 = 6,
    kQ5_1 = 7,
    kQ8_0 = 8,
    kQ3_K = 11,
    kQ4_K = 12,
    kQ5_K = 13,
    kQ6_K = 14,
    kBF16 = 30
  };

  explicit GgufWriter(uint32_t version = 3) : version_(version) {}

  // A scalar or an array; the file's type is that of the C++ value. Numbers must be given as sized types.
  template <typename T>
  GgufWriter& Set(const std::string& key, const T& value) {
    std::string body;
    if constexpr (IsVector<T>::value) {
      Put(body, uint32_t{9});
      body_notes_.push_back({keys_.size(), "element_type", body.size()});
      Put(body, TypeNumber<typename T::value_type>());
      body_notes_.push_back({keys_.size(), "value", body.size()});
      Put(body, uint64_t{value.size()});
      body_notes_.push_back({keys_.size(), "elements", body.size()});
      for (const auto& element : value) PutValue<typename T::value_type>(body, element);
    } else {
      Put(body, TypeNumber<T>());
      body_notes_.push_back({keys_.size(), "value", body.size()});
      PutValue<T>(body, value);
    }
    keys_.emplace_back(key, std::move(body));
    return *this;
  }
  GgufWriter& Set(const std::string& key, const char* value) { return Set(key, std::string(value)); }

  // Floats, converted to F32, F16 or BF16 with rounding to nearest even.
  GgufWriter& Tensor(const std::string& name, const std::vector<int64_t>& dims, Type type,
                     const std::vector<float>& values) {
    EXPECT_TRUE(type == kF32 || type == kF16 || type == kBF16) << name << ": give blocks to RawTensor";
    std::string data;
    for (float value : values) {
      if (type == kF32) Put(data, value);
      if (type == kF16) Put(data, HalfBits(value));
      if (type == kBF16) Put(data, Bfloat16Bits(value));
    }
    return RawTensor(name, dims, type, data);
  }
  GgufWriter& RawTensor(const std::string& name, const std::vector<int64_t>& dims, uint32_t type, std::string data) {
    tensors_.push_back({name, dims, type, std::move(data)});
    return *this;
  }

  GgufWriter& set_alignment(uint32_t alignment) {
    alignment_ = alignment;
    return Set("general.alignment", alignment);
  }

  std::string Build() {
    notes_.clear();
    std::string file;
    Note(file, "magic");
    file += "GGUF";
    Note(file, "version");
    Put(file, version_);
    Note(file, "tensors");
    Put(file, uint64_t{tensors_.size()});
    Note(file, "keys");
    Put(file, uint64_t{keys_.size()});
    for (size_t i = 0; i < keys_.size(); ++i) {
      const std::string note = "key:" + keys_[i].first;
      Note(file, note);
      PutValue<std::string>(file, keys_[i].first);
      Note(file, note + ":type");
      for (const BodyNote& n : body_notes_) {
        if (n.key == i) notes_[note + ":" + n.what] = file.size() + n.offset;
      }
      file += keys_[i].second;
    }
    uint64_t offset = 0;
    for (const TensorRecord& t : tensors_) {
      const std::string note = "tensor:" + t.name;
      Note(file, note);
      PutValue<std::string>(file, t.name);
      Note(file, note + ":rank");
      Put(file, static_cast<uint32_t>(t.dims.size()));
      Note(file, note + ":dims");
      for (size_t i = t.dims.size(); i-- > 0;) Put(file, t.dims[i]);
      Note(file, note + ":type");
      Put(file, t.type);
      Note(file, note + ":offset");
      Put(file, offset);
      offset = (offset + t.data.size() + alignment_ - 1) / alignment_ * alignment_;
    }
    if (!tensors_.empty()) Pad(file);
    Note(file, "data");
    for (const TensorRecord& t : tensors_) {
      Pad(file);
      Note(file, "tensor:" + t.name + ":data");
      file += t.data;
    }
    return file;
  }

  // Where a field went in the file that Build made last.
  uint64_t at(const std::string& note) const {
    auto it = notes_.find(note);
    EXPECT_NE(it, notes_.end()) << "no note " << note;
    return it == notes_.end() ? 0 : it->second;
  }

  // `file` with the bytes at `offset` replaced.
  template <typename T>
  static std::string Patched(std::string file, uint64_t offset, T value) {
    EXPECT_LE(offset + sizeof value, file.size());
    std::memcpy(file.data() + offset, &value, sizeof value);
    return file;
  }

  static uint16_t Bfloat16Bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);  // a quiet NaN
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  static uint16_t HalfBits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);   // NaN
    if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // rounds to 65536 or more
    uint32_t mantissa, shift;
    if (magnitude >= 0x38800000) {  // normal: exponent 127 becomes 15
      mantissa = magnitude - (112u << 23);
      shift = 13;
    } else {  // subnormal: multiples of 2^-24
      const uint32_t exponent = magnitude >> 23;
      if (exponent < 102) return static_cast<uint16_t>(sign);
      mantissa = (magnitude & 0x7fffff) | 0x800000;
      shift = 126 - exponent;
    }
    const uint32_t kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1), half = 1u << (shift - 1);
    return static_cast<uint16_t>(sign | (kept + (rest > half || (rest == half && (kept & 1) != 0) ? 1 : 0)));
  }

 private:
  template <typename T>
  struct IsVector : std::false_type {};
  template <typename T>
  struct IsVector<std::vector<T>> : std::true_type {};

  struct TensorRecord {
    std::string name;
    std::vector<int64_t> dims;
    uint32_t type;
    std::string data;
  };
  struct BodyNote {
    size_t key;
    std::string what;
    uint64_t offset;
  };

  template <typename T>
  static constexpr uint32_t TypeNumber() {
    if constexpr (std::is_same_v<T, uint8_t>)
      return 0;
    else if constexpr (std::is_same_v<T, int8_t>)
      return 1;
    else if constexpr (std::is_same_v<T, uint16_t>)
      return 2;
    else if constexpr (std::is_same_v<T, int16_t>)
      return 3;
    else if constexpr (std::is_same_v<T, uint32_t>)
      return 4;
    else if constexpr (std::is_same_v<T, int32_t>)
      return 5;
    else if constexpr (std::is_same_v<T, float>)
      return 6;
    else if constexpr (std::is_same_v<T, bool>)
      return 7;
    else if constexpr (std::is_same_v<T, std::string>)
      return 8;
    else if constexpr (std::is_same_v<T, uint64_t>)
      return 10;
    else if constexpr (std::is_same_v<T, int64_t>)
      return 11;
    else {
      static_assert(std::is_same_v<T, double>, "no GGUF type holds this");
      return 12;
    }
  }

  template <typename T>
  static void Put(std::string& out, T value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  template <typename T>
  static void PutValue(std::string& out, const T& value) {
    if constexpr (std::is_same_v<T, std::string>) {
      Put(out, uint64_t{value.size()});
      out += value;
    } else {
      Put(out, value);
    }
  }
  void Pad(std::string& file) const { file.resize((file.size() + alignment_ - 1) / alignment_ * alignment_); }
  void Note(const std::string& file, const std::string& what) { notes_[what] = file.size(); }

  uint32_t version_, alignment_ = 32;
  std::vector<std::pair<std::string, std::string>> keys_;
  std::vector<BodyNote> body_notes_;
  std::vector<TensorRecord> tensors_;
  std::map<std::string, uint64_t> notes_;
};

}  // namespace sinter
