// Expressions, from loosest to tightest.
#include <algorithm>
#include <charconv>
#include <limits>

#include "runtime/text/jinja/template_parser.h"

namespace tandem::jinja {

ExprOr Parser::ParseExpression(bool with_conditional) {
  Nesting nesting(&expr_nesting_);
  if (expr_nesting_ > kMaxExprNesting) return Error("expression is nested too deeply");
  return with_conditional ? ParseConditional() : ParseOr();
}

ExprOr Parser::ParseConditional() {
  // Inside a conditional an unknown filter is an error only where it is reached.
  const size_t begin = unknown_.size();
  JINJA_ASSIGN(ExprPtr then, ParseOr());
  while (IsName("if")) {
    const int line = Take().line;
    ExprPtr node = Make(ExprType::kConditional, line);
    JINJA_ASSIGN(ExprPtr condition, ParseOr());
    ExprPtr otherwise;
    if (SkipName("else")) {
      Nesting nesting(&expr_nesting_);
      if (expr_nesting_ > kMaxExprNesting) return Error("expression is nested too deeply");
      JINJA_ASSIGN(otherwise, ParseConditional());
    }
    unknown_.resize(std::min(begin, unknown_.size()));
    JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(then)));
    JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(condition)));
    JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(otherwise)));
    then = std::move(node);
  }
  return then;
}

ExprOr Parser::ParseOr() {
  JINJA_ASSIGN(ExprPtr left, ParseAnd());
  while (IsName("or")) {
    ExprPtr node = Make(ExprType::kOr, Take().line);
    JINJA_ASSIGN(ExprPtr right, ParseAnd());
    JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(left)));
    JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(right)));
    left = std::move(node);
  }
  return left;
}

ExprOr Parser::ParseAnd() {
  JINJA_ASSIGN(ExprPtr left, ParseNot());
  while (IsName("and")) {
    ExprPtr node = Make(ExprType::kAnd, Take().line);
    JINJA_ASSIGN(ExprPtr right, ParseNot());
    JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(left)));
    JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(right)));
    left = std::move(node);
  }
  return left;
}

ExprOr Parser::ParseNot() {
  if (!IsName("not")) return ParseCompare();
  Nesting nesting(&expr_nesting_);
  if (expr_nesting_ > kMaxExprNesting) return Error("expression is nested too deeply");
  ExprPtr node = Make(ExprType::kNot, Take().line);
  JINJA_ASSIGN(ExprPtr operand, ParseNot());
  JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(operand)));
  return node;
}

ExprOr Parser::ParseCompare() {
  const int line = Peek().line;
  JINJA_ASSIGN(ExprPtr first, ParseSum());
  ExprPtr node;
  for (;;) {
    std::string op;
    if (Peek().type == TokenType::kOperator &&
        (IsOp("==") || IsOp("!=") || IsOp("<") || IsOp("<=") || IsOp(">") || IsOp(">="))) {
      op = Take().value;
    } else if (SkipName("in")) {
      op = "in";
    } else if (IsName("not") && IsName("in", 1)) {
      Take();
      Take();
      op = "not in";
    } else {
      break;
    }
    if (node == nullptr) {
      node = Make(ExprType::kCompare, line);
      JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(first)));
    }
    JINJA_ASSIGN(ExprPtr right, ParseSum());
    node->operators.push_back(std::move(op));
    JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(right)));
  }
  if (node != nullptr) return node;
  return first;
}

ExprOr Parser::ParseSum() {
  JINJA_ASSIGN(ExprPtr left, ParseConcat());
  while (IsOp("+") || IsOp("-")) {
    JINJA_ASSIGN(left, ParseBinaryRest(std::move(left), &Parser::ParseConcat));
  }
  return left;
}

ExprOr Parser::ParseConcat() {
  JINJA_ASSIGN(ExprPtr first, ParseProduct());
  if (!IsOp("~")) return first;
  ExprPtr node = Make(ExprType::kConcat, Peek().line);
  JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(first)));
  while (SkipOp("~")) {
    JINJA_ASSIGN(ExprPtr next, ParseProduct());
    JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(next)));
  }
  return node;
}

ExprOr Parser::ParseProduct() {
  JINJA_ASSIGN(ExprPtr left, ParsePower());
  while (IsOp("*") || IsOp("/") || IsOp("//") || IsOp("%")) {
    JINJA_ASSIGN(left, ParseBinaryRest(std::move(left), &Parser::ParsePower));
  }
  return left;
}

ExprOr Parser::ParsePower() {
  JINJA_ASSIGN(ExprPtr left, ParseUnary());
  while (IsOp("**")) {
    JINJA_ASSIGN(left, ParseBinaryRest(std::move(left), &Parser::ParseUnaryWithFilters));
  }
  return left;
}

ExprOr Parser::ParseBinaryRest(ExprPtr left, ExprOr (Parser::*parse_right)()) {
  const Token& op = Take();
  ExprPtr node = Make(ExprType::kBinary, op.line);
  node->name = op.value;
  JINJA_ASSIGN(ExprPtr right, (this->*parse_right)());
  JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(left)));
  JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(right)));
  return node;
}

ExprOr Parser::ParseUnary(bool with_filters) {
  ExprPtr node;
  if (IsOp("-") || IsOp("+")) {
    Nesting nesting(&expr_nesting_);
    if (expr_nesting_ > kMaxExprNesting) return Error("expression is nested too deeply");
    const Token& sign = Take();
    node = Make(sign.value == "-" ? ExprType::kNegate : ExprType::kPlus, sign.line);
    JINJA_ASSIGN(ExprPtr operand, ParseUnary(false));
    JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(operand)));
  } else {
    JINJA_ASSIGN(node, ParsePrimary(false));
  }
  JINJA_ASSIGN(node, ParsePostfix(std::move(node)));
  if (with_filters) return ParseFiltersAndTests(std::move(node));
  return node;
}

ExprOr Parser::ParsePrimary(bool namespace_target) {
  const Token token = Peek();
  switch (token.type) {
    case TokenType::kName: {
      Take();
      return ParseName(token, namespace_target);
    }
    case TokenType::kString: {
      std::string text;
      while (Peek().type == TokenType::kString) text += Take().value;
      ExprPtr node = Make(ExprType::kConstant, token.line);
      node->constant = ConstantString(std::move(text));
      return node;
    }
    case TokenType::kInteger:
    case TokenType::kFloat: {
      Take();
      ExprPtr node = Make(ExprType::kConstant, token.line);
      JINJA_ASSIGN(node->constant, ParseNumber(token));
      return node;
    }
    default:
      break;
  }
  if (SkipOp("(")) {
    JINJA_ASSIGN(ExprPtr node, ParseTuple({.in_parentheses = true}));
    JINJA_RETURN_IF_ERROR(ExpectOp(")"));
    return node;
  }
  if (IsOp("[")) return ParseList();
  if (IsOp("{")) return ParseDict();
  return Expected("an expression");
}

ExprOr Parser::ParseName(const Token& token, bool namespace_target) {
  const std::string& name = token.value;
  if (name[0] >= '0' && name[0] <= '9') return Error("invalid name", token.line);
  ExprPtr node = Make(ExprType::kConstant, token.line);
  if (name == "true" || name == "True") {
    node->constant = Value::Bool(true);
  } else if (name == "false" || name == "False") {
    node->constant = Value::Bool(false);
  } else if (name == "none" || name == "None") {
    node->constant = Value::None();
  } else if (namespace_target && SkipOp(".")) {
    node = Make(ExprType::kNamespaceRef, token.line);
    node->name = name;
    JINJA_ASSIGN(node->attribute, ExpectName());
  } else {
    node = Make(ExprType::kName, token.line);
    node->name = name;
    for (MacroDefinition* macro : macros_) {
      macro->uses_caller |= name == "caller";
      macro->uses_varargs |= name == "varargs";
      macro->uses_kwargs |= name == "kwargs";
    }
  }
  return node;
}

absl::StatusOr<Value> Parser::ParseNumber(const Token& token) {
  const std::string& text = token.value;
  if (token.type == TokenType::kFloat) {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc::result_out_of_range) {
      // Python reads these as infinity and zero.
      const bool tiny = text.find("e-") != std::string::npos;
      value = tiny ? 0.0 : std::numeric_limits<double>::infinity();
    }
    return Value::Float(value);
  }
  const char kind = text.size() > 1 ? text[1] : ' ';
  const int base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10;
  Int value = 0;
  for (size_t i = base == 10 ? 0 : 2; i < text.size(); ++i) {
    const char c = static_cast<char>(text[i] | 0x20);
    const int digit = text[i] <= '9' ? text[i] - '0' : c - 'a' + 10;
    if (value > (Int{1} << 120)) return Error("integer is too large", token.line);
    value = value * base + digit;
  }
  return Value::Integer(value);
}

ExprOr Parser::ParseList() {
  ExprPtr node = Make(ExprType::kList, Take().line);
  while (!IsOp("]")) {
    if (!node->items.empty()) JINJA_RETURN_IF_ERROR(ExpectOp(","));
    if (IsOp("]")) break;
    JINJA_ASSIGN(ExprPtr item, ParseExpression());
    JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(item)));
  }
  Take();
  return node;
}

ExprOr Parser::ParseDict() {
  ExprPtr node = Make(ExprType::kDict, Take().line);
  while (!IsOp("}")) {
    if (!node->items.empty()) JINJA_RETURN_IF_ERROR(ExpectOp(","));
    if (IsOp("}")) break;
    JINJA_ASSIGN(ExprPtr key, ParseExpression());
    JINJA_RETURN_IF_ERROR(ExpectOp(":"));
    JINJA_ASSIGN(ExprPtr value, ParseExpression());
    JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(key)));
    JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(value)));
  }
  Take();
  return node;
}

ExprOr Parser::ParseTuple(const TupleRules& rules) {
  const int line = Peek().line;
  std::vector<ExprPtr> parts;
  bool is_tuple = false;
  for (;;) {
    if (!parts.empty()) JINJA_RETURN_IF_ERROR(ExpectOp(","));
    if (Peek().type == TokenType::kVariableEnd || Peek().type == TokenType::kBlockEnd ||
        IsOp(")") || (!rules.end_name.empty() && IsName(rules.end_name))) {
      break;
    }
    if (rules.targets) {
      Nesting nesting(&expr_nesting_);
      if (expr_nesting_ > kMaxExprNesting) return Error("expression is nested too deeply");
      JINJA_ASSIGN(ExprPtr part, ParsePrimary(rules.namespace_target));
      parts.push_back(std::move(part));
    } else {
      JINJA_ASSIGN(ExprPtr part, ParseExpression(rules.with_conditional));
      parts.push_back(std::move(part));
    }
    if (!IsOp(",")) break;
    is_tuple = true;
  }
  if (!is_tuple) {
    if (!parts.empty()) return std::move(parts[0]);
    if (!rules.in_parentheses) return Expected("an expression");
  }
  ExprPtr node = Make(ExprType::kTuple, line);
  for (ExprPtr& part : parts) JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(part)));
  return node;
}

}  // namespace tandem::jinja
