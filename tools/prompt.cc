#include "tools/prompt.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"
#include "tools/console.h"

namespace sinter {
namespace {

constexpr int64_t kDefaultWindow = 512;

absl::StatusOr<std::vector<int32_t>> ParseIds(const std::string& text) {
  std::vector<int32_t> ids;
  for (absl::string_view part : absl::StrSplit(text, absl::ByAnyChar(", \n"), absl::SkipWhitespace())) {
    int32_t id;
    if (!absl::SimpleAtoi(part, &id))
      return absl::OutOfRangeError(absl::StrCat("--prompt-ids: \"", part, "\" is no token id"));
    ids.push_back(id);
  }
  return ids;
}

absl::Status EmptyPrompt() {
  return absl::OutOfRangeError("the prompt is empty: give one with -p, -f or --prompt-ids");
}

int64_t FirstCounted(const WindowFlags& flags, int64_t window) { return flags.count == "half" ? window / 2 : 0; }

// A mean of one value has no error.
constexpr int64_t kLeastPositions = 2;

// The shortest window in which so many positions count.
int64_t LeastWindow(const WindowFlags& flags) {
  int64_t window = 1;
  while (window - 1 - FirstCounted(flags, window) < kLeastPositions) ++window;
  return window;
}

}  // namespace

void AddTextFlags(CLI::App& app, PromptFlags& flags, const std::string& what) {
  AddText(app, "-p,--prompt", flags.text, absl::StrCat("The ", what, ", byte for byte"))->type_name("TEXT");
  AddText(app, "-f,--file", flags.file, absl::StrCat("A file with the ", what, ", byte for byte; - is stdin"))
      ->type_name("FILE");
}

void AddPromptFlags(CLI::App& app, PromptFlags& flags, const std::string& what) {
  AddTextFlags(app, flags, what);
  AddText(app, "--prompt-ids", flags.ids, absl::StrCat("The ", what, " as token ids: 1,2,3; nothing is added to them"))
      ->type_name("IDS");
}

absl::StatusOr<Prompt> ReadPrompt(const PromptFlags& flags) {
  if (flags.text.has_value() + flags.file.has_value() + flags.ids.has_value() > 1) {
    return absl::OutOfRangeError("give one of -p, -f and --prompt-ids");
  }
  Prompt prompt;
  if (flags.ids) {
    SINTER_ASSIGN_OR_RETURN(prompt.ids, ParseIds(*flags.ids));
    if (prompt.ids.empty()) return EmptyPrompt();
  } else if (flags.file) {
    SINTER_ASSIGN_OR_RETURN(prompt.text, ReadFile(InputPath(*flags.file)));
  } else {
    prompt.text = flags.text.value_or("");
  }
  return prompt;
}

absl::StatusOr<std::vector<int32_t>> PromptIds(const Prompt& prompt, const std::string& model,
                                               const absl::StatusOr<Tokenizer>& tokenizer, bool special) {
  if (!prompt.ids.empty()) return prompt.ids;
  if (!tokenizer.ok()) {
    return absl::Status(tokenizer.status().code(), absl::StrCat(model, ": ", tokenizer.status().message(),
                                                                "; give the prompt as token ids with --prompt-ids"));
  }
  SINTER_ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer->Encode(prompt.text, special));
  if (ids.empty()) return EmptyPrompt();
  return ids;
}

void AddWindowFlags(CLI::App& app, WindowFlags& flags) {
  app.add_option("--window", flags.window,
                 "Tokens that are read at once, from an empty context (default: 512, at most the context; all of the "
                 "text where it has fewer)")
      ->type_name("N")
      ->check(AtLeast(1));
  app.add_option("--count", flags.count,
                 "Which positions of a window count: half (those of its second half) or all; never the last one, whose "
                 "next token lies outside")
      ->type_name("WHICH")
      ->check(CLI::IsMember({"half", "all"}))
      ->capture_default_str();
}

Json ToJson(const Windows& windows, const WindowFlags& flags) {
  return {{"text_tokens", windows.text_tokens},
          {"window", windows.window},
          {"windows", windows.count()},
          {"bos", windows.bos ? Json(*windows.bos) : Json()},
          {"count", flags.count}};
}

absl::StatusOr<Windows> PromptWindows(const Prompt& prompt, const WindowFlags& flags, const std::string& model,
                                      const absl::StatusOr<Tokenizer>& tokenizer, int64_t capacity,
                                      const std::string& more) {
  Windows windows;
  SINTER_ASSIGN_OR_RETURN(windows.ids, PromptIds(prompt, model, tokenizer, /*special=*/false));
  if (prompt.ids.empty() && tokenizer->data().add_bos && tokenizer->data().bos) {
    windows.bos = tokenizer->data().bos;
    windows.ids.insert(windows.ids.begin(), *windows.bos);
  }
  windows.text_tokens = static_cast<int64_t>(windows.ids.size());
  const int64_t least = LeastWindow(flags);
  if (flags.window > capacity) {
    return absl::OutOfRangeError(absl::StrCat("--window: ", flags.window, " tokens, but the context has ", capacity,
                                              " positions; give fewer", more));
  }
  if (flags.window != 0 && flags.window < least) {
    return absl::OutOfRangeError(absl::StrCat("--window: ", flags.window, " tokens, expected at least ", least,
                                              ": with --count=", flags.count, " fewer than two positions would count"));
  }
  windows.window = flags.window != 0 ? flags.window : std::min({kDefaultWindow, capacity, windows.text_tokens});
  if (windows.text_tokens < std::max(least, flags.window)) {
    return absl::OutOfRangeError(
        absl::StrCat("the text has ", windows.text_tokens, " tokens, expected at least ", std::max(least, flags.window),
                     flags.window > least ? ", the window; give more text or a smaller --window" : "; give more text"));
  }
  if (windows.window < least) {
    return absl::OutOfRangeError(
        absl::StrCat("the context has ", capacity, " positions, expected at least ", least, more));
  }
  windows.first = FirstCounted(flags, windows.window);
  windows.ids.resize(static_cast<size_t>(windows.text_tokens / windows.window * windows.window));
  if (windows.bos) {
    for (size_t i = 0; i < windows.ids.size(); i += static_cast<size_t>(windows.window)) windows.ids[i] = *windows.bos;
  }
  return windows;
}

absl::StatusOr<double> WalkWindows(const Windows& windows, absl::Span<LogitsSource* const> sources,
                                   const VisitLogits& visit) {
  using Clock = std::chrono::steady_clock;
  const size_t window = static_cast<size_t>(windows.window), vocabulary = static_cast<size_t>(sources[0]->vocabulary());
  for (int32_t id : windows.ids) {
    if (id >= 0 && static_cast<size_t>(id) < vocabulary) continue;
    return absl::OutOfRangeError(absl::StrCat("token ", id, " is outside the vocabulary of ", vocabulary));
  }
  size_t step = window;
  for (const LogitsSource* source : sources) step = std::min(step, static_cast<size_t>(source->most()));
  std::vector<std::vector<float>> logits(sources.size());
  std::vector<absl::Span<const float>> rows(sources.size());
  ProgressLine progress;
  double seconds = 0;
  for (size_t start = 0; start < windows.ids.size(); start += window) {
    const absl::Span<const int32_t> ids = absl::MakeConstSpan(windows.ids).subspan(start, window);
    for (LogitsSource* source : sources) SINTER_RETURN_IF_ERROR(source->Restart());
    for (size_t begin = 0; begin < window; begin += step) {
      const absl::Span<const int32_t> part = ids.subspan(begin, step);
      const size_t first = static_cast<size_t>(windows.first);
      const size_t skip = std::min(part.size(), first > begin ? first - begin : 0);
      const auto taking = Clock::now();
      for (size_t i = 0; i < sources.size(); ++i) {
        logits[i].resize((part.size() - skip) * vocabulary);
        SINTER_RETURN_IF_ERROR(sources[i]->Take(part, skip, absl::MakeSpan(logits[i])));
      }
      seconds += std::chrono::duration<double>(Clock::now() - taking).count();
      for (size_t at = skip; at < part.size() && begin + at + 1 < window; ++at) {
        for (size_t i = 0; i < sources.size(); ++i) {
          rows[i] = absl::MakeConstSpan(logits[i]).subspan((at - skip) * vocabulary, vocabulary);
        }
        SINTER_RETURN_IF_ERROR(visit(rows, static_cast<size_t>(ids[begin + at + 1]), start + begin + at));
      }
      progress.Update("token", static_cast<int64_t>(start + begin + part.size()),
                      static_cast<int64_t>(windows.ids.size()));
    }
  }
  return seconds;
}

}  // namespace sinter
