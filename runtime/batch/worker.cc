#include "runtime/batch/worker.h"

#include <optional>

#include "runtime/batch/result.h"
#include "runtime/server/choice_answer.h"

namespace tandem::batch {

struct BatchWorker::Running {
  BatchRow row;
  std::mutex mutex;  // Start's thread and the engine's
  std::vector<ChoiceResult> results;
  std::vector<server::ChoiceAnswer> answers;  // by choice, as results
  int32_t open = 0;
  bool over = false;  // finished, failed or given up
};

absl::Status BatchWorker::Start(const BatchRow& row, std::vector<std::vector<int32_t>> tokens) {
  auto running = std::make_shared<Running>();
  running->row = row;
  running->results.resize(row.choices);
  running->open = row.choices;
  open_choices_ += row.choices;
  // Log-probabilities are kept nowhere but in the result: such a row begins anew.
  if (row.params.logprobs >= 0) tokens.clear();
  tokens.resize(row.choices);
  for (int32_t c = 0; c < row.choices; ++c) {
    running->results[c].token_ids = tokens[c];
    running->answers.emplace_back(tokenizer_, server::StopTextsOf(row.sampling));
    running->answers[c].Resume(tokens[c], &running->results[c].text);
  }
  for (int32_t c = 0; c < row.choices; ++c) {
    engine::Request request;
    request.prompt_ids = row.prompt_ids;
    request.sampling = row.params;
    request.output_ids = std::move(tokens[c]);
    request.first_choice = c;
    const auto id = engine_.Submit(
        std::move(request),
        [this, running, c](const engine::Event& event) { return OnEvent(running, c, event); });
    if (id.ok()) {
      std::lock_guard lock(mutex_);
      requests_[row.key].push_back(*id);
      continue;
    }
    open_choices_ -= row.choices - c;
    bool first = false;
    {
      std::lock_guard lock(running->mutex);
      running->open = 0;
      first = !std::exchange(running->over, true);
    }
    if (absl::IsUnavailable(id.status())) return id.status();
    if (first) {
      sink_.finish(row.key, true,
                   ErrorLine(row.id, row.form != RowForm::kShort, row.line, id.status()));
    }
    return absl::OkStatus();
  }
  return absl::OkStatus();
}

bool BatchWorker::OnEvent(const std::shared_ptr<Running>& running, int32_t choice,
                          const engine::Event& event) {
  const BatchRow& row = running->row;
  std::unique_lock lock(running->mutex);
  if (running->over) {  // for another choice's sake
    --open_choices_;
    return false;
  }
  ChoiceResult& result = running->results[choice];
  result.token_ids.insert(result.token_ids.end(), event.token_ids.begin(), event.token_ids.end());
  server::ChoiceAnswer& answer = running->answers[choice];
  const bool goes_on = answer.Add(event, &result.text);
  if (row.params.logprobs < 0) {
    if (!event.token_ids.empty()) sink_.tokens(row.key, choice, event.token_ids);
  } else {
    result.chosen_logprobs.insert(result.chosen_logprobs.end(), event.chosen_logprobs.begin(),
                                  event.chosen_logprobs.end());
    result.top_logprobs.insert(result.top_logprobs.end(), event.top_logprobs.begin(),
                               event.top_logprobs.end());
  }
  if (goes_on) return true;

  --open_choices_;
  if (!answer.complete()) {
    running->over = true;
    // Cancelled, or the engine ends: the row is not over, only this run of it.
    if (event.finish == engine::FinishReason::kError && !absl::IsUnavailable(event.status)) {
      sink_.finish(row.key, true,
                   ErrorLine(row.id, row.form != RowForm::kShort, row.line, event.status));
    }
  } else {
    result.stopped = answer.finish() == engine::FinishReason::kStop;
    result.timings = event.timings;
    result.cached_prompt_tokens = event.cached_prompt_tokens;
    if (row.params.logprobs >= 0) sink_.tokens(row.key, choice, result.token_ids);
    if (--running->open == 0) {
      running->over = true;
      sink_.finish(row.key, false, ResultLine(row, running->results, tokenizer_, model_));
    }
  }
  if (running->over) {
    std::lock_guard requests(mutex_);
    requests_.erase(row.key);
  }
  return false;
}

void BatchWorker::CancelAll() {
  std::map<uint64_t, std::vector<engine::RequestId>> requests;
  {
    std::lock_guard lock(mutex_);
    requests = requests_;
  }
  for (const auto& [key, ids] : requests) {
    for (const engine::RequestId id : ids) engine_.Cancel(id);
  }
}

}  // namespace tandem::batch
