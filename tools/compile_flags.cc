#include "tools/compile_flags.h"

#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "backend/placement.h"
#include "base/escape.h"
#include "base/status.h"
#include "ir/text.h"
#include "passes/plan_check.h"
#include "runtime/cpu.h"
#include "tools/console.h"

namespace sinter {

std::string CompileFlags::PipelineText() const { return passes ? *passes : absl::StrCat("O", opt_level); }

std::string CompileFlags::Canonical() const {
  std::string text =
      absl::StrCat("--passes=", PipelineText(), " --ctx=", context, " --chunk=", chunk, " --precision=", precision);
  if (!kv.empty()) absl::StrAppend(&text, " --kv=", kv);
  if (!disable.empty()) absl::StrAppend(&text, " --disable=", absl::StrJoin(disable, ","));
  return text;
}

bool CompileFlags::WatchesPasses() const {
  return check_each || stats || time || !print_after.empty() || !dump_dir.empty() || !stop_after.empty() ||
         !explain.empty();
}

CLI::Option* AddText(CLI::App& app, const std::string& names, std::optional<std::string>& value,
                     const std::string& help) {
  // Not the optional itself: CLI11 reads an empty text into no value.
  return app.add_option_function<std::string>(
      names, [&value](const std::string& text) { value = text; }, help);
}

CLI::Option* AddList(CLI::App& app, const std::string& names, std::vector<std::string>& values,
                     const std::string& help) {
  return app.add_option(names, values, help)->delimiter(',')->allow_extra_args(false);
}

CLI::Validator AtLeast(int64_t min) {
  return CLI::Validator(
      [min](const std::string& text) {
        int64_t value;
        if (absl::SimpleAtoi(text, &value) && value >= min) return std::string();
        return absl::StrCat("found \"", text, "\", expected an integer from ", min, " on");
      },
      "");
}

void AddPassFlags(CLI::App& app, CompileFlags& flags) {
  app.add_option("--target", flags.target,
                 "CPUs to make code for: native, or names separated by commas (avx2, avx512, ...)")
      ->type_name("LIST")
      ->capture_default_str();
  AddText(app, "--passes", flags.passes,
          "The pipeline as text: passes and named pipelines separated by commas; empty runs none (see opt "
          "--list-passes)")
      ->type_name("LIST");
  AddList(app, "--disable", flags.disable, "Passes to leave out: PASS, or PASS:n for its n-th occurrence")
      ->type_name("LIST");
  app.add_option("--stop-after", flags.stop_after, "Stop after PASS, or PASS:n")->type_name("PASS");
  app.add_option("--print-after", flags.print_after,
                 "Print the module to stderr after each pass that changed it (changed), after each (all), or after "
                 "PASS")
      ->type_name("WHICH");
  app.add_option("--dump-dir", flags.dump_dir,
                 "Write 000.import.sir, and NNN.PASS.sir for each pass that changed something")
      ->type_name("DIR");
  app.add_flag("--check-each", flags.check_each, "Run the reference evaluator before and after each pass and compare");
  app.add_option("--explain", flags.explain,
                 "Say on stderr how often a rewrite rule, or each of a pass, rewrote something, and where its best "
                 "partial match stopped")
      ->type_name("RULE|PASS");
  app.add_flag("--stats", flags.stats, "Say on stderr what each pass changed, and what each rule tried");
  app.add_flag("--time", flags.time, "Say on stderr how long each pass took");
}

void AddCompileFlags(CLI::App& app, CompileFlags& flags) {
  app.add_option("-O", flags.opt_level, "Optimization: -O0 runs the plain graph, -O1, -O2; --passes replaces it")
      ->type_name("LEVEL")
      ->check(CLI::Range(0, 2))
      ->capture_default_str();
  app.add_option("--ctx", flags.context,
                 "Positions of the KV cache (default: the smaller of the trained context and 4096)")
      ->type_name("N")
      ->check(AtLeast(1));
  app.add_option("--chunk", flags.chunk, "Tokens that one step takes at most")
      ->type_name("N")
      ->check(AtLeast(1))
      ->capture_default_str();
  app.add_option(
         "--kv", flags.kv,
         "Element type of the KV cache; q8_0: 34 bytes for 32 elements (default: f32 for F32 weights, else f16)")
      ->type_name("TYPE")
      ->check(CLI::IsMember({"f32", "f16", "q8_0"}));
  app.add_option("--precision", flags.precision,
                 "fast rounds rows and weights of products with f16 or bf16 weights to bf16, for CPUs that multiply "
                 "those twice as fast, and rows of products with quantized weights to 8-bit integers; exact is f32 "
                 "throughout")
      ->type_name("MODE")
      ->check(CLI::IsMember({"fast", "exact"}))
      ->capture_default_str();
  AddPassFlags(app, flags);
}

void AddReportFormat(CLI::App& app, std::string& format) {
  app.add_option("-o,--output", format, "md or json")
      ->type_name("FORMAT")
      ->check(CLI::IsMember({"md", "json"}))
      ->capture_default_str();
}

std::vector<std::string> ReversedArguments(const std::vector<std::string>& arguments) {
  std::vector<std::string> result;
  bool only_positionals = false;
  for (std::string argument : arguments) {
    only_positionals |= argument == "--";
    if (!only_positionals && argument.size() > 3 && argument.substr(0, 2) == "--" &&
        argument.find('=') == argument.size() - 1) {
      argument.pop_back();
      result.push_back(argument);
      argument.clear();
    }
    result.push_back(argument);
  }
  return {result.rbegin(), result.rend()};
}

absl::StatusOr<CompileFlags> WithFlags(CompileFlags flags, const std::string& name, const std::string& text) {
  CLI::App app;
  app.set_help_flag();
  AddCompileFlags(app, flags);
  try {
    app.parse(ReversedArguments(CLI::detail::split_up(text)));
  } catch (const CLI::ParseError& error) {
    return absl::OutOfRangeError(absl::StrCat(name, "=\"", text, "\": ", error.what(),
                                              "; expected flags of compile, such as --precision=exact --kv=f32"));
  }
  return flags;
}

void AddMemoryFlags(CLI::App& app, MemoryFlags& flags) {
  app.add_flag("--huge-pages", flags.huge_pages,
               "First copy the weights to huge pages, for file systems that do not map files so: large models generate "
               "faster there, and start a second or two a GB later");
  app.add_flag("--perf-map", flags.perf_map, "Write /tmp/perf-PID.map, from which perf knows kernels by name");
}

absl::StatusOr<MemoryNeed> Prepare(const CompiledModule& module, const std::string& path, const MemoryFlags& flags,
                                   int threads, absl::Span<const MemoryNeed> beside) {
  const bool in_memory = !IsCompiled(path) && module.path() == path;  // otherwise a file, or the cache's file of it
  MemoryNeed need = NeedToRun(module, threads,
                              flags.huge_pages ? WeightsPlace::kCopy
                              : in_memory      ? WeightsPlace::kMemory
                                               : WeightsPlace::kFile);
  const char* const change = IsText(path) ? "" : IsCompiled(path) ? "module compiled with --ctx" : "--ctx";
  SINTER_RETURN_IF_ERROR(CheckMemory(path, need, MemoryLimits(), change, beside));
  if (flags.perf_map) SINTER_RETURN_IF_ERROR(module.WritePerfMap());
  if (flags.huge_pages) SINTER_RETURN_IF_ERROR(module.MoveWeightsToHugePages(threads));
  need.weights = WeightsPlace::kMemory;
  return need;
}

void AddPinFlag(CLI::App& app, PinFlag& flag) {
  app.add_flag("--pin", flag.pin,
               "Keep each thread on a CPU of its own, in the order of those on which the process may run");
}

absl::Status FindCpus(PinFlag& flag, int64_t threads) {
  if (!flag.pin) return absl::OkStatus();
  flag.cpus = AffinityCpus();
  if (static_cast<size_t>(threads) <= flag.cpus.size()) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat("--pin: ", threads, " threads, but the process may run on ",
                                            flag.cpus.size(), flag.cpus.size() == 1 ? " CPU" : " CPUs"));
}

bool IsCompiled(const std::string& path) { return absl::EndsWith(path, ".sinter"); }
bool IsText(const std::string& path) { return absl::EndsWith(path, ".sir") || path == "-"; }

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

std::string TargetsFor(const Source& source, const CompileFlags& flags) {
  return flags.target == "native" && !source.target.empty() ? source.target : flags.target;
}

absl::StatusOr<Source> OpenText(const std::string& path) {
  Source source;
  source.path = path == "-" ? "/dev/stdin" : path;
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
  if (source.module->stage != Stage::kPlanned) {
    return absl::OutOfRangeError(absl::StrCat("the passes leave the module at stage ", StageName(source.module->stage),
                                              "; code needs stage planned: end them with select-kernels,plan-barriers,"
                                              "plan-buffers, or leave out --passes and --stop-after"));
  }
  const absl::Status status = CheckPlan(*source.module);
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

absl::StatusOr<std::shared_ptr<const CompiledModule>> OpenExecutable(const std::string& path, const CompileFlags& flags,
                                                                     const std::string& command) {
  if (IsCompiled(path)) {
    if (flags.Canonical() != CompileFlags().Canonical()) {
      Note(absl::StrCat(path, " is compiled already: flags that shape code have no effect on it"));
    }
    return CompiledModule::Open(path, flags.target == "native" ? "" : flags.target);
  }
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
  const int64_t trained = module.metadata().trained_context();
  for (const LoadedEntry& entry : module.entries()) {
    if (trained == 0 || entry.states.empty()) continue;
    const LoadedState& state = entry.states[0];
    return NoteContext(state.dims[static_cast<size_t>(state.page_axis)], trained, flags);
  }
}

}  // namespace sinter
