// `.npy` files: every malformation generated from a good file, with code, message and place, beside an accepted twin.
#include "tools/npy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/heap_counter.h"

namespace sinter {
namespace {

using ::testing::ElementsAre;

constexpr char kGood[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";

std::string Npy(const std::string& header, const std::string& data,
                const std::string& magic = {"\x93NUMPY\x01\x00", 8}) {
  const auto size = static_cast<uint16_t>(header.size());
  return absl::StrCat(magic, std::string{static_cast<char>(size & 255), static_cast<char>(size >> 8)}, header, data);
}
std::string Zeros(size_t bytes) { return std::string(bytes, '\0'); }

absl::StatusOr<Tensor> Parse(const std::string& file) {
  // A copy of exactly this size, so that the address sanitizer sees a read past its end.
  return ParseNpy(std::vector<uint8_t>(file.begin(), file.end()), "x.npy");
}

std::string Shape(const std::string& shape, const std::string& kind = "<f4") {
  return absl::StrCat("{'descr': '", kind, "', 'fortran_order': False, 'shape': (", shape, "), }\n");
}

TEST(Npy, ReadsEveryElementType) {
  const struct {
    const char* kind;
    DType dtype;
    size_t bytes;
  } kinds[] = {{"<f4", DType::kF32, 4}, {"<f8", DType::kF64, 8}, {"<f2", DType::kF16, 2}, {"|i1", DType::kI8, 1},
               {"|u1", DType::kU8, 1},  {"<i4", DType::kI32, 4}, {"<i8", DType::kI64, 8}, {"|b1", DType::kBool, 1}};
  for (const auto& kind : kinds) {
    const absl::StatusOr<Tensor> tensor = Parse(Npy(Shape("2, 3", kind.kind), Zeros(6 * kind.bytes)));
    ASSERT_TRUE(tensor.ok()) << kind.kind << ": " << tensor.status();
    EXPECT_EQ(tensor->dtype, kind.dtype);
    EXPECT_THAT(tensor->dims, ElementsAre(2, 3));
    EXPECT_EQ(Parse(Npy(Shape("2, 3", kind.kind), Zeros(6 * kind.bytes + 1))).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_THAT(Parse(Npy(Shape(""), Zeros(4)))->dims, ElementsAre());
  EXPECT_THAT(Parse(Npy(Shape("3,"), Zeros(12)))->dims, ElementsAre(3));
  EXPECT_THAT(Parse(Npy(Shape("0, 5"), ""))->values, ElementsAre());
  EXPECT_THAT(Parse(Npy(Shape("1, 1, 1, 1, 1, 1, 1, 1"), Zeros(4)))->dims, ::testing::SizeIs(8));
}

TEST(Npy, RefusesWhatLies) {
  const std::string header = kGood;
  const auto at = [&](absl::string_view part) { return 10 + header.find(part.data(), 0, part.size()); };
  const auto with = [&](absl::string_view old, absl::string_view by) {
    std::string changed = header;
    changed.replace(changed.find(old.data(), 0, old.size()), old.size(), by.data(), by.size());
    return Npy(changed, Zeros(24));
  };
  struct Case {
    std::string file;
    size_t place;
    std::string message;
  };
  const std::vector<Case> cases = {
      {"", 0, "not a .npy file of version 1.0"},
      {"\x93NUMPY", 0, "not a .npy file of version 1.0"},
      {Npy(header, Zeros(24), {"\x93NUMPY\x02\x00", 8}), 0, "not a .npy file of version 1.0"},
      {Npy(header, Zeros(24), {"\x94NUMPY\x01\x00", 8}), 0, "not a .npy file of version 1.0"},
      {Npy(header, "").substr(0, 9), 8, "header: needs 2 bytes and the file has 1 more"},
      {Npy(header, "").substr(0, 30), 10,
       absl::StrCat("header: needs ", header.size(), " bytes and the file has 20 more")},
      {Npy("", Zeros(24)), 10, "the header has no 'descr'"},
      {with("'descr'", "'dscr'"), 10, "the header has no 'descr'"},
      {with("'fortran_order'", "'order'"), 10, "the header has no 'fortran_order'"},
      {with("'shape'", "'shapes'"), 10, "the header has no 'shape'"},
      {with("'shape'", "'descr': '<f8', 'shape'"), at("'shape'") + 9, "a second 'descr'"},
      {with("'<f4'", "'>f4'"), at("'<f4'"), "unsupported element type '>f4', 'fortran_...; supported are"},
      {with("'<f4'", "'<f5'"), at("'<f4'"), "unsupported element type"},
      {with("'<f4'", "'|O'"), at("'<f4'"), "unsupported element type '|O'"},
      {with("'<f4'", "'\x1b[2J'"), at("'<f4'"), "unsupported element type '\\x1b[2J'"},
      {with("False", "True"), at("False"), "the array is not in C order"},
      {with("(2, 3)", "2"), at("(2, 3)"), "the shape is no tuple"},
      {with("(2, 3), }", "(2, 3"), at("(2, 3)"), "the shape is no tuple"},
      {with("(2, 3)", "(2, x)"), at("(2, 3)") + 3, "\" x\" is no dim"},
      {with("(2, 3)", "(2, -3)"), at("(2, 3)") + 3, "\" -3\" is no dim"},
      {with("(2, 3)", "(2, 3.0)"), at("(2, 3)") + 3, "\" 3.0\" is no dim"},
      {with("(2, 3)", "(9223372036854775808,)"), at("(2, 3)") + 1, "\"9223372036854775808\" is no dim"},
      {with("(2, 3)", "(18446744073709551622,)"), at("(2, 3)") + 1, "\"18446744073709551622\" is no dim"},
      {with("(2, 3)", "(1,1,1,1,1,1,1,2,3)"), at("(2, 3)") + 17, "too many dims: the limit \"rank\" is 8"},
      {with("(2, 3)", "(2, 2)"), at("(2, 3)"), "the shape does not agree with the 24 bytes of data"},
      {with("(2, 3)", "(2, 4)"), at("(2, 3)"), "the shape does not agree with the 24 bytes of data"},
      {with("(2, 3)", "(0, 3)"), at("(2, 3)"), "the shape does not agree with the 24 bytes of data"},
      {Npy(header, Zeros(23)), at("(2, 3)"), "the shape does not agree with the 23 bytes of data"},
  };
  ASSERT_TRUE(Parse(Npy(header, Zeros(24))).ok()) << Parse(Npy(header, Zeros(24))).status();
  for (const Case& c : cases) {
    const absl::Status status = Parse(c.file).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.message;
    EXPECT_THAT(std::string(status.message()),
                ::testing::StartsWith(absl::StrCat("x.npy: at byte ", c.place, ": ", c.message)));
  }
}

// Dims whose product or whose bytes wrap to the 24 that are there, and those near it.
TEST(Npy, EveryDimAtEveryEdge) {
  for (int bits : {31, 32, 61, 62, 63}) {
    for (int64_t d : {-1, 0, 1, 6}) {
      const uint64_t dim = (uint64_t{1} << bits) + static_cast<uint64_t>(d);
      for (const std::string& shape : {absl::StrCat(dim, ","), absl::StrCat(dim, ", 2"), absl::StrCat("2, ", dim),
                                       absl::StrCat(dim, ", ", dim), absl::StrCat("6, ", dim, ", 4")}) {
        const std::string file = Npy(Shape(shape), Zeros(24));
        const size_t allocated = HeapAllocatedBytes();
        const absl::Status status = Parse(file).status();
        EXPECT_LT(HeapAllocatedBytes() - allocated, 8192u) << shape;
        EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << shape;
        EXPECT_THAT(
            std::string(status.message()),
            ::testing::AnyOf(::testing::StartsWith("x.npy: at byte 60: the shape does not agree with the 24 bytes"),
                             ::testing::EndsWith("\" is no dim")))
            << shape;
      }
    }
  }
  EXPECT_TRUE(Parse(Npy(Shape("6,"), Zeros(24))).ok());
}

TEST(Npy, EveryPrefixAndEveryFlippedByte) {
  const std::string file = Npy(kGood, Zeros(24));
  for (size_t size = 0; size < file.size(); ++size) {
    ASSERT_EQ(Parse(file.substr(0, size)).status().code(), absl::StatusCode::kInvalidArgument) << size;
  }
  int refused = 0;
  for (size_t at = 0; at < file.size(); ++at) {
    for (int flip : {0x01, 0x02, 0x10, 0x80, 0xff}) {
      std::string bad = file;
      bad[at] = static_cast<char>(bad[at] ^ flip);
      refused += !Parse(bad).ok();
    }
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace sinter
