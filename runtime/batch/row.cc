#include "runtime/batch/row.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <variant>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/civil_time.h"
#include "kernels/base/json_field.h"
#include "kernels/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/engine/sampling_fields.h"
#include "runtime/server/validation.h"
#include "runtime/text/chat/chat_inputs.h"

namespace tandem::batch {
namespace {

using Json = nlohmann::ordered_json;
using json::Shown;

constexpr size_t kMaxRenderedBytes = size_t{16} << 20;
constexpr size_t kMaxRenderMemory = size_t{64} << 20;

absl::Status Wrong(absl::string_view field, const nlohmann::json& found,
                   absl::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": found ", Shown(found), ", expected ", expected));
}

// An object's fields, each taken once: what is left over is not known.
class Fields {
 public:
  Fields(const Json& object, std::string prefix) : object_(object), prefix_(std::move(prefix)) {}

  // Null where the field is absent or null.
  const Json* Take(const char* name) {
    taken_.insert(name);
    const auto at = object_.find(name);
    return at == object_.end() || at->is_null() ? nullptr : &*at;
  }

  // Each leaves `out` as it is where the field is absent or null.
  template <typename T>
  absl::Status Read(const char* name, std::optional<T>* out) {
    const Json* value = Take(name);
    if (value == nullptr) return absl::OkStatus();
    if constexpr (std::is_same_v<T, bool>) {
      if (!value->is_boolean()) return Bad(name, *value, "true or false");
    } else if constexpr (std::is_floating_point_v<T>) {
      if (!value->is_number()) return Bad(name, *value, "a number");
    } else {
      // Numbers of JavaScript and of tables: 16.0 is 16.
      if (value->is_number_float()) {
        const double number = value->get<double>();
        if (std::floor(number) != number ||
            std::fabs(number) > std::numeric_limits<int32_t>::max()) {
          return Bad(name, *value, "a whole number");
        }
        *out = static_cast<T>(number);
        return absl::OkStatus();
      }
      const bool in_range = value->is_number_unsigned()
                                ? value->get<uint64_t>() <= uint64_t{std::numeric_limits<T>::max()}
                                : value->is_number_integer() &&
                                      value->get<int64_t>() >= std::numeric_limits<T>::min();
      if (!in_range) return Bad(name, *value, "a whole number");
    }
    *out = value->get<T>();
    return absl::OkStatus();
  }
  absl::Status Read(const char* name, std::vector<int32_t>* out) {
    const Json* value = Take(name);
    if (value == nullptr) return absl::OkStatus();
    if (!value->is_array()) return Bad(name, *value, "a list of token ids");
    out->clear();
    for (const Json& id : *value) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX) {
        return Bad(name, id, "token ids");
      }
      out->push_back(id.get<int32_t>());
    }
    return absl::OkStatus();
  }
  absl::Status Read(const char* name, std::vector<std::string>* out) {
    const Json* value = Take(name);
    if (value == nullptr) return absl::OkStatus();
    out->clear();
    if (*value == "") return absl::OkStatus();
    for (const Json& text : value->is_array() ? *value : Json::array({*value})) {
      if (!text.is_string()) return Bad(name, text, "a text or a list of texts");
      out->push_back(text.get<std::string>());
    }
    return absl::OkStatus();
  }
  absl::Status Read(const char* name, std::map<int32_t, float>* out) {
    const Json* value = Take(name);
    if (value == nullptr) return absl::OkStatus();
    if (!value->is_object()) return Bad(name, *value, "an object of ids and numbers");
    out->clear();
    for (const auto& [key, number] : value->items()) {
      int32_t id = 0;
      if (!absl::SimpleAtoi(key, &id) || !number.is_number()) {
        return Bad(name, *value, "an object of ids and numbers");
      }
      (*out)[id] = number.get<float>();
    }
    return absl::OkStatus();
  }

  // Fields that change nothing here, whatever they hold.
  void Ignore(std::initializer_list<const char*> names) {
    taken_.insert(names.begin(), names.end());
  }

  absl::Status NothingLeft() const {
    for (const auto& [name, value] : object_.items()) {
      if (taken_.count(name) == 0 && !value.is_null()) {
        return absl::InvalidArgumentError(absl::StrCat(
            prefix_, json::Quoted(name), ": found a field that is not known, expected none"));
      }
    }
    return absl::OkStatus();
  }
  absl::Status Bad(absl::string_view name, const Json& value, absl::string_view expected) const {
    return Wrong(absl::StrCat(prefix_, name), value, expected);
  }

 private:
  const Json& object_;
  const std::string prefix_;
  std::set<std::string> taken_;
};

// The sampling fields that rows of a form have (runtime/engine/sampling_fields.h).
absl::Status ReadSampling(Fields& fields, RowForm form, engine::SamplingRequest* out) {
  const bool openai = form != RowForm::kShort;
  for (const engine::SamplingField& field : engine::SamplingFields()) {
    const auto read = [&](const char* name) {
      return std::visit(
          [&](const auto& value) { return fields.Read(name, &(out->*value.request)); },
          field.value);
    };
    if (openai ? field.in_openai_rows : field.in_short_rows) {
      TANDEM_RETURN_IF_ERROR(read(field.name));
    }
    if (openai && field.openai_alias != nullptr) {
      TANDEM_RETURN_IF_ERROR(read(field.openai_alias));
    }
  }
  if (openai) server::TakeCustomaryValues(out);
  return absl::OkStatus();
}

class Reading {
 public:
  Reading(const RowReader& reader, BatchRow* row) : reader_(reader), row_(*row) {}

  absl::Status Text(absl::string_view field, const std::string& text) {
    if (reader_.tokenizer == nullptr) return NoTokenizer(field, "prompt_ids");
    if (text.empty()) return absl::InvalidArgumentError(absl::StrCat(field, ": found no text"));
    TANDEM_ASSIGN_OR_RETURN(row_.prompt_ids,
                            server::EncodePrompt(*reader_.tokenizer, text, true, reader_.limits));
    return absl::OkStatus();
  }

  // The chat fields of an object: messages, tools, and variables of the template.
  // With `hides_tools` the template gets no tools, whatever the object has.
  absl::Status Messages(Fields& fields, absl::string_view prefix, bool hides_tools) {
    const std::string field = absl::StrCat(prefix, "messages");
    if (reader_.chat_template == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat(field, ": the model has no chat template; give prompt or prompt_ids"));
    }
    if (reader_.tokenizer == nullptr) return NoTokenizer(field, "prompt_ids");
    Json chat = Json::object();
    if (const Json* variables = fields.Take("chat_template_kwargs")) {
      if (!variables->is_object()) {
        return fields.Bad("chat_template_kwargs", *variables, "an object");
      }
      chat = *variables;
    }
    for (const char* name : {"messages", "tools", "add_generation_prompt"}) {
      if (const Json* value = fields.Take(name)) chat[name] = *value;
    }
    TANDEM_ASSIGN_OR_RETURN(chat::ChatInputs inputs, chat::ParseChatInputs(chat.dump(), field));
    TANDEM_RETURN_IF_ERROR(chat::CheckChatCounts(inputs, {prefix.data(), prefix.size()}));
    if (inputs.messages.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(field, ": found none, expected at least one"));
    }
    if (hides_tools) inputs.tools = nullptr;
    if (const absl::Status prepared = reader_.chat_template->Prepare(&inputs); !prepared.ok()) {
      return absl::Status(prepared.code(), absl::StrCat(prefix, prepared.message()));
    }
    jinja::RenderOptions options;
    options.max_output_bytes =
        std::min(kMaxRenderedBytes, server::MaxTextBytes(reader_.tokenizer, reader_.limits));
    options.max_memory_bytes = kMaxRenderMemory;
    options.now = reader_.time.now;
    options.time_zone = reader_.time.zone;
    absl::StatusOr<std::string> prompt = reader_.chat_template->Render(std::move(inputs), options);
    if (!prompt.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(field, ": chat template: ", std::string(prompt.status().message())));
    }
    TANDEM_ASSIGN_OR_RETURN(
        row_.prompt_ids, server::EncodePrompt(*reader_.tokenizer, *prompt, false, reader_.limits));
    return absl::OkStatus();
  }

  absl::Status ShortForm(const Json& object) {
    Fields fields(object, "");
    fields.Take("id");
    TANDEM_RETURN_IF_ERROR(ReadSampling(fields, row_.form, &row_.sampling));
    const Json* prompt = fields.Take("prompt");
    const Json* ids = fields.Take("prompt_ids");
    const bool chat = object.contains("messages");
    if ((prompt != nullptr) + (ids != nullptr) + chat != 1) {
      return absl::InvalidArgumentError(
          "prompt, prompt_ids, messages: found not one of them, expected exactly one");
    }
    if (chat) {
      TANDEM_RETURN_IF_ERROR(Messages(fields, "", /*hides_tools=*/false));
    } else if (ids != nullptr) {
      TANDEM_RETURN_IF_ERROR(fields.Read("prompt_ids", &row_.prompt_ids));
    } else {
      if (!prompt->is_string()) return Wrong("prompt", *prompt, "a text");
      TANDEM_RETURN_IF_ERROR(Text("prompt", prompt->get<std::string>()));
    }
    return fields.NothingLeft();
  }

  absl::Status OpenAiForm(const Json& object) {
    Fields envelope(object, "");
    envelope.Take("custom_id");
    if (const Json* method = envelope.Take("method"); method == nullptr || *method != "POST") {
      return Wrong("method", method == nullptr ? Json() : *method, "\"POST\"");
    }
    const Json* url = envelope.Take("url");
    if (url != nullptr && *url == "/v1/chat/completions") {
      row_.form = RowForm::kChatCompletion;
    } else if (url != nullptr && *url == "/v1/completions") {
      row_.form = RowForm::kCompletion;
    } else {
      return Wrong("url", url == nullptr ? Json() : *url,
                   "\"/v1/chat/completions\" or \"/v1/completions\"");
    }
    const Json* body = envelope.Take("body");
    if (body == nullptr || !body->is_object()) {
      return Wrong("body", body == nullptr ? Json() : *body, "an object");
    }
    TANDEM_RETURN_IF_ERROR(envelope.NothingLeft());

    Fields fields(*body, "body.");
    fields.Ignore({"model", "user", "store", "metadata", "service_tier", "stream_options"});
    TANDEM_RETURN_IF_ERROR(ReadSampling(fields, row_.form, &row_.sampling));
    TANDEM_RETURN_IF_ERROR(Logprobs(fields));
    const Json* best_of = fields.Take("best_of");
    if (best_of != nullptr && *best_of != row_.sampling.n.value_or(1)) {
      return fields.Bad("best_of", *best_of, "as many as n: answers are not ranked");
    }
    for (const char* name : {"stream", "echo"}) {
      const Json* value = fields.Take(name);
      if (value != nullptr && *value != false) {
        return fields.Bad(name, *value, "false: a batch does not have it");
      }
    }
    if (const Json* format = fields.Take("response_format")) {
      if (*format != Json{{"type", "text"}}) {
        return fields.Bad("response_format", *format, "{\"type\":\"text\"}");
      }
    }
    if (row_.form == RowForm::kChatCompletion) {
      TANDEM_ASSIGN_OR_RETURN(const bool hides_tools, HidesTools(fields));
      TANDEM_RETURN_IF_ERROR(Messages(fields, "body.", hides_tools));
    } else {
      const Json* prompt = fields.Take("prompt");
      if (prompt != nullptr && prompt->is_array()) {
        TANDEM_RETURN_IF_ERROR(fields.Read("prompt", &row_.prompt_ids));
      } else if (prompt != nullptr && prompt->is_string()) {
        TANDEM_RETURN_IF_ERROR(Text("body.prompt", prompt->get<std::string>()));
      } else {
        return fields.Bad("prompt", prompt == nullptr ? Json() : *prompt,
                          "a text or a list of token ids");
      }
    }
    return fields.NothingLeft();
  }

 private:
  // Chat: a flag, and how many others beside. Completions: a number alone.
  absl::Status Logprobs(Fields& fields) {
    if (row_.form == RowForm::kCompletion) {
      return fields.Read("logprobs", &row_.sampling.logprobs);
    }
    std::optional<bool> wanted;
    std::optional<int32_t> others;
    TANDEM_RETURN_IF_ERROR(fields.Read("logprobs", &wanted));
    TANDEM_RETURN_IF_ERROR(fields.Read("top_logprobs", &others));
    if (wanted.value_or(false)) {
      row_.sampling.logprobs = others.value_or(0);
    } else if (others.value_or(0) != 0) {
      return fields.Bad("top_logprobs", *others, "none without \"logprobs\": true");
    }
    return absl::OkStatus();
  }
  // tool_choice: whether tools are kept from the model. Choices that the answer would have to be
  // held to are refused: nothing here constrains an answer.
  static absl::StatusOr<bool> HidesTools(Fields& fields) {
    const Json* parallel = fields.Take("parallel_tool_calls");
    const bool has_tools = fields.Take("tools") != nullptr;
    if (has_tools && parallel != nullptr && *parallel != true) {
      return fields.Bad("parallel_tool_calls", *parallel, "true: answers are not constrained");
    }
    const Json* choice = fields.Take("tool_choice");
    if (choice == nullptr || *choice == "auto") return false;
    if (*choice == "none") return true;
    return fields.Bad("tool_choice", *choice,
                      "\"auto\" or \"none\": the model cannot be made to call a tool");
  }
  static absl::Status NoTokenizer(absl::string_view field, const char* instead) {
    return absl::FailedPreconditionError(
        absl::StrCat(field, ": the model has no tokenizer.json; give ", instead));
  }

  const RowReader& reader_;
  BatchRow& row_;
};

}  // namespace

std::string PromptTime::ToText() const { return absl::FormatTime(absl::RFC3339_full, now, zone); }

absl::StatusOr<PromptTime> PromptTime::FromText(const std::string& text) {
  PromptTime time;
  std::string error;
  absl::CivilSecond civil;
  // The clock that the text shows, and the moment; between the two lies the zone.
  if (!absl::ParseTime(absl::RFC3339_full, text, &time.now, &error) || text.size() < 19 ||
      !absl::ParseCivilTime(text.substr(0, 19), &civil)) {
    return absl::InvalidArgumentError(absl::StrCat("found ", text, ", expected a date: ", error));
  }
  const absl::Duration offset = absl::FromCivil(civil, absl::UTCTimeZone()) -
                                absl::FromUnixSeconds(absl::ToUnixSeconds(time.now));
  time.zone = absl::FixedTimeZone(static_cast<int>(absl::ToInt64Seconds(offset)));
  return time;
}

uint64_t RowKey(std::string_view line) { return XXH3_64bits(line.data(), line.size()); }

absl::StatusOr<BatchRow> RowReader::Read(std::string_view line, int64_t number,
                                         std::string* id_out) const {
  BatchRow row;
  row.line = number;
  row.text = line;
  row.key = RowKey(line);
  row.sampling = defaults;
  // A list of ids is as long as the context, or refused.
  const size_t most_values = chat::kMaxJsonValues + limits.max_model_len;
  if (chat::CountJsonValues(line, most_values) > most_values) {
    return absl::InvalidArgumentError(
        absl::StrCat("row: found more than ", most_values, " JSON values, expected fewer"));
  }
  absl::StatusOr<Json> parsed = chat::ParseOrdered(line, "row");
  if (!parsed.ok()) return parsed.status();
  const Json& object = *parsed;
  if (!object.is_object()) return Wrong("row", object, "an object");
  const bool openai = object.contains("custom_id");
  const char* id_field = openai ? "custom_id" : "id";
  const auto id = object.find(id_field);
  const bool whole = id != object.end() && id->is_number_integer() && !openai;
  if (id == object.end() || !(id->is_string() || whole)) {
    return Wrong(id_field, id == object.end() ? Json() : *id,
                 openai ? "a text" : "a text or a whole number");
  }
  row.id = id->dump();
  *id_out = row.id;
  Reading reading(*this, &row);
  TANDEM_RETURN_IF_ERROR(openai ? reading.OpenAiForm(object) : reading.ShortForm(object));
  TANDEM_RETURN_IF_ERROR(server::CheckPrompt(row.prompt_ids, limits));
  if (!row.sampling.stop.empty() && tokenizer == nullptr) {
    return absl::FailedPreconditionError(
        "stop: the model has no tokenizer.json; give stop_token_ids");
  }
  TANDEM_ASSIGN_OR_RETURN(
      row.params,
      server::MakeSampling(row.sampling, model_defaults, limits,
                           static_cast<int64_t>(row.prompt_ids.size()), row.key ^ seed));
  row.choices = std::exchange(row.params.n, 1);
  return row;
}

}  // namespace tandem::batch
