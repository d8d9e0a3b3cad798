#include "runtime/engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "runtime/engine/philox.h"

namespace tandem::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One call with everything spelled out.
absl::StatusOr<Sample> SampleOnce(const std::vector<float>& logits, const SamplingParams& params,
                                  std::vector<int32_t> prompt = {0},
                                  std::vector<int32_t> output = {}, int32_t choice = 0,
                                  std::vector<int32_t> eos = {}) {
  Sampler sampler(static_cast<int32_t>(logits.size()), std::move(eos));
  Sample sample;
  const absl::Status status = sampler.Run({.logits = logits,
                                           .params = params,
                                           .prompt_ids = prompt,
                                           .output_ids = output,
                                           .choice = choice},
                                          &sample);
  if (!status.ok()) return status;
  return sample;
}

int32_t Greedy(const std::vector<float>& logits, SamplingParams params = {},
               std::vector<int32_t> prompt = {0}, std::vector<int32_t> output = {},
               std::vector<int32_t> eos = {}) {
  params.temperature = 0.0f;
  const auto sample =
      SampleOnce(logits, params, std::move(prompt), std::move(output), 0, std::move(eos));
  return sample.ok() ? sample->token_id : -1;
}

// Draws from many positions' generators: how often each id came.
std::map<int32_t, int> Counts(const std::vector<float>& logits, SamplingParams params, int draws) {
  Sampler sampler(static_cast<int32_t>(logits.size()), {});
  std::map<int32_t, int> counts;
  Sample sample;
  const std::vector<int32_t> prompt = {0};
  for (int i = 0; i < draws; ++i) {
    params.seed = i;
    EXPECT_TRUE(sampler
                    .Run({.logits = logits,
                          .params = params,
                          .prompt_ids = prompt,
                          .output_ids = {},
                          .choice = 0},
                         &sample)
                    .ok());
    ++counts[sample.token_id];
  }
  return counts;
}

std::vector<int32_t> Keys(const std::map<int32_t, int>& counts) {
  std::vector<int32_t> keys;
  for (const auto& [key, unused] : counts) keys.push_back(key);
  return keys;
}

// Logits whose softmax at temperature 1 is `probabilities`, up to rounding.
std::vector<float> Logits(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

TEST(SamplerTest, GreedyTakesTheLowestIdOfTheLargest) {
  EXPECT_EQ(Greedy({1, 3, 2, 3}), 1);
  EXPECT_EQ(Greedy({-5, -4, -4}), 1);
  EXPECT_EQ(Greedy({-0.0f, 0.0f}), 0);  // equal
  EXPECT_EQ(Greedy({-1.0f, -0.0f, 0.0f}), 1);
  EXPECT_EQ(Greedy({-kInfinity, -3e38f}), 1);
  std::vector<float> long_row(10000, -1.0f);
  long_row[2048] = long_row[4100] = long_row[9999] = 2.0f;
  EXPECT_EQ(Greedy(long_row), 2048);
}

TEST(SamplerTest, LogitsThatAreNoNumbersAreInternalErrors) {
  const float nan = std::nanf("");
  for (const std::vector<float>& logits :
       {std::vector<float>{1, nan, 2}, {1, -nan, 2}, {1, kInfinity}, {-kInfinity, -kInfinity}}) {
    for (const float temperature : {0.0f, 1.0f}) {
      const auto sample = SampleOnce(logits, {.temperature = temperature});
      EXPECT_EQ(sample.status().code(), absl::StatusCode::kInternal);
      EXPECT_THAT(std::string(sample.status().message()), HasSubstr("NAN_LOGITS"));
    }
  }
  // A bias cannot hide the model's NaN.
  EXPECT_EQ(SampleOnce({nan, 1}, {.logit_bias = {{0, -kInfinity}}}).status().code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(SampleOnce({1, 1}, {.logit_bias = {{0, -kInfinity}, {1, -kInfinity}}}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(SamplerTest, LogitBias) {
  EXPECT_EQ(Greedy({1, 2, 3}, {.logit_bias = {{0, 5.0f}}}), 0);
  EXPECT_EQ(Greedy({1, 2, 3}, {.logit_bias = {{2, -kInfinity}}}), 1);
  EXPECT_EQ(Greedy({1, 2, 3}, {.logit_bias = {{2, -1.0f}}}), 1);  // a tie
}

TEST(SamplerTest, RepetitionPenaltyDividesPositiveAndMultipliesNegative) {
  // 4 / 2 = 2 < 3: seen in the prompt, once however often.
  EXPECT_EQ(Greedy({4, 3, 0}, {.repetition_penalty = 2.0f}, {0, 0, 0}), 1);
  EXPECT_EQ(Greedy({4, 1.5f, 0}, {.repetition_penalty = 2.0f}, {0, 0, 0}), 0);
  EXPECT_EQ(Greedy({4, 3, 0}, {.repetition_penalty = 2.0f}, {2}, {0}), 1);
  // -1 * 2 = -2 < -1.5.
  EXPECT_EQ(Greedy({-1, -1.5f}, {.repetition_penalty = 2.0f}, {0}), 1);
}

TEST(SamplerTest, FrequencyAndPresencePenaltiesCountTheOutput) {
  // 3 - 2 * 0.5 - 0.5 = 1.5 against 1.6; the prompt does not count.
  const SamplingParams params{.presence_penalty = 0.5f, .frequency_penalty = 0.5f};
  EXPECT_EQ(Greedy({3, 1.6f, 0}, params, {0, 0, 0}, {0, 0}), 1);
  EXPECT_EQ(Greedy({3, 1.6f, 0}, params, {0, 0, 0}, {0}), 0);
  EXPECT_EQ(Greedy({3, 1.4f, 0}, params, {0}, {0, 0}), 0);
  // A negative penalty favours what is there.
  EXPECT_EQ(Greedy({3, 2.8f, 0}, {.presence_penalty = -0.5f}, {0}, {1}), 1);
}

TEST(SamplerTest, PenaltiesFollowTheirFormulas) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 3);
  Sampler sampler(50, {});
  for (int round = 0; round < 200; ++round) {
    std::vector<float> logits(50), expected;
    for (float& x : logits) x = normal(random);
    std::vector<int32_t> prompt(10), output(random() % 30);
    for (int32_t& id : prompt) id = static_cast<int32_t>(random() % 50);
    for (int32_t& id : output) id = static_cast<int32_t>(random() % 50);
    const SamplingParams params{.temperature = 0.0f,
                                .repetition_penalty = 1.3f,
                                .presence_penalty = 0.4f,
                                .frequency_penalty = 0.2f,
                                .logit_bias = {{7, 1.5f}}};
    expected = logits;
    expected[7] += 1.5f;
    for (int32_t id = 0; id < 50; ++id) {
      const auto in_output = std::count(output.begin(), output.end(), id);
      if (in_output + std::count(prompt.begin(), prompt.end(), id) > 0) {
        expected[id] = expected[id] > 0 ? expected[id] / 1.3f : expected[id] * 1.3f;
      }
      expected[id] -= static_cast<float>(in_output) * 0.2f;
      if (in_output > 0) expected[id] -= 0.4f;
    }
    Sample sample;
    ASSERT_TRUE(sampler
                    .Run({.logits = logits,
                          .params = params,
                          .prompt_ids = prompt,
                          .output_ids = output,
                          .choice = 0},
                         &sample)
                    .ok());
    EXPECT_EQ(sample.token_id,
              std::max_element(expected.begin(), expected.end()) - expected.begin());
  }
}

TEST(SamplerTest, MinTokensBansStopIds) {
  const SamplingParams params{.min_tokens = 2, .stop_token_ids = {1}};
  EXPECT_EQ(Greedy({1, 3, 2}, params, {0}, {0}, {2}), 0);     // 1 and 2 are banned
  EXPECT_EQ(Greedy({1, 3, 2}, params, {0}, {0, 0}, {2}), 1);  // long enough
  SamplingParams ignore = params;
  ignore.ignore_eos = true;
  EXPECT_EQ(Greedy({1, 3, 2}, ignore, {0}, {0}, {2}), 2);
}

TEST(SamplerTest, StopIds) {
  const Sampler sampler(10, {4});
  EXPECT_TRUE(sampler.IsStop(4, {}));
  EXPECT_FALSE(sampler.IsStop(4, {.ignore_eos = true}));
  EXPECT_TRUE(sampler.IsStop(4, {.stop_token_ids = {4}, .ignore_eos = true}));
  EXPECT_FALSE(sampler.IsStop(5, {}));
}

TEST(SamplerTest, TopKKeepsExactlyKWithTiesToTheLowestId) {
  EXPECT_THAT(Keys(Counts({1, 1, 1, 1}, {.top_k = 2}, 200)), ElementsAre(0, 1));
  EXPECT_THAT(Keys(Counts({1, 2, 1, 1}, {.top_k = 2}, 200)), ElementsAre(0, 1));
  EXPECT_THAT(Keys(Counts({0, 0, 1, 1}, {.top_k = 3}, 200)), ElementsAre(0, 2, 3));
  EXPECT_THAT(Keys(Counts({0, 3, 1, 2}, {.top_k = 1}, 50)), ElementsAre(1));
}

TEST(SamplerTest, TopPKeepsTheShortestPrefixThatReachesIt) {
  // Powers of two are exact: 1/2, 1/4, 1/8, 1/8 in another order.
  const auto ln2 = static_cast<float>(std::log(2.0));
  const std::vector<float> flat = {0, 0, 0, 0};
  EXPECT_THAT(Keys(Counts(flat, {.top_p = 0.5f}, 200)), ElementsAre(0, 1));
  EXPECT_THAT(Keys(Counts(flat, {.top_p = 0.51f}, 200)), ElementsAre(0, 1, 2));
  EXPECT_THAT(Keys(Counts(flat, {.top_p = 0.01f}, 50)), ElementsAre(0));
  const std::vector<float> logits = {-2 * ln2, -3 * ln2, -ln2, -3 * ln2};
  EXPECT_THAT(Keys(Counts(logits, {.top_p = 0.4f}, 200)), ElementsAre(2));
  EXPECT_THAT(Keys(Counts(logits, {.top_p = 0.6f}, 200)), ElementsAre(0, 2));
  EXPECT_THAT(Keys(Counts(logits, {.top_p = 0.8f}, 200)), ElementsAre(0, 1, 2));
  EXPECT_THAT(Keys(Counts(logits, {.top_p = 0.9f}, 400)), ElementsAre(0, 1, 2, 3));
  // After top_k 2 the rest is 2/3 and 1/3.
  EXPECT_THAT(Keys(Counts(logits, {.top_k = 2, .top_p = 0.66f}, 200)), ElementsAre(2));
  EXPECT_THAT(Keys(Counts(logits, {.top_k = 2, .top_p = 0.67f}, 200)), ElementsAre(0, 2));
}

TEST(SamplerTest, MinPIsRelativeToTheLikeliest) {
  const std::vector<float> logits = Logits({0.5, 0.3, 0.15, 0.05});
  EXPECT_THAT(Keys(Counts(logits, {.min_p = 0.5f}, 200)), ElementsAre(0, 1));
  EXPECT_THAT(Keys(Counts(logits, {.min_p = 0.25f}, 400)), ElementsAre(0, 1, 2));
  EXPECT_THAT(Keys(Counts(logits, {.min_p = 1.0f}, 50)), ElementsAre(0));
  EXPECT_THAT(Keys(Counts(logits, {.top_p = 0.9f, .min_p = 0.5f}, 200)), ElementsAre(0, 1));
}

// Chi-squared against the exact distribution; the bound is the 0.999 quantile
// for 7 degrees of freedom, and the draws are fixed.
TEST(SamplerTest, FrequenciesFollowTheDistribution) {
  const std::vector<double> base = {0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.04, 0.01};
  for (const float temperature : {1.0f, 0.5f, 2.0f}) {
    std::vector<double> expected;
    for (const double p : base) expected.push_back(std::pow(p, 1.0 / temperature));
    const double sum = std::accumulate(expected.begin(), expected.end(), 0.0);
    constexpr int kDraws = 100000;
    auto counts = Counts(Logits(base), {.temperature = temperature}, kDraws);
    double chi = 0;
    for (int32_t id = 0; id < 8; ++id) {
      const double e = expected[id] / sum * kDraws;
      chi += (counts[id] - e) * (counts[id] - e) / e;
    }
    EXPECT_LT(chi, 24.32) << temperature;
  }
}

TEST(SamplerTest, DrawsOfPositionsAndChoicesAreIndependent) {
  // One seed, many positions and choices: uniform over 16 ids, and successive
  // pairs uniform over 256 (0.999 quantiles for 15 and 255 degrees of freedom).
  Sampler sampler(16, {});
  const std::vector<float> logits(16, 0.0f);
  const SamplingParams params{.seed = 12345};
  std::vector<int32_t> tokens(4000, 0);
  std::vector<int> single(16), pairs(256);
  Sample sample;
  for (int32_t choice = 0; choice < 8; ++choice) {
    int32_t last = -1;
    for (size_t position = 1; position < tokens.size(); ++position) {
      ASSERT_TRUE(sampler
                      .Run({.logits = logits,
                            .params = params,
                            .prompt_ids = std::span(tokens).first(position),
                            .output_ids = {},
                            .choice = choice},
                           &sample)
                      .ok());
      ++single[sample.token_id];
      if (last >= 0) ++pairs[last * 16 + sample.token_id];
      last = sample.token_id;
    }
  }
  const auto chi = [](const std::vector<int>& counts) {
    const double e = std::accumulate(counts.begin(), counts.end(), 0.0) / counts.size();
    double sum = 0;
    for (const int count : counts) sum += (count - e) * (count - e) / e;
    return sum;
  };
  EXPECT_LT(chi(single), 37.7);
  EXPECT_LT(chi(pairs), 330.5);
}

// The whole definition, written the slow way: a full sort and sums in order.
int32_t Slow(const std::vector<float>& logits, const SamplingParams& params, uint32_t position,
             uint32_t choice) {
  const auto vocab = static_cast<int32_t>(logits.size());
  const float largest = *std::max_element(logits.begin(), logits.end());
  std::vector<uint64_t> weights;
  for (const float x : logits) {
    const double e = std::exp((double(x) - double(largest)) / double(params.temperature));
    weights.push_back(static_cast<uint64_t>(std::nearbyint(e * 0x1p44)));
  }
  std::vector<int32_t> order(vocab);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (params.top_k > 0 && params.top_k < vocab) order.resize(params.top_k);
  uint64_t total = 0;
  for (const int32_t id : order) total += weights[id];
  if (params.top_p < 1.0f) {
    uint64_t mass = 0;
    size_t count = 0;
    while (mass < std::ceil(double(params.top_p) * double(total))) mass += weights[order[count++]];
    order.resize(count);
  }
  std::erase_if(order, [&](int32_t id) { return weights[id] < double(params.min_p) * 0x1p44; });
  std::sort(order.begin(), order.end());
  total = 0;
  for (const int32_t id : order) total += weights[id];
  const auto r = Philox4x32({position, choice, 0, 0}, {static_cast<uint32_t>(params.seed),
                                                       static_cast<uint32_t>(params.seed >> 32)});
  const uint64_t uniform = (uint64_t{r[1]} << 32) | r[0];
  auto rest = static_cast<uint64_t>((static_cast<unsigned __int128>(uniform) * total) >> 64);
  for (const int32_t id : order) {
    if (rest < weights[id]) return id;
    rest -= weights[id];
  }
  return -1;
}

TEST(SamplerTest, ShortcutsAgreeWithTheDefinition) {
  std::mt19937_64 random(17);
  for (int round = 0; round < 600; ++round) {
    const int32_t vocab = round % 3 == 0 ? 5000 : 1 + static_cast<int32_t>(random() % 300);
    std::normal_distribution<float> normal(0, round % 2 == 0 ? 0.3f : 4.0f);
    std::vector<float> logits(vocab);
    for (float& x : logits) x = normal(random);
    if (round % 4 == 1) {  // many ties
      for (float& x : logits) x = std::round(x);
    }
    if (round % 5 == 1 && vocab > 1) logits[random() % vocab] = -kInfinity;
    const float fractions[] = {1.0f, 0.95f, 0.5f, 0.01f, 0.9999999f};
    SamplingParams params{.temperature = random() % 2 == 0 ? 1.0f : 0.7f,
                          .top_k = random() % 2 == 0 ? 0 : static_cast<int32_t>(random() % vocab),
                          .top_p = fractions[random() % 5],
                          .min_p = random() % 3 == 0 ? 0.07f : 0.0f,
                          .seed = random()};
    std::vector<int32_t> prompt(1 + random() % 100, 0);
    const auto choice = static_cast<int32_t>(random() % 4);
    const auto sample = SampleOnce(logits, params, prompt, {}, choice);
    ASSERT_TRUE(sample.ok());
    ASSERT_EQ(sample->token_id, Slow(logits, params, prompt.size(), choice))
        << "round " << round << " vocab " << vocab << " top_k " << params.top_k << " top_p "
        << params.top_p << " min_p " << params.min_p;
  }
}

TEST(SamplerTest, ADrawDependsOnThePositionNotOnWhereThePromptEnds) {
  const std::vector<float> logits(100, 0.0f);
  const SamplingParams params{.seed = 9};
  const auto a = SampleOnce(logits, params, {1, 2, 3}, {4, 5});
  const auto b = SampleOnce(logits, params, {1, 2, 3, 4, 5}, {});
  EXPECT_EQ(a->token_id, b->token_id);
}

TEST(SamplerTest, ATinyTemperatureIsGreedy) {
  EXPECT_THAT(Keys(Counts({1, 1.001f, 0.5f}, {.temperature = 1e-30f}, 50)), ElementsAre(1));
}

TEST(SamplerTest, LogprobsAreTheRawSoftmax) {
  const std::vector<double> p = {0.1, 0.2, 0.4, 0.3};
  // Bias and temperature choose the token and leave the logprobs alone.
  const auto sample =
      SampleOnce(Logits(p), {.temperature = 0.0f, .logit_bias = {{0, 10.0f}}, .logprobs = 2});
  ASSERT_TRUE(sample.ok());
  EXPECT_EQ(sample->token_id, 0);
  EXPECT_NEAR(sample->logprob, std::log(0.1), 1e-6);
  ASSERT_EQ(sample->top_logprobs.size(), 2u);
  EXPECT_EQ(sample->top_logprobs[0].token_id, 2);
  EXPECT_NEAR(sample->top_logprobs[0].logprob, std::log(0.4), 1e-6);
  EXPECT_EQ(sample->top_logprobs[1].token_id, 3);
  EXPECT_NEAR(sample->top_logprobs[1].logprob, std::log(0.3), 1e-6);
}

TEST(SamplerTest, LogprobsEdges) {
  // 0 alternatives: the chosen one alone. Ties list the lowest id first, more
  // alternatives than ids list all, and minus infinity stays.
  EXPECT_TRUE(SampleOnce({1, 2}, {.temperature = 0, .logprobs = 0})->top_logprobs.empty());
  const auto sample = SampleOnce({0, 0, -kInfinity}, {.temperature = 0, .logprobs = 3});
  ASSERT_EQ(sample->top_logprobs.size(), 3u);
  EXPECT_EQ(sample->top_logprobs[0].token_id, 0);
  EXPECT_EQ(sample->top_logprobs[1].token_id, 1);
  EXPECT_NEAR(sample->top_logprobs[1].logprob, std::log(0.5), 1e-7);
  EXPECT_EQ(sample->top_logprobs[2].logprob, -kInfinity);
  // Large logits do not overflow; 3000 equal ids are log 1/3000 each.
  const auto flat = SampleOnce(std::vector<float>(3000, 1e30f), {.temperature = 0, .logprobs = 1});
  EXPECT_NEAR(flat->logprob, -std::log(3000.0), 1e-6);
}

TEST(SamplingParamsTest, RefusesWhatIsOutOfRange) {
  const float nan = std::nanf("");
  const auto ok = [](const SamplingParams& params) {
    return ValidateSamplingParams(params, 100).ok();
  };
  EXPECT_TRUE(ok({}));
  EXPECT_TRUE(ok({.logit_bias = {{99, -100}}}));
  EXPECT_FALSE(ok({.logit_bias = {{99, -kInfinity}}}));
  EXPECT_FALSE(ok({.temperature = -1}));
  EXPECT_FALSE(ok({.temperature = nan}));
  EXPECT_FALSE(ok({.temperature = 101}));
  EXPECT_FALSE(ok({.temperature = kInfinity}));
  EXPECT_FALSE(ok({.top_k = -1}));
  EXPECT_FALSE(ok({.top_p = 0}));
  EXPECT_FALSE(ok({.top_p = 1.1f}));
  EXPECT_FALSE(ok({.top_p = nan}));
  EXPECT_FALSE(ok({.min_p = 2}));
  EXPECT_FALSE(ok({.repetition_penalty = 0}));
  EXPECT_FALSE(ok({.presence_penalty = kInfinity}));
  EXPECT_FALSE(ok({.frequency_penalty = nan}));
  EXPECT_FALSE(ok({.logit_bias = {{100, 1}}}));
  EXPECT_FALSE(ok({.logit_bias = {{-1, 1}}}));
  EXPECT_FALSE(ok({.logit_bias = {{1, nan}}}));
  EXPECT_FALSE(ok({.max_tokens = 0}));
  EXPECT_FALSE(ok({.max_tokens = 3, .min_tokens = 4}));
  EXPECT_FALSE(ok({.stop_token_ids = {100}}));
  EXPECT_FALSE(ok({.n = 0}));
  EXPECT_FALSE(ok({.logprobs = -2}));
  EXPECT_FALSE(ok({.logprobs = 21}));
}

}  // namespace
}  // namespace tandem::engine
