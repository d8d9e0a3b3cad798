// The tests behind `is`.
#pragma once

#include <string_view>

#include "runtime/text/jinja/interpreter.h"

namespace tandem::jinja {

bool TestExists(std::string_view name);
// INVALID_ARGUMENT for an unknown test or operands that it cannot work on.
absl::StatusOr<bool> ApplyTest(Interpreter& interpreter, std::string_view name, const Value& value,
                               const Arguments& arguments);

}  // namespace tandem::jinja
