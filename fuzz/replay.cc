// NAME_replay: runs a target without libFuzzer, so that any compiler builds it.
//
//   NAME_replay [--mutations=N] [--seeds=DIR] [FILE|DIR...]
//
// Runs the seeds, every file named or in a folder named, and N mutations of the seeds by the target's own mutator. With
// --seeds it writes the seeds to DIR and does nothing else. Exit code 2: usage. A finding ends it as it would end the
// target; the input is then named on stderr, and in finding.bin unless it came from a file.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "fuzz/target.h"

extern "C" __attribute__((weak)) size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                                                unsigned seed);

// One byte changed, put in or taken out.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size) {
  static auto& dice = *new sinter::Dice(1);
  if (size == 0 || (size < max_size && dice.Chance(20))) {
    if (max_size == 0) return 0;
    data[size] = static_cast<uint8_t>(dice.Next());
    return size + 1;
  }
  if (dice.Chance(20)) return size - 1;
  data[dice.Below(static_cast<int64_t>(size))] = static_cast<uint8_t>(dice.Next());
  return size;
}

// A sanitizer's, where the program has one: what is called before it ends the program for what it found.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace sinter::fuzz {
namespace {

// What runs, for the moment that ends it.
const char* running = "";
const std::string* running_bytes = nullptr;

void OnFinding() {
  std::fprintf(stderr, "while running %s\n", running);
  if (running_bytes == nullptr) return;
  if (FILE* file = std::fopen("finding.bin", "wb")) {
    std::fwrite(running_bytes->data(), 1, running_bytes->size(), file);
    std::fclose(file);
    std::fprintf(stderr, "written to finding.bin\n");
  }
}

void KeepFindings() {
  std::vector<int> signals = {SIGABRT};
  if (__sanitizer_set_death_callback != nullptr) {
    __sanitizer_set_death_callback(OnFinding);
  } else {
    signals.insert(signals.end(), {SIGSEGV, SIGBUS, SIGFPE, SIGILL});
  }
  struct sigaction action = {};
  action.sa_handler = [](int signal) {
    OnFinding();
    raise(signal);  // as it would have ended
  };
  action.sa_flags = SA_RESETHAND;
  for (int signal : signals) sigaction(signal, &action, nullptr);
}

void RunInput(const char* name, const std::string& bytes, bool keep) {
  running = name;
  running_bytes = keep ? &bytes : nullptr;
  // At its exact size on the heap, so that a sanitizer sees a read past its end.
  const std::vector<uint8_t> input(bytes.begin(), bytes.end());
  LLVMFuzzerTestOneInput(input.data(), input.size());
}

int RunFiles(const std::string& path, size_t& count) {
  namespace fs = std::filesystem;
  std::vector<std::string> files;
  if (fs::is_directory(path)) {
    for (const auto& entry : fs::directory_iterator(path)) files.push_back(entry.path().string());
    std::sort(files.begin(), files.end());
  } else {
    files.push_back(path);
  }
  for (const std::string& file : files) {
    const auto bytes = ReadFile(file);
    if (!bytes.ok()) {
      std::fprintf(stderr, "%s\n", std::string(bytes.status().message()).c_str());
      return 2;
    }
    RunInput(file.c_str(), *bytes, false);
    ++count;
  }
  return 0;
}

void RunMutations(const std::vector<Seed>& seeds, uint64_t mutations) {
  constexpr size_t kMostBytes = 1 << 16;
  Dice dice(1);
  std::string input;
  for (uint64_t i = 0; i < mutations; ++i) {
    // A few mutations on top of each other.
    if (i % 4 == 0) input = dice.Pick(seeds).bytes;
    const size_t size = std::min(input.size(), kMostBytes);
    input.resize(kMostBytes);
    auto* data = reinterpret_cast<uint8_t*>(input.data());
    const auto seed = static_cast<unsigned>(dice.Next());
    input.resize(LLVMFuzzerCustomMutator != nullptr ? LLVMFuzzerCustomMutator(data, size, kMostBytes, seed)
                                                    : LLVMFuzzerMutate(data, size, kMostBytes));
    RunInput("a mutation", input, true);
  }
}

int Main(int argc, char** argv) {
  const std::vector<Seed> seeds = Seeds();
  Expect(!seeds.empty(), "a target has seeds");
  uint64_t mutations = 0;
  std::vector<std::string> paths;
  for (absl::string_view argument : std::vector<absl::string_view>(argv + 1, argv + argc)) {
    if (absl::ConsumePrefix(&argument, "--seeds=")) {
      for (const Seed& seed : seeds) {
        const absl::Status status = WriteFile(std::string(argument) + "/" + seed.name, seed.bytes);
        if (status.ok()) continue;
        std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
        return 2;
      }
      return 0;
    }
    if (absl::ConsumePrefix(&argument, "--mutations=")) {
      if (absl::SimpleAtoi(argument, &mutations)) continue;
      std::fprintf(stderr, "--mutations: expected a number; found %s\n", std::string(argument).c_str());
      return 2;
    }
    paths.emplace_back(argument);
  }
  KeepFindings();
  size_t count = 0;
  for (const std::string& path : paths) {
    if (const int code = RunFiles(path, count); code != 0) return code;
  }
  for (const Seed& seed : seeds) RunInput(seed.name.c_str(), seed.bytes, true);
  RunMutations(seeds, mutations);
  std::printf("%zu files, %zu seeds, %llu mutations\n", count, seeds.size(),
              static_cast<unsigned long long>(mutations));
  return 0;
}

}  // namespace
}  // namespace sinter::fuzz

int main(int argc, char** argv) { return sinter::fuzz::Main(argc, argv); }
