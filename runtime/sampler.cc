#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/limits.h"
#include "base/out_of_memory.h"

namespace sinter {
namespace {

// The order of candidates: larger logits first, of equal ones the lower id.
constexpr auto kBefore = [](const auto& a, const auto& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
};

// e^x for x <= 0, to an ulp or two, in basic IEEE arithmetic so that it is the same everywhere (the C library's is
// not). x = n ln2 + r with |r| <= ln2 / 2; e^r by its Taylor series to r^13 / 13!; 2^n as the bits of a double.
double Exp(double x) {
  constexpr double kInverseFactorials[] = {
      1.0,        1.0,         1.0 / 2,      1.0 / 6,       1.0 / 24,       1.0 / 120,       1.0 / 720,
      1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800,
  };
  constexpr double kRound = 0x1.8p52;                           // adding it leaves no bits for a fraction
  if (!(x > -700)) return 0;                                    // so that 2^n is a normal number
  const double n = (x * 1.4426950408889634 + kRound) - kRound;  // x / ln2
  const double r = (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;  // ln2 in two parts
  double sum = kInverseFactorials[13];
  for (int k = 12; k >= 0; --k) sum = sum * r + kInverseFactorials[k];
  const uint64_t bits = static_cast<uint64_t>(static_cast<int64_t>(n) + 1023) << 52;
  double power;
  std::memcpy(&power, &bits, sizeof power);
  return sum * power;
}

// The weight of a logit beside the largest one. Equal logits weigh 1 even when both are infinite.
double Weight(float logit, float largest, double temperature) {
  return logit == largest ? 1 : Exp((static_cast<double>(logit) - largest) / temperature);
}

}  // namespace

absl::StatusOr<Sampler> Sampler::Create(const SamplerOptions& o, int32_t vocab_size) {
  return WithoutExceptions("making a sampler", [&]() -> absl::StatusOr<Sampler> {
    auto refuse = [](const char* name, auto value, const auto&... expected) {
      return absl::OutOfRangeError(absl::StrCat(name, " is ", value, ", expected ", expected...));
    };
    if (vocab_size < 1) return refuse("the vocabulary's size", vocab_size, "1 or more");
    if (!std::isfinite(o.temperature)) return refuse("the temperature", o.temperature, "a finite number");
    if (o.top_k < 0) return refuse("top-k", o.top_k, "0 (off) or more");
    if (!(o.top_p >= 0 && o.top_p <= 1)) return refuse("top-p", o.top_p, "0 to 1 (off)");
    if (!(o.min_p >= 0 && o.min_p <= 1)) return refuse("min-p", o.min_p, "0 (off) to 1");
    if (!(o.repeat_penalty > 0) || !std::isfinite(o.repeat_penalty)) {
      return refuse("the repetition penalty", o.repeat_penalty, "a finite number above 0 (1: off)");
    }
    if (o.repeat_last_n < 0 || limits::kRepeatTokens.Exceeded(o.repeat_last_n)) {
      return refuse("repeat-last-n", o.repeat_last_n, "0 (off) to ", limits::kRepeatTokens.most);
    }
    return Sampler(o, vocab_size);
  });
}

Sampler::Sampler(const SamplerOptions& options, int32_t vocab_size) : options_(options), vocab_size_(vocab_size) {
  if (options_.temperature > 0) all_.resize(static_cast<size_t>(vocab_size));
  if (options_.repeat_penalty != 1 && options_.repeat_last_n > 0) {
    recent_.resize(static_cast<size_t>(options_.repeat_last_n));
    recent_count_.resize(static_cast<size_t>(vocab_size));
  }
  uint64_t x = options_.seed;  // splitmix64
  for (uint64_t& word : state_) {
    uint64_t z = (x += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    word = z ^ (z >> 31);
  }
}

uint64_t Sampler::Random() {  // xoshiro256**
  auto rotate = [](uint64_t value, int bits) { return value << bits | value >> (64 - bits); };
  const uint64_t result = rotate(state_[1] * 5, 7) * 9, shifted = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= shifted;
  state_[3] = rotate(state_[3], 45);
  return result;
}

void Sampler::Accept(int32_t id) {
  if (recent_.empty() || id < 0 || id >= vocab_size_) return;
  int32_t& slot = recent_[num_accepted_ % recent_.size()];
  if (num_accepted_ >= recent_.size()) --recent_count_[static_cast<size_t>(slot)];
  slot = id;
  ++recent_count_[static_cast<size_t>(id)];
  ++num_accepted_;
}

void Sampler::Accept(absl::Span<const int32_t> ids) {
  for (int32_t id : ids) Accept(id);
}

float Sampler::Penalized(float logit, int32_t id) const {
  if (recent_count_.empty() || recent_count_[static_cast<size_t>(id)] == 0) return logit;
  const double penalty = options_.repeat_penalty;
  return static_cast<float>(logit > 0 ? logit / penalty : logit * penalty);
}

int32_t Sampler::Sample(absl::Span<const float> logits) {
  logits = logits.subspan(0, static_cast<size_t>(vocab_size_));
  if (options_.temperature <= 0) return Largest(logits);
  size_t count = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    const float logit = Penalized(logits[i], id);
    if (!std::isnan(logit)) all_[count++] = {id, logit, 0};
  }
  if (count == 0) return 0;
  candidates_ = absl::MakeSpan(all_.data(), count);
  KeepTopK();
  const float largest = std::min_element(candidates_.begin(), candidates_.end(), kBefore)->logit;
  if (options_.top_p < 1 || options_.min_p > 0) {
    for (Candidate& c : candidates_) c.weight = Weight(c.logit, largest, 1);
    KeepTopP();
    KeepMinP();
  }
  for (Candidate& c : candidates_) c.weight = Weight(c.logit, largest, options_.temperature);
  return Draw();
}

int32_t Sampler::Largest(absl::Span<const float> logits) const {
  int32_t best = -1;
  float best_logit = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const float logit = Penalized(logits[i], static_cast<int32_t>(i));
    if (std::isnan(logit) || (best >= 0 && logit <= best_logit)) continue;
    best = static_cast<int32_t>(i);
    best_logit = logit;
  }
  return std::max(best, 0);
}

void Sampler::KeepTopK() {
  const auto k = static_cast<size_t>(options_.top_k);
  if (k == 0 || k >= candidates_.size()) return;
  std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(k), candidates_.end(),
                   kBefore);
  candidates_ = candidates_.subspan(0, k);
  std::sort(candidates_.begin(), candidates_.end(), kBefore);  // nth_element's own order is the library's affair
}

// A heap yields the largest one after another, so that a large vocabulary is never sorted whole.
void Sampler::KeepTopP() {
  if (options_.top_p >= 1) return;
  double total = 0, sum = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  const auto after = [](const Candidate& a, const Candidate& b) { return kBefore(b, a); };
  std::make_heap(candidates_.begin(), candidates_.end(), after);
  auto begin = candidates_.end();  // the kept ones gather at the end, the largest last
  do {
    std::pop_heap(candidates_.begin(), begin, after);
    --begin;
    sum += begin->weight;
  } while (begin != candidates_.begin() && sum < options_.top_p * total);
  candidates_ = candidates_.subspan(static_cast<size_t>(begin - candidates_.begin()));
  std::reverse(candidates_.begin(), candidates_.end());
}

void Sampler::KeepMinP() {
  if (options_.min_p <= 0) return;
  const auto end = std::remove_if(candidates_.begin(), candidates_.end(),
                                  [this](const Candidate& c) { return c.weight < options_.min_p; });
  candidates_ = candidates_.subspan(0, static_cast<size_t>(end - candidates_.begin()));
}

int32_t Sampler::Draw() {
  double total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  double left = static_cast<double>(Random() >> 11) * 0x1p-53 * total;  // in [0, total)
  int32_t drawn = candidates_[0].id;
  for (const Candidate& c : candidates_) {
    if (c.weight <= 0) continue;
    drawn = c.id;  // the last that has a weight, should rounding leave something over
    left -= c.weight;
    if (left < 0) break;
  }
  return drawn;
}

}  // namespace sinter
