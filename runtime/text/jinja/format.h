// Text as Python makes it: repr, str, json.dumps, the % operator and str.format.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/text/jinja/value.h"

namespace tandem::jinja {

// float.__repr__: the shortest digits that read back as the same number.
std::string FloatRepr(double value);
// Python's round-half-even to `precision` decimal digits of the exact binary value.
std::string FloatFixed(double value, int precision);

// repr(value) and str(value). `heap` bounds the size of the result. RESOURCE_EXHAUSTED when
// it is too long, INVALID_ARGUMENT when nested too deeply.
absl::Status AppendRepr(const Value& value, const Heap& heap, std::string* out, int depth = 0);
absl::StatusOr<std::string> Repr(const Value& value, const Heap& heap);
absl::StatusOr<std::string> Str(const Value& value, const Heap& heap);

struct JsonOptions {
  bool ensure_ascii = false;
  std::optional<std::string> indent;  // one level's
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};
// json.dumps(value, ...)
absl::StatusOr<std::string> JsonDumps(const Value& value, const JsonOptions& options,
                                      const Heap& heap);

// format % value. `named` (may be null) serves %(name)s.
absl::StatusOr<std::string> PercentFormat(std::string_view format, const Value& value,
                                          const Heap& heap);

// format(value, spec) for str, int, float and bool.
absl::StatusOr<std::string> FormatWithSpec(const Value& value, std::string_view spec,
                                           const Heap& heap);

// HTML: & < > ' " become entities.
std::string EscapeHtml(std::string_view text);

}  // namespace tandem::jinja
