// Sampling as a caller asked for it: in a gRPC request, a row of a batch job or on the command
// line. Ranges, defaults and names of every field stand in sampling_fields.cc.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace tandem::engine {

// A field that is unset, or an empty list, takes its default.
struct SamplingRequest {
  std::optional<float> temperature;
  std::optional<int32_t> top_k;
  std::optional<float> top_p;
  std::optional<int64_t> seed;
  std::optional<int32_t> max_tokens;
  std::vector<int32_t> stop_token_ids;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::optional<float> presence_penalty;
  std::optional<float> frequency_penalty;
  std::map<int32_t, float> logit_bias;  // by token id
  std::optional<int32_t> min_tokens;
  std::optional<bool> ignore_eos;
  std::optional<int32_t> n;
  std::vector<std::string> stop;
  std::optional<bool> include_stop;
  std::optional<int32_t> logprobs;
  std::optional<int32_t> speculate;
  std::optional<bool> skip_special_tokens;
};

}  // namespace tandem::engine
