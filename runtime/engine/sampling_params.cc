#include "runtime/engine/sampling_params.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace tandem::engine {
namespace {

absl::Status Bad(const char* field, double found, const char* expected) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", found, ", expected ", expected));
}

}  // namespace

absl::Status ValidateSamplingParams(const SamplingParams& params, int32_t vocab_size) {
  // Comparisons are written so that NaN fails them.
  if (!(params.temperature >= 0.0f) || std::isinf(params.temperature)) {
    return Bad("temperature", params.temperature, "a finite number from 0");
  }
  if (params.top_k < 0) return Bad("top_k", params.top_k, "0 (off) or more");
  if (!(params.top_p > 0.0f && params.top_p <= 1.0f)) {
    return Bad("top_p", params.top_p, "above 0, at most 1");
  }
  if (!(params.min_p >= 0.0f && params.min_p <= 1.0f)) {
    return Bad("min_p", params.min_p, "from 0 to 1");
  }
  if (!(params.repetition_penalty > 0.0f) || std::isinf(params.repetition_penalty)) {
    return Bad("repetition_penalty", params.repetition_penalty, "a finite number above 0");
  }
  if (!std::isfinite(params.presence_penalty)) {
    return Bad("presence_penalty", params.presence_penalty, "a finite number");
  }
  if (!std::isfinite(params.frequency_penalty)) {
    return Bad("frequency_penalty", params.frequency_penalty, "a finite number");
  }
  for (const auto& [id, bias] : params.logit_bias) {
    if (id < 0 || id >= vocab_size) return Bad("logit_bias", id, "token ids of the vocabulary");
    // Minus infinity bans a token.
    if (std::isnan(bias) || bias == INFINITY) return Bad("logit_bias", bias, "a number");
  }
  for (const int32_t id : params.stop_token_ids) {
    if (id < 0 || id >= vocab_size) return Bad("stop_token_ids", id, "ids of the vocabulary");
  }
  if (params.max_tokens < 1) return Bad("max_tokens", params.max_tokens, "1 or more");
  if (params.min_tokens < 0 || params.min_tokens > params.max_tokens) {
    return Bad("min_tokens", params.min_tokens, "from 0 to max_tokens");
  }
  if (params.n < 1) return Bad("n", params.n, "1 or more");
  if (params.logprobs < -1 || params.logprobs > vocab_size) {
    return Bad("logprobs", params.logprobs, "-1 (none) or up to the vocabulary's size");
  }
  return absl::OkStatus();
}

}  // namespace tandem::engine
