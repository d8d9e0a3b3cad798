// The filters behind `|`.
#pragma once

#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "runtime/text/jinja/interpreter.h"

namespace tandem::jinja {

using FilterFunction = absl::StatusOr<Value> (*)(Interpreter&, const Value& input,
                                                 const Arguments&);
struct Filter {
  std::string_view name;
  FilterFunction function;
};

bool FilterExists(std::string_view name);
// INVALID_ARGUMENT for an unknown filter or values that it cannot work on.
absl::StatusOr<Value> ApplyFilter(Interpreter& interpreter, std::string_view name,
                                  const Value& input, const Arguments& arguments);

// Null if it is not in that file's table.
const Filter* FindTextFilter(std::string_view name);
const Filter* FindNumberFilter(std::string_view name);
const Filter* FindSequenceFilter(std::string_view name);

}  // namespace tandem::jinja
