#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/heap_counter.h"

namespace sinter {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();

Sampler Make(const SamplerOptions& options, int32_t vocab_size) {
  absl::StatusOr<Sampler> sampler = Sampler::Create(options, vocab_size);
  EXPECT_TRUE(sampler.ok()) << sampler.status();
  return *std::move(sampler);
}

// The share of each id among many draws.
std::map<int32_t, double> Shares(const SamplerOptions& options, const std::vector<float>& logits) {
  constexpr int kDraws = 100'000;
  Sampler sampler = Make(options, static_cast<int32_t>(logits.size()));
  std::map<int32_t, double> shares;
  for (int i = 0; i < kDraws; ++i) shares[sampler.Sample(logits)] += 1.0 / kDraws;
  return shares;
}
std::set<int32_t> Drawn(const SamplerOptions& options, const std::vector<float>& logits) {
  std::set<int32_t> ids;
  for (const auto& [id, share] : Shares(options, logits)) ids.insert(id);
  return ids;
}

TEST(Sampler, GreedyTakesTheLargestAndOfEqualOnesTheLowestId) {
  for (double temperature : {0.0, -1.0}) {
    SamplerOptions options{.temperature = temperature, .top_k = 1, .top_p = 0.1, .min_p = 0.9};
    Sampler sampler = Make(options, 4);
    EXPECT_EQ(sampler.Sample({1, 3, 2, 3}), 1);
    EXPECT_EQ(sampler.Sample({-1, -3, -2, -0.5f}), 3);
    EXPECT_EQ(sampler.Sample({-0.0f, 0.0f, -1, -1}), 0);
    EXPECT_EQ(sampler.Sample({-kInf, -kInf, -kInf, -kInf}), 0);
    EXPECT_EQ(sampler.Sample({0, kInf, kInf, 1}), 1);
    EXPECT_EQ(sampler.Sample({kNan, -5, kNan, -4}), 3);
    EXPECT_EQ(sampler.Sample({kNan, -kInf, kNan, kNan}), 1);
    EXPECT_EQ(sampler.Sample({kNan, kNan, kNan, kNan}), 0);
  }
}

TEST(Sampler, TemperatureIsTheSoftmaxs) {
  const std::vector<float> logits = {0.0f, std::log(2.0f), std::log(5.0f)};
  std::map<int32_t, double> shares = Shares({.temperature = 1}, logits);
  EXPECT_NEAR(shares[0], 1.0 / 8, 0.005);
  EXPECT_NEAR(shares[1], 2.0 / 8, 0.005);
  EXPECT_NEAR(shares[2], 5.0 / 8, 0.005);
  shares = Shares({.temperature = 0.5}, logits);  // squares the ratios
  EXPECT_NEAR(shares[0], 1.0 / 30, 0.005);
  EXPECT_NEAR(shares[1], 4.0 / 30, 0.005);
  EXPECT_NEAR(shares[2], 25.0 / 30, 0.005);
  EXPECT_THAT(Drawn({.temperature = 1e-300}, logits), ElementsAre(2));
  shares = Shares({.temperature = 1e300}, logits);
  EXPECT_NEAR(shares[0], 1.0 / 3, 0.005);
  EXPECT_NEAR(shares[2], 1.0 / 3, 0.005);
}

TEST(Sampler, TopK) {
  const std::vector<float> logits = {1, 4, 2, 4, 3};
  EXPECT_THAT(Drawn({.temperature = 1, .top_k = 1}, logits), ElementsAre(1));
  EXPECT_THAT(Drawn({.temperature = 1, .top_k = 2}, logits), UnorderedElementsAre(1, 3));
  EXPECT_THAT(Drawn({.temperature = 1, .top_k = 3}, logits), UnorderedElementsAre(1, 3, 4));
  EXPECT_EQ(Drawn({.temperature = 1, .top_k = 5}, logits).size(), 5u);
  EXPECT_EQ(Drawn({.temperature = 1, .top_k = 1'000'000'000'000}, logits).size(), 5u);
  EXPECT_EQ(Drawn({.temperature = 1, .top_k = 0}, logits).size(), 5u);
}

TEST(Sampler, TopP) {
  // Probabilities 0.1, 0.5, 0.25, 0.15.
  std::vector<float> logits;
  for (float p : {0.1f, 0.5f, 0.25f, 0.15f}) logits.push_back(std::log(p));
  EXPECT_THAT(Drawn({.temperature = 1, .top_p = 0}, logits), ElementsAre(1));
  EXPECT_THAT(Drawn({.temperature = 1, .top_p = 0.49}, logits), ElementsAre(1));
  EXPECT_THAT(Drawn({.temperature = 1, .top_p = 0.51}, logits), ElementsAre(1, 2));
  EXPECT_THAT(Drawn({.temperature = 1, .top_p = 0.76}, logits), ElementsAre(1, 2, 3));
  EXPECT_EQ(Drawn({.temperature = 1, .top_p = 0.91}, logits).size(), 4u);
  // The temperature comes after: it does not change who stays.
  EXPECT_THAT(Drawn({.temperature = 100, .top_p = 0.51}, logits), ElementsAre(1, 2));
  // Of the two that top-k leaves, id 1 has 2/3.
  EXPECT_THAT(Drawn({.temperature = 1, .top_k = 2, .top_p = 0.66}, logits), ElementsAre(1));
  EXPECT_THAT(Drawn({.temperature = 1, .top_k = 2, .top_p = 0.67}, logits), ElementsAre(1, 2));
}

TEST(Sampler, MinP) {
  std::vector<float> logits;
  for (float p : {0.1f, 0.5f, 0.25f, 0.15f}) logits.push_back(std::log(p));
  EXPECT_THAT(Drawn({.temperature = 1, .min_p = 1}, logits), ElementsAre(1));
  EXPECT_THAT(Drawn({.temperature = 1, .min_p = 0.49}, logits), ElementsAre(1, 2));
  EXPECT_THAT(Drawn({.temperature = 1, .min_p = 0.29}, logits), ElementsAre(1, 2, 3));
  EXPECT_EQ(Drawn({.temperature = 1, .min_p = 0.19}, logits).size(), 4u);
  EXPECT_THAT(Drawn({.temperature = 100, .min_p = 0.49}, logits), ElementsAre(1, 2));
  // A share of the largest, whatever top-p removed.
  EXPECT_THAT(Drawn({.temperature = 1, .top_p = 0.91, .min_p = 0.29}, logits), ElementsAre(1, 2, 3));
}

TEST(Sampler, RepetitionPenalty) {
  SamplerOptions options{.temperature = 0, .repeat_penalty = 2, .repeat_last_n = 2};
  Sampler sampler = Make(options, 3);
  const std::vector<float> positive = {4, 3, 1.5f};
  EXPECT_EQ(sampler.Sample(positive), 0);
  sampler.Accept(0);
  EXPECT_EQ(sampler.Sample(positive), 1);  // 2, 3, 1.5
  sampler.Accept(0);
  EXPECT_EQ(sampler.Sample(positive), 1);  // once per id: 2, not 1
  sampler.Accept(1);
  EXPECT_EQ(sampler.Sample(positive), 0);  // 2, 1.5, 1.5
  sampler.Accept({1, 1});
  EXPECT_EQ(sampler.Sample(positive), 0);  // 0 is forgotten: 4, 1.5, 1.5
  sampler.Accept({2, 0});
  const std::vector<float> negative = {-1, -1.5f, -3};
  EXPECT_EQ(sampler.Sample(negative), 1);  // -2, -1.5, -6
  sampler.Accept({-1, 3, 1 << 30});        // no such ids: nothing is forgotten for them
  EXPECT_EQ(sampler.Sample(negative), 1);

  Sampler off = Make({.temperature = 0, .repeat_penalty = 2, .repeat_last_n = 0}, 3);
  off.Accept({0, 0});
  EXPECT_EQ(off.Sample(positive), 0);
  // The penalty comes before top-k.
  Sampler top = Make({.temperature = 1, .top_k = 1, .repeat_penalty = 2}, 3);
  top.Accept(0);
  EXPECT_EQ(top.Sample(positive), 1);
}

TEST(Sampler, StrangeLogits) {
  for (const SamplerOptions& options :
       {SamplerOptions{.temperature = 1}, SamplerOptions{.temperature = 1, .top_k = 3},
        SamplerOptions{.temperature = 1, .top_p = 0.9}, SamplerOptions{.temperature = 1, .min_p = 0.1},
        SamplerOptions{.temperature = 1, .top_k = 3, .top_p = 0.9, .min_p = 0.1}}) {
    EXPECT_THAT(Drawn(options, {kNan, 2, kNan, 2}), ElementsAre(1, 3));
    EXPECT_THAT(Drawn(options, {kNan, kNan, kNan, kNan}), ElementsAre(0));
    EXPECT_THAT(Drawn(options, {-kInf, 2, -kInf, kNan}), ElementsAre(1));
    EXPECT_THAT(Drawn(options, {5, kInf, 5, kInf}), ElementsAre(1, 3));
    EXPECT_THAT(Drawn(options, {-3e38f, 3e38f, -kInf, 0}), ElementsAre(1));
    EXPECT_EQ(*Drawn(options, {-kInf, -kInf, -kInf, -kInf}).begin(), 0);
    EXPECT_THAT(Drawn(options, {7}), ElementsAre(0));
  }
}

TEST(Sampler, TheSameSeedGivesTheSameIdsEverywhere) {
  std::vector<float> logits(1000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i % 37) / 8;
  auto draw = [&](uint64_t seed) {
    Sampler sampler = Make({.top_k = 300, .top_p = 0.95, .min_p = 0.05, .seed = seed}, 1000);
    std::vector<int32_t> ids(8);
    for (int32_t& id : ids) id = sampler.Sample(logits);
    return ids;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
  EXPECT_THAT(draw(42), ElementsAre(480, 293, 957, 435, 841, 993, 401, 140));  // must never change
}

// The published generator: seeded with 0, splitmix64 gives e220a8397b1dcdaf first. One logit of two decides by the top
// bit of the draw, so the first bits of xoshiro256** can be seen from outside.
TEST(Sampler, RandomNumbersAreXoshiro256) {
  uint64_t state[4], x = 0;
  for (uint64_t& word : state) {
    uint64_t z = (x += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    word = z ^ (z >> 31);
  }
  ASSERT_EQ(state[0], 0xe220a8397b1dcdafu);
  Sampler sampler = Make({.temperature = 1, .seed = 0}, 2);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t five = state[1] * 5, result = (five << 7 | five >> 57) * 9, t = state[1] << 17;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= t;
    state[3] = state[3] << 45 | state[3] >> 19;
    ASSERT_EQ(sampler.Sample({0, 0}), static_cast<int32_t>(result >> 63)) << i;
  }
}

TEST(Sampler, ReadsNoMoreLogitsThanItsVocabularyHas) {
  for (double temperature : {0.0, 1.0}) {
    Sampler sampler = Make({.temperature = temperature, .repeat_penalty = 1.5}, 4);
    EXPECT_EQ(sampler.vocab_size(), 4);
    sampler.Accept({0, 1, 2, 3});
    std::vector<float> logits(1000, 50);
    std::fill_n(logits.begin(), 4, -kInf);
    logits[2] = 0;
    EXPECT_EQ(sampler.Sample(logits), 2);
    EXPECT_EQ(sampler.Sample({-kInf, 1}), 1);
    EXPECT_EQ(sampler.Sample({}), 0);
  }
}

TEST(Sampler, AllocatesNothing) {
  std::vector<float> logits(32000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>((i * 7919) % 1000) / 100;
  for (const SamplerOptions& options :
       {SamplerOptions{.temperature = 0, .repeat_penalty = 1.1}, SamplerOptions{},
        SamplerOptions{.top_k = 40, .top_p = 0.95, .min_p = 0.05, .repeat_penalty = 1.1},
        SamplerOptions{.top_p = 0.9}}) {
    Sampler sampler = Make(options, 32000);
    const size_t before = HeapAllocations();
    for (int i = 0; i < 20; ++i) sampler.Accept(sampler.Sample(logits));
    EXPECT_EQ(HeapAllocations(), before);
  }
  const size_t before = HeapAllocations();
  std::vector<int> planted(1);
  EXPECT_EQ(HeapAllocations(), before + planted.size()) << "the counter does not count";
}

TEST(Sampler, RefusesOptionsOutOfRange) {
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  auto expect = [](const SamplerOptions& options, const std::string& message) {
    EXPECT_EQ(Sampler::Create(options, 10).status(), absl::OutOfRangeError(message));
  };
  expect({.temperature = nan}, "the temperature is nan, expected a finite number");
  expect({.temperature = inf}, "the temperature is inf, expected a finite number");
  expect({.top_k = -1}, "top-k is -1, expected 0 (off) or more");
  expect({.top_p = -0.1}, "top-p is -0.1, expected 0 to 1 (off)");
  expect({.top_p = 1.1}, "top-p is 1.1, expected 0 to 1 (off)");
  expect({.top_p = nan}, "top-p is nan, expected 0 to 1 (off)");
  expect({.min_p = 1.5}, "min-p is 1.5, expected 0 (off) to 1");
  expect({.min_p = nan}, "min-p is nan, expected 0 (off) to 1");
  expect({.repeat_penalty = 0}, "the repetition penalty is 0, expected a finite number above 0 (1: off)");
  expect({.repeat_penalty = inf}, "the repetition penalty is inf, expected a finite number above 0 (1: off)");
  expect({.repeat_last_n = -1}, "repeat-last-n is -1, expected 0 (off) to 1048576");
  expect({.repeat_last_n = 1 << 21}, "repeat-last-n is 2097152, expected 0 (off) to 1048576");
  EXPECT_EQ(Sampler::Create({}, 0).status(), absl::OutOfRangeError("the vocabulary's size is 0, expected 1 or more"));
  EXPECT_TRUE(
      Sampler::Create({.temperature = -1, .top_p = 0, .min_p = 1, .repeat_penalty = 0.5, .repeat_last_n = 0}, 1).ok());
}

}  // namespace
}  // namespace sinter
