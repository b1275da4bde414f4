// sinter tokenize: text to token ids, by the vocabulary of a model, a compiled module or a vocabulary-only file.
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status.h"
#include "frontend/presets.h"
#include "frontend/tokenizer_data.h"
#include "runtime/module.h"
#include "tools/command.h"
#include "tools/compile_flags.h"
#include "tools/compile_source.h"
#include "tools/console.h"

namespace sinter {
namespace {

struct TokenizeFlags {
  std::string model;
  std::optional<std::string> prompt, prompt_file;
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
  SINTER_ASSIGN_OR_RETURN(const Gguf gguf, Gguf::Open(path));
  return ReadTokenizerData(gguf);
}

absl::Status Tokenize(const TokenizeFlags& flags) {
  if (flags.prompt.has_value() == flags.prompt_file.has_value()) {
    return absl::OutOfRangeError("give the text with one of -p and -f");
  }
  SINTER_ASSIGN_OR_RETURN(TokenizerData data, ReadVocabulary(flags.model));
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Create(std::move(data));
  if (!tokenizer.ok()) {
    return absl::Status(tokenizer.status().code(), absl::StrCat(flags.model, ": ", tokenizer.status().message()));
  }
  std::string text = flags.prompt.value_or("");
  if (flags.prompt_file) {
    SINTER_ASSIGN_OR_RETURN(text, ReadFile(*flags.prompt_file));
  }
  SINTER_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer->Encode(text, !flags.no_special));
  return WriteResult("", absl::StrCat(absl::StrJoin(ids, " "), "\n"));
}

}  // namespace

void AddTokenize(CLI::App& program, Action& action) {
  auto flags = std::make_shared<TokenizeFlags>();
  CLI::App* verb = program.add_subcommand("tokenize", "Print the token ids of a text, separated by spaces");
  verb->add_option("MODEL", flags->model, "A .gguf (a vocabulary is enough) or a .sinter")->required();
  AddText(*verb, "-p,--prompt", flags->prompt, "The text, byte for byte; may be empty")->type_name("TEXT");
  AddText(*verb, "-f,--file", flags->prompt_file, "A file with the text, byte for byte")->type_name("FILE");
  verb->add_flag("--no-special", flags->no_special, "Neither add special tokens nor read them in the text");
  verb->callback([flags, &action] { action.run = [flags] { return Tokenize(*flags); }; });
}

}  // namespace sinter
