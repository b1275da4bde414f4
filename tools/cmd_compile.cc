// sinter compile: a model becomes a compiled module, or any form on the way there (--emit).
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "backend/object.h"
#include "base/status.h"
#include "ir/text.h"
#include "tools/command.h"
#include "tools/compile_flags.h"
#include "tools/console.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;

struct EmitCompileFlags {
  std::string model, output, weights, emit = "module", command;
  CompileFlags compile;
};

// Text forms of the code of one kernel for one target.
using CodeText = absl::StatusOr<std::string> (*)(const Emitted&, const Target&, Effort);

struct EmitKind {
  const char* name;
  std::optional<Stage> last;  // the stage whose last pass the text is printed after; none: all passes run
  CodeText code;              // null: the module's own text, or, for "module" and "obj", bytes
  const char* doc;
};
constexpr EmitKind kEmitKinds[] = {
    {"module", std::nullopt, nullptr, "a compiled module"},
    {"sir", Stage::kGraph, nullptr, "the graph after its last pass, as text"},
    {"kernels", Stage::kKernels, nullptr, "the steps before buffers are planned, as text"},
    {"planned", std::nullopt, nullptr, "the planned steps, as text"},
    {"llvm", std::nullopt, [](const Emitted& kernel, const Target&, Effort) { return IrText(kernel); },
     "LLVM IR of all kernels"},
    {"asm", std::nullopt, CompileToAssembly, "assembly of all kernels"},
    {"obj", std::nullopt, nullptr, "a folder -o with TARGET/KERNEL.o, one ELF object a kernel"},
};

const EmitKind& FindEmit(const std::string& name) {
  for (const EmitKind& kind : kEmitKinds) {
    if (name == kind.name) return kind;
  }
  return kEmitKinds[0];
}

// Steps by kernel, "main: %q %k %v; main.1: %q".
std::vector<std::string> StepsOf(const Module& module, const KernelTable& table) {
  std::vector<std::map<std::string, std::string>> steps(table.kernels.size());
  for (GraphId id : module.entries()) {
    const Graph& graph = module.graph(id);
    for (OpId op : graph.order()) {
      const auto found = table.index.find({id, op});
      if (found == table.index.end()) continue;
      absl::StrAppend(&steps[found->second][graph.name()], " %", graph.value(graph.op(op).results[0]).name);
    }
  }
  std::vector<std::string> texts;
  for (const auto& by_graph : steps) {
    texts.push_back(absl::StrJoin(by_graph, "; ", [](std::string* out, const auto& entry) {
      absl::StrAppend(out, "@", entry.first, ":", entry.second);
    }));
  }
  return texts;
}

absl::Status EmitText(const EmitCompileFlags& flags, const Source& source, CodeText code) {
  const Module& module = *source.module;
  SINTER_ASSIGN_OR_RETURN(const KernelTable table, CollectKernels(module));
  SINTER_ASSIGN_OR_RETURN(const std::vector<const Target*> targets, ParseTargets(TargetsFor(source, flags.compile)));
  const std::vector<std::string> steps = StepsOf(module, table);
  const char* const comment = flags.emit == "llvm" ? "; " : "# ";
  std::string text;
  ProgressLine progress;
  for (const Target* target : targets) {
    for (size_t i = 0; i < table.kernels.size(); ++i) {
      const PlannedKernel& kernel = table.kernels[i];
      progress.Update("kernels", static_cast<int64_t>(i), static_cast<int64_t>(table.kernels.size()));
      Emitted emitted;
      SINTER_RETURN_IF_ERROR(EmitKernel(kernel, *target, module.dims, emitted));
      SINTER_ASSIGN_OR_RETURN(const std::string body, code(emitted, *target, EffortFor(kernel, module.dims)));
      std::vector<std::string> tiles;
      for (const std::string& tile : TilesOf(kernel)) {
        if (absl::StartsWith(tile, absl::StrCat(target->name, ":"))) tiles.push_back(tile);
      }
      absl::StrAppend(&text, comment, "kernel ", kernel.symbol, "  family ", kernel.spec.family, "  target ",
                      target->name, "  tile ", tiles.empty() ? "none" : absl::StrJoin(tiles, " "), "\n", comment,
                      "steps ", steps[i], "\n", body, absl::EndsWith(body, "\n") ? "\n" : "\n\n");
    }
  }
  return WriteResult(flags.output, text);
}

absl::Status EmitObjects(const EmitCompileFlags& flags, const Source& source) {
  const Module& module = *source.module;
  SINTER_ASSIGN_OR_RETURN(const KernelTable table, CollectKernels(module));
  SINTER_ASSIGN_OR_RETURN(const std::vector<const Target*> targets, ParseTargets(TargetsFor(source, flags.compile)));
  for (const Target* target : targets) {
    const fs::path folder = fs::path(flags.output) / std::string(target->name);
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) return absl::NotFoundError(absl::StrCat(folder.string(), ": cannot create: ", error.message()));
    for (const PlannedKernel& kernel : table.kernels) {
      Emitted emitted;
      SINTER_RETURN_IF_ERROR(EmitKernel(kernel, *target, module.dims, emitted));
      SINTER_ASSIGN_OR_RETURN(const std::string object,
                              CompileToObject(emitted, *target, EffortFor(kernel, module.dims)));
      SINTER_RETURN_IF_ERROR(WriteResult((folder / (kernel.symbol + ".o")).string(), object));
    }
  }
  Note(absl::StrCat(flags.output, ": ", table.kernels.size(), " kernels for ", TargetsFor(source, flags.compile)));
  return absl::OkStatus();
}

absl::Status EmitModule(const EmitCompileFlags& flags, const Source& source,
                        std::chrono::steady_clock::time_point start) {
  SINTER_ASSIGN_OR_RETURN(const OutputFile file, CompileSource(source, flags.compile, flags.command, flags.output));
  SINTER_ASSIGN_OR_RETURN(const auto module, CompiledModule::OpenForInspection(flags.output));
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
  if (IsCompiled(flags.model)) {
    return absl::OutOfRangeError(
        absl::StrCat(flags.model, " is compiled already; give the model that it was made from"));
  }
  SINTER_RETURN_IF_ERROR(ParseTargets(flags.compile.target).status());
  SINTER_ASSIGN_OR_RETURN(Source source, OpenSource(flags.model, flags.compile, flags.weights));
  NoteContext(source, flags.compile);
  SINTER_ASSIGN_OR_RETURN(std::vector<const PassInfo*> passes, PassesFrom(flags.compile, source.module->stage));
  if (kind.last) {
    while (!passes.empty() && passes.back()->to > *kind.last) passes.pop_back();
  }
  SINTER_RETURN_IF_ERROR(RunPasses(source, flags.compile, passes).status());
  if (kind.code != nullptr || flags.emit == "obj") {
    if (source.module->stage != Stage::kPlanned) {
      return absl::OutOfRangeError(absl::StrCat("--emit=", flags.emit,
                                                " needs a module at stage planned; the passes leave it at ",
                                                StageName(source.module->stage)));
    }
    return kind.code != nullptr ? EmitText(flags, source, kind.code) : EmitObjects(flags, source);
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
  verb->add_option("--weights", flags->weights, "The model whose weights IR text uses, in place of the one it names")
      ->type_name("MODEL");
  AddCompileFlags(*verb, flags->compile);
  verb->callback([flags, &action] {
    flags->command = action.command_line;
    action.run = [flags] { return CompileVerb(*flags); };
  });
}

}  // namespace sinter
