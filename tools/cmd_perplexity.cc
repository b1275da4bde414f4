// sinter perplexity: how well a model predicts a text. What is read and which positions count: tools/prompt.h; the
// formulas: tools/divergence.h.

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "tools/command.h"
#include "tools/compile_flags.h"
#include "tools/console.h"
#include "tools/divergence.h"
#include "tools/json.h"
#include "tools/language_model.h"
#include "tools/prompt.h"

namespace sinter {
namespace {

struct PerplexityFlags {
  std::string model, format = "md", command;
  PromptFlags prompt;
  WindowFlags window;
  RunningFlags running;
  CompileFlags compile;
};

absl::Status Perplexity(PerplexityFlags& flags) {
  SINTER_ASSIGN_OR_RETURN(const Prompt prompt, ReadPrompt(flags.prompt));
  SINTER_RETURN_IF_ERROR(ChooseThreads(flags.running));
  SINTER_ASSIGN_OR_RETURN(LanguageModel model,
                          OpenLanguageModel(flags.model, flags.compile, flags.running, flags.command));
  SINTER_ASSIGN_OR_RETURN(const Windows windows,
                          PromptWindows(prompt, flags.window, flags.model, model.tokenizer, model.sequence->capacity(),
                                        MoreContext(*model.module, flags.model)));
  const std::unique_ptr<LogitsSource> source = LogitsOf(model);
  LogitsSource* const sources[] = {source.get()};
  RunningMean nll;
  SINTER_ASSIGN_OR_RETURN(const double seconds,
                          WalkWindows(windows, sources, [&](auto rows, size_t next, size_t position) {
                            const absl::StatusOr<LogitsRow> row = UnderstandLogits(rows[0]);
                            if (!row.ok()) return AtPosition(flags.model, position, row.status());
                            nll.Add(-row->LogProbability(next));
                            return absl::OkStatus();
                          }));
  const Estimate perplexity = Exponential(nll);
  const double tokens_per_s = static_cast<double>(windows.ids.size()) / seconds;
  if (flags.format == "json") {
    Json json = {{"model", flags.model},
                 {"flags", model.module->metadata().options()->str()},
                 {"target", std::string(model.module->target())},
                 {"threads", flags.running.threads}};
    json.update(ToJson(windows, flags.window));
    json.update(Json{{"positions", nll.count()},
                     {"perplexity", perplexity.value},
                     {"perplexity_error", perplexity.error},
                     {"nll", nll.mean()},
                     {"nll_error", nll.error()},
                     {"tokens_per_s", tokens_per_s}});
    return WriteResult("", JsonText(json));
  }
  return WriteResult(
      "", absl::StrFormat("| model | window | windows | positions | perplexity | error | nll | error | tokens/s |\n"
                          "|---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
                          "| %s | %d | %d | %d | %.4f | %.4f | %.5f | %.5f | %.1f |\n",
                          MarkdownCell(flags.model), windows.window, windows.count(), nll.count(), perplexity.value,
                          perplexity.error, nll.mean(), nll.error(), tokens_per_s));
}

}  // namespace

void AddPerplexity(CLI::App& program, Action& action) {
  auto flags = std::make_shared<PerplexityFlags>();
  CLI::App* verb = program.add_subcommand("perplexity", "Say how well a model predicts a text");
  verb->add_option("MODEL", flags->model, "A .gguf, a .sinter, or preset:NAME")->required();
  AddPromptFlags(*verb, flags->prompt, "text");
  AddWindowFlags(*verb, flags->window);
  AddReportFormat(*verb, flags->format);
  AddRunningFlags(*verb, flags->running);
  AddCompileFlags(*verb, flags->compile);
  verb->footer(
      "perplexity is exp(nll), nll the mean of -log p(next token) over the positions that count; error is the "
      "standard\n"
      "error, positions taken as independent. The text is cut into windows of --window tokens, each read from an "
      "empty\n"
      "context; what is left at its end is not read. Control tokens in the text are text. Where the vocabulary puts a\n"
      "bos in front of texts, one begins the text and takes the place of the first token of every window;\n"
      "--prompt-ids are read as they are. With the defaults (--window=512 --count=half) the figures compare with "
      "those\n"
      "of llama.cpp's llama-perplexity. tokens_per_s counts all tokens that were read. Memory holds the logits of\n"
      "one step, at most --chunk positions.");
  verb->callback([flags, &action] {
    flags->command = action.command_line;
    action.run = [flags] { return Perplexity(*flags); };
  });
}

}  // namespace sinter
