// sinter exec: one graph on tensors from .npy files, compiled or by the reference evaluator.
#include <cstdio>
#include <filesystem>
#include <map>
#include <set>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/escape.h"
#include "base/limits.h"
#include "base/status.h"
#include "tools/command.h"
#include "tools/compile_flags.h"
#include "tools/compile_source.h"
#include "tools/console.h"
#include "tools/exec_tensors.h"
#include "tools/npy.h"

namespace sinter {
namespace {

struct ExecFlags {
  std::string file, graph, weights, command;
  std::vector<std::string> dims, inputs, outputs;
  bool reference = false;
  int threads = 1;
  CompileFlags compile;
};

struct Binding {
  std::string name, path;
};

// NAME=@PATH; the name with or without its percent sign.
absl::StatusOr<Binding> ParseBinding(const char* flag, absl::string_view text) {
  const size_t at = text.find("=@");
  if (at == absl::string_view::npos || at == 0 || at + 2 == text.size()) {
    return absl::OutOfRangeError(absl::StrCat(flag, ": found \"", text, "\", expected NAME=@FILE.npy"));
  }
  return Binding{std::string(absl::StripPrefix(text.substr(0, at), "%")), std::string(text.substr(at + 2))};
}

// An output that is also read would be lost to whoever runs this again, and so would one whose file is another's.
absl::Status CheckOutputs(const ExecFlags& flags, absl::Span<const std::string> read) {
  std::map<std::string, std::string> names;  // by file
  for (const std::string& text : flags.outputs) {
    SINTER_ASSIGN_OR_RETURN(const Binding output, ParseBinding("--output", text));
    std::error_code error;
    const std::string file = std::filesystem::weakly_canonical(std::filesystem::absolute(output.path), error).string();
    const auto [other, is_new] = names.emplace(error ? output.path : file, output.name);
    if (!is_new) {
      return absl::OutOfRangeError(absl::StrCat("--output: %", other->second, " and %", output.name, " both go to ",
                                                output.path, "; give each a file of its own"));
    }
    SINTER_RETURN_IF_ERROR(CheckOutput(output.path, OutputForm::kBytes, read));
  }
  return absl::OkStatus();
}

absl::StatusOr<NamedTensors> ReadInputs(const ExecFlags& flags) {
  NamedTensors inputs;
  for (const std::string& text : flags.inputs) {
    SINTER_ASSIGN_OR_RETURN(const Binding binding, ParseBinding("--input", text));
    SINTER_RETURN_IF_ERROR(CheckOutputs(flags, {binding.path}));
    SINTER_ASSIGN_OR_RETURN(Tensor tensor, ReadNpy(binding.path));
    if (!inputs.emplace(binding.name, std::move(tensor)).second) {
      return absl::OutOfRangeError(absl::StrCat("--input: %", binding.name, " is given twice"));
    }
  }
  return inputs;
}

absl::StatusOr<NamedDims> ParseDims(const ExecFlags& flags) {
  NamedDims dims;
  for (const std::string& text : flags.dims) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(text, absl::MaxSplits('=', 1));
    int64_t value;
    if (!absl::SimpleAtoi(parts.second, &value) || value < 0) {
      return absl::OutOfRangeError(absl::StrCat("--dim: found \"", text, "\", expected NAME=N with N from 0"));
    }
    dims[parts.first] = value;
  }
  return dims;
}

// By the name of the returned value, by the state's name, or by place among the results that are no states.
const ExecResult* FindResult(absl::Span<const ExecResult> results, const std::string& name) {
  for (const ExecResult& result : results) {
    if (result.name == name) return &result;
  }
  int64_t index = 0;
  for (const ExecResult& result : results) {
    if (!result.state.empty() ? result.state == name : absl::StrCat(index++) == name) return &result;
  }
  return nullptr;
}

std::string Summary(const ExecResult& result) {
  constexpr size_t kShown = 8;
  std::string text = absl::StrCat("%", result.name, ": ", Info(result.tensor.dtype).name, "[",
                                  absl::StrJoin(result.tensor.dims, ","), "]");
  for (size_t i = 0; i < result.tensor.values.size() && i < kShown; ++i) {
    absl::StrAppendFormat(&text, " %.9g", result.tensor.values[i]);
  }
  return absl::StrCat(text, result.tensor.values.size() > kShown ? " ...\n" : "\n");
}

// A graph runs as it stands: only what it lacks on the way to code is added.
CompileFlags Defaults() {
  CompileFlags flags;
  flags.opt_level = 0;
  return flags;
}

absl::StatusOr<std::vector<ExecResult>> RunFile(const ExecFlags& flags, const NamedTensors& inputs,
                                                const NamedDims& dims, std::set<std::string> wanted) {
  const std::string graph_name(absl::StripPrefix(flags.graph, "@"));
  if (IsCompiled(flags.file)) {
    if (flags.reference) {
      return absl::OutOfRangeError("--reference evaluates IR text; a compiled module has none");
    }
    SINTER_RETURN_IF_ERROR(CheckWeightsFlag(flags.file, flags.weights));
    NoteCompiled(flags.file, flags.compile, Defaults());
    SINTER_ASSIGN_OR_RETURN(const auto module, OpenCompiled(flags.file, flags.compile));
    return ExecCompiled(module, graph_name, inputs, dims, wanted, flags.threads);
  }
  if (!flags.reference) SINTER_RETURN_IF_ERROR(CheckRunsHere(flags.compile));
  SINTER_ASSIGN_OR_RETURN(Source source, OpenSource(flags.file, flags.compile, flags.weights));
  if (source.weights) SINTER_RETURN_IF_ERROR(CheckOutputs(flags, {source.weights->path()}));
  SINTER_ASSIGN_OR_RETURN(const Graph* graph, ChooseGraph(*source.module, graph_name));
  if (flags.reference) {
    const bool asks = flags.compile.Canonical() != Defaults().Canonical() || flags.compile.WatchesPasses();
    if (flags.threads != 1 || (asks && !flags.compile.passes)) {
      Note("--reference evaluates the graph on one thread, and after no passes but those of --passes");
    }
    if (flags.compile.passes) SINTER_RETURN_IF_ERROR(RunPasses(source, flags.compile).status());
    SINTER_ASSIGN_OR_RETURN(graph, ChooseGraph(*source.module, graph_name));
    return ExecReference(*graph, inputs, dims, source.weights ? MakeWeightReader(*source.weights) : WeightReader());
  }
  IdMap<DimId, int64_t> bound;
  SINTER_RETURN_IF_ERROR(BindInputs(*graph, inputs, dims, bound).status());
  const std::string name = graph->name();
  std::vector<ExecResult> results = ResultsOf(*graph);
  for (const ExecResult& result : results) {
    if (wanted.count(result.name) != 0) wanted.insert(result.state);
  }
  SINTER_ASSIGN_OR_RETURN(const auto module, CompileInMemory(source, flags.compile, flags.command));
  SINTER_ASSIGN_OR_RETURN(std::vector<ExecResult> found,
                          ExecCompiled(module, name, inputs, dims, wanted, flags.threads));
  // Ordinary results keep their order, states their parameters' names.
  size_t next = 0;
  for (ExecResult& result : results) {
    if (result.state.empty()) {
      result.tensor = std::move(found[next++].tensor);
      continue;
    }
    for (ExecResult& state : found) {
      if (state.state == result.state) result.tensor = std::move(state.tensor);
    }
  }
  return results;
}

absl::Status Exec(const ExecFlags& flags) {
  SINTER_RETURN_IF_ERROR(CheckOutputs(flags, {flags.file, flags.weights}));
  SINTER_ASSIGN_OR_RETURN(const NamedTensors inputs, ReadInputs(flags));
  SINTER_ASSIGN_OR_RETURN(const NamedDims dims, ParseDims(flags));
  std::vector<Binding> outputs;
  std::set<std::string> wanted;
  for (const std::string& text : flags.outputs) {
    SINTER_ASSIGN_OR_RETURN(outputs.emplace_back(), ParseBinding("--output", text));
    wanted.insert(outputs.back().name);
  }
  SINTER_ASSIGN_OR_RETURN(const std::vector<ExecResult> results, RunFile(flags, inputs, dims, wanted));
  std::vector<const ExecResult*> chosen;
  for (const Binding& output : outputs) {
    chosen.push_back(FindResult(results, output.name));
    if (chosen.back() != nullptr) continue;
    return absl::OutOfRangeError(
        absl::StrCat("there is no output %", output.name, "; there are %",
                     absl::StrJoin(results, ", %", [](std::string* out, const ExecResult& r) { *out += r.name; })));
  }
  for (size_t i = 0; i < outputs.size(); ++i) SINTER_RETURN_IF_ERROR(WriteNpy(outputs[i].path, chosen[i]->tensor));
  if (!outputs.empty()) return absl::OkStatus();
  std::string text;
  for (const ExecResult& result : results) {
    if (result.state.empty()) text += Summary(result);
  }
  return WriteResult("", EscapedLines(text));
}

}  // namespace

void AddExec(CLI::App& program, Action& action) {
  auto flags = std::make_shared<ExecFlags>();
  flags->compile = Defaults();
  CLI::App* verb = program.add_subcommand("exec", "Run one graph on tensors from .npy files");
  verb->add_option("FILE", flags->file,
                   "IR text at any stage (.sir, or - for stdin), which then passes only the passes "
                   "that it still lacks; or a .sinter")
      ->required();
  verb->add_option("--graph", flags->graph, "The graph to run (default: @main, or the only entry)")->type_name("@NAME");
  verb->add_option("--weights", flags->weights, "The model whose weights are used, in place of the one that FILE names")
      ->type_name("MODEL");
  AddList(*verb, "--dim", flags->dims, "A dim that the inputs' shapes do not bind: P=0")->type_name("NAME=N");
  verb->add_option("--input", flags->inputs,
                   "A parameter's tensor; a state that is not given is empty; integers may be "
                   "int32 or int64; may be given again")
      ->type_name("NAME=@FILE.npy")
      ->allow_extra_args(false);
  verb->add_option("--output", flags->outputs,
                   "Where a result goes: by the name of the returned value, by its place "
                   "among the results that are no states (0, 1, ..), or by the name of a "
                   "state parameter; without it the first values of those are printed")
      ->type_name("NAME=@FILE.npy")
      ->allow_extra_args(false);
  verb->add_flag("--reference", flags->reference, "By the reference evaluator, without code");
  verb->add_option("-t,--threads", flags->threads, "Threads")
      ->type_name("N")
      ->check(AtLeast(1, limits::kThreads.most))
      ->capture_default_str();
  AddCompileFlags(*verb, flags->compile);
  verb->callback([flags, &action] {
    flags->command = action.command_line;
    action.run = [flags] { return Exec(*flags); };
  });
}

}  // namespace sinter
