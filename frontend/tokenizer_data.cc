#include "frontend/tokenizer_data.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/limits.h"
#include "base/status.h"

namespace sinter {
namespace {

// Tokens that end a text whatever the file calls them: files often name one end token and models use another.
// They are control tokens even when a file says otherwise. From llama.cpp's list.
constexpr absl::string_view kEndTokens[] = {
    "</s>",    "<eos>",         "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>",
    "<|end|>", "<end_of_turn>", "<EOT>",         "_<EOT>",          "[EOT]",      "[EOS]",      "<end_of_utterance>",
};

// Kinds, with what holds when a file does not say. -1: no such token.
struct Kind {
  absl::string_view name;
  int32_t bos, eos, unk;
  bool add_bos, add_space_prefix;
};
constexpr Kind kKinds[] = {
    {"llama", 1, 2, 0, true, true}, {"", -1, -1, -1, false, false},  // any other
};

}  // namespace

absl::StatusOr<TokenizerData> ReadTokenizerData(const Gguf& gguf) {
  TokenizerData data;
  data.kind = "none";
  if (!gguf.Has("tokenizer.ggml.model")) return data;
  SINTER_ASSIGN_OR_RETURN(const absl::string_view kind, gguf.GetString("tokenizer.ggml.model"));
  if (kind == "none" || kind == "no_vocab") return data;
  data.kind.assign(kind.data(), kind.size());
  const Kind& defaults =
      *std::find_if(std::begin(kKinds), std::end(kKinds) - 1, [kind](const Kind& row) { return row.name == kind; });

  constexpr char kTokens[] = "tokenizer.ggml.tokens", kScores[] = "tokenizer.ggml.scores",
                 kTypes[] = "tokenizer.ggml.token_type";
  if (const GgufKey* key = gguf.FindKey(kTokens); key != nullptr && limits::kVocabulary.Exceeded(key->count)) {
    return gguf.KeyError(kTokens, absl::StrCat(key->count, " tokens: ", limits::kVocabulary.Text()));
  }
  SINTER_ASSIGN_OR_RETURN(const std::vector<absl::string_view> tokens, gguf.GetStringArray(kTokens));
  if (tokens.empty()) return gguf.KeyError(kTokens, "no tokens");
  for (absl::string_view token : tokens) data.tokens.push_back(token);
  // Before an array is decoded: it may be many times larger than the vocabulary.
  auto check_size = [&](absl::string_view key) {
    const uint64_t size = gguf.FindKey(key)->count;
    if (!gguf.FindKey(key)->is_array || size == tokens.size()) return absl::OkStatus();
    return gguf.KeyError(key, absl::StrCat(size, " elements for ", tokens.size(), " tokens"));
  };
  if (gguf.Has(kScores)) {
    SINTER_RETURN_IF_ERROR(check_size(kScores));
    SINTER_ASSIGN_OR_RETURN(data.scores, gguf.GetFloatArray(kScores));
  }
  if (gguf.Has(kTypes)) {
    SINTER_RETURN_IF_ERROR(check_size(kTypes));
    SINTER_ASSIGN_OR_RETURN(const std::vector<int64_t> types, gguf.GetIntArray(kTypes));
    for (int64_t type : types) {
      if (type < 0 || type > static_cast<int64_t>(TokenType::kByte)) {
        return gguf.KeyError(kTypes, absl::StrCat("token ", data.types.size(), " has type ", type, ", expected 0 to ",
                                                  static_cast<int64_t>(TokenType::kByte)));
      }
      data.types.push_back(static_cast<int32_t>(type));
    }
  }

  const auto max_id = static_cast<uint64_t>(tokens.size() - 1);
  auto read_id = [&](absl::string_view key, int32_t fallback) -> absl::StatusOr<std::optional<int32_t>> {
    if (!gguf.Has(key)) {
      if (fallback < 0 || static_cast<uint64_t>(fallback) > max_id) return std::optional<int32_t>();
      return fallback;
    }
    SINTER_ASSIGN_OR_RETURN(const uint64_t id, gguf.GetUint(key, 0, max_id));
    return static_cast<int32_t>(id);
  };
  SINTER_ASSIGN_OR_RETURN(data.bos, read_id("tokenizer.ggml.bos_token_id", defaults.bos));
  SINTER_ASSIGN_OR_RETURN(data.eos, read_id("tokenizer.ggml.eos_token_id", defaults.eos));
  SINTER_ASSIGN_OR_RETURN(data.unk, read_id("tokenizer.ggml.unknown_token_id", defaults.unk));
  for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    SINTER_ASSIGN_OR_RETURN(const std::optional<int32_t> id, read_id(key, -1));
    if (id) data.end_ids.push_back(*id);
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (std::find(std::begin(kEndTokens), std::end(kEndTokens), tokens[i]) == std::end(kEndTokens)) continue;
    data.end_ids.push_back(static_cast<int32_t>(i));
    if (!data.types.empty()) data.types[i] = static_cast<int32_t>(TokenType::kControl);
  }

  auto read_flag = [&](absl::string_view key, bool fallback) -> absl::StatusOr<bool> {
    if (!gguf.Has(key)) return fallback;
    return gguf.GetBool(key);
  };
  SINTER_ASSIGN_OR_RETURN(data.add_bos, read_flag("tokenizer.ggml.add_bos_token", defaults.add_bos && data.bos));
  SINTER_ASSIGN_OR_RETURN(data.add_eos, read_flag("tokenizer.ggml.add_eos_token", false));
  SINTER_ASSIGN_OR_RETURN(data.add_space_prefix,
                          read_flag("tokenizer.ggml.add_space_prefix", defaults.add_space_prefix));
  return data;
}

}  // namespace sinter
