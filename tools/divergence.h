// How likely a model finds a text, and how far the predictions of two models lie apart: the figures of the verbs
// perplexity and compare. Pure arithmetic on rows of logits, in double; knows no model.
//
// With l the logits of a position, log p(i) = l(i) - max(l) - log(sum(exp(l - max(l)))), which neither overflows nor
// loses small probabilities. Then
//   nll        = -log p(next token); perplexity = exp(mean nll), its error = perplexity * the error of mean nll
//   KL(A||B)   = sum p_A(i) * (log p_A(i) - log p_B(i)) of a position, in nats; at least 0
//   NMSE       = sum (l_B - l_A)^2 / sum l_A^2 over all positions and tokens
//   RMS dp     = root of the mean of (p_B - p_A)^2 of the next token
// The error of a mean is its standard error, s / sqrt(n), positions taken as independent. The change of perplexity is
// that of paired positions, exp(mean(nll_B - nll_A)), so that what both find hard does not blur it. Quantiles lie
// linearly between the two nearest values. Definitions agree with those of llama.cpp's llama-perplexity.
// kInvalidArgument: logits that are not finite.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace sinter {

// The mean of values that come one by one, and its standard error (0 of fewer than two values).
class RunningMean {
 public:
  void Add(double value) {
    ++count_;
    const double distance = value - mean_;
    mean_ += distance / static_cast<double>(count_);
    squares_ += distance * (value - mean_);
  }
  int64_t count() const { return count_; }
  double mean() const { return mean_; }
  double error() const {
    const double n = static_cast<double>(count_);
    return count_ < 2 ? 0 : std::sqrt(squares_ / (n - 1) / n);
  }

 private:
  int64_t count_ = 0;
  double mean_ = 0, squares_ = 0;  // sum of squared distances from the mean
};

struct Estimate {
  double value = 0, error = 0;
};
// exp of a mean, with its error.
Estimate Exponential(const RunningMean& logarithms);

// The value below which `part` (0 to 1) of them lie; at least one value.
double Quantile(std::vector<double> values, double part);

// A row of logits, understood.
struct LogitsRow {
  absl::Span<const float> logits;
  double log_sum;  // log p(i) = logits[i] - log_sum
  size_t top;      // the likeliest token, the first of equals

  double LogProbability(size_t token) const { return static_cast<double>(logits[token]) - log_sum; }
};
// `logits` has one element at least, and must outlive the row.
absl::StatusOr<LogitsRow> UnderstandLogits(absl::Span<const float> logits);
// Its error, with the model or file that the logits are of, and their position.
absl::Status AtPosition(absl::string_view path, size_t position, const absl::Status& status);

struct DivergenceSummary {
  int64_t positions = 0;
  Estimate kl;
  double kl_median = 0, kl_p99 = 0, kl_max = 0;
  Estimate top1;  // the part of the positions at which both find the same token likeliest
  Estimate perplexity_a, perplexity_b;
  Estimate perplexity_ratio;  // B / A
  double logits_rms = 0, logits_nmse = 0;
  double next_token_rms = 0;  // RMS dp
};

// Two models over the same positions. Memory grows by one double a position.
class Divergence {
 public:
  // Logits of both at a position, of equal size, and the token that comes next.
  absl::Status Add(absl::Span<const float> a, absl::Span<const float> b, size_t next);
  // After one position at least.
  DivergenceSummary Summary() const;

 private:
  std::vector<double> kl_;
  RunningMean kl_mean_, same_top_, nll_a_, nll_b_, nll_difference_, next_squares_;
  double difference_squares_ = 0, reference_squares_ = 0, logits_ = 0;
};

}  // namespace sinter
