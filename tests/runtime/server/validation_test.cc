#include "runtime/server/validation.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/server/sampling_proto.h"

namespace tandem::server {
namespace {

using engine::SamplingRequest;
using ::testing::HasSubstr;

constexpr engine::EngineLimits kLimits{/*vocab_size=*/100, /*max_model_len=*/50, /*max_queue=*/8};

absl::StatusOr<engine::SamplingParams> Make(const SamplingRequest& request,
                                            const SamplingRequest& defaults = {}) {
  return MakeSampling(request, defaults, kLimits, /*prompt_tokens=*/10, /*fresh_seed=*/77);
}

std::string Refusal(const SamplingRequest& request) {
  const auto made = Make(request);
  EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(made.status().message());
}

TEST(MakeSamplingTest, BuiltInDefaults) {
  const auto made = Make({});
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->temperature, 1.0f);
  EXPECT_EQ(made->top_k, 0);
  EXPECT_EQ(made->top_p, 1.0f);
  EXPECT_EQ(made->seed, 77u);
  EXPECT_EQ(made->max_tokens, 40);  // what the context leaves
}

TEST(MakeSamplingTest, TheRequestWinsOverTheModelsDefaults) {
  const SamplingRequest defaults{
      .temperature = 0.6f, .top_k = 20, .top_p = 0.95f, .min_p = 0.1f, .repetition_penalty = 1.2f};
  const auto suggested = Make({}, defaults);
  ASSERT_TRUE(suggested.ok());
  EXPECT_EQ(suggested->temperature, 0.6f);
  EXPECT_EQ(suggested->top_k, 20);
  EXPECT_EQ(suggested->top_p, 0.95f);
  EXPECT_EQ(suggested->min_p, 0.1f);
  EXPECT_EQ(suggested->repetition_penalty, 1.2f);

  SamplingRequest request;
  request.temperature = 0.0f;
  request.top_k = 0;
  request.top_p = 1.0f;
  request.seed = -1;
  request.max_tokens = 3;
  request.stop_token_ids = {0, 99};
  const auto asked = Make(request, defaults);
  ASSERT_TRUE(asked.ok());
  EXPECT_EQ(asked->temperature, 0.0f);
  EXPECT_EQ(asked->top_k, 0);
  EXPECT_EQ(asked->top_p, 1.0f);
  EXPECT_EQ(asked->seed, std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(asked->max_tokens, 3);
  EXPECT_EQ(asked->stop_token_ids, (std::vector<int32_t>{0, 99}));
}

TEST(MakeSamplingTest, MaxTokensIsCutToTheContext) {
  SamplingRequest request;
  request.max_tokens = std::numeric_limits<int32_t>::max();
  EXPECT_EQ(Make(request)->max_tokens, 40);
}

TEST(MakeSamplingTest, RefusalsNameFieldFoundAndRange) {
  SamplingRequest request;
  for (const float bad : {-0.1f, 100.5f, std::nanf(""), INFINITY}) {
    request = {};
    request.temperature = bad;
    EXPECT_THAT(Refusal(request), HasSubstr("sampling.temperature: "));
    EXPECT_THAT(Refusal(request), HasSubstr("allowed: 0 to 100"));
  }
  request = {};
  request.top_k = -5;
  EXPECT_EQ(Refusal(request), "sampling.top_k: -5, allowed: 0 (off) or more");
  for (const float bad : {0.0f, -1.0f, 1.5f, std::nanf("")}) {
    request = {};
    request.top_p = bad;
    EXPECT_THAT(Refusal(request), HasSubstr("sampling.top_p: "));
  }
  request = {};
  request.max_tokens = 0;
  EXPECT_EQ(Refusal(request), "sampling.max_tokens: 0, allowed: 1 or more");
  request = {};
  request.stop_token_ids = {3, 100};
  EXPECT_EQ(Refusal(request), "sampling.stop_token_ids[1]: 100, allowed: 0 to 99 (the vocabulary)");
  request = {};
  request.stop_token_ids.assign(257, 1);
  EXPECT_EQ(Refusal(request), "sampling.stop_token_ids: 257, allowed: at most 256 ids");
}

TEST(MakeSamplingTest, PenaltiesBiasesAndMinimum) {
  v1::SamplingParams message;
  message.set_min_p(0.5f);
  message.set_repetition_penalty(1.5f);
  message.set_presence_penalty(-2.0f);
  message.set_frequency_penalty(2.0f);
  (*message.mutable_logit_bias())[7] = -100.0f;
  (*message.mutable_logit_bias())[3] = 1.0f;
  message.set_min_tokens(40);
  message.set_ignore_eos(true);
  const auto made = Make(SamplingFromProto(message), {.min_p = 0.1f, .repetition_penalty = 1.2f});
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->min_p, 0.5f);
  EXPECT_EQ(made->repetition_penalty, 1.5f);
  EXPECT_EQ(made->presence_penalty, -2.0f);
  EXPECT_EQ(made->frequency_penalty, 2.0f);
  EXPECT_EQ(made->logit_bias, (std::vector<std::pair<int32_t, float>>{{3, 1.0f}, {7, -100.0f}}));
  EXPECT_EQ(made->min_tokens, 40);
  EXPECT_TRUE(made->ignore_eos);
}

TEST(MakeSamplingTest, RefusalsOfPenaltiesBiasesAndMinimum) {
  const auto refused = [](auto member, auto value) {
    SamplingRequest request;
    request.*member = value;
    return Refusal(request);
  };
  EXPECT_EQ(refused(&SamplingRequest::min_p, 1.5f), "sampling.min_p: 1.5, allowed: 0 (off) to 1");
  EXPECT_EQ(refused(&SamplingRequest::repetition_penalty, 0.0f),
            "sampling.repetition_penalty: 0, allowed: above 0, at most 100 (1 is off)");
  EXPECT_EQ(refused(&SamplingRequest::presence_penalty, 2.5f),
            "sampling.presence_penalty: 2.5, allowed: -2 to 2");
  EXPECT_THAT(refused(&SamplingRequest::frequency_penalty, std::nanf("")),
              HasSubstr("sampling.frequency_penalty: nan"));
  EXPECT_EQ(refused(&SamplingRequest::min_tokens, 41),
            "sampling.min_tokens: 41, allowed: 0 to 40 (max_tokens and the context)");
  SamplingRequest request;
  request.logit_bias = {{100, 1.0f}};
  EXPECT_EQ(Refusal(request), "sampling.logit_bias: 100, allowed: ids 0 to 99 (the vocabulary)");
  request.logit_bias = {{5, 101.0f}};
  EXPECT_EQ(Refusal(request), "sampling.logit_bias[5]: 101, allowed: -100 to 100");
  for (int32_t id = 0; id < 1025; ++id) request.logit_bias[id] = 0.0f;
  EXPECT_EQ(Refusal(request), "sampling.logit_bias: 1025, allowed: at most 1024 ids");
}

TEST(CheckPromptTest, LengthAndRange) {
  EXPECT_TRUE(CheckPrompt(std::vector<int32_t>(49, 1), kLimits).ok());
  EXPECT_EQ(CheckPrompt(std::vector<int32_t>(50, 1), kLimits).message(),
            "prompt: 50 tokens, allowed: at most 49 (the context is 50 tokens)");
  EXPECT_EQ(CheckPrompt({}, kLimits).message(), "prompt: empty, allowed: at least 1 token");
  EXPECT_EQ(CheckPrompt(std::vector<int32_t>{1, -1}, kLimits).message(),
            "prompt.token_ids[1]: -1, allowed: 0 to 99 (the vocabulary)");
  EXPECT_EQ(CheckPrompt(std::vector<int32_t>{100}, kLimits).message(),
            "prompt.token_ids[0]: 100, allowed: 0 to 99 (the vocabulary)");
}

TEST(FreshSeedTest, Differs) { EXPECT_NE(FreshSeed(), FreshSeed()); }

TEST(DefaultsOfTest, CustomaryValuesOfGenerationConfig) {
  loader::GenerationConfig config;
  config.top_p = 0;
  config.top_k = -1;
  const auto made = Make({}, DefaultsOf(config));
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->top_k, 0);
  EXPECT_GT(made->top_p, 0);
  EXPECT_LT(made->top_p, 1e-30f);  // the most probable token alone is left
}

}  // namespace
}  // namespace tandem::server
