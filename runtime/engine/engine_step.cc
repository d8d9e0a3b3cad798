// One step of the engine: schedule, execute, sample, report. The loop around it is in engine.cc.
#include <algorithm>
#include <cstdint>
#include <span>
#include <string>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/open_request.h"

namespace tandem::engine {
namespace {

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

OpenChoice& ChoiceOf(const ScheduledSequence& entry) {
  return static_cast<OpenChoice&>(*entry.sequence);
}

}  // namespace

void Engine::ApplyLoadGuard(Clock::time_point now) {
  load_guard_.JudgeLatency(now);
  const BlockManager& blocks = scheduler_.block_manager();
  const LoadGuard::Decision decision = load_guard_.Decide({.blocks = blocks.num_blocks(),
                                                           .held = blocks.num_used(),
                                                           .occupied = blocks.num_occupied(),
                                                           .span = blocks.span(),
                                                           .running = scheduler_.num_running()});
  scheduler_.LimitRunning(decision.max_running);
  if (decision.compact) load_guard_.CountMoves(scheduler_.Compact(kMaxBlockMovesPerStep));
}

absl::Status Engine::Step() {
  ApplyLoadGuard(Clock::now());
  const bool speculates = config_.speculation.max_drafts > 0;
  TANDEM_CHECK(scheduler_.Schedule(plan_, speculates ? &speculation_ : nullptr));
  plan_.kind = StepPlan::Kind::kForward;
  plan_.sequence_number = static_cast<uint64_t>(work_.steps);
  const Clock::time_point begin = Clock::now();
  for (const ScheduledSequence& entry : scheduler_.scheduled()) {
    OpenChoice& choice = ChoiceOf(entry);
    const int32_t prompt_end =
        std::min(choice.num_computed_tokens + entry.num_tokens, choice.num_prompt_tokens());
    work_.prompt_tokens += std::max(prompt_end - choice.num_computed_tokens, 0);
    if (choice.first_step_taken) continue;
    choice.first_step_taken = true;
    choice.first_step = begin;
    work_.cached_prompt_tokens += choice.cached_prompt_tokens;
    work_.looked_up_prompt_tokens += choice.num_prompt_tokens();
    if (hooks_.metrics != nullptr) {
      hooks_.metrics->queue.Add(Seconds(begin - choice.open->submitted));
    }
    ++first_steps_;
  }
  PublishStats();
  RequestSurveys();
  const size_t rows = plan_.logits_indices.size();
  TANDEM_RETURN_IF_ERROR(executor_->Execute(plan_, {logits_.get(), rows * config_.vocab_size}));
  EnterPart(hooks_.timer, parallel::StepPart::kSampling);
  TANDEM_RETURN_IF_ERROR(ChooseSurveyed());
  ++work_.steps;
  NoteRanksAnswered();
  RecordStepMetrics();
  scheduler_.Complete();
  const Clock::time_point now = Clock::now();
  if (speculates) {
    speculation_.NoteStep(static_cast<int32_t>(plan_.token_ids.size()), Seconds(now - begin));
  }
  for (const ScheduledSequence& entry : scheduler_.scheduled()) {
    if (entry.samples) AcceptRows(entry, now);
  }
  return absl::OkStatus();
}

SampleInput Engine::InputOf(const ScheduledSequence& entry, int32_t drafts) const {
  const OpenChoice& choice = ChoiceOf(entry);
  const Request& request = choice.open->request;
  return {.logits = {},
          .params = request.sampling,
          .prompt_ids = choice.prompt_ids(),
          .output_ids = choice.tokens_and_drafts().subspan(choice.num_prompt_tokens(),
                                                           choice.num_output_tokens() + drafts),
          .choice = request.first_choice + choice.choice()};
}

void Engine::RequestSurveys() {
  RowSurveys* const surveys = executor_->surveys();
  plan_.sampling.clear();
  if (surveys == nullptr) return;
  plan_.sampling.resize(plan_.logits_indices.size());
  bool any = false;
  for (const ScheduledSequence& entry : scheduler_.scheduled()) {
    if (!entry.samples) continue;
    for (int32_t draft = 0; draft <= entry.num_drafts; ++draft) {
      kernels::SampleRequest& request = plan_.sampling[entry.logits_row + draft];
      request = sampler_.MakeRequest(InputOf(entry, draft), surveys->candidates());
      any |= request.kind != kernels::SampleKind::kWhole;
    }
  }
  if (!any) plan_.sampling.clear();
}

absl::Status Engine::ChooseSurveyed() {
  chosen_.assign(plan_.logits_indices.size(), -1);
  if (plan_.sampling.empty()) return absl::OkStatus();
  RowSurveys& surveys = *executor_->surveys();
  fetched_.clear();
  for (const ScheduledSequence& entry : scheduler_.scheduled()) {
    if (!entry.samples) continue;
    for (int32_t draft = 0; draft <= entry.num_drafts; ++draft) {
      const int32_t row = entry.logits_row + draft;
      if (plan_.sampling[row].kind == kernels::SampleKind::kWhole) continue;
      chosen_[row] = sampler_.Choose(InputOf(entry, draft), surveys.Of(row));
      if (chosen_[row] < 0) fetched_.push_back(row);
    }
  }
  if (fetched_.empty()) return absl::OkStatus();
  return surveys.FetchRows(fetched_, {logits_.get(), chosen_.size() * config_.vocab_size});
}

void Engine::NoteRanksAnswered() {
  if (hooks_.metrics != nullptr) {
    hooks_.metrics->ranks_answered.store(Clock::now(), std::memory_order_relaxed);
  }
}

void Engine::RecordStepMetrics() {
  if (hooks_.metrics == nullptr) return;
  EngineMetrics& metrics = *hooks_.metrics;
  metrics.step_tokens.Add(static_cast<double>(plan_.token_ids.size()));
  if (hooks_.timer == nullptr) return;
  const parallel::StepTimer::Seconds seconds = hooks_.timer->Totals();
  for (size_t i = 0; i < seconds.size(); ++i) {
    metrics.part_seconds[i].store(seconds[i], std::memory_order_relaxed);
  }
}

void Engine::AcceptRows(const ScheduledSequence& entry, Clock::time_point now) {
  OpenChoice& choice = ChoiceOf(entry);
  choice.draft_tokens += entry.num_drafts;
  work_.draft_tokens += entry.num_drafts;
  int32_t kept = 0;
  for (;;) {
    const int32_t draft =
        choice.num_drafts() > 0 ? choice.tokens_and_drafts()[choice.num_tokens()] : -1;
    if (!Accept(entry, /*row=*/kept, now)) return;  // the choice has ended and may be gone
    if (choice.tokens().back() != draft) break;
    ++kept;
    ++choice.accepted_draft_tokens;
    ++work_.accepted_draft_tokens;
    scheduler_.KeepDraft(&choice);
  }
  if (choice.max_drafts == 0) return;
  speculation_.NoteDrafts(choice, entry.num_drafts, kept);
  scheduler_.DropDrafts(&choice);
  if (!choice.draft_index) choice.draft_index.emplace();
}

bool Engine::Accept(const ScheduledSequence& entry, int32_t row, Clock::time_point now) {
  OpenChoice& choice = ChoiceOf(entry);
  OpenRequest& open = *choice.open;
  const SamplingParams& params = open.request.sampling;
  if (const int32_t chosen = chosen_[entry.logits_row + row]; chosen >= 0) {
    sample_.token_id = chosen;
  } else {
    SampleInput input = InputOf(entry, 0);
    input.logits = {logits_.get() + size_t(entry.logits_row + row) * config_.vocab_size,
                    static_cast<size_t>(config_.vocab_size)};
    if (choice.logits_hash) choice.logits_hash->Update(input.logits);
    const absl::Status status = sampler_.Run(input, &sample_);
    if (!status.ok()) {
      Finish(open, choice, FinishReason::kError, status, /*emit=*/true);
      return false;
    }
  }
  choice.Append(sample_.token_id);
  ++work_.generated_tokens;
  if (choice.token_made) {
    const double seconds = Seconds(now - choice.last_token);
    load_guard_.AddToken(seconds, now);
    if (hooks_.metrics != nullptr) hooks_.metrics->token.Add(seconds);
  } else {
    const double seconds = Seconds(now - open.submitted);
    load_guard_.AddFirstToken(seconds, now);
    if (hooks_.metrics != nullptr) hooks_.metrics->first_token.Add(seconds);
    choice.first_token = now;
  }
  choice.last_token = now;
  choice.token_made = true;
  choice.new_token = sample_.token_id;
  choice.ended_by_token = sampler_.IsStop(sample_.token_id, params);
  if (choice.ended_by_token) {
    Finish(open, choice, FinishReason::kStop, absl::OkStatus(), /*emit=*/true);
  } else if (choice.num_tokens() == choice.max_total_tokens()) {
    Finish(open, choice, FinishReason::kLength, absl::OkStatus(), /*emit=*/true);
  } else if (!Emit(open, choice, FinishReason::kNone, absl::OkStatus())) {
    Finish(open, choice, FinishReason::kStop, absl::OkStatus(), /*emit=*/false);
  } else {
    choice.new_token = -1;
    return true;
  }
  return false;
}

void Engine::Finish(OpenRequest& open, OpenChoice& choice, FinishReason reason,
                    const absl::Status& status, bool emit) {
  TANDEM_CHECK(!choice.finished);
  choice.finished = true;
  scheduler_.Remove(&choice);
  if (!choice.first_step_taken) ++first_steps_;  // it leaves the queue without a step
  if (emit) Emit(open, choice, reason, status);
  if (--open.open_choices > 0) return;
  ++work_.requests_finished;
  ++closed_;
  requests_.erase(open.id);
}

bool Engine::Emit(OpenRequest& open, OpenChoice& choice, FinishReason reason,
                  const absl::Status& status) {
  event_.request = open.id;
  event_.choice = choice.choice();
  event_.token_ids.clear();
  event_.chosen_logprobs.clear();
  event_.top_logprobs.clear();
  event_.ended_by_token = choice.ended_by_token;
  event_.finish = reason;
  event_.status = status;
  if (choice.new_token >= 0) {
    event_.token_ids.push_back(choice.new_token);
    if (open.request.sampling.logprobs >= 0) {
      event_.chosen_logprobs.push_back({.token_id = sample_.token_id, .logprob = sample_.logprob});
      event_.top_logprobs.push_back(sample_.top_logprobs);
    }
  }
  // On every event: the sink may end the choice with any.
  event_.prompt_tokens = choice.num_prompt_tokens();
  event_.cached_prompt_tokens = choice.cached_prompt_tokens;
  event_.completion_tokens = choice.num_output_tokens();
  event_.draft_tokens = choice.draft_tokens;
  event_.accepted_draft_tokens = choice.accepted_draft_tokens;
  event_.logits_hash = choice.logits_hash ? choice.logits_hash->Digest() : 0;
  const Clock::time_point now = Clock::now();
  const bool ran = choice.first_step_taken;
  const bool produced = choice.token_made;
  event_.timings.queue_seconds = Seconds((ran ? choice.first_step : now) - open.submitted);
  event_.timings.prefill_seconds =
      ran ? Seconds((produced ? choice.first_token : now) - choice.first_step) : 0.0;
  event_.timings.decode_seconds = produced ? Seconds(choice.last_token - choice.first_token) : 0.0;
  return open.sink(event_);
}

}  // namespace tandem::engine
