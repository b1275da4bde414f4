// Decodes random blocks of every format of quantized weights, beside ggml, and compares bits: one row a format, and
// exit code 1 where an element differs. bench/peers/check_formats fetches ggml and runs it.
//
// usage: check_formats LIBGGML_BASE.so [BLOCKS]
//
// Bytes of blocks are random without exception: a scale in 32 is infinite or NaN, and all NaN count as one. The
// checksum, FNV-1a over the bits that ggml makes of the first 1000 blocks, is what ir/quant_test holds Decode to.
#include <dlfcn.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "ir/quant.h"

namespace {

using sinter::DType;
using ToFloat = void (*)(const void* blocks, float* out, int64_t elems);

struct Row {
  DType dtype;
  const char* function;  // of ggml
};
constexpr Row kRows[] = {
    {DType::kQ8_0, "dequantize_row_q8_0"}, {DType::kQ4_0, "dequantize_row_q4_0"}, {DType::kQ4_1, "dequantize_row_q4_1"},
    {DType::kQ5_0, "dequantize_row_q5_0"}, {DType::kQ5_1, "dequantize_row_q5_1"}, {DType::kQ4_K, "dequantize_row_q4_K"},
    {DType::kQ5_K, "dequantize_row_q5_K"}, {DType::kQ6_K, "dequantize_row_q6_K"},
};
constexpr int64_t kPiece = 1000;  // blocks at a time

uint32_t Bits(double value) {
  return std::isnan(value) ? 0x7fc00000 : std::bit_cast<uint32_t>(static_cast<float>(value));
}

struct Counts {
  int64_t elems = 0, not_finite = 0, different = 0;
  uint64_t checksum = 0xcbf29ce484222325;
};

Counts Compare(DType dtype, ToFloat to_float, int64_t blocks) {
  const sinter::DTypeInfo& info = sinter::Info(dtype);
  std::mt19937 random(1);
  std::vector<uint8_t> bytes(static_cast<size_t>(kPiece * info.block_bytes));
  std::vector<double> ours(static_cast<size_t>(kPiece * info.block_elems));
  std::vector<float> theirs(ours.size());
  Counts counts;
  for (int64_t done = 0; done < blocks; done += kPiece) {
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random() >> 24);
    sinter::Decode(dtype, bytes.data(), absl::MakeSpan(ours));
    to_float(bytes.data(), theirs.data(), static_cast<int64_t>(theirs.size()));
    for (size_t i = 0; i < ours.size(); ++i) {
      const uint32_t bits = Bits(theirs[i]);
      if (Bits(ours[i]) != bits && ++counts.different == 1) {
        std::fprintf(stderr, "%s: element %lld is %a; ggml has %a\n", info.name.data(),
                     static_cast<long long>(done * info.block_elems) + static_cast<long long>(i), ours[i],
                     static_cast<double>(theirs[i]));
      }
      counts.not_finite += !std::isfinite(theirs[i]);
      if (done == 0) counts.checksum = (counts.checksum ^ bits) * 0x100000001b3;
    }
    counts.elems += static_cast<int64_t>(ours.size());
  }
  return counts;
}

}  // namespace

int main(int argc, char** argv) {
  const long long blocks = argc > 2 ? std::atoll(argv[2]) : 1000000;
  if (argc < 2 || argc > 3 || blocks < kPiece || blocks % kPiece != 0) {
    std::fprintf(stderr, "usage: check_formats LIBGGML_BASE.so [BLOCKS, a multiple of 1000]\n");
    return 2;
  }
  void* const library = dlopen(argv[1], RTLD_NOW);
  if (library == nullptr) {
    std::fprintf(stderr, "check_formats: error: %s\n", dlerror());
    return 3;
  }
  bool same = true;
  std::printf("| format | blocks | elements | not finite | different | checksum |\n|---|--:|--:|--:|--:|---|\n");
  for (const Row& row : kRows) {
    const auto to_float = reinterpret_cast<ToFloat>(dlsym(library, row.function));
    if (to_float == nullptr) {
      std::fprintf(stderr, "check_formats: error: %s has no %s\n", argv[1], row.function);
      return 3;
    }
    const Counts counts = Compare(row.dtype, to_float, blocks);
    std::printf("| %s | %lld | %lld | %lld | %lld | 0x%016llx |\n", sinter::Info(row.dtype).name.data(), blocks,
                static_cast<long long>(counts.elems), static_cast<long long>(counts.not_finite),
                static_cast<long long>(counts.different), static_cast<unsigned long long>(counts.checksum));
    std::fflush(stdout);
    same &= counts.different == 0;
  }
  return same ? 0 : 1;
}
