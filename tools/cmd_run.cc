// sinter run: a model continues a prompt.
#include <cstdio>
#include <optional>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "runtime/generate.h"
#include "tools/command.h"
#include "tools/compile_flags.h"
#include "tools/console.h"
#include "tools/language_model.h"
#include "tools/npy.h"
#include "tools/prompt.h"

namespace sinter {
namespace {

struct RunFlags {
  std::string model;
  PromptFlags prompt;
  int64_t tokens = 128;
  SamplerOptions sampler;
  std::optional<uint64_t> seed;
  bool ignore_eos = false, print_ids = false;
  RunningFlags running;
  std::string logits, command;
  CompileFlags compile;
};

// What Generator's callback writes: text, or ids alone.
struct Output {
  bool ids;
  bool first = true;
};

bool Write(void* context, int32_t id, absl::string_view text) {
  Output& output = *static_cast<Output*>(context);
  if (output.ids) {
    if (id >= 0) std::printf(output.first ? "%d" : " %d", id);
    output.first = false;
    std::fflush(stdout);
    return std::ferror(stdout) == 0;
  }
  if (!text.empty()) std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  return std::ferror(stdout) == 0;
}

absl::Status WriteLogits(const RunFlags& flags, const LanguageModel& model, absl::Span<const int32_t> prompt) {
  const int64_t rows = static_cast<int64_t>(prompt.size()), columns = model.workspace->vocabulary();
  MemoryNeed need;
  need.other_bytes = rows * columns * static_cast<int64_t>(sizeof(float));
  SINTER_RETURN_IF_ERROR(CheckMemory(flags.model, need, MemoryLimits(), "", {&model.need, 1}));
  std::vector<float> logits(static_cast<size_t>(rows * columns));
  SINTER_RETURN_IF_ERROR(model.workspace->Prefill(*model.sequence, prompt, absl::MakeSpan(logits)));
  SINTER_RETURN_IF_ERROR(WriteNpy(flags.logits, logits, {rows, columns}));
  return model.sequence->Truncate(0);
}

absl::Status Run(RunFlags& flags) {
  SINTER_ASSIGN_OR_RETURN(const Prompt given, ReadPrompt(flags.prompt));
  SINTER_RETURN_IF_ERROR(Sampler::Create(flags.sampler, /*vocab_size=*/1).status());
  SINTER_RETURN_IF_ERROR(CheckOutput(flags.logits, OutputForm::kBytes, {flags.model, flags.prompt.file.value_or("")}));
  SINTER_RETURN_IF_ERROR(ChooseThreads(flags.running));
  SINTER_ASSIGN_OR_RETURN(const LanguageModel model,
                          OpenLanguageModel(flags.model, flags.compile, flags.running, flags.command));
  const absl::StatusOr<Tokenizer>& tokenizer = model.tokenizer;
  Workspace& workspace = *model.workspace;
  Sequence& sequence = *model.sequence;
  SINTER_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt,
                          PromptIds(given, flags.model, tokenizer, /*special=*/true));
  if (static_cast<int64_t>(prompt.size()) > sequence.capacity()) {
    return absl::OutOfRangeError(absl::StrCat("the prompt has ", prompt.size(), " tokens, the context ",
                                              sequence.capacity(), "; shorten it",
                                              MoreContext(*model.module, flags.model)));
  }
  if (!flags.logits.empty()) SINTER_RETURN_IF_ERROR(WriteLogits(flags, model, prompt));
  if (flags.tokens == 0) return absl::OkStatus();

  SamplerOptions options = flags.sampler;
  options.seed = flags.seed.value_or(std::random_device()() | uint64_t{std::random_device()()} << 32);
  if (!flags.seed && options.temperature > 0) Note(absl::StrCat("seed ", options.seed));
  SINTER_ASSIGN_OR_RETURN(Sampler sampler, Sampler::Create(options, static_cast<int32_t>(workspace.vocabulary())));
  std::optional<TokenStream> stream;
  if (tokenizer.ok()) {
    SINTER_ASSIGN_OR_RETURN(stream, TokenStream::Create(*tokenizer, /*at_start=*/false));
  } else if (!flags.print_ids) {
    Note(absl::StrCat("printing ids: ", tokenizer.status().message()));
  }
  SINTER_ASSIGN_OR_RETURN(Generator generator,
                          Generator::Create(workspace, sequence, sampler, model.end_ids, stream ? &*stream : nullptr));
  SINTER_RETURN_IF_ERROR(generator.Prefill(prompt));
  Output output{flags.print_ids || !tokenizer.ok()};
  SINTER_ASSIGN_OR_RETURN(
      const StopReason reason,
      generator.Generate({.max_tokens = flags.tokens, .ignore_end = flags.ignore_eos}, Write, &output));
  std::printf("\n");
  SINTER_RETURN_IF_ERROR(FlushStdout());
  if (reason == StopReason::kContextFull) {
    Note(absl::StrCat("stopped: the context of ", sequence.capacity(), " positions is full",
                      MoreContext(*model.module, flags.model)));
  }
  return absl::OkStatus();
}

}  // namespace

void AddRun(CLI::App& program, Action& action) {
  auto flags = std::make_shared<RunFlags>();
  CLI::App* verb = program.add_subcommand("run", "Continue a prompt");
  verb->add_option("MODEL", flags->model, "A .gguf, a .sinter, or preset:NAME")->required();
  AddPromptFlags(*verb, flags->prompt, "prompt");
  verb->add_option("-n", flags->tokens, "Tokens to generate")->type_name("N")->check(AtLeast(0))->capture_default_str();
  verb->add_option("--temp", flags->sampler.temperature, "Temperature; 0 always takes the likeliest token")
      ->type_name("F")
      ->check(FiniteFrom(0))
      ->capture_default_str();
  verb->add_option("--top-k", flags->sampler.top_k, "Keep the K likeliest tokens; 0 keeps all")
      ->type_name("N")
      ->check(AtLeast(0))
      ->capture_default_str();
  verb->add_option("--top-p", flags->sampler.top_p, "Keep the likeliest tokens that together reach this probability")
      ->type_name("F")
      ->check(FiniteFrom(0))
      ->capture_default_str();
  verb->add_option("--min-p", flags->sampler.min_p, "Keep tokens at least this likely relative to the likeliest")
      ->type_name("F")
      ->check(FiniteFrom(0))
      ->capture_default_str();
  verb->add_option("--repeat-penalty", flags->sampler.repeat_penalty, "Penalty on the last 64 tokens; 1 is none")
      ->type_name("F")
      ->check(FiniteFrom(0))
      ->capture_default_str();
  verb->add_option("--seed", flags->seed, "Seed of the sampler (default: random, and printed)")
      ->type_name("N")
      ->check(Unsigned());
  verb->add_flag("--ignore-eos", flags->ignore_eos, "Go on after an end token");
  verb->add_flag("--print-ids", flags->print_ids, "Print token ids, separated by spaces, in place of text");
  verb->add_option("--logits", flags->logits,
                   "Write the logits of every position of the prompt: float32 [positions, vocabulary]")
      ->type_name("OUT.npy");
  AddRunningFlags(*verb, flags->running);
  AddCompileFlags(*verb, flags->compile);
  verb->callback([flags, &action] {
    flags->command = action.command_line;
    action.run = [flags] { return Run(*flags); };
  });
}

}  // namespace sinter
