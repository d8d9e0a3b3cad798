// An interpreter for Jinja2 as chat templates use it: Hugging Face's setting of the language
// (sandboxed and immutable, trim_blocks, lstrip_blocks, loop controls, a tojson that is
// json.dumps, raise_exception, strftime_now).
//
// Sources: the Jinja2 3.1 documentation for the language, and the behaviour of Jinja2 3.1
// itself, against which tests/golden/templates was made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"

namespace tandem::jinja {

struct ParsedTemplate;

struct RenderOptions {
  // A template may come from anywhere: each limit ends the rendering with RESOURCE_EXHAUSTED.
  size_t max_output_bytes = size_t{64} << 20;
  uint64_t max_steps = 20'000'000;              // expressions and iterations
  size_t max_memory_bytes = size_t{512} << 20;  // alive at a time, the variables included
  int max_depth = 600;                          // nested expressions, blocks and macro calls
  // The time that strftime_now gives.
  absl::Time now = absl::Now();
  absl::TimeZone time_zone = absl::LocalTimeZone();
};

class Template {
 public:
  // INVALID_ARGUMENT "line N: what is wrong".
  static absl::StatusOr<Template> Parse(std::string_view source);

  // Renders with the members of `variables` (an object or null) as variables.
  // INVALID_ARGUMENT "line N: what went wrong", or exactly what the template said when it
  // called raise_exception; RESOURCE_EXHAUSTED where a limit was met.
  // Const and without shared state: any number of threads may render one template.
  absl::StatusOr<std::string> Render(const nlohmann::ordered_json& variables,
                                     const RenderOptions& options = RenderOptions()) const;

 private:
  explicit Template(std::shared_ptr<const ParsedTemplate> parsed) : parsed_(std::move(parsed)) {}

  std::shared_ptr<const ParsedTemplate> parsed_;
};

}  // namespace tandem::jinja
