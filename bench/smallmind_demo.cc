// The main job of `./dev run`: the profiled workload, beside the profile's own figures.
//
// A small transformer runtime in managed code (4 layers, width 256, 8 heads, context 128) was profiled over three
// sessions of 50 tokens after a 32-token prompt at temperature 0.8. This program makes and compiles the same shape
// (preset:smallmind), runs the same workload, measures the same products through the compiled path, and prints both
// columns.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "backend/compile.h"
#include "base/heap.h"
#include "base/status.h"
#include "ir/text.h"
#include "runtime/cpu.h"
#include "runtime/generate.h"
#include "tools/compile_flags.h"
#include "tools/compile_source.h"
#include "tools/console.h"

namespace sinter {
namespace {

constexpr int kSessions = 3, kPrompt = 32, kTokens = 50;

double Milliseconds() {
  using std::chrono::duration;
  return duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Creation {
  std::shared_ptr<const CompiledModule> module;
  double make_ms, passes_ms, code_ms;
};

absl::StatusOr<Creation> Create(const CompileFlags& flags) {
  Creation creation;
  const double start = Milliseconds();
  const std::jthread prepares = PrepareToCompile();
  SINTER_ASSIGN_OR_RETURN(Source source, OpenSource("preset:smallmind", flags));
  const double made = Milliseconds();
  SINTER_RETURN_IF_ERROR(RunPasses(source, flags).status());
  const double lowered = Milliseconds();
  SINTER_ASSIGN_OR_RETURN(OutputFile file, CompileSource(source, flags, "sinter compile preset:smallmind", ""));
  SINTER_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::FromDescriptor(file.descriptor(), "preset:smallmind"));
  SINTER_ASSIGN_OR_RETURN(creation.module, CompiledModule::FromFile(std::move(mapped)));
  creation.make_ms = made - start;
  creation.passes_ms = lowered - made;
  creation.code_ms = Milliseconds() - lowered;
  return creation;
}

struct Workload {
  double tokens_per_s, step_ms, prefill_ms;
  int64_t heap_bytes;
};

// Medians over the sessions.
absl::StatusOr<Workload> RunSessions(std::shared_ptr<const CompiledModule> module, int threads) {
  SINTER_ASSIGN_OR_RETURN(std::unique_ptr<Workspace> workspace, Workspace::Open(module, threads));
  const int32_t vocabulary = static_cast<int32_t>(workspace->vocabulary());
  std::vector<double> decode_ms, prefill_ms;
  int64_t heap = 0;
  for (int s = 0; s < kSessions; ++s) {
    SINTER_ASSIGN_OR_RETURN(std::unique_ptr<Sequence> sequence, Sequence::Open(module));
    SamplerOptions options;
    options.seed = static_cast<uint64_t>(s + 1);
    SINTER_ASSIGN_OR_RETURN(Sampler sampler, Sampler::Create(options, vocabulary));
    std::vector<int32_t> prompt(kPrompt);
    for (int i = 0; i < kPrompt; ++i) prompt[static_cast<size_t>(i)] = 3 + (i * 7919 + s * 31) % (vocabulary - 3);
    std::vector<float> logits(static_cast<size_t>(vocabulary));
    const double start = Milliseconds();
    SINTER_RETURN_IF_ERROR(workspace->Prefill(*sequence, prompt, absl::MakeSpan(logits)));
    prefill_ms.push_back(Milliseconds() - start);
    const int64_t before = HeapInUse();
    const double first = Milliseconds();
    const int32_t row = 0;
    for (int i = 0; i < kTokens; ++i) {
      const int32_t id = sampler.Sample(logits);
      sampler.Accept(id);
      SINTER_RETURN_IF_ERROR(workspace->Step(*sequence, {&id, 1}, {&row, 1}, absl::MakeSpan(logits)));
    }
    decode_ms.push_back((Milliseconds() - first) / kTokens);
    heap += HeapInUse() - before;
  }
  const double step = Median(decode_ms);
  return Workload{1000 / step, step, Median(prefill_ms), heap / (kSessions * kTokens)};
}

// C = A * B of n x n matrices that a run supplies, in GFLOPS; the best of several rounds.
absl::StatusOr<double> Gemm(int n, const CompileFlags& flags, int threads) {
  const std::string text = absl::StrFormat(
      "module @product {\n  graph @main(%%a: f32[%1$d,%1$d], %%b: f32[%1$d,%1$d]) -> (f32[%1$d,%1$d]) {\n"
      "    %%c = gemm %%a, %%b : f32[%1$d,%1$d]\n    return %%c\n  }\n}\n",
      n);
  Source source;
  source.path = "product";
  SINTER_ASSIGN_OR_RETURN(source.module, Parse(text, "product"));
  SINTER_RETURN_IF_ERROR(RunPasses(source, flags).status());
  SINTER_ASSIGN_OR_RETURN(OutputFile file, CompileSource(source, flags, "", ""));
  SINTER_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::FromDescriptor(file.descriptor(), "product"));
  SINTER_ASSIGN_OR_RETURN(std::shared_ptr<const CompiledModule> module, CompiledModule::FromFile(std::move(mapped)));
  SINTER_ASSIGN_OR_RETURN(std::unique_ptr<Workspace> workspace, Workspace::Open(module, threads));
  const size_t elems = static_cast<size_t>(n) * static_cast<size_t>(n);
  std::vector<float> a(elems, 0.5f), b(elems, 0.25f), c(elems);
  const void* inputs[] = {a.data(), b.data()};
  void* outputs[] = {c.data()};
  const double flops = 2.0 * n * n * n;
  const int rounds = static_cast<int>(std::max(1.0, 2e8 / flops));
  double best = 1e300;
  for (int r = 0; r < 7; ++r) {
    const double start = Milliseconds();
    for (int i = 0; i < rounds; ++i)
      SINTER_RETURN_IF_ERROR(workspace->Run(module->entries()[0], {}, inputs, outputs, {}));
    best = std::min(best, (Milliseconds() - start) / rounds);
  }
  if (c[0] != 0.125f * static_cast<float>(n)) return absl::InternalError("the product is wrong");
  return flops / best / 1e6;
}

absl::Status Demo() {
  CompileFlags flags;
  const ThreadBudget budget = DefaultThreads();
  SINTER_ASSIGN_OR_RETURN(const Target* target, NativeTarget());
  SINTER_ASSIGN_OR_RETURN(const Creation creation, Create(flags));
  SINTER_ASSIGN_OR_RETURN(const Workload one, RunSessions(creation.module, 1));
  SINTER_ASSIGN_OR_RETURN(const Workload all, RunSessions(creation.module, budget.threads));
  double gflops[3];
  constexpr int kSizes[] = {128, 256, 512};
  for (int i = 0; i < 3; ++i) {
    SINTER_ASSIGN_OR_RETURN(gflops[i], Gemm(kSizes[i], flags, budget.threads));
  }
  std::printf("preset:smallmind (4 layers, width 256, 8 heads, context 128, f32) on %s, target %s\n",
              HostCpuName().c_str(), std::string(target->name).c_str());
  std::printf("%d sessions of %d tokens after a %d-token prompt, temperature 0.8; %d %s\n\n", kSessions, kTokens,
              kPrompt, budget.threads, budget.threads == 1 ? "thread" : "threads");
  const auto row = [](const char* what, const std::string& profile, const std::string& sinter) {
    std::printf("%-34s %16s %16s\n", what, profile.c_str(), sinter.c_str());
  };
  row("", "profile", "sinter");
  row("tokens/s", "6.2", absl::StrFormat("%.0f", all.tokens_per_s));
  row("tokens/s, one thread", "", absl::StrFormat("%.0f", one.tokens_per_s));
  row("a forward pass, ms", "48", absl::StrFormat("%.3f", all.step_ms));
  row("prompt of 32 tokens, ms", "", absl::StrFormat("%.2f", all.prefill_ms));
  row("heap bytes a token", "46.9 MB", absl::StrCat(all.heap_bytes));
  for (int i = 0; i < 3; ++i) {
    constexpr const char* kProfile[] = {"4.2", "10.1", "16.1"};
    row(absl::StrCat("GEMM ", kSizes[i], "^3, GFLOPS").c_str(), kProfile[i], absl::StrFormat("%.1f", gflops[i]));
  }
  row("make and compile the model, ms", "91.8 (make only)",
      absl::StrFormat("%.1f", creation.make_ms + creation.passes_ms + creation.code_ms));
  row("  graph / passes / code and weights", "",
      absl::StrFormat("%.1f/%.1f/%.1f", creation.make_ms, creation.passes_ms, creation.code_ms));
  return absl::OkStatus();
}

}  // namespace
}  // namespace sinter

int main(int argc, char**) {
  if (argc > 1) {
    std::fputs("usage: smallmind_demo\n", stderr);
    return 2;
  }
  sinter::PutHeapInHugePages();
  const absl::Status status = sinter::Demo();
  if (!status.ok()) std::fprintf(stderr, "smallmind_demo: error: %s\n", std::string(status.message()).c_str());
  return sinter::ExitCode(status);
}
