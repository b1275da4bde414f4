// What the command line says to people: results on stdout, notes and progress on stderr, and exit codes.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sinter {

// A message on stderr, after any progress line. Whatever it quotes of files, no control character comes through but
// line ends (base/escape.h).
void Note(absl::string_view text);

// What a file says of itself, or its name, as a cell of a table in Markdown.
std::string MarkdownCell(absl::string_view text);

// The file that an argument names: - is stdin.
std::string InputPath(const std::string& argument);
// What an output is: text, which may go to stdout; bytes in a file; or a folder of files, made where it is not there.
enum class OutputForm : uint8_t { kText, kBytes, kFolder };
// Whether `output` can be written, before the work of making it; "" is none. kNotFound when there is no folder for it
// or something else than a file has its name. kOutOfRange for bytes to stdout, and when it is one of the files that are
// read, whatever it is called, and would be replaced. What names no file, "" or a preset, is none.
absl::Status CheckOutput(const std::string& output, OutputForm form, absl::Span<const std::string> inputs);

// Writes a result to the file, whole or not at all, or to stdout when `path` is "" or -.
absl::Status WriteResult(const std::string& path, absl::string_view text);
// Whether all that was written to stdout has arrived; kResourceExhausted when the disk is full or the reader is gone.
absl::Status FlushStdout();

// The exit code of a status; the table stands in base/status.h.
int ExitCode(const absl::Status& status);

// "1234 B", "56.7 kB", "8.9 MB": decimal units, as disks and files are sold.
std::string HumanBytes(double bytes);

// A line that is rewritten in place while something long runs; nothing when stderr is no terminal or the work is short.
class ProgressLine {
 public:
  ~ProgressLine();
  void Update(absl::string_view what, int64_t done, int64_t total);
  // Whether there is one on the screen. For signal handlers.
  static bool IsVisible();

 private:
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now(), shown_{};
};

}  // namespace sinter
