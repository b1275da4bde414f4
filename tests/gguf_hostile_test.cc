// GGUF files that lie about sizes, generated: every count and length of the format near the powers of two where sums
// and products wrap, every limit and its neighbour, and what opening costs. Other malformed files are in gguf_test.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/limits.h"
#include "frontend/gguf.h"
#include "tests/gguf_writer.h"
#include "tests/heap_counter.h"

namespace sinter {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

absl::StatusOr<Gguf> Parse(const std::string& file) {
  return Gguf::Parse({reinterpret_cast<const uint8_t*>(file.data()), file.size()}, "m.gguf");
}

// A file with a key of each kind of value and array, and tensors.
GgufWriter Sample() {
  GgufWriter w;
  w.Set("text", "some text").Set("number", uint32_t{7});
  w.Set("u8s", std::vector<uint8_t>{1, 2, 3})
      .Set("i8s", std::vector<int8_t>{1, 2})
      .Set("u16s", std::vector<uint16_t>{1});
  w.Set("i16s", std::vector<int16_t>{1, 2}).Set("u32s", std::vector<uint32_t>{1}).Set("i32s", std::vector<int32_t>{1});
  w.Set("f32s", std::vector<float>{1, 2, 3}).Set("bools", std::vector<bool>{true, false});
  w.Set("u64s", std::vector<uint64_t>{1, 2}).Set("i64s", std::vector<int64_t>{1}).Set("f64s", std::vector<double>{1});
  w.Set("texts", std::vector<std::string>{"a", "bc"});
  w.Tensor("a", {3, 4}, GgufWriter::kF32, std::vector<float>(12, 1));
  w.RawTensor("b", {2, 2, 2, 32}, GgufWriter::kQ8_0, std::string(8 * 34, 'b'));
  return w;
}

// 2^31, 2^32, 2^63, 2^64 and their neighbours; an eighth and a 34th of 2^64, where bytes of blocks wrap.
std::vector<uint64_t> Edges() {
  std::vector<uint64_t> edges;
  for (int bits : {31, 32, 61, 62, 63}) {
    for (int64_t d : {-2, -1, 0, 1, 2}) edges.push_back((uint64_t{1} << bits) + static_cast<uint64_t>(d));
  }
  for (uint64_t back : {1, 2, 7, 8, 32}) edges.push_back(0 - back);
  edges.push_back(~uint64_t{0} / 34 + 1);
  return edges;
}

struct Field {
  std::string what, note;  // a note of the writer, and bytes after it
  uint64_t offset;
  int bytes;
  std::string place_note;  // where the error is
  uint64_t place_offset;
};

std::vector<Field> Fields() {
  std::vector<Field> fields = {
      {"number of tensors", "tensors", 0, 8, "tensors", 0},
      {"number of keys", "keys", 0, 8, "keys", 0},
      {"length of a key's name", "key:number", 0, 8, "key:number", 8},
      {"length of a text", "key:text:value", 0, 8, "key:text:value", 8},
      {"length of a text in an array", "key:texts:elements", 9, 8, "key:texts:elements", 17},
      {"length of a tensor's name", "tensor:b", 0, 8, "tensor:b", 8},
      {"rank", "tensor:b:rank", 0, 4, "tensor:b:rank", 0},
      {"data offset", "tensor:b:offset", 0, 8, "tensor:b:offset", 0},
  };
  for (const char* key :
       {"u8s", "i8s", "u16s", "i16s", "u32s", "i32s", "f32s", "bools", "u64s", "i64s", "f64s", "texts"}) {
    const std::string note = absl::StrCat("key:", key);
    fields.push_back({absl::StrCat("count of ", key), note + ":value", 0, 8, note + ":elements", 0});
  }
  for (uint64_t axis = 0; axis < 4; ++axis) {
    fields.push_back({absl::StrCat("dim ", axis), "tensor:b:dims", 8 * axis, 8, "tensor:b:dims", 0});
  }
  return fields;
}

TEST(GgufHostile, EveryCountAndLengthAtEveryEdge) {
  GgufWriter w = Sample();
  const std::string file = w.Build();
  const size_t before = HeapAllocatedBytes();
  ASSERT_TRUE(Parse(file).ok()) << Parse(file).status();
  const size_t intact = HeapAllocatedBytes() - before;  // of two
  for (const Field& field : Fields()) {
    const uint64_t at = w.at(field.note) + field.offset;
    for (uint64_t edge : Edges()) {
      if (field.bytes == 4 && edge > UINT32_MAX) continue;
      SCOPED_TRACE(absl::StrCat(field.what, " ", edge));
      const std::string bad = field.bytes == 4 ? GgufWriter::Patched(file, at, static_cast<uint32_t>(edge))
                                               : GgufWriter::Patched(file, at, edge);
      const size_t allocated = HeapAllocatedBytes();
      const absl::Status status = Parse(bad).status();
      EXPECT_LE(HeapAllocatedBytes() - allocated, intact + 4096) << "memory that the file only states";
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      // An offset and a dim can be refused where they stand or for where the data ends.
      const std::string place = absl::StrCat("m.gguf: at byte ", w.at(field.place_note) + field.place_offset, ": ");
      const std::string data =
          absl::StrCat("m.gguf: at byte ", w.at("tensor:b:offset"), ": tensor \"b\": data offset ");
      EXPECT_THAT(std::string(status.message()), ::testing::AnyOf(StartsWith(place), StartsWith(data)));
    }
    std::string twin = file;  // the same bytes in the same place
    EXPECT_TRUE(Parse(GgufWriter::Patched(twin, at, file[at])).ok()) << field.what;
  }
}

template <typename T>
void ExpectAlignment(T value, absl::string_view refusal) {
  GgufWriter w;
  w.Set("general.alignment", value).Tensor("x", {1}, GgufWriter::kF32, {1});
  const absl::Status status = Parse(w.Build()).status();
  if (refusal.empty()) {
    EXPECT_TRUE(status.ok()) << status;
    return;
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), absl::StrCat("m.gguf: at byte 24: key \"general.alignment\": ", refusal));
}

// The key that opening itself reads, of every type and at every edge.
TEST(GgufHostile, Alignment) {
  ExpectAlignment(uint32_t{32}, "");
  ExpectAlignment(uint64_t{32}, "");
  ExpectAlignment(int8_t{32}, "");
  ExpectAlignment(uint32_t{0}, "0, expected 8 to 2097152");
  ExpectAlignment(uint32_t{3}, "3, expected 8 to 2097152");
  ExpectAlignment(uint32_t{24}, "24, expected a power of two");
  ExpectAlignment(uint32_t{1} << 31, "2147483648, expected 8 to 2097152");
  ExpectAlignment(uint64_t{1} << 32, "4294967296, expected 8 to 2097152");
  ExpectAlignment(uint64_t{1} << 63, "9223372036854775808, expected 8 to 2097152");
  ExpectAlignment(int32_t{-32}, "-32, expected 8 to 2097152");
  ExpectAlignment(32.0f, "f32, expected an integer");
  ExpectAlignment(true, "bool, expected an integer");
  ExpectAlignment(std::string("32"), "string, expected an integer");
  ExpectAlignment(std::vector<uint32_t>{32}, "array of u32, expected an integer");
}

// ---- Limits --------------------------------------------------------------------------------------------------------

template <typename T>
void Put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string Header(uint64_t tensors, uint64_t keys) {
  std::string file = "GGUF";
  Put(file, uint32_t{3});
  Put(file, tensors);
  Put(file, keys);
  return file;
}

std::string WithKeys(uint64_t count) {
  std::string file = Header(0, count);
  for (uint64_t i = 0; i < count; ++i) {
    Put(file, uint64_t{3});
    file.append({static_cast<char>(i), static_cast<char>(i >> 8), static_cast<char>(i >> 16)});
    Put(file, uint32_t{0});  // u8
    Put(file, uint8_t{1});
  }
  return file;
}

std::string WithTensors(uint64_t count) {
  std::string file = Header(count, 0), data;
  for (uint64_t i = 0; i < count; ++i) {
    Put(file, uint64_t{3});
    file.append({static_cast<char>(i), static_cast<char>(i >> 8), static_cast<char>(i >> 16)});
    Put(file, uint32_t{1});
    Put(file, uint64_t{1});
    Put(file, uint32_t{0});           // F32
    Put(file, 32 * (count - 1 - i));  // the last first: sorting them is work, too
  }
  file.resize((file.size() + 31) / 32 * 32 + 32 * count);
  return file;
}

std::string WithKeyNamed(size_t bytes) { return GgufWriter().Set(std::string(bytes, 'k'), uint8_t{1}).Build(); }
std::string WithTensorNamed(size_t bytes) {
  return GgufWriter().Tensor(std::string(bytes, 't'), {1}, GgufWriter::kF32, {1}).Build();
}
std::string WithText(size_t bytes) { return GgufWriter().Set("text", std::string(bytes, 'x')).Build(); }
std::string WithArray(size_t elements) {
  std::string file = Header(0, 1);
  Put(file, uint64_t{5});
  file += "array";
  Put(file, uint32_t{9});
  Put(file, uint32_t{0});  // u8
  Put(file, uint64_t{elements});
  file.resize(file.size() + elements);
  return file;
}

TEST(GgufHostile, EveryLimitAndWhatItStillAllows) {
  struct Case {
    const Limit& limit;
    std::function<std::string(size_t)> make;
    const char* refused;  // at `limit.most` + 1
  };
  const Case cases[] = {
      {limits::kKeys, WithKeys, "at byte 16: 65537 keys: the limit \"keys\" is 65536"},
      {limits::kTensors, WithTensors, "at byte 8: 65537 tensors: the limit \"tensors\" is 65536"},
      {limits::kKeyNameBytes, WithKeyNamed, "a name of 65536 bytes: the limit \"key name\" is 65535"},
      {limits::kTensorNameBytes, WithTensorNamed, "a name of 1025 bytes: the limit \"tensor name\" is 1024"},
      {limits::kStringBytes, WithText,
       "at byte 40: key \"text\": string number 0 of 67108865 bytes: the limit \"string\" is 67108864"},
      {limits::kArrayElements, WithArray,
       "at byte 45: key \"array\": an array of 67108865 elements: the limit \"array elements\" is 67108864"},
  };
  for (const Case& c : cases) {
    const auto most = static_cast<size_t>(c.limit.most);
    const absl::Status accepted = Parse(c.make(most)).status();
    EXPECT_TRUE(accepted.ok()) << c.limit.name << ": " << accepted;
    const absl::Status refused = Parse(c.make(most + 1)).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << c.limit.name;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(c.refused));
  }
}

// Arrays that a sparse file only pretends to hold: no byte of them is read.
TEST(GgufHostile, MetadataBytes) {
  const uint64_t elements = uint64_t{1} << 25, arrays = limits::kMetadataBytes.most / (8 * elements);
  std::string record;
  OutputFile file = *OutputFile::Create("");
  std::string header = Header(0, arrays + 1);
  uint64_t at = 0;
  const auto put = [&](const std::string& bytes) {
    ASSERT_TRUE(file.WriteAt(at, {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}).ok());
    at += bytes.size();
  };
  put(header);
  for (uint64_t i = 0; i < arrays + 1; ++i) {
    std::string key;
    Put(key, uint64_t{1});
    key.push_back(static_cast<char>('a' + i));
    Put(key, uint32_t{9});
    Put(key, uint32_t{10});  // u64
    Put(key, elements);
    put(key);
    at += 8 * elements;
  }
  ASSERT_TRUE(file.Extend(at).ok());
  const absl::StatusOr<MappedFile> mapped = MappedFile::FromDescriptor(file.descriptor(), "m.gguf");
  ASSERT_TRUE(mapped.ok());
  const absl::Status status = Gguf::Parse(mapped->bytes(), "m.gguf").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("bytes: the limit \"metadata bytes\" is 268435456"));
}

// ---- What opening costs --------------------------------------------------------------------------------------------

struct Cost {
  size_t allocations, bytes;
};
Cost CostOf(const std::string& file) {
  EXPECT_TRUE(Parse(file).ok());  // libraries keep what the first call of a process makes
  const size_t allocations = HeapAllocations(), bytes = HeapAllocatedBytes();
  EXPECT_TRUE(Parse(file).ok()) << Parse(file).status();
  return {(HeapAllocations() - allocations) / 2, (HeapAllocatedBytes() - bytes) / 2};  // parsed twice
}

TEST(GgufHostile, OpeningCostsInProportionToTheFile) {
  for (const auto& make : {WithKeys, WithTensors}) {
    const std::string small = make(1 << 12), large = make(1 << 16);
    const Cost of_small = CostOf(small), of_large = CostOf(large);
    // A table that grows by doubling is between two sizes.
    EXPECT_LE(of_large.allocations, 2 * 16 * of_small.allocations);
    EXPECT_LE(of_large.bytes, 2 * 16 * of_small.bytes);
    EXPECT_LE(of_large.bytes, 60 * large.size());  // all that was ever asked for, short-lived text of messages included
  }
}

TEST(GgufHostile, AnArrayIsNotDecodedUntilItIsAskedFor) {
  const std::string file = WithArray(1 << 20);
  EXPECT_LT(CostOf(file).bytes, 16384u);
}

}  // namespace
}  // namespace sinter
