#include "runtime/workspace.h"

#include <x86intrin.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/limits.h"
#include "base/out_of_memory.h"
#include "base/status.h"

namespace sinter {
namespace {

constexpr absl::string_view kStepEntry = "main";
constexpr absl::string_view kPositionDim = "P";

// Where a part of a step takes so little time that sharing it out would cost more than it brings, its thread keeps it.
// How long it takes is known from the step's last run in which it was shared out; now and then all steps are.
constexpr uint64_t kBriefTicks = 20'000;  // 5 to 10 us
constexpr uint64_t kAskedAgain = 32;      // runs

// The largest value of a dim that is a number or one symbol; nothing for any other.
std::optional<int64_t> LargestOf(const DimSum& sum, const CompiledModule& module) {
  if (sum.terms.empty()) return 0;
  if (sum.terms.size() != 1 || sum.terms[0].symbols.size() > 1) return std::nullopt;
  if (sum.terms[0].symbols.empty()) return sum.terms[0].coefficient;
  if (sum.terms[0].coefficient != 1) return std::nullopt;
  return module.dims()[sum.terms[0].symbols[0]].max;
}

// Whether the entry is (i32[T], i32[T], i32[L]) -> f32[L, V], with V a number.
bool IsLanguageModel(const LoadedEntry& entry) {
  if (entry.inputs.size() != 3 || entry.outputs.size() != 1) return false;
  for (const LoadedParam& input : entry.inputs) {
    if (input.dtype != "i32" || input.dims.size() != 1) return false;
  }
  const LoadedParam& logits = entry.outputs[0];
  if (logits.dtype != "f32" || logits.dims.size() != 2 || logits.dims[0] != entry.inputs[2].dims[0]) return false;
  const DimSum& vocabulary = logits.dims[1];
  return vocabulary.terms.size() == 1 && vocabulary.terms[0].symbols.empty() && vocabulary.terms[0].coefficient > 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Sequence>> Sequence::Open(std::shared_ptr<const CompiledModule> module,
                                                         absl::string_view entry) {
  return WithoutExceptions("opening a sequence", [&]() -> absl::StatusOr<std::unique_ptr<Sequence>> {
    const auto found = std::find_if(module->entries().begin(), module->entries().end(),
                                    [entry](const LoadedEntry& e) { return Serves(e.name, entry); });
    if (found == module->entries().end()) {
      return absl::NotFoundError(absl::StrCat(module->path(), ": no entry ", Quoted(entry)));
    }
    std::unique_ptr<Sequence> sequence(new Sequence());
    sequence->capacity_ = std::numeric_limits<int32_t>::max();  // positions are i32
    sequence->pages_.reserve(found->states.size());             // the states point into it
    for (const LoadedState& state : found->states) {
      SINTER_ASSIGN_OR_RETURN(PageMemory memory,
                              PageMemory::Map(state.bytes, absl::StrCat("state ", Quoted(state.name))));
      const int64_t page_rows = state.dims[static_cast<size_t>(state.page_axis)];
      sequence->pages_.push_back(memory.data());
      sequence->states_.push_back({&sequence->pages_.back(), page_rows});
      sequence->memory_.push_back(std::move(memory));
      sequence->capacity_ = std::min(sequence->capacity_, page_rows);
    }
    sequence->entry_ = &*found;
    sequence->module_ = std::move(module);
    return sequence;
  });
}

void Sequence::Reach(int64_t positions) {
  constexpr int64_t kPart = 8;  // below an eighth small pages hold less memory, and there is little to read
  if (huge_pages_ || positions < capacity_ / kPart) return;
  huge_pages_ = true;
  for (const PageMemory& memory : memory_) memory.MoveToHugePages();
}

absl::Status Sequence::Truncate(int64_t position) {
  return WithoutExceptions("truncating a sequence", [&]() -> absl::Status {
    if (position < 0 || position > position_) {
      return absl::OutOfRangeError(absl::StrCat("cannot truncate to position ", position, " of ", position_));
    }
    position_ = position;
    return absl::OkStatus();
  });
}

absl::StatusOr<std::unique_ptr<Workspace>> Workspace::Open(std::shared_ptr<const CompiledModule> module, int threads,
                                                           absl::Span<const int> cpus) {
  return WithoutExceptions("opening a workspace", [&]() -> absl::StatusOr<std::unique_ptr<Workspace>> {
    if (threads < 1 || limits::kThreads.Exceeded(threads)) {
      return absl::OutOfRangeError(absl::StrCat(threads, " threads, expected 1 to ", limits::kThreads.most));
    }
    if (module->target().empty()) return absl::InternalError("a module opened for inspection cannot run");
    std::unique_ptr<Workspace> workspace(new Workspace(threads));
    workspace->module_ = std::move(module);
    const CompiledModule& opened = *workspace->module_;
    SINTER_ASSIGN_OR_RETURN(workspace->arena_, PageMemory::Map(opened.metadata().arena_bytes(), "the arena"));
    for (int i = 0; i < threads; ++i) {
      SINTER_ASSIGN_OR_RETURN(PageMemory arena, PageMemory::Map(opened.metadata().thread_bytes(), "a thread's arena"));
      SINTER_ASSIGN_OR_RETURN(PageMemory scratch, PageMemory::Map(opened.scratch_bytes(), "a thread's scratch"));
      workspace->thread_arenas_.push_back(std::move(arena));
      workspace->scratch_.push_back(std::move(scratch));
    }
    for (const LoadedEntry& entry : opened.entries()) workspace->tables_.push_back(workspace->MakeTables(entry));
    workspace->dims_.resize(opened.dims().size());
    SINTER_RETURN_IF_ERROR(workspace->PrepareSteps());
    SINTER_ASSIGN_OR_RETURN(workspace->team_, ThreadTeam::Create(threads, cpus));
    return workspace;
  });
}

Workspace::EntryTables Workspace::MakeTables(const LoadedEntry& entry) const {
  EntryTables tables;
  const std::vector<LoadedEntry>& entries = module_->entries();
  const auto has_these_states = [&entry](const LoadedEntry& other) {
    return std::equal(entry.states.begin(), entry.states.end(), other.states.begin(), other.states.end(),
                      [](const LoadedState& a, const LoadedState& b) { return a.IsLike(b); });
  };
  tables.states_of =
      static_cast<size_t>(std::find_if(entries.begin(), entries.end(), has_these_states) - entries.begin());
  tables.paces.resize(scratch_.size(), std::vector<uint64_t>(entry.steps.size()));
  for (size_t thread = 0; thread < scratch_.size(); ++thread) {
    std::vector<void*>& slots = tables.slots.emplace_back();
    for (const LoadedStep& step : entry.steps) {
      for (const fbs::Operand& operand : step.operands) {
        const int64_t at = operand.at();
        switch (operand.space()) {
          case fbs::Space_Arena:
            slots.push_back(arena_.data() + at);
            break;
          case fbs::Space_Thread:
            slots.push_back(thread_arenas_[thread].data() + at);
            break;
          case fbs::Space_Weights:
            slots.push_back(const_cast<uint8_t*>(module_->weights()) + at);
            break;
          case fbs::Space_Input:
          case fbs::Space_Output:
          case fbs::Space_State:
            if (thread == 0) tables.patches.push_back({slots.size(), operand.space(), static_cast<size_t>(at)});
            slots.push_back(nullptr);
            break;
        }
      }
    }
  }
  return tables;
}

absl::Status Workspace::CheckStates(const LoadedEntry& entry, const EntryStates& given) const {
  if (given.states.size() == entry.states.size() && (given.entry == &entry || entry.states.empty())) {
    return absl::OkStatus();
  }
  const LoadedEntry* const entries = module_->entries().data();
  const auto index = [entries](const LoadedEntry* e) { return static_cast<size_t>(e - entries); };
  const std::less<const LoadedEntry*> before;
  if (given.entry == nullptr || before(given.entry, entries) || !before(given.entry, entries + tables_.size())) {
    return absl::InternalError(absl::StrCat("entry ", Quoted(entry.name), ": no states of a sequence of this module"));
  }
  if (given.states.size() == entry.states.size() &&
      tables_[index(given.entry)].states_of == tables_[index(&entry)].states_of) {
    return absl::OkStatus();
  }
  return absl::InternalError(absl::StrCat("entry ", Quoted(entry.name), ": a sequence opened for entry ",
                                          Quoted(given.entry->name), ", whose states are others; open one for ",
                                          Quoted(entry.name)));
}

absl::Status Workspace::Run(const LoadedEntry& entry, absl::Span<const int64_t> dims,
                            absl::Span<const void* const> inputs, absl::Span<void* const> outputs, EntryStates states) {
  return WithoutExceptions("running an entry", [&]() -> absl::Status {
    const std::vector<LoadedEntry>& entries = module_->entries();
    if (&entry < entries.data() || &entry >= entries.data() + entries.size()) {
      return absl::InternalError("an entry of another module");
    }
    if (inputs.size() != entry.inputs.size() || outputs.size() != entry.outputs.size()) {
      return absl::InternalError(absl::StrCat("entry ", Quoted(entry.name), " takes ", entry.inputs.size(),
                                              " inputs and ", entry.outputs.size(), " outputs, not ", inputs.size(),
                                              " and ", outputs.size()));
    }
    SINTER_RETURN_IF_ERROR(CheckStates(entry, states));
    SINTER_RETURN_IF_ERROR(module_->CheckDims(entry, dims));
    for (size_t i = 0; i < dims_.size(); ++i) dims_[i] = module_->dims()[i].min;
    for (uint16_t symbol : entry.symbols) dims_[symbol] = dims[symbol];
    frame_ = {&entry, &tables_[static_cast<size_t>(&entry - entries.data())], inputs, outputs, states.states};
    ++runs_;
    const auto begin = std::chrono::steady_clock::now();
    team_->Run(
        team_size_.threads(), [](void* self, int thread) { static_cast<Workspace*>(self)->Walk(thread); }, this);
    team_size_.Ran(std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count(), team_->waited());
    return absl::OkStatus();
  });
}

void Workspace::Walk(int thread) {
  const int threads = team_size_.threads();
  std::vector<void*>& slots = frame_.tables->slots[static_cast<size_t>(thread)];
  for (const Patch& patch : frame_.tables->patches) {
    switch (patch.space) {
      case fbs::Space_Input:
        slots[patch.slot] = const_cast<void*>(frame_.inputs[patch.index]);
        break;
      case fbs::Space_Output:
        slots[patch.slot] = frame_.outputs[patch.index];
        break;
      default:
        slots[patch.slot] = const_cast<SinterState*>(&frame_.states[patch.index]);
        break;
    }
  }
  SinterKernelArgs args = {slots.data(), dims_.data(), scratch_[static_cast<size_t>(thread)].data()};
  const std::vector<LoadedStep>& steps = frame_.entry->steps;
  std::vector<uint64_t>& paces = frame_.tables->paces[static_cast<size_t>(thread)];
  const bool all_shared = runs_ % kAskedAgain == 0;
  size_t shared = steps.size();  // the step of which any thread may do any grain
  int turn = 0;
  for (size_t i = 0; i < steps.size(); ++i) {
    const LoadedStep& step = steps[i];
    if (threads > 1 && step.to_alone >= 0) {
      const size_t alone = i + static_cast<size_t>(step.to_alone);
      const int64_t grains = steps[alone].Grains(dims_.data());
      turn = 1 - turn;
      const uint64_t pace = paces[alone];
      const bool brief = pace != 0 && pace * static_cast<uint64_t>(grains / threads + 1) < kBriefTicks;
      if ((all_shared || !brief) && grains <= GrainShares::kMostGrains) {
        shared = alone;
        shares_[turn].Deal(thread, FirstOfPart(grains, thread, threads), FirstOfPart(grains, thread + 1, threads));
      }
    }
    if (threads > 1 && step.barrier) team_->Barrier();
    int64_t begin = 0, end;
    if (i == shared) {
      for (bool timed = true; shares_[turn].Take(thread, threads, begin, end); timed = false) {
        const uint64_t before = timed ? __rdtsc() : 0;
        step.kernel(&args, begin, end);
        if (timed) paces[i] = (__rdtsc() - before) / static_cast<uint64_t>(end - begin) + 1;
      }
    } else {
      end = step.Grains(dims_.data());
      if (!step.replicated) {
        begin = FirstOfPart(end, thread, threads);
        end = FirstOfPart(end, thread + 1, threads);
      }
      if (begin < end) step.kernel(&args, begin, end);
    }
    args.operands += step.operands.size();
  }
}

absl::Status Workspace::PrepareSteps() {
  const CompiledModule& module = *module_;
  int64_t max_tokens = 0, vocabulary = 0;
  for (const LoadedEntry& entry : module.entries()) {
    if (!Serves(entry.name, kStepEntry)) continue;
    if (!IsLanguageModel(entry)) return absl::OkStatus();
    const std::optional<int64_t> tokens = LargestOf(entry.inputs[0].dims[0], module);
    const int64_t width = entry.outputs[0].dims[1].Evaluate(nullptr);
    if (!tokens || *tokens < 1 || (vocabulary != 0 && width != vocabulary)) return absl::OkStatus();
    vocabulary = width;
    max_tokens = std::max(max_tokens, *tokens);
  }
  for (const auto& [limit, found] : {std::pair(limits::kStepTokens, max_tokens), {limits::kVocabulary, vocabulary}}) {
    if (!limit.Exceeded(found)) continue;
    return absl::InvalidArgumentError(absl::StrCat(module.path(), ": steps of ", max_tokens,
                                                   " tokens over a vocabulary of ", vocabulary, ": ", limit.Text()));
  }
  max_tokens_ = max_tokens;
  vocabulary_ = vocabulary;
  for (size_t i = 0; i < module.dims().size(); ++i) {
    if (module.dims()[i].name == kPositionDim) position_symbol_ = static_cast<int>(i);
  }
  shapes_.assign(3, {0});
  step_dims_.resize(module.dims().size());
  positions_.resize(static_cast<size_t>(max_tokens));
  all_rows_.resize(static_cast<size_t>(max_tokens));
  std::iota(all_rows_.begin(), all_rows_.end(), 0);
  unwanted_logits_.resize(static_cast<size_t>(vocabulary));
  return absl::OkStatus();
}

absl::Status Workspace::CheckStep(const Sequence& sequence, absl::Span<const int32_t> ids) const {
  if (vocabulary_ == 0) {
    return absl::UnimplementedError(absl::StrCat(module_->path(), ": entry ", kStepEntry, " is no language model"));
  }
  if (&sequence.module() != module_.get()) return absl::InternalError("a sequence of another module");
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocabulary_) {
      return absl::OutOfRangeError(
          absl::StrCat("token ", ids[i], " at position ", i, " is outside the vocabulary of ", vocabulary_));
    }
  }
  if (static_cast<int64_t>(ids.size()) > sequence.capacity() - sequence.position()) {
    return absl::OutOfRangeError(absl::StrCat("the context of ", sequence.capacity(), " positions is full: ",
                                              sequence.position(), " are taken, ", ids.size(), " more are asked for"));
  }
  return absl::OkStatus();
}

absl::Status Workspace::Step(Sequence& sequence, absl::Span<const int32_t> ids, absl::Span<const int32_t> rows,
                             absl::Span<float> logits) {
  return WithoutExceptions("running a step", [&]() -> absl::Status {
    SINTER_RETURN_IF_ERROR(CheckStep(sequence, ids));
    if (ids.empty() || static_cast<int64_t>(ids.size()) > max_tokens_) {
      return absl::OutOfRangeError(absl::StrCat("a step takes 1 to ", max_tokens_, " tokens, not ", ids.size()));
    }
    if (logits.size() != rows.size() * static_cast<size_t>(vocabulary_)) {
      return absl::OutOfRangeError(
          absl::StrCat("room for ", logits.size(), " logits, expected ", rows.size(), " rows of ", vocabulary_));
    }
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] < (i == 0 ? 0 : rows[i - 1] + 1) || static_cast<size_t>(rows[i]) >= ids.size()) {
        return absl::OutOfRangeError(
            absl::StrCat("row ", rows[i], " is not ascending within the step's ", ids.size(), " tokens"));
      }
    }
    return RunStep(sequence, ids, rows, logits.data());
  });
}

absl::Status Workspace::RunStep(Sequence& sequence, absl::Span<const int32_t> ids, absl::Span<const int32_t> rows,
                                float* logits) {
  const auto find = [&] {
    shapes_[0][0] = shapes_[1][0] = static_cast<int64_t>(ids.size());
    shapes_[2][0] = static_cast<int64_t>(rows.size());
    std::fill(step_dims_.begin(), step_dims_.end(), kUnbound);
    if (position_symbol_ >= 0) step_dims_[static_cast<size_t>(position_symbol_)] = sequence.position();
    return module_->FindEntry(kStepEntry, shapes_, step_dims_);
  };
  const LoadedEntry* entry = find();
  if (entry == nullptr && rows.empty()) {  // every entry makes at least one row: the last one's, for nobody
    rows = absl::MakeConstSpan(all_rows_).subspan(ids.size() - 1, 1);
    logits = unwanted_logits_.data();
    entry = find();
  }
  if (entry == nullptr) {
    return absl::OutOfRangeError(absl::StrCat(module_->path(), ": no entry ", kStepEntry, " takes ", ids.size(),
                                              " tokens and ", rows.size(), " rows at position ", sequence.position()));
  }
  sequence.Reach(sequence.position() + static_cast<int64_t>(ids.size()));
  std::iota(positions_.begin(), positions_.begin() + static_cast<ptrdiff_t>(ids.size()),
            static_cast<int32_t>(sequence.position()));
  const void* const inputs[] = {ids.data(), positions_.data(), rows.data()};
  void* const outputs[] = {logits};
  SINTER_RETURN_IF_ERROR(Run(*entry, step_dims_, inputs, outputs, sequence.states()));
  sequence.Advance(static_cast<int64_t>(ids.size()));
  return absl::OkStatus();
}

absl::Status Workspace::Prefill(Sequence& sequence, absl::Span<const int32_t> ids, absl::Span<float> logits) {
  return WithoutExceptions("running a prompt", [&]() -> absl::Status {
    SINTER_RETURN_IF_ERROR(CheckStep(sequence, ids));
    const size_t vocabulary = static_cast<size_t>(vocabulary_), chunk = static_cast<size_t>(max_tokens_);
    const bool all = logits.size() == ids.size() * vocabulary;
    if (!all && !logits.empty() && (logits.size() != vocabulary || ids.empty())) {
      return absl::OutOfRangeError(
          absl::StrCat("room for ", logits.size(), " logits, expected 0, 1 or ", ids.size(), " rows of ", vocabulary));
    }
    for (size_t begin = 0; begin < ids.size(); begin += chunk) {
      const absl::Span<const int32_t> part = ids.subspan(begin, chunk);
      const bool last = begin + part.size() == ids.size();
      absl::Span<const int32_t> rows;  // of this chunk
      if (all) {
        rows = absl::MakeConstSpan(all_rows_).first(part.size());
      } else if (last && !logits.empty()) {
        rows = absl::MakeConstSpan(all_rows_).subspan(part.size() - 1, 1);
      }
      SINTER_RETURN_IF_ERROR(RunStep(sequence, part, rows, logits.data() + (all ? begin * vocabulary : 0)));
    }
    return absl::OkStatus();
  });
}

}  // namespace sinter
