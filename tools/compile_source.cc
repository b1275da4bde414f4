#include "tools/compile_source.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "backend/placement.h"
#include "base/escape.h"
#include "base/status.h"
#include "ir/text.h"
#include "passes/plan_check.h"
#include "runtime/cpu.h"
#include "runtime/module_format.h"
#include "tools/console.h"

namespace sinter {

bool IsCompiled(const std::string& path) {
  if (absl::EndsWith(path, ".sinter")) return true;
  struct stat info;
  if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return false;  // reading a pipe would take from it
  char magic[sizeof kModuleMagic] = {};
  std::ifstream(path, std::ios::binary).read(magic, sizeof magic);
  return std::equal(std::begin(magic), std::end(magic), kModuleMagic);
}

bool IsText(const std::string& path) { return absl::EndsWith(path, ".sir") || path == "-"; }

void NoteCompiled(const std::string& path, const CompileFlags& flags, const CompileFlags& defaults) {
  if (flags.Canonical() == defaults.Canonical() && !flags.WatchesPasses()) return;
  Note(absl::StrCat(path, " is compiled already: flags that shape code or watch passes have no effect on it"));
}

absl::Status CheckWeightsFlag(const std::string& path, const std::string& weights_path) {
  if (weights_path.empty() || IsText(path)) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat("--weights replaces the weights that IR text names; ", path, " is none"));
}

namespace {

// The strongest target that this CPU can run and that every kernel with tiles has one for; "" without tiles.
std::string TileTarget(const Module& module) {
  std::vector<const Target*> fit;
  for (const Target& target : AllTargets()) {
    if (HostRuns(target)) fit.push_back(&target);
  }
  bool any = false;
  for (GraphId id : module.entries()) {
    const Graph& graph = module.graph(id);
    for (OpId op : graph.order()) {
      const auto kernel = graph.As<ops::Kernel>(op);
      if (!kernel || kernel->tiles.empty()) continue;
      any = true;
      std::erase_if(fit, [&](const Target* target) { return !ParseTile(kernel->tiles, *target).ok(); });
    }
  }
  return any && !fit.empty() ? std::string(fit.back()->name) : "";
}

}  // namespace

std::string TargetNames(absl::Span<const Target* const> targets) {
  return absl::StrJoin(targets, ", ", [](std::string* out, const Target* t) { absl::StrAppend(out, t->name); });
}

absl::Status CheckRunsHere(const CompileFlags& flags) {
  SINTER_ASSIGN_OR_RETURN(const std::vector<const Target*> targets, ParseTargets(flags.target));
  SINTER_RETURN_IF_ERROR(NativeTarget().status());
  if (std::any_of(targets.begin(), targets.end(), [](const Target* target) { return HostRuns(*target); })) {
    return absl::OkStatus();
  }
  std::vector<const Target*> run;
  for (const Target& target : AllTargets()) {
    if (HostRuns(target)) run.push_back(&target);
  }
  const std::string lacks = absl::StrJoin(targets, ", nor for ", [](std::string* out, const Target* target) {
    std::vector<absl::string_view> missing = target->features;
    std::erase_if(missing, [](absl::string_view feature) { return HostHas(feature); });
    absl::StrAppend(out, target->name, ": it needs ", absl::StrJoin(missing, " "));
  });
  return absl::FailedPreconditionError(
      absl::StrCat("this CPU (", HostCpuName(), ") cannot run code for ", lacks,
                   "; leave out --target, or name one that it runs: ", TargetNames(run)));
}

std::string TargetsFor(const Source& source, const CompileFlags& flags) {
  return flags.target == "native" && !source.target.empty() ? source.target : flags.target;
}

absl::StatusOr<Source> OpenText(const std::string& path) {
  Source source;
  source.path = InputPath(path);
  SINTER_ASSIGN_OR_RETURN(const std::string text, ReadFile(source.path));
  SINTER_ASSIGN_OR_RETURN(source.module, Parse(text, source.path));
  source.user_plan = source.module->stage == Stage::kPlanned;
  source.target = TileTarget(*source.module);
  return source;
}

absl::StatusOr<Source> OpenSource(const std::string& path, const CompileFlags& flags, const std::string& weights_path) {
  if (IsText(path)) {
    SINTER_ASSIGN_OR_RETURN(Source source, OpenText(path));
    const std::string weights = !weights_path.empty()    ? weights_path
                                : source.module->weights ? source.module->weights->path
                                                         : "";
    if (!weights.empty()) {
      SINTER_ASSIGN_OR_RETURN(source.weights, OpenWeights(weights));
      if (weights_path.empty() && source.weights->digest() != source.module->weights->sha256) {
        return absl::InvalidArgumentError(
            absl::StrCat(weights, ": not the weights that ", path, " names: its digest is ", source.weights->digest(),
                         ", expected ", source.module->weights->sha256, "; give them with --weights=MODEL"));
      }
    }
    return source;
  }
  SINTER_RETURN_IF_ERROR(CheckWeightsFlag(path, weights_path));
  Source source;
  source.path = path;
  ImportOptions options;
  options.context = flags.context;
  options.chunk = flags.chunk;
  if (!flags.kv.empty()) options.kv = ParseDType(flags.kv);
  SINTER_ASSIGN_OR_RETURN(source.model, OpenModel(path, options));
  source.module = std::move(source.model->module);
  source.weights = std::move(source.model->weights);
  return source;
}

absl::StatusOr<std::vector<const PassInfo*>> PassesFrom(const CompileFlags& flags, Stage from) {
  if (flags.passes || from == Stage::kGraph) return ParsePipeline(flags.PipelineText(), from);
  SINTER_ASSIGN_OR_RETURN(std::vector<const PassInfo*> passes, ParsePipeline(flags.PipelineText(), Stage::kGraph));
  while (!passes.empty() && passes.front()->from != from) passes.erase(passes.begin());
  return passes;
}

absl::StatusOr<std::vector<PassRecord>> RunPasses(Source& source, const CompileFlags& flags,
                                                  absl::Span<const PassInfo* const> passes) {
  PassContext context;
  SINTER_ASSIGN_OR_RETURN(context.targets, ParseTargets(TargetsFor(source, flags)));
  context.fast = flags.precision == "fast";
  PipelineOptions options;
  for (const std::string& pass : flags.disable) {
    if (!pass.empty()) options.disable.push_back(pass);
  }
  options.stop_after = flags.stop_after;
  options.print_after = flags.print_after;
  options.dump_dir = flags.dump_dir;
  options.explain = flags.explain;
  options.check_each = flags.check_each;
  if (source.weights != nullptr) options.weights = MakeWeightReader(*source.weights);
  options.command = absl::StrCat("sinter opt --target=", TargetsFor(source, flags), " --precision=", flags.precision);
  options.out = [](absl::string_view text) { std::fputs(EscapedLines(text).c_str(), stderr); };
  ProgressLine progress;
  int64_t done = 0;
  options.progress = [&](absl::string_view pass) {
    progress.Update(pass, ++done, static_cast<int64_t>(passes.size()));
  };
  SINTER_ASSIGN_OR_RETURN(std::vector<PassRecord> records, RunPipeline(*source.module, passes, context, options));
  std::string explanation;
  for (const PassRecord& record : records) absl::StrAppend(&explanation, record.explanation);
  if (!flags.explain.empty() && explanation.empty()) {
    explanation = absl::StrCat("no pass that ran has rule ", flags.explain, "\n");
  }
  std::fputs(EscapedLines(explanation).c_str(), stderr);
  if (flags.stats || flags.time) {
    std::fputs(EscapedLines(FormatRecords(records, flags.time, flags.stats)).c_str(), stderr);
  }
  return records;
}

absl::StatusOr<std::vector<PassRecord>> RunPasses(Source& source, const CompileFlags& flags) {
  SINTER_ASSIGN_OR_RETURN(const std::vector<const PassInfo*> passes, PassesFrom(flags, source.module->stage));
  return RunPasses(source, flags, passes);
}

namespace {

// A plan is code's one protection against the next value's bytes, and text may state any.
absl::Status CheckPlanned(const Source& source, const CompileFlags& flags) {
  if (source.module->entries().empty()) {
    return absl::InvalidArgumentError(absl::StrCat(source.path, ": no graph, so there is nothing to compile"));
  }
  if (source.module->stage != Stage::kPlanned) {
    return absl::OutOfRangeError(absl::StrCat("the passes leave the module at stage ", StageName(source.module->stage),
                                              "; code needs stage planned: end them with select-kernels,plan-barriers,"
                                              "plan-buffers, or leave out --passes and --stop-after"));
  }
  absl::Status status = CheckPlan(*source.module);
  const bool chosen = source.user_plan || flags.passes.has_value() || !flags.disable.empty();
  if (status.ok() || !chosen) return status;
  return absl::InvalidArgumentError(absl::StrCat(source.path, ": ", status.message()));
}

// Adds to an internal error what reproduces it.
absl::Status Reproducible(const Source& source, const CompileFlags& flags, const absl::Status& status) {
  if (status.code() != absl::StatusCode::kInternal) return status;
  constexpr char kPath[] = "repro.sir";
  const std::string text =
      absl::StrCat("// RUN: sinter compile --target=", TargetsFor(source, flags), " -o repro.sinter ", kPath, "\n// ",
                   absl::StrReplaceAll(status.message(), {{"\n", "\n// "}}), "\n", Print(*source.module));
  const absl::Status written = WriteFile(kPath, text);
  return absl::InternalError(
      absl::StrCat(status.message(), "\n", written.ok() ? absl::StrCat(kPath, " reproduces it") : written.message()));
}

}  // namespace

absl::StatusOr<OutputFile> CompileSource(const Source& source, const CompileFlags& flags, const std::string& command,
                                         const std::string& output, Durability durability) {
  SINTER_RETURN_IF_ERROR(CheckPlanned(source, flags));
  ModuleInfo info;
  info.command = command;
  info.source = source.path;
  if (source.module->weights) info.source_sha256 = source.module->weights->sha256;
  info.model_name = source.module->name();
  info.options = flags.Canonical();
  if (source.model) {
    const Model& model = *source.model;
    info.model_name = model.name;
    info.architecture = std::string(model.config.architecture->name);
    info.layers = static_cast<int>(model.config.layers);
    info.trained_context = model.config.trained_context;
    info.tokenizer = model.tokenizer ? &*model.tokenizer : nullptr;
  }
  CompileOptions options;
  SINTER_ASSIGN_OR_RETURN(options.targets, ParseTargets(TargetsFor(source, flags)));
  options.threads = DefaultThreads().threads;
  ProgressLine progress;
  options.progress = [&](absl::string_view what, int64_t done, int64_t total) { progress.Update(what, done, total); };
  if (source.weights != nullptr) {
    const WeightSource& weights = *source.weights;
    if (const absl::Status status = CheckWeights(*source.module, weights); !status.ok()) {
      return absl::Status(status.code(), absl::StrCat(source.path, ": ", status.message()));
    }
    options.weights = [&weights](const std::string& name, DType dtype, int64_t begin, int64_t end,
                                 absl::Span<uint8_t> out) { return weights.Read(name, dtype, begin, end, out); };
    options.weight_done = [&weights](const std::string& name) { weights.Done(name); };
  }
  SINTER_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(output, durability));
  if (source.weights != nullptr) {
    file.CheckBeforeCommit([weights = source.weights.get()] { return weights->CheckUnchanged(); });
  }
  absl::StatusOr<OutputFile> compiled = Compile(*source.module, info, options, std::move(file));
  if (!compiled.ok()) return Reproducible(source, flags, compiled.status());
  return compiled;
}

absl::Status CheckMemory(const Source& source, WeightsPlace weights) {
  SINTER_ASSIGN_OR_RETURN(const Placement placement, PlacementOf(*source.module));
  MemoryNeed need;
  need.weights = weights;
  need.weights_bytes = placement.weights_bytes;
  need.arena_bytes = placement.arena_bytes;
  need.thread_bytes = placement.thread_bytes;
  need.positions = source.model ? source.model->context : 0;
  const std::vector<GraphId> entries = source.module->entries();
  if (entries.empty()) return absl::OkStatus();
  const Graph& graph = source.module->graph(entries.back());  // entries for fewer shapes stand before, with its states
  for (ValueId param : graph.params()) {
    if (!graph.type(param).state) continue;
    Type type = graph.type(param);
    type.state = false;
    SINTER_ASSIGN_OR_RETURN(const int64_t bytes, MaxBytes(type, source.module->dims));
    need.state_bytes += bytes;
  }
  return CheckMemory(source.path, need, MemoryLimits(), source.model ? "--ctx" : "");
}

absl::StatusOr<std::shared_ptr<const CompiledModule>> CompilePlanned(const Source& source, const CompileFlags& flags,
                                                                     const std::string& command,
                                                                     const std::string& output) {
  SINTER_RETURN_IF_ERROR(CheckPlanned(source, flags));
  SINTER_RETURN_IF_ERROR(CheckMemory(source, output.empty() ? WeightsPlace::kMemoryFile : WeightsPlace::kFile));
  SINTER_ASSIGN_OR_RETURN(const OutputFile file,
                          CompileSource(source, flags, command, output, Durability::kDisposable));
  SINTER_ASSIGN_OR_RETURN(MappedFile mapped,
                          MappedFile::FromDescriptor(file.descriptor(), output.empty() ? source.path : output));
  return CompiledModule::FromFile(std::move(mapped));
}

absl::StatusOr<std::shared_ptr<const CompiledModule>> CompileInMemory(Source& source, const CompileFlags& flags,
                                                                      const std::string& command) {
  SINTER_RETURN_IF_ERROR(RunPasses(source, flags).status());
  return CompilePlanned(source, flags, command, "");
}

absl::StatusOr<std::shared_ptr<const CompiledModule>> OpenCompiled(const std::string& path, const CompileFlags& flags) {
  if (flags.target == "native") return CompiledModule::Open(path);
  SINTER_RETURN_IF_ERROR(CheckRunsHere(flags));
  SINTER_ASSIGN_OR_RETURN(std::vector<const Target*> targets, ParseTargets(flags.target));
  std::erase_if(targets, [](const Target* target) { return !HostRuns(*target); });
  std::reverse(targets.begin(), targets.end());  // strongest first
  absl::Status none;
  for (const Target* target : targets) {
    auto module = CompiledModule::Open(path, target->name);
    if (!absl::IsNotFound(module.status())) return module;
    none.Update(module.status());
  }
  return none;
}

absl::StatusOr<std::shared_ptr<const CompiledModule>> OpenExecutable(const std::string& path, const CompileFlags& flags,
                                                                     const std::string& command) {
  if (IsCompiled(path)) {
    NoteCompiled(path, flags);
    return OpenCompiled(path, flags);
  }
  SINTER_RETURN_IF_ERROR(CheckRunsHere(flags));
  const std::jthread prepares = PrepareToCompile();
  SINTER_ASSIGN_OR_RETURN(Source source, OpenSource(path, flags));
  NoteContext(source, flags);
  return CompileInMemory(source, flags, command);
}

namespace {

void NoteContext(int64_t context, int64_t trained, const CompileFlags& flags) {
  if (context > trained) {
    return Note(absl::StrCat("context ", context, " is past the ", trained,
                             " positions that the model was trained for; text beyond them may be poor"));
  }
  if (flags.context != 0 || context == trained) return;
  Note(absl::StrCat("context ", context, " of the trained ", trained, "; --ctx=N changes it"));
}

}  // namespace

void NoteContext(const Source& source, const CompileFlags& flags) {
  if (source.model) NoteContext(source.model->context, source.model->config.trained_context, flags);
}

void NoteContext(const CompiledModule& module, const CompileFlags& flags) {
  const int64_t context = ContextOf(module), trained = module.metadata().trained_context();
  if (context != 0 && trained != 0) NoteContext(context, trained, flags);
}

int64_t ContextOf(const CompiledModule& module) {
  for (const LoadedEntry& entry : module.entries()) {
    if (entry.states.empty()) continue;
    const LoadedState& state = entry.states[0];
    return state.dims[static_cast<size_t>(state.page_axis)];
  }
  return 0;
}

int64_t KvBytesPerToken(const CompiledModule& module) {
  const std::vector<LoadedEntry>& entries = module.entries();
  auto entry =
      std::find_if(entries.begin(), entries.end(), [](const LoadedEntry& e) { return Serves(e.name, "main"); });
  if (entry == entries.end()) entry = entries.begin();
  int64_t bytes = 0;
  if (entry == entries.end()) return bytes;
  for (const LoadedState& s : entry->states) bytes += s.bytes / s.dims[static_cast<size_t>(s.page_axis)];
  return bytes;
}

}  // namespace sinter
