// What the sampler chooses from ranks' surveys of a row is what it chooses from the row, token
// for token.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "runtime/engine/sampler.h"
#include "tests/runtime/engine/ref_survey.h"

namespace tandem::engine {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> MakeRow(int32_t vocab, std::mt19937& random) {
  const float deviation = std::vector{0.01f, 0.5f, 2.0f, 6.0f, 40.0f}[random() % 5];
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> row(vocab);
  for (float& logit : row) logit = normal(random) - 3.0f;
  switch (random() % 8) {
    case 0:  // ties
      for (float& logit : row) logit = std::round(logit);
      break;
    case 1:  // all alike
      std::fill(row.begin(), row.end(), row[0]);
      break;
    case 2:
      for (float& logit : row) logit = random() % 2 == 0 ? -kInfinity : logit;
      row[random() % vocab] = 1.0f;
      break;
    case 3:  // both zeros
      for (float& logit : row) logit = random() % 2 == 0 ? -0.0f : 0.0f;
      break;
    case 4:  // the rest is far below
      for (float& logit : row) logit = random() % 20 == 0 ? logit : -1e30f;
      row[random() % vocab] = 2.0f;
      break;
    default:
      break;
  }
  return row;
}

SamplingParams MakeParams(int32_t vocab, std::mt19937& random) {
  SamplingParams params;
  params.temperature = std::vector{0.0f, 0.6f, 1.0f, 1.0f, 3.0f, 1e-40f, 1e30f}[random() % 7];
  params.top_k = std::vector{0, 0, 1, 20, 50, vocab}[random() % 6];
  params.top_p = std::vector{1.0f, 1.0f, 0.95f, 0.9f, 0.5f, 1e-30f, 0.9999999f}[random() % 7];
  params.min_p = std::vector{0.0f, 0.0f, 0.05f, 1.0f}[random() % 4];
  params.seed = random();
  return params;
}

std::vector<int32_t> MakeCuts(int32_t vocab, std::mt19937& random) {
  std::vector<int32_t> cuts = {0, vocab};
  for (unsigned more = random() % 4; more > 0; --more) {
    cuts.push_back(static_cast<int32_t>(random() % (vocab + 1)));  // a rank may have none
  }
  std::sort(cuts.begin(), cuts.end());
  return cuts;
}

TEST(SamplerSurvey, ChoosesWhatTheRowGives) {
  std::mt19937 random(17);
  int chosen = 0, left = 0, whole = 0;
  for (int round = 0; round < 20000; ++round) {
    SCOPED_TRACE(round);
    const int32_t vocab = std::vector{1, 5, 64, 300, 1000}[random() % 5];
    const std::vector<float> row = MakeRow(vocab, random);
    const SamplingParams params = MakeParams(vocab, random);
    const std::vector<int32_t> prompt(1 + random() % 3, 0), output(random() % 3, 0);
    const SampleInput input = {.logits = row,
                               .params = params,
                               .prompt_ids = prompt,
                               .output_ids = output,
                               .choice = static_cast<int32_t>(random() % 2)};
    Sampler sampler(vocab, {});
    Sample expected;
    ASSERT_TRUE(sampler.Run(input, &expected).ok());
    RefSurvey survey(MakeCuts(vocab, random), std::vector{1, 32, 128}[random() % 3]);
    const kernels::SampleRequest request = sampler.MakeRequest(input, survey.list_size());
    if (request.kind == kernels::SampleKind::kWhole) {
      EXPECT_GT(params.top_k, survey.list_size());
      ++whole;
      continue;
    }
    survey.Run(row, {request});
    const int32_t found = sampler.Choose(input, survey.Of(0));
    if (found < 0) {
      EXPECT_TRUE(params.top_k > 0 || params.top_p < 1);
      ++left;
      continue;
    }
    ASSERT_EQ(found, expected.token_id)
        << "temperature " << params.temperature << " top_k " << params.top_k << " top_p "
        << params.top_p << " min_p " << params.min_p << " vocab " << vocab;
    ++chosen;
  }
  EXPECT_GT(chosen, 12000);
  EXPECT_GT(left, 100);
  EXPECT_GT(whole, 100);
}

// Rows as language models have them need no more than the candidates.
TEST(SamplerSurvey, CandidatesSufficeForUsualSettings) {
  std::mt19937 random(3);
  const int32_t vocab = 8000;
  RefSurvey survey({0, 2000, 4000, 6000, 8000}, 256);
  Sampler sampler(vocab, {});
  const SamplingParams usual[] = {{.temperature = 0.6f, .top_p = 0.95f},
                                  {.temperature = 0.6f, .top_p = 0.9f},
                                  {.temperature = 0.6f, .top_k = 20, .top_p = 0.95f},
                                  {.temperature = 0.7f, .top_k = 50},
                                  {.temperature = 1.0f, .min_p = 0.05f},
                                  {.temperature = 1.0f},
                                  {.temperature = 0.0f}};
  for (int round = 0; round < 10; ++round) {
    std::vector<float> row(vocab);  // probability falls as rank^-1.5
    for (int32_t i = 0; i < vocab; ++i) row[i] = -1.5f * std::log(static_cast<float>(i) + 1);
    std::shuffle(row.begin(), row.end(), random);
    for (const SamplingParams& params : usual) {
      const std::vector<int32_t> prompt = {round};
      const SampleInput input = {
          .logits = row, .params = params, .prompt_ids = prompt, .output_ids = {}, .choice = 0};
      Sample expected;
      ASSERT_TRUE(sampler.Run(input, &expected).ok());
      survey.Run(row, {sampler.MakeRequest(input, survey.list_size())});
      EXPECT_EQ(sampler.Choose(input, survey.Of(0)), expected.token_id);
    }
  }
}

TEST(SamplerSurvey, RowsThatTheHostMustChangeComeWhole) {
  Sampler sampler(100, {7});
  const std::vector<int32_t> prompt = {1};
  const auto kind = [&](const SamplingParams& params) {
    return sampler
        .MakeRequest({.logits = {}, .params = params, .prompt_ids = prompt, .output_ids = {}}, 50)
        .kind;
  };
  using kernels::SampleKind;
  EXPECT_EQ(kind({.temperature = 0}), SampleKind::kLargest);
  EXPECT_EQ(kind({}), SampleKind::kDraw);
  EXPECT_EQ(kind({.top_k = 100}), SampleKind::kDraw);
  EXPECT_EQ(kind({.top_k = 50}), SampleKind::kCandidates);
  EXPECT_EQ(kind({.top_k = 51}), SampleKind::kWhole);
  EXPECT_EQ(kind({.top_p = 0.9f}), SampleKind::kNucleus);
  EXPECT_EQ(kind({.repetition_penalty = 1.1f}), SampleKind::kWhole);
  EXPECT_EQ(kind({.presence_penalty = 0.1f}), SampleKind::kWhole);
  EXPECT_EQ(kind({.frequency_penalty = 0.1f}), SampleKind::kWhole);
  EXPECT_EQ(kind({.logit_bias = {{1, 1.0f}}}), SampleKind::kWhole);
  EXPECT_EQ(kind({.min_tokens = 1}), SampleKind::kWhole);
  EXPECT_EQ(kind({.logprobs = 0}), SampleKind::kWhole);
  EXPECT_EQ(kind({.logits_hash = true}), SampleKind::kWhole);
}

TEST(SamplerSurvey, LogitsThatAreNoNumbersAreLeftToTheRow) {
  const float nan = std::nanf("");
  for (const std::vector<float>& row : {std::vector<float>{1, 2, nan},
                                        {-nan, 1, 2},
                                        {1, kInfinity, 0},
                                        {-kInfinity, -kInfinity, -kInfinity}}) {
    for (const SamplingParams& params :
         {SamplingParams{.temperature = 0}, {}, {.top_k = 2}, {.top_p = 0.5f}}) {
      Sampler sampler(3, {});
      const std::vector<int32_t> prompt = {1};
      const SampleInput input = {
          .logits = row, .params = params, .prompt_ids = prompt, .output_ids = {}};
      RefSurvey survey({0, 1, 3}, 8);
      survey.Run(row, {sampler.MakeRequest(input, 8)});
      EXPECT_EQ(sampler.Choose(input, survey.Of(0)), -1);
    }
  }
}

}  // namespace
}  // namespace tandem::engine
