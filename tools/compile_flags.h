// The flags that shape a compilation, and the way from a model to a compiled module: open, passes, code. Shared by
// compile, run, exec and bench, so that all of them take the same flags and mean the same by them.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/compile.h"
#include "base/file.h"
#include "frontend/model.h"
#include "passes/pipeline.h"
#include "runtime/memory_need.h"
#include "runtime/module.h"

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

// Refuses what is no integer from `min` on.
CLI::Validator AtLeast(int64_t min);

// --target, --passes and the instruments.
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

// --pin: which CPUs the threads get.
struct PinFlag {
  bool pin = false;
  std::vector<int> cpus;
};
void AddPinFlag(CLI::App& app, PinFlag& flag);
// Finds the CPUs, where --pin is given; once, before any thread is pinned. kOutOfRange when the process may run on
// fewer than `threads`.
absl::Status FindCpus(PinFlag& flag, int64_t threads);

// A module on its way to code: from a model file, a preset or IR text.
struct Source {
  std::string path;
  std::unique_ptr<Module> module;
  std::unique_ptr<WeightSource> weights;  // null when the module has none
  std::optional<Model> model;             // absent for IR text; its module and weights have moved here
  bool user_plan = false;                 // the plan is that of a text, not of a pass
  std::string target;                     // of IR text whose kernels name tiles: the strongest that this CPU can run
};

// The targets to make code for: --target, or, for native, the one that a text's kernels were made for.
std::string TargetsFor(const Source& source, const CompileFlags& flags);

// FILE.sir, or - for stdin, without its weights.
absl::StatusOr<Source> OpenText(const std::string& path);
// MODEL.gguf, preset:NAME, FILE.sir or - (text on stdin). `weights_path` replaces the weight file that IR text names;
// "" keeps it.
absl::StatusOr<Source> OpenSource(const std::string& path, const CompileFlags& flags,
                                  const std::string& weights_path = "");

// The pipeline of the flags for a module at stage `from`: --passes exactly as given; of -O, what is still to come
// there.
absl::StatusOr<std::vector<const PassInfo*>> PassesFrom(const CompileFlags& flags, Stage from);

// Runs passes with the instruments of the flags, which print to stderr.
absl::StatusOr<std::vector<PassRecord>> RunPasses(Source& source, const CompileFlags& flags,
                                                  absl::Span<const PassInfo* const> passes);
// The pipeline of the flags.
absl::StatusOr<std::vector<PassRecord>> RunPasses(Source& source, const CompileFlags& flags);

// Compiles a planned source into a file; "" makes it in memory. kInvalidArgument when the model's file changed
// meanwhile. An internal error leaves repro.sir.
absl::StatusOr<OutputFile> CompileSource(const Source& source, const CompileFlags& flags, const std::string& command,
                                         const std::string& output, Durability durability = Durability::kDurable);

// Whether there is memory to run a planned source, before it is compiled; of the threads' memory only what one needs,
// and without scratch, which code decides. Prepare knows them.
absl::Status CheckMemory(const Source& source, WeightsPlace weights);

// CompileSource into memory, where there is enough, or a file that can be made anew, and opens it.
absl::StatusOr<std::shared_ptr<const CompiledModule>> CompilePlanned(const Source& source, const CompileFlags& flags,
                                                                     const std::string& command,
                                                                     const std::string& output);

// A source taken through the passes, compiled in memory and opened.
absl::StatusOr<std::shared_ptr<const CompiledModule>> CompileInMemory(Source& source, const CompileFlags& flags,
                                                                      const std::string& command);

// A compiled module as it is, anything else compiled in memory. Says on stderr what it chose.
absl::StatusOr<std::shared_ptr<const CompiledModule>> OpenExecutable(const std::string& path, const CompileFlags& flags,
                                                                     const std::string& command);

// Says on stderr, once, when the model was trained for a longer context than was chosen for it.
void NoteContext(const Source& source, const CompileFlags& flags);
void NoteContext(const CompiledModule& module, const CompileFlags& flags);

bool IsCompiled(const std::string& path);
bool IsText(const std::string& path);

}  // namespace sinter
