// How the engine chooses a request's tokens, with every default filled in.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace tandem::engine {

struct SamplingParams {
  float temperature = 1.0f;         // 0: greedy, ties to the lowest id
  int32_t top_k = 0;                // 0: off
  float top_p = 1.0f;               // 1: off
  float min_p = 0.0f;               // 0: off
  float repetition_penalty = 1.0f;  // 1: off; over prompt and output, as Transformers
  float presence_penalty = 0.0f;    // over output
  float frequency_penalty = 0.0f;   // over output
  std::vector<std::pair<int32_t, float>> logit_bias;  // added to logits
  uint64_t seed = 0;  // draws depend on (seed, choice index, position) alone
  int32_t max_tokens = 16;
  int32_t min_tokens = 0;               // no stop token is sampled before
  std::vector<int32_t> stop_token_ids;  // in addition to the model's eos ids
  bool ignore_eos = false;
  int32_t n = 1;             // choices; they share the prompt's blocks
  int32_t logprobs = -1;     // -1: none; k: the chosen token's and the top k
  int32_t speculate = -1;    // most drafts in one step; -1: as the engine has it
  bool logits_hash = false;  // hash the raw logits of each sampled position
};

// A FieldError for the first field that is out of the range which sampling_fields.cc gives:
// "sampling.NAME: FOUND, allowed: RANGE". Engine::Submit calls it; a front may, to answer earlier.
absl::Status ValidateSamplingParams(const SamplingParams& params, int32_t vocab_size);

}  // namespace tandem::engine
