// What templates find without being given it: range, dict, namespace, cycler, joiner, and
// Transformers' raise_exception and strftime_now.
#pragma once

#include <string_view>

#include "runtime/text/jinja/value.h"

namespace tandem::jinja {

// Undefined if there is none of that name.
Value FindGlobal(Heap& heap, std::string_view name);

// The status of a raise_exception; IsRaised recognizes it.
absl::Status MakeRaised(std::string_view message);

}  // namespace tandem::jinja
