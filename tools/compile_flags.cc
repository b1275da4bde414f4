#include "tools/compile_flags.h"

#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "ir/text.h"
#include "runtime/cpu.h"
#include "tools/console.h"

namespace sinter {

std::string CompileFlags::PipelineText() const { return passes ? *passes : absl::StrCat("O", opt_level); }

std::string CompileFlags::Canonical() const {
  std::string text = absl::StrCat("--passes=", PipelineText(), " --ctx=", context, " --chunk=", chunk, " --precision=", precision);
  if (!kv.empty()) absl::StrAppend(&text, " --kv=", kv);
  if (!disable.empty()) absl::StrAppend(&text, " --disable=", absl::StrJoin(disable, ","));
  return text;
}

void AddCompileFlags(CLI::App& app, CompileFlags& flags) {
  app.add_option("--target", flags.target, "CPUs to make code for: native, or names separated by commas (avx2, avx512, ...)")
      ->type_name("LIST")->capture_default_str();
  app.add_option("--ctx", flags.context, "Positions of the KV cache (default: the smaller of the trained context and 4096)")
      ->type_name("N")->check(CLI::PositiveNumber);
  app.add_option("--chunk", flags.chunk, "Tokens that one step takes at most")->type_name("N")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--kv", flags.kv, "Element type of the KV cache (default: f32 for F32 weights, else f16)")
      ->check(CLI::IsMember({"f32", "f16", "q8_0"}));
  app.add_option("--precision", flags.precision, "fast lets kernels round activations to the weights' precision; exact is f32 throughout")
      ->check(CLI::IsMember({"fast", "exact"}))->capture_default_str();
  app.add_option("-O", flags.opt_level, "Optimization: -O0 runs the plain graph, -O1, -O2")
      ->type_name("LEVEL")->check(CLI::Range(0, 2))->capture_default_str();
  app.add_option("--passes", flags.passes, "The pipeline as text, in place of -O: passes separated by commas (see opt --list-passes)")->type_name("LIST");
  app.add_option("--disable", flags.disable, "Passes to leave out: PASS, or PASS:n for its n-th occurrence")->type_name("LIST")->delimiter(',');
  app.add_option("--stop-after", flags.stop_after, "Stop after PASS, or PASS:n")->type_name("PASS");
  app.add_option("--print-after", flags.print_after, "Print the module after each pass that changed it (changed), after each (all), or after PASS")
      ->type_name("WHICH");
  app.add_option("--dump-dir", flags.dump_dir, "Write 000.import.sir, and NNN.PASS.sir for each pass that changed something")->type_name("DIR");
  app.add_flag("--check-each", flags.check_each, "Run the reference evaluator before and after each pass and compare");
  app.add_flag("--stats", flags.stats, "Say what each pass changed");
  app.add_flag("--time", flags.time, "Say how long each pass took");
}

bool IsCompiled(const std::string& path) { return absl::EndsWith(path, ".sinter"); }

absl::StatusOr<Source> OpenSource(const std::string& path, const CompileFlags& flags, const std::string& weights_path) {
  Source source;
  source.path = path;
  if (absl::EndsWith(path, ".sir")) {
    SINTER_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
    SINTER_ASSIGN_OR_RETURN(source.module, Parse(text, path));
    const std::string weights = !weights_path.empty() ? weights_path : source.module->weights ? source.module->weights->path : "";
    if (!weights.empty()) {
      SINTER_ASSIGN_OR_RETURN(source.weights, OpenWeights(weights));
    }
    return source;
  }
  ImportOptions options;
  options.context = flags.context;
  options.chunk = flags.chunk;
  if (!flags.kv.empty()) options.kv = ParseDType(flags.kv);
  SINTER_ASSIGN_OR_RETURN(source.model, OpenModel(path, options));
  source.module = std::move(source.model->module);
  source.weights = std::move(source.model->weights);
  return source;
}

absl::StatusOr<std::vector<PassRecord>> RunPasses(Source& source, const CompileFlags& flags) {
  SINTER_ASSIGN_OR_RETURN(auto passes, ParsePipeline(flags.PipelineText(), source.module->stage));
  PassContext context;
  SINTER_ASSIGN_OR_RETURN(context.targets, ParseTargets(flags.target));
  PipelineOptions options;
  options.disable = flags.disable;
  options.stop_after = flags.stop_after;
  options.print_after = flags.print_after;
  options.dump_dir = flags.dump_dir;
  options.check_each = flags.check_each;
  if (source.weights != nullptr) options.weights = MakeWeightReader(*source.weights);
  options.out = [](absl::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); };
  SINTER_ASSIGN_OR_RETURN(std::vector<PassRecord> records, RunPipeline(*source.module, passes, context, options));
  if (flags.stats || flags.time) std::fputs(FormatRecords(records, flags.time, flags.stats).c_str(), stderr);
  return records;
}

absl::StatusOr<OutputFile> CompileSource(const Source& source, const CompileFlags& flags, const std::string& command,
                                         const std::string& output) {
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
  SINTER_ASSIGN_OR_RETURN(options.targets, ParseTargets(flags.target));
  options.threads = DefaultThreads().threads;
  ProgressLine progress;
  options.progress = [&](absl::string_view what, int64_t done, int64_t total) { progress.Update(what, done, total); };
  if (source.weights != nullptr) {
    const WeightSource& weights = *source.weights;
    options.weights = [&weights](const std::string& name, int64_t begin, int64_t end, absl::Span<uint8_t> out) {
      return weights.Read(name, begin, end, out);
    };
    options.weight_done = [&weights](const std::string& name) { weights.Done(name); };
  }
  SINTER_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(output));
  return Compile(*source.module, info, options, std::move(file));
}

absl::StatusOr<std::shared_ptr<const CompiledModule>> OpenExecutable(const std::string& path, const CompileFlags& flags,
                                                                     const std::string& weights_path) {
  if (IsCompiled(path)) return CompiledModule::Open(path, flags.target == "native" ? "" : flags.target);
  SINTER_ASSIGN_OR_RETURN(Source source, OpenSource(path, flags, weights_path));
  if (source.model && flags.context == 0 && source.model->context < source.model->config.trained_context) {
    Note(absl::StrCat("context ", source.model->context, " of the trained ", source.model->config.trained_context,
                      "; --ctx=N changes it"));
  }
  SINTER_RETURN_IF_ERROR(RunPasses(source, flags).status());
  SINTER_ASSIGN_OR_RETURN(OutputFile file, CompileSource(source, flags, absl::StrCat("sinter compile ", path, " ", flags.Canonical()), ""));
  SINTER_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::FromDescriptor(file.descriptor(), path));
  return CompiledModule::FromFile(std::move(mapped));
}

}  // namespace sinter
