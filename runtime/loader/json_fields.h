// Checked access to the fields of a JSON object from outside. nlohmann's own
// get<>() turns 1.9 into 1 and -1 into 2^64 - 1 without a word; these refuse.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace tandem::loader {

// A value as it is shown in messages: at most 60 printable bytes.
std::string Shown(const nlohmann::json& value);

// Text from a file as it is shown in messages: quoted, escaped, at most 100 bytes.
std::string Quoted(std::string_view text);

// Views an object that must outlive it. A field that is null counts as absent,
// as in Transformers. All messages are "FILE: FIELD: found X, expected Y".
class JsonFields {
 public:
  // `prefix` is what stands before field names: "" or "rope_scaling.".
  JsonFields(std::string_view file, std::string_view prefix, const nlohmann::json& object)
      : file_(file), prefix_(prefix), object_(object) {}

  const std::string& file() const { return file_; }

  // Nullptr if absent or null.
  const nlohmann::json* Get(const char* field) const;

  // The value, or nullopt if absent. Integers may be written 4096 or 4096.0,
  // not 4096.5; both ends of a range are included.
  absl::StatusOr<std::optional<int64_t>> Int(const char* field, int64_t min, int64_t max) const;
  absl::StatusOr<std::optional<double>> Double(const char* field, double min, double max) const;
  absl::StatusOr<std::optional<bool>> Bool(const char* field) const;
  absl::StatusOr<std::optional<std::string>> String(const char* field) const;
  // A number or a list of numbers (token ids, >= 0); empty if absent.
  absl::StatusOr<std::vector<int32_t>> TokenIds(const char* field) const;
  // A list of strings; empty if absent.
  absl::StatusOr<std::vector<std::string>> Strings(const char* field) const;

  absl::StatusOr<int64_t> RequiredInt(const char* field, int64_t min, int64_t max) const;
  absl::StatusOr<double> RequiredDouble(const char* field, double min, double max) const;

  // "FILE: FIELD: found X, expected Y" of a value that is there, or of one that is not.
  absl::Status Wrong(const char* field, std::string_view expected) const;
  // The same as Unimplemented: valid, but not supported.
  absl::Status Unsupported(const char* field, std::string_view expected) const;

 private:
  std::string Message(const char* field, std::string_view expected) const;
  std::string file_;
  std::string prefix_;
  const nlohmann::json& object_;
};

}  // namespace tandem::loader
