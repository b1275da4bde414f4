// The GGUF reader: what it reads, and every malformed case beside an accepted twin, with code, message and place.
#include "frontend/gguf.h"

#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/gguf_writer.h"

namespace sinter {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<Gguf> Parse(const std::string& file) {
  return Gguf::Parse({reinterpret_cast<const uint8_t*>(file.data()), file.size()}, "m.gguf");
}

// Parses before it evaluates the place, which may come from the same expression's Build.
#define EXPECT_INVALID(file, place, text)                                             \
  do {                                                                                \
    const absl::Status parsed = Parse(file).status();                                 \
    EXPECT_EQ(parsed.code(), absl::StatusCode::kInvalidArgument);                     \
    EXPECT_EQ(parsed.message(), absl::StrCat("m.gguf: at byte ", place, ": ", text)); \
  } while (false)
#define EXPECT_ACCEPTED(file) EXPECT_EQ(Parse(file).status(), absl::OkStatus())

// Every kind of metadata, and a tensor of each kind that the writer makes.
GgufWriter Sample(uint32_t version = 3) {
  GgufWriter w(version);
  w.Set("s", "text").Set("empty", "").Set("t", true).Set("f", false);
  w.Set("u8", uint8_t{255}).Set("i8", int8_t{-128}).Set("u16", uint16_t{65535}).Set("i16", int16_t{-32768});
  w.Set("u32", uint32_t{4294967295}).Set("i32", int32_t{-5}).Set("u64", ~uint64_t{0}).Set("i64", int64_t{-7});
  w.Set("f32", 0.5f).Set("f64", 1e-300);
  w.Set("strings", std::vector<std::string>{"a", "", "bcd"});
  w.Set("floats", std::vector<float>{1.5f, -2.0f}).Set("doubles", std::vector<double>{0.25});
  w.Set("ints", std::vector<int32_t>{1, -2, 3}).Set("bytes", std::vector<uint8_t>{7, 200});
  w.Set("bools", std::vector<bool>{true, false, true}).Set("none", std::vector<int32_t>{});
  w.Tensor("x", {5, 3}, GgufWriter::kF32, std::vector<float>(15, 1.0f));
  w.Tensor("y", {2, 2, 4}, GgufWriter::kF16, std::vector<float>(16, -2.0f));
  w.Tensor("z", {7}, GgufWriter::kBF16, std::vector<float>(7, 3.0f));
  w.RawTensor("q", {2, 64}, GgufWriter::kQ8_0, std::string(4 * 34, 'q'));
  return w;
}

TEST(Gguf, ReadsEveryKindOfValue) {
  for (uint32_t version : {2, 3}) {
    const std::string file = Sample(version).Build();
    absl::StatusOr<Gguf> g = Parse(file);
    ASSERT_TRUE(g.ok()) << g.status();
    EXPECT_EQ(g->version(), version);
    EXPECT_EQ(g->alignment(), 32u);
    EXPECT_EQ(g->keys().size(), 21u);
    EXPECT_EQ(*g->GetString("s"), "text");
    EXPECT_EQ(*g->GetString("empty"), "");
    EXPECT_EQ(*g->GetBool("t"), true);
    EXPECT_EQ(*g->GetBool("f"), false);
    EXPECT_EQ(*g->GetUint("u8"), 255u);
    EXPECT_EQ(*g->GetUint("u16"), 65535u);
    EXPECT_EQ(*g->GetUint("u32"), 4294967295u);
    EXPECT_EQ(*g->GetUint("u64"), ~uint64_t{0});
    EXPECT_EQ(*g->GetInt("i8"), -128);
    EXPECT_EQ(*g->GetInt("i16"), -32768);
    EXPECT_EQ(*g->GetInt("i32"), -5);
    EXPECT_EQ(*g->GetInt("i64"), -7);
    EXPECT_EQ(*g->GetInt("u8"), 255);
    EXPECT_EQ(*g->GetFloat("f32"), 0.5);
    EXPECT_EQ(*g->GetFloat("f64"), 1e-300);
    EXPECT_THAT(*g->GetStringArray("strings"), ElementsAre("a", "", "bcd"));
    EXPECT_THAT(*g->GetFloatArray("floats"), ElementsAre(1.5f, -2.0f));
    EXPECT_THAT(*g->GetFloatArray("doubles"), ElementsAre(0.25f));
    EXPECT_THAT(*g->GetFloatArray("ints"), ElementsAre(1.0f, -2.0f, 3.0f));
    EXPECT_THAT(*g->GetIntArray("ints"), ElementsAre(1, -2, 3));
    EXPECT_THAT(*g->GetIntArray("bytes"), ElementsAre(7, 200));
    EXPECT_THAT(*g->GetIntArray("bools"), ElementsAre(1, 0, 1));
    EXPECT_THAT(*g->GetIntArray("none"), ElementsAre());
    EXPECT_TRUE(g->Has("s"));
    EXPECT_FALSE(g->Has("absent"));
  }
}

TEST(Gguf, ReadsTensors) {
  GgufWriter w = Sample();
  const std::string file = w.Build();
  absl::StatusOr<Gguf> g = Parse(file);
  ASSERT_TRUE(g.ok()) << g.status();
  ASSERT_EQ(g->tensors().size(), 4u);
  const GgufTensor* x = g->FindTensor("x");
  ASSERT_NE(x, nullptr);
  EXPECT_THAT(x->dims, ElementsAre(5, 3));
  EXPECT_STREQ(x->type->name, "F32");
  EXPECT_EQ(x->bytes, 60u);
  EXPECT_EQ(x->offset, w.at("tensor:x:data"));
  float first;
  std::memcpy(&first, g->Bytes(*x).data(), sizeof first);
  EXPECT_EQ(first, 1.0f);
  const GgufTensor* y = g->FindTensor("y");
  EXPECT_THAT(y->dims, ElementsAre(2, 2, 4));
  EXPECT_EQ(g->Bytes(*y)[1], 0xc0);  // -2 in f16 is c000
  const GgufTensor* z = g->FindTensor("z");
  EXPECT_EQ(z->bytes, 14u);
  EXPECT_EQ(g->Bytes(*z)[0] | g->Bytes(*z)[1] << 8, 0x4040);  // 3 in bf16
  const GgufTensor* q = g->FindTensor("q");
  EXPECT_STREQ(q->type->name, "Q8_0");
  EXPECT_EQ(q->bytes, 136u);
  EXPECT_EQ(g->FindTensor("absent"), nullptr);
}

TEST(Gguf, OpensAFileAndSurvivesAMove) {
  const std::string path = testing::TempDir() + "/sample.gguf";
  const std::string file = Sample().Build();
  ASSERT_TRUE(WriteFile(path, file).ok());
  absl::StatusOr<Gguf> opened = Gguf::Open(path);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const Gguf g = *std::move(opened);
  EXPECT_EQ(*g.GetString("s"), "text");
  const GgufTensor* q = g.FindTensor("q");
  ASSERT_NE(q, nullptr);
  EXPECT_EQ(g.Bytes(*q)[0], 'q');
  g.Drop(*q);
  EXPECT_EQ(g.Bytes(*q)[135], 'q');  // dropped pages come back
  EXPECT_EQ(Gguf::Open(path + ".absent").status().code(), absl::StatusCode::kNotFound);
}

TEST(Gguf, HeaderDigestIsOfAllBytesBeforeTheData) {
  GgufWriter w;
  w.Set("a", "b").Tensor("x", {1}, GgufWriter::kF32, {1.0f});
  const std::string file = w.Build();
  const std::string digest = Parse(file)->header_sha256();
  EXPECT_EQ(digest.size(), 64u);
  EXPECT_EQ(Parse(GgufWriter::Patched(file, w.at("data"), 2.0f))->header_sha256(), digest);
  EXPECT_NE(Parse(GgufWriter::Patched(file, w.at("key:a:value") + 8, 'c'))->header_sha256(), digest);
  EXPECT_NE(Parse(GgufWriter::Patched(file, w.at("data") - 1, 'c'))->header_sha256(), digest);
  // Computed with sha256sum of: GGUF, u32 3, u64 0, u64 0.
  EXPECT_EQ(Parse(GgufWriter().Build())->header_sha256(),
            "a4e5e156ddec27e286f75328784d7106b60a4eb1d246e950a001a3f944fbda99");
}

TEST(Gguf, GettersSayWhatTheyFound) {
  GgufWriter w = Sample();
  const std::string file = w.Build();
  absl::StatusOr<Gguf> g = Parse(file);
  ASSERT_TRUE(g.ok()) << g.status();
  auto expect = [&](const absl::Status& status, const std::string& key, absl::string_view message) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(), absl::StrCat("m.gguf: at byte ", w.at("key:" + key), ": key \"", key, "\": ", message));
  };
  expect(g->GetString("u8").status(), "u8", "u8, expected a string");
  expect(g->GetString("strings").status(), "strings", "array of string, expected a string");
  expect(g->GetUint("s").status(), "s", "string, expected an integer");
  expect(g->GetUint("t").status(), "t", "bool, expected an integer");
  expect(g->GetUint("f32").status(), "f32", "f32, expected an integer");
  expect(g->GetUint("i32").status(), "i32", "-5, expected 0 to 18446744073709551615");
  expect(g->GetUint("u8", 1, 254).status(), "u8", "255, expected 1 to 254");
  EXPECT_TRUE(g->GetUint("u8", 255, 255).ok());
  expect(g->GetUint("u8", 256, 300).status(), "u8", "255, expected 256 to 300");
  expect(g->GetInt("u64").status(), "u64", "18446744073709551615, expected at most 9223372036854775807");
  expect(g->GetFloat("u32").status(), "u32", "u32, expected a floating-point number");
  expect(g->GetBool("u8").status(), "u8", "u8, expected a bool");
  expect(g->GetStringArray("ints").status(), "ints", "array of i32, expected an array of strings");
  expect(g->GetStringArray("s").status(), "s", "string, expected an array of strings");
  expect(g->GetIntArray("floats").status(), "floats", "array of f32, expected an array of integers");
  expect(g->GetFloatArray("strings").status(), "strings", "array of string, expected an array of numbers");
  EXPECT_EQ(g->GetString("absent").status().message(), "m.gguf: key \"absent\": missing, expected a string");

  const std::string odd_bool = GgufWriter::Patched(file, w.at("key:t:value"), uint8_t{2});
  expect(Parse(odd_bool)->GetBool("t").status(), "t", "bool of value 2, expected 0 or 1");
}

TEST(GgufMalformed, MagicAndVersion) {
  GgufWriter w = Sample();
  const std::string file = w.Build();
  EXPECT_ACCEPTED(file);
  EXPECT_INVALID(std::string("PK\x03\x04") + file.substr(4), 0,
                 "not a GGUF file: it begins with \"PK\\x03\\x04\", expected \"GGUF\"");
  EXPECT_INVALID("FUGG" + file.substr(4), 0,
                 "not a GGUF file: it begins with \"FUGG\", expected \"GGUF\"; it looks big-endian, and only "
                 "little-endian files are read");
  for (uint32_t version : {0u, 1u, 4u, ~0u}) {
    EXPECT_INVALID(GgufWriter::Patched(file, 4, version), 4,
                   absl::StrCat("GGUF version ", version, ", expected 2 or 3"));
  }
  EXPECT_INVALID(GgufWriter::Patched(file, 4, 0x03000000u), 4,
                 "GGUF version 50331648, expected 2 or 3; it looks big-endian, and only little-endian files are read");
  EXPECT_ACCEPTED(GgufWriter::Patched(file, 4, 2u));
  EXPECT_INVALID("", 0, "magic \"GGUF\": needs 4 bytes and the file has 0 more");
}

TEST(GgufMalformed, Counts) {
  GgufWriter w = Sample();
  const std::string file = w.Build();
  const uint64_t left = file.size() - 24;
  for (uint64_t count : {~uint64_t{0}, uint64_t{1} << 63, left / 33 + 1, (~uint64_t{0} / 33) + 1}) {
    EXPECT_INVALID(GgufWriter::Patched(file, w.at("tensors"), count), 8,
                   absl::StrCat(count, " tensors do not fit in the ", left, " bytes that follow"));
  }
  for (uint64_t count : {~uint64_t{0}, uint64_t{1} << 63, left / 14 + 1, (~uint64_t{0} / 14) + 1}) {
    EXPECT_INVALID(GgufWriter::Patched(file, w.at("keys"), count), 16,
                   absl::StrCat(count, " keys do not fit in the ", left, " bytes that follow"));
  }
  // A count that fits and is a little wrong reads one kind of record as the other.
  EXPECT_EQ(Parse(GgufWriter::Patched(file, w.at("keys"), uint64_t{22})).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Parse(GgufWriter::Patched(file, w.at("keys"), uint64_t{20})).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(GgufMalformed, Keys) {
  GgufWriter w = Sample();
  const std::string file = w.Build();
  const uint64_t key = w.at("key:u8");
  for (uint64_t size : {~uint64_t{0}, uint64_t{1} << 63, uint64_t{file.size() - key - 8 + 1}}) {
    EXPECT_INVALID(
        GgufWriter::Patched(file, key, size), key + 8,
        absl::StrCat("name of key number 4: needs ", size, " bytes and the file has ", file.size() - key - 8, " more"));
  }
  GgufWriter empty;
  empty.Set("a", "x").Set("", "y");
  EXPECT_INVALID(empty.Build(), empty.at("key:"), "key number 1 has an empty name");
  GgufWriter twice;
  twice.Set("a", "x").Set("b", uint8_t{1}).Set("a", "y");
  EXPECT_INVALID(twice.Build(), twice.at("key:a"), "key \"a\" appears twice");
  GgufWriter once;
  once.Set("a", "x").Set("b", uint8_t{1}).Set("c", "y");
  EXPECT_ACCEPTED(once.Build());
  GgufWriter control;
  control.Set(std::string("\x1b[31m\n") + std::string(100, 'k'), "x");
  const std::string named = control.Build();
  EXPECT_INVALID(GgufWriter::Patched(named, 24 + 8 + 106, 13u), 24 + 8 + 106,
                 absl::StrCat("key \"\\x1b[31m\\n", std::string(74, 'k'),
                              "...\": value type 13 is not one of the format's 0 to 12"));
}

TEST(GgufMalformed, Values) {
  GgufWriter w = Sample();
  const std::string file = w.Build();
  for (uint32_t type : {13u, 255u, ~0u}) {
    EXPECT_INVALID(GgufWriter::Patched(file, w.at("key:u8:type"), type), w.at("key:u8:type"),
                   absl::StrCat("key \"u8\": value type ", type, " is not one of the format's 0 to 12"));
    EXPECT_INVALID(GgufWriter::Patched(file, w.at("key:ints:element_type"), type), w.at("key:ints:element_type"),
                   absl::StrCat("key \"ints\": value type ", type, " is not one of the format's 0 to 12"));
  }
  EXPECT_ACCEPTED(GgufWriter::Patched(file, w.at("key:u8:type"), 1u));
  EXPECT_INVALID(GgufWriter::Patched(file, w.at("key:ints:element_type"), 9u), w.at("key:ints:element_type"),
                 "key \"ints\": an array of arrays");
  const uint64_t text = w.at("key:s:value");
  for (uint64_t size : {~uint64_t{0}, uint64_t{1} << 63, uint64_t{file.size() - text - 8 + 1}}) {
    EXPECT_INVALID(GgufWriter::Patched(file, text, size), text + 8,
                   absl::StrCat("key \"s\": string number 0: needs ", size, " bytes and the file has ",
                                file.size() - text - 8, " more"));
  }
  const uint64_t second = w.at("key:strings:elements") + 9;
  EXPECT_INVALID(GgufWriter::Patched(file, second, ~uint64_t{7}), second + 8,
                 absl::StrCat("key \"strings\": string number 1: needs ", ~uint64_t{7}, " bytes and the file has ",
                              file.size() - second - 8, " more"));
  const struct {
    const char* key;
    uint64_t unit;
    const char* type;
  } arrays[] = {{"strings", 8, "string"}, {"doubles", 8, "f64"}, {"ints", 4, "i32"}, {"bytes", 1, "u8"}};
  for (const auto& array : arrays) {
    const std::string note = absl::StrCat("key:", array.key);
    const uint64_t elements = w.at(note + ":elements"), left = file.size() - elements;
    for (uint64_t count : {~uint64_t{0}, uint64_t{1} << 63, ~uint64_t{0} / array.unit + 1, left / array.unit + 1}) {
      if (count == 0) continue;  // ~0 / 1 + 1
      const absl::Status status = Parse(GgufWriter::Patched(file, w.at(note + ":value"), count)).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(status.message(), HasSubstr(absl::StrCat("m.gguf: at byte ", elements, ": key \"", array.key,
                                                           "\": ", count, " x ", array.type, ": needs ")));
      EXPECT_THAT(status.message(), HasSubstr(absl::StrCat("and the file has ", left, " more")));
    }
  }
}

TEST(GgufMalformed, Alignment) {
  auto build = [](uint32_t alignment) {
    return GgufWriter().Set("general.alignment", alignment).Tensor("x", {1}, GgufWriter::kF32, {1.0f}).Build();
  };
  for (uint32_t good : {8u, 16u, 64u, 4096u, 1u << 21}) {
    GgufWriter w;
    w.set_alignment(good).Tensor("x", {1}, GgufWriter::kF32, {1.0f}).Tensor("y", {1}, GgufWriter::kF32, {2.0f});
    const std::string file = w.Build();
    absl::StatusOr<Gguf> g = Parse(file);
    ASSERT_TRUE(g.ok()) << g.status();
    EXPECT_EQ(g->alignment(), good);
    EXPECT_EQ(g->FindTensor("y")->offset, w.at("tensor:y:data"));
  }
  for (uint32_t bad : {0u, 1u, 3u, 4u, 1u << 22, 1u << 31, ~0u}) {
    EXPECT_INVALID(build(bad), 24, absl::StrCat("key \"general.alignment\": ", bad, ", expected 8 to 2097152"));
  }
  for (uint32_t bad : {12u, 24u, 33u}) {
    EXPECT_INVALID(build(bad), 24, absl::StrCat("key \"general.alignment\": ", bad, ", expected a power of two"));
  }
  EXPECT_INVALID(GgufWriter().Set("general.alignment", "32").Build(), 24,
                 "key \"general.alignment\": string, expected an integer");
}

TEST(GgufMalformed, TensorNames) {
  GgufWriter w = Sample();
  const std::string file = w.Build();
  const uint64_t name = w.at("tensor:y");
  EXPECT_INVALID(GgufWriter::Patched(file, name, ~uint64_t{0}), name + 8,
                 absl::StrCat("name of tensor number 1: needs ", ~uint64_t{0}, " bytes and the file has ",
                              file.size() - name - 8, " more"));
  EXPECT_INVALID(GgufWriter::Patched(file, name + 8, 'x'), name, "tensor \"x\" appears twice");
  EXPECT_ACCEPTED(GgufWriter::Patched(file, name + 8, 'w'));
  GgufWriter empty;
  empty.Tensor("", {1}, GgufWriter::kF32, {1.0f});
  EXPECT_INVALID(empty.Build(), empty.at("tensor:"), "tensor number 0 has an empty name");
}

TEST(GgufMalformed, Dims) {
  GgufWriter w = Sample();
  const std::string file = w.Build();
  for (uint32_t rank : {0u, 5u, ~0u}) {
    EXPECT_INVALID(GgufWriter::Patched(file, w.at("tensor:x:rank"), rank), w.at("tensor:x:rank"),
                   absl::StrCat("tensor \"x\": ", rank, " dims, expected 1 to 4"));
  }
  const uint64_t x = w.at("tensor:x:dims"), q = w.at("tensor:q:dims");  // innermost first
  EXPECT_INVALID(GgufWriter::Patched(file, x, uint64_t{0}), x, "tensor \"x\": dims 5 x 0: every dim must be 1 or more");
  EXPECT_INVALID(GgufWriter::Patched(file, x + 8, uint64_t{0}), x,
                 "tensor \"x\": dims 0 x 3: every dim must be 1 or more");
  EXPECT_ACCEPTED(GgufWriter::Patched(file, x + 8, uint64_t{1}));
  for (uint64_t dim : {~uint64_t{0}, uint64_t{1} << 63, uint64_t{1} << 62}) {
    EXPECT_INVALID(GgufWriter::Patched(file, x + 8, dim), x,
                   absl::StrCat("tensor \"x\": dims ", dim, " x 3: the number of elements overflows"));
  }
  EXPECT_INVALID(GgufWriter::Patched(file, x + 8, uint64_t{1} << 61), x,
                 absl::StrCat("tensor \"x\": dims ", uint64_t{1} << 61, " x 3: the number of bytes overflows"));
  EXPECT_INVALID(GgufWriter::Patched(file, q, uint64_t{33}), q,
                 "tensor \"q\": dims 2 x 33: the last must be a multiple of 32, the block of Q8_0");
  EXPECT_ACCEPTED(GgufWriter::Patched(file, q, uint64_t{32}));
  // 4 dims of 2^16: 2^64 elements.
  GgufWriter big;
  big.Tensor("b", {65536, 65536, 65536, 65536}, GgufWriter::kF32, {});
  EXPECT_INVALID(big.Build(), big.at("tensor:b:dims"),
                 "tensor \"b\": dims 65536 x 65536 x 65536 x 65536: the number of elements overflows");
}

TEST(GgufMalformed, TensorTypes) {
  GgufWriter w = Sample();
  const std::string file = w.Build();
  const uint64_t type = w.at("tensor:z:type");
  for (uint32_t bad : {4u, 5u, 43u, 1000u, ~0u}) {
    const absl::Status status = Parse(GgufWriter::Patched(file, type, bad)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_EQ(status.message(),
              absl::StrCat("m.gguf: at byte ", type, ": tensor \"z\": tensor type ", bad, " is not known"));
  }
  EXPECT_ACCEPTED(GgufWriter::Patched(file, type, 1u));
}

TEST(GgufMalformed, Offsets) {
  GgufWriter w = Sample();
  const std::string file = w.Build();
  const uint64_t z = w.at("tensor:z:offset"), q = w.at("tensor:q:offset"), data = w.at("data");
  EXPECT_INVALID(GgufWriter::Patched(file, z, uint64_t{100}), z,
                 "tensor \"z\": data offset 100: not a multiple of the alignment 32");
  auto past = [&](uint64_t offset) {
    return absl::StrCat("tensor \"q\": data offset ", offset,
                        " and 136 bytes end past the file: its data begins at byte ", data, " and it has ", file.size(),
                        " bytes");
  };
  // The last two would lie inside the header if the sum wrapped.
  for (uint64_t offset : {uint64_t{1} << 20, uint64_t{1} << 63, ~uint64_t{31}, (~data + 1 + 32) & ~uint64_t{31}}) {
    EXPECT_INVALID(GgufWriter::Patched(file, q, offset), q, past(offset));
  }
  uint64_t offset;
  std::memcpy(&offset, file.data() + q, sizeof offset);
  EXPECT_INVALID(GgufWriter::Patched(file, q, offset + 32), q, past(offset + 32));
  EXPECT_INVALID(GgufWriter::Patched(file, q, uint64_t{0}), w.at("tensor:q"),
                 "tensor \"q\": its data overlaps that of tensor \"x\"");
  EXPECT_ACCEPTED(GgufWriter::Patched(file, q, offset));
  EXPECT_ACCEPTED(file + std::string(1000, '\0'));  // bytes after the last tensor are nobody's
  EXPECT_EQ(Parse(file.substr(0, file.size() - 1)).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(GgufMalformed, TruncationAnywhere) {
  const std::string file = Sample().Build();
  EXPECT_ACCEPTED(file);
  for (size_t size = 0; size < file.size(); ++size) {
    // A copy of exactly this size, so that the address sanitizer sees a read past its end.
    const std::vector<uint8_t> cut(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size));
    const absl::Status status = Gguf::Parse(cut, "m.gguf").status();
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << "cut at " << size;
    ASSERT_THAT(status.message(), HasSubstr("m.gguf: at byte ")) << "cut at " << size;
  }
}

TEST(GgufMalformed, EveryByteFlippedNeverCrashes) {
  const std::string file = Sample().Build();
  int accepted = 0, refused = 0;
  for (size_t at = 0; at < file.size(); ++at) {
    for (uint8_t flip : {0x01, 0x80, 0xff}) {
      std::vector<uint8_t> bytes(file.begin(), file.end());
      bytes[at] ^= flip;
      absl::StatusOr<Gguf> g = Gguf::Parse(bytes, "m.gguf");
      (g.ok() ? accepted : refused)++;
      if (!g.ok()) continue;
      uint64_t sum = 0;
      for (const GgufTensor& t : g->tensors()) {
        for (uint8_t byte : g->Bytes(t)) sum += byte;
      }
      for (const GgufKey& k : g->keys()) {
        if (k.is_array) {
          (void)g->GetStringArray(k.name);
          (void)g->GetIntArray(k.name);
          (void)g->GetFloatArray(k.name);
        }
      }
      EXPECT_GE(sum, 0u);
    }
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 100);
}

TEST(GgufTypes, TableIsSortedAndFound) {
  uint32_t found = 0, last = 0;
  for (uint32_t id = 0; id < 100; ++id) {
    const GgmlType* type = FindGgmlType(id);
    if (type == nullptr) continue;
    ++found;
    last = id;
    EXPECT_EQ(type->id, id);
    EXPECT_GT(type->block_bytes, 0);
  }
  EXPECT_EQ(found, 41u);  // 43 ids, of which 4 and 5 never had a release
  EXPECT_EQ(last, 42u);
}

TEST(GgufWriter, RoundsToNearestEven) {
  EXPECT_EQ(GgufWriter::HalfBits(1.0f), 0x3c00);
  EXPECT_EQ(GgufWriter::HalfBits(-0.0f), 0x8000);
  EXPECT_EQ(GgufWriter::HalfBits(65504.0f), 0x7bff);
  EXPECT_EQ(GgufWriter::HalfBits(65520.0f), 0x7c00);
  EXPECT_EQ(GgufWriter::HalfBits(1.0f + 1.0f / 2048), 0x3c00);  // tie to even
  EXPECT_EQ(GgufWriter::HalfBits(1.0f + 3.0f / 2048), 0x3c02);  // tie to even
  EXPECT_EQ(GgufWriter::HalfBits(0x1p-24f), 0x0001);
  EXPECT_EQ(GgufWriter::HalfBits(0x1p-25f), 0x0000);  // tie to even
  EXPECT_EQ(GgufWriter::HalfBits(0x1.8p-25f), 0x0001);
  EXPECT_EQ(GgufWriter::HalfBits(0x1.ffcp-15f), 0x03ff + 1);  // the largest subnormal's upper neighbour is normal
  EXPECT_EQ(GgufWriter::HalfBits(std::numeric_limits<float>::quiet_NaN()), 0x7e00);
  EXPECT_EQ(GgufWriter::Bfloat16Bits(1.0f), 0x3f80);
  EXPECT_EQ(GgufWriter::Bfloat16Bits(0x1.01p0f), 0x3f80);  // tie to even
  EXPECT_EQ(GgufWriter::Bfloat16Bits(0x1.03p0f), 0x3f82);  // tie to even
}

// The real files of ../shared, when they are there.
TEST(Gguf, ReadsRealFiles) {
  const char* shared = std::getenv("SINTER_SHARED");
  const std::string root = shared != nullptr ? shared : SINTER_SOURCE_DIR "/../shared";
  absl::StatusOr<Gguf> g = Gguf::Open(root + "/models/stories260K.gguf");
  if (absl::IsNotFound(g.status())) GTEST_SKIP() << "no test data in " << root;
  ASSERT_TRUE(g.ok()) << g.status();
  EXPECT_EQ(*g->GetString("general.architecture"), "llama");
  EXPECT_EQ(*g->GetUint("llama.block_count"), 5u);
  ASSERT_NE(g->FindTensor("blk.0.attn_k.weight"), nullptr);
  EXPECT_THAT(g->FindTensor("blk.0.attn_k.weight")->dims, ElementsAre(32, 64));
  for (const char* name : {"llama-spm", "llama-bpe", "gpt-2"}) {
    absl::StatusOr<Gguf> vocab = Gguf::Open(absl::StrCat(root, "/vocab/ggml-vocab-", name, ".gguf"));
    ASSERT_TRUE(vocab.ok()) << vocab.status();
    EXPECT_GT(vocab->GetStringArray("tokenizer.ggml.tokens")->size(), 30000u);
  }
}

}  // namespace
}  // namespace sinter
