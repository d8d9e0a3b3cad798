#include "runtime/batch/result.h"

#include <ctime>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/utf8.h"
#include "nlohmann/json.hpp"

namespace tandem::batch {
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

// A token's bytes; its number in words where there is no tokenizer.
std::string Bytes(const tokenizer::Tokenizer* tokenizer, int32_t id) {
  if (tokenizer != nullptr) {
    absl::StatusOr<std::string> bytes = tokenizer->Decode(std::span(&id, 1), false);
    if (bytes.ok()) return *std::move(bytes);
  }
  return absl::StrCat("token_id:", id);
}

Json ShortLogprobs(const ChoiceResult& choice) {
  const auto entry = [](const engine::TokenLogprob& token) {
    return Json{{"token_id", token.token_id}, {"logprob", token.logprob}};
  };
  Json list = Json::array();
  for (size_t i = 0; i < choice.chosen_logprobs.size(); ++i) {
    Json token = entry(choice.chosen_logprobs[i]);
    token["top"] = Json::array();
    for (const engine::TokenLogprob& other : choice.top_logprobs[i]) {
      token["top"].push_back(entry(other));
    }
    list.push_back(std::move(token));
  }
  return list;
}

Json ChatLogprobs(const ChoiceResult& choice, const tokenizer::Tokenizer* tokenizer) {
  const auto entry = [&](const engine::TokenLogprob& token) {
    const std::string bytes = Bytes(tokenizer, token.token_id);
    Json numbers = Json::array();
    for (const char byte : bytes) numbers.push_back(static_cast<uint8_t>(byte));
    return Json{
        {"token", Utf8Lossy(bytes)}, {"logprob", token.logprob}, {"bytes", std::move(numbers)}};
  };
  Json list = Json::array();
  for (size_t i = 0; i < choice.chosen_logprobs.size(); ++i) {
    Json token = entry(choice.chosen_logprobs[i]);
    token["top_logprobs"] = Json::array();
    for (const engine::TokenLogprob& other : choice.top_logprobs[i]) {
      token["top_logprobs"].push_back(entry(other));
    }
    list.push_back(std::move(token));
  }
  return {{"content", std::move(list)}};
}

// Offsets count code points, tokens that end inside one their replacement.
Json CompletionLogprobs(const ChoiceResult& choice, const tokenizer::Tokenizer* tokenizer) {
  Json tokens = Json::array(), logprobs = Json::array(), top = Json::array(),
       offsets = Json::array();
  int64_t offset = 0;
  for (size_t i = 0; i < choice.chosen_logprobs.size(); ++i) {
    const engine::TokenLogprob& chosen = choice.chosen_logprobs[i];
    const std::string text = Utf8Lossy(Bytes(tokenizer, chosen.token_id));
    tokens.push_back(text);
    logprobs.push_back(chosen.logprob);
    Json others = Json::object();
    for (const engine::TokenLogprob& other : choice.top_logprobs[i]) {
      others[Utf8Lossy(Bytes(tokenizer, other.token_id))] = other.logprob;
    }
    top.push_back(std::move(others));
    offsets.push_back(offset);
    for (const char byte : text) offset += (static_cast<uint8_t>(byte) & 0xc0) != 0x80;
  }
  return {{"tokens", std::move(tokens)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(top)},
          {"text_offset", std::move(offsets)}};
}

Json OpenAiBody(const BatchRow& row, std::span<const ChoiceResult> choices,
                const tokenizer::Tokenizer* tokenizer, const std::string& model) {
  const bool chat = row.form == RowForm::kChatCompletion;
  Json list = Json::array();
  for (size_t i = 0; i < choices.size(); ++i) {
    Json choice = {{"index", i}};
    if (chat) {
      choice["message"] = {{"role", "assistant"}, {"content", choices[i].text}};
    } else {
      choice["text"] = choices[i].text;
    }
    choice["logprobs"] = row.params.logprobs < 0 ? Json()
                         : chat                  ? ChatLogprobs(choices[i], tokenizer)
                                                 : CompletionLogprobs(choices[i], tokenizer);
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

std::string ResultLine(const BatchRow& row, std::span<const ChoiceResult> choices,
                       const tokenizer::Tokenizer* tokenizer, const std::string& model) {
  Json line;
  if (row.form == RowForm::kShort) {
    const ChoiceResult& choice = choices[0];
    line["id"] = Json::parse(row.id);
    line["token_ids"] = choice.token_ids;
    if (tokenizer != nullptr) line["text"] = choice.text;
    if (row.params.logprobs >= 0) line["logprobs"] = ShortLogprobs(choice);
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
  line["response"] = {{"status_code", 200},
                      {"request_id", request},
                      {"body", OpenAiBody(row, choices, tokenizer, model)}};
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

}  // namespace tandem::batch
