// Target quant: blocks of every format of quantized weights, and elements of every other type.
//
// The first byte chooses the type, the rest is data.
// A block decodes to the formula of quant.h, element by element; to finite numbers exactly where its scales are finite,
// which is what weight packing judges a file by; and within what its scales and quanta allow. What Decode gives and
// Encode can take back comes back.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "fuzz/target.h"
#include "ir/dtype.h"
#include "ir/quant.h"
#include "tests/quant_blocks.h"

namespace sinter::fuzz {

std::vector<Seed> Seeds() {
  std::vector<Seed> seeds;
  std::mt19937 random(1);
  uint8_t number = 0;
  for (const DTypeInfo& info : AllDTypes()) {
    std::string bytes(1, static_cast<char>(number++));
    if (FindQuantFormat(info.dtype) != nullptr) {
      const std::vector<uint8_t> blocks = RandomBlocks(info.dtype, 2 * info.block_elems, 0.5, random);
      bytes.append(blocks.begin(), blocks.end());
    } else {
      for (int64_t i = 0; i < 2 * info.block_bytes; ++i) bytes += static_cast<char>(random() >> 8);
    }
    seeds.push_back({std::string(info.name), bytes});
  }
  return seeds;
}

namespace {

void CheckBlock(const QuantFormat& format, const uint8_t* bytes, absl::Span<const double> decoded) {
  QuantBlock block;
  Split(format, bytes, block);
  const double d = HalfToFloat(block.d), dmin = HalfToFloat(block.dmin);
  const bool finite = std::isfinite(d) && std::isfinite(dmin);
  for (int64_t group = 0; group < format.groups(); ++group) {
    const double scale = d * block.scales[static_cast<size_t>(group)],
                 low = dmin * block.mins[static_cast<size_t>(group)];
    for (int64_t i = group * format.group; i < (group + 1) * format.group; ++i) {
      const int quantum = block.quanta[static_cast<size_t>(i)];
      const double value = decoded[static_cast<size_t>(i)];
      Expect(quantum < 1 << format.bits, "a quantum has no more than its bits");
      if (!finite) continue;
      Expect(std::isfinite(value), "finite scales decode to finite elements");
      Expect(value == static_cast<float>(scale * (quantum - format.zero) - low), "an element is that of the formula");
    }
  }
  if (finite) return;
  // A scale that is not finite is seen in at least one element, lest a check of elements miss it; but for factors of 0,
  // whose product with an infinity is NaN, it is seen in each.
  Expect(std::any_of(decoded.begin(), decoded.end(), [](double v) { return !std::isfinite(v); }),
         "a scale that is not finite makes elements that are not");
}

void Run(const uint8_t* data, size_t size) {
  constexpr size_t kMostBlocks = 64;
  if (size == 0) return;
  const DTypeInfo& info = AllDTypes()[data[0] % AllDTypes().size()];
  const auto block_bytes = static_cast<size_t>(info.block_bytes), block_elems = static_cast<size_t>(info.block_elems);
  const size_t blocks = std::min((size - 1) / block_bytes, kMostBlocks);
  if (blocks == 0) return;
  std::vector<double> decoded(blocks * block_elems);
  Decode(info.dtype, data + 1, absl::MakeSpan(decoded));
  if (const QuantFormat* format = FindQuantFormat(info.dtype)) {
    for (size_t i = 0; i < blocks; ++i) {
      CheckBlock(*format, data + 1 + i * block_bytes, absl::MakeSpan(decoded).subspan(i * block_elems, block_elems));
    }
    if (info.dtype != DType::kQ8_0) return;
  }
  // Encode takes any values; what it made decodes, and encodes to the same again.
  std::vector<uint8_t> encoded(blocks * block_bytes), again(encoded.size());
  Encode(info.dtype, decoded, encoded.data());
  std::vector<double> values(decoded.size()), second(decoded.size());
  Decode(info.dtype, encoded.data(), absl::MakeSpan(values));
  Encode(info.dtype, values, again.data());
  Decode(info.dtype, again.data(), absl::MakeSpan(second));
  if (IsQuantized(info.dtype)) return;  // a scale is rounded anew
  for (size_t i = 0; i < values.size(); ++i) {
    Expect(values[i] == decoded[i] || (std::isnan(values[i]) && std::isnan(decoded[i])) || info.dtype == DType::kI64,
           "an element of a plain type comes back");
    Expect(values[i] == second[i] || std::isnan(values[i]), "and does so again");
  }
}

}  // namespace
}  // namespace sinter::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sinter::fuzz::Run(data, size);
  return 0;
}
