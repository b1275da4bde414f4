#include "tools/compile_flags.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "frontend/architecture.h"
#include "runtime/cpu.h"
#include "tools/compile_source.h"

namespace sinter {

std::string CompileFlags::PipelineText() const { return passes ? *passes : absl::StrCat("O", opt_level); }

std::string CompileFlags::Canonical() const {
  std::string text = absl::StrCat("--passes=", PipelineText(), context == 0 ? "" : absl::StrCat(" --ctx=", context),
                                  " --chunk=", chunk, " --precision=", precision);
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

CLI::Validator AtLeast(int64_t min, int64_t most) {
  return CLI::Validator(
      [min, most](const std::string& text) {
        int64_t value;
        if (absl::SimpleAtoi(text, &value) && value >= min && value <= most) return std::string();
        return absl::StrCat("found \"", text, "\", expected an integer from ", min,
                            most == INT64_MAX ? " on" : absl::StrCat(" to ", most));
      },
      "");
}

CLI::Validator FiniteFrom(double min) {
  return CLI::Validator(
      [min](const std::string& text) {
        double value;
        if (absl::SimpleAtod(text, &value) && std::isfinite(value) && value >= min) return std::string();
        return absl::StrCat("found \"", text, "\", expected a number from ", min, " on");
      },
      "");
}

CLI::Validator Unsigned() {
  return CLI::Validator(
      [](const std::string& text) {
        uint64_t value;
        if (absl::SimpleAtoi(text, &value)) return std::string();
        return absl::StrCat("found \"", text, "\", expected an integer from 0 to ", UINT64_MAX);
      },
      "");
}

void AddPassFlags(CLI::App& app, CompileFlags& flags) {
  app.add_option("--precision", flags.precision,
                 "fast rounds rows and weights of products with f16 or bf16 weights to bf16, for CPUs that multiply "
                 "those twice as fast, and rows of products with quantized weights to 8-bit integers; exact is f32 "
                 "throughout")
      ->type_name("MODE")
      ->check(CLI::IsMember({"fast", "exact"}))
      ->capture_default_str();
  app.add_option("--target", flags.target,
                 absl::StrCat("CPUs to make code for: native, or names separated by commas: ",
                              absl::StrJoin(AllTargets(), ", ",
                                            [](std::string* out, const Target& t) { absl::StrAppend(out, t.name); })))
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

namespace {

// What chooses the context of a model; "" of IR text, which states it.
const char* ContextChoice(const std::string& path) {
  return IsText(path) ? "" : IsCompiled(path) ? "module compiled with --ctx" : "--ctx";
}

}  // namespace

std::string MoreContext(const CompiledModule& module, const std::string& path) {
  const Architecture* architecture = FindArchitecture(module.metadata().architecture()->str());
  const bool learned = architecture != nullptr && architecture->positions == Positions::kLearned;
  if (IsText(path) || (learned && ContextOf(module) >= module.metadata().trained_context())) return "";
  return absl::StrCat("; ", IsCompiled(path) ? "a " : "", ContextChoice(path), "=N gives more");
}

absl::StatusOr<MemoryNeed> Prepare(const CompiledModule& module, const std::string& path, const MemoryFlags& flags,
                                   int threads, absl::Span<const MemoryNeed> beside) {
  const bool in_memory = !IsCompiled(path) && module.path() == path;  // otherwise a file, or the cache's file of it
  MemoryNeed need = NeedToRun(module, threads,
                              flags.huge_pages ? WeightsPlace::kCopy
                              : in_memory      ? WeightsPlace::kMemory
                                               : WeightsPlace::kFile);
  SINTER_RETURN_IF_ERROR(CheckMemory(path, need, MemoryLimits(), ContextChoice(path), beside));
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

}  // namespace sinter
