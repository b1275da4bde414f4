// What the runtime does to the process that embeds it: which pages it maps how, and that signals are not its business.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "runtime/generate.h"
#include "runtime/workspace.h"
#include "tests/module_builder.h"

namespace sinter {
namespace {

std::shared_ptr<const CompiledModule> OpenModule() {
  fbs::MetadataT metadata = testing::LanguageModel();
  return *testing::OpenBytes(testing::ModuleBytes(metadata));
}

// The lines of /proc/self/maps whose pages can be written and executed.
std::vector<std::string> WritableAndExecutable() {
  std::vector<std::string> found;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const std::string permissions = line.substr(line.find(' ') + 1, 3);
    if (permissions == "rwx" || permissions == "-wx") found.push_back(line);
  }
  return found;
}

TEST(Process, NoPageIsEverWritableAndExecutable) {
  // The judge sees such a page.
  void* const planted =
      mmap(nullptr, kModulePage, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(planted, MAP_FAILED);
  EXPECT_EQ(WritableAndExecutable().size(), 1u);
  munmap(planted, kModulePage);

  const std::shared_ptr<const CompiledModule> module = OpenModule();
  EXPECT_THAT(WritableAndExecutable(), ::testing::IsEmpty()) << "opened";
  const auto run = [&] {
    const std::unique_ptr<Workspace> workspace = *Workspace::Open(module, 3);
    const std::unique_ptr<Sequence> sequence = *Sequence::Open(module);
    Sampler sampler = *Sampler::Create({}, testing::kVocabulary);
    Generator generator = *Generator::Create(*workspace, *sequence, sampler, {}, nullptr);
    ASSERT_TRUE(generator.Prefill({1, 2, 3}).ok());
    std::vector<std::string> found;
    const auto emit = [](void* context, int32_t, absl::string_view) {
      *static_cast<std::vector<std::string>*>(context) = WritableAndExecutable();
      return static_cast<std::vector<std::string>*>(context)->empty();
    };
    ASSERT_TRUE(generator.Generate({.max_tokens = 5}, emit, &found).ok());
    EXPECT_THAT(found, ::testing::IsEmpty()) << "running";
  };
  run();
  ASSERT_TRUE(module->MoveWeightsToHugePages(2).ok());
  const std::string map = absl::StrCat("/tmp/perf-", getpid(), ".map"), kept = ::testing::TempDir() + "kept";
  std::ofstream(kept) << "kept";
  ASSERT_EQ(symlink(kept.c_str(), map.c_str()), 0);
  ASSERT_TRUE(module->WritePerfMap().ok());
  std::string content;
  std::ifstream(kept) >> content;
  EXPECT_EQ(content, "kept") << "a link in its place is replaced, not followed";
  EXPECT_THAT(WritableAndExecutable(), ::testing::IsEmpty()) << "named for perf";
  run();
  unlink(map.c_str());
  unlink(kept.c_str());
}

TEST(Process, DescriptorsThatRunOutAreAResource) {
  rlimit limit = {}, none = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  none = {0, limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const absl::Status status = CompiledModule::Open("/proc/self/exe").status();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

// Signals are the program's: opening and running install no handler, and what a worker raises itself reaches one.
TEST(Process, SignalsAreLeftToTheProgram) {
  const std::shared_ptr<const CompiledModule> module = OpenModule();
  const std::unique_ptr<Workspace> workspace = *Workspace::Open(module, 3);
  for (int signal : {SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGXFSZ}) {
    struct sigaction action;
    ASSERT_EQ(sigaction(signal, nullptr, &action), 0);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    EXPECT_EQ(action.sa_handler, SIG_DFL) << signal;
#endif
  }
  const std::unique_ptr<ThreadTeam> team = *ThreadTeam::Create(3);
  std::vector<sigset_t> blocked(3);
  team->Run(
      team->threads(),
      [](void* sets, int thread) {
        pthread_sigmask(SIG_SETMASK, nullptr,
                        &(*static_cast<std::vector<sigset_t>*>(sets))[static_cast<size_t>(thread)]);
      },
      &blocked);
  for (size_t thread = 1; thread < 3; ++thread) {
    for (int own : {SIGBUS, SIGSEGV, SIGFPE, SIGILL}) EXPECT_EQ(sigismember(&blocked[thread], own), 0) << own;
    for (int other : {SIGINT, SIGTERM, SIGHUP, SIGUSR1}) EXPECT_EQ(sigismember(&blocked[thread], other), 1) << other;
  }
}

}  // namespace
}  // namespace sinter
