// Running entries of a compiled module: a workspace is the arena plus the threads that walk the step list together.
//
// Opening allocates; Run does not: no heap allocation on any thread. A workspace serves one Run at a time, a sequence
// one workspace at a time. Results do not depend on the number of threads, bit for bit: grains are fixed, and only who
// does them differs.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/grain_shares.h"
#include "runtime/memory.h"
#include "runtime/module.h"
#include "runtime/team_size.h"
#include "runtime/threads.h"

namespace sinter {

// States to run an entry with: those that a sequence made for `entry`, one each; none by default.
struct EntryStates {
  const LoadedEntry* entry = nullptr;
  absl::Span<const SinterState> states;
};

// The state of one sequence: pages, and the position of the next token.
class Sequence {
 public:
  // State pages for entry `name` of the module, all zero, not touched before their use (mapped on demand).
  static absl::StatusOr<std::unique_ptr<Sequence>> Open(std::shared_ptr<const CompiledModule> module,
                                                        absl::string_view entry = "main");

  int64_t position() const { return position_; }
  // Positions: the smallest page axis of its states; INT32_MAX without states.
  int64_t capacity() const { return capacity_; }
  // Forgets positions from `position` on. kOutOfRange when it is not within [0, position()].
  absl::Status Truncate(int64_t position);
  void Advance(int64_t tokens) { position_ += tokens; }
  // Positions that the next step will leave. From an eighth of the capacity on the states are in huge pages: attention
  // reads them all for each token, and looking up small pages would hold it up.
  void Reach(int64_t positions);
  EntryStates states() const { return {entry_, states_}; }
  uint8_t* state_data(size_t i) const { return pages_[i]; }
  const CompiledModule& module() const { return *module_; }

 private:
  Sequence() = default;
  std::shared_ptr<const CompiledModule> module_;
  const LoadedEntry* entry_ = nullptr;  // of the module
  std::vector<PageMemory> memory_;
  std::vector<uint8_t*> pages_;  // of each state, its one page
  std::vector<SinterState> states_;
  int64_t position_ = 0, capacity_ = 0;
  bool huge_pages_ = false;
};

class Workspace {
 public:
  // `cpus`: those to which the threads are pinned, as ThreadTeam takes them; the thread that opens is the one that runs
  // and closes then.
  static absl::StatusOr<std::unique_ptr<Workspace>> Open(std::shared_ptr<const CompiledModule> module, int threads,
                                                         absl::Span<const int> cpus = {});

  const CompiledModule& module() const { return *module_; }
  int threads() const { return team_->threads(); }

  // Runs `entry` with dims bound: a value for each symbol of the module, or -1 where unbound (kernels see the
  // minimum of what the entry does not use); checked by CompiledModule::CheckDims. inputs and outputs: one dense buffer
  // each, in the entry's order and of the shapes that the dims give; states: a sequence's, opened for an entry of the
  // same states. kInternal: an entry or states that do not belong together.
  absl::Status Run(const LoadedEntry& entry, absl::Span<const int64_t> dims, absl::Span<const void* const> inputs,
                   absl::Span<void* const> outputs, EntryStates states);

  // One step of a language model: entry `main` and its `main.N`, (ids: i32[T], positions: i32[T], rows: i32[L],
  // states) -> f32[L, V]. The dim called P, if there is one, is the number of tokens already in the states. Appends
  // `ids` to the sequence and writes the logits of the rows asked for (indices into ids, ascending) to `logits`, [rows,
  // vocabulary]. ids.size() is at most max_tokens(). kOutOfRange: an id outside the vocabulary, a full context.
  // kUnimplemented: a module that is no language model. kInternal: a sequence of another module, or of other states.
  absl::Status Step(Sequence& sequence, absl::Span<const int32_t> ids, absl::Span<const int32_t> rows,
                    absl::Span<float> logits);
  // Appends a prompt of any length in chunks; `logits` gets the last position's row when it has room for one row, every
  // position's when it has room for all of them, and none when it is empty. On an error the sequence keeps the chunks
  // before it.
  absl::Status Prefill(Sequence& sequence, absl::Span<const int32_t> ids, absl::Span<float> logits);
  // Most ids of one Step, and its logits a row; 0 when the module is no language model.
  int64_t max_tokens() const { return max_tokens_; }
  int64_t vocabulary() const { return vocabulary_; }

 private:
  // Where a step's operand pointers depend on the run: place `slot` of the entry's table is input, output or state
  // `index`.
  struct Patch {
    size_t slot;
    fbs::Space space;
    size_t index;
  };
  // Operand pointers of all steps of an entry, one after another, for each thread; only the patched ones change between
  // runs.
  struct EntryTables {
    std::vector<Patch> patches;
    std::vector<std::vector<void*>> slots;     // [thread][slot]
    std::vector<std::vector<uint64_t>> paces;  // [thread][step]: ticks a grain took when last shared, or 0
    size_t states_of;                          // the first entry whose states are the same
  };
  // What the threads walk.
  struct Frame {
    const LoadedEntry* entry;
    EntryTables* tables;
    absl::Span<const void* const> inputs;
    absl::Span<void* const> outputs;
    absl::Span<const SinterState> states;
  };

  explicit Workspace(int threads) : shares_{GrainShares(threads), GrainShares(threads)}, team_size_(threads) {}
  EntryTables MakeTables(const LoadedEntry& entry) const;
  absl::Status CheckStates(const LoadedEntry& entry, const EntryStates& states) const;
  absl::Status PrepareSteps();
  absl::Status CheckStep(const Sequence& sequence, absl::Span<const int32_t> ids) const;
  // Step without its checks. `rows` empty: no logits are wanted.
  absl::Status RunStep(Sequence& sequence, absl::Span<const int32_t> ids, absl::Span<const int32_t> rows,
                       float* logits);
  void Walk(int thread);

  std::shared_ptr<const CompiledModule> module_;
  PageMemory arena_;
  std::vector<PageMemory> thread_arenas_, scratch_;  // of each thread
  std::vector<EntryTables> tables_;                  // of each entry
  std::vector<int64_t> dims_;                        // of the current run, none unbound
  Frame frame_ = {};
  // In turn: while some threads take the last grains of a step, others are dealt those of the next one.
  GrainShares shares_[2];
  uint64_t runs_ = 0;
  TeamSize team_size_;                // of the current run
  std::unique_ptr<ThreadTeam> team_;  // after all that its threads use

  // For Step.
  int64_t max_tokens_ = 0, vocabulary_ = 0;
  int position_symbol_ = -1;  // the dim called P
  std::vector<std::vector<int64_t>> shapes_;
  std::vector<int64_t> step_dims_;
  std::vector<int32_t> positions_, all_rows_;
  std::vector<float> unwanted_logits_;  // one row, for entries that always make one
};

}  // namespace sinter
