#include "runtime/loader/json_fields.h"

#include <cmath>
#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace tandem::loader {
namespace {

using Json = nlohmann::json;

// Doubles hold every integer up to here; larger ones may have been rounded.
constexpr double kExactIntegers = 9007199254740992.0;

std::optional<int64_t> AsInt(const Json& value) {
  if (value.is_number_unsigned()) {
    const uint64_t number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (value.is_number_float()) {
    const double number = value.get<double>();
    if (std::floor(number) != number || std::fabs(number) > kExactIntegers) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  return std::nullopt;
}

absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

std::string Shown(const Json& value) {
  constexpr size_t kMax = 60;
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  if (text.size() > kMax) text = absl::StrCat(text.substr(0, kMax - 3), "...");
  return text;
}

std::string Quoted(std::string_view text) {
  constexpr size_t kMax = 100;
  return absl::StrCat("\"", absl::CHexEscape(ToAbsl(text.substr(0, kMax))),
                      text.size() > kMax ? "...\"" : "\"");
}

const Json* JsonFields::Get(const char* field) const {
  const auto entry = object_.find(field);
  return entry == object_.end() || entry->is_null() ? nullptr : &*entry;
}

std::string JsonFields::Message(const char* field, std::string_view expected) const {
  const Json* value = Get(field);
  return absl::StrCat(file_, ": ", prefix_, field, ": found ",
                      value == nullptr ? "nothing" : Shown(*value), ", expected ",
                      ToAbsl(expected));
}

absl::Status JsonFields::Wrong(const char* field, std::string_view expected) const {
  return absl::InvalidArgumentError(Message(field, expected));
}

absl::Status JsonFields::Unsupported(const char* field, std::string_view expected) const {
  return absl::UnimplementedError(Message(field, expected));
}

absl::StatusOr<std::optional<int64_t>> JsonFields::Int(const char* field, int64_t min,
                                                       int64_t max) const {
  const Json* value = Get(field);
  if (value == nullptr) return std::optional<int64_t>();
  const std::optional<int64_t> number = AsInt(*value);
  if (!number || *number < min || *number > max) {
    return Wrong(field, absl::StrCat("an integer from ", min, " to ", max));
  }
  return number;
}

absl::StatusOr<std::optional<double>> JsonFields::Double(const char* field, double min,
                                                         double max) const {
  const Json* value = Get(field);
  if (value == nullptr) return std::optional<double>();
  const double number = value->is_number() ? value->get<double>() : NAN;
  if (!(number >= min && number <= max)) {
    return Wrong(field, absl::StrCat("a number from ", min, " to ", max));
  }
  return std::optional<double>(number);
}

absl::StatusOr<std::optional<bool>> JsonFields::Bool(const char* field) const {
  const Json* value = Get(field);
  if (value == nullptr) return std::optional<bool>();
  if (!value->is_boolean()) return Wrong(field, "true or false");
  return std::optional<bool>(value->get<bool>());
}

absl::StatusOr<std::optional<std::string>> JsonFields::String(const char* field) const {
  const Json* value = Get(field);
  if (value == nullptr) return std::optional<std::string>();
  if (!value->is_string()) return Wrong(field, "a string");
  return std::optional<std::string>(value->get<std::string>());
}

absl::StatusOr<std::vector<int32_t>> JsonFields::TokenIds(const char* field) const {
  const Json* value = Get(field);
  std::vector<int32_t> ids;
  if (value == nullptr) return ids;
  const auto add = [&ids](const Json& id) {
    const std::optional<int64_t> number = AsInt(id);
    if (!number || *number < 0 || *number > std::numeric_limits<int32_t>::max()) return false;
    ids.push_back(static_cast<int32_t>(*number));
    return true;
  };
  bool good = true;
  if (value->is_array()) {
    for (const Json& id : *value) good = good && add(id);
  } else {
    good = add(*value);
  }
  if (!good) return Wrong(field, "a token id (an integer from 0) or a list of them");
  return ids;
}

absl::StatusOr<std::vector<std::string>> JsonFields::Strings(const char* field) const {
  const Json* value = Get(field);
  std::vector<std::string> texts;
  if (value == nullptr) return texts;
  if (!value->is_array()) return Wrong(field, "a list of strings");
  for (const Json& text : *value) {
    if (!text.is_string()) return Wrong(field, "a list of strings");
    texts.push_back(text.get<std::string>());
  }
  return texts;
}

absl::StatusOr<int64_t> JsonFields::RequiredInt(const char* field, int64_t min, int64_t max) const {
  TANDEM_ASSIGN_OR_RETURN(const std::optional<int64_t> value, Int(field, min, max));
  if (!value) return Wrong(field, absl::StrCat("an integer from ", min, " to ", max));
  return *value;
}

absl::StatusOr<double> JsonFields::RequiredDouble(const char* field, double min, double max) const {
  TANDEM_ASSIGN_OR_RETURN(const std::optional<double> value, Double(field, min, max));
  if (!value) return Wrong(field, absl::StrCat("a number from ", min, " to ", max));
  return *value;
}

}  // namespace tandem::loader
