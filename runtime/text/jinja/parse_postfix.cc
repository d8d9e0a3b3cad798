// What follows an operand: subscripts, calls, filters and tests.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/template_parser.h"
#include "runtime/text/jinja/tests.h"

namespace tandem::jinja {

ExprOr Parser::ParsePostfix(ExprPtr node) {
  for (;;) {
    if (IsOp(".") || IsOp("[")) {
      JINJA_ASSIGN(node, ParseSubscript(std::move(node)));
    } else if (IsOp("(")) {
      JINJA_ASSIGN(node, ParseCall(std::move(node)));
    } else {
      return node;
    }
  }
}

ExprOr Parser::ParseFiltersAndTests(ExprPtr node) {
  for (;;) {
    if (IsOp("|")) {
      JINJA_ASSIGN(node, ParseFilters(std::move(node), false));
    } else if (IsName("is")) {
      JINJA_ASSIGN(node, ParseTest(std::move(node)));
    } else if (IsOp("(")) {
      JINJA_ASSIGN(node, ParseCall(std::move(node)));
    } else {
      return node;
    }
  }
}

ExprOr Parser::ParseSubscript(ExprPtr object) {
  const Token& token = Take();
  const int line = token.line;
  if (token.value == ".") {
    const Token& name = Peek();
    ExprPtr node;
    if (name.type == TokenType::kName) {
      node = Make(ExprType::kAttribute, line);
      node->name = name.value;
      JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(object)));
    } else if (name.type == TokenType::kInteger) {
      node = Make(ExprType::kSubscript, line);
      ExprPtr index = Make(ExprType::kConstant, line);
      JINJA_ASSIGN(index->constant, ParseNumber(name));
      JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(object)));
      JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(index)));
    } else {
      return Expected("a name or a number after '.'");
    }
    Take();
    return node;
  }
  std::vector<ExprPtr> indices;
  bool sliced = false;
  ExprPtr slice;
  while (!IsOp("]")) {
    if (!indices.empty() || sliced) {
      JINJA_RETURN_IF_ERROR(ExpectOp(","));
      if (sliced) return Error("a slice cannot be part of a tuple", line);
    }
    ExprPtr first;
    if (!IsOp(":")) {
      JINJA_ASSIGN(first, ParseExpression());
      if (!IsOp(":")) {
        indices.push_back(std::move(first));
        continue;
      }
    }
    if (!indices.empty()) return Error("a slice cannot be part of a tuple", line);
    JINJA_ASSIGN(slice, ParseSliceRest(std::move(first), line));
    sliced = true;
  }
  Take();
  if (sliced) {
    slice->depth = std::max(slice->depth, object->depth + 1);
    if (slice->depth > kMaxExprDepth) return Error("expression is nested too deeply");
    slice->items[0] = std::move(object);
    return slice;
  }
  ExprPtr node = Make(ExprType::kSubscript, line);
  JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(object)));
  if (indices.size() == 1) {
    JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(indices[0])));
    return node;
  }
  ExprPtr tuple = Make(ExprType::kTuple, line);
  for (ExprPtr& index : indices) JINJA_RETURN_IF_ERROR(Adopt(tuple.get(), std::move(index)));
  JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(tuple)));
  return node;
}

ExprOr Parser::ParseSliceRest(ExprPtr start, int line) {
  ExprPtr node = Make(ExprType::kSlice, line);
  Take();
  ExprPtr stop, step;
  if (!IsOp(":") && !IsOp("]") && !IsOp(",")) {
    JINJA_ASSIGN(stop, ParseExpression());
  }
  if (SkipOp(":") && !IsOp("]") && !IsOp(",")) {
    JINJA_ASSIGN(step, ParseExpression());
  }
  JINJA_RETURN_IF_ERROR(Adopt(node.get(), nullptr));
  JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(start)));
  JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(stop)));
  JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(step)));
  return node;
}

absl::Status Parser::ParseArguments(Expr* node) {
  const int line = Take().line;
  node->args = std::make_unique<CallArguments>();
  CallArguments& args = *node->args;
  const absl::Status invalid = Error("invalid order of arguments in call", line);
  bool first = true;
  while (!IsOp(")")) {
    if (!first) {
      JINJA_RETURN_IF_ERROR(ExpectOp(","));
      if (IsOp(")")) break;
    }
    first = false;
    ExprPtr* place = nullptr;
    std::string keyword;
    if (SkipOp("*")) {
      if (args.star != nullptr || args.double_star != nullptr) return invalid;
      place = &args.star;
    } else if (SkipOp("**")) {
      if (args.double_star != nullptr) return invalid;
      place = &args.double_star;
    } else if (Peek().type == TokenType::kName && IsOp("=", 1)) {
      if (args.double_star != nullptr) return invalid;
      keyword = Take().value;
      Take();
      for (const auto& [name, unused] : args.named) {
        if (name == keyword) return Error(absl::StrCat("keyword '", name, "' is repeated"));
      }
    } else if (args.star != nullptr || args.double_star != nullptr || !args.named.empty()) {
      return invalid;
    }
    JINJA_ASSIGN(ExprPtr value, ParseExpression());
    node->depth = std::max(node->depth, value->depth + 1);
    if (place != nullptr) {
      *place = std::move(value);
    } else if (!keyword.empty()) {
      args.named.emplace_back(std::move(keyword), std::move(value));
    } else {
      args.positional.push_back(std::move(value));
    }
  }
  Take();
  if (node->depth > kMaxExprDepth) return Error("expression is nested too deeply");
  return absl::OkStatus();
}

ExprOr Parser::ParseCall(ExprPtr callee) {
  ExprPtr node = Make(ExprType::kCall, Peek().line);
  JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(callee)));
  JINJA_RETURN_IF_ERROR(ParseArguments(node.get()));
  return node;
}

absl::StatusOr<std::string> Parser::ParseDottedName() {
  JINJA_ASSIGN(std::string name, ExpectName());
  while (SkipOp(".")) {
    JINJA_ASSIGN(std::string part, ExpectName());
    absl::StrAppend(&name, ".", part);
  }
  return name;
}

ExprOr Parser::ParseFilters(ExprPtr node, bool inline_start) {
  while (inline_start || IsOp("|")) {
    if (!inline_start) Take();
    inline_start = false;
    ExprPtr filter = Make(ExprType::kFilter, Peek().line);
    JINJA_ASSIGN(filter->name, ParseDottedName());
    if (!FilterExists(filter->name)) {
      unknown_.push_back(Error(absl::StrCat("unknown filter '", filter->name, "'")));
    }
    JINJA_RETURN_IF_ERROR(Adopt(filter.get(), std::move(node)));
    if (IsOp("(")) JINJA_RETURN_IF_ERROR(ParseArguments(filter.get()));
    node = std::move(filter);
  }
  return node;
}

ExprOr Parser::ParseTest(ExprPtr operand) {
  const int line = Take().line;
  const bool negated = SkipName("not");
  ExprPtr node = Make(ExprType::kTest, line);
  JINJA_ASSIGN(node->name, ParseDottedName());
  if (!TestExists(node->name)) {
    unknown_.push_back(Error(absl::StrCat("unknown test '", node->name, "'"), line));
  }
  JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(operand)));
  const TokenType next = Peek().type;
  if (IsOp("(")) {
    JINJA_RETURN_IF_ERROR(ParseArguments(node.get()));
  } else if ((next == TokenType::kName && !IsName("else") && !IsName("or") && !IsName("and")) ||
             next == TokenType::kString || next == TokenType::kInteger ||
             next == TokenType::kFloat || IsOp("[") || IsOp("{")) {
    if (IsName("is")) return Error("tests cannot be chained with 'is'");
    JINJA_ASSIGN(ExprPtr argument, ParsePrimary(false));
    JINJA_ASSIGN(argument, ParsePostfix(std::move(argument)));
    node->depth = std::max(node->depth, argument->depth + 1);
    node->args = std::make_unique<CallArguments>();
    node->args->positional.push_back(std::move(argument));
  }
  if (!negated) return node;
  ExprPtr inverted = Make(ExprType::kNot, line);
  JINJA_RETURN_IF_ERROR(Adopt(inverted.get(), std::move(node)));
  return inverted;
}

}  // namespace tandem::jinja
