// The flags that shape a compilation, and others that several verbs share, so that all of them take the same flags and
// mean the same by them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "frontend/model.h"
#include "runtime/memory_need.h"
#include "runtime/module.h"

namespace CLI {  // NOLINT(readability-identifier-naming): of CLI11
class App;
class Option;
class Validator;
}  // namespace CLI

namespace sinter {

struct CompileFlags {
  std::string target = "native";
  int64_t context = 0;  // 0: the smaller of the trained context and 4096
  int64_t chunk = kDefaultChunk;
  std::string kv;  // "": f32 for F32 weights, else f16
  std::string precision = "fast";
  int opt_level = 2;
  std::optional<std::string> passes;
  std::vector<std::string> disable;
  std::string print_after, dump_dir, stop_after, explain;
  bool check_each = false, stats = false, time = false;

  // The flags that shape the result, in canonical form, for the module's metadata.
  std::string Canonical() const;
  std::string PipelineText() const;
  // Whether somebody wants to see the passes at work.
  bool WatchesPasses() const;
};

// A flag whose empty value differs from its absence.
CLI::Option* AddText(CLI::App& app, const std::string& names, std::optional<std::string>& value,
                     const std::string& help);
// A flag that may be given again and takes values separated by commas.
CLI::Option* AddList(CLI::App& app, const std::string& names, std::vector<std::string>& values,
                     const std::string& help);

// Refuse what is no integer from `min` to `most`, or no finite number from `min` on; an empty value is none.
CLI::Validator AtLeast(int64_t min, int64_t most = INT64_MAX);
CLI::Validator FiniteFrom(double min);
// Refuses what is no integer of 64 bits from 0 on.
CLI::Validator Unsigned();

// --precision, --target, --passes and the instruments.
void AddPassFlags(CLI::App& app, CompileFlags& flags);
// All flags of compile but -o and --emit.
void AddCompileFlags(CLI::App& app, CompileFlags& flags);

// -o of verbs that print a table: md, or json for programs.
void AddReportFormat(CLI::App& app, std::string& format);

// Arguments in reverse, as CLI11 wants them. A flag with an empty value, `--passes=`, becomes two: CLI11 would take the
// next argument for the value.
std::vector<std::string> ReversedArguments(const std::vector<std::string>& arguments);
// `flags` with those of a text, such as "--precision=exact --kv=f32", in place of theirs; `name` is the flag that
// carries the text. kOutOfRange for what AddCompileFlags does not know.
absl::StatusOr<CompileFlags> WithFlags(CompileFlags flags, const std::string& name, const std::string& text);

// How a compiled module is held while it runs.
struct MemoryFlags {
  bool huge_pages = false, perf_map = false;
};
void AddMemoryFlags(CLI::App& app, MemoryFlags& flags);
// Before a workspace of so many threads and a sequence are opened: whether there is memory for them, then the flags.
// `path`: of the model, as the user gave it. Returns what they need, to be given as `beside` for what is opened next to
// them.
absl::StatusOr<MemoryNeed> Prepare(const CompiledModule& module, const std::string& path, const MemoryFlags& flags,
                                   int threads, absl::Span<const MemoryNeed> beside = {});

// "; --ctx=N gives more", or what else gives the model at `path`, opened as `module`, a longer context; "" where
// nothing does: in IR text, which states it, and where positions are learned and it has all of them.
std::string MoreContext(const CompiledModule& module, const std::string& path);

// --pin: which CPUs the threads get.
struct PinFlag {
  bool pin = false;
  std::vector<int> cpus;
};
void AddPinFlag(CLI::App& app, PinFlag& flag);
// Finds the CPUs, where --pin is given; once, before any thread is pinned. kOutOfRange when the process may run on
// fewer than `threads`.
absl::Status FindCpus(PinFlag& flag, int64_t threads);

}  // namespace sinter
