// Starts programs from a process that is small: what wait4 says of a child's memory includes that of the process which
// started it, up to exec. Called by the campaign, which is large.
//
// Start it first of all, while this process is small and has one thread; it lives until the object is gone. One call at
// a time.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace sinter::fuzz {

struct LaunchLimits {
  double cpu_seconds = 5;      // of the processor, then SIGXCPU
  double asleep_seconds = 60;  // of the clock, while it may run: then SIGKILL
  uint64_t address_space = 0;  // bytes; 0: no limit
};

struct Ending {
  int status = 0;      // as of wait4
  bool hung = false;   // ended by one of the limits of time
  double seconds = 0;  // of the processor
  int64_t peak_bytes = 0;
};

class Launcher {
 public:
  static absl::StatusOr<Launcher> Start(const LaunchLimits& limits);
  Launcher(Launcher&& other) noexcept;
  Launcher& operator=(Launcher&&) = delete;
  ~Launcher();

  // Runs a program in a folder, with nothing on stdin, and its two streams in files.
  absl::StatusOr<Ending> Run(const std::string& folder, const std::string& out, const std::string& err,
                             const std::vector<std::string>& arguments);

 private:
  explicit Launcher(int socket, pid_t pid) : socket_(socket), pid_(pid) {}
  int socket_ = -1;
  pid_t pid_ = -1;
};

}  // namespace sinter::fuzz
