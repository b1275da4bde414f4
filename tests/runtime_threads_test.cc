// Many sequences opened, run, truncated and closed from several threads, on several workspaces over one module; and
// teams with more threads than cores. Meant for the thread sanitizer (./dev test --preset tsan -R runtime_threads),
// true in every build. Kernels are the assembly of module_builder.h, which a sanitizer does not see: what it judges is
// the runtime around them.
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <random>
#include <thread>

#include "runtime/generate.h"
#include "runtime/workspace.h"
#include "tests/module_builder.h"

namespace sinter {
namespace {

using testing::kContext;
using testing::kMostTokens;
using testing::kVocabulary;

std::shared_ptr<const CompiledModule> OpenModule() {
  fbs::MetadataT metadata = testing::LanguageModel();
  return *testing::OpenBytes(testing::ModuleBytes(metadata));
}

// The row of the last position, by the definition of the logits kernel.
std::vector<float> Expected(const std::vector<int32_t>& ids) {
  int64_t sum = 0;
  for (int32_t id : ids) sum += id;
  std::vector<float> row;
  for (int64_t v = 0; v < kVocabulary; ++v) row.push_back(static_cast<float>((sum + 3 * v) % kVocabulary));
  return row;
}

// A text and the sequence that holds it. Used by one thread at a time, not always the same.
struct Conversation {
  std::unique_ptr<Sequence> sequence;
  std::vector<int32_t> ids;
};

// One random change of a conversation; nothing when the result is as it should be.
std::optional<std::string> Turn(Workspace& workspace, Conversation& talk, std::mt19937& random) {
  const auto failed = [](const absl::Status& status) { return std::string(status.message()); };
  std::vector<float> row(static_cast<size_t>(kVocabulary));
  const int64_t room = kContext - static_cast<int64_t>(talk.ids.size());
  if (room < kMostTokens || random() % 4 == 0) {
    const int64_t keep = static_cast<int64_t>(random() % (talk.ids.size() + 1));
    if (absl::Status s = talk.sequence->Truncate(keep); !s.ok()) return failed(s);
    talk.ids.resize(static_cast<size_t>(keep));
    return std::nullopt;
  }
  const size_t count = random() % 3 == 0 ? 1 + random() % 40 : 1;
  std::vector<int32_t> more;
  for (size_t i = 0; i < count; ++i)
    more.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(kVocabulary)));
  if (absl::Status s = workspace.Prefill(*talk.sequence, more, absl::MakeSpan(row)); !s.ok()) return failed(s);
  talk.ids.insert(talk.ids.end(), more.begin(), more.end());
  if (row != Expected(talk.ids)) return "logits differ";
  if (talk.sequence->position() != static_cast<int64_t>(talk.ids.size())) return "the position differs";
  return std::nullopt;
}

TEST(RuntimeThreads, SequencesWanderBetweenWorkspaces) {
  const std::shared_ptr<const CompiledModule> module = OpenModule();
  constexpr int kWorkers = 4, kTurns = 400;
  std::mutex mutex;
  std::deque<Conversation> waiting;  // for any worker
  std::vector<std::string> errors;
  const auto work = [&](int worker) {
    std::mt19937 random(static_cast<uint32_t>(worker));
    std::unique_ptr<Workspace> workspace = *Workspace::Open(module, 1 + worker % 3);
    for (int turn = 0; turn < kTurns; ++turn) {
      std::optional<Conversation> talk;
      {
        const std::lock_guard<std::mutex> lock(mutex);
        if (!waiting.empty() && random() % 8 != 0) {
          talk = std::move(waiting.front());
          waiting.pop_front();
        }
      }
      if (!talk) talk.emplace(Conversation{*Sequence::Open(module), {}});
      std::optional<std::string> error;
      for (int i = 0; i < 5 && !error; ++i) error = Turn(*workspace, *talk, random);
      const std::lock_guard<std::mutex> lock(mutex);
      if (error) errors.push_back(*error);
      if (random() % 16 != 0) waiting.push_back(*std::move(talk));  // else it ends here
      if (turn % 100 == 99) workspace = *Workspace::Open(module, 1 + (worker + turn) % 3);
    }
  };
  std::vector<std::thread> workers;
  for (int i = 0; i < kWorkers; ++i) workers.emplace_back(work, i);
  for (std::thread& worker : workers) worker.join();
  EXPECT_TRUE(errors.empty()) << errors.size() << " errors, " << errors[0];
  EXPECT_FALSE(waiting.empty());
}

TEST(RuntimeThreads, ModulesOpenedAndClosedWhileOthersRun) {
  const std::vector<uint8_t> bytes = [] {
    fbs::MetadataT metadata = testing::LanguageModel();
    return testing::ModuleBytes(metadata);
  }();
  std::vector<std::thread> workers;
  std::atomic<int> wrong = 0;
  for (int i = 0; i < 3; ++i) {
    workers.emplace_back([&, i] {
      std::mt19937 random(static_cast<uint32_t>(i) + 10);
      for (int round = 0; round < 20; ++round) {
        const auto module = *testing::OpenBytes(bytes);
        wrong += !module->VerifyWeights().ok();
        const auto workspace = *Workspace::Open(module, 2);
        Conversation talk{*Sequence::Open(module), {}};
        for (int turn = 0; turn < 5; ++turn) wrong += Turn(*workspace, talk, random).has_value();
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  EXPECT_EQ(wrong, 0);
}

// Every step of the model has barriers; whoever is not on a core sleeps, and all of them get there.
class MoreThanCores : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Threads, MoreThanCores, ::testing::Values(2, 3, 4, 6, 8, 12, 16));

TEST_P(MoreThanCores, ManyShortStepsEnd) {
  const std::shared_ptr<const CompiledModule> module = OpenModule();
  const std::unique_ptr<Workspace> workspace = *Workspace::Open(module, GetParam());
  Conversation talk{*Sequence::Open(module), {}};
  std::vector<float> row(static_cast<size_t>(kVocabulary));
  constexpr int32_t kRow = 0;
  for (int step = 0; step < 3000; ++step) {
    if (talk.sequence->position() == kContext) {
      ASSERT_TRUE(talk.sequence->Truncate(0).ok());
      talk.ids.clear();
    }
    talk.ids.push_back(step % 7);
    ASSERT_TRUE(workspace->Step(*talk.sequence, {talk.ids.back()}, {&kRow, 1}, absl::MakeSpan(row)).ok());
    ASSERT_EQ(row, Expected(talk.ids)) << step;
  }
}

// Long enough that threads take grains from one another.
TEST_P(MoreThanCores, LongStepsAreSharedOut) {
  constexpr int64_t kMost = int64_t{1} << 18;
  fbs::MetadataT metadata = testing::BaseMetadata();
  metadata.dims[testing::kT]->max = kMost;
  metadata.bounds.clear();
  metadata.arena_bytes = 2 * 4 * kMost;
  const fbs::Operand x(fbs::Space_Input, 0), y(fbs::Space_Output, 0), a(fbs::Space_Arena, 0),
      b(fbs::Space_Arena, 4 * kMost);
  const auto add = [](bool barrier, std::vector<fbs::Operand> operands) {
    return testing::KernelStep(testing::kAdd, fbs::StepMode_Split, barrier,
                               testing::List(testing::Factor(testing::Symbol(testing::kT))), std::move(operands));
  };
  metadata.entries.push_back(std::make_unique<fbs::EntryT>(
      testing::MakeEntry("f", testing::List(testing::Param("x", "f32", testing::List(testing::Symbol(testing::kT)))),
                         testing::List(testing::Param("y", "f32", testing::List(testing::Symbol(testing::kT)))), {},
                         testing::List(add(false, {x, x, a}), add(true, {a, x, b}), add(true, {b, a, y})))));
  const std::shared_ptr<const CompiledModule> module = *testing::OpenBytes(testing::ModuleBytes(metadata));
  const std::unique_ptr<Workspace> workspace = *Workspace::Open(module, GetParam());
  for (int run = 0; run < 20; ++run) {
    const int64_t t = kMost - run * 1001;
    std::vector<float> in(static_cast<size_t>(t)), out(in.size() + 1, -1);
    for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i % 1000 + static_cast<size_t>(run));
    ASSERT_TRUE(workspace->Run(module->entries()[0], {t, -1, -1, -1}, {in.data()}, {out.data()}, {}).ok());
    for (size_t i = 0; i < in.size(); ++i) ASSERT_EQ(out[i], 5 * in[i]) << i;
    ASSERT_EQ(out.back(), -1);
  }
}

// Several teams at once, each larger than the machine.
TEST(RuntimeThreads, TeamsCompete) {
  const std::shared_ptr<const CompiledModule> module = OpenModule();
  std::vector<std::thread> owners;
  std::atomic<int> wrong = 0;
  for (int owner = 0; owner < 4; ++owner) {
    owners.emplace_back([&, owner] {
      const std::unique_ptr<Workspace> workspace = *Workspace::Open(module, 4);
      Conversation talk{*Sequence::Open(module), {}};
      std::mt19937 random(static_cast<uint32_t>(owner));
      for (int turn = 0; turn < 300; ++turn) wrong += Turn(*workspace, talk, random).has_value();
    });
  }
  for (std::thread& owner : owners) owner.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace sinter
