// The verbs: each file cmd_VERB.cc adds its verb to the program and says what it does when that verb is called.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "absl/status/status.h"

namespace sinter {

// What the program was asked to do: set by the verb's callback, run after parsing.
struct Action {
  std::function<absl::Status()> run;
  std::string command_line;  // as typed, for the metadata of modules
};

void AddCompile(CLI::App& program, Action& action);
void AddOpt(CLI::App& program, Action& action);
void AddRun(CLI::App& program, Action& action);
void AddExec(CLI::App& program, Action& action);
void AddBench(CLI::App& program, Action& action);
void AddPerplexity(CLI::App& program, Action& action);
void AddCompare(CLI::App& program, Action& action);
void AddInspect(CLI::App& program, Action& action);
void AddTokenize(CLI::App& program, Action& action);

}  // namespace sinter
