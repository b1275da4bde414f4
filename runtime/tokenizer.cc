#include "runtime/tokenizer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <queue>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/escape.h"
#include "base/limits.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/utf8.h"

namespace sinter {
namespace {

constexpr absl::string_view kSpace = "\xe2\x96\x81";        // U+2581, what a space becomes
constexpr absl::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

// The byte that a token of the form <0xNN> stands for, or -1.
int ByteOf(absl::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  if (!absl::ascii_isxdigit(token[3]) || !absl::ascii_isxdigit(token[4])) return -1;
  return static_cast<uint8_t>(absl::HexStringToBytes(token.substr(3, 2))[0]);
}

}  // namespace

bool TokenizerData::IsEnd(int32_t id) const {
  return eos == id || std::find(end_ids.begin(), end_ids.end(), id) != end_ids.end();
}

absl::StatusOr<std::vector<int32_t>> TokenizerData::EndIds() const {
  return WithoutExceptions("reading the end tokens", [&]() -> absl::StatusOr<std::vector<int32_t>> {
    std::vector<int32_t> ids = end_ids;
    if (eos) ids.push_back(*eos);
    return ids;
  });
}

absl::StatusOr<Tokenizer> Tokenizer::Create(TokenizerData data) {
  return WithoutExceptions("reading a vocabulary", [&]() -> absl::StatusOr<Tokenizer> {
    auto invalid = [](auto&&... parts) { return absl::InvalidArgumentError(absl::StrCat("tokenizer: ", parts...)); };
    if (data.kind == "none") {
      return absl::UnimplementedError("tokenizer: the model has no vocabulary");
    }
    if (data.kind != "llama") {
      return absl::UnimplementedError(absl::StrCat("tokenizer: vocabularies of kind ", Quoted(data.kind),
                                                   " are not supported yet, only \"llama\" (SentencePiece)"));
    }
    const size_t size = data.tokens.size();
    if (size == 0) return invalid("no tokens");
    if (limits::kVocabulary.Exceeded(size)) return invalid(size, " tokens: ", limits::kVocabulary.Text());
    if (!data.scores.empty() && data.scores.size() != size)
      return invalid(data.scores.size(), " scores for ", size, " tokens");
    if (!data.types.empty() && data.types.size() != size)
      return invalid(data.types.size(), " types for ", size, " tokens");
    for (size_t i = 0; i < data.scores.size(); ++i) {
      if (std::isnan(data.scores[i])) return invalid("the score of token ", i, " is not a number");
    }
    auto check_id = [&](const char* name, std::optional<int32_t> id) -> absl::Status {
      if (!id || (*id >= 0 && static_cast<size_t>(*id) < size)) return absl::OkStatus();
      return invalid(name, " id ", *id, ", expected 0 to ", size - 1);
    };
    SINTER_RETURN_IF_ERROR(check_id("beginning-of-sequence", data.bos));
    SINTER_RETURN_IF_ERROR(check_id("end-of-sequence", data.eos));
    SINTER_RETURN_IF_ERROR(check_id("unknown-token", data.unk));
    for (int32_t id : data.end_ids) SINTER_RETURN_IF_ERROR(check_id("end", id));
    if (data.add_bos && !data.bos) return invalid("a beginning-of-sequence token is to be added and there is none");
    if (data.add_eos && !data.eos) return invalid("an end-of-sequence token is to be added and there is none");

    data.scores.resize(size, 0.0f);
    if (data.types.empty()) {
      data.types.reserve(size);
      for (size_t i = 0; i < size; ++i) {
        const bool byte = ByteOf(data.tokens[i]) >= 0;
        data.types.push_back(static_cast<int32_t>(byte ? TokenType::kByte : TokenType::kNormal));
      }
      if (data.unk) data.types[static_cast<size_t>(*data.unk)] = static_cast<int32_t>(TokenType::kUnknown);
      for (std::optional<int32_t> id : {data.bos, data.eos}) {
        if (id) data.types[static_cast<size_t>(*id)] = static_cast<int32_t>(TokenType::kControl);
      }
    }

    Tokenizer t;
    t.data_ = std::move(data);
    t.pieces_.reserve(size, t.data_.tokens.bytes());
    t.slots_.assign(std::bit_ceil(2 * size), -1);  // half of them free, so that searches are short
    for (int32_t id = 0; id < t.vocab_size(); ++id) {
      const absl::string_view token = t.data_.tokens[static_cast<size_t>(id)];
      const int32_t type = t.data_.types[static_cast<size_t>(id)];
      if (type < 0 || type > static_cast<int32_t>(TokenType::kByte)) {
        return invalid("token ", id, " ", Quoted(token), " has type ", type, ", expected 0 to 6");
      }
      if (t.type(id) == TokenType::kByte && ByteOf(token) < 0) {
        return invalid("token ", id, " ", Quoted(token), " is a byte token, expected <0xNN>");
      }
      if (limits::kTokenBytes.Exceeded(token.size())) {
        return invalid("token ", id, " ", Quoted(token), " has ", token.size(), " bytes: ", limits::kTokenBytes.Text());
      }
      if (!token.empty()) {  // no text spells an empty token
        int32_t& slot = t.slots_[t.SlotOf(token)];
        if (slot >= 0) return invalid("tokens ", slot, " and ", id, " are both ", Quoted(token));
        slot = id;
        t.max_token_bytes_ = std::max(t.max_token_bytes_, token.size());
        if (t.type(id) == TokenType::kUserDefined || t.type(id) == TokenType::kControl ||
            t.type(id) == TokenType::kUnknown) {
          if (limits::kSpecialTokenBytes.Exceeded(token.size())) {
            return invalid("special token ", id, " ", Quoted(token), " has ", token.size(),
                           " bytes: ", limits::kSpecialTokenBytes.Text());
          }
          t.special_sizes_.push_back(token.size());
          t.special_starts_.set(static_cast<uint8_t>(token[0]));
        }
      }
      t.AddPiece(token, t.type(id));
    }
    std::sort(t.special_sizes_.rbegin(), t.special_sizes_.rend());
    t.special_sizes_.erase(std::unique(t.special_sizes_.begin(), t.special_sizes_.end()), t.special_sizes_.end());

    for (int byte = 0; byte < 256; ++byte) {
      const char bare = static_cast<char>(byte);
      int32_t id = t.Find(absl::StrCat("<0x", absl::AsciiStrToUpper(absl::BytesToHexString({&bare, 1})), ">"));
      if (id < 0) id = t.Find({&bare, 1});
      if (id < 0 && !t.data_.unk) return invalid("no token for byte ", byte, " and no unknown token to stand for it");
      t.byte_ids_[byte] = id < 0 ? *t.data_.unk : id;
    }
    return t;
  });
}

size_t Tokenizer::SlotOf(absl::string_view text) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = absl::Hash<absl::string_view>()(text) & mask;  // seeded: no file can foresee it
  while (slots_[slot] >= 0 && data_.tokens[static_cast<size_t>(slots_[slot])] != text) slot = (slot + 1) & mask;
  return slot;
}

void Tokenizer::AddPiece(absl::string_view token, TokenType type) {
  if (type == TokenType::kByte) {
    const char byte = static_cast<char>(ByteOf(token));
    pieces_.push_back({&byte, 1});
  } else if (type == TokenType::kNormal && absl::StrContains(token, kSpace)) {
    pieces_.push_back(absl::StrReplaceAll(token, {{kSpace, " "}}));
  } else {
    pieces_.push_back(type == TokenType::kNormal || type == TokenType::kUserDefined ? token : absl::string_view());
  }
  max_piece_bytes_ = std::max(max_piece_bytes_, pieces_[pieces_.size() - 1].size());
}

// Step 1. A later match is never longer than an earlier one, so it overlaps one exactly when its first or last byte is
// taken: O(n) for each distinct length.
std::vector<Tokenizer::Fragment> Tokenizer::Split(absl::string_view text, bool special) const {
  struct Match {
    size_t begin;
    int32_t id;
    size_t size;
  };
  std::vector<Match> matches;
  std::vector<bool> taken(special_sizes_.empty() ? 0 : text.size());
  for (size_t size : special_sizes_) {
    std::vector<Match> candidates;
    for (size_t begin = 0; begin + size <= text.size(); ++begin) {
      if (!special_starts_[static_cast<uint8_t>(text[begin])] || taken[begin] || taken[begin + size - 1]) continue;
      const int32_t id = Find(text.substr(begin, size));
      if (id < 0) continue;
      const bool wanted = type(id) == TokenType::kUserDefined ||
                          (special && (type(id) == TokenType::kControl || type(id) == TokenType::kUnknown));
      if (wanted) candidates.push_back({begin, id, size});
    }
    std::stable_sort(candidates.begin(), candidates.end(), [](const Match& a, const Match& b) { return a.id < b.id; });
    for (const Match& match : candidates) {
      if (taken[match.begin] || taken[match.begin + size - 1]) continue;
      std::fill_n(taken.begin() + static_cast<std::ptrdiff_t>(match.begin), size, true);
      matches.push_back(match);
    }
  }
  std::sort(matches.begin(), matches.end(), [](const Match& a, const Match& b) { return a.begin < b.begin; });

  std::vector<Fragment> fragments;
  size_t end = 0;
  for (const Match& match : matches) {
    if (match.begin > end) fragments.push_back({text.substr(end, match.begin - end), -1});
    fragments.push_back({{}, match.id});
    end = match.begin + match.size;
  }
  if (end < text.size()) fragments.push_back({text.substr(end), -1});
  return fragments;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(absl::string_view text, bool special) const {
  return WithoutExceptions("encoding text", [&]() -> absl::StatusOr<std::vector<int32_t>> {
    std::vector<int32_t> ids;
    if (special && data_.add_bos) ids.push_back(*data_.bos);
    bool prefix = data_.add_space_prefix;
    for (const Fragment& fragment : Split(text, special)) {
      if (fragment.id >= 0) {
        ids.push_back(fragment.id);
      } else {
        EncodeText(absl::StrCat(prefix ? kSpace : "", absl::StrReplaceAll(fragment.text, {{" ", kSpace}})), ids);
      }
      prefix = data_.add_space_prefix && fragment.id >= 0;
    }
    if (special && data_.add_eos) ids.push_back(*data_.eos);
    return ids;
  });
}

// Steps 3 and 4. Symbols form a list linked by index; one that was merged into its left neighbour has size 0.
void Tokenizer::EncodeText(absl::string_view text, std::vector<int32_t>& ids) const {
  struct Symbol {
    size_t begin, size;
    int64_t previous, next;
  };
  struct Pair {
    float score;
    int64_t left, right;
    size_t size;
    bool operator<(const Pair& other) const {  // the queue's top is the greatest
      return score != other.score ? score < other.score : left > other.left;
    }
  };
  std::vector<Symbol> symbols;
  for (size_t begin = 0; begin < text.size();) {
    const size_t size = std::min(Utf8Bytes(text[begin]), text.size() - begin);
    const auto index = static_cast<int64_t>(symbols.size());
    symbols.push_back({begin, size, index - 1, begin + size == text.size() ? -1 : index + 1});
    begin += size;
  }
  std::priority_queue<Pair> queue;
  auto offer = [&](int64_t left, int64_t right) {
    if (left < 0 || right < 0) return;
    const size_t size = symbols[left].size + symbols[right].size;
    if (size > max_token_bytes_) return;
    const int32_t id = Find(text.substr(symbols[left].begin, size));
    if (id >= 0) queue.push({data_.scores[static_cast<size_t>(id)], left, right, size});
  };
  for (size_t i = 1; i < symbols.size(); ++i) offer(static_cast<int64_t>(i) - 1, static_cast<int64_t>(i));
  while (!queue.empty()) {
    const Pair pair = queue.top();
    queue.pop();
    Symbol& left = symbols[pair.left];
    Symbol& right = symbols[pair.right];
    // Outdated when either side has since been merged: then it is empty or has grown.
    if (left.size == 0 || right.size == 0 || left.size + right.size != pair.size) continue;
    left.size = pair.size;
    right.size = 0;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = pair.left;
    offer(left.previous, pair.left);
    offer(pair.left, left.next);
  }
  for (int64_t i = symbols.empty() ? -1 : 0; i >= 0; i = symbols[i].next) {
    const absl::string_view symbol = text.substr(symbols[i].begin, symbols[i].size);
    const int32_t id = Find(symbol);
    if (id >= 0) {
      ids.push_back(id);
    } else {
      for (char byte : symbol) ids.push_back(byte_ids_[static_cast<uint8_t>(byte)]);
    }
  }
}

absl::StatusOr<TokenStream> TokenStream::Create(const Tokenizer& tokenizer, bool at_start) {
  return WithoutExceptions("printing tokens",
                           [&]() -> absl::StatusOr<TokenStream> { return TokenStream(tokenizer, at_start); });
}

TokenStream::TokenStream(const Tokenizer& tokenizer, bool at_start)
    : tokenizer_(&tokenizer), strip_space_(at_start && tokenizer.data().add_space_prefix) {
  // At most three bytes are held back, and each byte may become a replacement character.
  pending_.reserve(tokenizer.max_piece_bytes() + 3);
  out_.reserve((tokenizer.max_piece_bytes() + 3) * kReplacement.size());
}

absl::string_view TokenStream::Append(int32_t id) {
  absl::string_view piece = tokenizer_->Piece(id);
  if (piece.empty()) return {};
  const bool normal = tokenizer_->data().types[static_cast<size_t>(id)] == static_cast<int32_t>(TokenType::kNormal);
  if (strip_space_ && normal && piece[0] == ' ') piece.remove_prefix(1);
  strip_space_ = false;
  pending_.append(piece.data(), piece.size());
  return Drain(false);
}

absl::string_view TokenStream::Finish() { return Drain(true); }

absl::string_view TokenStream::Drain(bool finish) {
  out_.clear();
  size_t done = 0;
  while (done < pending_.size()) {
    const absl::string_view rest = absl::string_view(pending_).substr(done);
    const Utf8Step step = DecodeUtf8(rest);
    if (step.bytes == 0 && !finish) break;
    const absl::string_view text = step.valid ? rest.substr(0, step.bytes) : kReplacement;
    out_.append(text.data(), text.size());
    done += step.bytes == 0 ? rest.size() : step.bytes;
  }
  pending_.erase(0, done);
  return out_;
}

}  // namespace sinter
