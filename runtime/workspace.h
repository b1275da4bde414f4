// Running entries of a compiled module: a workspace is the arena plus the threads that walk the step list together.
//
// Opening allocates; Run does not: no heap allocation on any thread. A workspace serves one Run at a time, a sequence one workspace
// at a time. Results do not depend on the number of threads, bit for bit: grains are fixed, and only who does them differs.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/module.h"

namespace sinter {

class ThreadTeam;  // threads.h: workers, the monotonic barrier, spin then futex

// The state of one sequence: pages, and the position of the next token.
class Sequence {
 public:
  // State pages for entry `name` of the module, all zero, not touched before their use (mapped on demand).
  static absl::StatusOr<std::unique_ptr<Sequence>> Open(std::shared_ptr<const CompiledModule> module, absl::string_view entry = "main");
  ~Sequence();

  int64_t position() const { return position_; }
  int64_t capacity() const { return capacity_; }  // positions
  // Forgets positions from `position` on. kOutOfRange when it is not within [0, position()].
  absl::Status Truncate(int64_t position);
  void Advance(int64_t tokens) { position_ += tokens; }
  const std::vector<SinterState>& states() const { return states_; }
  uint8_t* state_data(size_t i) const { return pages_[i]; }

 private:
  Sequence() = default;
  std::shared_ptr<const CompiledModule> module_;
  std::vector<uint8_t*> pages_;
  std::vector<SinterState> states_;
  std::vector<int64_t> bytes_;
  int64_t position_ = 0, capacity_ = 0;
};

class Workspace {
 public:
  static absl::StatusOr<std::unique_ptr<Workspace>> Open(std::shared_ptr<const CompiledModule> module, int threads);
  ~Workspace();

  const CompiledModule& module() const { return *module_; }
  int threads() const;

  // Runs `entry` with dims bound (checked against ranges and bounds: kOutOfRange). inputs and outputs: one dense buffer each, in the entry's order and of
  // the shapes that the dims give; states: one each.
  absl::Status Run(const LoadedEntry& entry, absl::Span<const int64_t> dims, absl::Span<const void* const> inputs,
                   absl::Span<void* const> outputs, absl::Span<const SinterState> states);

  // One step of a language model (entry `main`: ids, positions, rows -> logits): appends `ids` to the sequence and writes the logits of the rows
  // asked for (indices into ids, ascending) to `logits`, [rows, vocabulary]. ids.size() is at most max_tokens().
  // kOutOfRange: an id outside the vocabulary, a full context.
  absl::Status Step(Sequence& sequence, absl::Span<const int32_t> ids, absl::Span<const int32_t> rows, absl::Span<float> logits);
  // Appends a prompt of any length in chunks; `logits` gets the last position's row when it has room for one row, every position's when it has room for
  // all of them, and none when it is empty.
  absl::Status Prefill(Sequence& sequence, absl::Span<const int32_t> ids, absl::Span<float> logits);
  int64_t max_tokens() const { return max_tokens_; }
  int64_t vocabulary() const { return vocabulary_; }

 private:
  Workspace() = default;
  struct Frame;  // what the threads walk, rebuilt in place by each Run
  void Walk(int thread);
  std::shared_ptr<const CompiledModule> module_;
  std::unique_ptr<ThreadTeam> team_;
  std::unique_ptr<Frame> frame_;
  int64_t max_tokens_ = 0, vocabulary_ = 0;
};

}  // namespace sinter
