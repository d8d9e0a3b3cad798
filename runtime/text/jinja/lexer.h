// Cuts a template into tokens exactly as Jinja2's lexer does when it is set up with
// trim_blocks and lstrip_blocks, which is how Transformers sets it up.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::jinja {

enum class TokenType {
  kData,           // text outside tags
  kVariableBegin,  // {{
  kVariableEnd,
  kBlockBegin,  // {%
  kBlockEnd,
  kName,
  kString,   // value: the unescaped text
  kInteger,  // value: digits without underscores, with any 0x, 0o or 0b
  kFloat,
  kOperator,  // value: the operator's characters
  kEnd,
};

struct Token {
  TokenType type = TokenType::kEnd;
  std::string value;
  int line = 1;
};

// The tokens of `source`, the last one kEnd. Errors are INVALID_ARGUMENT, "line N: ...".
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

}  // namespace tandem::jinja
