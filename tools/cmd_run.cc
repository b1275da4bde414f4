// sinter run: a model continues a prompt.
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
#include "tools/module_cache.h"
#include "tools/npy.h"

namespace sinter {
namespace {

struct RunFlags {
  std::string model;
  std::optional<std::string> prompt, prompt_file, prompt_ids;
  int64_t tokens = 128;
  SamplerOptions sampler;
  std::optional<uint64_t> seed;
  bool ignore_eos = false, print_ids = false, no_cache = false;
  MemoryFlags memory;
  PinFlag pin;
  uint64_t cache_bytes = 0;
  int threads = 0;
  std::string logits, command;
  CompileFlags compile;
};

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

absl::StatusOr<std::vector<int32_t>> PromptIds(const RunFlags& flags, const absl::StatusOr<Tokenizer>& tokenizer) {
  std::vector<int32_t> ids;
  if (flags.prompt_ids) {
    SINTER_ASSIGN_OR_RETURN(ids, ParseIds(*flags.prompt_ids));
  } else {
    std::string text = flags.prompt.value_or("");
    if (flags.prompt_file) {
      SINTER_ASSIGN_OR_RETURN(text, ReadFile(*flags.prompt_file));
    }
    if (!tokenizer.ok()) {
      return absl::Status(tokenizer.status().code(), absl::StrCat(flags.model, ": ", tokenizer.status().message(),
                                                                  "; give the prompt as token ids with --prompt-ids"));
    }
    ids = tokenizer->Encode(text, /*special=*/true);
  }
  if (ids.empty()) return absl::OutOfRangeError("the prompt is empty: give one with -p, -f or --prompt-ids");
  return ids;
}

absl::StatusOr<Tokenizer> TokenizerOf(const CompiledModule& module) {
  SINTER_ASSIGN_OR_RETURN(TokenizerData data, module.tokenizer());
  return Tokenizer::Create(std::move(data));
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
    std::fflush(stdout);
    return std::ferror(stdout) == 0;
  }
  if (!text.empty()) std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  return std::ferror(stdout) == 0;
}

absl::Status WriteLogits(const RunFlags& flags, Workspace& workspace, Sequence& sequence,
                         absl::Span<const int32_t> prompt) {
  const int64_t rows = static_cast<int64_t>(prompt.size()), columns = workspace.vocabulary();
  std::vector<float> logits(static_cast<size_t>(rows * columns));
  SINTER_RETURN_IF_ERROR(workspace.Prefill(sequence, prompt, absl::MakeSpan(logits)));
  SINTER_RETURN_IF_ERROR(WriteNpy(flags.logits, logits, {rows, columns}));
  return sequence.Truncate(0);
}

absl::Status Run(RunFlags& flags) {
  const int prompts = flags.prompt.has_value() + flags.prompt_file.has_value() + flags.prompt_ids.has_value();
  if (prompts > 1) return absl::OutOfRangeError("give one of -p, -f and --prompt-ids");
  SINTER_ASSIGN_OR_RETURN(const auto module, flags.no_cache ? OpenExecutable(flags.model, flags.compile, flags.command)
                                                            : OpenThroughCache(flags.model, flags.compile,
                                                                               flags.cache_bytes, flags.command));
  const absl::StatusOr<Tokenizer> tokenizer = TokenizerOf(*module);
  SINTER_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt, PromptIds(flags, tokenizer));

  const ThreadBudget budget = DefaultThreads();
  const int threads = flags.threads > 0 ? flags.threads : budget.threads;
  if (flags.threads == 0) Note(budget.reason);
  SINTER_RETURN_IF_ERROR(FindCpus(flags.pin, threads));
  SINTER_RETURN_IF_ERROR(Prepare(*module, flags.memory, threads));
  SINTER_ASSIGN_OR_RETURN(const std::unique_ptr<Workspace> workspace, Workspace::Open(module, threads, flags.pin.cpus));
  SINTER_ASSIGN_OR_RETURN(const std::unique_ptr<Sequence> sequence, Sequence::Open(module));
  if (workspace->vocabulary() == 0) {
    return absl::UnimplementedError(
        absl::StrCat(flags.model, ": entry @main is no language model; `sinter exec` runs it"));
  }
  if (static_cast<int64_t>(prompt.size()) > sequence->capacity()) {
    return absl::OutOfRangeError(absl::StrCat("the prompt has ", prompt.size(), " tokens, the context ",
                                              sequence->capacity(), "; shorten it, or give more with --ctx=N"));
  }
  if (!flags.logits.empty()) SINTER_RETURN_IF_ERROR(WriteLogits(flags, *workspace, *sequence, prompt));
  if (flags.tokens == 0) return absl::OkStatus();

  SamplerOptions options = flags.sampler;
  options.seed = flags.seed.value_or(std::random_device()() | uint64_t{std::random_device()()} << 32);
  if (!flags.seed && options.temperature > 0) Note(absl::StrCat("seed ", options.seed));
  SINTER_ASSIGN_OR_RETURN(Sampler sampler, Sampler::Create(options, static_cast<int32_t>(workspace->vocabulary())));
  std::optional<TokenStream> stream;
  if (tokenizer.ok()) {
    stream.emplace(*tokenizer, /*at_start=*/false);
  } else if (!flags.print_ids) {
    Note(absl::StrCat("printing ids: ", tokenizer.status().message()));
  }
  Generator generator(*workspace, *sequence, sampler, tokenizer.ok() ? &*tokenizer : nullptr,
                      stream ? &*stream : nullptr);
  SINTER_RETURN_IF_ERROR(generator.Prefill(prompt));
  Output output{flags.print_ids || !tokenizer.ok()};
  SINTER_ASSIGN_OR_RETURN(
      const StopReason reason,
      generator.Generate({.max_tokens = flags.tokens, .ignore_end = flags.ignore_eos}, Write, &output));
  std::printf("\n");
  SINTER_RETURN_IF_ERROR(FlushStdout());
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
  AddText(*verb, "-p,--prompt", flags->prompt, "The prompt, byte for byte")->type_name("TEXT");
  AddText(*verb, "-f,--file", flags->prompt_file, "A file with the prompt, byte for byte")->type_name("FILE");
  AddText(*verb, "--prompt-ids", flags->prompt_ids, "The prompt as token ids: 1,2,3; nothing is added to them")
      ->type_name("IDS");
  verb->add_option("-n", flags->tokens, "Tokens to generate")->type_name("N")->check(AtLeast(0))->capture_default_str();
  verb->add_option("--temp", flags->sampler.temperature, "Temperature; 0 always takes the likeliest token")
      ->type_name("F")
      ->capture_default_str();
  verb->add_option("--top-k", flags->sampler.top_k, "Keep the K likeliest tokens; 0 keeps all")
      ->type_name("N")
      ->capture_default_str();
  verb->add_option("--top-p", flags->sampler.top_p, "Keep the likeliest tokens that together reach this probability")
      ->type_name("F")
      ->capture_default_str();
  verb->add_option("--min-p", flags->sampler.min_p, "Keep tokens at least this likely relative to the likeliest")
      ->type_name("F")
      ->capture_default_str();
  verb->add_option("--repeat-penalty", flags->sampler.repeat_penalty, "Penalty on the last 64 tokens; 1 is none")
      ->type_name("F")
      ->capture_default_str();
  verb->add_option("--seed", flags->seed, "Seed of the sampler (default: random, and printed)")->type_name("N");
  verb->add_flag("--ignore-eos", flags->ignore_eos, "Go on after an end token");
  verb->add_option("-t,--threads", flags->threads, "Threads (default: what the process may use)")
      ->type_name("N")
      ->check(AtLeast(1));
  AddPinFlag(*verb, flags->pin);
  verb->add_flag("--no-cache", flags->no_cache, "Do not look for this model compiled before, nor keep it");
  verb->add_option(
          "--cache-size", flags->cache_bytes,
          "How much the compiled models in $XDG_CACHE_HOME/sinter, or ~/.cache/sinter, may take, as in 500MB or "
          "20GB; those used longest ago go (default: 20GB, and at most half of the disk's free space)")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->type_name("SIZE");
  verb->add_flag("--print-ids", flags->print_ids, "Print token ids, separated by spaces, in place of text");
  verb->add_option("--logits", flags->logits,
                   "Write the logits of every position of the prompt: float32 [positions, vocabulary]")
      ->type_name("OUT.npy");
  AddMemoryFlags(*verb, flags->memory);
  AddCompileFlags(*verb, flags->compile);
  verb->callback([flags, &action] {
    flags->command = action.command_line;
    action.run = [flags] { return Run(*flags); };
  });
}

}  // namespace sinter
