// The only interface between a front (gRPC service, batch worker, command line) and the engine:
// plain data in both directions, no tensors, no MPI. It works in one process now; a local socket
// could carry the same calls if the front shall outlive the ranks.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/engine/load_guard.h"
#include "runtime/engine/sampling_params.h"

namespace tandem::engine {

using RequestId = uint64_t;
using Clock = std::chrono::steady_clock;

struct TokenLogprob {
  int32_t token_id = 0;
  float logprob = 0.0f;
};

enum class FinishReason : uint8_t {
  kNone,       // not finished
  kStop,       // a stop token (eos or stop_token_ids), or the sink returned false
  kLength,     // max_tokens, or the context is full
  kCancelled,  // Cancel
  kError,      // see Event::status
};

struct Timings {
  double queue_seconds = 0;    // submit to first scheduled
  double prefill_seconds = 0;  // first scheduled to first token
  double decode_seconds = 0;   // first token to last
};

// The news of one choice: one event for each new token, and one for an end without a token.
struct Event {
  RequestId request = 0;
  int32_t choice = 0;
  std::vector<int32_t> token_ids;  // new tokens, with the stop token that ended the choice
  bool ended_by_token = false;     // the last of token_ids is the stop token
  FinishReason finish = FinishReason::kNone;
  absl::Status status;  // not OK exactly when finish is kError
  // One entry per token if the request asks for log-probabilities, else empty.
  std::vector<TokenLogprob> chosen_logprobs;
  std::vector<std::vector<TokenLogprob>> top_logprobs;
  // Totals of this choice up to now.
  int32_t prompt_tokens = 0;
  int32_t cached_prompt_tokens = 0;  // found in the prefix cache
  int32_t completion_tokens = 0;
  int32_t draft_tokens = 0;           // that steps computed ahead
  int32_t accepted_draft_tokens = 0;  // of them: those that became tokens of the answer
  Timings timings;
  uint64_t logits_hash = 0;  // if SamplingParams::logits_hash asks for it
};

// Called on the engine's thread, never concurrently for one request; must not block. Returning
// false ends the choice before the next step, and no further event of the choice follows.
using EventSink = std::function<bool(const Event&)>;

struct Request {
  std::vector<int32_t> prompt_ids;  // not empty, each in [0, vocab)
  SamplingParams sampling;
  // The answer's first tokens, if an earlier process has generated them: generation continues
  // after them, with the same bits. Needs n = 1 and no logits_hash; there must be fewer than
  // max_tokens of them, and none of them ends the answer. No event repeats them.
  std::vector<int32_t> output_ids;
  int32_t first_choice = 0;  // draws are those of choices first_choice to first_choice + n - 1
  std::optional<Clock::time_point> deadline;  // past it: kError with DEADLINE_EXCEEDED
};

struct EngineStats {
  int64_t running = 0;  // sequences
  int64_t waiting = 0;  // sequences
  int64_t kv_blocks_total = 0;
  int64_t kv_blocks_used = 0;  // held by sequences; cached but unreferenced ones are free
  int64_t preemptions = 0;
  int64_t steps = 0;
  int64_t prompt_tokens = 0;  // computed ones, without those found in the prefix cache
  int64_t cached_prompt_tokens = 0;
  int64_t looked_up_prompt_tokens = 0;  // searched in the prefix cache, at a choice's first step
  int64_t generated_tokens = 0;
  int64_t draft_tokens = 0;           // computed ahead
  int64_t accepted_draft_tokens = 0;  // of them: those that became tokens of answers
  int64_t requests_finished = 0;
  LoadGuardStats load_guard;
};

struct EngineLimits {
  int32_t vocab_size = 0;
  int32_t max_model_len = 0;  // prompt + output tokens of one sequence
  int32_t max_queue = 0;
};

class EngineClient {
 public:
  virtual ~EngineClient() = default;

  // INVALID_ARGUMENT: ids out of range, prompt empty or not shorter than max_model_len.
  // RESOURCE_EXHAUSTED: the queue is full. UNAVAILABLE: the engine drains or has failed. Otherwise
  // the sink gets events until each of the n choices has finished. Thread-safe.
  virtual absl::StatusOr<RequestId> Submit(Request request, EventSink sink) = 0;

  // Ends all choices of a request before the next step: frees their blocks and sends each
  // unfinished choice one event with kCancelled. Ignores unknown and finished ids. Thread-safe.
  virtual void Cancel(RequestId request) = 0;

  virtual EngineStats Stats() const = 0;
  virtual EngineLimits Limits() const = 0;
};

}  // namespace tandem::engine
