#include "runtime/text/jinja/filters.h"

#include "absl/strings/str_cat.h"

namespace tandem::jinja {
namespace {

const Filter* Find(std::string_view name) {
  for (const auto find : {FindTextFilter, FindNumberFilter, FindSequenceFilter}) {
    if (const Filter* filter = find(name); filter != nullptr) return filter;
  }
  return nullptr;
}

}  // namespace

bool FilterExists(std::string_view name) { return Find(name) != nullptr; }

absl::StatusOr<Value> ApplyFilter(Interpreter& interpreter, std::string_view name,
                                  const Value& input, const Arguments& arguments) {
  const Filter* filter = Find(name);
  if (filter == nullptr) {
    return TypeError(absl::StrCat("unknown filter '", std::string(name), "'"));
  }
  absl::StatusOr<Value> result = filter->function(interpreter, input, arguments);
  if (result.ok() || result.status().code() != absl::StatusCode::kInvalidArgument ||
      IsRaised(result.status())) {
    return result;
  }
  return TypeError(absl::StrCat("filter '", std::string(name), "': ", result.status().message()));
}

}  // namespace tandem::jinja
