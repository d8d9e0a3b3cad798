#include "runtime/server/validation.h"

#include <algorithm>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"

namespace tandem::server {
namespace {

constexpr float kMaxTemperature = 100.0f;

template <typename T>
absl::Status OutOfRange(absl::string_view field, T found, absl::string_view allowed) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", found, ", allowed: ", allowed));
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
    return absl::InvalidArgumentError("prompt: empty, allowed: at least 1 token");
  }
  // Length first: it is the cheaper check and the commoner mistake.
  const auto size = static_cast<int64_t>(prompt_ids.size());
  if (size >= limits.max_model_len) {
    return absl::InvalidArgumentError(absl::StrCat("prompt: ", size, " tokens, allowed: at most ",
                                                   limits.max_model_len - 1, " (the context is ",
                                                   limits.max_model_len, " tokens)"));
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
  params.min_p = defaults.min_p.value_or(params.min_p);
  params.repetition_penalty = defaults.repetition_penalty.value_or(params.repetition_penalty);

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

  params.seed = request.seed.has_value() ? static_cast<uint64_t>(*request.seed) : fresh_seed;

  const auto room = static_cast<int32_t>(limits.max_model_len - prompt_tokens);
  if (request.max_tokens.has_value() && *request.max_tokens < 1) {
    return OutOfRange("sampling.max_tokens", *request.max_tokens, "1 or more");
  }
  params.max_tokens = std::min(request.max_tokens.value_or(room), room);

  if (request.stop_token_ids.size() > static_cast<size_t>(kMaxStopTokenIds)) {
    return OutOfRange("sampling.stop_token_ids", request.stop_token_ids.size(),
                      absl::StrCat("at most ", kMaxStopTokenIds, " ids"));
  }
  absl::Status status =
      CheckTokenIds(request.stop_token_ids, limits.vocab_size, "sampling.stop_token_ids");
  if (!status.ok()) return status;
  params.stop_token_ids = request.stop_token_ids;
  return params;
}

uint64_t FreshSeed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

}  // namespace tandem::server
