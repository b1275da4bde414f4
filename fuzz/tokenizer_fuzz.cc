// Target tokenizer: a vocabulary drawn from the first bytes, a text from the rest.
//
// Whatever Create accepts encodes any text to ids of the vocabulary and decodes any ids to valid UTF-8; a vocabulary
// that has every byte gives back any text that is valid UTF-8.
#include <bitset>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "base/utf8.h"
#include "fuzz/input.h"
#include "fuzz/target.h"
#include "runtime/tokenizer.h"

namespace sinter::fuzz {
namespace {

constexpr size_t kMostTokens = 40;
constexpr absl::string_view kSpace = "\xe2\x96\x81";  // U+2581, which a space becomes

// The bytes that Run reads in this order: flags, ids, tokens, text.
class Writer {
 public:
  template <typename T>
  Writer& Put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Writer& Token(absl::string_view text, TokenType type, float score) {
    Put(static_cast<uint8_t>(0)).Put(static_cast<uint16_t>(text.size()));
    bytes_.append(text.data(), text.size());
    return Put(static_cast<uint8_t>(type)).Put(score);
  }
  std::string With(absl::string_view text) const { return absl::StrCat(bytes_, text); }

 private:
  std::string bytes_;
};

}  // namespace

std::vector<Seed> Seeds() {
  Writer w;
  w.Put(uint8_t{0b0011'1111}).Put(uint8_t{0b111}).Put(uint16_t{1}).Put(uint16_t{2}).Put(uint16_t{0}).Put(uint16_t{8});
  w.Token("<unk>", TokenType::kUnknown, 0).Token("<s>", TokenType::kControl, 0).Token("</s>", TokenType::kControl, 0);
  w.Token("\u2581", TokenType::kNormal, -1).Token("a", TokenType::kNormal, -2).Token("aa", TokenType::kNormal, -3);
  w.Token("\u2581aa", TokenType::kNormal, -4).Token("<user>", TokenType::kUserDefined, 0);
  return {{"words", w.With("aaaa a<user>\xc3\xa9 </s>a")}, {"empty", w.With("")}, {"broken", w.With("\xff\xe2\x96 a")}};
}

namespace {

TokenizerData Draw(Input& input) {
  TokenizerData data;
  const auto flags = input.Any<uint8_t>(), present = input.Any<uint8_t>();
  data.kind = (flags & 1) != 0 ? "llama" : "gpt2";
  data.add_bos = (flags & 2) != 0;
  data.add_eos = (flags & 4) != 0;
  data.add_space_prefix = (flags & 8) != 0;
  const auto id = [&](int bit) {
    const auto drawn = static_cast<int32_t>(input.Any<int16_t>());
    return (present >> bit & 1) != 0 ? std::optional<int32_t>(drawn) : std::nullopt;
  };
  data.bos = id(0);
  data.eos = id(1);
  data.unk = id(2);
  const size_t tokens = input.Below(kMostTokens);
  for (size_t i = 0; i < tokens; ++i) {
    const auto kind = input.Any<uint8_t>();
    data.tokens.push_back(input.Text(24));
    data.types.push_back(static_cast<int32_t>(input.Any<int8_t>()));
    data.scores.push_back(input.Any<float>());
    if (kind == 1) data.end_ids.push_back(data.types.back());
  }
  // Every byte in a few bytes of input.
  if ((flags & 32) != 0) {
    for (int byte = 0; byte < 256; ++byte) {
      data.tokens.push_back(absl::StrFormat("<0x%02X>", byte));
      data.types.push_back(static_cast<int32_t>(TokenType::kByte));
      data.scores.push_back(0);
    }
  }
  if ((flags & 64) != 0) data.types.clear();
  if ((flags & 128) != 0) data.scores.clear();
  return data;
}

std::string Decoded(const Tokenizer& tokenizer, absl::Span<const int32_t> ids, bool at_start) {
  auto created = TokenStream::Create(tokenizer, at_start);
  Expect(created.ok(), "a stream can be made");
  TokenStream& stream = *created;
  std::string text;
  for (int32_t id : ids) {
    const absl::string_view part = stream.Append(id);
    Expect(IsUtf8(part), "a stream prints valid UTF-8");
    absl::StrAppend(&text, part);
  }
  const absl::string_view end = stream.Finish();
  Expect(IsUtf8(end), "a stream ends in valid UTF-8");
  absl::StrAppend(&text, end);
  return text;
}

// Whether the vocabulary prints what it encodes: each byte and U+2581 have tokens of their own, and no token that
// encoding can give prints anything but its text.
bool IsFaithful(const Tokenizer& tokenizer) {
  std::bitset<256> bytes;
  bool space = false;
  const TokenizerData& data = tokenizer.data();
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const auto type = static_cast<TokenType>(data.types[static_cast<size_t>(id)]);
    if (type == TokenType::kByte && tokenizer.Piece(id).size() == 1) {
      bytes.set(static_cast<uint8_t>(tokenizer.Piece(id)[0]));
    } else if (type != TokenType::kNormal && !data.tokens[static_cast<size_t>(id)].empty()) {
      return false;
    }
    space |= data.tokens[static_cast<size_t>(id)] == kSpace;
  }
  return space && bytes.all();
}

void Run(Input input) {
  auto created = Tokenizer::Create(Draw(input));
  if (!created.ok()) {
    Expect(absl::IsInvalidArgument(created.status()) || absl::IsUnimplemented(created.status()),
           absl::StrCat("Create refuses with ", created.status().ToString()));
    Expect(!created.status().message().empty(), "Create says why it refuses");
    return;
  }
  const Tokenizer& tokenizer = *created;
  const absl::string_view text = input.Rest();
  for (bool special : {false, true}) {
    const auto encoded = tokenizer.Encode(text, special);
    Expect(encoded.ok(), "any text can be encoded");
    const std::vector<int32_t>& ids = *encoded;
    for (int32_t id : ids) Expect(id >= 0 && id < tokenizer.vocab_size(), "an id is of the vocabulary");
    Expect(ids.size() <= 4 * text.size() + 8, "no more ids than the text has bytes, and a prefix for each piece");
    Expect(ids == *tokenizer.Encode(text, special), "the same text gives the same ids");
    const std::string decoded = Decoded(tokenizer, ids, /*at_start=*/true);
    // U+2581 in a text is a space to the vocabulary, and what spells a byte token may become that token.
    const std::string expected = absl::StrReplaceAll(text, {{kSpace, " "}});
    if (!special && IsUtf8(text) && !absl::StrContains(text, "<0x") && IsFaithful(tokenizer)) {
      Expect(decoded == expected, absl::StrCat("a text comes back: ", decoded, " for ", expected));
    }
  }
  // Ids as a model might give them, out of range among them.
  std::vector<int32_t> any;
  for (size_t i = 0; i + 2 <= text.size(); i += 2) {
    any.push_back(static_cast<int8_t>(text[i]) * 4 + static_cast<uint8_t>(text[i + 1]));
  }
  Decoded(tokenizer, any, /*at_start=*/false);
  for (int32_t id : any) tokenizer.IsEnd(id);
}

}  // namespace
}  // namespace sinter::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sinter::fuzz::Run(sinter::fuzz::Input(data, size));
  return 0;
}
