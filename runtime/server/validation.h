// Turns what a caller asked for into what the engine runs: fills in defaults and checks every
// value. gRPC requests, rows of batch jobs and `tandem generate` all pass through here. Pure
// functions; errors are engine::FieldErrors, "FIELD: FOUND, allowed: RANGE".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/engine/engine_client.h"
#include "runtime/engine/sampling_params.h"
#include "runtime/engine/sampling_request.h"
#include "runtime/loader/generation_config.h"
#include "runtime/text/tokenizer/tokenizer.h"

namespace tandem::server {

// A prompt that the engine takes: not empty, ids in [0, vocab_size), shorter than max_model_len so
// that one token at least can follow.
absl::Status CheckPrompt(std::span<const int32_t> prompt_ids, const engine::EngineLimits& limits);

// INVALID_ARGUMENT for a prompt of `found`, such as "600 tokens".
absl::Status PromptTooLong(std::string_view found, const engine::EngineLimits& limits);

// A prompt that is too long is counted exactly up to here.
size_t MaxCountedTokens(const engine::EngineLimits& limits);

// The tokens of a prompt, by as much work as the context asks for, however long the text is.
// INVALID_ARGUMENT for one that is too long or that the tokenizer gives up on.
absl::StatusOr<std::vector<int32_t>> EncodePrompt(const tokenizer::Tokenizer& tokenizer,
                                                  std::string_view text, bool add_special_tokens,
                                                  const engine::EngineLimits& limits);

// No text of more bytes can fit the context; SIZE_MAX where that is not known, or without a
// tokenizer (null).
size_t MaxTextBytes(const tokenizer::Tokenizer* tokenizer, const engine::EngineLimits& limits);

// Ids for Detokenize; `field` begins the message.
absl::Status CheckTokenIds(std::span<const int32_t> ids, int32_t vocab_size, const char* field);

// A field that the request leaves unset takes its value from `defaults`, then the engine's own.
// `fresh_seed` is the seed of a request that names none. `prompt_tokens` has passed CheckPrompt.
// Stop texts are checked here, but stay with the front: the engine does not see them.
absl::StatusOr<engine::SamplingParams> MakeSampling(const engine::SamplingRequest& request,
                                                    const engine::SamplingRequest& defaults,
                                                    const engine::EngineLimits& limits,
                                                    int64_t prompt_tokens, uint64_t fresh_seed);

// The defaults that generation_config.json suggests. `do_sample: false` is temperature 0.
engine::SamplingRequest DefaultsOf(const loader::GenerationConfig& config);

// Values that OpenAI's clients and the files of models use beside the ranges of the protocol: a
// top_p of 0 is greedy, a top_k of -1 is off, and a seed of -1 is none.
void TakeCustomaryValues(engine::SamplingRequest* request);

// A seed that nobody can predict, from the operating system.
uint64_t FreshSeed();

}  // namespace tandem::server
