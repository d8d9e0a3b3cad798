#include "kernels/base/json_field.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/utf8.h"

namespace tandem::json {
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
  const bool too_long = text.size() > kMax;
  if (too_long) {
    // Not through a character.
    size_t end = kMax;
    while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xC0) == 0x80) --end;
    text = text.substr(0, end);
  }
  const bool is_utf8 = FindInvalidUtf8(text) == text.npos;
  return absl::StrCat(
      "\"", is_utf8 ? absl::Utf8SafeCHexEscape(ToAbsl(text)) : absl::CHexEscape(ToAbsl(text)),
      too_long ? "...\"" : "\"");
}

Field::Field(const Json& value, std::string_view file, std::string_view path)
    : value_(&value), place_(file), is_file_(path.empty()) {
  if (!path.empty()) absl::StrAppend(&place_, ": ", ToAbsl(path));
}

absl::Status Field::Unexpected(std::string_view expected) const {
  return Error(absl::StrCat("found ", Shown(*value_), ", expected ", ToAbsl(expected)));
}

absl::Status Field::Error(std::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat(place_, ": ", ToAbsl(what)));
}

const Json* Field::Value(std::string_view key) const {
  if (!value_->is_object()) return nullptr;
  const auto found = value_->find(key);
  return found == value_->end() || found->is_null() ? nullptr : &*found;
}

std::string Field::PlaceOf(std::string_view key) const {
  return absl::StrCat(place_, is_file_ ? ": " : ".", ToAbsl(key));
}

std::optional<Field> Field::Find(std::string_view key) const {
  const Json* value = Value(key);
  if (value == nullptr) return std::nullopt;
  Field field(*value, PlaceOf(key));
  field.is_file_ = false;
  return field;
}

absl::StatusOr<Field> Field::Get(std::string_view key) const {
  if (!value_->is_object()) return Unexpected("an object");
  if (std::optional<Field> field = Find(key)) return *field;
  return Error(absl::StrCat("found no field ", Quoted(key), ", expected one"));
}

Field Field::At(size_t i) const {
  Field field((*value_)[i], absl::StrCat(place_, "[", i, "]"));
  field.is_file_ = false;
  return field;
}

absl::StatusOr<bool> Field::AsBool() const {
  if (!value_->is_boolean()) return Unexpected("true or false");
  return value_->get<bool>();
}

absl::StatusOr<std::string_view> Field::AsString() const {
  if (!value_->is_string()) return Unexpected("a string");
  return std::string_view(value_->get_ref<const std::string&>());
}

absl::StatusOr<int32_t> Field::AsId(int32_t limit) const {
  if (!value_->is_number_unsigned() || value_->get<uint64_t>() >= static_cast<uint64_t>(limit)) {
    return Unexpected(absl::StrCat("an integer from 0 to ", limit - 1));
  }
  return static_cast<int32_t>(value_->get<uint64_t>());
}

absl::Status Field::CheckArray() const {
  return value_->is_array() ? absl::OkStatus() : Unexpected("an array");
}

std::string Field::Message(std::string_view key, std::string_view expected) const {
  const Json* value = Value(key);
  return absl::StrCat(PlaceOf(key), ": found ", value == nullptr ? "nothing" : Shown(*value),
                      ", expected ", ToAbsl(expected));
}

absl::Status Field::Wrong(std::string_view key, std::string_view expected) const {
  return absl::InvalidArgumentError(Message(key, expected));
}

absl::Status Field::Unsupported(std::string_view key, std::string_view expected) const {
  return absl::UnimplementedError(Message(key, expected));
}

absl::StatusOr<std::optional<int64_t>> Field::Int(std::string_view key, int64_t min,
                                                  int64_t max) const {
  const Json* value = Value(key);
  if (value == nullptr) return std::optional<int64_t>();
  const std::optional<int64_t> number = AsInt(*value);
  if (!number || *number < min || *number > max) {
    return Wrong(key, absl::StrCat("an integer from ", min, " to ", max));
  }
  return number;
}

absl::StatusOr<std::optional<double>> Field::Double(std::string_view key, double min,
                                                    double max) const {
  const Json* value = Value(key);
  if (value == nullptr) return std::optional<double>();
  const double number = value->is_number() ? value->get<double>() : NAN;
  if (!(number >= min && number <= max)) {
    return Wrong(key, absl::StrCat("a number from ", min, " to ", max));
  }
  return std::optional<double>(number);
}

absl::StatusOr<std::optional<bool>> Field::Bool(std::string_view key) const {
  const std::optional<Field> field = Find(key);
  if (!field) return std::optional<bool>();
  TANDEM_ASSIGN_OR_RETURN(const bool value, field->AsBool());
  return std::optional<bool>(value);
}

absl::StatusOr<std::optional<std::string>> Field::String(std::string_view key) const {
  const std::optional<Field> field = Find(key);
  if (!field) return std::optional<std::string>();
  TANDEM_ASSIGN_OR_RETURN(const std::string_view value, field->AsString());
  return std::optional<std::string>(value);
}

absl::StatusOr<std::vector<int32_t>> Field::TokenIds(std::string_view key) const {
  const Json* value = Value(key);
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
  if (!good) return Wrong(key, "a token id (an integer from 0) or a list of them");
  return ids;
}

absl::StatusOr<std::vector<std::string>> Field::Strings(std::string_view key) const {
  const Json* value = Value(key);
  std::vector<std::string> texts;
  if (value == nullptr) return texts;
  if (!value->is_array()) return Wrong(key, "a list of strings");
  for (const Json& text : *value) {
    if (!text.is_string()) return Wrong(key, "a list of strings");
    texts.push_back(text.get<std::string>());
  }
  return texts;
}

absl::StatusOr<bool> Field::BoolOr(std::string_view key, bool fallback) const {
  const std::optional<Field> field = Find(key);
  return field ? field->AsBool() : fallback;
}

absl::StatusOr<int64_t> Field::RequiredInt(std::string_view key, int64_t min, int64_t max) const {
  TANDEM_ASSIGN_OR_RETURN(const std::optional<int64_t> value, Int(key, min, max));
  if (!value) return Wrong(key, absl::StrCat("an integer from ", min, " to ", max));
  return *value;
}

absl::StatusOr<double> Field::RequiredDouble(std::string_view key, double min, double max) const {
  TANDEM_ASSIGN_OR_RETURN(const std::optional<double> value, Double(key, min, max));
  if (!value) return Wrong(key, absl::StrCat("a number from ", min, " to ", max));
  return *value;
}

absl::StatusOr<bool> Field::GetBool(std::string_view key) const {
  TANDEM_ASSIGN_OR_RETURN(const Field field, Get(key));
  return field.AsBool();
}

absl::StatusOr<std::string_view> Field::Type() const {
  TANDEM_ASSIGN_OR_RETURN(const Field field, Get("type"));
  return field.AsString();
}

absl::Status Field::CheckKeys(std::span<const std::string_view> known) const {
  if (!value_->is_object()) return Unexpected("an object");
  for (const auto& [key, member] : value_->items()) {
    if (member.is_null() || std::find(known.begin(), known.end(), key) != known.end()) continue;
    std::string names;
    for (const std::string_view name : known) {
      absl::StrAppend(&names, names.empty() ? "" : ", ", ToAbsl(name));
    }
    return Error(absl::StrCat("found the unknown field ", Quoted(key), " (", Shown(member),
                              "), expected only ", names));
  }
  return absl::OkStatus();
}

}  // namespace tandem::json
