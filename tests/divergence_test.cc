// Perplexity and divergence against values worked out by hand.
#include "tools/divergence.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace sinter {
namespace {

// Logits whose softmax is {1/2, 1/4, 1/4} and {1/4, 1/4, 1/2}, shifted so that neither is normalized.
std::vector<float> Of(std::initializer_list<double> probabilities, double shift) {
  std::vector<float> logits;
  for (double p : probabilities) logits.push_back(static_cast<float>(std::log(p) + shift));
  return logits;
}

// As near as logits in f32 allow.
constexpr double kNear = 1e-6;

TEST(LogitsRow, GivesLogProbabilities) {
  const std::vector<float> logits = Of({0.5, 0.25, 0.25}, 3);
  const auto row = UnderstandLogits(logits);
  ASSERT_TRUE(row.ok());
  EXPECT_EQ(row->top, 0u);
  EXPECT_NEAR(row->LogProbability(0), -std::log(2), kNear);
  EXPECT_NEAR(row->LogProbability(2), -std::log(4), kNear);
}

TEST(LogitsRow, NeitherOverflowsNorLosesSmallProbabilities) {
  const std::vector<float> logits = {3e38f, 1000, -3e38f, 3e38f};
  const auto row = UnderstandLogits(logits);
  ASSERT_TRUE(row.ok());
  EXPECT_EQ(row->top, 0u) << "the first of equals";
  EXPECT_DOUBLE_EQ(row->LogProbability(3), static_cast<double>(3e38f) - (static_cast<double>(3e38f) + std::log(2)));
  const std::vector<float> far = {0, -800};
  EXPECT_DOUBLE_EQ(UnderstandLogits(far)->LogProbability(1), -800);
}

TEST(LogitsRow, RefusesWhatIsNotFinite) {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), HUGE_VALF, -HUGE_VALF}) {
    const std::vector<float> logits = {1, bad, 2}, good = {1, 2, 3};
    EXPECT_EQ(UnderstandLogits(logits).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(UnderstandLogits(logits).status().message().find("token 1"), absl::string_view::npos);
    Divergence divergence;
    EXPECT_FALSE(divergence.Add(logits, good, 0).ok());
    EXPECT_FALSE(divergence.Add(good, logits, 0).ok());
  }
}

TEST(RunningMean, HasAStandardError) {
  RunningMean mean;
  EXPECT_EQ(mean.error(), 0);
  for (double value : {1e9 + 1, 1e9 + 2, 1e9 + 3, 1e9 + 6}) mean.Add(value);
  EXPECT_DOUBLE_EQ(mean.mean(), 1e9 + 3);
  // Squared distances 4 + 1 + 0 + 9 = 14; s^2 = 14 / 3; over 4.
  EXPECT_NEAR(mean.error(), std::sqrt(14.0 / 12), 1e-9);
  const Estimate e = Exponential([] {
    RunningMean logs;
    logs.Add(std::log(2));
    logs.Add(std::log(8));
    return logs;
  }());
  EXPECT_NEAR(e.value, 4, 1e-12);                    // exp of the mean of log 2 and log 8
  EXPECT_NEAR(e.error, 4 * std::log(4) / 2, 1e-12);  // the two are log 4 apart: s = log(4)/sqrt(2), over sqrt(2)
}

TEST(Quantile, LiesBetweenTheNearest) {
  EXPECT_EQ(Quantile({7}, 0.99), 7);
  EXPECT_EQ(Quantile({3, 1, 2}, 0.5), 2);
  EXPECT_DOUBLE_EQ(Quantile({4, 1, 3, 2}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(Quantile({0, 10, 20, 30, 40}, 0.99), 39.6);
  EXPECT_EQ(Quantile({3, 1, 2}, 0), 1);
  EXPECT_EQ(Quantile({3, 1, 2}, 1), 3);
}

TEST(Divergence, IsThatOfTwoDistributions) {
  Divergence divergence;
  // 1: KL = 1/2 log(2) + 0 + 1/4 log(1/2) = log(2)/4; the next token is 1, equally likely in both.
  ASSERT_TRUE(divergence.Add(Of({0.5, 0.25, 0.25}, 0), Of({0.25, 0.25, 0.5}, 0), 1).ok());
  // 2: the same distribution, one logit further up: KL 0.
  ASSERT_TRUE(divergence.Add(Of({0.5, 0.25, 0.25}, 0), Of({0.5, 0.25, 0.25}, 1), 0).ok());
  // 3: KL = log(2)/4 the other way round, and the next token falls from 1/2 to 1/4.
  ASSERT_TRUE(divergence.Add(Of({0.25, 0.25, 0.5}, 0), Of({0.5, 0.25, 0.25}, 0), 2).ok());
  const DivergenceSummary s = divergence.Summary();
  const double ln2 = std::log(2), kl = ln2 / 4;
  EXPECT_EQ(s.positions, 3);
  EXPECT_NEAR(s.kl.value, 2 * kl / 3, kNear);
  EXPECT_NEAR(s.kl.error, kl / 3, kNear);  // distances kl/3, -2kl/3, kl/3: s^2 = kl^2/3, over 3
  EXPECT_NEAR(s.kl_median, kl, kNear);
  EXPECT_NEAR(s.kl_p99, kl, kNear);
  EXPECT_NEAR(s.kl_max, kl, kNear);
  EXPECT_NEAR(s.top1.value, 1.0 / 3, 1e-12);
  EXPECT_NEAR(s.top1.error, std::sqrt((1.0 / 3) * (2.0 / 3) / 2), 1e-12);  // sqrt(p (1 - p) / (n - 1))
  EXPECT_NEAR(s.perplexity_a.value, std::cbrt(4 * 2 * 2), kNear);
  EXPECT_NEAR(s.perplexity_b.value, std::cbrt(4 * 2 * 4), kNear);
  EXPECT_NEAR(s.perplexity_ratio.value, std::cbrt(2), kNear);
  EXPECT_NEAR(s.perplexity_ratio.error, std::cbrt(2) * ln2 / 3, kNear);  // differences 0, 0, log 2
  // Squared differences of logits: 2 ln2^2, 3 * 1, 2 ln2^2; squares of A: 3 * (ln2^2 + 2 (2 ln2)^2).
  EXPECT_NEAR(s.logits_rms, std::sqrt((4 * ln2 * ln2 + 3) / 9), kNear);
  EXPECT_NEAR(s.logits_nmse, (4 * ln2 * ln2 + 3) / (27 * ln2 * ln2), kNear);
  EXPECT_NEAR(s.next_token_rms, std::sqrt(0.25 * 0.25 / 3), kNear);
}

TEST(Divergence, OfEqualRowsIsNothing) {
  Divergence divergence;
  const std::vector<float> row = {0.1f, -7.3f, 12.9f, 3.3f, 3.3f};
  for (size_t next : {0u, 3u}) ASSERT_TRUE(divergence.Add(row, row, next).ok());
  const DivergenceSummary s = divergence.Summary();
  EXPECT_EQ(s.kl.value, 0);
  EXPECT_EQ(s.kl_max, 0);
  EXPECT_EQ(s.top1.value, 1);
  EXPECT_EQ(s.top1.error, 0);
  EXPECT_EQ(s.perplexity_ratio.value, 1);
  EXPECT_EQ(s.perplexity_ratio.error, 0);
  EXPECT_EQ(s.logits_nmse, 0);
}

TEST(Divergence, SeesSmallOnes) {
  // With logits e and 0 against 0 and 0: KL = e^2/8 + O(e^4).
  Divergence divergence;
  const float e = 1e-3f;
  ASSERT_TRUE(divergence.Add(std::vector<float>{e, 0}, std::vector<float>{0, 0}, 0).ok());
  EXPECT_NEAR(divergence.Summary().kl.value, 1e-6 / 8, 1e-12);
}

}  // namespace
}  // namespace sinter
