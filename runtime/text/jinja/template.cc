#include "runtime/text/jinja/template.h"

#include "runtime/text/jinja/interpreter.h"
#include "runtime/text/jinja/parser.h"

namespace tandem::jinja {

struct ParsedTemplate {
  Body body;
};

absl::StatusOr<Template> Template::Parse(std::string_view source) {
  absl::StatusOr<Body> body = ParseTemplate(source);
  if (!body.ok()) return body.status();
  auto parsed = std::make_shared<ParsedTemplate>();
  parsed->body = *std::move(body);
  return Template(std::move(parsed));
}

absl::StatusOr<std::string> Template::Render(const nlohmann::ordered_json& variables,
                                             const RenderOptions& options) const {
  return Interpreter(options).Run(parsed_->body, variables);
}

}  // namespace tandem::jinja
