// Memory that runs out at any moment: the n-th allocation of the heap, the n-th mapping and the n-th thread fail, for
// every n of opening a compiled module, running it and printing text, of opening a model file, and of the compiler's
// loops. Each time there is an error, nothing stays behind, and the next attempt works.
//
// mmap is replaced when this program is linked (--wrap in CMakeLists.txt), pthread_create also for the libraries that
// it loads: std::thread calls it in one.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <filesystem>
#include <functional>
#include <new>
#include <optional>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/parallel.h"
#include "base/status.h"
#include "frontend/gguf.h"
#include "runtime/cpu.h"
#include "runtime/generate.h"
#include "runtime/memory_need.h"
#include "runtime/workspace.h"
#include "tests/heap_counter.h"
#include "tests/module_builder.h"
#include "tests/tiny_models.h"

namespace {

int mappings_to_go = 0, threads_to_go = 0;  // until one fails; 0: none does

bool Fails(int& to_go) { return to_go > 0 && --to_go == 0; }

}  // namespace

// NOLINTBEGIN(bugprone-reserved-identifier,readability-inconsistent-declaration-parameter-name)
extern "C" {
void* __real_mmap(void* at, size_t size, int protection, int flags, int fd, off_t offset);
void* __wrap_mmap(void* at, size_t size, int protection, int flags, int fd, off_t offset) {
  if (!Fails(mappings_to_go)) return __real_mmap(at, size, protection, flags, fd, offset);
  errno = ENOMEM;
  return MAP_FAILED;
}
int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*),
                   void* argument) noexcept {
  static const auto real = reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
  return Fails(threads_to_go) ? EAGAIN : real(thread, attributes, start, argument);
}
}
// NOLINTEND(bugprone-reserved-identifier,readability-inconsistent-declaration-parameter-name)

namespace sinter {
namespace {

// The language model of module_builder.h with a vocabulary: unk, a to d, an accented letter, end.
std::vector<uint8_t> ModuleWithText() {
  fbs::MetadataT metadata = testing::LanguageModel();
  fbs::TokenizerT vocabulary;
  vocabulary.model = "llama";
  vocabulary.tokens = {"<unk>", "a", "b", "c", "d", "\xc3\xa9", "</s>"};
  vocabulary.scores.assign(7, 0);
  vocabulary.types = {2, 1, 1, 1, 1, 1, 3};
  vocabulary.unk = 0;
  vocabulary.eos = 6;
  metadata.tokenizer = std::make_unique<fbs::TokenizerT>(vocabulary);
  return testing::ModuleBytes(metadata);
}

// What a run leaves, in memory that is there before.
struct Trace {
  size_t tokens = 0, bytes = 0;
  uint64_t hash = 0;
  void Add(uint64_t value) { hash = (hash ^ value) * 0x9e3779b97f4a7c15; }
  friend bool operator==(const Trace&, const Trace&) = default;
};

bool Emit(void* context, int32_t id, absl::string_view text) {
  Trace& trace = *static_cast<Trace*>(context);
  ++trace.tokens;
  trace.bytes += text.size();
  trace.Add(static_cast<uint64_t>(id) + 1);
  for (char c : text) trace.Add(static_cast<uint8_t>(c));
  return true;
}

// All that a server does with a module.
absl::Status Serve(const std::string& path, Trace& trace) {
  SINTER_ASSIGN_OR_RETURN(const std::shared_ptr<const CompiledModule> module, CompiledModule::Open(path));
  SINTER_RETURN_IF_ERROR(module->VerifyWeights());
  SINTER_RETURN_IF_ERROR(module->MoveWeightsToHugePages(2));
  SINTER_ASSIGN_OR_RETURN(TokenizerData data, module->tokenizer());
  SINTER_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Create(std::move(data)));
  SINTER_ASSIGN_OR_RETURN(const std::unique_ptr<Workspace> workspace, Workspace::Open(module, 3));
  SINTER_ASSIGN_OR_RETURN(const std::unique_ptr<Sequence> sequence, Sequence::Open(module));
  SINTER_ASSIGN_OR_RETURN(Sampler sampler, Sampler::Create({.temperature = 0.7, .repeat_penalty = 1.1, .seed = 5},
                                                           static_cast<int32_t>(workspace->vocabulary())));
  SINTER_ASSIGN_OR_RETURN(TokenStream stream, TokenStream::Create(tokenizer, false));
  SINTER_ASSIGN_OR_RETURN(const std::vector<int32_t> end_ids, tokenizer.data().EndIds());
  SINTER_ASSIGN_OR_RETURN(Generator generator, Generator::Create(*workspace, *sequence, sampler, end_ids, &stream));
  SINTER_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer.Encode("abc da\xc3\xa9", true));
  SINTER_RETURN_IF_ERROR(generator.Prefill(ids));
  SINTER_RETURN_IF_ERROR(generator.Generate({.max_tokens = 20, .ignore_end = true}, Emit, &trace).status());
  SINTER_RETURN_IF_ERROR(sequence->Truncate(3));
  SINTER_RETURN_IF_ERROR(workspace->Prefill(*sequence, ids, {}));
  // Errors allocate too: their messages.
  for (const absl::Status& refused : {sequence->Truncate(99), workspace->Step(*sequence, {-1}, {}, {}),
                                      workspace->Prefill(*sequence, {99}, {}), generator.Prefill({})}) {
    if (absl::IsResourceExhausted(refused)) return refused;
    EXPECT_EQ(refused.code(), absl::StatusCode::kOutOfRange) << refused;
  }
  return absl::OkStatus();
}

// Calls `work` with the n-th allocation failing, for n = 1, 1 + step, ..; returns how many allocations it makes.
size_t FailEach(const std::function<absl::Status()>& work, bool all_after, size_t step) {
  for (size_t n = 1;; n += step) {
    const size_t blocks = HeapBlocks();
    FailAllocations(n, all_after);
    absl::Status status = work();
    const bool failed = AllocationHasFailed();
    FailAllocations(0);
    if (!failed) {
      EXPECT_TRUE(status.ok()) << status;
      return n;
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << "allocation " << n << ": " << status;
    status = absl::OkStatus();
    EXPECT_EQ(HeapBlocks(), blocks) << "allocation " << n;
    if (::testing::Test::HasFailure()) return n;
  }
}

class AllocFailure : public ::testing::Test {
 protected:
  AllocFailure() : path_(absl::StrCat(::testing::TempDir(), "alloc_failure_test_", getpid())) {
    const std::vector<uint8_t> bytes = ModuleWithText();
    EXPECT_TRUE(WriteFile(path_, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}).ok());
    // What lives as long as the process is made by the first run.
    const absl::Status status = Serve(path_, expected_);
    EXPECT_TRUE(status.ok()) << status;
  }
  ~AllocFailure() override {
    Trace trace;
    const absl::Status status = Serve(path_, trace);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(trace, expected_);
    unlink(path_.c_str());
  }

  const std::string path_;
  Trace expected_;
};

TEST_F(AllocFailure, OneAllocationOfServing) {
  Trace trace;
  const size_t count = FailEach([&] { return Serve(path_, trace); }, false, 1);
  EXPECT_GT(count, 100u);
}

TEST_F(AllocFailure, OneAllocationAndAllAfterIt) {
  Trace trace;
  FailEach([&] { return Serve(path_, trace); }, true, 1);
}

TEST(AllocFailures, WhatTheMachineHasIsFoundOrNot) {
  const MemoryNeed need = {.state_bytes = int64_t{1} << 58, .positions = 1};
  for (const bool all_after : {false, true}) {
    bool failed = true;
    for (size_t n = 1; failed; ++n) {
      const size_t blocks = HeapBlocks();
      FailAllocations(n, all_after);
      {
        const ThreadBudget budget = DefaultThreads();
        const std::string cpu = HostCpuName();
        const std::vector<int> cpus = AffinityCpus();
        const std::vector<MemoryLimit> limits = MemoryLimits();
        const absl::Status status = CheckMemory("a name that is longer than a string holds in place", need, limits);
        failed = AllocationHasFailed();
        FailAllocations(0);
        EXPECT_GE(budget.threads, 1);
        EXPECT_FALSE(cpu.empty());
        EXPECT_TRUE(status.code() == absl::StatusCode::kResourceExhausted || limits.empty()) << n << ": " << status;
      }
      ASSERT_EQ(HeapBlocks(), blocks) << n;
    }
  }
}

TEST_F(AllocFailure, EveryMappingAndEveryThread) {
  for (int* to_go : {&mappings_to_go, &threads_to_go}) {
    const size_t blocks = HeapBlocks();
    int n = 1;
    for (bool failed = true; failed; ++n) {
      *to_go = n;
      Trace trace;
      absl::Status status = Serve(path_, trace);
      failed = *to_go == 0;
      *to_go = 0;
      EXPECT_EQ(status.code(), failed ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kOk)
          << n << ": " << status;
      status = absl::OkStatus();
      ASSERT_EQ(HeapBlocks(), blocks) << n;
    }
    EXPECT_GT(n, 2);
  }
}

TEST_F(AllocFailure, DescriptorsAndMappingsReturn) {
  const auto count = [](const char* folder) {
    return std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator());
  };
  const auto descriptors = count("/proc/self/fd"), threads = count("/proc/self/task");
  Trace trace;
  FailEach([&] { return Serve(path_, trace); }, false, 3);
  EXPECT_EQ(count("/proc/self/fd"), descriptors);
  EXPECT_EQ(count("/proc/self/task"), threads);
}

TEST_F(AllocFailure, OpeningAModelFile) {
  const std::string model = path_ + ".gguf";
  const std::string file = MakeTinyModel({}).File();
  ASSERT_TRUE(WriteFile(model, file).ok());
  const auto parse = [&] { return Gguf::Open(model).status(); };
  FailEach(parse, false, 1);
  FailEach(parse, true, 7);
  unlink(model.c_str());
}

TEST(ParallelLoops, ThreadsThatDoNotStartLeaveTheWorkToOthers) {
  for (int refused = 1; refused <= 4; ++refused) {
    std::array<std::atomic<int>, 100> times = {};
    threads_to_go = refused;
    const absl::Status status = ParallelFor("counting", times.size(), 4, [&](int64_t i) {
      ++times[static_cast<size_t>(i)];
      return absl::OkStatus();
    });
    EXPECT_EQ(std::exchange(threads_to_go, 0), refused == 4 ? 1 : 0) << "it starts three threads";
    EXPECT_TRUE(status.ok()) << status;
    for (size_t i = 0; i < times.size(); ++i) EXPECT_EQ(times[i], 1) << refused << " " << i;
  }
}

TEST(ParallelLoops, MemoryThatRunsOutOnEveryThreadIsAnError) {
  std::atomic<int> begun = 0;
  const absl::Status status = ParallelFor("counting", 3, 3, [&](int64_t) -> absl::Status {
    for (++begun; begun < 3;) std::this_thread::yield();  // each call has a thread of its own
    throw std::bad_alloc();
  });
  EXPECT_EQ(status, absl::ResourceExhaustedError("counting: out of memory"));
}

TEST(ParallelLoops, EveryAllocation) {
  std::array<std::string, 20> made;
  const auto fill = [&] {
    return ParallelFor("filling", made.size(), 3, [&](int64_t i) {
      made[static_cast<size_t>(i)] = std::string(100, 'x');
      return absl::OkStatus();
    });
  };
  ASSERT_TRUE(fill().ok());
  bool failed = true;
  for (size_t n = 1; failed; ++n) {
    made = {};
    const size_t blocks = HeapBlocks();
    FailAllocations(n);
    absl::Status status = fill();
    failed = AllocationHasFailed();
    FailAllocations(0);
    if (status.ok()) {  // or with fewer threads
      for (const std::string& s : made) EXPECT_EQ(s.size(), 100u) << n;
    } else {
      EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << n;
    }
    made = {};
    status = absl::OkStatus();
    ASSERT_LE(HeapBlocks(), blocks) << n;
  }
}

}  // namespace
}  // namespace sinter
