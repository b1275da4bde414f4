// The flags that shape a compilation, and the way from a model to a compiled module: open, passes, code. Shared by compile, run, exec and
// bench, so that all of them take the same flags and mean the same by them.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "absl/status/statusor.h"
#include "backend/compile.h"
#include "frontend/model.h"
#include "passes/pipeline.h"
#include "runtime/module.h"

namespace sinter {

struct CompileFlags {
  std::string target = "native";
  int64_t context = 0;  // 0: the smaller of the trained context and 4096
  int64_t chunk = 512;
  std::string kv;       // "": f32 for F32 weights, else f16
  std::string precision = "fast";
  int opt_level = 2;
  std::optional<std::string> passes;
  std::vector<std::string> disable;
  std::string print_after, dump_dir, stop_after;
  bool check_each = false, stats = false, time = false;
  bool no_cache = false;

  // The flags that shape the result, in canonical form, for the module's metadata.
  std::string Canonical() const;
  std::string PipelineText() const;
};

// Adds the flags to a verb.
void AddCompileFlags(CLI::App& app, CompileFlags& flags);

// A module on its way to code: from a model file, a preset or IR text.
struct Source {
  std::string path;
  std::unique_ptr<Module> module;
  std::unique_ptr<WeightSource> weights;  // null when the module has none
  std::optional<Model> model;             // absent for IR text; its module and weights have moved here
};

// MODEL.gguf, preset:NAME or FILE.sir. `weights_path` replaces the weight file that IR text names; "" keeps it.
absl::StatusOr<Source> OpenSource(const std::string& path, const CompileFlags& flags, const std::string& weights_path = "");

// Runs the pipeline of the flags; instruments print to stderr.
absl::StatusOr<std::vector<PassRecord>> RunPasses(Source& source, const CompileFlags& flags);

// Compiles a planned source into a file; "" makes it in memory.
absl::StatusOr<OutputFile> CompileSource(const Source& source, const CompileFlags& flags, const std::string& command,
                                         const std::string& output);

// A compiled module as it is, anything else compiled in memory. Says on stderr what it chose (context, threads of compilation).
absl::StatusOr<std::shared_ptr<const CompiledModule>> OpenExecutable(const std::string& path, const CompileFlags& flags,
                                                                     const std::string& weights_path = "");

bool IsCompiled(const std::string& path);

}  // namespace sinter
