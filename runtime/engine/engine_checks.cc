#include "runtime/engine/engine_checks.h"

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/engine/sampler.h"
#include "runtime/model/step_input.h"

namespace tandem::engine {
namespace {

absl::Status CheckAtLeast(const char* field, int64_t found, int64_t least) {
  if (found >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("engine config: ", field, " is ", found, ", expected at least ", least));
}

// `what` names the ids in the error: "token id 7 in WHAT".
absl::Status CheckIds(std::span<const int32_t> ids, int32_t vocab_size, const char* what) {
  for (const int32_t id : ids) {
    if (id >= 0 && id < vocab_size) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("token id ", id, " in ", what, ", expected 0 to ", vocab_size - 1));
  }
  return absl::OkStatus();
}

// The output that a request begins with: generation continues after it.
absl::Status CheckOutputSoFar(const Request& request, const EngineConfig& config) {
  if (request.output_ids.empty()) return absl::OkStatus();
  TANDEM_RETURN_IF_ERROR(CheckIds(request.output_ids, config.vocab_size, "the output so far"));
  const size_t known = request.prompt_ids.size() + request.output_ids.size();
  if (request.sampling.n != 1 || request.sampling.logits_hash ||
      known >= static_cast<size_t>(MaxTotalTokens(request, config))) {
    return absl::InvalidArgumentError(
        "the output so far: expected one choice, no hash of logits, and room for more tokens");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckEngineConfig(const EngineConfig& config) {
  TANDEM_RETURN_IF_ERROR(CheckAtLeast("vocab_size", config.vocab_size, 1));
  TANDEM_RETURN_IF_ERROR(CheckAtLeast("max_model_len", config.max_model_len, 2));
  TANDEM_RETURN_IF_ERROR(CheckAtLeast("num_blocks", config.num_blocks, 1));
  TANDEM_RETURN_IF_ERROR(CheckAtLeast("max_num_seqs", config.max_num_seqs, 1));
  TANDEM_RETURN_IF_ERROR(CheckAtLeast("max_batched_tokens", config.max_batched_tokens, 1));
  TANDEM_RETURN_IF_ERROR(CheckAtLeast("max_queue", config.max_queue, 1));
  if (config.max_rows > 0) {
    TANDEM_RETURN_IF_ERROR(CheckAtLeast("max_rows", config.max_rows,
                                        std::min(config.max_num_seqs, config.max_batched_tokens)));
  }
  TANDEM_RETURN_IF_ERROR(CheckAtLeast("speculation", config.speculation.max_drafts, 0));
  if (const absl::Status status = CheckLoadGuardOptions(config.load_guard); !status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("engine config: ", std::string(status.message())));
  }
  if (config.vocab_size > Sampler::kMaxVocabSize) {
    return absl::InvalidArgumentError(absl::StrCat("engine config: vocab_size is ",
                                                   config.vocab_size, ", at most ",
                                                   Sampler::kMaxVocabSize, " are supported"));
  }
  // Slots are block * kBlockSize + offset in 32 bits.
  if (config.num_blocks > INT32_MAX / model::kBlockSize) {
    return absl::InvalidArgumentError(
        absl::StrCat("engine config: num_blocks is ", config.num_blocks, ", at most ",
                     INT32_MAX / model::kBlockSize, " can be addressed"));
  }
  return absl::OkStatus();
}

absl::Status CheckRequest(const Request& request, const EngineConfig& config) {
  const size_t prompt_tokens = request.prompt_ids.size();
  if (prompt_tokens == 0) return absl::InvalidArgumentError("the prompt has no tokens");
  if (prompt_tokens >= static_cast<size_t>(config.max_model_len)) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", prompt_tokens,
                                                   " tokens, expected fewer than the context of ",
                                                   config.max_model_len));
  }
  TANDEM_RETURN_IF_ERROR(CheckIds(request.prompt_ids, config.vocab_size, "the prompt"));
  TANDEM_RETURN_IF_ERROR(ValidateSamplingParams(request.sampling, config.vocab_size));
  TANDEM_RETURN_IF_ERROR(CheckOutputSoFar(request, config));
  if (request.sampling.n > config.max_queue) {
    return absl::InvalidArgumentError(
        absl::StrCat("n: ", request.sampling.n, ", the queue has ", config.max_queue, " places"));
  }
  return absl::OkStatus();
}

int32_t MaxTotalTokens(const Request& request, const EngineConfig& config) {
  const auto prompt_tokens = static_cast<int64_t>(request.prompt_ids.size());
  return static_cast<int32_t>(
      std::min<int64_t>(prompt_tokens + request.sampling.max_tokens, config.max_model_len));
}

}  // namespace tandem::engine
