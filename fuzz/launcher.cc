#include "fuzz/launcher.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

extern char** environ;

namespace sinter::fuzz {
namespace {

constexpr size_t kMostRequest = 1 << 16;  // bytes of a request: folder, files and arguments, each ended by a zero

// Waits until the process ends or its time is over. Time while this process is stopped does not count.
bool EndsWithin(int process, double seconds) {
  constexpr int kSliceMs = 100;
  for (double waited = 0; waited < seconds; waited += kSliceMs / 1000.0) {
    pollfd ready = {process, POLLIN, 0};
    if (poll(&ready, 1, kSliceMs) > 0) return true;
  }
  return false;
}

// Negative `status`: the program could not be started, for the reason that errno gives.
Ending RunChild(std::vector<std::string> parts, const LaunchLimits& limits) {
  Ending ending;
  std::vector<char*> arguments;
  for (size_t i = 3; i < parts.size(); ++i) arguments.push_back(parts[i].data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addchdir_np(&actions, parts[0].c_str());
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, parts[1].c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_addopen(&actions, 2, parts[2].c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  pid_t child;
  const int failed = posix_spawn(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) {
    ending.status = -failed;
    return ending;
  }
  const auto seconds = static_cast<rlim_t>(limits.cpu_seconds);
  const rlimit cpu = {seconds, seconds + 1}, none = {0, 0}, space = {limits.address_space, limits.address_space};
  prlimit(child, RLIMIT_CPU, &cpu, nullptr);
  prlimit(child, RLIMIT_CORE, &none, nullptr);
  if (limits.address_space != 0) prlimit(child, RLIMIT_AS, &space, nullptr);
  const int process = static_cast<int>(syscall(SYS_pidfd_open, child, 0));
  if (!EndsWithin(process, limits.asleep_seconds)) {
    ending.hung = true;
    kill(child, SIGKILL);
  }
  close(process);
  rusage usage = {};
  while (wait4(child, &ending.status, 0, &usage) < 0 && errno == EINTR) {
  }
  const auto of = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  ending.seconds = of(usage.ru_utime) + of(usage.ru_stime);
  ending.peak_bytes = int64_t{usage.ru_maxrss} * 1024;
  ending.hung |= WIFSIGNALED(ending.status) && WTERMSIG(ending.status) == SIGXCPU;
  return ending;
}

[[noreturn]] void Serve(int socket, const LaunchLimits& limits) {
  std::string request(kMostRequest, '\0');
  while (true) {
    const ssize_t size = recv(socket, request.data(), request.size(), 0);
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) _exit(0);
    const absl::string_view text(request.data(), static_cast<size_t>(size));
    const Ending ending = RunChild(absl::StrSplit(text, '\0'), limits);
    if (send(socket, &ending, sizeof ending, MSG_NOSIGNAL) != sizeof ending) _exit(1);
  }
}

}  // namespace

absl::StatusOr<Launcher> Launcher::Start(const LaunchLimits& limits) {
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) {
    return absl::ResourceExhaustedError(absl::StrCat("socketpair: ", std::strerror(errno)));
  }
  const pid_t pid = fork();
  if (pid == 0) {
    close(sockets[0]);
    Serve(sockets[1], limits);
  }
  close(sockets[1]);
  if (pid > 0) return Launcher(sockets[0], pid);
  close(sockets[0]);
  return absl::ResourceExhaustedError(absl::StrCat("fork: ", std::strerror(errno)));
}

Launcher::Launcher(Launcher&& other) noexcept
    : socket_(std::exchange(other.socket_, -1)), pid_(std::exchange(other.pid_, -1)) {}

Launcher::~Launcher() {
  if (socket_ < 0) return;
  shutdown(socket_, SHUT_RDWR);  // launchers that were started later hold copies of the socket
  close(socket_);
  waitpid(pid_, nullptr, 0);
}

absl::StatusOr<Ending> Launcher::Run(const std::string& folder, const std::string& out, const std::string& err,
                                     const std::vector<std::string>& arguments) {
  const std::string request = absl::StrJoin({folder, out, err, absl::StrJoin(arguments, absl::string_view("\0", 1))},
                                            absl::string_view("\0", 1));
  Ending ending;
  if (request.size() > kMostRequest || send(socket_, request.data(), request.size(), MSG_NOSIGNAL) < 0 ||
      recv(socket_, &ending, sizeof ending, 0) != sizeof ending) {
    return absl::InternalError(absl::StrCat("the launcher is gone: ", std::strerror(errno)));
  }
  if (ending.status < 0) {
    return absl::NotFoundError(absl::StrCat(arguments[0], ": cannot be started: ", std::strerror(-ending.status)));
  }
  return ending;
}

}  // namespace sinter::fuzz
