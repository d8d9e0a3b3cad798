// A value of a parsed JSON file together with its place, so that every refusal names the file,
// the field, what was found and what was expected.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace tandem::tokenizer {

// Short and printable, e.g. `string "NFC"`, `number 3`, `array of 2`.
std::string Describe(const nlohmann::json& value);

// Quoted, escaped, and cut after 64 bytes.
std::string Quote(std::string_view text);

// Does not own the value: the document must outlive the field.
class JsonField {
 public:
  // `place` is what messages begin with, e.g. "tokenizer.json".
  JsonField(const nlohmann::json& value, std::string place)
      : value_(&value), place_(std::move(place)) {}

  const nlohmann::json& value() const { return *value_; }
  const std::string& place() const { return place_; }

  // InvalidArgument "PLACE: found FOUND, expected EXPECTED".
  absl::Status Unexpected(std::string_view expected) const;
  absl::Status Error(std::string_view what) const;

  // The member `key`, if this is an object that has it with a value other than null.
  std::optional<JsonField> Find(std::string_view key) const;
  // The same, or an error that names the missing field.
  absl::StatusOr<JsonField> Get(std::string_view key) const;
  // Element `i` of an array.
  JsonField At(size_t i) const;

  // The typed value, or an error.
  absl::StatusOr<bool> AsBool() const;
  absl::StatusOr<std::string_view> AsString() const;
  // An integer in [0, limit).
  absl::StatusOr<int32_t> AsId(int32_t limit) const;
  absl::Status CheckArray() const;

  // The member `key` as bool; `fallback` where it is absent or null.
  absl::StatusOr<bool> BoolOr(std::string_view key, bool fallback) const;
  // The member `key` as bool; absent is an error.
  absl::StatusOr<bool> GetBool(std::string_view key) const;
  // The member "type" of an object.
  absl::StatusOr<std::string_view> Type() const;

  // An error unless this is an object whose keys are all in `known`. A key with a null value
  // passes: it asks for nothing. Refusing the others keeps a setting that a later version of the
  // format adds from being ignored.
  absl::Status CheckKeys(std::span<const std::string_view> known) const;

 private:
  const nlohmann::json* value_;
  std::string place_;
};

}  // namespace tandem::tokenizer
