// The `sinter` command line: one verb a file (cmd_VERB.cc).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/heap.h"
#include "frontend/presets.h"
#include "ir/diag.h"
#include "tools/command.h"
#include "tools/compile_flags.h"
#include "tools/console.h"
#include "tools/signals.h"

namespace sinter {
namespace {

// The command line as a shell would read it again.
std::string Quoted(int argc, char** argv) {
  std::string line = "sinter";
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const bool plain = !argument.empty() && argument.find_first_of(" \t\n\"'\\$`*?;&|<>(){}[]#~!") == std::string::npos;
    if (plain) {
      absl::StrAppend(&line, " ", argument);
      continue;
    }
    line += " '";
    for (char c : argument) line += c == '\'' ? std::string("'\\''") : std::string(1, c);
    line += "'";
  }
  return line;
}

// "; the nearest is --temp", or nothing where none is near.
std::string Nearest(absl::string_view word, absl::Span<const std::string> known) {
  size_t best = 1 + std::max<size_t>(2, word.size() / 3);
  std::string nearest;
  for (const std::string& name : known) {
    const size_t distance = EditDistance(word, name);
    if (distance < best) best = distance, nearest = name;
  }
  return nearest.empty() ? "" : absl::StrCat("; the nearest is ", nearest);
}

// What is wrong with arguments that nothing takes.
std::string Unexpected(const CLI::App& program) {
  const std::vector<CLI::App*> chosen = program.get_subcommands();
  const CLI::App& app = chosen.empty() ? program : *chosen[0];
  std::vector<std::string> arguments = app.remaining(), known;
  if (arguments.empty()) arguments = program.remaining();
  const auto is_flag = [](const std::string& argument) { return argument.size() > 1 && argument[0] == '-'; };
  auto first = std::find_if(arguments.begin(), arguments.end(), is_flag);
  if (chosen.empty() || first == arguments.end()) first = arguments.begin();
  if (first == arguments.end()) return "an argument was not expected";
  constexpr size_t kLongest = 64;
  const std::string word = first->substr(0, std::min(first->find('='), kLongest));
  if (is_flag(word)) {
    for (const CLI::Option* option : app.get_options()) {
      for (const std::string& name : option->get_lnames()) known.push_back(absl::StrCat("--", name));
    }
    return absl::StrCat("there is no flag ", word, Nearest(word, known));
  }
  if (!chosen.empty()) return absl::StrCat("\"", word, "\" is one argument too many");
  for (const CLI::App* verb : program.get_subcommands({})) known.push_back(verb->get_name());
  return absl::StrCat("there is no verb ", word, "; the verbs are ", absl::StrJoin(known, ", "), Nearest(word, known));
}

int Main(int argc, char** argv) {
  CLI::App program("Sinter compiles transformers for this CPU and runs them.");
  program.name("sinter");
  program.require_subcommand(0, 1);
  program.set_version_flag("--version", absl::StrCat("sinter ", SINTER_VERSION));
  Action action;
  action.command_line = Quoted(argc, argv);
  AddCompile(program, action);
  AddRun(program, action);
  AddBench(program, action);
  AddPerplexity(program, action);
  AddCompare(program, action);
  AddInspect(program, action);
  AddTokenize(program, action);
  AddOpt(program, action);
  AddExec(program, action);
  program.footer(absl::StrCat(  // after the verbs, which would inherit it
      "MODEL is a .gguf file, a compiled .sinter, or preset:NAME. `sinter VERB --help` describes a verb.\n"
      "Presets are published shapes with seeded random weights: ",
      absl::StrJoin(PresetNames(), ", "),
      ".\n"
      "Results go to stdout, everything else to stderr.\n"
      "Exit codes: 0 ok, 1 comparison failed, 2 usage, 3 unsupported model or op, 4 malformed input,\n"
      "5 module or code generator does not fit this CPU or version, 6 out of resources, 70 internal error;\n"
      "129, 130 and 143: stopped by SIGHUP, by ctrl-C and by SIGTERM."));
  absl::Status status;
  try {
    program.parse(ReversedArguments({argv + 1, argv + argc}));
    if (action.run) {
      status = action.run();
    } else {
      status = WriteResult("", program.help());
    }
  } catch (const std::bad_alloc&) {
    status = absl::ResourceExhaustedError("out of memory");
  } catch (const std::length_error&) {  // of a container that would be larger than memory can be
    status = absl::ResourceExhaustedError("out of memory");
  } catch (const std::system_error& error) {  // of std::thread
    status = absl::ResourceExhaustedError(absl::StrCat("cannot start a thread: ", error.what()));
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != static_cast<int>(CLI::ExitCodes::Success)) {
      const std::vector<CLI::App*> verbs = program.get_subcommands();
      const bool is_extra = error.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError);
      Note(absl::StrCat("error: ", is_extra ? Unexpected(program) : error.what(), "\nsinter",
                        verbs.empty() ? "" : absl::StrCat(" ", verbs[0]->get_name()), " --help says what there is"));
      return 2;
    }
    program.exit(error);  // prints the help or the version that was asked for
  }
  if (status.ok()) status = FlushStdout();
  if (!status.ok()) {
    const absl::string_view message = status.message();
    Note(absl::StrCat(ExitCode(status) == 70 ? "internal error: " : "error: ", message));
  }
  return ExitCode(status);
}

}  // namespace
}  // namespace sinter

int main(int argc, char** argv) {
  sinter::PutHeapInHugePages();
  sinter::TakeSignals();
  try {
    return sinter::Main(argc, argv);
  } catch (const std::bad_alloc&) {  // before there were verbs, or while an error was told
    std::fputs("sinter: error: out of memory\n", stderr);
    return 6;
  } catch (const std::exception& error) {
    sinter::Note(absl::StrCat("internal error: ", error.what()));
    return 70;
  }
}
