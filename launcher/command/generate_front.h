// `tandem generate` on rank 0: answers one prompt with the engine, and prints the answer.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/engine/sampling_request.h"
#include "runtime/engine/speculation_options.h"
#include "runtime/rank/rank_runtime.h"
#include "runtime/text/tokenizer/tokenizer.h"

namespace tandem::launcher {

struct GenerateJob {
  std::vector<int32_t> prompt_ids;
  const tokenizer::Tokenizer* tokenizer = nullptr;  // null: token ids only
  engine::SamplingRequest sampling;                 // unset fields come from generation_config.json
  bool json = false;        // print one object at the end; otherwise text as it is generated
  std::string logits_file;  // raw fp32 [sampled positions, vocab]; empty: none
  engine::SpeculationOptions speculation;
};

// The answer: what the JSON object has, without the reports of the ranks.
struct GenerateResult {
  std::vector<int32_t> token_ids;
  std::string text;
  std::string finish_reason;
  int32_t prompt_tokens = 0;
  int32_t cached_prompt_tokens = 0;
  int32_t draft_tokens = 0, accepted_draft_tokens = 0;
  double queue_seconds = 0, prefill_seconds = 0, decode_seconds = 0;
  uint64_t logits_hash = 0;
};

// On rank 0. Prints the text as it is generated, unless the job asks for JSON.
absl::StatusOr<GenerateResult> GenerateAnswer(rank::RankRuntime& runtime, const GenerateJob& job);

// One line of JSON.
std::string GenerateJson(const GenerateResult& result, const std::vector<rank::RankReport>& ranks);

}  // namespace tandem::launcher
