// Builds the tree of a template, with Jinja2's grammar plus what Transformers adds: loop
// controls and the generation block.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/text/jinja/ast.h"

namespace tandem::jinja {

// Errors are INVALID_ARGUMENT, "line N: ...". Nesting is bounded, so that neither parsing nor
// anything that walks the tree can exhaust the stack.
absl::StatusOr<Body> ParseTemplate(std::string_view source);

}  // namespace tandem::jinja
