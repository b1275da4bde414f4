#include "tools/console.h"

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "base/escape.h"
#include "base/file.h"

namespace sinter {

void Note(absl::string_view text) {
  const bool terminal = isatty(STDERR_FILENO) != 0;
  const std::string shown = EscapedLines(text);
  std::fprintf(stderr, "%ssinter: %s\n", terminal ? "\r\x1b[K" : "", shown.c_str());
}

std::string MarkdownCell(absl::string_view text) { return absl::StrReplaceAll(Escaped(text), {{"|", "\\|"}}); }

std::string InputPath(const std::string& argument) { return argument == "-" ? "/dev/stdin" : argument; }

absl::Status CheckOutput(const std::string& output, OutputForm form, absl::Span<const std::string> inputs) {
  if (output.empty()) return absl::OkStatus();
  if (output == "-") {
    if (form == OutputForm::kText) return absl::OkStatus();
    return absl::OutOfRangeError("-: only text goes to stdout; give the name of a file, or ./- for one called -");
  }
  struct stat out, in;
  if (stat(output.c_str(), &out) != 0) {
    const std::filesystem::path folder = std::filesystem::path(output).parent_path();
    if (form == OutputForm::kFolder || folder.empty()) return absl::OkStatus();
    if (stat(folder.c_str(), &in) == 0 && S_ISDIR(in.st_mode)) return absl::OkStatus();
    return absl::NotFoundError(
        absl::StrCat(output, ": cannot create: there is no folder ", folder.string(), "; make it, or give another"));
  }
  if (S_ISDIR(out.st_mode) ? form != OutputForm::kFolder : form == OutputForm::kBytes && !S_ISREG(out.st_mode)) {
    return absl::NotFoundError(absl::StrCat(output, ": cannot create: not a regular file; give another name"));
  }
  if (!S_ISREG(out.st_mode)) return absl::OkStatus();
  for (const std::string& input : inputs) {
    if (stat(InputPath(input).c_str(), &in) != 0 || in.st_dev != out.st_dev || in.st_ino != out.st_ino) continue;
    return absl::OutOfRangeError(absl::StrCat(output, ": this output is the input ", input, "; give it another name"));
  }
  return absl::OkStatus();
}

namespace {
// errno 0: it failed earlier.
absl::Status CannotWriteToStdout() {
  return absl::ResourceExhaustedError(
      absl::StrCat("cannot write to stdout", errno != 0 ? absl::StrCat(": ", std::strerror(errno)) : ""));
}
}  // namespace

absl::Status FlushStdout() {
  errno = 0;
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return absl::OkStatus();
  return CannotWriteToStdout();
}

absl::Status WriteResult(const std::string& path, absl::string_view text) {
  if (!path.empty() && path != "-") return WriteFile(path, text);
  if (!text.empty() && std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) return CannotWriteToStdout();
  return FlushStdout();
}

int ExitCode(const absl::Status& status) {
  static constexpr std::pair<absl::StatusCode, int> kCodes[] = {
      {absl::StatusCode::kOk, 0},
      {absl::StatusCode::kAborted, 1},
      {absl::StatusCode::kNotFound, 2},
      {absl::StatusCode::kOutOfRange, 2},
      {absl::StatusCode::kUnimplemented, 3},
      {absl::StatusCode::kInvalidArgument, 4},
      {absl::StatusCode::kFailedPrecondition, 5},
      {absl::StatusCode::kResourceExhausted, 6},
  };
  for (const auto& [code, exit] : kCodes) {
    if (code == status.code()) return exit;
  }
  return 70;
}

std::string HumanBytes(double bytes) {
  const char* const units[] = {"kB", "MB", "GB"};
  if (bytes < 1000) return absl::StrFormat("%.0f B", bytes);
  size_t unit = 0;
  for (bytes /= 1000; bytes >= 1000 && unit < 2; ++unit) bytes /= 1000;
  return absl::StrFormat("%.1f %s", bytes, units[unit]);
}

namespace {
std::atomic<bool> progress_is_visible;  // one at a time
}  // namespace

ProgressLine::~ProgressLine() {
  if (progress_is_visible.exchange(false)) std::fputs("\r\x1b[K", stderr);
}

bool ProgressLine::IsVisible() { return progress_is_visible; }

void ProgressLine::Update(absl::string_view what, int64_t done, int64_t total) {
  using std::chrono::milliseconds;
  const auto now = std::chrono::steady_clock::now();
  if (now - started_ < milliseconds(500) || now - shown_ < milliseconds(100) || isatty(STDERR_FILENO) == 0) return;
  shown_ = now;
  progress_is_visible = true;
  std::fprintf(stderr, "\r\x1b[K%.*s %lld of %lld", static_cast<int>(what.size()), what.data(),
               static_cast<long long>(done), static_cast<long long>(total));
}

}  // namespace sinter
