// sinter compare: how far the predictions of two models lie apart on the same tokens, which is the price of a quantized
// format, of --kv, or of --precision. What is read and which positions count: tools/prompt.h; the formulas:
// tools/divergence.h.
#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/escape.h"
#include "base/status.h"
#include "tools/command.h"
#include "tools/compile_flags.h"
#include "tools/compile_source.h"
#include "tools/console.h"
#include "tools/divergence.h"
#include "tools/json.h"
#include "tools/language_model.h"
#include "tools/prompt.h"

namespace sinter {
namespace {

struct CompareFlags {
  std::string a, b, a_flags, b_flags, format = "md", command;
  PromptFlags prompt;
  WindowFlags window;
  std::optional<double> max_kl;
  RunningFlags running;
  CompileFlags compile;
};

// One of the two: a model, or logits from a file.
struct Side {
  std::string path;
  std::optional<LanguageModel> model;
  std::unique_ptr<LogitsSource> source;

  std::string target() const { return model ? std::string(model->module->target()) : ""; }
  std::string flags() const { return model ? model->module->metadata().options()->str() : ""; }
};

// `side` stays where it is while its source lives.
absl::Status OpenSide(const CompareFlags& flags, const std::string& path, const std::string& name,
                      const std::string& own_flags, const CompileFlags& compile, const LanguageModel* beside,
                      Side& side) {
  side.path = path;
  if (IsArray(path)) {
    if (!own_flags.empty()) {
      return absl::OutOfRangeError(absl::StrCat(name, ": ", path, " is an array of logits, which no flag shapes"));
    }
    SINTER_ASSIGN_OR_RETURN(side.source, LogitsOfFile(path));
    return absl::OkStatus();
  }
  if (IsCompiled(path) && !own_flags.empty() &&
      (compile.target == flags.compile.target || compile.Canonical() != flags.compile.Canonical())) {
    return absl::OutOfRangeError(absl::StrCat(
        name, ": ", path, " is compiled already: of flags, only another --target ", "makes a difference to it"));
  }
  SINTER_ASSIGN_OR_RETURN(side.model, OpenLanguageModel(path, compile, flags.running, flags.command, beside));
  side.source = LogitsOf(*side.model);
  return absl::OkStatus();
}

// An array holds a row for each id of one window, and nothing else.
absl::Status CheckArray(const Side& side, const Windows& windows) {
  if (side.model) return absl::OkStatus();
  const int64_t rows = side.source->capacity();
  if (rows == windows.text_tokens && windows.count() == 1 && windows.window == rows) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat(side.path, ": logits of ", rows, " positions, but ", windows.text_tokens,
                                            " tokens in ", windows.count(), " windows of ", windows.window,
                                            "; give as many tokens as there are positions, and --window=", rows));
}

Json ToJson(const CompareFlags& flags, const Side& a, const Side& b, const Windows& windows,
            const DivergenceSummary& s) {
  Json json = {{"a", {{"model", a.path}, {"target", a.target()}, {"flags", a.flags()}}},
               {"b", {{"model", b.path}, {"target", b.target()}, {"flags", b.flags()}}},
               {"threads", flags.running.threads}};
  json.update(ToJson(windows, flags.window));
  json.update(Json{{"positions", s.positions},
                   {"kl", s.kl.value},
                   {"kl_error", s.kl.error},
                   {"kl_median", s.kl_median},
                   {"kl_p99", s.kl_p99},
                   {"kl_max", s.kl_max},
                   {"top1_percent", 100 * s.top1.value},
                   {"top1_percent_error", 100 * s.top1.error},
                   {"perplexity_a", s.perplexity_a.value},
                   {"perplexity_a_error", s.perplexity_a.error},
                   {"perplexity_b", s.perplexity_b.value},
                   {"perplexity_b_error", s.perplexity_b.error},
                   {"perplexity_ratio", s.perplexity_ratio.value},
                   {"perplexity_ratio_error", s.perplexity_ratio.error},
                   {"logits_rms", s.logits_rms},
                   {"logits_nmse", s.logits_nmse},
                   {"next_token_rms", s.next_token_rms}});
  return json;
}

std::string ToMarkdown(const Side& a, const Side& b, const Windows& windows, const DivergenceSummary& s) {
  std::string text;
  for (const Side* side : {&a, &b}) {
    absl::StrAppend(&text, side == &a ? "A: " : "B: ", Escaped(side->path));
    if (side->model) absl::StrAppend(&text, " on ", Escaped(side->target()), ", ", Escaped(side->flags()));
    absl::StrAppend(&text, "\n");
  }
  absl::StrAppendFormat(&text, "%d positions; windows of %d tokens: %d\n\n", s.positions, windows.window,
                        windows.count());
  absl::StrAppend(&text, "| figure | value | error |\n|---|--:|--:|\n");
  const auto estimate = [&](const char* name, const Estimate& e, double scale = 1) {
    absl::StrAppendFormat(&text, "| %s | %.6g | %.2g |\n", name, scale * e.value, scale * e.error);
  };
  const auto plain = [&](const char* name, double value) {
    absl::StrAppendFormat(&text, "| %s | %.6g | |\n", name, value);
  };
  estimate("KL(A\\|\\|B), mean", s.kl);
  plain("KL(A\\|\\|B), median", s.kl_median);
  plain("KL(A\\|\\|B), 99 %", s.kl_p99);
  plain("KL(A\\|\\|B), largest", s.kl_max);
  estimate("same likeliest token, %", s.top1, 100);
  estimate("perplexity of A", s.perplexity_a);
  estimate("perplexity of B", s.perplexity_b);
  estimate("perplexity, B / A", s.perplexity_ratio);
  plain("logits, RMS of the difference", s.logits_rms);
  plain("logits, NMSE", s.logits_nmse);
  plain("p(next token), RMS of the difference", s.next_token_rms);
  return text;
}

absl::Status Compare(CompareFlags& flags) {
  SINTER_ASSIGN_OR_RETURN(const Prompt prompt, ReadPrompt(flags.prompt));
  if (flags.b.empty()) {
    if (flags.a_flags == flags.b_flags) {
      return absl::OutOfRangeError(
          "compare with what? give a second model, or flags for one side, as in --b-flags=\"--precision=exact\"");
    }
    flags.b = flags.a;
  }
  constexpr char kAFlags[] = "--a-flags", kBFlags[] = "--b-flags";
  SINTER_ASSIGN_OR_RETURN(const CompileFlags a_compile, WithFlags(flags.compile, kAFlags, flags.a_flags));
  SINTER_ASSIGN_OR_RETURN(const CompileFlags b_compile, WithFlags(flags.compile, kBFlags, flags.b_flags));
  SINTER_RETURN_IF_ERROR(ChooseThreads(flags.running));
  Side a, b;
  SINTER_RETURN_IF_ERROR(OpenSide(flags, flags.a, kAFlags, flags.a_flags, a_compile, nullptr, a));
  SINTER_RETURN_IF_ERROR(OpenSide(flags, flags.b, kBFlags, flags.b_flags, b_compile, a.model ? &*a.model : nullptr, b));
  if (a.source->vocabulary() != b.source->vocabulary()) {
    return absl::OutOfRangeError(absl::StrCat(a.path, " has a vocabulary of ", a.source->vocabulary(), ", ", b.path,
                                              " one of ", b.source->vocabulary(),
                                              "; only models of the same vocabulary can be compared"));
  }
  const int64_t capacity = std::min(a.source->capacity(), b.source->capacity());
  const absl::StatusOr<Tokenizer> none = absl::UnimplementedError("an array of logits has no tokenizer");
  const Side& least = a.source->capacity() == capacity ? a : b;
  SINTER_ASSIGN_OR_RETURN(const Windows windows,
                          PromptWindows(prompt, flags.window, a.path, a.model ? a.model->tokenizer : none, capacity,
                                        least.model ? MoreContext(*least.model->module, least.path) : ""));
  for (const Side* side : {&a, &b}) SINTER_RETURN_IF_ERROR(CheckArray(*side, windows));
  LogitsSource* const sources[] = {a.source.get(), b.source.get()};
  Divergence divergence;
  SINTER_RETURN_IF_ERROR(WalkWindows(windows, sources, [&](auto rows, size_t next, size_t position) {
                           const absl::Status added = divergence.Add(rows[0], rows[1], next);
                           if (added.ok()) return added;
                           return AtPosition((UnderstandLogits(rows[0]).ok() ? b : a).path, position, added);
                         }).status());
  const DivergenceSummary summary = divergence.Summary();
  const std::string json = JsonText(ToJson(flags, a, b, windows, summary));
  SINTER_RETURN_IF_ERROR(WriteResult("", flags.format == "md" ? ToMarkdown(a, b, windows, summary) : json));
  if (!flags.max_kl || summary.kl.value <= *flags.max_kl) return absl::OkStatus();
  return absl::AbortedError(
      absl::StrCat("the mean KL divergence is ", summary.kl.value, ", more than --max-kl=", *flags.max_kl));
}

}  // namespace

void AddCompare(CLI::App& program, Action& action) {
  auto flags = std::make_shared<CompareFlags>();
  CLI::App* verb = program.add_subcommand("compare", "Say how far the predictions of two models lie apart");
  verb->add_option("A", flags->a, "The reference: a .gguf, a .sinter, preset:NAME, or logits as .npy")->required();
  verb->add_option("B", flags->b, "What is compared with it, likewise (default: A, under other flags)");
  verb->add_option("--a-flags", flags->a_flags, "Flags of A alone, of those that shape code")->type_name("\"FLAGS\"");
  verb->add_option("--b-flags", flags->b_flags,
                   "Flags of B alone, as in --b-flags=\"--precision=exact --kv=f32\"; all others are of both")
      ->type_name("\"FLAGS\"");
  AddPromptFlags(*verb, flags->prompt, "text");
  AddWindowFlags(*verb, flags->window);
  verb->add_option("--max-kl", flags->max_kl, "Exit with 1 where the mean of KL(A||B) is larger")
      ->type_name("NATS")
      ->check(FiniteFrom(0));
  AddReportFormat(*verb, flags->format);
  AddRunningFlags(*verb, flags->running);
  AddCompileFlags(*verb, flags->compile);
  verb->footer(
      "KL(A||B) is the sum of p_A * (log p_A - log p_B) over the vocabulary, in nats, of each position that counts.\n"
      "NMSE is the sum of (B - A)^2 over that of A^2, of all logits. p(next token) is of the token that the text goes\n"
      "on with. The error is the standard error of a mean, positions taken as independent; that of B / A is of paired\n"
      "positions. Tokens are those of A's tokenizer, read in windows as `sinter perplexity --help` says.\n"
      "An .npy holds the logits of every token in one window, as `run --logits` and other programs write them:\n"
      "float32 [positions, vocabulary].\n"
      "    sinter compare f16.gguf q4_0.gguf -f text.txt             the price of a quantized format\n"
      "    sinter compare m.gguf -f text.txt --a-flags=--kv=f32 --b-flags=--kv=q8_0             of a KV type\n"
      "    sinter compare m.gguf -f text.txt --a-flags=\"--precision=exact --kv=f32\" --b-flags=--precision=fast");
  verb->callback([flags, &action] {
    flags->command = action.command_line;
    action.run = [flags] { return Compare(*flags); };
  });
}

}  // namespace sinter
