#include "bench/measure.h"

#include <benchmark/benchmark.h>
#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <thread>

#include "base/status.h"
#include "runtime/grain_shares.h"

namespace sinter {
namespace {

constexpr int kRounds = 9;
constexpr size_t kBlock = 128;          // floats that a step of the sums reads
constexpr double kRoundBytes = 4e6;     // small buffers are read again until a round has read as much
constexpr int64_t kFmaSteps = 1 << 20;  // of every chain, in a round

constexpr size_t kPieceBytes = 256 << 10, kLeastPieces = 64;  // of large buffers, of each thread

// Sums over floats, a multiple of kBlock, in eight chains.
__attribute__((target("avx512f"))) void Sum512(const float* data, size_t floats) {
  __m512 sums[8] = {};
  for (size_t i = 0; i < floats; i += kBlock) {
#pragma GCC unroll 8
    for (size_t j = 0; j < 8; ++j) sums[j] = _mm512_add_ps(sums[j], _mm512_loadu_ps(data + i + 16 * j));
  }
  benchmark::DoNotOptimize(sums);
}
__attribute__((target("avx2"))) void Sum256(const float* data, size_t floats) {
  __m256 sums[8] = {};
  for (size_t i = 0; i < floats; i += kBlock / 2) {
#pragma GCC unroll 8
    for (size_t j = 0; j < 8; ++j) sums[j] = _mm256_add_ps(sums[j], _mm256_loadu_ps(data + i + 8 * j));
  }
  benchmark::DoNotOptimize(sums);
}

// As many chains as hide the latency of a multiply-add. Each returns the multiply-adds that it did.
__attribute__((target("avx512f"))) double Fma512() {
  constexpr int kChains = 16;
  __m512 chains[kChains];
  for (__m512& c : chains) c = _mm512_set1_ps(0.5f);
  const __m512 x = _mm512_set1_ps(0.999f);
  for (int64_t i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) {
      __m512 next = _mm512_fmadd_ps(chains[c], x, x);
      asm volatile("" : "+v"(next));
      chains[c] = next;
    }
  }
  return kChains * 16.0 * kFmaSteps;
}
__attribute__((target("avx2,fma"))) double Fma256() {
  constexpr int kChains = 12;
  __m256 chains[kChains];
  for (__m256& c : chains) c = _mm256_set1_ps(0.5f);
  const __m256 x = _mm256_set1_ps(0.999f);
  for (int64_t i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      __m256 next = _mm256_fmadd_ps(chains[c], x, x);
      asm volatile("" : "+x"(next));
      chains[c] = next;
    }
  }
  return kChains * 8.0 * kFmaSteps;
}
__attribute__((target("avx512f,avx512bf16"))) double Bf16Dot512() {
  constexpr int kChains = 16;
  __m512 chains[kChains];
  for (__m512& c : chains) c = _mm512_set1_ps(0.5f);
  const __m512bh x = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3f80));  // ones
  for (int64_t i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) {
      __m512 next = _mm512_dpbf16_ps(chains[c], x, x);
      asm volatile("" : "+v"(next));
      chains[c] = next;
    }
  }
  return kChains * 32.0 * kFmaSteps;
}

// As Fma512, of 8-bit integers, unsigned by signed, four of each added up in 32 bits (vpdpbusd).
__attribute__((target("avx512f,avx512vnni"))) double Int8Dot512() {
  constexpr int kChains = 16;
  __m512i chains[kChains] = {};
  const __m512i x = _mm512_set1_epi8(1);
  for (int64_t i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) {
      __m512i next = _mm512_dpbusd_epi32(chains[c], x, x);
      asm volatile("" : "+v"(next));
      chains[c] = next;
    }
  }
  return kChains * 64.0 * kFmaSteps;
}
__attribute__((target("avx2,avxvnni"))) double Int8Dot256() {
  constexpr int kChains = 12;
  __m256i chains[kChains] = {};
  const __m256i x = _mm256_set1_epi8(1);
  for (int64_t i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      __m256i next = _mm256_dpbusd_avx_epi32(chains[c], x, x);
      asm volatile("" : "+x"(next));
      chains[c] = next;
    }
  }
  return kChains * 32.0 * kFmaSteps;
}
// The same where the CPU has no instruction for it: vpmaddubsw, vpmaddwd and vpaddd.
__attribute__((target("avx512f,avx512bw"))) double Int8Pairs512() {
  constexpr int kChains = 8;
  __m512i chains[kChains] = {};
  const __m512i x = _mm512_set1_epi8(1), pairs = _mm512_set1_epi16(1);
  for (int64_t i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 8
    for (int c = 0; c < kChains; ++c) {
      __m512i row = x;
      asm volatile("" : "+v"(row));  // or all products would be one
      __m512i next = _mm512_add_epi32(chains[c], _mm512_madd_epi16(_mm512_maddubs_epi16(row, x), pairs));
      asm volatile("" : "+v"(next));
      chains[c] = next;
    }
  }
  return kChains * 64.0 * kFmaSteps;
}
__attribute__((target("avx2"))) double Int8Pairs256() {
  constexpr int kChains = 8;
  __m256i chains[kChains] = {};
  const __m256i x = _mm256_set1_epi8(1), pairs = _mm256_set1_epi16(1);
  for (int64_t i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 8
    for (int c = 0; c < kChains; ++c) {
      __m256i row = x;
      asm volatile("" : "+x"(row));  // or all products would be one
      __m256i next = _mm256_add_epi32(chains[c], _mm256_madd_epi16(_mm256_maddubs_epi16(row, x), pairs));
      asm volatile("" : "+x"(next));
      chains[c] = next;
    }
  }
  return kChains * 32.0 * kFmaSteps;
}

bool Has(const Target& target, absl::string_view feature) {
  return std::find(target.features.begin(), target.features.end(), feature) != target.features.end();
}

double PerSecond(double (*work)(), int threads) {
  const double products = work() * threads;
  return products / SecondsTogether(threads, [&](int) { work(); });
}

}  // namespace

double SecondsNow() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double MedianOf(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

absl::StatusOr<double> SecondsOfRun(const std::function<absl::Status()>& run, double seconds) {
  std::vector<double> averages;
  for (int round = 0; round < kRounds; ++round) {
    const double start = SecondsNow();
    double end = start;
    int runs = 0;
    for (; end < start + seconds / kRounds || runs == 0; end = SecondsNow(), ++runs) SINTER_RETURN_IF_ERROR(run());
    averages.push_back((end - start) / runs);
  }
  return MedianOf(averages);
}

double SecondsTogether(int threads, const std::function<void(int)>& work) {
  std::vector<double> begin(static_cast<size_t>(threads)), end = begin, times;
  const double start = SecondsNow();
  std::atomic<int64_t> arrived = 0;
  std::atomic<bool> done = false;
  const auto run = [&](int thread) {
    int64_t expected = 0;
    const auto meet = [&] {
      expected += threads;
      for (arrived.fetch_add(1); arrived.load() < expected;) _mm_pause();
    };
    for (;;) {
      meet();
      if (done.load()) return;
      begin[static_cast<size_t>(thread)] = SecondsNow();
      work(thread);
      end[static_cast<size_t>(thread)] = SecondsNow();
      meet();
      if (thread != 0) continue;
      const double first = *std::min_element(begin.begin(), begin.end());
      if (first >= start + kWarmSeconds) times.push_back(*std::max_element(end.begin(), end.end()) - first);
      done.store(times.size() == kRounds);
    }
  };
  std::vector<std::jthread> others;
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(run, thread);
  run(0);
  return MedianOf(times);
}

// Floats, all one, in huge pages where the system has them: walking page tables is no work of memory.
struct ReadLoop::Buffer {
  static constexpr size_t kPage = size_t{2} << 20;

  explicit Buffer(size_t wanted) : bytes(wanted) {
    const size_t whole = (bytes + kPage - 1) / kPage * kPage;
    data = static_cast<float*>(std::aligned_alloc(kPage, whole));
    if (data == nullptr) std::abort();
    madvise(data, whole, MADV_HUGEPAGE);
    std::fill_n(data, whole / sizeof(float), 1.0f);
  }
  ~Buffer() { std::free(data); }

  size_t bytes;  // a multiple of kBlock floats for each thread
  float* data;
};

ReadLoop::ReadLoop(double bytes, int threads) : bytes_(bytes), threads_(threads) {
  const double blocks = std::ceil(bytes / (static_cast<double>(sizeof(float) * kBlock) * threads));
  buffer_ = std::make_unique<Buffer>(std::max<size_t>(1, static_cast<size_t>(blocks)) * kBlock * sizeof(float) *
                                     static_cast<size_t>(threads));
}

ReadLoop::~ReadLoop() = default;

double ReadLoop::Seconds() {
  const float* const data = buffer_->data;
  const size_t bytes = buffer_->bytes, parts = static_cast<size_t>(threads_);
  const size_t floats = bytes / sizeof(float) / parts;  // of a part
  const double size = static_cast<double>(bytes);
  const int times = static_cast<int>(std::max(1.0, std::ceil(kRoundBytes / size)));
  void (*const sum)(const float*, size_t) = HostRuns(*FindTarget("avx512")) ? Sum512 : Sum256;
  const size_t pieces = bytes / kPieceBytes;  // of large buffers, shared out as the grains of a long step are
  GrainShares shares(threads_);
  const double seconds = SecondsTogether(threads_, [&](int thread) {
    if (pieces < kLeastPieces * parts) {
      for (int i = 0; i < times; ++i) sum(data + static_cast<size_t>(thread) * floats, floats);
      return;
    }
    const int64_t grains = static_cast<int64_t>(pieces);
    shares.Deal(thread, FirstOfPart(grains, thread, threads_), FirstOfPart(grains, thread + 1, threads_));
    constexpr size_t kPiece = kPieceBytes / sizeof(float);
    for (int64_t begin, end; shares.Take(thread, threads_, begin, end);) {
      sum(data + static_cast<size_t>(begin) * kPiece, static_cast<size_t>(end - begin) * kPiece);
    }
    if (thread == 0) sum(data + pieces * kPiece, bytes / sizeof(float) - pieces * kPiece);
  });
  return seconds / times / size * bytes_;
}

double ProductsPerSecond(const Target& target, int threads) {
  return PerSecond(target.vector_bytes == 64 ? Fma512 : Fma256, threads);
}

double Bf16ProductsPerSecond(const Target& target, int threads) {
  return Has(target, "avx512_bf16") ? PerSecond(Bf16Dot512, threads) : 0;
}

double Int8ProductsPerSecond(const Target& target, int threads) {
  double (*const work)() = Has(target, "avx512_vnni") ? Int8Dot512
                           : Has(target, "avx_vnni")  ? Int8Dot256
                           : Has(target, "avx512bw")  ? Int8Pairs512
                                                      : Int8Pairs256;
  return PerSecond(work, threads);
}

int RunBenchmarks(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace sinter
