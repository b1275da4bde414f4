// What each fusion buys on its own subgraph, in the published shapes, for one row (decode, after 255 positions) and for
// 256 rows (prefill): the plain form through -O2, and through -O2 without that pass, run in turn, on one thread and, of
// fusions that save steps, on two.
//
// The time of a benchmark is the fused one's. Counters: unfused_us; x, the median of the pairs' ratios (above 1 the
// fusion pays); kB and unfused_kB, what the steps read and write; limit, the percentage of the time that the machine
// needs at least: for products at the FMA peak, for what else there is at the speed at which as many bytes are read,
// both measured in this process with as many threads as the benchmark. err: the largest difference of the two results
// relative to the largest result.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status.h"
#include "bench/compiled_text.h"
#include "bench/measure.h"

namespace sinter {
namespace {

struct Shape {
  const char* name;
  int64_t width, ffn, groups, share, head;  // share: query heads of a group
};
constexpr Shape kShapes[] = {
    {"smallmind", 256, 1024, 8, 1, 32},
    {"gpt2-124m", 768, 3072, 12, 1, 64},
    {"llama-1b", 2048, 8192, 8, 4, 64},
};
constexpr int64_t kRows[] = {1, 256}, kPositions = 256;
constexpr double kPairSeconds = 1e-3;  // of either side of a pair
constexpr int kPairs = 15;

// A subgraph in its plain form. In the text $T is the rows, $S the positions, $W the width, $F the ffn width, $G, $Q
// and $D groups, heads of each and their width, $A their product, $K the width of the keys.
struct Fusion {
  const char* pass;
  std::string graph;                                          // from the parameter list on
  std::function<double(const Shape&, double rows)> products;  // multiply-adds
  bool saves_steps = false;
};

constexpr char kGelu[] = R"(
    %x2 = mul $X, $X : f32[$T,$F]
    %x3 = mul %x2, $X : f32[$T,$F]
    %c1 = constant {values=[0.044715]} : f32[1]
    %c2 = constant {values=[0.7978845608028654]} : f32[1]
    %half = constant {values=[0.5]} : f32[1]
    %one = constant {values=[1.0]} : f32[1]
    %g1 = mul %x3, %c1 : f32[$T,$F]
    %g2 = add $X, %g1 : f32[$T,$F]
    %g3 = mul %g2, %c2 : f32[$T,$F]
    %g4 = tanh %g3 : f32[$T,$F]
    %g5 = add %g4, %one : f32[$T,$F]
    %g6 = mul $X, %half : f32[$T,$F]
    %g = mul %g6, %g5 : f32[$T,$F]
)";
constexpr char kSwiglu[] = R"(
    %one = constant {values=[1.0]} : f32[1]
    %n = neg $X : f32[$T,$F]
    %e = exp %n : f32[$T,$F]
    %d = add %e, %one : f32[$T,$F]
    %s = div $X, %d : f32[$T,$F]
    %g = mul %s, $U : f32[$T,$F]
)";
constexpr char kSoftmax[] = R"(
    %scale = constant {values=[0.125]} : f32[1]
    %inf = constant {values=[-inf]} : f32[1]
    %m = causal_mask %pos {len=$S} : bool[$T,$S]
    %s1 = mul $X, %scale : f32[$G,$Q,$T,$S]
    %s2 = select %m, %s1, %inf : f32[$G,$Q,$T,$S]
    %s3 = max %s2 : f32[$G,$Q,$T,1]
    %s4 = sub %s2, %s3 : f32[$G,$Q,$T,$S]
    %s5 = exp %s4 : f32[$G,$Q,$T,$S]
    %s6 = sum %s5 : f32[$G,$Q,$T,1]
    %p = div %s5, %s6 : f32[$G,$Q,$T,$S]
)";
std::string Piece(absl::string_view text, absl::string_view x, absl::string_view u = "") {
  return absl::StrReplaceAll(text, {{"$X", x}, {"$U", u}});
}

double None(const Shape&, double) { return 0; }

std::vector<Fusion> Fusions() {
  return {
      {"fuse-layer-norm", PlainLayerNorm("$T", "$W"), None},
      {"fuse-rms-norm", R"((%x: f32[$T,$W], %gamma: f32[$W]) -> (f32[$T,$W]) {
    %eps = constant {values=[1e-05]} : f32[1]
    %xx = mul %x, %x : f32[$T,$W]
    %ms = mean %xx : f32[$T,1]
    %me = add %ms, %eps : f32[$T,1]
    %r = rsqrt %me : f32[$T,1]
    %n = mul %x, %r : f32[$T,$W]
    %y = mul %n, %gamma : f32[$T,$W]
    return %y
  })",
       None},
      {"fuse-softmax",
       absl::StrCat("(%x: f32[$G,$Q,$T,$S], %pos: i32[$T]) -> (f32[$G,$Q,$T,$S]) {", Piece(kSoftmax, "%x"),
                    "    return %p\n  }"),
       None},
      {"fuse-gelu", absl::StrCat("(%x: f32[$T,$F]) -> (f32[$T,$F]) {", Piece(kGelu, "%x"), "    return %g\n  }"), None},
      {"fuse-swiglu",
       absl::StrCat("(%x: f32[$T,$F], %u: f32[$T,$F]) -> (f32[$T,$F]) {", Piece(kSwiglu, "%x", "%u"),
                    "    return %g\n  }"),
       None},
      {"fuse-attention",
       absl::StrCat(
           "(%q: f32[$G,$Q,$T,$D], %k: f32[$G,$S,$D], %v: f32[$G,$S,$D], %pos: i32[$T]) -> (f32[$T,$A]) {\n",
           "    %s0 = gemm %q, %k {trans_b=true} : f32[$G,$Q,$T,$S]", Piece(kSoftmax, "%s0"),
           "    %o = gemm %p, %v : f32[$G,$Q,$T,$D]\n    %y = merge_heads %o : f32[$T,$A]\n    return %y\n  }"),
       [](const Shape& s, double rows) {  // a causal row sees half of the positions on the average, the last one all
         const double seen = rows == 1 ? kPositions : kPositions / 2.0;
         return 2.0 * static_cast<double>(s.groups * s.share * s.head) * rows * seen;
       },
       true},
      {"fuse-rope-append",
       R"((%h: f32[$T,$K], %v: f32[$G,1,$T,$D], %table: f32[$S,$E], %pos: i32[$T], %c: state<f32[2,$G,$S,$D]>) -> (state<f32[2,$G,$S,$D]>) {
    %k = heads %h {groups=$G} : f32[$G,1,$T,$D]
    %r = rope %k, %pos, %table : f32[$G,1,$T,$D]
    %n = kv_append %c, %r, %v, %pos : state<f32[2,$G,$S,$D]>
    return %n
  })",
       None},
      {"fuse-epilogue",
       absl::StrCat(
           "(%x: f32[$T,$W], %r: f32[$T,$W]) -> (f32[$T,$W]) {\n    %up = weight \"up\" : f32[$F,$W]\n    %down = "
           "weight "
           "\"down\" : f32[$W,$F]\n    %bu = weight \"bu\" : f32[$F]\n    %bd = weight \"bd\" : f32[$W]\n",
           "    %u0 = gemm %x, %up {trans_b=true} : f32[$T,$F]\n    %u1 = add %u0, %bu : f32[$T,$F]",
           Piece(kGelu, "%u1"), "    %d0 = gemm %g, %down {trans_b=true} : f32[$T,$W]\n",
           "    %d1 = add %d0, %bd : f32[$T,$W]\n    %y = add %r, %d1 : f32[$T,$W]\n    return %y\n  }"),
       [](const Shape& s, double rows) { return 2.0 * static_cast<double>(s.width * s.ffn) * rows; }, true},
      {"group-gemms",
       R"((%x: f32[$T,$W]) -> (f32[$T,$W], f32[$T,$K], f32[$T,$K]) {
    %wq = weight "q" : f32[$W,$W]
    %wk = weight "k" : f32[$K,$W]
    %wv = weight "v" : f32[$K,$W]
    %q = gemm %x, %wq {trans_b=true} : f32[$T,$W]
    %k = gemm %x, %wk {trans_b=true} : f32[$T,$K]
    %v = gemm %x, %wv {trans_b=true} : f32[$T,$K]
    return %q, %k, %v
  })",
       [](const Shape& s, double rows) {
         return static_cast<double>(s.width * (s.width + 2 * s.groups * s.head)) * rows;
       },
       true},
  };
}

std::string TextOf(const Fusion& fusion, const Shape& shape, int64_t rows) {
  const auto n = [](int64_t value) { return absl::StrCat(value); };
  return ModuleText(absl::StrReplaceAll(fusion.graph, {{"$T", n(rows)},
                                                       {"$S", n(kPositions)},
                                                       {"$W", n(shape.width)},
                                                       {"$F", n(shape.ffn)},
                                                       {"$G", n(shape.groups)},
                                                       {"$Q", n(shape.share)},
                                                       {"$D", n(shape.head)},
                                                       {"$E", n(2 * shape.head)},
                                                       {"$K", n(shape.groups * shape.head)},
                                                       {"$A", n(shape.groups * shape.share * shape.head)}}));
}

// Seconds of a run: the average of `runs` after some that are not counted, while the other's threads fall asleep.
absl::StatusOr<double> TimeOfRun(CompiledText& compiled, int runs) {
  for (const double start = SecondsNow(); SecondsNow() < start + kPairSeconds / 10;) {
    SINTER_RETURN_IF_ERROR(compiled.Run());
  }
  const double start = SecondsNow();
  for (int i = 0; i < runs; ++i) SINTER_RETURN_IF_ERROR(compiled.Run());
  return (SecondsNow() - start) / runs;
}

double Difference(absl::Span<const float> a, absl::Span<const float> b) {
  double error = 0, largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error = std::max(error, static_cast<double>(std::abs(a[i] - b[i])));
    largest = std::max(largest, static_cast<double>(std::abs(b[i])));
  }
  return largest == 0 ? 0 : error / largest;
}

absl::Status Compare(benchmark::State& state, const Fusion& fusion, const Shape& shape, int64_t rows, int threads) {
  const std::string text = TextOf(fusion, shape, rows);
  TextOptions options{.threads = threads, .positions = kPositions};
  SINTER_ASSIGN_OR_RETURN(const auto fused, CompiledText::Make(text, options));
  options.without = fusion.pass;
  SINTER_ASSIGN_OR_RETURN(const auto unfused, CompiledText::Make(text, options));
  SINTER_RETURN_IF_ERROR(fused->Run());
  SINTER_RETURN_IF_ERROR(unfused->Run());
  if (fused->result().empty() || fused->result().size() != unfused->result().size()) {
    return absl::InternalError("there are no results to compare");
  }
  state.counters["err"] = Difference(fused->result(), unfused->result());
  SINTER_ASSIGN_OR_RETURN(const double first, TimeOfRun(*unfused, 1));
  const int runs = static_cast<int>(std::clamp(kPairSeconds / first, 1.0, 10000.0));
  std::vector<double> ratios, times, unfused_times;
  for (auto _ : state) {
    SINTER_ASSIGN_OR_RETURN(const double slow, TimeOfRun(*unfused, runs));
    SINTER_ASSIGN_OR_RETURN(const double fast, TimeOfRun(*fused, runs));
    state.SetIterationTime(fast);
    unfused_times.push_back(slow);
    times.push_back(fast);
    ratios.push_back(slow / fast);
  }
  SINTER_ASSIGN_OR_RETURN(const Target* target, NativeTarget());
  const double limit =
      std::max(SecondsToRead(fused->bytes(), threads),
               fusion.products(shape, static_cast<double>(rows)) / ProductsPerSecond(*target, threads));
  state.counters["fused_us"] = MedianOf(times) * 1e6;
  state.counters["unfused_us"] = MedianOf(unfused_times) * 1e6;
  state.counters["x"] = MedianOf(ratios);
  state.counters["kB"] = fused->bytes() / 1000;
  state.counters["unfused_kB"] = unfused->bytes() / 1000;
  state.counters["limit"] = 100 * limit / MedianOf(times);
  return absl::OkStatus();
}

void BM_Fusion(benchmark::State& state, const Fusion& fusion, const Shape& shape, int64_t rows, int threads) {
  const absl::Status status = Compare(state, fusion, shape, rows, threads);
  if (!status.ok()) state.SkipWithError(std::string(status.message()).c_str());
}

}  // namespace
}  // namespace sinter

int main(int argc, char** argv) {
  static const std::vector<sinter::Fusion> fusions = sinter::Fusions();
  for (const sinter::Fusion& fusion : fusions) {
    for (const sinter::Shape& shape : sinter::kShapes) {
      for (const int64_t rows : sinter::kRows) {
        for (int threads = 1; threads <= (fusion.saves_steps ? 2 : 1); ++threads) {
          const std::string name =
              absl::StrCat("BM_Fusion/", fusion.pass, "/", shape.name, "/rows:", rows, "/threads:", threads);
          benchmark::RegisterBenchmark(name.c_str(),
                                       [&fusion, &shape, rows, threads](benchmark::State& state) {
                                         sinter::BM_Fusion(state, fusion, shape, rows, threads);
                                       })
              ->UseManualTime()
              ->Iterations(sinter::kPairs);
        }
      }
    }
  }
  return sinter::RunBenchmarks(argc, argv);
}
