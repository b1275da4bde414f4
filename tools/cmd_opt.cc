// sinter opt: IR text through passes, to IR text. Without passes it parses, verifies and prints.
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "ir/docs.h"
#include "ir/text.h"
#include "tools/command.h"
#include "tools/compile_flags.h"
#include "tools/compile_source.h"
#include "tools/console.h"

namespace sinter {
namespace {

struct OptFlags {
  std::string input, output, weights;
  std::string list_passes, list_ops;  // "": not asked for; "true": for people; "markdown"
  CompileFlags compile;
};

// One table for people: names in a column of their own.
std::string PassList() {
  std::string text;
  for (const PassInfo& pass : AllPasses()) {
    const std::string stage = pass.from == pass.to ? std::string(StageName(pass.from))
                                                   : absl::StrCat(StageName(pass.from), " -> ", StageName(pass.to));
    absl::StrAppendFormat(&text, "%-16s %-18s %s\n", pass.name, stage, pass.doc);
  }
  text += "\nNamed pipelines:\n";
  for (absl::string_view name : PipelineNames()) absl::StrAppendFormat(&text, "%-16s %s\n", name, FindPipeline(name));
  return text;
}

std::string OpList() {
  std::string text;
  for (const OpDef& op : AllOps()) absl::StrAppendFormat(&text, "%-16s %s\n", op.name, op.doc);
  return text;
}

struct Listing {
  const char* flag;
  std::string OptFlags::*asked;
  std::string (*people)();
  std::string (*markdown)();
};
constexpr Listing kListings[] = {
    {"--list-passes", &OptFlags::list_passes, PassList, PassesMarkdown},
    {"--list-ops", &OptFlags::list_ops, OpList, OpsMarkdown},
};

absl::Status Opt(const OptFlags& flags) {
  if (!flags.list_passes.empty() && !flags.list_ops.empty()) {
    return absl::OutOfRangeError("give one of --list-passes and --list-ops");
  }
  for (const Listing& listing : kListings) {
    const std::string& form = flags.*listing.asked;
    if (form.empty()) continue;
    if (form != "true" && form != "markdown") {
      return absl::OutOfRangeError(absl::StrCat(listing.flag, "=", form, ": expected nothing or markdown"));
    }
    return WriteResult(flags.output, form == "true" ? listing.people() : listing.markdown());
  }
  if (flags.input.empty()) return absl::OutOfRangeError("which module? give a .sir file, or - for stdin");
  if (IsCompiled(flags.input)) {
    return absl::OutOfRangeError(absl::StrCat(flags.input,
                                              ": opt reads IR text, and this is compiled; give the model that it was "
                                              "made from to `sinter compile MODEL --emit=sir`, which prints one"));
  }
  if (!IsText(flags.input)) {
    return absl::OutOfRangeError(absl::StrCat(flags.input,
                                              ": opt reads IR text, a file that ends in .sir; `sinter compile ",
                                              flags.input, " --emit=sir` prints a model as one"));
  }
  SINTER_RETURN_IF_ERROR(
      CheckOutput(flags.output, OutputForm::kText, {flags.weights}));  // IN.sir may be rewritten in place
  CompileFlags compile = flags.compile;
  if (!compile.passes) compile.passes = "";
  SINTER_ASSIGN_OR_RETURN(Source source, OpenText(flags.input));
  if (!flags.weights.empty()) {
    SINTER_ASSIGN_OR_RETURN(source.weights, OpenWeights(flags.weights));
  }
  SINTER_RETURN_IF_ERROR(RunPasses(source, compile).status());
  return WriteResult(flags.output, Print(*source.module));
}

}  // namespace

void AddOpt(CLI::App& program, Action& action) {
  auto flags = std::make_shared<OptFlags>();
  CLI::App* verb = program.add_subcommand("opt", "Run passes on IR text; without --passes, parse, verify and print it");
  verb->add_option("IN.sir", flags->input, "IR text; - is stdin");
  verb->add_option("-o,--output", flags->output, "Where to (default: stdout)")->type_name("OUT.sir");
  verb->add_option("--weights", flags->weights, "The model whose weights --check-each uses (default: random weights)")
      ->type_name("MODEL");
  verb->add_flag("--list-passes", flags->list_passes, "Print the pass table; --list-passes=markdown as a page");
  verb->add_flag("--list-ops", flags->list_ops, "Print the op table; --list-ops=markdown as a page");
  AddPassFlags(*verb, flags->compile);
  verb->callback([flags, &action] { action.run = [flags] { return Opt(*flags); }; });
}

}  // namespace sinter
