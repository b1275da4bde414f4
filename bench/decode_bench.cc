// Decoding one token beside the limit, a streaming sum over as many bytes as the token must read: in one process and in
// turn, for a machine's memory may be much faster or slower a second later.
//
// The time of a benchmark is that of a token. Counters: gbs, the bytes of packed weights, keys and values a second;
// read_gbs, of the sum; limit, how near the first is to the second, in percent (median of the rounds).
//
// usage: decode_bench [MODEL [--huge-pages]] [flags of Google Benchmark]. MODEL: a .sinter, a .gguf or preset:NAME;
// without one preset:smallmind at each level. --huge-pages: as that of `sinter run`.
#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "bench/measure.h"
#include "runtime/cpu.h"
#include "runtime/workspace.h"
#include "tools/compile_flags.h"
#include "tools/compile_source.h"

namespace sinter {
namespace {

constexpr int kRounds = 15;
constexpr double kRunSeconds = 0.12;  // of tokens in a round
constexpr int32_t kPrompt = 32, kTokens = 64;

// Packed weights, vectors, and the cache at the middle of the run. Of a table of rows a token reads one: of positions,
// and of tokens where it is not the matrix of the logits, too.
double TokenBytes(const CompiledModule& module) {
  bool has_output = false;
  for (const fbs::Weight* weight : *module.metadata().weights()) has_output |= weight->name()->str() == "output.weight";
  double bytes = 0;
  for (const fbs::Weight* weight : *module.metadata().weights()) {
    const bool packed = weight->pack()->str() != "plain";
    const bool table = packed ? has_output && weight->name()->str() == "token_embd.weight" : weight->dims()->size() > 1;
    if (!table) bytes += static_cast<double>(weight->bytes());
  }
  for (const LoadedState& state : module.entries()[0].states) {
    const int64_t positions = state.dims[static_cast<size_t>(state.page_axis)];
    bytes += static_cast<double>(state.bytes / positions * (kPrompt + kTokens / 2));
  }
  return bytes;
}

struct Setting {
  std::string model;
  int opt_level = 2, threads = 1;
  bool huge_pages = false;
};

absl::Status Decode(benchmark::State& state, const Setting& setting) {
  const int threads = setting.threads;
  CompileFlags flags;
  flags.opt_level = setting.opt_level;
  SINTER_ASSIGN_OR_RETURN(const auto module, OpenExecutable(setting.model, flags, "sinter bench"));
  if (setting.huge_pages) SINTER_RETURN_IF_ERROR(module->MoveWeightsToHugePages(threads));
  SINTER_ASSIGN_OR_RETURN(const auto workspace, Workspace::Open(module, threads));
  SINTER_ASSIGN_OR_RETURN(const auto sequence, Sequence::Open(module));
  if (workspace->vocabulary() == 0) return absl::UnimplementedError("no language model");
  if (sequence->capacity() < kPrompt + kTokens) return absl::OutOfRangeError("the context is too short");
  std::vector<float> logits(static_cast<size_t>(workspace->vocabulary()));
  const std::vector<int32_t> prompt(kPrompt, 5);
  SINTER_RETURN_IF_ERROR(workspace->Prefill(*sequence, prompt, {}));
  const int32_t id = 5, row = 0;
  const auto token = [&]() -> absl::Status {
    if (sequence->position() == kPrompt + kTokens) SINTER_RETURN_IF_ERROR(sequence->Truncate(kPrompt));
    return workspace->Step(*sequence, {&id, 1}, {&row, 1}, absl::MakeSpan(logits));
  };
  const double bytes = TokenBytes(*module);
  ReadLoop read(bytes, threads);
  std::vector<double> tokens, reads, ratios;
  for (auto _ : state) {
    reads.push_back(read.Seconds());
    const double start = SecondsNow();
    do SINTER_RETURN_IF_ERROR(token());
    while (SecondsNow() < start + kWarmSeconds);
    SINTER_ASSIGN_OR_RETURN(const double seconds, SecondsOfRun(token, kRunSeconds));
    state.SetIterationTime(seconds);
    tokens.push_back(seconds);
    ratios.push_back(reads.back() / seconds);
  }
  state.counters["gbs"] = bytes / MedianOf(tokens) / 1e9;
  state.counters["read_gbs"] = bytes / MedianOf(reads) / 1e9;
  state.counters["limit"] = 100 * MedianOf(ratios);
  return absl::OkStatus();
}

void Register(const Setting& setting) {
  const std::string name = absl::StrCat("BM_Decode/O:", setting.opt_level, "/threads:", setting.threads);
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](benchmark::State& state) {
                                 state.SetLabel(setting.model);
                                 const absl::Status status = Decode(state, setting);
                                 if (!status.ok()) state.SkipWithError(std::string(status.message()).c_str());
                               })
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond)
      ->Iterations(kRounds);
}

}  // namespace
}  // namespace sinter

int main(int argc, char** argv) {
  sinter::Setting setting;
  const auto take = [&] {
    argv[1] = argv[0];
    --argc, ++argv;
  };
  if (argc > 1 && argv[1][0] != '-') {
    setting.model = argv[1];
    take();
    setting.huge_pages = argc > 1 && argv[1] == std::string("--huge-pages");
    if (setting.huge_pages) take();
  } else {
    setting.model = "preset:smallmind";
    for (setting.opt_level = 0; setting.opt_level < 2; ++setting.opt_level) sinter::Register(setting);
  }
  sinter::Register(setting);
  setting.threads = sinter::DefaultThreads().threads;
  if (setting.threads > 1) sinter::Register(setting);
  return sinter::RunBenchmarks(argc, argv);
}
