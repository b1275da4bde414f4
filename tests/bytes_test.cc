// What every reader of a format stands on: checked reads of bytes, UTF-8, what is shown of names, the table of limits;
// and of files that are written, their names.
#include "base/bytes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "base/escape.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/utf8.h"

namespace sinter {
namespace {

constexpr uint64_t kMax64 = std::numeric_limits<uint64_t>::max();

TEST(ByteReader, ReadsForwardAndSaysWhatItLacks) {
  const std::vector<uint8_t> bytes = {1, 2, 0, 0xff, 0xff, 0xff, 0xff, 3, 0, 'a', 'b', 'c', 9};
  ByteReader reader(bytes);
  uint8_t u8 = 0;
  uint16_t u16 = 0;
  int32_t i32 = 0;
  absl::string_view text;
  EXPECT_TRUE(reader.Read(&u8) && reader.Read(&u16) && reader.Read(&i32));  // at odd places
  EXPECT_EQ(u8, 1);
  EXPECT_EQ(u16, 2);
  EXPECT_EQ(i32, -1);
  EXPECT_TRUE(reader.ReadPrefixedText<uint16_t>(&text));
  EXPECT_EQ(text, "abc");
  EXPECT_EQ(reader.pos(), 12u);
  EXPECT_FALSE(reader.Read(&u16));
  EXPECT_EQ(reader.pos(), 12u);  // nothing is consumed
  EXPECT_EQ(reader.wanted(), 2u);
  EXPECT_EQ(reader.Lack(), "needs 2 bytes and the file has 1 more");
  EXPECT_TRUE(reader.Read(&u8));
  EXPECT_EQ(u8, 9);
  EXPECT_EQ(reader.left(), 0u);
  EXPECT_FALSE(reader.Read(&u8));
}

TEST(ByteReader, CountsAndUnitsAreAnyNumber) {
  const std::vector<uint8_t> bytes(24);
  absl::Span<const uint8_t> span;
  struct Case {
    uint64_t count, unit;
    bool fits;
    uint64_t wanted;
  };
  const Case cases[] = {
      {24, 1, true, 0},
      {25, 1, false, 25},
      {3, 8, true, 0},
      {4, 8, false, 32},
      {0, 8, true, 0},
      {0, kMax64, true, 0},
      {1, kMax64, false, kMax64},
      {uint64_t{1} << 31, 1, false, uint64_t{1} << 31},
      {uint64_t{1} << 32, 1, false, uint64_t{1} << 32},
      {uint64_t{1} << 61, 8, false, kMax64},        // the product is 2^64
      {(uint64_t{1} << 61) + 3, 8, false, kMax64},  // and here 24 after it wrapped
      {uint64_t{1} << 63, 2, false, kMax64},
      {kMax64, kMax64, false, kMax64},
      {kMax64 / 8 + 1, 8, false, kMax64},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(testing::Message() << c.count << " x " << c.unit);
    ByteReader reader(bytes), skipper(bytes);
    EXPECT_EQ(reader.ReadSpan(c.count, c.unit, &span), c.fits);
    EXPECT_EQ(skipper.Skip(c.count, c.unit), c.fits);
    EXPECT_EQ(reader.pos(), c.fits ? c.count * c.unit : 0);
    EXPECT_EQ(skipper.pos(), reader.pos());
    if (!c.fits) {
      EXPECT_EQ(reader.wanted(), c.wanted);
    }
  }
}

TEST(ByteReader, BeginsAtTheEndWhenAskedToBeginBehindIt) {
  const std::vector<uint8_t> bytes(4);
  uint8_t u8;
  for (uint64_t pos : {uint64_t{4}, uint64_t{5}, kMax64}) {
    ByteReader reader(bytes, pos);
    EXPECT_EQ(reader.pos(), 4u);
    EXPECT_FALSE(reader.Read(&u8));
  }
  EXPECT_TRUE(ByteReader(bytes, 3).Read(&u8));
}

TEST(ByteReader, TextBehindALyingLength) {
  for (uint64_t length : {uint64_t{2}, uint64_t{1} << 31, uint64_t{1} << 32, uint64_t{1} << 63, kMax64}) {
    std::vector<uint8_t> bytes(9, 'x');
    std::memcpy(bytes.data(), &length, sizeof length);
    ByteReader reader(bytes);
    absl::string_view text;
    EXPECT_FALSE(reader.ReadPrefixedText<uint64_t>(&text));
    EXPECT_EQ(reader.pos(), 8u);
    EXPECT_EQ(reader.wanted(), length);
    bytes[0] = 1;
    std::fill(bytes.begin() + 1, bytes.begin() + 8, 0);
    ByteReader twin(bytes);
    EXPECT_TRUE(twin.ReadPrefixedText<uint64_t>(&text));
    EXPECT_EQ(text, "x");
  }
}

TEST(Fits, LiesInside) {
  EXPECT_TRUE(Fits(4, 6, 10));
  EXPECT_TRUE(Fits(10, 0, 10));
  EXPECT_FALSE(Fits(4, 7, 10));
  EXPECT_FALSE(Fits(11, 0, 10));
  EXPECT_FALSE(Fits(4, kMax64 - 3, 10));  // the sum is 0
  EXPECT_FALSE(Fits(kMax64, 2, 10));
}

TEST(IsAligned, OfAPowerOfTwo) {
  alignas(8) const uint8_t aligned[16] = {};
  EXPECT_TRUE(IsAligned(aligned + 8, 8));
  EXPECT_FALSE(IsAligned(aligned + 4, 8));
}

TEST(Utf8, IsThatOfTheStandard) {
  for (absl::string_view good : {"", "a", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf",
                                 "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(IsUtf8(good)) << Escaped(good);
  }
  for (absl::string_view bad : {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc2", "\xc2 ", "\xe0\x9f\xbf", "\xe2\x82",
                                "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff"}) {
    EXPECT_FALSE(IsUtf8(bad)) << Escaped(bad);
  }
  EXPECT_EQ(DecodeUtf8("\xe2\x82\xac!").code, 0x20acU);
  EXPECT_EQ(DecodeUtf8("\xf4\x8f\xbf\xbf").code, 0x10ffffU);
}

TEST(Escape, WhatIsShownAndWhatIsNot) {
  struct Case {
    absl::string_view text, escaped;
  };
  const Case cases[] = {
      {"plain name", "plain name"},
      {"\u00e9\u4e2d\u2581\U0001f600", "\u00e9\u4e2d\u2581\U0001f600"},
      {"a\x1b[31mred", "a\\x1b[31mred"},
      {absl::string_view("\0\a\b\n\r\t\x7f", 7), "\\x00\\x07\\x08\\n\\r\\t\\x7f"},
      {"\u009b31m", "\\u{9b}31m"},  // a control sequence in one character
      {"\u0085", "\\u{85}"},
      {"\x9b", "\\x9b"},  // the same byte alone is no character
      {"a\u202egnp.exe\u202c", "a\\u{202e}gnp.exe\\u{202c}"},
      {"\u2066\u2067\u2068\u2069\u200e\u200f\u061c", "\\u{2066}\\u{2067}\\u{2068}\\u{2069}\\u{200e}\\u{200f}\\u{61c}"},
      {"\u202a\u202b\u202d", "\\u{202a}\\u{202b}\\u{202d}"},
      {"\u2028\u2029", "\\u{2028}\\u{2029}"},
      {"\u200b\u200c\u200d\u2060\ufeff\u00ad", "\\u{200b}\\u{200c}\\u{200d}\\u{2060}\\u{feff}\\u{ad}"},
      {"\U000e0041", "\\u{e0041}"},
      {"\xff\xc0\xaf\xed\xa0\x80", "\\xff\\xc0\\xaf\\xed\\xa0\\x80"},
      {"cut \xe2\x82", "cut \\xe2\\x82"},
      {"it's \"C:\\x\"", "it's \"C:\\x\""},
  };
  for (const Case& c : cases) EXPECT_EQ(Escaped(c.text), c.escaped);
  EXPECT_EQ(Quoted("it's \"C:\\x\"\n"), "\"it's \\\"C:\\\\x\\\"\\n\"");
  EXPECT_EQ(EscapedLines("a\n\tb\r\x1b[2J\u202e"), "a\n\tb\\r\\x1b[2J\\u{202e}");
}

TEST(Escape, CutsBetweenCharacters) {
  EXPECT_EQ(Escaped("abcd", 4), "abcd");
  EXPECT_EQ(Escaped("abcde", 4), "abcd...");
  EXPECT_EQ(Escaped("abc\u20ac", 5), "abc...");  // not half of it
  EXPECT_EQ(Escaped("abc\u20ac", 6), "abc\u20ac");
  EXPECT_EQ(Escaped("x", 0), "...");
  EXPECT_EQ(Escaped("", 0), "");
  EXPECT_EQ(Quoted(std::string(kShownBytes + 1, 'k')), "\"" + std::string(kShownBytes, 'k') + "...\"");
}

// Whatever goes in: valid UTF-8 of characters that can be shown comes out.
TEST(Escape, EveryByteAndPairOfBytes) {
  for (int a = 0; a < 256; ++a) {
    for (int b = 0; b < 256; ++b) {
      const std::string text = {static_cast<char>(a), static_cast<char>(b), '\x80'};
      const std::string shown = Escaped(text);
      ASSERT_TRUE(IsUtf8(shown)) << a << " " << b;
      for (absl::string_view rest = shown; !rest.empty();) {
        const Utf8Step step = DecodeUtf8(rest);
        ASSERT_TRUE(IsShowable(step.code)) << a << " " << b;
        rest.remove_prefix(step.bytes);
      }
    }
  }
}

TEST(Escape, HidesWholeRanges) {
  const auto hidden = [](char32_t first, char32_t last) {
    for (char32_t code = first; code <= last; ++code) EXPECT_FALSE(IsShowable(code)) << std::hex << uint32_t{code};
    EXPECT_TRUE(IsShowable(last + 1)) << std::hex << uint32_t{last + 1};
  };
  hidden(0, 0x1f);
  hidden(0x7f, 0x9f);
  hidden(0x200b, 0x200f);
  hidden(0x2028, 0x202e);
  hidden(0x2060, 0x206f);
  hidden(0xe0000, 0xe0fff);
  for (char32_t code : {U' ', U'~', U'\u00a0', U'\u2010', U'\u2581', U'\U0001f600', U'\U0010ffff'}) {
    EXPECT_TRUE(IsShowable(code)) << std::hex << uint32_t{code};
  }
}

TEST(Limits, AreNamedOnceAndSayWhy) {
  std::set<absl::string_view> names;
  for (const Limit& limit : limits::kAll) {
    EXPECT_TRUE(names.insert(limit.name).second) << limit.name;
    EXPECT_GT(limit.most, 0) << limit.name;
    EXPECT_FALSE(limit.why.empty()) << limit.name;
    EXPECT_FALSE(limit.Exceeded(limit.most)) << limit.name;
    EXPECT_TRUE(limit.Exceeded(limit.most + 1)) << limit.name;
    EXPECT_TRUE(limit.Exceeded(kMax64)) << limit.name;  // not -1
    EXPECT_FALSE(limit.Exceeded(int64_t{-1})) << limit.name;
  }
  EXPECT_EQ(limits::kVocabulary.Text(), "the limit \"vocabulary\" is 4194304");
}

TEST(OutputFile, NamesAsLongAsTheSystemAllows) {
  const std::string folder = ::testing::TempDir() + "bytes_test_" + std::to_string(getpid()) + "/";
  ASSERT_TRUE(CreateFolders(folder).ok());
  for (size_t size = 240; size <= 255; ++size) {
    const std::string path = folder + std::string(size, 'n');
    const absl::Status status = WriteFile(path, "text");
    EXPECT_TRUE(status.ok()) << size << ": " << status;
    EXPECT_EQ(*ReadFile(path), "text");
  }
  EXPECT_EQ(WriteFile(folder + std::string(256, 'n'), "text").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 16) << "no temporary stays";
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace sinter
