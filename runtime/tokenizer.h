// Text to token ids and back, for SentencePiece-style vocabularies (`tokenizer.ggml.model` = "llama").
//
// Called by `run` and `tokenize`. Create checks everything that later calls rely on: nothing but memory can fail them.
// Encode is safe from many threads at once. The results are those of llama.cpp, id for id (which leaves
// open the order of equally long tokens in step 1):
//
//   1. User-defined tokens (with `special`: control and unknown tokens too) are cut out of the raw text, the longest
//      first, then the lowest id, then the leftmost.
//   2. In each piece of text between them every space becomes U+2581, and a piece that begins the text or follows a
//      token of step 1 gets one in front, when add_space_prefix is set.
//   3. The piece is split into characters by their first byte; then the adjacent pair whose joined text is a token of
//      the highest score (leftmost first) is merged, again and again: O(n log n).
//   4. What is a token becomes its id; the rest becomes byte tokens <0xNN>, or tokens that are the bare byte, or unk.
//
// Errors: kInvalidArgument when the data contradicts itself, kUnimplemented for another kind of vocabulary,
// kResourceExhausted when memory runs out.
#pragma once

#include <bitset>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/text_list.h"

namespace sinter {

// The values that files use.
enum class TokenType : int32_t { kUndefined, kNormal, kUnknown, kControl, kUserDefined, kUnused, kByte };

// A vocabulary as a file states it.
struct TokenizerData {
  std::string kind;  // "none": no vocabulary
  TextList tokens;
  std::vector<float> scores;   // empty: all equal
  std::vector<int32_t> types;  // TokenType; empty: byte and special tokens are known by their text and id
  std::optional<int32_t> bos, eos, unk;
  std::vector<int32_t> end_ids;  // other ids that end a text (end of turn, end of message)
  bool add_bos = true, add_eos = false, add_space_prefix = true;

  bool IsEnd(int32_t id) const;                         // whether generation stops at this token
  absl::StatusOr<std::vector<int32_t>> EndIds() const;  // those tokens
};

class Tokenizer {
 public:
  static absl::StatusOr<Tokenizer> Create(TokenizerData data);

  Tokenizer(Tokenizer&&) = default;
  Tokenizer& operator=(Tokenizer&&) = default;

  // `special`: bos and eos are added as the file says, and control tokens are read in the text.
  // Any bytes are text: invalid UTF-8 and NUL become byte tokens.
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, bool special) const;

  int32_t vocab_size() const { return static_cast<int32_t>(data_.tokens.size()); }
  const TokenizerData& data() const { return data_; }
  bool IsEnd(int32_t id) const { return data_.IsEnd(id); }
  // The bytes that a token prints: none for control, unknown and unused tokens and for ids out of range.
  absl::string_view Piece(int32_t id) const {
    return id < 0 || id >= vocab_size() ? absl::string_view() : pieces_[static_cast<size_t>(id)];
  }
  size_t max_piece_bytes() const { return max_piece_bytes_; }

 private:
  struct Fragment {
    absl::string_view text;  // when id is negative
    int32_t id;
  };

  Tokenizer() = default;
  std::vector<Fragment> Split(absl::string_view text, bool special) const;
  void EncodeText(absl::string_view text, std::vector<int32_t>& ids) const;
  void AddPiece(absl::string_view token, TokenType type);
  TokenType type(int32_t id) const { return static_cast<TokenType>(data_.types[static_cast<size_t>(id)]); }
  // The place of a token's id in slots_, or the free one where it would stand.
  size_t SlotOf(absl::string_view text) const;
  int32_t Find(absl::string_view text) const { return slots_[SlotOf(text)]; }  // -1 when no token

  TokenizerData data_;
  std::vector<int32_t> slots_;  // a hash table of ids by their text: a power of two of places, -1 where free
  size_t max_token_bytes_ = 0, max_piece_bytes_ = 0;
  int32_t byte_ids_[256];
  TextList pieces_;                    // what each token prints
  std::vector<size_t> special_sizes_;  // distinct lengths in bytes of the tokens of step 1, longest first
  std::bitset<256> special_starts_;    // their first bytes
};

// Prints tokens as they come, as valid UTF-8: the bytes of an unfinished character are held back until the rest comes,
// and what can never become a character is printed as U+FFFD. Nothing is allocated after Create.
class TokenStream {
 public:
  // `at_start`: the tokens begin a text, so that the space that Encode put in front of it is not printed; otherwise
  // they continue a prompt and are printed as they are. The tokenizer must outlive the stream.
  static absl::StatusOr<TokenStream> Create(const Tokenizer& tokenizer, bool at_start);

  // The text that `id` completes. Valid until the next call.
  absl::string_view Append(int32_t id);
  // What is still held back, as U+FFFD; then the stream is as good as new, but not at the start of a text.
  absl::string_view Finish();

 private:
  TokenStream(const Tokenizer& tokenizer, bool at_start);
  absl::string_view Drain(bool finish);

  const Tokenizer* tokenizer_;
  bool strip_space_;
  std::string pending_, out_;  // reserved for the longest piece
};

}  // namespace sinter
