// Methods of Python's built-in types, as far as the sandbox lets templates call them.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/text/jinja/interpreter.h"

namespace tandem::jinja {

struct Method {
  std::string_view name;
  // Null: it exists but would change the object, so the sandbox keeps it away.
  absl::StatusOr<Value> (*function)(Interpreter&, const Value& self, const Arguments&);
};

// The method of that name, or null. The result lives for ever.
const Method* FindMethod(const Value& self, std::string_view name);
const Method* FindStringMethod(std::string_view name);

// Shared by str methods and filters.
absl::StatusOr<std::string> TextOf(const Value& value);  // of a str alone
// A null `chars` strips white space.
std::string StripChars(std::string_view text, const Value* chars, bool left, bool right);
// Words between white space, at most limit + 1 of them; limit < 0: all.
std::vector<std::string_view> SplitSpace(std::string_view text, Int limit, bool from_right);
std::vector<std::string> SplitLines(std::string_view text, bool keep_ends);
absl::StatusOr<std::string> ReplaceAll(Interpreter& interpreter, std::string_view text,
                                       std::string_view from, std::string_view to, Int count);
absl::StatusOr<Value> FormatString(Interpreter& interpreter, std::string_view format,
                                   const Arguments& arguments);

}  // namespace tandem::jinja
