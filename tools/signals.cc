#include "tools/signals.h"

#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <new>

#include "base/file.h"
#include "tools/console.h"

namespace sinter {
namespace {

struct Stopping {
  int signal;
  const char* message;
};
constexpr Stopping kStopping[] = {
    {SIGINT, "sinter: interrupted (SIGINT)\n"},
    {SIGTERM, "sinter: stopped (SIGTERM)\n"},
    {SIGHUP, "sinter: stopped (SIGHUP)\n"},
};
constexpr int kBadFile = 4, kOutOfMemory = 6;  // of base/status.h

bool on_terminal;  // stderr

void Say(const char* text, size_t size) {
  while (size > 0) {
    const ssize_t n = write(STDERR_FILENO, text, size);
    if (n <= 0) return;
    text += n;
    size -= static_cast<size_t>(n);
  }
}
void Say(const char* text) { Say(text, std::strlen(text)); }

// The message begins on a line of its own: in place of a progress line, or below text that was being printed.
void BeginLine() {
  if (on_terminal) Say(ProgressLine::IsVisible() ? "\r\x1b[K" : "\n");
}

void Stop(int signal) {
  RemoveTemporaryFiles();
  BeginLine();
  for (const Stopping& row : kStopping) {
    if (row.signal == signal) Say(row.message);
  }
  raise(signal);  // whose action is the default again; it comes when this returns
}

// Reads /proc/self/maps byte by byte: "begin-end perms offset device inode   path".
class Maps {
 public:
  Maps() : fd_(open("/proc/self/maps", O_RDONLY | O_CLOEXEC)) {}
  ~Maps() { close(fd_); }

  // The path of what is mapped at the address, printable and cut to fit; false when there is no file.
  bool FindPath(uintptr_t address, char* path, size_t size) {
    int c;
    do {
      const uintptr_t begin = Hex(&c), end = c == '-' ? Hex(&c) : 0;
      for (int column = 1; column < 5 && c == ' '; ++column) c = Skip();
      while (c == ' ') c = Next();
      size_t length = 0;
      for (; c >= 0 && c != '\n'; c = Next()) {
        if (length + 1 < size) path[length++] = static_cast<char>(c >= ' ' && c < 0x7f ? c : '?');
      }
      path[length] = '\0';
      if (address >= begin && address < end) return length > 0;
    } while (c >= 0);
    return false;
  }

 private:
  int Next() {
    if (at_ == size_) {
      size_ = read(fd_, buffer_, sizeof buffer_);
      at_ = 0;
      if (size_ <= 0) return -1;
    }
    return static_cast<unsigned char>(buffer_[at_++]);
  }
  uintptr_t Hex(int* after) {
    uintptr_t value = 0;
    while (true) {
      const int c = *after = Next();
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
      if (digit < 0) return value;
      value = value * 16 + static_cast<uintptr_t>(digit);
    }
  }
  int Skip() {
    int c;
    do c = Next();
    while (c > ' ');
    return c;
  }

  int fd_;
  char buffer_[1024];
  ssize_t at_ = 0, size_ = 0;
};

void LostPage(int signal, siginfo_t* info, void*) {
  char path[1024];
  if (info->si_code != BUS_ADRERR || !Maps().FindPath(reinterpret_cast<uintptr_t>(info->si_addr), path, sizeof path)) {
    std::signal(signal, SIG_DFL);
    return;  // to where it happens again
  }
  RemoveTemporaryFiles();
  BeginLine();
  Say("sinter: error: ");
  Say(path);
  Say(": cannot be read any more: it was cut short while it was in use, or its disk fails\n");
  _exit(kBadFile);
}

// Of operator new. Nothing is unwound: Abseil's hash tables, which the compiler is full of, do not survive that.
void NoMemory() {
  RemoveTemporaryFiles();
  BeginLine();
  Say("sinter: error: out of memory\n");
  _exit(kOutOfMemory);
}

void TakeStreams() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (fcntl(fd, F_GETFD) >= 0) continue;
    (void)open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);  // the lowest free one, which is fd
  }
}

}  // namespace

void TakeSignals() {
  TakeStreams();
  on_terminal = isatty(STDERR_FILENO) != 0;
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  for (const Stopping& row : kStopping) {
    struct sigaction before;
    if (sigaction(row.signal, nullptr, &before) != 0 || before.sa_handler == SIG_IGN) continue;
    struct sigaction action = {};
    action.sa_handler = Stop;
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigfillset(&action.sa_mask);
    sigaction(row.signal, &action, nullptr);
  }
  struct sigaction action = {};
  action.sa_sigaction = LostPage;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, nullptr);
  std::set_new_handler(NoMemory);
}

}  // namespace sinter
