// The tokenizer on a vocabulary made here, where each expectation can be followed by hand, and on real ones.
#include "runtime/tokenizer.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "frontend/tokenizer_data.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/gguf_writer.h"
#include "tests/heap_counter.h"

namespace sinter {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int32_t kBytes = 3;  // the token of byte 0

// <unk> <s> </s>, the 256 byte tokens, and then `words` with their scores.
TokenizerData Vocabulary(const std::vector<std::pair<std::string, float>>& words, bool bytes = true) {
  TokenizerData data;
  data.kind = "llama";
  auto add = [&](const std::string& token, float score, TokenType type) {
    data.tokens.push_back(token);
    data.scores.push_back(score);
    data.types.push_back(static_cast<int32_t>(type));
  };
  add("<unk>", 0, TokenType::kUnknown);
  add("<s>", 0, TokenType::kControl);
  add("</s>", 0, TokenType::kControl);
  const char* hex = "0123456789ABCDEF";
  for (int i = 0; bytes && i < 256; ++i) {
    add(std::string("<0x") + hex[i / 16] + hex[i % 16] + ">", 0, TokenType::kByte);
  }
  for (const auto& [word, score] : words) add(word, score, TokenType::kNormal);
  data.unk = 0;
  data.bos = 1;
  data.eos = 2;
  return data;
}

void AddToken(TokenizerData& data, const std::string& token, TokenType type) {
  data.tokens.push_back(token);
  data.scores.push_back(0);
  data.types.push_back(static_cast<int32_t>(type));
}

void Replace(TextList& texts, size_t i, absl::string_view text) {
  TextList changed;
  for (size_t j = 0; j < texts.size(); ++j) changed.push_back(j == i ? text : texts[j]);
  texts = changed;
}

std::vector<std::string> Texts(const Tokenizer& t, const std::vector<int32_t>& ids) {
  std::vector<std::string> texts;
  texts.reserve(ids.size());
  for (int32_t id : ids) texts.emplace_back(t.data().tokens[static_cast<size_t>(id)]);
  return texts;
}

Tokenizer Make(TokenizerData data) {
  absl::StatusOr<Tokenizer> t = Tokenizer::Create(std::move(data));
  EXPECT_TRUE(t.ok()) << t.status();
  return *std::move(t);
}

std::vector<int32_t> Encoded(const Tokenizer& t, absl::string_view text, bool special) {
  return *t.Encode(text, special);
}

std::string Decode(const Tokenizer& t, const std::vector<int32_t>& ids, bool at_start) {
  TokenStream stream = *TokenStream::Create(t, at_start);
  std::string text;
  for (int32_t id : ids) absl::StrAppend(&text, stream.Append(id));
  absl::StrAppend(&text, stream.Finish());
  return text;
}

#define S "\xe2\x96\x81"

TEST(Tokenizer, MergesByScoreAndThenFromTheLeft) {
  TokenizerData data = Vocabulary({{"a", -9}, {"b", -9}, {"c", -9}, {"ab", -2}, {"bc", -1}, {"aa", -1}});
  data.add_space_prefix = false;
  const Tokenizer t = Make(data);
  EXPECT_THAT(Texts(t, Encoded(t, "abc", false)), ElementsAre("a", "bc"));  // bc scores above ab
  EXPECT_THAT(Texts(t, Encoded(t, "ab", false)), ElementsAre("ab"));
  EXPECT_THAT(Texts(t, Encoded(t, "aaa", false)), ElementsAre("aa", "a"));  // a tie goes to the left
  EXPECT_THAT(Texts(t, Encoded(t, "aaaa", false)), ElementsAre("aa", "aa"));
  EXPECT_THAT(Texts(t, Encoded(t, "aab", false)), ElementsAre("aa", "b"));
}

TEST(Tokenizer, MergesOnlyThroughTokens) {
  TokenizerData data = Vocabulary({{"a", 0}, {"b", 0}, {"c", 0}, {"abc", 0}, {"d", 0}, {"cd", 0}, {"abcd", 0}});
  data.add_space_prefix = false;
  const Tokenizer t = Make(data);
  EXPECT_THAT(Texts(t, Encoded(t, "abc", false)), ElementsAre("a", "b", "c"));  // neither ab nor bc is a token
  EXPECT_THAT(Texts(t, Encoded(t, "abcd", false)), ElementsAre("a", "b", "cd"));
}

TEST(Tokenizer, OutdatedPairsAreSkipped) {
  // bc (-1) merges first and takes b from ab (-2) and c from cd (-3); then abc (-4).
  TokenizerData data =
      Vocabulary({{"a", -9}, {"b", -9}, {"c", -9}, {"d", -9}, {"ab", -2}, {"bc", -1}, {"cd", -3}, {"abc", -4}});
  data.add_space_prefix = false;
  const Tokenizer t = Make(data);
  EXPECT_THAT(Texts(t, Encoded(t, "abcd", false)), ElementsAre("abc", "d"));
}

TEST(Tokenizer, SpacesAndTheSpaceInFront) {
  const std::vector<std::pair<std::string, float>> words = {{S, -5}, {"a", -5}, {S "a", -1}, {S S, -2}};
  const Tokenizer prefixed = Make(Vocabulary(words));
  EXPECT_THAT(Texts(prefixed, Encoded(prefixed, "a a", false)), ElementsAre(S "a", S "a"));
  EXPECT_THAT(Texts(prefixed, Encoded(prefixed, " a", false)), ElementsAre(S, S "a"));
  EXPECT_THAT(Texts(prefixed, Encoded(prefixed, " ", false)), ElementsAre(S S));
  EXPECT_THAT(Encoded(prefixed, "", false), IsEmpty());
  EXPECT_THAT(Texts(prefixed, Encoded(prefixed, "", true)), ElementsAre("<s>"));
  // U+2581 in the text is a space like any other.
  EXPECT_THAT(Texts(prefixed, Encoded(prefixed, S "a", false)), ElementsAre(S, S "a"));

  TokenizerData data = Vocabulary(words);
  data.add_space_prefix = false;
  const Tokenizer bare = Make(data);
  EXPECT_THAT(Texts(bare, Encoded(bare, "a a", false)), ElementsAre("a", S "a"));
  EXPECT_THAT(Texts(bare, Encoded(bare, " a", false)), ElementsAre(S "a"));
  EXPECT_THAT(Encoded(bare, "", false), IsEmpty());
}

TEST(Tokenizer, ByteFallback) {
  TokenizerData data = Vocabulary({{S, 0}, {"a", 0}, {"é", 0}});
  data.add_space_prefix = false;
  const Tokenizer t = Make(data);
  EXPECT_THAT(Encoded(t, "é", false), ElementsAre(t.vocab_size() - 1));
  EXPECT_THAT(Encoded(t, "ü", false), ElementsAre(kBytes + 0xc3, kBytes + 0xbc));
  EXPECT_THAT(Encoded(t, "🙂", false), ElementsAre(kBytes + 0xf0, kBytes + 0x9f, kBytes + 0x99, kBytes + 0x82));
  EXPECT_THAT(Encoded(t, absl::string_view("\0\n", 2), false), ElementsAre(kBytes + 0, kBytes + '\n'));
  // Invalid UTF-8 is kept byte for byte; a first byte claims as many bytes as it announces.
  EXPECT_THAT(Encoded(t, "\x80\xbf", false), ElementsAre(kBytes + 0x80, kBytes + 0xbf));
  EXPECT_THAT(Encoded(t, "\xff", false), ElementsAre(kBytes + 0xff));
  EXPECT_THAT(Encoded(t,
                      "\xe4"
                      "ab"
                      "a",
                      false),
              ElementsAre(kBytes + 0xe4, kBytes + 'a', kBytes + 'b', kBytes + 256 + 1));
  EXPECT_THAT(Encoded(t, "a\xf0\x9f", false), ElementsAre(kBytes + 256 + 1, kBytes + 0xf0, kBytes + 0x9f));
}

TEST(Tokenizer, WithoutByteTokensTheBareByteAndThenUnkStandIn) {
  TokenizerData data = Vocabulary({{S, 0}, {"a", 0}, {"\xbc", 0}}, false);
  data.add_space_prefix = false;
  const Tokenizer t = Make(data);
  EXPECT_THAT(Texts(t, Encoded(t, "a\nü", false)), ElementsAre("a", "<unk>", "<unk>", "\xbc"));
  data.unk.reset();
  EXPECT_EQ(Tokenizer::Create(data).status(),
            absl::InvalidArgumentError("tokenizer: no token for byte 0 and no unknown token to stand for it"));
}

TEST(Tokenizer, SpecialTokens) {
  TokenizerData data = Vocabulary({{S, -5}, {"a", -5}, {S "a", -1}, {"<", -9}, {"s", -9}, {">", -9}});
  AddToken(data, "<x>", TokenType::kUserDefined);
  AddToken(data, "<x><x>", TokenType::kUserDefined);
  const Tokenizer t = Make(data);
  // Control tokens are read only with `special`; the text after any token of this sort gets a space in front.
  EXPECT_THAT(Texts(t, Encoded(t, "<s>a", false)), ElementsAre(S, "<", "s", ">", "a"));
  EXPECT_THAT(Texts(t, Encoded(t, "<s>a</s>a", true)), ElementsAre("<s>", "<s>", S "a", "</s>", S "a"));
  EXPECT_THAT(Texts(t, Encoded(t, "<unk>", true)), ElementsAre("<s>", "<unk>"));
  // User-defined tokens are always read, the longest first.
  EXPECT_THAT(Texts(t, Encoded(t, "a<x>a", false)), ElementsAre(S "a", "<x>", S "a"));
  EXPECT_THAT(Texts(t, Encoded(t, "<x><x><x>", false)), ElementsAre("<x><x>", "<x>"));
  EXPECT_THAT(Texts(t, Encoded(t, "<x>", true)), ElementsAre("<s>", "<x>"));

  data.add_bos = false;
  data.add_eos = true;
  const Tokenizer eos = Make(data);
  EXPECT_THAT(Texts(eos, Encoded(eos, "a", true)), ElementsAre(S "a", "</s>"));
  EXPECT_THAT(Texts(eos, Encoded(eos, "a", false)), ElementsAre(S "a"));
}

TEST(Tokenizer, OverlappingUserDefinedTokens) {
  TokenizerData data = Vocabulary({{"x", 0}, {"y", 0}, {"z", 0}});
  data.add_space_prefix = false;
  AddToken(data, "yx", TokenType::kUserDefined);
  AddToken(data, "xy", TokenType::kUserDefined);
  AddToken(data, "yzz", TokenType::kUserDefined);
  const Tokenizer t = Make(data);
  EXPECT_THAT(Texts(t, Encoded(t, "xyx", false)), ElementsAre("x", "yx"));  // of equal length: the lower id first
  EXPECT_THAT(Texts(t, Encoded(t, "xyzz", false)), ElementsAre("x", "yzz"));
  EXPECT_THAT(Texts(t, Encoded(t, "yxyxy", false)), ElementsAre("yx", "yx", "y"));
}

TEST(Tokenizer, StreamHoldsBackUnfinishedCharacters) {
  TokenizerData data = Vocabulary({{S "a", 0}, {"b\xe4\xb8", 0}, {"\x96", 0}, {"c", 0}});
  AddToken(data, "<x>", TokenType::kUserDefined);
  AddToken(data, "unused", TokenType::kUnused);
  const Tokenizer t = Make(data);
  const int32_t a = kBytes + 256, b = a + 1, tail = a + 2, c = a + 3, user = a + 4, unused = a + 5;
  TokenStream stream = *TokenStream::Create(t, false);
  EXPECT_EQ(stream.Append(a), " a");
  EXPECT_EQ(stream.Append(b), "b");
  EXPECT_EQ(stream.Append(1), "");  // a control token prints nothing and disturbs nothing
  EXPECT_EQ(stream.Append(tail), "\xe4\xb8\x96");
  EXPECT_EQ(stream.Append(user), "<x>");
  EXPECT_EQ(stream.Append(unused), "");
  EXPECT_EQ(stream.Append(-1), "");
  EXPECT_EQ(stream.Append(t.vocab_size()), "");
  EXPECT_EQ(stream.Append(kBytes + 0xf0), "");
  EXPECT_EQ(stream.Append(kBytes + 0x9f), "");
  EXPECT_EQ(stream.Append(kBytes + 0x99), "");
  EXPECT_EQ(stream.Append(kBytes + 0x82), "🙂");
  EXPECT_EQ(stream.Append(kBytes + 0xf0), "");
  EXPECT_EQ(stream.Append(c),
            "\xef\xbf\xbd"
            "c");  // never finished: replaced
  EXPECT_EQ(stream.Append(kBytes + 0x80), "\xef\xbf\xbd");
  EXPECT_EQ(stream.Append(kBytes + 0), absl::string_view("\0", 1));
  EXPECT_EQ(stream.Append(kBytes + 0xe4), "");
  EXPECT_EQ(stream.Finish(), "\xef\xbf\xbd");
  EXPECT_EQ(stream.Finish(), "");
  EXPECT_EQ(stream.Append(c), "c");
}

TEST(Tokenizer, StreamRefusesWhatIsNotUtf8) {
  const Tokenizer t = Make(Vocabulary({{S, 0}}));
  auto bytes = [&](absl::string_view text) {
    std::vector<int32_t> ids;
    for (char byte : text) ids.push_back(kBytes + static_cast<uint8_t>(byte));
    return Decode(t, ids, false);
  };
  const std::string r = "\xef\xbf\xbd";
  EXPECT_EQ(bytes("\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"),
            "\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf0\x90\x80\x80\xf4\x8f\xbf\xbf");
  EXPECT_EQ(bytes("\xc0\x80"), r + r);                  // overlong
  EXPECT_EQ(bytes("\xe0\x9f\xbf"), r + r + r);          // overlong
  EXPECT_EQ(bytes("\xed\xa0\x80"), r + r + r);          // a surrogate
  EXPECT_EQ(bytes("\xf4\x90\x80\x80"), r + r + r + r);  // past U+10FFFF
  EXPECT_EQ(bytes("\xf0\x9f\x99 a"), r + " a");         // one for the part that could have begun a character
}

TEST(Tokenizer, StreamStripsTheSpaceThatEncodeAdded) {
  TokenizerData data = Vocabulary({{S, -5}, {S "a", 0}, {"a", 0}, {S S, -1}});
  AddToken(data, " u", TokenType::kUserDefined);
  const Tokenizer t = Make(data);
  for (const char* text : {"a", " a", "a a", "  ", "é", " u", "a u", "\n"}) {
    EXPECT_EQ(Decode(t, Encoded(t, text, true), true), text);
    EXPECT_EQ(Decode(t, Encoded(t, text, false), true), text);
  }
  const int32_t space_a = Encoded(t, "a", false)[0];
  EXPECT_EQ(Decode(t, {space_a, space_a}, true), "a a");
  EXPECT_EQ(Decode(t, {space_a, space_a}, false), " a a");  // a continuation is printed as it is
  data.add_space_prefix = false;
  const Tokenizer bare = Make(data);
  EXPECT_EQ(Decode(bare, {space_a}, true), " a");
}

TEST(Tokenizer, CreateRefusesWhatContradictsItself) {
  const TokenizerData good = Vocabulary({{S, 0}, {"a", 0}});
  EXPECT_TRUE(Tokenizer::Create(good).ok());
  const int32_t size = static_cast<int32_t>(good.tokens.size());
  auto expect = [&](auto change, absl::StatusCode code, const std::string& message) {
    TokenizerData data = good;
    change(data);
    const absl::Status status = Tokenizer::Create(std::move(data)).status();
    EXPECT_EQ(status.code(), code);
    EXPECT_EQ(status.message(), "tokenizer: " + message);
  };
  const auto invalid = absl::StatusCode::kInvalidArgument, unimplemented = absl::StatusCode::kUnimplemented;
  expect([](TokenizerData& d) { d.kind = "gpt2"; }, unimplemented,
         "vocabularies of kind \"gpt2\" are not supported yet, only \"llama\" (SentencePiece)");
  expect([](TokenizerData& d) { d.kind = "none"; }, unimplemented, "the model has no vocabulary");
  expect([](TokenizerData& d) { d.tokens.clear(); }, invalid, "no tokens");
  expect([](TokenizerData& d) { d.scores.pop_back(); }, invalid, "260 scores for 261 tokens");
  expect([](TokenizerData& d) { d.types.push_back(1); }, invalid, "262 types for 261 tokens");
  expect([](TokenizerData& d) { d.scores[5] = std::nanf(""); }, invalid, "the score of token 5 is not a number");
  expect([&](TokenizerData& d) { d.bos = size; }, invalid, "beginning-of-sequence id 261, expected 0 to 260");
  expect([](TokenizerData& d) { d.eos = -1; }, invalid, "end-of-sequence id -1, expected 0 to 260");
  expect([](TokenizerData& d) { d.unk = 1 << 30; }, invalid, "unknown-token id 1073741824, expected 0 to 260");
  expect([](TokenizerData& d) { d.end_ids = {2, 300}; }, invalid, "end id 300, expected 0 to 260");
  expect([](TokenizerData& d) { d.bos.reset(); }, invalid,
         "a beginning-of-sequence token is to be added and there is none");
  expect([](TokenizerData& d) { d.eos.reset(), d.add_eos = true; }, invalid,
         "an end-of-sequence token is to be added and there is none");
  expect([](TokenizerData& d) { d.types[4] = 7; }, invalid, "token 4 \"<0x01>\" has type 7, expected 0 to 6");
  expect([](TokenizerData& d) { d.types[4] = -1; }, invalid, "token 4 \"<0x01>\" has type -1, expected 0 to 6");
  for (const char* bad : {"<0x-1>", "<0x1>", "<0x1G>", "<0xG0>", "<0x+1>", "<0x 1>", "<0x100>", "<0X01>", "<0x01> ",
                          "<0x01", "0x01", "<0x001>", ""}) {
    expect([&](TokenizerData& d) { Replace(d.tokens, 4, bad); }, invalid,
           absl::StrCat("token 4 \"", bad, "\" is a byte token, expected <0xNN>"));
  }
  expect([](TokenizerData& d) { Replace(d.tokens, 260, "<s>"); }, invalid, "tokens 1 and 260 are both \"<s>\"");
  expect([](TokenizerData& d) { Replace(d.tokens, 4, "<0x00>"); }, invalid, "tokens 3 and 4 are both \"<0x00>\"");
  for (int32_t type : {7, -1, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()}) {
    expect([type](TokenizerData& d) { d.types[260] = type; }, invalid,
           absl::StrCat("token 260 \"a\" has type ", type, ", expected 0 to 6"));
  }
  const std::string shown(80, 'z');
  expect([](TokenizerData& d) { Replace(d.tokens, 260, std::string(65537, 'z')); }, invalid,
         absl::StrCat("token 260 \"", shown, "...\" has 65537 bytes: the limit \"token\" is 65536"));
  expect([](TokenizerData& d) { Replace(d.tokens, 260, std::string(513, 'z')), d.types[260] = 4; }, invalid,
         absl::StrCat("special token 260 \"", shown, "...\" has 513 bytes: the limit \"special token\" is 512"));
  TokenizerData twin = good;
  Replace(twin.tokens, 260, std::string(65536, 'z'));
  AddToken(twin, std::string(512, 'y'), TokenType::kUserDefined);
  AddToken(twin, "<0xG0>", TokenType::kNormal);  // a token like any other, as long as it does not claim to be a byte
  twin.scores[260] = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(Tokenizer::Create(twin).ok()) << Tokenizer::Create(twin).status();
}

TEST(Tokenizer, TypesAndScoresMayBeAbsent) {
  TokenizerData data = Vocabulary({{S, 0}, {"a", 0}, {"b", 0}, {"ab", 0}, {"bb", 0}});
  data.types.clear();
  data.scores.clear();
  const Tokenizer t = Make(data);
  EXPECT_THAT(Texts(t, Encoded(t, "abb\n", true)), ElementsAre("<s>", S, "ab", "b", "<0x0A>"));
  EXPECT_EQ(Decode(t, Encoded(t, "abb\n", true), true), "abb\n");
}

TEST(Tokenizer, StreamAllocatesNothing) {
  TokenizerData data = Vocabulary({{S, 0}, {std::string(1000, '\xff'), 0}, {std::string(999, 'a'), 0}});
  const Tokenizer t = Make(data);
  TokenStream stream = *TokenStream::Create(t, true);
  size_t printed = 0;
  const size_t before = HeapAllocations();
  for (int round = 0; round < 3; ++round) {
    for (int32_t id = 0; id < t.vocab_size(); ++id) printed += stream.Append(id).size();
    for (int32_t id = t.vocab_size() - 1; id >= 0; --id) printed += stream.Append(id).size();
    printed += stream.Finish().size();
  }
  EXPECT_EQ(HeapAllocations(), before);
  EXPECT_GT(printed, 6 * 3999u);
}

// A million characters, where every merge makes the next possible: this never ends when a merge costs a walk.
TEST(Tokenizer, LongTexts) {
  std::vector<std::pair<std::string, float>> words;
  std::string run;
  for (int i = 1; i <= 64; ++i) words.emplace_back(run += S, static_cast<float>(i));
  TokenizerData data = Vocabulary(words);
  AddToken(data, "\n\n", TokenType::kUserDefined);
  const Tokenizer t = Make(data);
  std::string text(1'000'000, ' ');
  for (size_t i = 500; i < text.size(); i += 1000) text[i] = text[i + 1] = '\n';
  const std::vector<int32_t> ids = Encoded(t, text, false);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), t.vocab_size() - 1), 1000);
  EXPECT_EQ(ids.size(), 1000 + (8 + 999 * 16 + 8));  // runs of 501, 999, and 499 spaces, in pieces of up to 64
  EXPECT_EQ(Decode(t, ids, false).size(), text.size() + 1001);
}

TEST(Tokenizer, EncodingRandomBytesNeverFails) {
  TokenizerData data = Vocabulary({{S, 0}, {"a", 0}, {"aa", 1}, {S "a", 2}, {"\xe4\xb8\x96", 0}});
  AddToken(data, "aaa", TokenType::kUserDefined);
  const Tokenizer t = Make(data);
  std::mt19937 random(1);
  const std::string alphabet("a \xe4\xb8\x96\xf0\xff\x80\0", 9);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (uint32_t n = random() % 40; n > 0; --n) text.push_back(alphabet[random() % alphabet.size()]);
    std::string bytes;
    for (int32_t id : Encoded(t, text, round % 2 == 0)) absl::StrAppend(&bytes, t.Piece(id));
    EXPECT_GE(bytes.size(), text.size());
  }
}

// ---- vocabularies of files

std::string Shared() {
  const char* shared = std::getenv("SINTER_SHARED");
  return shared != nullptr ? shared : SINTER_SOURCE_DIR "/../shared";
}

absl::StatusOr<TokenizerData> ReadData(const std::string& path) {
  absl::StatusOr<Gguf> gguf = Gguf::Open(path);
  if (!gguf.ok()) return gguf.status();
  return ReadTokenizerData(*gguf);
}

TEST(TokenizerFiles, LlamaVocabularyIsExact) {
  const std::string path = Shared() + "/vocab/ggml-vocab-llama-spm.gguf";
  absl::StatusOr<TokenizerData> data = ReadData(path);
  if (absl::IsNotFound(data.status())) GTEST_SKIP() << "no test data in " << Shared();
  ASSERT_TRUE(data.ok()) << data.status();
  const Tokenizer t = Make(*data);
  const std::string inputs = *ReadFile(path + ".inp"), outputs = *ReadFile(path + ".out");
  std::vector<std::string> texts = absl::StrSplit(inputs, "\n__ggml_vocab_test__\n");
  texts.pop_back();  // each text is followed by the line
  const std::vector<std::string> lines = absl::StrSplit(absl::StripSuffix(outputs, "\n"), '\n');
  ASSERT_EQ(texts.size(), lines.size());
  EXPECT_EQ(texts.size(), 46u);
  for (size_t i = 0; i < texts.size(); ++i) {
    std::vector<int32_t> expected;
    for (absl::string_view field : absl::StrSplit(lines[i], ' ', absl::SkipEmpty())) {
      expected.emplace_back();
      ASSERT_TRUE(absl::SimpleAtoi(field, &expected.back()));
    }
    EXPECT_EQ(Encoded(t, texts[i], false), expected) << "string " << i << ": " << texts[i];
    EXPECT_EQ(Decode(t, expected, true), texts[i]);
  }
}

TEST(TokenizerFiles, StoriesTokenizesItsPrompt) {
  absl::StatusOr<TokenizerData> data = ReadData(Shared() + "/models/stories260K.gguf");
  if (absl::IsNotFound(data.status())) GTEST_SKIP() << "no test data in " << Shared();
  ASSERT_TRUE(data.ok()) << data.status();
  const Tokenizer t = Make(*data);
  EXPECT_THAT(Encoded(t, "Once upon a time", true), ElementsAre(1, 403, 407, 261, 378));
  EXPECT_EQ(Decode(t, {432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426}, false),
            ", there was a little girl named Lily.");
  EXPECT_TRUE(t.IsEnd(2));
  EXPECT_FALSE(t.IsEnd(1));
}

TEST(TokenizerFiles, OtherKindsAreReadAndRefused) {
  absl::StatusOr<TokenizerData> data = ReadData(Shared() + "/vocab/ggml-vocab-gpt-2.gguf");
  if (absl::IsNotFound(data.status())) GTEST_SKIP() << "no test data in " << Shared();
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->tokens.size(), 50257u);
  EXPECT_TRUE(data->IsEnd(50256));
  EXPECT_EQ(Tokenizer::Create(*data).status().code(), absl::StatusCode::kUnimplemented);
}

GgufWriter VocabularyFile() {
  GgufWriter w;
  w.Set("tokenizer.ggml.model", "llama");
  w.Set("tokenizer.ggml.tokens", std::vector<std::string>{"<unk>", "<s>", "</s>", S, "a", "<end_of_turn>"});
  w.Set("tokenizer.ggml.scores", std::vector<float>{0, 0, 0, -1, -2, 0});
  w.Set("tokenizer.ggml.token_type", std::vector<int32_t>{2, 3, 3, 1, 1, 4});
  return w;
}

absl::StatusOr<TokenizerData> ReadData(GgufWriter& w) {
  const std::string file = w.Build();
  absl::StatusOr<Gguf> gguf = Gguf::Parse({reinterpret_cast<const uint8_t*>(file.data()), file.size()}, "m.gguf");
  if (!gguf.ok()) return gguf.status();
  return ReadTokenizerData(*gguf);
}

TEST(TokenizerFiles, DefaultsAndKeys) {
  GgufWriter plain = VocabularyFile();
  absl::StatusOr<TokenizerData> data = ReadData(plain);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->bos, 1);
  EXPECT_EQ(data->eos, 2);
  EXPECT_EQ(data->unk, 0);
  EXPECT_TRUE(data->add_bos);
  EXPECT_FALSE(data->add_eos);
  EXPECT_TRUE(data->add_space_prefix);
  EXPECT_TRUE(data->IsEnd(5));  // by its text, which also makes it a control token
  EXPECT_EQ(data->types[5], static_cast<int32_t>(TokenType::kControl));
  EXPECT_FALSE(data->IsEnd(4));

  GgufWriter set = VocabularyFile();
  set.Set("tokenizer.ggml.bos_token_id", uint32_t{4}).Set("tokenizer.ggml.eos_token_id", uint32_t{3});
  set.Set("tokenizer.ggml.unknown_token_id", uint32_t{1}).Set("tokenizer.ggml.eot_token_id", uint32_t{0});
  set.Set("tokenizer.ggml.add_bos_token", false).Set("tokenizer.ggml.add_eos_token", true);
  set.Set("tokenizer.ggml.add_space_prefix", false);
  data = ReadData(set);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->bos, 4);
  EXPECT_EQ(data->eos, 3);
  EXPECT_EQ(data->unk, 1);
  EXPECT_TRUE(data->IsEnd(0));
  EXPECT_FALSE(data->add_bos);
  EXPECT_TRUE(data->add_eos);
  EXPECT_FALSE(data->add_space_prefix);

  GgufWriter none;
  none.Set("general.architecture", "llama");
  EXPECT_EQ(ReadData(none)->kind, "none");
}

TEST(TokenizerFiles, RefusesWhatContradictsItself) {
  auto expect = [](GgufWriter w, const std::string& key, const std::string& message) {
    const absl::Status status = ReadData(w).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(), absl::StrCat("m.gguf: at byte ", w.at("key:" + key), ": key \"", key, "\": ", message));
  };
  const std::string prefix = "tokenizer.ggml.";
  auto base = [&](int tokens) {
    GgufWriter w;
    w.Set(prefix + "model", "llama");
    return w.Set(prefix + "tokens", std::vector<std::string>(static_cast<size_t>(tokens), "x"));
  };
  GgufWriter twins = base(2);
  EXPECT_TRUE(ReadData(twins).ok());
  expect(base(0), prefix + "tokens", "no tokens");
  expect(base(2).Set(prefix + "scores", std::vector<float>{1}), prefix + "scores", "1 elements for 2 tokens");
  expect(base(2).Set(prefix + "scores", "x"), prefix + "scores", "string, expected an array of numbers");
  expect(base(2).Set(prefix + "token_type", std::vector<int32_t>{1, 1, 1}), prefix + "token_type",
         "3 elements for 2 tokens");
  expect(base(2).Set(prefix + "token_type", std::vector<int32_t>{1, 9}), prefix + "token_type",
         "token 1 has type 9, expected 0 to 6");
  expect(base(2).Set(prefix + "bos_token_id", uint32_t{2}), prefix + "bos_token_id", "2, expected 0 to 1");
  expect(base(2).Set(prefix + "eos_token_id", int32_t{-1}), prefix + "eos_token_id", "-1, expected 0 to 1");
  expect(base(2).Set(prefix + "add_bos_token", uint8_t{1}), prefix + "add_bos_token", "u8, expected a bool");
  GgufWriter no_tokens;
  no_tokens.Set(prefix + "model", "llama");
  EXPECT_EQ(ReadData(no_tokens).status().message(),
            "m.gguf: key \"tokenizer.ggml.tokens\": missing, expected an array of strings");
}

}  // namespace
}  // namespace sinter
