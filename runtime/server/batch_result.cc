#include "runtime/server/batch_result.h"

#include <ctime>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

namespace tandem::server {
namespace {

using Json = nlohmann::ordered_json;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

const char* Reason(const ChoiceResult& choice) { return choice.stopped ? "stop" : "length"; }

Json Usage(const BatchRow& row, std::span<const ChoiceResult> choices) {
  const auto prompt = static_cast<int64_t>(row.prompt_ids.size());
  int64_t completion = 0;
  for (const ChoiceResult& choice : choices) {
    completion += static_cast<int64_t>(choice.token_ids.size());
  }
  return {{"prompt_tokens", prompt},
          {"completion_tokens", completion},
          {"total_tokens", prompt + completion}};
}

Json OpenAiBody(const BatchRow& row, std::span<const ChoiceResult> choices,
                const std::string& model) {
  const bool chat = row.form == RowForm::kChatCompletion;
  Json list = Json::array();
  for (size_t i = 0; i < choices.size(); ++i) {
    Json choice = {{"index", i}};
    if (chat) {
      choice["message"] = {{"role", "assistant"}, {"content", choices[i].text}};
    } else {
      choice["text"] = choices[i].text;
    }
    choice["logprobs"] = nullptr;
    choice["finish_reason"] = Reason(choices[i]);
    list.push_back(std::move(choice));
  }
  return {{"id", absl::StrFormat("%s-%016x", chat ? "chatcmpl" : "cmpl", row.key)},
          {"object", chat ? "chat.completion" : "text_completion"},
          {"created", static_cast<int64_t>(std::time(nullptr))},
          {"model", model},
          {"choices", std::move(list)},
          {"usage", Usage(row, choices)}};
}

}  // namespace

std::string ResultLine(const BatchRow& row, std::span<const ChoiceResult> choices, bool has_text,
                       const std::string& model) {
  Json line;
  if (row.form == RowForm::kShort) {
    const ChoiceResult& choice = choices[0];
    line["id"] = Json::parse(row.id);
    line["token_ids"] = choice.token_ids;
    if (has_text) line["text"] = choice.text;
    line["finish_reason"] = Reason(choice);
    line["usage"] = Usage(row, choices);
    line["usage"]["cached_prompt_tokens"] = choice.cached_prompt_tokens;
    line["timings"] = {{"queue_seconds", choice.timings.queue_seconds},
                       {"prefill_seconds", choice.timings.prefill_seconds},
                       {"decode_seconds", choice.timings.decode_seconds}};
    return Dump(line);
  }
  const std::string request = absl::StrFormat("batch_req_%016x", row.key);
  line["id"] = request;
  line["custom_id"] = Json::parse(row.id);
  line["response"] = {
      {"status_code", 200}, {"request_id", request}, {"body", OpenAiBody(row, choices, model)}};
  line["error"] = nullptr;
  return Dump(line);
}

std::string ErrorLine(const std::string& id, bool openai, int64_t line, const absl::Status& error) {
  Json json;
  json[openai ? "custom_id" : "id"] = id.empty() ? Json() : Json::parse(id);
  json["line"] = line;
  if (openai) json["response"] = nullptr;
  json["error"] = {{"code", absl::StatusCodeToString(error.code())},
                   {"message", std::string(error.message())}};
  return Dump(json);
}

}  // namespace tandem::server
