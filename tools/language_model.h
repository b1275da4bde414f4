// A language model open to take tokens: what the verbs run, perplexity and compare share on the way from a path to
// logits. How it may run (threads, memory, the cache of compiled modules) are flags of all three, declared here once.
//
// LogitsSource is what gives logits of positions: a model, or an array that another program wrote (.npy). Sources are
// used by one thread, the one that opened them.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "ir/eval.h"
#include "runtime/tokenizer.h"
#include "runtime/workspace.h"
#include "tools/compile_flags.h"

namespace sinter {

struct RunningFlags {
  int threads = 0;  // 0: what the process may use
  bool no_cache = false;
  std::optional<uint64_t> cache_bytes;  // none: the default
  MemoryFlags memory;
  PinFlag pin;
};
void AddRunningFlags(CLI::App& app, RunningFlags& flags);
// Fills in the number of threads and their CPUs, and says on stderr what it chose. Once.
absl::Status ChooseThreads(RunningFlags& flags);

struct LanguageModel {
  std::string path;
  std::shared_ptr<const CompiledModule> module;
  std::unique_ptr<Workspace> workspace;
  std::unique_ptr<Sequence> sequence;
  absl::StatusOr<Tokenizer> tokenizer = absl::UnknownError("");
  std::vector<int32_t> end_ids;  // of the module's vocabulary, whether or not there is a tokenizer for it
  MemoryNeed need;
};
// Compiled, or found in the cache, and opened with the threads chosen. kUnimplemented when it is no language model,
// kResourceExhausted when there is not enough memory for it, and for one that is open already beside it.
absl::StatusOr<LanguageModel> OpenLanguageModel(const std::string& path, const CompileFlags& compile,
                                                const RunningFlags& flags, const std::string& command,
                                                const LanguageModel* beside = nullptr);

class LogitsSource {
 public:
  virtual ~LogitsSource() = default;
  virtual int64_t vocabulary() const = 0;
  // Most positions from a Restart on, and most ids of one Take.
  virtual int64_t capacity() const = 0;
  virtual int64_t most() const = 0;
  // The next Take begins a text.
  virtual absl::Status Restart() = 0;
  // Appends ids; `logits` gets a row for each of them but the first `skip`.
  virtual absl::Status Take(absl::Span<const int32_t> ids, size_t skip, absl::Span<float> logits) = 0;
};

// `model` must outlive it.
std::unique_ptr<LogitsSource> LogitsOf(LanguageModel& model);

// Row i of an array [positions, vocabulary] is the logits of position i, whatever the ids are. kInvalidArgument when it
// has another shape.
absl::StatusOr<std::unique_ptr<LogitsSource>> LogitsOfFile(const std::string& path);
bool IsArray(const std::string& path);

}  // namespace sinter
