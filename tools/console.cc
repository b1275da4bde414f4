#include "tools/console.h"

#include <unistd.h>

#include <cstdio>

namespace sinter {

void Note(absl::string_view text) { std::fprintf(stderr, "sinter: %.*s\n", static_cast<int>(text.size()), text.data()); }

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

ProgressLine::~ProgressLine() {
  if (visible_) std::fputs("\r\x1b[K", stderr);
}

void ProgressLine::Update(absl::string_view what, int64_t done, int64_t total) {
  using std::chrono::milliseconds;
  const auto now = std::chrono::steady_clock::now();
  if (now - started_ < milliseconds(500) || now - shown_ < milliseconds(100) || isatty(STDERR_FILENO) == 0) return;
  shown_ = now;
  visible_ = true;
  std::fprintf(stderr, "\r\x1b[K%.*s %lld of %lld", static_cast<int>(what.size()), what.data(), static_cast<long long>(done),
               static_cast<long long>(total));
}

}  // namespace sinter
