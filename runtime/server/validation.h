// From what a caller asked for to what the engine runs: defaults filled in, every value checked.
// The gRPC service and the command line both come through here, so they agree on ranges. Pure
// functions; errors are FieldErrors, "FIELD: FOUND, allowed: RANGE".
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/engine/engine_client.h"
#include "runtime/engine/sampling_params.h"
#include "runtime/loader/generation_config.h"
#include "runtime/server/served_model.h"
#include "tandem/v1/inference.pb.h"

namespace tandem::server {

// More stop ids than any model has; bounds the work of a step.
inline constexpr int kMaxStopTokenIds = 256;
inline constexpr int kMaxLogitBiases = 1024;
inline constexpr int32_t kMaxChoices = 64;
inline constexpr int32_t kMaxLogprobs = 20;
// Each text is looked for at every token.
inline constexpr size_t kMaxStopTexts = 16;
inline constexpr size_t kMaxStopTextBytes = 256;

// Sampling as a caller wrote it; nullopt where nothing was said.
struct SamplingRequest {
  std::optional<float> temperature;         // [0, 100]; 0 is greedy; default 1
  std::optional<int32_t> top_k;             // >= 0; 0 is off; default 0
  std::optional<float> top_p;               // (0, 1]; default 1
  std::optional<int64_t> seed;              // any; default `fresh_seed`
  std::optional<int32_t> max_tokens;        // >= 1; default, and bound: what the context leaves
  std::vector<int32_t> stop_token_ids;      // in the vocabulary; at most kMaxStopTokenIds
  std::optional<float> min_p;               // [0, 1]; 0 is off; default 0
  std::optional<float> repetition_penalty;  // (0, 100]; default 1
  std::optional<float> presence_penalty;    // [-2, 2]; default 0
  std::optional<float> frequency_penalty;   // [-2, 2]; default 0
  std::vector<std::pair<int32_t, float>> logit_bias;  // [-100, 100]; at most kMaxLogitBiases
  std::optional<int32_t> min_tokens;                  // 0 to max_tokens; default 0
  bool ignore_eos = false;
  std::optional<int32_t> n;         // 1 to kMaxChoices; default 1
  std::vector<std::string> stop;    // each of 1 to kMaxStopTextBytes; at most kMaxStopTexts
  bool include_stop = false;        // stop texts are the front's business, not the engine's
  std::optional<int32_t> logprobs;  // 0 to kMaxLogprobs; default none
};

SamplingRequest SamplingFromProto(const v1::SamplingParams& params);

// A prompt that the engine takes: not empty, ids in [0, vocab_size), shorter than max_model_len so
// that one token at least can follow.
absl::Status CheckPrompt(std::span<const int32_t> prompt_ids, const engine::EngineLimits& limits);

// Ids for Detokenize; `field` begins the message.
absl::Status CheckTokenIds(std::span<const int32_t> ids, int32_t vocab_size, const char* field);

// `prompt_tokens` has passed CheckPrompt. `fresh_seed` is used where the request names none.
absl::StatusOr<engine::SamplingParams> MakeSampling(const SamplingRequest& request,
                                                    const SamplingDefaults& defaults,
                                                    const engine::EngineLimits& limits,
                                                    int64_t prompt_tokens, uint64_t fresh_seed);

// What a model's makers suggest.
SamplingDefaults DefaultsOf(const loader::GenerationConfig& config);

// A seed that no one can foresee, from the kernel.
uint64_t FreshSeed();

}  // namespace tandem::server
