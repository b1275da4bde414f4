// The runtime in a program of your own: continues a text by a compiled module, as `sinter run --temp=0` does, in the
// order in which a server would do it. Links sinter_runtime alone: no LLVM, no front end.
//
// usage: embed MODULE.sinter TEXT [TOKENS]
#include <cstdio>
#include <cstdlib>
#include <string>

#include "base/status.h"
#include "runtime/cpu.h"
#include "runtime/generate.h"
#include "runtime/memory_need.h"

namespace {

absl::Status Continue(const std::string& path, const std::string& text, int64_t tokens) {
  // Once a process: the module is shared by all that follows and never changes; a workspace serves one call at a time.
  SINTER_ASSIGN_OR_RETURN(const auto module, sinter::CompiledModule::Open(path));
  const int threads = sinter::DefaultThreads().threads;
  SINTER_RETURN_IF_ERROR(
      sinter::CheckMemory(path, sinter::NeedToRun(*module, threads), sinter::MemoryLimits(), "sinter compile --ctx"));
  SINTER_ASSIGN_OR_RETURN(sinter::TokenizerData vocabulary, module->tokenizer());
  SINTER_ASSIGN_OR_RETURN(const auto end_ids, vocabulary.EndIds());
  SINTER_ASSIGN_OR_RETURN(const auto tokenizer, sinter::Tokenizer::Create(std::move(vocabulary)));
  SINTER_ASSIGN_OR_RETURN(const auto workspace, sinter::Workspace::Open(module, threads));

  // Once a conversation: its KV cache, how it picks tokens, and the text that they make.
  SINTER_ASSIGN_OR_RETURN(const auto sequence, sinter::Sequence::Open(module));
  SINTER_ASSIGN_OR_RETURN(auto sampler, sinter::Sampler::Create({.temperature = 0}, tokenizer.vocab_size()));
  SINTER_ASSIGN_OR_RETURN(auto stream, sinter::TokenStream::Create(tokenizer, /*at_start=*/false));
  SINTER_ASSIGN_OR_RETURN(auto generator, sinter::Generator::Create(*workspace, *sequence, sampler, end_ids, &stream));

  // Each turn: nothing below allocates but Encode.
  SINTER_ASSIGN_OR_RETURN(const auto ids, tokenizer.Encode(text, /*special=*/true));
  SINTER_RETURN_IF_ERROR(generator.Prefill(ids));
  const auto print = [](void*, int32_t, absl::string_view piece) {
    return std::fwrite(piece.data(), 1, piece.size(), stdout) == piece.size() && std::fflush(stdout) == 0;
  };
  SINTER_RETURN_IF_ERROR(generator.Generate({.max_tokens = tokens}, print, nullptr).status());
  std::printf("\n");
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: embed MODULE.sinter TEXT [TOKENS]\n");
    return 2;
  }
  const absl::Status status = Continue(argv[1], argv[2], argc > 3 ? std::atoll(argv[3]) : 128);
  if (!status.ok()) std::fprintf(stderr, "embed: %s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
