// Checked access to JSON from outside. Each value carries its place, so that every error names the
// file, the field, what was found and what was expected: "config.json: rope_scaling.factor: found
// -1, expected a number from 0 to 1000000".
//
// nlohmann's own get<>() turns 1.9 into 1 and -1 into 2^64 - 1 silently; these functions refuse.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace tandem::json {

// A value as messages show it: at most 60 printable bytes of JSON.
std::string Shown(const nlohmann::json& value);

// Text as messages show it: quoted, escaped, at most 100 bytes.
std::string Quoted(std::string_view text);

// A value and its place. The document must outlive it. A member that is null counts as absent, as
// in Transformers. Errors are INVALID_ARGUMENT, "PLACE: found FOUND, expected EXPECTED".
class Field {
 public:
  // The whole of a file, or of a text that messages call `file`.
  Field(const nlohmann::json& value, std::string_view file) : value_(&value), place_(file) {}
  // A value inside, "rope_scaling" of "config.json" say; a path of "" is the whole of the file.
  Field(const nlohmann::json& value, std::string_view file, std::string_view path);

  const nlohmann::json& value() const { return *value_; }
  const std::string& place() const { return place_; }

  absl::Status Unexpected(std::string_view expected) const;
  absl::Status Error(std::string_view what) const;

  // Member `key`: absent also where this is no object.
  std::optional<Field> Find(std::string_view key) const;
  // The same as the bare value; null where it is absent.
  const nlohmann::json* Value(std::string_view key) const;
  // The same; absent is an error.
  absl::StatusOr<Field> Get(std::string_view key) const;
  // Element `i` of an array.
  Field At(size_t i) const;

  // The typed value.
  absl::StatusOr<bool> AsBool() const;
  absl::StatusOr<std::string_view> AsString() const;
  absl::StatusOr<int32_t> AsId(int32_t limit) const;  // an integer in [0, limit), written as one
  absl::Status CheckArray() const;

  // Typed members, nullopt where absent. Integers may be written 4096 or 4096.0, not 4096.5. Both
  // ends of a range are included.
  absl::StatusOr<std::optional<int64_t>> Int(std::string_view key, int64_t min, int64_t max) const;
  absl::StatusOr<std::optional<double>> Double(std::string_view key, double min, double max) const;
  absl::StatusOr<std::optional<bool>> Bool(std::string_view key) const;
  absl::StatusOr<std::optional<std::string>> String(std::string_view key) const;
  // A number or a list of numbers (token ids, >= 0); empty where absent.
  absl::StatusOr<std::vector<int32_t>> TokenIds(std::string_view key) const;
  // A list of strings; empty where absent.
  absl::StatusOr<std::vector<std::string>> Strings(std::string_view key) const;
  absl::StatusOr<bool> BoolOr(std::string_view key, bool fallback) const;

  // Typed members of which absence is an error.
  absl::StatusOr<int64_t> RequiredInt(std::string_view key, int64_t min, int64_t max) const;
  absl::StatusOr<double> RequiredDouble(std::string_view key, double min, double max) const;
  absl::StatusOr<bool> GetBool(std::string_view key) const;
  absl::StatusOr<std::string_view> Type() const;  // the member "type"

  // The error of member `key`, which may be absent: "PLACE: KEY: found X, expected EXPECTED".
  absl::Status Wrong(std::string_view key, std::string_view expected) const;
  // The same as UNIMPLEMENTED: valid, but not supported.
  absl::Status Unsupported(std::string_view key, std::string_view expected) const;

  // An error unless this is an object whose keys are all in `known`. A key with a null value
  // passes: it asks for nothing. So a setting that a later version of the format adds is never
  // ignored.
  absl::Status CheckKeys(std::span<const std::string_view> known) const;

 private:
  std::string PlaceOf(std::string_view key) const;
  std::string Message(std::string_view key, std::string_view expected) const;

  const nlohmann::json* value_;
  std::string place_;
  bool is_file_ = true;  // the place is a file, not a value inside
};

}  // namespace tandem::json
