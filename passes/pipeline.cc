#include "passes/pipeline.h"

#include <algorithm>
#include <chrono>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "ir/diag.h"
#include "passes/explain.h"
#include "passes/instruments.h"

namespace sinter {
namespace {

absl::Status UnknownPass(absl::string_view name) {
  std::vector<absl::string_view> known = PipelineNames();
  for (const PassInfo& pass : AllPasses()) known.push_back(pass.name);
  const auto nearest = std::min_element(known.begin(), known.end(), [&](absl::string_view a, absl::string_view b) {
    return EditDistance(name, a) < EditDistance(name, b);
  });
  return absl::OutOfRangeError(absl::StrCat("there is no pass \"", name, "\"; the nearest is ", *nearest));
}

absl::Status CheckStages(absl::Span<const PassInfo* const> passes, Stage stage) {
  std::string before = "at the start";
  for (const PassInfo* pass : passes) {
    if (pass->from != stage) {
      return absl::OutOfRangeError(absl::StrCat("pass ", pass->name, " needs a module at stage ", StageName(pass->from),
                                                "; it is at stage ", StageName(stage), " ", before));
    }
    if (pass->to != stage) before = absl::StrCat("after ", pass->name);
    stage = pass->to;
  }
  return absl::OkStatus();
}

// PASS or PASS:n.
struct Selector {
  const PassInfo* pass = nullptr;
  int occurrence = 0;  // from 1; 0: not said
};

absl::StatusOr<Selector> ParseSelector(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits(':', 1));
  Selector selector{FindPass(parts.first), 0};
  if (selector.pass == nullptr) return UnknownPass(parts.first);
  if (parts.first.size() < text.size() &&
      (!absl::SimpleAtoi(parts.second, &selector.occurrence) || selector.occurrence < 1)) {
    return absl::OutOfRangeError(absl::StrCat("expected PASS or PASS:n with n from 1; found \"", text, "\""));
  }
  return selector;
}

// The passes that are to run, in order: without the disabled ones and what comes after stop_after.
absl::StatusOr<std::vector<const PassInfo*>> Chosen(absl::Span<const PassInfo* const> passes,
                                                    const PipelineOptions& options) {
  std::vector<Selector> disabled;
  for (const std::string& text : options.disable) {
    SINTER_ASSIGN_OR_RETURN(disabled.emplace_back(), ParseSelector(text));
  }
  Selector stop;
  if (!options.stop_after.empty()) {
    SINTER_ASSIGN_OR_RETURN(stop, ParseSelector(options.stop_after));
    stop.occurrence = std::max(stop.occurrence, 1);
  }
  std::vector<const PassInfo*> chosen;
  absl::flat_hash_map<const PassInfo*, int> seen;
  bool stopped = false;
  for (const PassInfo* pass : passes) {
    const int occurrence = ++seen[pass];
    const bool off = std::any_of(disabled.begin(), disabled.end(), [&](const Selector& s) {
      return s.pass == pass && (s.occurrence == 0 || s.occurrence == occurrence);
    });
    if (off && pass->from != pass->to) {
      return absl::OutOfRangeError(absl::StrCat(
          "pass ", pass->name, " cannot be disabled: the passes after it need stage ", StageName(pass->to)));
    }
    if (!off && !stopped) chosen.push_back(pass);
    stopped |= stop.pass == pass && stop.occurrence == occurrence;
  }
  if (stop.pass != nullptr && !stopped) {
    return absl::OutOfRangeError(
        absl::StrCat("cannot stop after ", options.stop_after, ": the pipeline does not have it"));
  }
  return chosen;
}

// The module before the last of `passes`: passes are pure, so running the others again makes it.
std::unique_ptr<Module> Replay(const Module& import, absl::Span<const PassInfo* const> passes,
                               const PassContext& context) {
  std::unique_ptr<Module> module = import.Clone();
  for (const PassInfo* pass : passes.first(passes.size() - 1)) {
    PassContext own{.targets = context.targets, .fast = context.fast};
    if (!pass->run(*module, own).ok()) break;
  }
  return module;
}

int64_t OpCount(const Module& module) {
  int64_t count = 0;
  for (GraphId id : module.entries()) count += static_cast<int64_t>(module.graph(id).order().size());
  return count;
}

}  // namespace

absl::StatusOr<std::vector<const PassInfo*>> ParsePipeline(absl::string_view text, Stage from) {
  std::vector<const PassInfo*> passes;
  if (absl::StripAsciiWhitespace(text).empty()) return passes;
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    part = absl::StripAsciiWhitespace(part);
    if (const char* named = FindPipeline(part)) {
      for (absl::string_view name : absl::StrSplit(named, ',')) passes.push_back(FindPass(name));
    } else if (const PassInfo* pass = FindPass(part)) {
      passes.push_back(pass);
    } else {
      return UnknownPass(part);
    }
  }
  SINTER_RETURN_IF_ERROR(CheckStages(passes, from));
  return passes;
}

absl::StatusOr<std::vector<PassRecord>> RunPipeline(Module& module, absl::Span<const PassInfo* const> passes,
                                                    PassContext& context, const PipelineOptions& options) {
  SINTER_RETURN_IF_ERROR(CheckStages(passes, module.stage));
  SINTER_ASSIGN_OR_RETURN(const std::vector<const PassInfo*> chosen, Chosen(passes, options));
  const std::string& print = options.print_after;
  if (!print.empty() && print != "all" && print != "changed" && FindPass(print) == nullptr) return UnknownPass(print);
  if (!options.explain.empty()) SINTER_RETURN_IF_ERROR(CheckExplained(options.explain));

  Instruments instruments(options);
  SINTER_RETURN_IF_ERROR(instruments.Start(module));
  std::vector<PassRecord> records;
  const std::unique_ptr<Module> import = module.Clone();
  for (const PassInfo* pass : chosen) {
    if (options.progress) options.progress(pass->name);
    const std::unique_ptr<Module> before = options.check_each || options.check_changed ? module.Clone() : nullptr;
    PassRecord record{.pass = pass, .ops_before = OpCount(module)};
    context.rule_counts.clear();
    context.notes.clear();
    const auto start = std::chrono::steady_clock::now();
    const absl::StatusOr<bool> changed = pass->run(module, context);
    record.milliseconds = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    const absl::Status status =
        changed.ok() ? instruments.Check(*pass, *changed, before.get(), module) : changed.status();
    if (!status.ok()) {
      return instruments.Fail(*pass, status,
                              *Replay(*import, absl::MakeConstSpan(chosen).first(records.size() + 1), context));
    }
    record.changed = *changed;
    record.ops_after = OpCount(module);
    record.rules = std::move(context.rule_counts);
    record.notes = std::move(context.notes);
    if (!options.explain.empty()) {
      SINTER_ASSIGN_OR_RETURN(record.explanation, Explain(options.explain, *pass, record.rules, module));
    }
    records.push_back(record);
    SINTER_RETURN_IF_ERROR(instruments.Show(*pass, static_cast<int>(records.size()), *changed, module));
  }
  return records;
}

std::string FormatRecords(absl::Span<const PassRecord> records, bool time, bool stats) {
  std::string text = absl::StrFormat("%-20s %-9s", "pass", "changed");
  if (stats) absl::StrAppendFormat(&text, " %12s %12s", "ops before", "ops after");
  if (time) absl::StrAppendFormat(&text, " %12s", "ms");
  double total = 0;
  for (const PassRecord& record : records) {
    absl::StrAppendFormat(&text, "\n%-20s %-9s", record.pass->name, record.changed ? "yes" : "no");
    if (stats) absl::StrAppendFormat(&text, " %12d %12d", record.ops_before, record.ops_after);
    if (time) absl::StrAppendFormat(&text, " %12.3f", record.milliseconds);
    if (stats) {
      for (const RuleCount& rule : record.rules) {
        absl::StrAppendFormat(&text, "\n  rule %-23s %12d tried %6d matched %9.3f ms", rule.rule, rule.tried,
                              rule.matched, rule.milliseconds);
      }
      for (const std::string& note : record.notes) absl::StrAppend(&text, "\n  ", note);
    }
    total += record.milliseconds;
  }
  if (time)
    absl::StrAppendFormat(&text, "\n%-20s %-9s%s %12.3f", "total", "", stats ? std::string(26, ' ') : "", total);
  return text + "\n";
}

std::string PassesMarkdown() {
  std::string text =
      "# Passes\n\nThe rows of `passes.inc`, as `sinter opt --list-passes=markdown` prints them.\n\n"
      "| pass | stage | what it does |\n|---|---|---|\n";
  for (const PassInfo& pass : AllPasses()) {
    const std::string stage = pass.from == pass.to ? absl::StrCat(StageName(pass.from))
                                                   : absl::StrCat(StageName(pass.from), " -> ", StageName(pass.to));
    absl::StrAppend(&text, "| ", pass.name, " | ", stage, " | ", pass.doc, " |\n");
  }
  absl::StrAppend(&text, "\n| pipeline | passes |\n|---|---|\n");
  for (absl::string_view name : PipelineNames())
    absl::StrAppend(&text, "| ", name, " | `", FindPipeline(name), "` |\n");
  return text;
}

}  // namespace sinter
