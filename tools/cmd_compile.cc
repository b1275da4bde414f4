// sinter compile: a model becomes a compiled module, or any form on the way there (--emit).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "backend/codegen.h"
#include "backend/kernel_reason.h"
#include "base/escape.h"
#include "base/status.h"
#include "ir/text.h"
#include "tools/command.h"
#include "tools/compile_flags.h"
#include "tools/compile_source.h"
#include "tools/console.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;

struct EmitCompileFlags {
  std::string model, output, weights, emit = "module", kernel, command;
  CompileFlags compile;
};

struct EmitKind {
  const char* name;
  std::optional<Stage> last;     // the stage whose last pass the text is printed after; none: all passes run
  std::optional<CodeForm> code;  // none: the module's own text, or, for "module" and "obj", bytes
  const char* doc;
};
constexpr EmitKind kEmitKinds[] = {
    {"module", std::nullopt, std::nullopt, "a compiled module"},
    {"sir", Stage::kGraph, std::nullopt, "the graph after its last pass, as text"},
    {"kernels", Stage::kKernels, std::nullopt, "the steps before buffers are planned, as text"},
    {"planned", std::nullopt, std::nullopt, "the planned steps, as text"},
    {"llvm", std::nullopt, CodeForm::kLlvmIr, "LLVM IR of the kernels"},
    {"asm", std::nullopt, CodeForm::kAssembly,
     "assembly of the kernels, each with its tile, its steps and what decided them"},
    {"obj", std::nullopt, std::nullopt, "a folder -o with TARGET/KERNEL.o, one ELF object a kernel"},
};

const EmitKind& FindEmit(const std::string& name) {
  for (const EmitKind& kind : kEmitKinds) {
    if (name == kind.name) return kind;
  }
  return kEmitKinds[0];
}

// The values that a kernel makes: by entry, as "%q".
using Steps = std::map<std::string, std::vector<std::string>>;

// Steps by kernel.
std::vector<Steps> StepsOf(const Module& module, const KernelTable& table) {
  std::vector<Steps> steps(table.kernels.size());
  for (GraphId id : module.entries()) {
    const Graph& graph = module.graph(id);
    for (OpId op : graph.order()) {
      const auto found = table.index.find({id, op});
      if (found == table.index.end()) continue;
      steps[found->second][graph.name()].push_back(absl::StrCat("%", graph.value(graph.op(op).results[0]).name));
    }
  }
  return steps;
}

// "@main: %q %k %v; @main.1: %q".
std::string ToText(const Steps& steps) {
  return absl::StrJoin(steps, "; ", [](std::string* out, const auto& entry) {
    absl::StrAppend(out, "@", entry.first, ": ", absl::StrJoin(entry.second, " "));
  });
}

// Whether --kernel means this one: the start of its symbol, its body or a value that it makes.
bool IsNamed(const PlannedKernel& kernel, const Steps& steps, const std::string& name) {
  if (absl::StartsWith(kernel.symbol, name) || absl::StrCat("@", kernel.spec.body->name()) == name) return true;
  return std::any_of(steps.begin(), steps.end(), [&](const auto& entry) {
    return std::find(entry.second.begin(), entry.second.end(), name) != entry.second.end();
  });
}

absl::Status EmitText(const EmitCompileFlags& flags, const Source& source, CodeForm form) {
  const Module& module = *source.module;
  SINTER_ASSIGN_OR_RETURN(const KernelTable table, CollectKernels(module));
  SINTER_ASSIGN_OR_RETURN(const std::vector<const Target*> targets, ParseTargets(TargetsFor(source, flags.compile)));
  SINTER_ASSIGN_OR_RETURN(const Codegen* codegen, GetCodegen());
  const std::vector<Steps> steps = StepsOf(module, table);
  const char* const comment = flags.emit == "llvm" ? "; " : "# ";
  std::string text;
  ProgressLine progress;
  for (const Target* target : targets) {
    for (size_t i = 0; i < table.kernels.size(); ++i) {
      const PlannedKernel& kernel = table.kernels[i];
      if (!flags.kernel.empty() && !IsNamed(kernel, steps[i], flags.kernel)) continue;
      progress.Update("kernels", static_cast<int64_t>(i), static_cast<int64_t>(table.kernels.size()));
      const Effort effort = EffortFor(kernel, *target, module.dims);
      SINTER_ASSIGN_OR_RETURN(const std::string body, codegen->Generate({&kernel}, *target, module.dims, effort, form));
      std::vector<std::string> tiles;
      for (const std::string& tile : TilesOf(kernel)) {
        if (absl::StartsWith(tile, absl::StrCat(target->name, ":"))) tiles.push_back(tile);
      }
      absl::StrAppend(&text, comment, "kernel ", kernel.symbol, "  body @", Escaped(kernel.spec.body->name()),
                      "  family ", kernel.spec.family, "  target ", target->name, "  tile ",
                      tiles.empty() ? "none" : absl::StrJoin(tiles, " "), "  effort ",
                      effort == Effort::kFull ? "full" : "light", "\n", comment, "steps ", ToText(steps[i]), "\n");
      for (const std::string& reason : ReasonsFor(kernel.spec, module.dims)) {
        absl::StrAppend(&text, comment, "why ", reason, "\n");
      }
      absl::StrAppend(&text, body, absl::EndsWith(body, "\n") ? "\n" : "\n\n");
    }
  }
  if (text.empty() && !flags.kernel.empty()) {
    return absl::OutOfRangeError(
        absl::StrCat("--kernel: no kernel is called \"", flags.kernel, "\"; there are ",
                     absl::StrJoin(table.kernels, ", ", [](std::string* out, const PlannedKernel& kernel) {
                       absl::StrAppend(out, kernel.symbol, " (@", kernel.spec.body->name(), ")");
                     })));
  }
  return WriteResult(flags.output, EscapedLines(text));
}

absl::Status EmitObjects(const EmitCompileFlags& flags, const Source& source) {
  const Module& module = *source.module;
  SINTER_ASSIGN_OR_RETURN(const KernelTable table, CollectKernels(module));
  SINTER_ASSIGN_OR_RETURN(const std::vector<const Target*> targets, ParseTargets(TargetsFor(source, flags.compile)));
  SINTER_ASSIGN_OR_RETURN(const Codegen* codegen, GetCodegen());
  for (const Target* target : targets) {
    const fs::path folder = fs::path(flags.output) / std::string(target->name);
    SINTER_RETURN_IF_ERROR(CreateFolders(folder.string()));
    for (const PlannedKernel& kernel : table.kernels) {
      SINTER_ASSIGN_OR_RETURN(const std::string object,
                              codegen->Generate({&kernel}, *target, module.dims,
                                                EffortFor(kernel, *target, module.dims), CodeForm::kObject));
      SINTER_RETURN_IF_ERROR(WriteResult((folder / (kernel.symbol + ".o")).string(), object));
    }
  }
  Note(absl::StrCat(flags.output, ": ", table.kernels.size(), " kernels for ", TargetNames(targets)));
  return absl::OkStatus();
}

absl::Status EmitModule(const EmitCompileFlags& flags, const Source& source,
                        std::chrono::steady_clock::time_point start) {
  SINTER_ASSIGN_OR_RETURN(const OutputFile file, CompileSource(source, flags.compile, flags.command, flags.output));
  // By its descriptor: the name may lead elsewhere now, as /dev/stdout does.
  SINTER_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::FromDescriptor(file.descriptor(), flags.output));
  SINTER_ASSIGN_OR_RETURN(const auto module, CompiledModule::OpenForInspection(std::move(mapped)));
  std::vector<std::string> targets;
  for (const fbs::Image* image : *module->metadata().images()) targets.push_back(image->target()->str());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  Note(absl::StrFormat("wrote %s: %s, %d kernels for %s, %.2f s", flags.output,
                       HumanBytes(static_cast<double>(module->file_bytes())), module->metadata().kernels()->size(),
                       absl::StrJoin(targets, ", "), seconds));
  return absl::OkStatus();
}

absl::Status CompileVerb(const EmitCompileFlags& flags) {
  const auto start = std::chrono::steady_clock::now();
  const EmitKind& kind = FindEmit(flags.emit);
  if (flags.output.empty() && (flags.emit == "module" || flags.emit == "obj")) {
    return absl::OutOfRangeError(flags.emit == "obj" ? "--emit=obj needs a folder: -o DIR"
                                                     : "say where to: -o OUT.sinter");
  }
  if (!flags.kernel.empty() && !kind.code) {
    return absl::OutOfRangeError("--kernel chooses what --emit=asm and --emit=llvm print");
  }
  if (IsCompiled(flags.model)) {
    return absl::OutOfRangeError(
        absl::StrCat(flags.model, " is compiled already; give the model that it was made from"));
  }
  const OutputForm form = flags.emit == "obj"      ? OutputForm::kFolder
                          : flags.emit == "module" ? OutputForm::kBytes
                                                   : OutputForm::kText;
  SINTER_RETURN_IF_ERROR(CheckOutput(flags.output, form, {flags.model, flags.weights}));
  SINTER_RETURN_IF_ERROR(ParseTargets(flags.compile.target).status());
  const std::jthread prepares = kind.last || flags.emit == "planned" ? std::jthread() : PrepareToCompile();
  SINTER_ASSIGN_OR_RETURN(Source source, OpenSource(flags.model, flags.compile, flags.weights));
  if (source.weights) SINTER_RETURN_IF_ERROR(CheckOutput(flags.output, form, {source.weights->path()}));
  NoteContext(source, flags.compile);
  SINTER_ASSIGN_OR_RETURN(std::vector<const PassInfo*> passes, PassesFrom(flags.compile, source.module->stage));
  if (kind.last) {
    while (!passes.empty() && passes.back()->to > *kind.last) passes.pop_back();
  }
  SINTER_RETURN_IF_ERROR(RunPasses(source, flags.compile, passes).status());
  if (kind.code || flags.emit == "obj") {
    if (source.module->stage != Stage::kPlanned) {
      return absl::OutOfRangeError(absl::StrCat("--emit=", flags.emit,
                                                " needs a module at stage planned; the passes leave it at ",
                                                StageName(source.module->stage)));
    }
    return kind.code ? EmitText(flags, source, *kind.code) : EmitObjects(flags, source);
  }
  if (flags.emit == "module") return EmitModule(flags, source, start);
  return WriteResult(flags.output, Print(*source.module));
}

}  // namespace

void AddCompile(CLI::App& program, Action& action) {
  auto flags = std::make_shared<EmitCompileFlags>();
  CLI::App* verb =
      program.add_subcommand("compile", "Compile a model into a .sinter file, or any form on the way there");
  verb->add_option("MODEL", flags->model, "A .gguf, preset:NAME, or IR text (.sir, or - for stdin)")->required();
  verb->add_option("-o,--output", flags->output, "Where to; text goes to stdout without it")->type_name("OUT");
  std::vector<std::string> names;
  std::string help = "What to write:";
  for (const EmitKind& kind : kEmitKinds) {
    names.emplace_back(kind.name);
    absl::StrAppend(&help, names.size() == 1 ? " " : "; ", kind.name, " is ", kind.doc);
  }
  verb->add_option("--emit", flags->emit, help)->type_name("FORM")->check(CLI::IsMember(names))->capture_default_str();
  verb->add_option(
          "--kernel", flags->kernel,
          "Of --emit=asm and llvm only the kernels called NAME: the start of a symbol (gemm_9f2c, attend), the "
          "name of a body (@k_gemm) or of a value that it makes (%q)")
      ->type_name("NAME");
  verb->add_option("--weights", flags->weights, "The model whose weights IR text uses, in place of the one it names")
      ->type_name("MODEL");
  AddCompileFlags(*verb, flags->compile);
  verb->callback([flags, &action] {
    flags->command = action.command_line;
    action.run = [flags] { return CompileVerb(*flags); };
  });
}

}  // namespace sinter
