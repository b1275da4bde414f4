// The token loop: a prompt goes in, tokens and their text come out one at a time. Called by `run`.
//
// Generate steps lazily: the last token that it emitted enters the sequence only when another is wanted, so that
// generation can be continued by another call and costs no step whose logits nobody reads. Nothing is allocated per
// token. Errors: those of Workspace; kOutOfRange when there is no prompt or the sampler is for another vocabulary,
// kResourceExhausted when memory runs out.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "runtime/sampler.h"
#include "runtime/tokenizer.h"
#include "runtime/workspace.h"

namespace sinter {

struct GenerateOptions {
  int64_t max_tokens = 128;
  bool ignore_end = false;  // end tokens are tokens like any other
};

enum class StopReason { kLength, kEndToken, kContextFull, kCaller };

class Generator {
 public:
  // A token and the text that it completes, which may be empty; the text is valid during the call. `id` is -1 for text
  // that was held back to the end. Returns false to stop.
  using Emit = bool (*)(void* context, int32_t id, absl::string_view text);

  // All but `end_ids` outlive the generator. They are TokenizerData::EndIds of a vocabulary of any kind: a module whose
  // text no Tokenizer can make has end tokens, too. Without a stream all text is empty.
  static absl::StatusOr<Generator> Create(Workspace& workspace, Sequence& sequence, Sampler& sampler,
                                          absl::Span<const int32_t> end_ids, TokenStream* stream);

  // Appends a prompt to the sequence.
  absl::Status Prefill(absl::Span<const int32_t> ids);
  // Samples and emits at most options.max_tokens. An end token is not emitted unless ignore_end is set.
  absl::StatusOr<StopReason> Generate(const GenerateOptions& options, Emit emit, void* context);

 private:
  Generator(Workspace& workspace, Sequence& sequence, Sampler& sampler, absl::Span<const int32_t> end_ids,
            TokenStream* stream);
  absl::StatusOr<StopReason> Loop(const GenerateOptions& options, Emit emit, void* context);
  absl::Status Advance();

  Workspace* workspace_;
  Sequence* sequence_;
  Sampler* sampler_;
  std::vector<int32_t> end_ids_;
  TokenStream* stream_;
  std::vector<float> logits_;  // of the last position of the sequence
  int32_t last_ = -1;          // the last id of the text; -1: there is no prompt yet
  bool pending_ = false;       // it is not in the sequence yet
};

}  // namespace sinter
