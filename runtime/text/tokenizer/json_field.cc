#include "runtime/text/tokenizer/json_field.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace tandem::tokenizer {
namespace {

constexpr size_t kMaxQuotedBytes = 64;

absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

std::string Quote(std::string_view text) {
  const bool cut = text.size() > kMaxQuotedBytes;
  if (cut) {
    // Not through a character.
    size_t end = kMaxQuotedBytes;
    while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xC0) == 0x80) --end;
    text = text.substr(0, end);
  }
  return absl::StrCat("\"", absl::Utf8SafeCHexEscape(ToAbsl(text)), cut ? "...\"" : "\"");
}

std::string Describe(const nlohmann::json& value) {
  using Kind = nlohmann::json::value_t;
  switch (value.type()) {
    case Kind::string:
      return absl::StrCat("string ", Quote(value.get_ref<const std::string&>()));
    case Kind::boolean:
      return value.get<bool>() ? "true" : "false";
    case Kind::number_integer:
      return absl::StrCat("number ", value.get<int64_t>());
    case Kind::number_unsigned:
      return absl::StrCat("number ", value.get<uint64_t>());
    case Kind::number_float:
      return absl::StrCat("number ", value.get<double>());
    case Kind::array:
      return absl::StrCat("array of ", value.size());
    case Kind::object:
      return "object";
    case Kind::null:
      return "null";
    default:
      return "binary";
  }
}

absl::Status JsonField::Unexpected(std::string_view expected) const {
  return Error(absl::StrCat("found ", Describe(*value_), ", expected ", ToAbsl(expected)));
}

absl::Status JsonField::Error(std::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat(place_, ": ", ToAbsl(what)));
}

std::optional<JsonField> JsonField::Find(std::string_view key) const {
  if (!value_->is_object()) return std::nullopt;
  const auto found = value_->find(key);
  if (found == value_->end() || found->is_null()) return std::nullopt;
  // The first field of a file reads "FILE: model", those below it "FILE: model.vocab".
  const char* separator = place_.find(": ") == std::string::npos ? ": " : ".";
  return JsonField(*found, absl::StrCat(place_, separator, ToAbsl(key)));
}

absl::StatusOr<JsonField> JsonField::Get(std::string_view key) const {
  if (!value_->is_object()) return Unexpected("an object");
  if (std::optional<JsonField> field = Find(key)) return *field;
  return Error(absl::StrCat("found no field ", Quote(key), ", expected one"));
}

JsonField JsonField::At(size_t i) const {
  return JsonField((*value_)[i], absl::StrCat(place_, "[", i, "]"));
}

absl::StatusOr<bool> JsonField::AsBool() const {
  if (!value_->is_boolean()) return Unexpected("true or false");
  return value_->get<bool>();
}

absl::StatusOr<std::string_view> JsonField::AsString() const {
  if (!value_->is_string()) return Unexpected("a string");
  return std::string_view(value_->get_ref<const std::string&>());
}

absl::StatusOr<int32_t> JsonField::AsId(int32_t limit) const {
  if (!value_->is_number_unsigned() || value_->get<uint64_t>() >= static_cast<uint64_t>(limit)) {
    return Unexpected(absl::StrCat("an integer from 0 to ", limit - 1));
  }
  return static_cast<int32_t>(value_->get<uint64_t>());
}

absl::Status JsonField::CheckArray() const {
  return value_->is_array() ? absl::OkStatus() : Unexpected("an array");
}

absl::StatusOr<bool> JsonField::BoolOr(std::string_view key, bool fallback) const {
  const std::optional<JsonField> field = Find(key);
  return field ? field->AsBool() : fallback;
}

absl::StatusOr<bool> JsonField::GetBool(std::string_view key) const {
  TANDEM_ASSIGN_OR_RETURN(const JsonField field, Get(key));
  return field.AsBool();
}

absl::StatusOr<std::string_view> JsonField::Type() const {
  TANDEM_ASSIGN_OR_RETURN(const JsonField field, Get("type"));
  return field.AsString();
}

absl::Status JsonField::CheckKeys(std::span<const std::string_view> known) const {
  if (!value_->is_object()) return Unexpected("an object");
  for (const auto& [key, member] : value_->items()) {
    if (member.is_null() || std::find(known.begin(), known.end(), key) != known.end()) continue;
    return Error(absl::StrCat("found the unknown field ", Quote(key), " (", Describe(member),
                              "), expected none but those of tokenizers 0.21"));
  }
  return absl::OkStatus();
}

}  // namespace tandem::tokenizer
