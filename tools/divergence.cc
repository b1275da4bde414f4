#include "tools/divergence.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace sinter {

Estimate Exponential(const RunningMean& logarithms) {
  const double value = std::exp(logarithms.mean());
  return {value, value * logarithms.error()};
}

double Quantile(std::vector<double> values, double part) {
  std::sort(values.begin(), values.end());
  const double place = part * static_cast<double>(values.size() - 1);
  const size_t below = static_cast<size_t>(place), above = std::min(below + 1, values.size() - 1);
  return values[below] + (place - static_cast<double>(below)) * (values[above] - values[below]);
}

absl::StatusOr<LogitsRow> UnderstandLogits(absl::Span<const float> logits) {
  size_t top = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!std::isfinite(logits[i])) {
      return absl::InvalidArgumentError(
          absl::StrCat("the logit of token ", i, " is ", logits[i], ", expected a finite number"));
    }
    if (logits[i] > logits[top]) top = i;
  }
  const double most = logits[top];
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit) - most);
  return LogitsRow{logits, most + std::log(sum), top};
}

absl::Status AtPosition(absl::string_view path, size_t position, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": position ", position, ": ", status.message()));
}

absl::Status Divergence::Add(absl::Span<const float> a, absl::Span<const float> b, size_t next) {
  SINTER_ASSIGN_OR_RETURN(const LogitsRow row_a, UnderstandLogits(a));
  SINTER_ASSIGN_OR_RETURN(const LogitsRow row_b, UnderstandLogits(b));
  double kl = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double log_a = row_a.LogProbability(i), difference = static_cast<double>(b[i]) - static_cast<double>(a[i]);
    kl += std::exp(log_a) * (log_a - row_b.LogProbability(i));
    difference_squares_ += difference * difference;
    reference_squares_ += static_cast<double>(a[i]) * static_cast<double>(a[i]);
  }
  logits_ += static_cast<double>(a.size());
  kl = std::max(kl, 0.0);  // what rounding leaves of equal rows may be negative
  kl_.push_back(kl);
  kl_mean_.Add(kl);
  same_top_.Add(row_a.top == row_b.top ? 1 : 0);
  const double log_a = row_a.LogProbability(next), log_b = row_b.LogProbability(next);
  nll_a_.Add(-log_a);
  nll_b_.Add(-log_b);
  nll_difference_.Add(log_a - log_b);
  const double next_difference = std::exp(log_b) - std::exp(log_a);
  next_squares_.Add(next_difference * next_difference);
  return absl::OkStatus();
}

DivergenceSummary Divergence::Summary() const {
  DivergenceSummary s;
  s.positions = kl_mean_.count();
  s.kl = {kl_mean_.mean(), kl_mean_.error()};
  s.kl_median = Quantile(kl_, 0.5);
  s.kl_p99 = Quantile(kl_, 0.99);
  s.kl_max = Quantile(kl_, 1);
  s.top1 = {same_top_.mean(), same_top_.error()};
  s.perplexity_a = Exponential(nll_a_);
  s.perplexity_b = Exponential(nll_b_);
  s.perplexity_ratio = Exponential(nll_difference_);
  s.logits_rms = std::sqrt(difference_squares_ / logits_);
  s.logits_nmse = reference_squares_ > 0 ? difference_squares_ / reference_squares_ : 0;
  s.next_token_rms = std::sqrt(next_squares_.mean());
  return s;
}

}  // namespace sinter
