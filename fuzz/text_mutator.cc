#include "fuzz/text_mutator.h"

#include <algorithm>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "fuzz/gguf_mutator.h"
#include "ir/lexer.h"

namespace sinter::fuzz {
namespace {

constexpr size_t kMostTokens = 1 << 14;

std::vector<Token> TokensOf(absl::string_view text) {
  std::vector<Token> tokens;
  Lexer lexer(text);
  while (tokens.size() < kMostTokens) {
    const Token token = lexer.Next();
    if (token.kind == TokenKind::kEnd || token.kind == TokenKind::kError) break;
    tokens.push_back(token);
  }
  return tokens;
}

// A number as the language writes one.
std::string OddNumber(Dice& dice) {
  switch (dice.Below(4)) {
    case 0:
      return absl::StrCat(static_cast<int64_t>(OddInteger(dice)));
    case 1:
      return absl::StrCat(OddInteger(dice));
    case 2:
      return absl::StrCat(OddFloat(dice));
    default:
      return absl::StrCat(dice.Between(0, 64));
  }
}

// One token of `text` dropped, doubled or replaced.
std::string MutateToken(absl::string_view text, absl::string_view donor, Dice& dice) {
  const std::vector<Token> tokens = TokensOf(text);
  if (tokens.empty()) return OddBytes(text, dice);
  const Token& token = dice.Pick(tokens);
  std::vector<absl::string_view> others;  // of the same kind
  for (absl::string_view source : {text, donor}) {
    for (const Token& other : TokensOf(source)) {
      if (other.kind == token.kind && other.text != token.text) others.push_back(other.text);
    }
  }
  std::string changed(token.text);
  switch (dice.Below(8)) {
    case 0:
      changed.clear();
      break;
    case 1:
      changed = absl::StrCat(token.text, " ", token.text);
      break;
    case 2:
      changed = OddText(changed, dice);
      break;
    default:
      if (token.kind == TokenKind::kNumber && dice.Chance(60)) {
        changed = OddNumber(dice);
      } else if (!others.empty()) {
        changed = std::string(dice.Pick(others));
      }
  }
  return absl::StrCat(text.substr(0, token.offset), changed, text.substr(token.offset + token.text.size()));
}

// One number or word replaced wherever it stands, so that what agreed before may still agree.
std::string MutateEverywhere(absl::string_view text, absl::string_view donor, Dice& dice) {
  const std::vector<Token> tokens = TokensOf(text);
  std::vector<Token> candidates;
  std::vector<absl::string_view> words;
  for (const Token& token : tokens) {
    if (token.kind == TokenKind::kNumber || token.kind == TokenKind::kWord) candidates.push_back(token);
    if (token.kind == TokenKind::kWord) words.push_back(token.text);
  }
  for (const Token& token : TokensOf(donor)) {
    if (token.kind == TokenKind::kWord) words.push_back(token.text);
  }
  if (candidates.empty() || words.empty()) return std::string(text);
  const Token chosen = dice.Pick(candidates);
  int64_t number;
  std::string other(dice.Pick(words));
  if (chosen.kind == TokenKind::kNumber) {
    const bool near = absl::SimpleAtoi(chosen.text, &number) && number > 0 && number < 1 << 20 && dice.Chance(80);
    other = near ? absl::StrCat(dice.Chance(50) ? number * 2 : std::max<int64_t>(0, number + dice.Between(-1, 1)))
                 : OddNumber(dice);
  }
  std::string out;
  size_t end = 0;
  for (const Token& token : tokens) {
    if (token.kind != chosen.kind || token.text != chosen.text) continue;
    absl::StrAppend(&out, text.substr(end, token.offset - end), other);
    end = token.offset + token.text.size();
  }
  absl::StrAppend(&out, text.substr(end));
  return out;
}

std::string MutateLine(absl::string_view text, absl::string_view donor, Dice& dice) {
  std::vector<absl::string_view> lines = absl::StrSplit(text, '\n');
  const std::vector<absl::string_view> other = absl::StrSplit(donor, '\n');
  const auto at = [&] { return lines.begin() + dice.Below(static_cast<int64_t>(lines.size())); };
  switch (dice.Below(4)) {
    case 0:
      lines.erase(at());
      break;
    case 1: {
      const absl::string_view line = *at();
      lines.insert(at(), line);
      break;
    }
    case 2:
      std::iter_swap(at(), at());
      break;
    default:
      lines.insert(at(), dice.Pick(other));
  }
  return absl::StrJoin(lines, "\n");
}

}  // namespace

std::string MutateText(absl::string_view text, absl::Span<const Seed> donors, Dice& dice) {
  std::string out(text);
  const std::string& donor = dice.Pick(donors).bytes;
  for (int64_t n = 1 + (dice.Chance(30) ? dice.Below(3) : 0); n > 0; --n) {
    const int64_t how = dice.Below(100);
    out = how < 40   ? MutateEverywhere(out, donor, dice)
          : how < 75 ? MutateToken(out, donor, dice)
          : how < 95 ? MutateLine(out, donor, dice)
                     : OddBytes(out, dice);
  }
  return out;
}

}  // namespace sinter::fuzz
