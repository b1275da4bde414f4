// soak: one session for a long time. So many tokens go through one workspace and one sequence, as prompts and one by
// one, with truncations to random positions and restarts from nothing. At the start, every tenth of the way and at the
// end the same text gives the same logits, bit for bit, and memory stays what it was after the context was full once:
// resident size, blocks and bytes of the heap, mappings, descriptors and threads.
//
//   soak preset:smallmind --tokens=200000
//
// Prints a line for each tenth; exits with 1 when something grew or differed.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/heap.h"
#include "base/status.h"
#include "runtime/cgroup.h"
#include "runtime/module_format.h"
#include "runtime/sampler.h"
#include "runtime/workspace.h"
#include "tests/heap_counter.h"
#include "tools/compile_flags.h"
#include "tools/compile_source.h"
#include "tools/console.h"

namespace sinter {
namespace {

// A resident size grows by what the C library and the kernel keep for themselves; a leak of a byte a token is seen in
// the heap.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // its heap keeps what is freed, and shadows, and maps more memory when it likes
constexpr int64_t kMostGrowth = int64_t{256} << 20;
#else
constexpr bool kSanitized = false;
constexpr int64_t kMostGrowth = int64_t{1} << 20;
#endif

struct SoakFlags {
  std::string model = "preset:smallmind";
  int64_t tokens = 200'000;
  int threads = 2;
  uint32_t seed = 1;
  CompileFlags compile;
};

struct Footprint {
  int64_t resident, heap_blocks, heap_bytes, mappings, descriptors, threads;
};

int64_t CountOf(const char* folder) {
  return std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator());
}

Footprint Measure() {
  const std::vector<std::string> words = absl::StrSplit(ReadSystemFile("/proc/self/statm"), ' ');
  int64_t pages = 0;
  if (words.size() > 1) (void)absl::SimpleAtoi(words[1], &pages);
  std::ifstream maps("/proc/self/maps");
  const int64_t mappings = std::count(std::istreambuf_iterator<char>(maps), {}, '\n');
  return {pages * sysconf(_SC_PAGESIZE), static_cast<int64_t>(HeapBlocks()), HeapInUse(), mappings,
          CountOf("/proc/self/fd"),      CountOf("/proc/self/task")};
}

class Session {
 public:
  static absl::StatusOr<Session> Open(const SoakFlags& flags) {
    Session session;
    SINTER_ASSIGN_OR_RETURN(session.module_, OpenExecutable(flags.model, flags.compile, "soak"));
    SINTER_ASSIGN_OR_RETURN(session.workspace_, Workspace::Open(session.module_, flags.threads));
    SINTER_ASSIGN_OR_RETURN(session.sequence_, Sequence::Open(session.module_));
    const int64_t vocabulary = session.workspace_->vocabulary();
    if (vocabulary == 0) return absl::UnimplementedError(absl::StrCat(flags.model, ": no language model"));
    SINTER_ASSIGN_OR_RETURN(Sampler sampler,
                            Sampler::Create({.temperature = 1, .top_k = 40, .repeat_penalty = 1.1, .seed = flags.seed},
                                            static_cast<int32_t>(vocabulary)));
    session.sampler_ = std::make_unique<Sampler>(std::move(sampler));
    session.logits_.resize(static_cast<size_t>(vocabulary));
    session.ids_.resize(static_cast<size_t>(session.capacity()));
    session.random_.seed(flags.seed);
    return session;
  }

  int64_t capacity() const { return sequence_->capacity(); }
  int64_t tokens() const { return tokens_; }
  int64_t restarts() const { return restarts_; }
  int64_t truncations() const { return truncations_; }

  // A prompt of a quarter of the context and a greedy continuation; the checksum of all logits on the way.
  absl::StatusOr<Checksum> Reference() {
    SINTER_RETURN_IF_ERROR(sequence_->Truncate(0));
    const int64_t prompt = std::max<int64_t>(1, capacity() / 4), steps = std::min<int64_t>(64, capacity() - prompt);
    for (int64_t i = 0; i < prompt; ++i) {
      ids_[static_cast<size_t>(i)] = static_cast<int32_t>(i * 7919 % workspace_->vocabulary());
    }
    SINTER_RETURN_IF_ERROR(Prompt(prompt));
    Checksum all;
    const auto add = [&] {
      const Checksum row = ChecksumOf({reinterpret_cast<const uint8_t*>(logits_.data()), logits_.size() * 4});
      all = {all.low * 31 + row.low, all.high * 31 + row.high};
    };
    add();
    for (int64_t i = 0; i < steps; ++i) {
      const auto likeliest = std::max_element(logits_.begin(), logits_.end());
      SINTER_RETURN_IF_ERROR(Step(static_cast<int32_t>(likeliest - logits_.begin())));
      add();
    }
    return all;
  }

  // Fills the context once, so that all of its pages are there.
  absl::Status Fill() {
    SINTER_RETURN_IF_ERROR(sequence_->Truncate(0));
    return Prompt(capacity());
  }

  // Some tokens more, after a restart or a truncation where there is no room, and now and then where there is.
  absl::Status Go() {
    const int64_t room = capacity() - sequence_->position();
    const int64_t draw = Draw(16);
    if (room == 0 || draw == 0) {
      const bool restart = Draw(3) == 0;
      (restart ? restarts_ : truncations_) += 1;
      return sequence_->Truncate(restart ? 0 : Draw(sequence_->position() + 1));
    }
    if (draw < 4) {
      const int64_t count = 1 + Draw(std::min<int64_t>(room, 64));
      for (int64_t i = 0; i < count; ++i) {
        ids_[static_cast<size_t>(i)] = static_cast<int32_t>(Draw(workspace_->vocabulary()));
      }
      return Prompt(count);
    }
    for (int64_t i = 0; i < std::min<int64_t>(room, 16); ++i) {
      const int32_t id = sampler_->Sample(logits_);
      sampler_->Accept(id);
      SINTER_RETURN_IF_ERROR(Step(id));
    }
    return absl::OkStatus();
  }

 private:
  int64_t Draw(int64_t below) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(below)); }
  absl::Status Prompt(int64_t count) {
    tokens_ += count;
    return workspace_->Prefill(*sequence_, absl::MakeConstSpan(ids_).first(static_cast<size_t>(count)),
                               absl::MakeSpan(logits_));
  }
  absl::Status Step(int32_t id) {
    constexpr int32_t kRow = 0;
    ++tokens_;
    return workspace_->Step(*sequence_, {&id, 1}, {&kRow, 1}, absl::MakeSpan(logits_));
  }

  std::shared_ptr<const CompiledModule> module_;
  std::unique_ptr<Workspace> workspace_;
  std::unique_ptr<Sequence> sequence_;
  std::unique_ptr<Sampler> sampler_;
  std::vector<float> logits_;
  std::vector<int32_t> ids_;
  std::mt19937 random_;
  int64_t tokens_ = 0, restarts_ = 0, truncations_ = 0;
};

absl::Status Soak(const SoakFlags& flags) {
  SINTER_ASSIGN_OR_RETURN(Session session, Session::Open(flags));
  SINTER_RETURN_IF_ERROR(session.Fill());
  SINTER_ASSIGN_OR_RETURN(const Checksum expected, session.Reference());
  const auto start = std::chrono::steady_clock::now();
  const auto report = [&](const Footprint& f) {
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::fputs(
        absl::StrFormat("%9d tokens %6.1f s  %6d truncations %5d restarts  resident %d kB  heap %d blocks %d kB  "
                        "%d mappings %d descriptors %d threads\n",
                        session.tokens(), seconds, session.truncations(), session.restarts(), f.resident / 1024,
                        f.heap_blocks, f.heap_bytes / 1024, f.mappings, f.descriptors, f.threads)
            .c_str(),
        stdout);
    std::fflush(stdout);
  };
  (void)Measure();  // makes what measuring keeps
  report(Measure());
  const Footprint first = Measure();
  for (int64_t part = 1; part <= 10; ++part) {
    while (session.tokens() < flags.tokens * part / 10) SINTER_RETURN_IF_ERROR(session.Go());
    SINTER_ASSIGN_OR_RETURN(const Checksum found, session.Reference());
    if (!(found == expected)) return absl::AbortedError("the logits of the same text differ from those at the start");
    const Footprint now = Measure();
    report(now);
    if (now.resident > first.resident + kMostGrowth || now.heap_blocks != first.heap_blocks ||
        now.heap_bytes > first.heap_bytes || (!kSanitized && now.mappings != first.mappings) ||
        now.descriptors != first.descriptors || now.threads != first.threads) {
      return absl::AbortedError("something grew");
    }
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  SoakFlags flags;
  CLI::App app("One session for a long time: memory stays flat, and the same text gives the same logits.");
  app.add_option("MODEL", flags.model, "A .gguf, a .sinter, or preset:NAME")->capture_default_str();
  app.add_option("--tokens", flags.tokens, "Tokens to take")->check(AtLeast(1))->capture_default_str();
  app.add_option("-t,--threads", flags.threads, "Threads")->check(AtLeast(1))->capture_default_str();
  app.add_option("--seed", flags.seed, "Seed of prompts, truncations and sampling")->capture_default_str();
  AddCompileFlags(app, flags.compile);
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Soak(flags);
  if (!status.ok()) Note(absl::StrCat("error: ", status.message()));
  return ExitCode(status);
}

}  // namespace
}  // namespace sinter

int main(int argc, char** argv) { return sinter::Main(argc, argv); }
