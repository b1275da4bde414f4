// The token ids that a verb is given, as text (-p), as a file of text (-f; - is stdin) or as themselves (--prompt-ids),
// and the windows in which perplexity and compare read them. Flags that run shares with these two are declared here.
//
// The protocol of windows is that of llama.cpp's llama-perplexity, so that figures can be compared:
//   - text becomes ids without reading control tokens in it, with bos in front where the vocabulary adds one;
//   - ids are cut into windows of --window each (default 512, at most the context; all of them where they are fewer);
//     what is left at the end is not read;
//   - where the vocabulary adds a bos, it takes the place of the first id of every window; --prompt-ids stay as they
//     are;
//   - each window is read from an empty context, and a position counts from half of the window on (--count=half) or
//     from the first (--count=all), the last one excepted, whose next token lies outside.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tools/json.h"
#include "tools/language_model.h"

namespace sinter {

struct PromptFlags {
  std::optional<std::string> text, file, ids;
};
void AddPromptFlags(CLI::App& app, PromptFlags& flags, const std::string& what);
// -p and -f alone.
void AddTextFlags(CLI::App& app, PromptFlags& flags, const std::string& what);

// What was given: text, empty without flags, or at least one id.
struct Prompt {
  std::string text;
  std::vector<int32_t> ids;
};
// kOutOfRange when more than one is given, or what are no ids; the errors of reading the file.
absl::StatusOr<Prompt> ReadPrompt(const PromptFlags& flags);

// At least one id. `special`: special tokens are added as the vocabulary says, and read in the text. kOutOfRange
// without ids; the tokenizer's error, and what to do, where there is none.
absl::StatusOr<std::vector<int32_t>> PromptIds(const Prompt& prompt, const std::string& model,
                                               const absl::StatusOr<Tokenizer>& tokenizer, bool special);

struct WindowFlags {
  int64_t window = 0;  // 0: the default
  std::string count = "half";
};
void AddWindowFlags(CLI::App& app, WindowFlags& flags);

// What is read, and how.
struct Windows {
  std::vector<int32_t> ids;    // windows one after another, nothing else
  int64_t text_tokens = 0;     // what there was
  int64_t window = 0;          // ids of each
  int64_t first = 0;           // the first position that counts
  std::optional<int32_t> bos;  // that begins each window

  int64_t count() const { return static_cast<int64_t>(ids.size()) / window; }
  int64_t positions() const { return count() * (window - 1 - first); }
};
// What a report says of them.
Json ToJson(const Windows& windows, const WindowFlags& flags);
// `capacity`: positions of the context; `more`: what MoreContext says of it. kOutOfRange when the text is too short for
// two positions that count, or for the window that is asked for, or that window for the context.
absl::StatusOr<Windows> PromptWindows(const Prompt& prompt, const WindowFlags& flags, const std::string& model,
                                      const absl::StatusOr<Tokenizer>& tokenizer, int64_t capacity,
                                      const std::string& more);

// Rows of logits, one of each source, the token that comes next, and the place of the row's own among Windows::ids.
using VisitLogits =
    std::function<absl::Status(absl::Span<const absl::Span<const float>> rows, size_t next, size_t position)>;
// Feeds the windows to all sources and visits every position that counts. Holds the logits of one step of each source
// at a time; shows its progress on a terminal. Seconds that the sources took.
absl::StatusOr<double> WalkWindows(const Windows& windows, absl::Span<LogitsSource* const> sources,
                                   const VisitLogits& visit);

}  // namespace sinter
