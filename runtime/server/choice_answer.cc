#include "runtime/server/choice_answer.h"

#include <utility>

namespace tandem::server {

using engine::FinishReason;

StopTexts StopTextsOf(const engine::SamplingRequest& request) {
  return {.texts = request.stop,
          .include = request.include_stop.value_or(false),
          .min_tokens = request.min_tokens.value_or(0),
          .skip_special_tokens = request.skip_special_tokens.value_or(true)};
}

ChoiceAnswer::ChoiceAnswer(const tokenizer::Tokenizer* tokenizer, StopTexts stops) {
  if (tokenizer != nullptr) text_.emplace(*tokenizer, std::move(stops));
}

bool ChoiceAnswer::Add(const engine::Event& event, std::string* text) {
  std::span<const int32_t> ids = event.token_ids;
  // The stop token is no part of the answer's text.
  if (event.ended_by_token && !ids.empty()) ids = ids.first(ids.size() - 1);
  AppendText(ids, text);
  finish_ = event.finish;
  if (stop_text().has_value()) finish_ = FinishReason::kStop;
  if (!complete()) return finish_ == FinishReason::kNone;
  if (text_.has_value()) text_->Flush(text);
  if (stop_text().has_value()) {
    // Flush may find a stop text, too: then it came before the token that ended the answer.
    finish_ = FinishReason::kStop;
  } else if (event.ended_by_token && !event.token_ids.empty()) {
    stop_token_id_ = event.token_ids.back();
  }
  return false;
}

std::optional<std::string> ChoiceAnswer::stop_text() const {
  return text_.has_value() ? text_->stopped_by() : std::nullopt;
}

void ChoiceAnswer::AppendText(std::span<const int32_t> ids, std::string* text) {
  if (text_.has_value()) text_->Append(ids, text);
}

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    default:
      return "error";
  }
}

}  // namespace tandem::server
