// Target sampler: options and logits of any value, NaN and infinities among them.
//
// What Create accepts picks an id of the vocabulary, never one whose logit is NaN while others are not, and the same
// ids from the same start.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "fuzz/input.h"
#include "fuzz/target.h"
#include "runtime/sampler.h"

namespace sinter::fuzz {
namespace {

std::string Bytes(const SamplerOptions& o, const std::vector<float>& logits) {
  std::string out;
  const auto put = [&out](auto value) { out.append(reinterpret_cast<const char*>(&value), sizeof value); };
  put(o.temperature);
  put(o.top_k);
  put(o.top_p);
  put(o.min_p);
  put(o.repeat_penalty);
  put(static_cast<int16_t>(o.repeat_last_n));
  put(o.seed);
  put(static_cast<uint16_t>(logits.size()));
  for (float logit : logits) put(logit);
  put(uint64_t{0x0102'0301'0200'0104});
  return out;
}

}  // namespace

std::vector<Seed> Seeds() {
  const std::vector<float> logits = {1, -1, 0.5f, 3, 3, NAN, INFINITY, -INFINITY, 1e-45f, -3e38f};
  return {{"usual", Bytes({.top_k = 5, .top_p = 0.9, .min_p = 0.05}, logits)},
          {"greedy", Bytes({.temperature = 0, .repeat_penalty = 1.3}, logits)},
          {"penalty", Bytes({.top_p = 0, .repeat_penalty = 0.5, .repeat_last_n = 3, .seed = 7}, logits)},
          {"hot", Bytes({.temperature = 1e300, .top_k = 2, .min_p = 1}, logits)}};
}

namespace {

void Run(Input input) {
  constexpr size_t kLargestVocabulary = 64, kMostSteps = 64;
  SamplerOptions options;
  options.temperature = input.Any<double>();
  options.top_k = input.Any<int64_t>();
  options.top_p = input.Any<double>();
  options.min_p = input.Any<double>();
  options.repeat_penalty = input.Any<double>();
  options.repeat_last_n = input.Any<int16_t>();
  options.seed = input.Any<uint64_t>();
  const auto size = static_cast<int32_t>(input.Below(kLargestVocabulary + 1));
  auto sampler = Sampler::Create(options, size);
  auto twin = Sampler::Create(options, size);
  if (!sampler.ok()) {
    Expect(absl::IsOutOfRange(sampler.status()), absl::StrCat("Create refuses with ", sampler.status().ToString()));
    return;
  }
  std::vector<float> logits(static_cast<size_t>(size));
  for (float& logit : logits) logit = input.Any<float>();
  // A penalty can turn an infinite logit into none: 0 * inf does not occur, inf / inf does not either.
  for (size_t step = 0; step < kMostSteps && !input.empty(); ++step) {
    const bool any = std::any_of(logits.begin(), logits.end(), [](float logit) { return !std::isnan(logit); });
    const int32_t id = sampler->Sample(logits);
    Expect(id >= 0 && id < size, "the id is of the vocabulary");
    Expect(!any || !std::isnan(logits[static_cast<size_t>(id)]), "an id whose logit is NaN is not picked");
    Expect(id == twin->Sample(logits), "the same start gives the same ids");
    if (options.temperature <= 0 && options.repeat_penalty == 1) {
      for (float logit : logits) {
        Expect(std::isnan(logit) || !any || logit <= logits[static_cast<size_t>(id)], "at 0 the largest is picked");
      }
    }
    if (options.top_k == 1 && options.repeat_penalty == 1 && any) {
      for (float logit : logits) {
        Expect(std::isnan(logit) || logit <= logits[static_cast<size_t>(id)], "the one of top-k 1 is the largest");
      }
    }
    // What a caller accepts may be any id.
    const int32_t accepted = input.Flag() ? id : static_cast<int32_t>(input.Any<int16_t>());
    sampler->Accept(accepted);
    twin->Accept(accepted);
    if (input.Flag()) logits[input.Below(logits.size())] = input.Any<float>();
  }
}

}  // namespace
}  // namespace sinter::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sinter::fuzz::Run(sinter::fuzz::Input(data, size));
  return 0;
}
