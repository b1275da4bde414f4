// What each fusion buys on its own subgraph, in the published shapes, for one row (decode, after 255 positions) and for
// 256 rows (prefill): the plain form through -O2, and through -O2 without that pass, run in turn, on one thread and, of
// fusions that save steps, on two.
//
// The time of a benchmark is the fused one's. Counters: unfused_us; x, the median of the pairs' ratios (above 1 the
// fusion pays); kB and unfused_kB, what the steps read and write; limit, the percentage of the time that the machine
// needs at least: for products at the FMA peak, for what else there is at the speed at which as many bytes are read,
// both measured in this process for one thread. err: the largest difference of the two results relative to the largest
// result.
#include <benchmark/benchmark.h>
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "backend/target.h"
#include "bench/compiled_text.h"

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
  const char* graph;                                          // from the parameter list on
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
const std::string* Piece(const char* text, absl::string_view x, absl::string_view u = "") {
  static std::vector<std::unique_ptr<std::string>> pieces;
  pieces.push_back(std::make_unique<std::string>(absl::StrReplaceAll(text, {{"$X", x}, {"$U", u}})));
  return pieces.back().get();
}

double None(const Shape&, double) { return 0; }

std::vector<Fusion> Fusions() {
  static std::vector<std::unique_ptr<std::string>> texts;
  const auto text = [](auto... parts) {
    texts.push_back(std::make_unique<std::string>(absl::StrCat(parts...)));
    return texts.back()->c_str();
  };
  return {
      {"fuse-layer-norm", R"((%x: f32[$T,$W], %gamma: f32[$W], %beta: f32[$W]) -> (f32[$T,$W]) {
    %eps = constant {values=[1e-05]} : f32[1]
    %mean = mean %x : f32[$T,1]
    %d = sub %x, %mean : f32[$T,$W]
    %dd = mul %d, %d : f32[$T,$W]
    %var = mean %dd : f32[$T,1]
    %ve = add %var, %eps : f32[$T,1]
    %r = rsqrt %ve : f32[$T,1]
    %n = mul %d, %r : f32[$T,$W]
    %ng = mul %n, %gamma : f32[$T,$W]
    %y = add %ng, %beta : f32[$T,$W]
    return %y
  })",
       None},
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
       text("(%x: f32[$G,$Q,$T,$S], %pos: i32[$T]) -> (f32[$G,$Q,$T,$S]) {", *Piece(kSoftmax, "%x"),
            "    return %p\n  }"),
       None},
      {"fuse-gelu", text("(%x: f32[$T,$F]) -> (f32[$T,$F]) {", *Piece(kGelu, "%x"), "    return %g\n  }"), None},
      {"fuse-swiglu",
       text("(%x: f32[$T,$F], %u: f32[$T,$F]) -> (f32[$T,$F]) {", *Piece(kSwiglu, "%x", "%u"), "    return %g\n  }"),
       None},
      {"fuse-attention",
       text("(%q: f32[$G,$Q,$T,$D], %k: f32[$G,$S,$D], %v: f32[$G,$S,$D], %pos: i32[$T]) -> (f32[$T,$A]) {\n",
            "    %s0 = gemm %q, %k {trans_b=true} : f32[$G,$Q,$T,$S]", *Piece(kSoftmax, "%s0"),
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
       text("(%x: f32[$T,$W], %r: f32[$T,$W]) -> (f32[$T,$W]) {\n    %up = weight \"up\" : f32[$F,$W]\n    %down = "
            "weight "
            "\"down\" : f32[$W,$F]\n    %bu = weight \"bu\" : f32[$F]\n    %bd = weight \"bd\" : f32[$W]\n",
            "    %u0 = gemm %x, %up {trans_b=true} : f32[$T,$F]\n    %u1 = add %u0, %bu : f32[$T,$F]",
            *Piece(kGelu, "%u1"), "    %d0 = gemm %g, %down {trans_b=true} : f32[$T,$W]\n",
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

// Multiply-adds a second on one core: the vectors of the widest target that runs here, with as many chains as hide
// their latency.
__attribute__((target("avx512f"))) double Peak512() {
  constexpr int kChains = 16, kSteps = 1 << 16;
  __m512 chains[kChains];
  for (__m512& c : chains) c = _mm512_set1_ps(0.5f);
  const __m512 x = _mm512_set1_ps(0.999f);
  const double start = SecondsNow();
  for (int i = 0; i < kSteps; ++i) {
    for (__m512& c : chains) {
      c = _mm512_fmadd_ps(c, x, x);
      asm volatile("" : "+v"(c));
    }
  }
  return kChains * 16.0 * kSteps / (SecondsNow() - start);
}
__attribute__((target("avx2,fma"))) double Peak256() {
  constexpr int kChains = 12, kSteps = 1 << 16;
  __m256 chains[kChains];
  for (__m256& c : chains) c = _mm256_set1_ps(0.5f);
  const __m256 x = _mm256_set1_ps(0.999f);
  const double start = SecondsNow();
  for (int i = 0; i < kSteps; ++i) {
    for (__m256& c : chains) {
      c = _mm256_fmadd_ps(c, x, x);
      asm volatile("" : "+x"(c));
    }
  }
  return kChains * 8.0 * kSteps / (SecondsNow() - start);
}
double ProductsPerSecond() {
  static const double peak = [] {
    const Target* wide = FindTarget("avx512");
    double best = 0;
    for (int round = 0; round < 9; ++round) best = std::max(best, HostRuns(*wide) ? Peak512() : Peak256());
    return best;
  }();
  return peak;
}

std::string TextOf(const Fusion& fusion, const Shape& shape, int64_t rows) {
  const auto n = [](int64_t value) { return absl::StrCat(value); };
  return absl::StrCat("module @fusion {\n  weights \"none\" sha256 \"", std::string(64, '0'), "\"\n  graph @main",
                      absl::StrReplaceAll(fusion.graph, {{"$T", n(rows)},
                                                         {"$S", n(kPositions)},
                                                         {"$W", n(shape.width)},
                                                         {"$F", n(shape.ffn)},
                                                         {"$G", n(shape.groups)},
                                                         {"$Q", n(shape.share)},
                                                         {"$D", n(shape.head)},
                                                         {"$E", n(2 * shape.head)},
                                                         {"$K", n(shape.groups * shape.head)},
                                                         {"$A", n(shape.groups * shape.share * shape.head)}}),
                      "\n}\n");
}

void BM_Fusion(benchmark::State& state, const Fusion& fusion, const Shape& shape, int64_t rows, int threads) {
  const std::string text = TextOf(fusion, shape, rows);
  const auto fused = CompiledText::Make(text, "", threads, kPositions),
             unfused = CompiledText::Make(text, fusion.pass, threads, kPositions);
  for (const auto* made : {&fused, &unfused}) {
    if (!made->ok()) return state.SkipWithError(std::string(made->status().message()).c_str());
    if (!(*made)->get()->Run().ok()) return state.SkipWithError("a run failed");
  }
  double error = 0, largest = 0;
  const std::vector<float>&a = (*fused)->result(), &b = (*unfused)->result();
  for (size_t i = 0; i < a.size(); ++i) {
    error = std::max(error, static_cast<double>(std::abs(a[i] - b[i])));
    largest = std::max(largest, static_cast<double>(std::abs(b[i])));
  }
  std::vector<double> ratios, times, unfused_times;
  const auto once = [](CompiledText& compiled) { return compiled.Run().ok() ? SecondsNow() : 0; };
  // As many runs as take a while; before them some that are not counted, while the other's threads fall asleep.
  const double begin = SecondsNow();
  const int runs = static_cast<int>(std::clamp(kPairSeconds / (once(**unfused) - begin), 1.0, 10000.0));
  const auto time = [&](CompiledText& compiled) {
    for (const double start = SecondsNow(); SecondsNow() < start + kPairSeconds / 10;) once(compiled);
    const double start = SecondsNow();
    double end = start;
    for (int i = 0; i < runs; ++i) end = once(compiled);
    return (end - start) / runs;
  };
  for (auto _ : state) {
    unfused_times.push_back(time(**unfused));
    times.push_back(time(**fused));
    state.SetIterationTime(times.back());
    ratios.push_back(unfused_times.back() / times.back());
  }
  const double limit = std::max(SecondsToRead((*fused)->bytes()),
                                fusion.products(shape, static_cast<double>(rows)) / ProductsPerSecond()) /
                       threads;
  state.counters["fused_us"] = MedianOf(times) * 1e6;
  state.counters["unfused_us"] = MedianOf(unfused_times) * 1e6;
  state.counters["x"] = MedianOf(ratios);
  state.counters["kB"] = (*fused)->bytes() / 1000;
  state.counters["unfused_kB"] = (*unfused)->bytes() / 1000;
  state.counters["limit"] = 100 * limit / MedianOf(times);
  state.counters["err"] = largest == 0 ? 0 : error / largest;
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
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
