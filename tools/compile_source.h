// The way from a model to a compiled module: open, passes, code. Of compile, run, exec and bench, so that all of them
// go the same.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "backend/compile.h"
#include "backend/target.h"
#include "base/file.h"
#include "frontend/model.h"
#include "passes/pipeline.h"
#include "runtime/memory_need.h"
#include "runtime/module.h"
#include "tools/compile_flags.h"

namespace sinter {

// A module on its way to code: from a model file, a preset or IR text.
struct Source {
  std::string path;
  std::unique_ptr<Module> module;
  std::unique_ptr<WeightSource> weights;  // null when the module has none
  std::optional<Model> model;             // absent for IR text; its module and weights have moved here
  bool user_plan = false;                 // the plan is that of a text, not of a pass
  std::string target;                     // of IR text whose kernels name tiles: the strongest that this CPU can run
};

// "avx2, avx512".
std::string TargetNames(absl::Span<const Target* const> targets);
// Whether this CPU runs code for one of --target, before any is made or read. kOutOfRange for a name that is no target,
// kFailedPrecondition, with the targets that it runs, when it runs none of them.
absl::Status CheckRunsHere(const CompileFlags& flags);

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

// A compiled module: of the targets of --target that this CPU runs, the strongest that the module has code for.
// kNotFound when it has code for none of them.
absl::StatusOr<std::shared_ptr<const CompiledModule>> OpenCompiled(const std::string& path, const CompileFlags& flags);

// A compiled module as it is, anything else compiled in memory. Says on stderr what it chose.
absl::StatusOr<std::shared_ptr<const CompiledModule>> OpenExecutable(const std::string& path, const CompileFlags& flags,
                                                                     const std::string& command);

// Positions of the states of a language model; 0 without any.
int64_t ContextOf(const CompiledModule& module);
// Says on stderr, once, when the model was trained for a longer context than was chosen for it.
void NoteContext(const Source& source, const CompileFlags& flags);
void NoteContext(const CompiledModule& module, const CompileFlags& flags);

// The size of all states of a language model over their positions; 0 without any.
int64_t KvBytesPerToken(const CompiledModule& module);

// A path that ends in .sinter, or a file that begins as compiled modules do.
bool IsCompiled(const std::string& path);
bool IsText(const std::string& path);

// Says on stderr that a compiled module stays as it is, when the flags ask for more than `defaults`, those of the verb.
void NoteCompiled(const std::string& path, const CompileFlags& flags, const CompileFlags& defaults = {});
// kOutOfRange for --weights of anything but IR text.
absl::Status CheckWeightsFlag(const std::string& path, const std::string& weights_path);

}  // namespace sinter
