// Target npy: NumPy's arrays. What is read is whole and of the shape that it states.
#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "fuzz/target.h"
#include "tools/npy.h"

namespace sinter::fuzz {

std::vector<Seed> Seeds() {
  const auto file = [](absl::string_view kind, absl::string_view shape, size_t bytes) {
    const std::string header =
        absl::StrCat("{'descr': '", kind, "', 'fortran_order': False, 'shape': ", shape, ", }\n");
    return absl::StrCat(absl::string_view("\x93NUMPY\x01\x00", 8), std::string{static_cast<char>(header.size()), '\0'},
                        header, std::string(bytes, '\x3f'));
  };
  return {{"f4", file("<f4", "(2, 3)", 24)}, {"f8", file("<f8", "(2,)", 16)},  {"f2", file("<f2", "()", 2)},
          {"i1", file("|i1", "(3,)", 3)},    {"u1", file("|u1", "(0, 4)", 0)}, {"i4", file("<i4", "(1, 1, 1)", 4)},
          {"i8", file("<i8", "(2,)", 16)},   {"b1", file("|b1", "(5,)", 5)}};
}

namespace {

void Run(absl::Span<const uint8_t> bytes) {
  const auto tensor = ParseNpy(bytes, "a.npy");
  if (!tensor.ok()) {
    Expect(absl::IsInvalidArgument(tensor.status()) && !tensor.status().message().empty(),
           absl::StrCat("ParseNpy refuses with ", tensor.status().ToString()));
    return;
  }
  int64_t elems = 1;
  for (int64_t dim : tensor->dims) {
    Expect(dim >= 0, "no dim is negative");
    elems *= dim;
  }
  Expect(elems == tensor->elems(), "an array has the elements of its shape");
  Expect(static_cast<size_t>(elems) <= bytes.size(), "an array has no more elements than its file has bytes");
  double sum = 0;
  for (double value : tensor->values) sum += value;
  [[maybe_unused]] static volatile double sink;
  sink = sum;
}

// One character of the header changed, its length set to be true, and some other number of bytes of data.
std::string MutateArray(absl::string_view file, Dice& dice) {
  constexpr size_t kHeaderAt = 10;
  constexpr absl::string_view kCharacters = "0123456789-+.,:()'| <>TFbfiu";
  if (file.size() <= kHeaderAt) return std::string(file);
  const auto size = std::min<size_t>(static_cast<uint8_t>(file[8]), file.size() - kHeaderAt);
  const absl::string_view header = file.substr(kHeaderAt, size);
  const auto at = static_cast<size_t>(dice.Below(static_cast<int64_t>(size) + 1));
  const size_t after = std::min(at + (dice.Chance(67) ? 1 : 0), size);
  const absl::string_view added = dice.Chance(75) ? kCharacters.substr(dice.Next() % kCharacters.size(), 1) : "";
  const std::string changed = absl::StrCat(header.substr(0, at), added, header.substr(after));
  std::string data(file.substr(kHeaderAt + size));
  if (dice.Chance(25)) data.resize(static_cast<size_t>(dice.Below(65)));
  return absl::StrCat(file.substr(0, 8), std::string{static_cast<char>(changed.size()), '\0'}, changed, data);
}

}  // namespace
}  // namespace sinter::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sinter::fuzz::Run({data, size});
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return sinter::fuzz::MutateOr(data, size, max_size, seed, sinter::fuzz::MutateArray);
}
