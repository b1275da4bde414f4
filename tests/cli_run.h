// Runs the built `sinter` as a user does: arguments in, exit code and both streams out.
#pragma once

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"

extern char** environ;

namespace sinter {

inline std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline void WriteAll(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

// A folder of this test alone, removed with all that is in it. Beside it lies what `run` keeps (XDG_CACHE_HOME).
class TestFolder {
 public:
  TestFolder() {
    std::string path = ::testing::TempDir() + "sinter_cli_XXXXXX";
    EXPECT_NE(mkdtemp(path.data()), nullptr);
    path_ = path + "/";
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  ~TestFolder() {
    std::filesystem::remove_all(path_);
    std::filesystem::remove_all(cache());
  }
  std::string operator/(const std::string& name) const { return path_ + name; }
  const std::string& path() const { return path_; }
  std::string cache() const { return path_.substr(0, path_.size() - 1) + "_cache"; }
  size_t files() const { return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path_), {})); }

 private:
  std::string path_;
};

struct CliResult {
  int code;  // -N: killed by signal N
  std::string out, err;
  pid_t pid = 0;
};

// A program that runs: its output so far is in the files, under the folder's own names.
struct Running {
  pid_t pid = 0;
  std::string in, out, err;
};

// `program` with arguments, in the folder (where a reproducer would go). `cache` "": the folder's own.
inline Running Start(const TestFolder& folder, const std::vector<std::string>& command, const std::string& input = "",
                     const std::string& cache = "") {
  Running running{0, folder / ".stdin", folder / ".stdout", folder / ".stderr"};
  WriteAll(running.in, input);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, running.in.c_str(), O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, running.out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_addopen(&actions, 2, running.err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_addchdir_np(&actions, folder.path().c_str());
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  std::string home = "XDG_CACHE_HOME=" + (cache.empty() ? folder.cache() : cache);
  std::vector<char*> environment = {home.data()};
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (std::string(*entry).rfind("XDG_CACHE_HOME=", 0) != 0) environment.push_back(*entry);
  }
  environment.push_back(nullptr);
  const int error = posix_spawn(&running.pid, argv[0], &actions, nullptr, argv.data(), environment.data());
  posix_spawn_file_actions_destroy(&actions);
  EXPECT_EQ(error, 0) << argv[0];
  if (error != 0) running.pid = 0;
  return running;
}

// Waits for its end.
inline CliResult Finish(const Running& running) {
  int status = 0;
  if (running.pid != 0) waitpid(running.pid, &status, 0);
  CliResult result{WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), ReadAll(running.out),
                   ReadAll(running.err), running.pid};
  for (const std::string& path : {running.in, running.out, running.err}) unlink(path.c_str());
  return result;
}

inline CliResult Spawn(const TestFolder& folder, const std::vector<std::string>& command, const std::string& input = "",
                       const std::string& cache = "") {
  return Finish(Start(folder, command, input, cache));
}

inline CliResult Sinter(const TestFolder& folder, std::vector<std::string> arguments, const std::string& input = "",
                        const std::string& cache = "") {
  arguments.insert(arguments.begin(), SINTER_BINARY);
  return Spawn(folder, arguments, input, cache);
}

// Expects an exit code and, on the stream where it belongs, a text.
inline void ExpectFailure(const CliResult& result, int code, const std::string& message) {
  EXPECT_EQ(result.code, code) << result.err;
  EXPECT_NE(result.err.find(message), std::string::npos) << "expected: " << message << "\nfound: " << result.err;
  EXPECT_EQ(result.out, "");
}

inline std::string Joined(const std::vector<int>& ids) {
  std::ostringstream text;
  for (size_t i = 0; i < ids.size(); ++i) text << (i == 0 ? "" : " ") << ids[i];
  text << '\n';
  return text.str();
}

}  // namespace sinter
