// Picks the next token from a row of logits. Called by `run` once a token; one Sampler a sequence.
//
// The steps, in this order, each off at the value in brackets:
//   repetition penalty  logits of ids among the last repeat_last_n accepted: divided when positive, else multiplied [1]
//   top-k               the k largest stay [0]
//   top-p               of those, the fewest largest whose probabilities sum to p or more stay [1]
//   min-p               of those, the ones at least min_p times as probable as the largest stay [0]
//   temperature         logits are divided by it, and one id is drawn from their softmax
// Top-p and min-p see probabilities before the temperature. At temperature 0 or less the largest logit is taken after
// the penalty. Of equal logits the one with the lower id is the larger. A NaN logit is never picked unless all are NaN.
//
// The same options, logits and calls give the same ids on every machine: sums run in a fixed order in double, exp is
// computed here, and the random numbers are those of xoshiro256** (Blackman and Vigna, https://prng.di.unimi.it),
// seeded through splitmix64. All memory is allocated by Create.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace sinter {

struct SamplerOptions {
  double temperature = 0.8;
  int64_t top_k = 0;
  double top_p = 1;
  double min_p = 0;
  double repeat_penalty = 1;
  int64_t repeat_last_n = 64;
  uint64_t seed = 0;
};

class Sampler {
 public:
  // kOutOfRange, naming the option, when one is out of its range.
  static absl::StatusOr<Sampler> Create(const SamplerOptions& options, int32_t vocab_size);

  int32_t vocab_size() const { return vocab_size_; }
  // `logits` has vocab_size elements: of fewer the rest is not picked, of more what follows is not read.
  int32_t Sample(absl::Span<const float> logits);
  // Tells the repetition penalty that an id became part of the text; every id of the prompt and every one sampled.
  // Ids outside the vocabulary have no logit and are not counted.
  void Accept(int32_t id);
  void Accept(absl::Span<const int32_t> ids);

 private:
  struct Candidate {
    int32_t id;
    float logit;
    double weight;
  };

  Sampler(const SamplerOptions& options, int32_t vocab_size);
  float Penalized(float logit, int32_t id) const;
  int32_t Largest(absl::Span<const float> logits) const;
  void KeepTopK();
  void KeepTopP();
  void KeepMinP();
  int32_t Draw();
  uint64_t Random();

  SamplerOptions options_;
  int32_t vocab_size_;
  std::vector<Candidate> all_;        // vocab_size; empty when the largest is always taken
  absl::Span<Candidate> candidates_;  // what is left of all_
  std::vector<int32_t> recent_;       // a ring of the last accepted ids
  size_t num_accepted_ = 0;
  std::vector<int32_t> recent_count_;  // how often each id stands in recent_; empty when there is no penalty
  uint64_t state_[4];
};

}  // namespace sinter
