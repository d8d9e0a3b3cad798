#include "runtime/engine/sampling_params.h"

#include <string>
#include <variant>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/engine/field_error.h"
#include "runtime/engine/sampling_fields.h"

namespace tandem::engine {
namespace {

template <typename T>
absl::Status OutOfRange(absl::string_view field, T found, absl::string_view allowed) {
  return FieldError(absl::StrCat("sampling.", field), absl::StrCat(found, ", allowed: ", allowed));
}

absl::Status CheckEntry(const SamplingField& field, size_t index, int32_t id, int32_t vocab_size) {
  if (id >= 0 && id < vocab_size) return absl::OkStatus();
  return OutOfRange(absl::StrCat(field.name, "[", index, "]"), id,
                    absl::StrCat("0 to ", vocab_size - 1, " (the vocabulary)"));
}

absl::Status CheckEntry(const SamplingField& field, size_t /*index*/,
                        const std::pair<int32_t, float>& entry, int32_t vocab_size) {
  const auto [id, bias] = entry;
  if (id < 0 || id >= vocab_size) {
    return OutOfRange(field.name, id,
                      absl::StrCat("ids 0 to ", vocab_size - 1, " (the vocabulary)"));
  }
  if (!field.range.Has(bias)) {
    return OutOfRange(absl::StrCat(field.name, "[", id, "]"), bias, field.range.words);
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status CheckValue(const SamplingField& field, const SamplingScalar<T>& scalar,
                        const SamplingParams& params, int32_t /*vocab_size*/) {
  static const SamplingParams kUnset;
  if (scalar.params == nullptr) return absl::OkStatus();
  const T value = params.*scalar.params;
  // -1 logprobs say that there are none, and a caller cannot ask for -1 (see MakeSampling).
  if (value == kUnset.*scalar.params || field.range.Has(value)) return absl::OkStatus();
  return OutOfRange(field.name, value, field.range.words);
}

template <typename Request, typename Params>
absl::Status CheckValue(const SamplingField& field, const SamplingList<Request, Params>& list,
                        const SamplingParams& params, int32_t vocab_size) {
  if constexpr (std::is_same_v<Params, std::vector<std::string>>) {
    return absl::OkStatus();  // the front's
  } else {
    const Params& entries = params.*list.params;
    if (entries.size() > list.most) {
      return OutOfRange(field.name, entries.size(),
                        absl::StrCat("at most ", list.most, " ", list.entries));
    }
    for (size_t i = 0; i < entries.size(); ++i) {
      TANDEM_RETURN_IF_ERROR(CheckEntry(field, i, entries[i], vocab_size));
    }
    return absl::OkStatus();
  }
}

}  // namespace

absl::Status ValidateSamplingParams(const SamplingParams& params, int32_t vocab_size) {
  for (const SamplingField& field : SamplingFields()) {
    TANDEM_RETURN_IF_ERROR(
        std::visit([&](const auto& value) { return CheckValue(field, value, params, vocab_size); },
                   field.value));
  }
  if (params.min_tokens > params.max_tokens) {
    return OutOfRange("min_tokens", params.min_tokens,
                      absl::StrCat("0 to ", params.max_tokens, " (max_tokens and the context)"));
  }
  return absl::OkStatus();
}

}  // namespace tandem::engine
