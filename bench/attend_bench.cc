// Attention over a cache, as it stands in a model: heads of a group over its keys and values, a causal mask, heads
// merged.
//
// BM_Decode: one row over a cache that no cache of the CPU holds; gbs, the bytes of keys and values read a second, and
// limit, the percentage of the speed at which as many bytes are read with as many threads in this process.
// BM_Cached: the same over a cache that the CPU's second level holds: the arithmetic alone.
// BM_Context: one row through all layers of a model after 1,900 positions and after 16, in turn; added_us, by how much
// the first takes longer (median of the pairs), and read_us, how long reading the bytes takes by which they differ.
// BM_Split: one row over a context of 4,000 with few groups of heads, as it is and without split-context, in turn;
// gain, how many times as fast the split makes it (median of the pairs). BM_Prefill: many rows at once, the last of
// `context` positions; gflops of the products that the mask leaves, and limit, the percentage of the FMA peak of as
// many threads.
#include <benchmark/benchmark.h>

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status.h"
#include "bench/compiled_text.h"
#include "bench/measure.h"

namespace sinter {
namespace {

constexpr int kRounds = 15;
constexpr double kRunSeconds = 0.02;

struct Shape {
  const char* name;
  int64_t groups, share, head;  // share: query heads of a group
  const char* cache;            // element type
  int64_t layers;

  bool HasBlocks() const { return std::string(cache) == "q8_0"; }
  int64_t BytesOf(int64_t positions) const {  // of keys and values in one layer
    const DTypeInfo& info = Info(*ParseDType(cache));
    return 2 * groups * positions * head / info.block_elems * info.block_bytes;
  }
};
constexpr Shape kShapes[] = {
    {"tinyllama-1.1b", 4, 8, 64, "f16", 22},
    {"gpt2-124m", 12, 1, 64, "f32", 12},
    {"llama-1b", 8, 4, 64, "f16", 16},
    {"tinyllama-1.1b", 4, 8, 64, "q8_0", 22},
};
constexpr Shape kFewGroups[] = {
    {"one-group", 1, 8, 64, "f16", 1},
    {"three-groups", 3, 8, 64, "f16", 1},
    {"four-groups", 4, 8, 64, "f16", 1},
};

// Rows `rows`, the last of `positions`, through so many layers; each reads its own cache, which holds `capacity`.
std::string TextOf(const Shape& shape, int64_t rows, int64_t positions, int64_t capacity, int64_t layers) {
  std::string parameters, types, results, body;
  for (int64_t i = 0; i < layers; ++i) {
    absl::StrAppend(&parameters, ", %c", i, ": state<$E[2,$G,$C,$D]>");
    absl::StrAppend(&types, ", state<$E[2,$G,$C,$D]>");
    absl::StrAppend(&results, ", %c", i);
    if (i > 0) absl::StrAppend(&body, "    %q", i, " = heads %y", i - 1, " {groups=$G} : f32[$G,$Q,$T,$D]\n");
    absl::StrAppend(&body, "    %k", i, ", %v", i, " = kv_view %c", i, " {len=$S} : $E[$G,$S,$D], $E[$G,$S,$D]\n");
    const std::string of = absl::StrCat(i, shape.HasBlocks() ? "f" : "");  // as floats
    if (shape.HasBlocks()) {
      for (const char* what : {"k", "v"}) {
        absl::StrAppend(&body, "    %", what, of, " = dequantize %", what, i, " : f32[$G,$S,$D]\n");
      }
    }
    absl::StrAppend(&body, "    %o", i, " = attend %q", i, ", %k", of, ", %v", of,
                    ", %m {scale=0.125} : f32[$G,$Q,$T,$D]\n    %y", i, " = merge_heads %o", i, " : f32[$T,$A]\n");
  }
  const auto n = [](int64_t value) { return absl::StrCat(value); };
  return ModuleText(
      absl::StrReplaceAll(absl::StrCat("(%q0: f32[$G,$Q,$T,$D], %pos: i32[$T]", parameters, ") -> (f32[$T,$A]", types,
                                       ") {\n    %m = causal_mask %pos {len=$S} : bool[$T,$S]\n", body, "    return %y",
                                       layers - 1, results, "\n  }"),
                          {{"$T", n(rows)},
                           {"$S", n(positions)},
                           {"$C", n(capacity)},
                           {"$G", n(shape.groups)},
                           {"$Q", n(shape.share)},
                           {"$D", n(shape.head)},
                           {"$A", n(shape.groups * shape.share * shape.head)},
                           {"$E", shape.cache}}));
}

absl::StatusOr<double> TimeOfRun(CompiledText& compiled, double seconds) {
  return SecondsOfRun([&] { return compiled.Run(); }, seconds);
}

absl::StatusOr<std::unique_ptr<CompiledText>> Compiled(const std::string& text, int64_t positions, int threads,
                                                       const char* without = "") {
  SINTER_ASSIGN_OR_RETURN(auto compiled,
                          CompiledText::Make(text, {.without = without, .threads = threads, .positions = positions}));
  SINTER_RETURN_IF_ERROR(TimeOfRun(*compiled, kWarmSeconds).status());
  for (float value : compiled->result()) {
    // Values are within -1 and 1, and so is every mean of them.
    if (!(std::abs(value) <= 1.001f)) return absl::InternalError("the result is no mean of the values");
  }
  return compiled;
}

absl::Status DecodeRow(benchmark::State& state, const Shape& shape, int64_t positions, int threads) {
  SINTER_ASSIGN_OR_RETURN(const auto compiled, Compiled(TextOf(shape, 1, positions, positions, 1), positions, threads));
  const double bytes = static_cast<double>(shape.BytesOf(positions));
  std::vector<double> times, percents;
  for (auto _ : state) {
    SINTER_ASSIGN_OR_RETURN(times.emplace_back(), TimeOfRun(*compiled, kRunSeconds));
    state.SetIterationTime(times.back());
    percents.push_back(100 * SecondsToRead(bytes, threads) / times.back());
  }
  state.counters["gbs"] = bytes / MedianOf(times) / 1e9;
  state.counters["limit"] = MedianOf(percents);
  return absl::OkStatus();
}

absl::Status SplitGain(benchmark::State& state, const Shape& shape, int threads) {
  constexpr int64_t kPositions = 4000;
  const std::string text = TextOf(shape, 1, kPositions, kPositions, shape.layers);
  SINTER_ASSIGN_OR_RETURN(const auto split, Compiled(text, kPositions, threads));
  SINTER_ASSIGN_OR_RETURN(const auto whole, Compiled(text, kPositions, threads, "split-context"));
  std::vector<double> gains;
  for (auto _ : state) {
    SINTER_ASSIGN_OR_RETURN(const double without, TimeOfRun(*whole, kRunSeconds));
    SINTER_ASSIGN_OR_RETURN(const double with, TimeOfRun(*split, kRunSeconds));
    state.SetIterationTime(with);
    gains.push_back(without / with);
  }
  state.counters["gain"] = MedianOf(gains);
  return absl::OkStatus();
}

absl::Status Context(benchmark::State& state, const Shape& shape, int threads) {
  constexpr int64_t kShort = 16, kLong = 1900, kCapacity = 2048;
  SINTER_ASSIGN_OR_RETURN(const auto short_one,
                          Compiled(TextOf(shape, 1, kShort, kCapacity, shape.layers), kShort, threads));
  SINTER_ASSIGN_OR_RETURN(const auto long_one,
                          Compiled(TextOf(shape, 1, kLong, kCapacity, shape.layers), kLong, threads));
  const double bytes = static_cast<double>(shape.layers * (shape.BytesOf(kLong) - shape.BytesOf(kShort)));
  std::vector<double> added, reads;
  for (auto _ : state) {
    SINTER_ASSIGN_OR_RETURN(const double brief, TimeOfRun(*short_one, kRunSeconds));
    SINTER_ASSIGN_OR_RETURN(const double extended, TimeOfRun(*long_one, kRunSeconds));
    state.SetIterationTime(extended);
    added.push_back(extended - brief);
    reads.push_back(SecondsToRead(bytes, threads));
  }
  state.counters["added_us"] = 1e6 * MedianOf(added);
  state.counters["read_us"] = 1e6 * MedianOf(reads);
  return absl::OkStatus();
}

absl::Status Prefill(benchmark::State& state, const Shape& shape, int64_t rows, int64_t context, int threads) {
  SINTER_ASSIGN_OR_RETURN(const auto compiled, Compiled(TextOf(shape, rows, context, context, 1), context, threads));
  SINTER_ASSIGN_OR_RETURN(const Target* target, NativeTarget());
  // Row i sees context - rows + i + 1 positions, twice: scores, and sums of values.
  const double seen =
      static_cast<double>(rows * (context - rows)) + static_cast<double>(rows) * static_cast<double>(rows + 1) / 2;
  const double products = 2.0 * static_cast<double>(shape.groups * shape.share * shape.head) * seen;
  std::vector<double> times, percents;
  for (auto _ : state) {
    SINTER_ASSIGN_OR_RETURN(times.emplace_back(), TimeOfRun(*compiled, kRunSeconds));
    state.SetIterationTime(times.back());
    percents.push_back(100 * products / times.back() / ProductsPerSecond(*target, threads));
  }
  state.counters["gflops"] = 2 * products / MedianOf(times) / 1e9;
  state.counters["limit"] = MedianOf(percents);
  return absl::OkStatus();
}

template <typename Measure>
void Register(const std::string& name, int threads, const Measure& measure) {
  const auto run = [measure, threads](benchmark::State& state) {
    const absl::Status status = measure(state, threads);
    if (!status.ok()) state.SkipWithError(std::string(status.message()).c_str());
  };
  benchmark::RegisterBenchmark(absl::StrCat(name, "/threads:", threads).c_str(), run)
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond)
      ->Iterations(kRounds);
}

}  // namespace
}  // namespace sinter

int main(int argc, char** argv) {
  using sinter::Shape;
  for (int threads = 1; threads <= 2; ++threads) {
    for (const Shape& shape : sinter::kFewGroups) {
      sinter::Register(absl::StrCat("BM_Split/", shape.name, "/", shape.cache), threads,
                       [&shape](benchmark::State& state, int n) { return sinter::SplitGain(state, shape, n); });
    }
    for (const Shape& shape : sinter::kShapes) {
      // Some 100 MB of keys and values.
      const int64_t positions = (int64_t{100} << 20) / shape.BytesOf(1) / 1024 * 1024;
      sinter::Register(absl::StrCat("BM_Decode/", shape.name, "/", shape.cache, "/context:", positions), threads,
                       [&shape, positions](benchmark::State& state, int n) {
                         return sinter::DecodeRow(state, shape, positions, n);
                       });
      const int64_t cached = (int64_t{512} << 10) / shape.BytesOf(1);
      sinter::Register(
          absl::StrCat("BM_Cached/", shape.name, "/", shape.cache, "/context:", cached), threads,
          [&shape, cached](benchmark::State& state, int n) { return sinter::DecodeRow(state, shape, cached, n); });
      sinter::Register(absl::StrCat("BM_Context/", shape.name, "/", shape.cache), threads,
                       [&shape](benchmark::State& state, int n) { return sinter::Context(state, shape, n); });
      for (const auto& [rows, context] : {std::pair{256, 256}, std::pair{512, 2048}}) {
        sinter::Register(
            absl::StrCat("BM_Prefill/", shape.name, "/", shape.cache, "/rows:", rows, "/context:", context), threads,
            [&shape, rows = rows, context = context](benchmark::State& state, int n) {
              return sinter::Prefill(state, shape, rows, context, n);
            });
      }
    }
  }
  return sinter::RunBenchmarks(argc, argv);
}
