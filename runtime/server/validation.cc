#include "runtime/server/validation.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "runtime/server/status_details.h"

namespace tandem::server {
namespace {

constexpr float kMaxTemperature = 100.0f;
constexpr float kMaxRepetitionPenalty = 100.0f;
constexpr float kMaxPenalty = 2.0f;
constexpr float kMaxBias = 100.0f;

template <typename T>
absl::Status OutOfRange(absl::string_view field, T found, absl::string_view allowed) {
  return FieldError(std::string(field), absl::StrCat(found, ", allowed: ", allowed));
}

}  // namespace

SamplingRequest SamplingFromProto(const v1::SamplingParams& params) {
  SamplingRequest request;
  if (params.has_temperature()) request.temperature = params.temperature();
  if (params.has_top_k()) request.top_k = params.top_k();
  if (params.has_top_p()) request.top_p = params.top_p();
  if (params.has_seed()) request.seed = params.seed();
  if (params.has_max_tokens()) request.max_tokens = params.max_tokens();
  request.stop_token_ids.assign(params.stop_token_ids().begin(), params.stop_token_ids().end());
  if (params.has_min_p()) request.min_p = params.min_p();
  if (params.has_repetition_penalty()) request.repetition_penalty = params.repetition_penalty();
  if (params.has_presence_penalty()) request.presence_penalty = params.presence_penalty();
  if (params.has_frequency_penalty()) request.frequency_penalty = params.frequency_penalty();
  request.logit_bias.assign(params.logit_bias().begin(), params.logit_bias().end());
  // A map comes in any order, but the same mistake should get the same message.
  std::sort(request.logit_bias.begin(), request.logit_bias.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  if (params.has_min_tokens()) request.min_tokens = params.min_tokens();
  request.ignore_eos = params.ignore_eos();
  if (params.has_n()) request.n = params.n();
  request.stop.assign(params.stop().begin(), params.stop().end());
  request.include_stop = params.include_stop();
  if (params.has_logprobs()) request.logprobs = params.logprobs();
  return request;
}

absl::Status CheckTokenIds(std::span<const int32_t> ids, int32_t vocab_size, const char* field) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      return OutOfRange(absl::StrCat(field, "[", i, "]"), ids[i],
                        absl::StrCat("0 to ", vocab_size - 1, " (the vocabulary)"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPrompt(std::span<const int32_t> prompt_ids, const engine::EngineLimits& limits) {
  if (prompt_ids.empty()) {
    return FieldError("prompt", "empty, allowed: at least 1 token");
  }
  // Length first: it is the cheaper check and the commoner mistake.
  const auto size = static_cast<int64_t>(prompt_ids.size());
  if (size >= limits.max_model_len) {
    return FieldError("prompt",
                      absl::StrCat(size, " tokens, allowed: at most ", limits.max_model_len - 1,
                                   " (the context is ", limits.max_model_len, " tokens)"));
  }
  return CheckTokenIds(prompt_ids, limits.vocab_size, "prompt.token_ids");
}

absl::StatusOr<engine::SamplingParams> MakeSampling(const SamplingRequest& request,
                                                    const SamplingDefaults& defaults,
                                                    const engine::EngineLimits& limits,
                                                    int64_t prompt_tokens, uint64_t fresh_seed) {
  engine::SamplingParams params;
  const auto choose = [](const auto& asked, const auto& suggested, auto built_in) {
    return asked.has_value() ? *asked : suggested.value_or(built_in);
  };
  params.temperature = choose(request.temperature, defaults.temperature, params.temperature);
  params.top_k = choose(request.top_k, defaults.top_k, params.top_k);
  params.top_p = choose(request.top_p, defaults.top_p, params.top_p);
  params.min_p = choose(request.min_p, defaults.min_p, params.min_p);
  params.repetition_penalty =
      choose(request.repetition_penalty, defaults.repetition_penalty, params.repetition_penalty);
  params.presence_penalty = request.presence_penalty.value_or(params.presence_penalty);
  params.frequency_penalty = request.frequency_penalty.value_or(params.frequency_penalty);
  params.ignore_eos = request.ignore_eos;

  // Comparisons are written so that NaN fails them.
  if (!(params.temperature >= 0.0f && params.temperature <= kMaxTemperature)) {
    return OutOfRange("sampling.temperature", params.temperature, "0 to 100");
  }
  if (params.top_k < 0) {
    return OutOfRange("sampling.top_k", params.top_k, "0 (off) or more");
  }
  if (!(params.top_p > 0.0f && params.top_p <= 1.0f)) {
    return OutOfRange("sampling.top_p", params.top_p, "above 0, at most 1");
  }

  if (!(params.min_p >= 0.0f && params.min_p <= 1.0f)) {
    return OutOfRange("sampling.min_p", params.min_p, "0 (off) to 1");
  }
  if (!(params.repetition_penalty > 0.0f && params.repetition_penalty <= kMaxRepetitionPenalty)) {
    return OutOfRange("sampling.repetition_penalty", params.repetition_penalty,
                      "above 0, at most 100 (1 is off)");
  }
  if (!(std::fabs(params.presence_penalty) <= kMaxPenalty)) {
    return OutOfRange("sampling.presence_penalty", params.presence_penalty, "-2 to 2");
  }
  if (!(std::fabs(params.frequency_penalty) <= kMaxPenalty)) {
    return OutOfRange("sampling.frequency_penalty", params.frequency_penalty, "-2 to 2");
  }
  if (request.logit_bias.size() > static_cast<size_t>(kMaxLogitBiases)) {
    return OutOfRange("sampling.logit_bias", request.logit_bias.size(),
                      absl::StrCat("at most ", kMaxLogitBiases, " ids"));
  }
  for (const auto& [id, bias] : request.logit_bias) {
    if (id < 0 || id >= limits.vocab_size) {
      return OutOfRange("sampling.logit_bias", id,
                        absl::StrCat("ids 0 to ", limits.vocab_size - 1, " (the vocabulary)"));
    }
    if (!(std::fabs(bias) <= kMaxBias)) {
      return OutOfRange(absl::StrCat("sampling.logit_bias[", id, "]"), bias, "-100 to 100");
    }
  }
  params.logit_bias = request.logit_bias;

  params.seed = request.seed.has_value() ? static_cast<uint64_t>(*request.seed) : fresh_seed;

  const auto room = static_cast<int32_t>(limits.max_model_len - prompt_tokens);
  if (request.max_tokens.has_value() && *request.max_tokens < 1) {
    return OutOfRange("sampling.max_tokens", *request.max_tokens, "1 or more");
  }
  params.max_tokens = std::min(request.max_tokens.value_or(room), room);

  params.min_tokens = request.min_tokens.value_or(0);
  if (params.min_tokens < 0 || params.min_tokens > params.max_tokens) {
    return OutOfRange("sampling.min_tokens", params.min_tokens,
                      absl::StrCat("0 to ", params.max_tokens, " (max_tokens and the context)"));
  }

  if (request.stop_token_ids.size() > static_cast<size_t>(kMaxStopTokenIds)) {
    return OutOfRange("sampling.stop_token_ids", request.stop_token_ids.size(),
                      absl::StrCat("at most ", kMaxStopTokenIds, " ids"));
  }
  absl::Status status =
      CheckTokenIds(request.stop_token_ids, limits.vocab_size, "sampling.stop_token_ids");
  if (!status.ok()) return status;
  params.stop_token_ids = request.stop_token_ids;

  params.n = request.n.value_or(1);
  const int32_t most_choices = std::min(kMaxChoices, limits.max_queue);
  if (params.n < 1 || params.n > most_choices) {
    return OutOfRange("sampling.n", params.n, absl::StrCat("1 to ", most_choices));
  }
  if (request.logprobs.has_value()) {
    params.logprobs = *request.logprobs;
    if (params.logprobs < 0 || params.logprobs > kMaxLogprobs) {
      return OutOfRange("sampling.logprobs", params.logprobs, absl::StrCat("0 to ", kMaxLogprobs));
    }
  }
  if (request.stop.size() > kMaxStopTexts) {
    return OutOfRange("sampling.stop", request.stop.size(),
                      absl::StrCat("at most ", kMaxStopTexts, " texts"));
  }
  for (size_t i = 0; i < request.stop.size(); ++i) {
    const size_t size = request.stop[i].size();
    if (size == 0 || size > kMaxStopTextBytes) {
      return OutOfRange(absl::StrCat("sampling.stop[", i, "]"), absl::StrCat(size, " bytes"),
                        absl::StrCat("1 to ", kMaxStopTextBytes));
    }
  }
  return params;
}

SamplingDefaults DefaultsOf(const loader::GenerationConfig& config) {
  const auto narrow = [](const std::optional<double>& value) -> std::optional<float> {
    if (!value) return std::nullopt;
    return static_cast<float>(*value);
  };
  SamplingDefaults defaults;
  defaults.temperature = narrow(config.temperature);
  if (config.do_sample.has_value() && !*config.do_sample) defaults.temperature = 0.0f;
  if (config.top_k) defaults.top_k = static_cast<int32_t>(*config.top_k);
  defaults.top_p = narrow(config.top_p);
  defaults.min_p = narrow(config.min_p);
  defaults.repetition_penalty = narrow(config.repetition_penalty);
  return defaults;
}

uint64_t FreshSeed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

}  // namespace tandem::server
