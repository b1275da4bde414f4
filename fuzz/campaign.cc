// campaign: thousands of damaged model files, modules and texts through the built `sinter`, each in a process of its
// own.
// --help says the flags.
//
// A case fails when the program died by a signal; ran over 5 seconds of the processor (or slept for a minute); ended
// with a code that is not one of its documented ones for such input (0, 2 to 6), or without a word on stderr where that
// is not 0; used more than three times the memory of the intact file given to the same verb, and kAllowance for what
// the file itself grew and for noise; left an output that is not whole, or a file that nobody asked for; or printed
// what a terminal takes for a command. Exit codes: 0 nothing failed, 1 a case failed, 2 usage, 70 the campaign itself
// failed.
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <thread>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/parallel.h"
#include "base/status.h"
#include "base/utf8.h"
#include "fuzz/campaign_files.h"
#include "fuzz/launcher.h"

namespace sinter::fuzz {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMemoryFactor = 3;
constexpr int64_t kAllowance = int64_t{4} << 20;  // bytes
constexpr int kAccepted[] = {0, 2, 3, 4, 5, 6};   // base/status.h, without comparisons and internal errors
#ifdef __SANITIZE_ADDRESS__
constexpr double kMostSeconds = 30;    // what is instrumented takes several times as long
constexpr uint64_t kAddressSpace = 0;  // shadow memory is larger than any limit
#else
constexpr double kMostSeconds = 5;
constexpr uint64_t kAddressSpace = uint64_t{16} << 30;  // lest a case take the machine with it
#endif

struct Flags {
  int64_t cases = 100000, first = 0, max_failures = 20;
  uint64_t seed = 1;
  double seconds = 0;
  int jobs = 0;
  std::string program, keep = "campaign-failures";
  bool json = false;
};

// What the cases of one format and verb came to.
struct Tally {
  int64_t cases = 0, failed = 0;
  std::map<int, int64_t> codes;
  std::map<std::string, int64_t> failures;  // by kind
  double worst_seconds = 0, worst_memory = 0;
};

struct Verdict {
  Ending ending;
  int code = -1;                     // -1: died by a signal
  std::string kind = {}, what = {};  // of a failure
};

// What a way of giving an original to the program is known by.
std::string KeyOf(const Case& c) {
  return absl::StrCat(c.original, " ", NameOf(c.verb), " ", absl::StrJoin(c.arguments, " "));
}

// Whether a terminal shows it as it is: UTF-8 without control characters (but line ends and tabs) and without marks
// that change the direction of text.
bool IsPlain(absl::string_view text) {
  while (!text.empty()) {
    const Utf8Step step = DecodeUtf8(text);
    if (!step.valid) return false;
    const char32_t code = step.code;
    const bool control = (code < 0x20 && code != '\n' && code != '\t' && code != '\r') || (code >= 0x7f && code < 0xa0);
    const bool direction = (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069) || code == 0x200e ||
                           code == 0x200f || code == 0x61c;
    if (control || direction) return false;
    text.remove_prefix(step.bytes);
  }
  return true;
}

// A folder of one worker, and the process that starts programs for it.
class Worker {
 public:
  Worker(std::string folder, Launcher launcher, std::string program)
      : folder_(std::move(folder)), program_(std::move(program)), launcher_(std::move(launcher)) {}

  // `intact_peak`: bytes that the intact file took; 0 when that is what is being measured.
  absl::StatusOr<Verdict> Judge(const Case& c, const Original& original, int64_t intact_peak) {
    const std::string name = absl::StrCat("in.", NameOf(original.format));
    SINTER_RETURN_IF_ERROR(WriteFile(folder_ + "/" + name, c.bytes));
    std::vector<std::string> arguments = {program_, std::string(NameOf(c.verb)), name};
    arguments.insert(arguments.end(), c.arguments.begin(), c.arguments.end());
    SINTER_ASSIGN_OR_RETURN(const Ending ending, launcher_.Run(folder_, "stdout", "stderr", arguments));
    Verdict verdict{.ending = ending};
    if (WIFEXITED(ending.status)) verdict.code = WEXITSTATUS(ending.status);
    SINTER_ASSIGN_OR_RETURN(const std::string out, ReadFile(folder_ + "/stdout"));
    SINTER_ASSIGN_OR_RETURN(const std::string err, ReadFile(folder_ + "/stderr"));
    const auto fail = [&verdict](absl::string_view kind, const auto&... what) {
      if (verdict.kind.empty()) verdict.kind = std::string(kind), verdict.what = absl::StrCat(what...);
    };
    const int64_t grown =
        std::max<int64_t>(0, static_cast<int64_t>(c.bytes.size()) - static_cast<int64_t>(original.bytes.size()));
    const int64_t most = kMemoryFactor * (intact_peak + grown) + kAllowance;
    if (ending.hung) fail("hang", "ended after ", ending.seconds, " s of the processor");
    if (verdict.code < 0) fail("signal", "died by signal ", WTERMSIG(ending.status));
    if (ending.seconds > kMostSeconds) fail("hang", "took ", ending.seconds, " s");
    if (std::find(std::begin(kAccepted), std::end(kAccepted), verdict.code) == std::end(kAccepted)) {
      fail("code", "exit code ", verdict.code);
    }
    if (verdict.code != 0 && !absl::StrContains(err, "error: ")) fail("silent", "no error on stderr");
    if (intact_peak != 0 && ending.peak_bytes > most) {
      fail("memory", ending.peak_bytes, " bytes, more than ", most, "; the intact file took ", intact_peak);
    }
    if (!IsPlain(err)) fail("unsafe", "stderr is no plain text");
    if (c.verb == Verb::kInspect && !IsPlain(out)) fail("unsafe", "stdout is no plain text");
    SINTER_RETURN_IF_ERROR(JudgeOutput(verdict.code == 0 && WantsOutput(c), c.verb, err, fail));
    if (!verdict.kind.empty()) {
      absl::StrAppend(&verdict.what, "\n", err.substr(0, 2000));
    }
    return verdict;
  }

 private:
  static bool WantsOutput(const Case& c) {
    return std::any_of(c.arguments.begin(), c.arguments.end(),
                       [](const std::string& a) { return a == "out" || absl::EndsWith(a, "=out"); });
  }

  // The output is there and whole, or not there; nothing else was left. Leaves the folder as it was.
  template <typename Fail>
  absl::Status JudgeOutput(bool wanted, Verb verb, absl::string_view err, Fail fail) const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(folder_)) found.push_back(entry.path());
    const std::set<std::string> known = {"in.gguf", "in.sinter", "in.sir", "stdout", "stderr"};
    bool written = false;
    for (const fs::path& path : found) {
      const std::string name = path.filename().string();
      if (known.contains(name)) continue;
      if (name == "repro.sir") {  // of passes that failed; the message says that it is there
        if (!absl::StrContains(err, name)) fail("litter", "left ", name, " without a word");
      } else if (name != "out") {
        fail("litter", "left ", name);
      } else {
        written = true;
        SINTER_ASSIGN_OR_RETURN(const std::string content, ReadFile(path.string()));
        const bool whole =
            verb == Verb::kOpt ? absl::EndsWith(content, "\n}\n") : absl::StartsWith(content, "\x93NUMPY");
        if (!whole) fail("output", "the output is not whole");
      }
      fs::remove_all(path);
    }
    // What ends in an error may have written its output before.
    if (wanted && !written) fail("output", "there is no output");
    return absl::OkStatus();
  }

  std::string folder_, program_;
  Launcher launcher_;
};

class Campaign {
 public:
  Campaign(const Flags& flags, CampaignFiles files, std::vector<Worker> workers)
      : flags_(flags), files_(std::move(files)), workers_(std::move(workers)) {}

  absl::Status Run() {
    std::atomic<int64_t> next = flags_.first;
    start_ = std::chrono::steady_clock::now();
    const int64_t workers = static_cast<int64_t>(workers_.size());
    return ParallelFor("judging files", workers, static_cast<int>(workers), [&](int64_t w) -> absl::Status {
      Worker& worker = workers_[static_cast<size_t>(w)];
      for (int64_t i = next++; i < flags_.first + flags_.cases; i = next++) {
        if (flags_.seconds > 0 && Seconds() > flags_.seconds) break;
        const Case c = files_.Draw(flags_.seed, i);
        SINTER_ASSIGN_OR_RETURN(const int64_t intact, PeakOfIntact(worker, c));
        SINTER_ASSIGN_OR_RETURN(const Verdict verdict, worker.Judge(c, files_.originals()[c.original], intact));
        const std::lock_guard lock(mutex_);
        SINTER_RETURN_IF_ERROR(Count(i, c, verdict, intact));
        if (failed_ >= flags_.max_failures) break;
      }
      return absl::OkStatus();
    });
  }

  double Seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
  int64_t failed() const { return failed_; }

  nlohmann::json Report() const {
    nlohmann::json rows = nlohmann::json::array();
    for (const auto& [key, tally] : tallies_) {
      nlohmann::json codes = nlohmann::json::object();
      for (const auto& [code, count] : tally.codes) codes[absl::StrCat(code)] = count;
      rows.push_back({{"format", NameText(key.first)},
                      {"verb", NameText(key.second)},
                      {"cases", tally.cases},
                      {"codes", codes},
                      {"failed", tally.failed},
                      {"failures", tally.failures},
                      {"worst_seconds", tally.worst_seconds},
                      {"worst_memory", tally.worst_memory}});
    }
    return {{"seed", flags_.seed},
            {"first", flags_.first},
            {"cases", done_},
            {"failed", failed_},
            {"originals", files_.originals().size()},
            {"seconds", Seconds()},
            {"memory_factor", kMemoryFactor},
            {"memory_allowance", kAllowance},
            {"rows", rows}};
  }

 private:
  template <typename T>
  static std::string NameText(T value) {
    return std::string(NameOf(value));
  }

  // Bytes that the intact file takes, given to the program in the same way; measured once.
  absl::StatusOr<int64_t> PeakOfIntact(Worker& worker, const Case& c) {
    const std::string key = KeyOf(c);
    {
      const std::lock_guard lock(mutex_);
      if (const auto known = intact_.find(key); known != intact_.end()) return known->second;
    }
    const Original& original = files_.originals()[c.original];
    Case intact = c;
    intact.bytes = original.bytes;
    SINTER_ASSIGN_OR_RETURN(const Verdict verdict, worker.Judge(intact, original, 0));
    // A text need not be one that a pipeline can take; a model or a module that is refused is no original.
    if (!verdict.kind.empty() || (verdict.code != 0 && c.verb != Verb::kOpt)) {
      return absl::InternalError(absl::StrCat("intact ", original.name, ": sinter ", NameOf(c.verb), " ",
                                              Quoted(c.arguments), ": exit code ", verdict.code, " ", verdict.kind, " ",
                                              verdict.what));
    }
    const std::lock_guard lock(mutex_);
    return intact_[key] = verdict.ending.peak_bytes;
  }

  // Under the lock.
  absl::Status Count(int64_t i, const Case& c, const Verdict& verdict, int64_t intact) {
    const Original& original = files_.originals()[c.original];
    Tally& tally = tallies_[{original.format, c.verb}];
    ++tally.cases;
    ++tally.codes[verdict.code];
    tally.worst_seconds = std::max(tally.worst_seconds, verdict.ending.seconds);
    tally.worst_memory =
        std::max(tally.worst_memory, static_cast<double>(verdict.ending.peak_bytes) / static_cast<double>(intact));
    if (++done_ % 500 == 0) {
      std::fprintf(stderr, "%lld of %lld, %lld failed, %.0f a second\n", static_cast<long long>(done_),
                   static_cast<long long>(flags_.cases), static_cast<long long>(failed_),
                   static_cast<double>(done_) / Seconds());
    }
    if (verdict.kind.empty()) return absl::OkStatus();
    ++tally.failed;
    ++tally.failures[verdict.kind];
    ++failed_;
    std::error_code made;
    fs::create_directories(flags_.keep, made);
    const std::string path = absl::StrCat(flags_.keep, "/case-", i, ".", NameOf(original.format));
    SINTER_RETURN_IF_ERROR(WriteFile(path, c.bytes));
    std::fprintf(stderr, "case %lld FAILED (%s): %s\n  %s of %s, replayed by: %s %s %s %s\n", static_cast<long long>(i),
                 verdict.kind.c_str(), absl::CHexEscape(verdict.what).c_str(), "a child", original.name.c_str(),
                 flags_.program.c_str(), NameText(c.verb).c_str(), path.c_str(), Quoted(c.arguments).c_str());
    return absl::OkStatus();
  }

  static std::string Quoted(const std::vector<std::string>& arguments) {
    return absl::StrJoin(arguments, " ", [](std::string* out, const std::string& argument) {
      const bool plain = !absl::StrContains(argument, ' ');
      absl::StrAppend(out, plain ? "" : "'", argument, plain ? "" : "'");
    });
  }

  const Flags& flags_;
  CampaignFiles files_;
  std::vector<Worker> workers_;
  std::chrono::steady_clock::time_point start_;
  std::mutex mutex_;
  std::map<std::string, int64_t> intact_;  // peak bytes, by KeyOf
  std::map<std::pair<Format, Verb>, Tally> tallies_;
  int64_t done_ = 0, failed_ = 0;
};

void PrintTable(const nlohmann::json& report) {
  const auto number = [](const nlohmann::json& value) { return static_cast<long long>(value.get<int64_t>()); };
  std::printf("%-8s %-8s %8s %8s   %-38s %7s %9s %9s\n", "file", "verb", "cases", "accepted", "refused, by exit code",
              "failed", "worst s", "memory");
  for (const nlohmann::json& row : report["rows"]) {
    std::vector<std::string> refused;
    for (const auto& [code, count] : row["codes"].items()) {
      if (code != "0") refused.push_back(absl::StrCat(code == "-1" ? "signal" : code, ": ", count.get<int64_t>()));
    }
    const int64_t accepted = row["codes"].contains("0") ? row["codes"]["0"].get<int64_t>() : 0;
    std::printf("%-8s %-8s %8lld %8lld   %-38s %7lld %9.2f %8.2fx\n", row["format"].get<std::string>().c_str(),
                row["verb"].get<std::string>().c_str(), number(row["cases"]), static_cast<long long>(accepted),
                absl::StrJoin(refused, "  ").c_str(), number(row["failed"]), row["worst_seconds"].get<double>(),
                row["worst_memory"].get<double>());
    for (const auto& [kind, count] : row["failures"].items()) {
      std::printf("  failed: %-12s %lld\n", kind.c_str(), number(count));
    }
  }
  std::printf(
      "%lld cases in %.0f s, %lld failed; seed %llu; memory: at most %lld times the intact file's peak (and what the "
      "file grew), and %lld MB\n",
      number(report["cases"]), report["seconds"].get<double>(), number(report["failed"]),
      static_cast<unsigned long long>(report["seed"].get<uint64_t>()), number(report["memory_factor"]),
      number(report["memory_allowance"]) >> 20);
}

// Where files that live for milliseconds belong: in memory, unless code cannot be mapped from there.
std::string Scratch() {
  constexpr char kMemory[] = "/dev/shm";
  struct statvfs info;
  const bool usable = statvfs(kMemory, &info) == 0 && (info.f_flag & ST_NOEXEC) == 0 && access(kMemory, W_OK) == 0;
  return usable ? kMemory : fs::temp_directory_path().string();
}

// A folder with all that is in it, for as long as the object lives.
class Folder {
 public:
  Folder() : path_(Scratch() + "/sinter-campaign-XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) path_.clear();
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code gone;
    if (!path_.empty()) fs::remove_all(path_, gone);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

absl::StatusOr<int> Start(Flags& flags) {
  // Launchers first, while this process is small.
  std::vector<Launcher> launchers;
  const int jobs = flags.jobs > 0 ? flags.jobs : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  for (int i = 0; i <= jobs; ++i) {
    SINTER_ASSIGN_OR_RETURN(Launcher launcher,
                            Launcher::Start({.cpu_seconds = kMostSeconds, .address_space = kAddressSpace}));
    launchers.push_back(std::move(launcher));
  }
  const Folder folder;
  if (folder.path().empty()) return absl::ResourceExhaustedError("no folder for temporary files");
  flags.program = fs::absolute(flags.program).string();
  const auto compile = [&](const std::vector<std::string>& arguments) -> absl::Status {
    std::vector<std::string> all = {flags.program, "compile"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    SINTER_ASSIGN_OR_RETURN(const Ending ending, launchers.back().Run(folder.path(), "stdout", "stderr", all));
    if (WIFEXITED(ending.status) && WEXITSTATUS(ending.status) == 0) return absl::OkStatus();
    SINTER_ASSIGN_OR_RETURN(const std::string said, ReadFile(folder.path() + "/stderr"));
    return absl::InternalError(absl::StrCat(absl::StrJoin(all, " "), ": ", said));
  };
  SINTER_ASSIGN_OR_RETURN(CampaignFiles files, CampaignFiles::Make(folder.path(), compile));
  launchers.pop_back();
  std::vector<Worker> workers;
  for (Launcher& launcher : launchers) {
    const std::string own = absl::StrCat(folder.path(), "/worker", workers.size());
    fs::create_directory(own);
    workers.emplace_back(own, std::move(launcher), flags.program);
  }
  Campaign campaign(flags, std::move(files), std::move(workers));
  SINTER_RETURN_IF_ERROR(campaign.Run());
  const nlohmann::json report = campaign.Report();
  if (flags.json) {
    std::printf("%s\n", report.dump(2).c_str());
  } else {
    PrintTable(report);
  }
  return campaign.failed() > 0 ? 1 : 0;
}

int Main(int argc, char** argv) {
  Flags flags;
  flags.program = (fs::path(argv[0]).parent_path() / "sinter").string();
  CLI::App program(
      "Damages tiny models, compiled modules and texts in thousands of ways, gives them to `sinter run`, `inspect` "
      "and\n"
      "`opt`, and judges how each ends: no signal, at most 5 seconds, a documented exit code and a message, at most "
      "three\n"
      "times the memory of the intact file, nothing half written.");
  program.name("campaign");
  program.add_option("--cases", flags.cases, "How many files")->capture_default_str()->check(CLI::NonNegativeNumber);
  program.add_option("--seed", flags.seed, "What all files are drawn from")->capture_default_str();
  program.add_option("--first", flags.first, "The number of the first; case i of a seed is always the same")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  program.add_option("--seconds", flags.seconds, "Stop after so long (0: no limit)")->capture_default_str();
  program.add_option("-j,--jobs", flags.jobs, "At once (0: one for each core)")->capture_default_str();
  program.add_option("--program", flags.program, "The sinter that is tried (default: beside this program)")
      ->type_name("PATH");
  program.add_option("--keep", flags.keep, "Where files that fail go")->type_name("DIR")->capture_default_str();
  program.add_option("--max-failures", flags.max_failures, "Stop after so many")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  program.add_flag("--json", flags.json, "The report as JSON");
  CLI11_PARSE(program, argc, argv);
  const absl::StatusOr<int> code = Start(flags);
  if (code.ok()) return *code;
  std::fprintf(stderr, "campaign: %s\n", std::string(code.status().message()).c_str());
  return absl::IsNotFound(code.status()) ? 2 : 70;
}

}  // namespace
}  // namespace sinter::fuzz

int main(int argc, char** argv) { return sinter::fuzz::Main(argc, argv); }
