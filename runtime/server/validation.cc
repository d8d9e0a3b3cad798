#include "runtime/server/validation.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/engine/field_error.h"
#include "runtime/engine/sampling_fields.h"

namespace tandem::server {
namespace {

using engine::SamplingRequest;

template <typename T>
absl::Status OutOfRange(absl::string_view field, T found, absl::string_view allowed) {
  return engine::FieldError(std::string(field), absl::StrCat(found, ", allowed: ", allowed));
}

// Fills in one field of the engine's parameters from the request, else from the defaults.
struct Filler {
  const engine::SamplingField& field;
  const SamplingRequest& request;
  const SamplingRequest& defaults;
  engine::SamplingParams* params;

  template <typename T>
  absl::Status operator()(const engine::SamplingScalar<T>& scalar) const {
    const std::optional<T>& asked = request.*scalar.request;
    const std::optional<T>& value = asked.has_value() ? asked : defaults.*scalar.request;
    if (!value.has_value() || scalar.params == nullptr) return absl::OkStatus();
    if (!field.range.Has(*value)) {
      return OutOfRange(absl::StrCat("sampling.", field.name), *value, field.range.words);
    }
    params->*scalar.params = *value;
    return absl::OkStatus();
  }
  template <typename Request, typename Params>
  absl::Status operator()(const engine::SamplingList<Request, Params>& list) const {
    if (list.params != nullptr) {
      const Request& values = request.*list.request;
      params->*list.params = Params(values.begin(), values.end());
    }
    return absl::OkStatus();
  }
};

absl::Status CheckStopTexts(const std::vector<std::string>& texts) {
  static const engine::SamplingField& kField = engine::SamplingFieldNamed("stop");
  const auto& list = std::get<engine::SamplingTexts>(kField.value);
  if (texts.size() > list.most) {
    return OutOfRange("sampling.stop", texts.size(),
                      absl::StrCat("at most ", list.most, " ", list.entries));
  }
  for (size_t i = 0; i < texts.size(); ++i) {
    if (!kField.range.Has(static_cast<double>(texts[i].size()))) {
      return OutOfRange(absl::StrCat("sampling.stop[", i, "]"),
                        absl::StrCat(texts[i].size(), " bytes"), kField.range.words);
    }
  }
  return absl::OkStatus();
}

// Reads one field of generation_config.json.
struct SuggestionReader {
  const loader::GenerationConfig& config;
  SamplingRequest* defaults;

  template <typename T>
  void operator()(const engine::SamplingScalar<T>& scalar) const {
    if (scalar.suggested == nullptr || !(config.*scalar.suggested).has_value()) return;
    defaults->*scalar.request = static_cast<T>(*(config.*scalar.suggested));
  }
  template <typename Request, typename Params>
  void operator()(const engine::SamplingList<Request, Params>&) const {}
};

}  // namespace

absl::Status CheckTokenIds(std::span<const int32_t> ids, int32_t vocab_size, const char* field) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      return OutOfRange(absl::StrCat(field, "[", i, "]"), ids[i],
                        absl::StrCat("0 to ", vocab_size - 1, " (the vocabulary)"));
    }
  }
  return absl::OkStatus();
}

absl::Status PromptTooLong(std::string_view found, const engine::EngineLimits& limits) {
  return engine::FieldError(
      "prompt", absl::StrCat(std::string(found), ", allowed: at most ", limits.max_model_len - 1,
                             " (the context is ", limits.max_model_len, " tokens)"));
}

size_t MaxCountedTokens(const engine::EngineLimits& limits) {
  constexpr size_t kBeyondContext = 65536;
  return limits.max_model_len + kBeyondContext;
}

absl::StatusOr<std::vector<int32_t>> EncodePrompt(const tokenizer::Tokenizer& tokenizer,
                                                  std::string_view text, bool add_special_tokens,
                                                  const engine::EngineLimits& limits) {
  const size_t most = MaxCountedTokens(limits);
  absl::StatusOr<std::vector<int32_t>> ids =
      tokenizer.Encode(text, add_special_tokens, tokenizer::SpecialTokensInText::kParse, most);
  if (ids.ok()) return ids;
  if (absl::IsOutOfRange(ids.status())) {
    return PromptTooLong(absl::StrCat("more than ", most, " tokens"), limits);
  }
  // A pattern that gives up does so again: no status that asks for a retry.
  if (absl::IsResourceExhausted(ids.status())) {
    return engine::FieldError("prompt", std::string(ids.status().message()));
  }
  return ids.status();
}

size_t MaxTextBytes(const tokenizer::Tokenizer* tokenizer, const engine::EngineLimits& limits) {
  const int64_t longest = tokenizer == nullptr ? 0 : tokenizer->longest_token();
  return longest == 0 ? SIZE_MAX : static_cast<size_t>(limits.max_model_len * longest);
}

absl::Status CheckPrompt(std::span<const int32_t> prompt_ids, const engine::EngineLimits& limits) {
  if (prompt_ids.empty()) {
    return engine::FieldError("prompt", "empty, allowed: at least 1 token");
  }
  // Length first: it is the cheaper check and the commoner mistake.
  const auto size = static_cast<int64_t>(prompt_ids.size());
  if (size >= limits.max_model_len) return PromptTooLong(absl::StrCat(size, " tokens"), limits);
  return CheckTokenIds(prompt_ids, limits.vocab_size, "prompt.token_ids");
}

absl::StatusOr<engine::SamplingParams> MakeSampling(const SamplingRequest& request,
                                                    const SamplingRequest& defaults,
                                                    const engine::EngineLimits& limits,
                                                    int64_t prompt_tokens, uint64_t fresh_seed) {
  // The queue takes all choices of a request or none.
  const int32_t most_choices = std::min(engine::kMaxChoices, limits.max_queue);
  if (const int32_t n = request.n.value_or(1); n < 1 || n > most_choices) {
    return OutOfRange("sampling.n", n, absl::StrCat("1 to ", most_choices));
  }
  const auto room = static_cast<int32_t>(limits.max_model_len - prompt_tokens);
  engine::SamplingParams params;
  params.max_tokens = room;
  for (const engine::SamplingField& field : engine::SamplingFields()) {
    TANDEM_RETURN_IF_ERROR(std::visit(Filler{field, request, defaults, &params}, field.value));
  }
  params.max_tokens = std::min(params.max_tokens, room);
  params.seed = request.seed.has_value() ? static_cast<uint64_t>(*request.seed) : fresh_seed;
  TANDEM_RETURN_IF_ERROR(engine::ValidateSamplingParams(params, limits.vocab_size));
  TANDEM_RETURN_IF_ERROR(CheckStopTexts(request.stop));
  return params;
}

SamplingRequest DefaultsOf(const loader::GenerationConfig& config) {
  SamplingRequest defaults;
  for (const engine::SamplingField& field : engine::SamplingFields()) {
    std::visit(SuggestionReader{config, &defaults}, field.value);
  }
  if (config.do_sample.has_value() && !*config.do_sample) defaults.temperature = 0.0f;
  TakeCustomaryValues(&defaults);
  return defaults;
}

void TakeCustomaryValues(SamplingRequest* request) {
  // So little that the most probable token alone is left, at any temperature.
  if (request->top_p == 0.0f) request->top_p = std::numeric_limits<float>::min();
  if (request->top_k == -1) request->top_k = 0;
  if (request->seed == -1) request->seed.reset();
}

uint64_t FreshSeed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

}  // namespace tandem::server
