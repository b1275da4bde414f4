// sinter tokenize: text to token ids, by the vocabulary of a model, a compiled module or a vocabulary-only file.
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "frontend/presets.h"
#include "frontend/tokenizer_data.h"
#include "runtime/module.h"
#include "tools/command.h"
#include "tools/compile_source.h"
#include "tools/console.h"
#include "tools/prompt.h"

namespace sinter {
namespace {

struct TokenizeFlags {
  std::string model;
  PromptFlags text;
  bool no_special = false;
};

absl::StatusOr<TokenizerData> ReadVocabulary(const std::string& path) {
  if (absl::StartsWith(path, kPresetPrefix)) {
    SINTER_RETURN_IF_ERROR(ParsePreset(path).status());
    return absl::UnimplementedError(absl::StrCat(path, ": a preset has no tokenizer"));
  }
  if (IsCompiled(path)) {
    SINTER_ASSIGN_OR_RETURN(const auto module, CompiledModule::OpenForInspection(path));
    return module->tokenizer();
  }
  const absl::StatusOr<Gguf> gguf = Gguf::Open(path);
  if (gguf.ok()) return ReadTokenizerData(*gguf);
  SINTER_RETURN_IF_ERROR(OpenModel(path).status());  // which knows other kinds of files
  return gguf.status();
}

absl::Status Tokenize(const TokenizeFlags& flags) {
  if (flags.text.text.has_value() == flags.text.file.has_value()) {
    return absl::OutOfRangeError("give the text with one of -p and -f");
  }
  SINTER_ASSIGN_OR_RETURN(const Prompt prompt, ReadPrompt(flags.text));
  SINTER_ASSIGN_OR_RETURN(TokenizerData data, ReadVocabulary(flags.model));
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Create(std::move(data));
  if (!tokenizer.ok()) {
    return absl::Status(tokenizer.status().code(), absl::StrCat(flags.model, ": ", tokenizer.status().message()));
  }
  SINTER_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer->Encode(prompt.text, !flags.no_special));
  return WriteResult("", absl::StrCat(absl::StrJoin(ids, " "), "\n"));
}

}  // namespace

void AddTokenize(CLI::App& program, Action& action) {
  auto flags = std::make_shared<TokenizeFlags>();
  CLI::App* verb = program.add_subcommand("tokenize", "Print the token ids of a text, separated by spaces");
  verb->add_option("MODEL", flags->model, "A .gguf (a vocabulary is enough) or a .sinter")->required();
  AddTextFlags(*verb, flags->text, "text");
  verb->add_flag("--no-special", flags->no_special, "Neither add special tokens nor read them in the text");
  verb->callback([flags, &action] { action.run = [flags] { return Tokenize(*flags); }; });
}

}  // namespace sinter
