// One choice's answer while the engine generates it: text, stop texts, finish reason. The gRPC
// service, batch jobs and `tandem generate` all build their answers with this class.
//
// Text passes through stages: AnswerText turns token ids into whole characters and holds back what
// may be a stop text; what it releases is the answer's text. A parser of reasoning or tool calls
// belongs between the two, in ChoiceAnswer::AppendText and in the flush of Add.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "runtime/engine/engine_client.h"
#include "runtime/engine/sampling_request.h"
#include "runtime/server/answer_text.h"
#include "runtime/text/tokenizer/tokenizer.h"

namespace tandem::server {

// The stop texts that a request asks for.
StopTexts StopTextsOf(const engine::SamplingRequest& request);

class ChoiceAnswer {
 public:
  // `tokenizer` must outlive this object. Null: the answer has no text, and there are no stop
  // texts.
  ChoiceAnswer(const tokenizer::Tokenizer* tokenizer, StopTexts stops);

  // Tokens that are known before the first event, from an earlier process. Appends their text.
  void Resume(std::span<const int32_t> ids, std::string* text) { AppendText(ids, text); }

  // Takes one event of the choice and appends its new text to `text`; the event that completes the
  // answer also releases the text that was held back. Returns whether the choice goes on; after
  // false no event may follow.
  bool Add(const engine::Event& event, std::string* text);

  // kNone while the choice goes on; kStop also where a stop text ended it.
  engine::FinishReason finish() const { return finish_; }
  // Both are complete answers; any other finish reason leaves a part of one.
  bool complete() const {
    return finish_ == engine::FinishReason::kStop || finish_ == engine::FinishReason::kLength;
  }
  // What stopped the choice; at most one of the two is there.
  std::optional<std::string> stop_text() const;
  std::optional<int32_t> stop_token_id() const { return stop_token_id_; }

 private:
  void AppendText(std::span<const int32_t> ids, std::string* text);

  std::optional<AnswerText> text_;  // none without a tokenizer
  engine::FinishReason finish_ = engine::FinishReason::kNone;
  std::optional<int32_t> stop_token_id_;
};

// "stop", "length", "cancelled" or "error", as in JSON outputs.
const char* FinishReasonName(engine::FinishReason reason);

}  // namespace tandem::server
