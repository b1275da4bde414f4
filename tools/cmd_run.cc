// sinter run: a model continues a prompt.
#include <unistd.h>

#include <cstdio>
#include <optional>
#include <random>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/cpu.h"
#include "runtime/generate.h"
#include "tools/command.h"
#include "tools/compile_flags.h"
#include "tools/console.h"
#include "tools/npy.h"

namespace sinter {
namespace {

struct RunFlags {
  std::string model;
  std::optional<std::string> prompt, prompt_file, prompt_ids;
  int64_t tokens = 128;
  SamplerOptions sampler;
  std::optional<uint64_t> seed;
  bool ignore_eos = false, print_ids = false, perf_map = false;
  int threads = 0;
  std::string logits;
  CompileFlags compile;
};

absl::StatusOr<std::vector<int32_t>> ParseIds(const std::string& text) {
  std::vector<int32_t> ids;
  for (absl::string_view part : absl::StrSplit(text, absl::ByAnyChar(", \n"), absl::SkipWhitespace())) {
    int32_t id;
    if (!absl::SimpleAtoi(part, &id)) return absl::OutOfRangeError(absl::StrCat("--prompt-ids: \"", part, "\" is no token id"));
    ids.push_back(id);
  }
  return ids;
}

absl::StatusOr<std::vector<int32_t>> PromptIds(const RunFlags& flags, const Tokenizer* tokenizer, const absl::Status& why_none) {
  const int given = flags.prompt.has_value() + flags.prompt_file.has_value() + flags.prompt_ids.has_value();
  if (given > 1) return absl::OutOfRangeError("give one of -p, -f and --prompt-ids");
  std::vector<int32_t> ids;
  if (flags.prompt_ids) {
    SINTER_ASSIGN_OR_RETURN(ids, ParseIds(*flags.prompt_ids));
  } else {
    std::string text = flags.prompt.value_or("");
    if (flags.prompt_file) {
      SINTER_ASSIGN_OR_RETURN(text, ReadFile(*flags.prompt_file));
    }
    if (tokenizer == nullptr) return why_none;
    ids = tokenizer->Encode(text, /*special=*/true);
  }
  if (ids.empty()) return absl::OutOfRangeError("the prompt is empty: give one with -p, -f or --prompt-ids");
  return ids;
}

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
    return true;
  }
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  return std::ferror(stdout) == 0;
}

absl::Status Run(const RunFlags& flags) {
  SINTER_ASSIGN_OR_RETURN(std::shared_ptr<const CompiledModule> module, OpenExecutable(flags.model, flags.compile));
  absl::StatusOr<TokenizerData> data = module->tokenizer();
  std::optional<Tokenizer> tokenizer;
  absl::Status no_tokenizer = data.status();
  if (data.ok()) {
    absl::StatusOr<Tokenizer> made = Tokenizer::Create(*std::move(data));
    no_tokenizer = made.status();
    if (made.ok()) tokenizer = *std::move(made);
  }
  SINTER_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt, PromptIds(flags, tokenizer ? &*tokenizer : nullptr, no_tokenizer));

  const ThreadBudget budget = DefaultThreads();
  const int threads = flags.threads > 0 ? flags.threads : budget.threads;
  if (flags.threads == 0) Note(absl::StrCat(threads, threads == 1 ? " thread: " : " threads: ", budget.reason));
  SINTER_ASSIGN_OR_RETURN(std::unique_ptr<Workspace> workspace, Workspace::Open(module, threads));
  SINTER_ASSIGN_OR_RETURN(std::unique_ptr<Sequence> sequence, Sequence::Open(module));
  if (static_cast<int64_t>(prompt.size()) > sequence->capacity()) {
    return absl::OutOfRangeError(absl::StrCat("the prompt has ", prompt.size(), " tokens, the context ", sequence->capacity(),
                                              "; shorten it, or give more with --ctx=N"));
  }
  if (!flags.logits.empty()) {
    const int64_t rows = static_cast<int64_t>(prompt.size()), columns = workspace->vocabulary();
    std::vector<float> logits(static_cast<size_t>(rows * columns));
    SINTER_RETURN_IF_ERROR(workspace->Prefill(*sequence, prompt, absl::MakeSpan(logits)));
    SINTER_RETURN_IF_ERROR(WriteNpy(flags.logits, logits, {rows, columns}));
    SINTER_RETURN_IF_ERROR(sequence->Truncate(0));
  }
  if (flags.tokens == 0) return absl::OkStatus();

  SamplerOptions options = flags.sampler;
  options.seed = flags.seed.value_or(std::random_device()() | uint64_t{std::random_device()()} << 32);
  if (!flags.seed && options.temperature > 0) Note(absl::StrCat("seed ", options.seed));
  SINTER_ASSIGN_OR_RETURN(Sampler sampler, Sampler::Create(options, static_cast<int32_t>(workspace->vocabulary())));
  std::optional<TokenStream> stream;
  if (tokenizer) stream.emplace(*tokenizer, /*at_start=*/false);
  if (!tokenizer && !flags.print_ids) {
    Note(absl::StrCat("printing ids: ", no_tokenizer.message()));
  }
  Generator generator(*workspace, *sequence, sampler, tokenizer ? &*tokenizer : nullptr, stream ? &*stream : nullptr);
  SINTER_RETURN_IF_ERROR(generator.Prefill(prompt));
  Output output{flags.print_ids || !tokenizer};
  GenerateOptions generate;
  generate.max_tokens = flags.tokens;
  generate.ignore_end = flags.ignore_eos;
  SINTER_ASSIGN_OR_RETURN(const StopReason reason, generator.Generate(generate, Write, &output));
  std::printf("\n");
  if (std::fflush(stdout) != 0) return absl::ResourceExhaustedError("cannot write to stdout");
  if (reason == StopReason::kContextFull) {
    Note(absl::StrCat("stopped: the context of ", sequence->capacity(), " positions is full; --ctx=N gives more"));
  }
  return absl::OkStatus();
}

}  // namespace

void AddRun(CLI::App& program, Action& action) {
  auto flags = std::make_shared<RunFlags>();
  CLI::App* verb = program.add_subcommand("run", "Continue a prompt");
  verb->add_option("MODEL", flags->model, "A .gguf, a .sinter, or preset:NAME")->required();
  verb->add_option("-p,--prompt", flags->prompt, "The prompt, byte for byte")->type_name("TEXT");
  verb->add_option("-f,--file", flags->prompt_file, "A file with the prompt, byte for byte")->type_name("FILE");
  verb->add_option("--prompt-ids", flags->prompt_ids, "The prompt as token ids: 1,2,3; nothing is added to them")->type_name("IDS");
  verb->add_option("-n", flags->tokens, "Tokens to generate")->type_name("N")->check(CLI::NonNegativeNumber)->capture_default_str();
  verb->add_option("--temp", flags->sampler.temperature, "Temperature; 0 always takes the likeliest token")->type_name("F")->capture_default_str();
  verb->add_option("--top-k", flags->sampler.top_k, "Keep the K likeliest tokens; 0 keeps all")->type_name("N")->capture_default_str();
  verb->add_option("--top-p", flags->sampler.top_p, "Keep the likeliest tokens that together reach this probability")->type_name("F")->capture_default_str();
  verb->add_option("--min-p", flags->sampler.min_p, "Keep tokens at least this likely relative to the likeliest")->type_name("F")->capture_default_str();
  verb->add_option("--repeat-penalty", flags->sampler.repeat_penalty, "Penalty on the last 64 tokens; 1 is none")->type_name("F")->capture_default_str();
  verb->add_option("--seed", flags->seed, "Seed of the sampler (default: random, and printed)")->type_name("N");
  verb->add_flag("--ignore-eos", flags->ignore_eos, "Go on after an end token");
  verb->add_option("-t,--threads", flags->threads, "Threads (default: what the process may use)")->type_name("N")->check(CLI::PositiveNumber);
  verb->add_flag("--no-cache", flags->compile.no_cache, "Do not look for this model compiled before, nor keep it");
  verb->add_flag("--print-ids", flags->print_ids, "Print token ids, separated by spaces, in place of text");
  verb->add_option("--logits", flags->logits, "Write the logits of every position of the prompt: float32 [positions, vocabulary]")->type_name("OUT.npy");
  AddCompileFlags(*verb, flags->compile);
  verb->callback([flags, &action] { action.run = [flags] { return Run(*flags); }; });
}

}  // namespace sinter
