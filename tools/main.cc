// The `sinter` command line: one verb a file (cmd_VERB.cc).
#include <cstdio>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tools/command.h"
#include "tools/console.h"

int main(int argc, char** argv) {
  CLI::App program("Sinter compiles transformers for this CPU.");
  program.name("sinter");
  program.require_subcommand(1);
  program.set_version_flag("--version", SINTER_VERSION);
  program.footer("Exit codes: 0 ok, 1 comparison failed, 2 usage, 3 unsupported model or op, 4 malformed input,\n"
                 "5 module does not fit this CPU or version, 6 out of resources, 70 internal error.");
  sinter::Action action;
  action.command_line = absl::StrJoin(argv, argv + argc, " ");
  sinter::AddRun(program, action);
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return program.exit(error) == 0 ? 0 : 2;
  }
  const absl::Status status = action.run();
  if (!status.ok()) std::fprintf(stderr, "sinter: error: %s\n", std::string(status.message()).c_str());
  return sinter::ExitCode(status);
}
