#include "runtime/generate.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/out_of_memory.h"
#include "base/status.h"

namespace sinter {

absl::StatusOr<Generator> Generator::Create(Workspace& workspace, Sequence& sequence, Sampler& sampler,
                                            absl::Span<const int32_t> end_ids, TokenStream* stream) {
  return WithoutExceptions("making a generator", [&]() -> absl::StatusOr<Generator> {
    if (sampler.vocab_size() != workspace.vocabulary()) {
      return absl::OutOfRangeError(absl::StrCat("the sampler is for a vocabulary of ", sampler.vocab_size(),
                                                ", the model's is ", workspace.vocabulary()));
    }
    return Generator(workspace, sequence, sampler, end_ids, stream);
  });
}

Generator::Generator(Workspace& workspace, Sequence& sequence, Sampler& sampler, absl::Span<const int32_t> end_ids,
                     TokenStream* stream)
    : workspace_(&workspace),
      sequence_(&sequence),
      sampler_(&sampler),
      end_ids_(end_ids.begin(), end_ids.end()),
      stream_(stream),
      logits_(static_cast<size_t>(workspace.vocabulary())) {}

absl::Status Generator::Prefill(absl::Span<const int32_t> ids) {
  return WithoutExceptions("reading a prompt", [&]() -> absl::Status {
    if (ids.empty()) return absl::OutOfRangeError("the prompt is empty: there is no token to continue");
    if (pending_) SINTER_RETURN_IF_ERROR(Advance());
    SINTER_RETURN_IF_ERROR(workspace_->Prefill(*sequence_, ids, absl::MakeSpan(logits_)));
    sampler_->Accept(ids);
    last_ = ids.back();
    return absl::OkStatus();
  });
}

absl::Status Generator::Advance() {
  constexpr int32_t kRow = 0;
  SINTER_RETURN_IF_ERROR(workspace_->Step(*sequence_, absl::MakeConstSpan(&last_, 1), absl::MakeConstSpan(&kRow, 1),
                                          absl::MakeSpan(logits_)));
  pending_ = false;
  return absl::OkStatus();
}

absl::StatusOr<StopReason> Generator::Generate(const GenerateOptions& options, Emit emit, void* context) {
  return WithoutExceptions("generating", [&]() -> absl::StatusOr<StopReason> {
    if (last_ < 0) return absl::OutOfRangeError("there is no prompt to continue");
    absl::StatusOr<StopReason> reason = Loop(options, emit, context);
    if (reason.ok() && *reason != StopReason::kCaller && stream_ != nullptr) {
      const absl::string_view rest = stream_->Finish();
      if (!rest.empty()) emit(context, -1, rest);
    }
    return reason;
  });
}

absl::StatusOr<StopReason> Generator::Loop(const GenerateOptions& options, Emit emit, void* context) {
  for (int64_t i = 0; i < options.max_tokens; ++i) {
    if (pending_) {
      if (sequence_->position() >= sequence_->capacity()) return StopReason::kContextFull;
      SINTER_RETURN_IF_ERROR(Advance());
    }
    const int32_t id = sampler_->Sample(logits_);
    const bool ends = std::find(end_ids_.begin(), end_ids_.end(), id) != end_ids_.end();
    if (ends && !options.ignore_end) return StopReason::kEndToken;
    sampler_->Accept(id);
    last_ = id;
    pending_ = true;
    if (!emit(context, id, stream_ == nullptr ? "" : stream_->Append(id))) return StopReason::kCaller;
  }
  return StopReason::kLength;
}

}  // namespace sinter
