// A request that the engine has taken, with the state of its choices.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "runtime/engine/engine_client.h"
#include "runtime/engine/sequence.h"

namespace tandem::engine {

struct OpenChoice;

struct OpenRequest {
  RequestId id = 0;
  Request request;
  EventSink sink;
  Clock::time_point submitted;
  int32_t max_total_tokens = 0;
  std::vector<std::unique_ptr<OpenChoice>> choices;  // empty until the engine's thread has taken it
  int32_t open_choices = 0;
};

// The engine gives the scheduler no other sequences than these: what the scheduler returns is one.
struct OpenChoice : Sequence {
  OpenChoice(OpenRequest* owner, int32_t index, uint64_t arrival)
      : Sequence(owner->id, index, arrival, owner->request.prompt_ids, owner->max_total_tokens),
        open(owner) {}

  OpenRequest* const open;  // outlives this
  bool finished = false;
  bool first_step_taken = false;
  bool token_made = false;  // by this engine
  Clock::time_point first_step;
  Clock::time_point first_token;
  Clock::time_point last_token;
  int32_t draft_tokens = 0;           // computed
  int32_t accepted_draft_tokens = 0;  // part of the answer
  // Of the current step.
  int32_t new_token = -1;
  bool ended_by_token = false;
};

}  // namespace tandem::engine
