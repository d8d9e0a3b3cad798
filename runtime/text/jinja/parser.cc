// Statements, and the way in.
#include "runtime/text/jinja/parser.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/template_parser.h"

namespace tandem::jinja {

absl::Status Parser::CheckTarget(const Expr& target) const {
  switch (target.type) {
    case ExprType::kName:
    case ExprType::kNamespaceRef:
      return absl::OkStatus();
    case ExprType::kTuple:
      for (const ExprPtr& item : target.items) JINJA_RETURN_IF_ERROR(CheckTarget(*item));
      return absl::OkStatus();
    default:
      return Error("cannot assign to this expression", target.line);
  }
}

ExprOr Parser::ParseTarget(TupleRules rules) {
  rules.targets = true;
  JINJA_ASSIGN(ExprPtr target, ParseTuple(rules));
  JINJA_RETURN_IF_ERROR(CheckTarget(*target));
  return target;
}

bool Parser::IsConstantName(std::string_view name) {
  return name == "true" || name == "True" || name == "false" || name == "False" || name == "none" ||
         name == "None";
}

absl::StatusOr<std::string> Parser::ParseNewName() {
  JINJA_ASSIGN(std::string name, ExpectName());
  if (IsConstantName(name)) return Error(absl::StrCat("cannot assign to '", name, "'"));
  return name;
}

absl::Status Parser::ReportUnknown(size_t begin, bool soft) {
  if (unknown_.size() <= begin) return absl::OkStatus();
  const absl::Status first = unknown_[begin];
  unknown_.resize(begin);
  return soft ? absl::OkStatus() : first;
}

absl::StatusOr<Body> Parser::ParseBody(const EndTags& ends, std::string_view tag, int opened) {
  Nesting nesting(&block_nesting_);
  if (block_nesting_ > kMaxBlockNesting) return Error("blocks are nested too deeply");
  Body body;
  for (;;) {
    const Token& token = Peek();
    const int line = token.line;
    if (token.type == TokenType::kEnd) {
      if (ends.empty()) return body;
      return Error(absl::StrCat("block '", std::string(tag), "' of line ", opened,
                                " is not closed: expected '", std::string(ends.back()), "'"));
    }
    if (token.type == TokenType::kData) {
      auto text = std::make_unique<Stmt>(StmtType::kText, line);
      text->text = Take().value;
      body.push_back(std::move(text));
    } else if (token.type == TokenType::kVariableBegin) {
      Take();
      auto output = std::make_unique<Stmt>(StmtType::kOutput, line);
      const size_t begin = unknown_.size();
      JINJA_ASSIGN(output->value, ParseTuple({}));
      JINJA_RETURN_IF_ERROR(ReportUnknown(begin, soft_));
      JINJA_RETURN_IF_ERROR(ExpectType(TokenType::kVariableEnd, "'}}'"));
      body.push_back(std::move(output));
    } else {
      Take();
      if (Peek().type != TokenType::kName) return Expected("the name of a tag");
      if (std::find(ends.begin(), ends.end(), Peek().value) != ends.end()) return body;
      const size_t begin = unknown_.size();
      JINJA_ASSIGN(Body statements, ParseStatement(ends, tag, opened));
      JINJA_RETURN_IF_ERROR(ReportUnknown(begin, soft_));
      JINJA_RETURN_IF_ERROR(ExpectType(TokenType::kBlockEnd, "'%}'"));
      for (StmtPtr& statement : statements) body.push_back(std::move(statement));
    }
  }
}

absl::StatusOr<Body> Parser::ParseBlockBody(const EndTags& ends, std::string_view tag, int opened,
                                            bool take_end) {
  SkipOp(":");
  JINJA_RETURN_IF_ERROR(ExpectType(TokenType::kBlockEnd, "'%}'"));
  JINJA_ASSIGN(Body body, ParseBody(ends, tag, opened));
  if (take_end) Take();
  return body;
}

absl::StatusOr<Body> Parser::ParseScopedBody(const EndTags& ends, std::string_view tag, int opened,
                                             bool take_end) {
  const bool soft = std::exchange(soft_, false);
  absl::StatusOr<Body> body = ParseBlockBody(ends, tag, opened, take_end);
  soft_ = soft;
  return body;
}

absl::StatusOr<Body> Parser::ParseStatement(const EndTags& ends, std::string_view outer,
                                            int opened) {
  const Token tag = Take();
  const std::string& name = tag.value;
  const int line = tag.line;
  Body out;
  StmtOr statement = [&]() -> StmtOr {
    if (name == "if") return ParseIf(line);
    if (name == "for") return ParseFor(line);
    if (name == "set") return ParseSet(line);
    if (name == "with") return ParseWith(line);
    if (name == "macro") return ParseMacro(line);
    if (name == "call") return ParseCallBlock(line);
    if (name == "filter") return ParseFilterBlock(line);
    if (name == "block") return ParseNamedBlock(line);
    if (name == "autoescape") return ParseAutoescape(line);
    if (name == "generation") return ParseGeneration(line);
    if (name == "break" || name == "continue") {
      if (!in_loop_) return Error(absl::StrCat("'", name, "' outside a loop"), line);
      return std::make_unique<Stmt>(name == "break" ? StmtType::kBreak : StmtType::kContinue, line);
    }
    if (name == "print") return StmtPtr();
    if (name == "include" || name == "import" || name == "from" || name == "extends") {
      return Error(absl::StrCat("'", name, "' is not supported: a chat template stands alone"),
                   line);
    }
    if (!ends.empty()) {
      return Error(absl::StrCat("unknown tag '", name, "' inside block '", std::string(outer),
                                "' of line ", opened),
                   line);
    }
    return Error(absl::StrCat("unknown tag '", name, "'"), line);
  }();
  if (!statement.ok()) return statement.status();
  if (*statement != nullptr) {
    out.push_back(*std::move(statement));
    return out;
  }
  while (Peek().type != TokenType::kBlockEnd) {  // print a, b
    if (!out.empty()) JINJA_RETURN_IF_ERROR(ExpectOp(","));
    auto output = std::make_unique<Stmt>(StmtType::kOutput, line);
    JINJA_ASSIGN(output->value, ParseExpression());
    out.push_back(std::move(output));
  }
  return out;
}

StmtOr Parser::ParseIf(int line) {
  auto node = std::make_unique<Stmt>(StmtType::kIf, line);
  const bool soft = std::exchange(soft_, true);
  absl::Status status = ParseIfBranches(node.get(), line);
  soft_ = soft;
  if (!status.ok()) return status;
  return node;
}

absl::Status Parser::ParseIfBranches(Stmt* node, int line) {
  for (;;) {
    const size_t begin = unknown_.size();
    JINJA_ASSIGN(ExprPtr condition, ParseTuple({.with_conditional = false}));
    unknown_.resize(begin);
    JINJA_ASSIGN(Body body, ParseBlockBody({"elif", "else", "endif"}, "if", line, false));
    node->branches.emplace_back(std::move(condition), std::move(body));
    const std::string end = Take().value;
    if (end == "elif") continue;
    if (end == "else") {
      JINJA_ASSIGN(node->else_body, ParseBlockBody({"endif"}, "if", line));
    }
    return absl::OkStatus();
  }
}

StmtOr Parser::ParseFor(int line) {
  auto node = std::make_unique<Stmt>(StmtType::kFor, line);
  JINJA_ASSIGN(node->target, ParseTarget({.end_name = "in"}));
  if (TargetHasName(*node->target, "loop")) {
    return Error("cannot assign to the special variable 'loop' in a for loop", line);
  }
  if (!SkipName("in")) return Expected("'in'");
  JINJA_ASSIGN(node->value, ParseTuple({.with_conditional = false, .end_name = "recursive"}));
  if (SkipName("if")) {
    const size_t begin = unknown_.size();
    JINJA_ASSIGN(node->condition, ParseExpression());
    JINJA_RETURN_IF_ERROR(ReportUnknown(begin, false));
  }
  node->recursive = SkipName("recursive");
  const bool in_loop = std::exchange(in_loop_, true);
  absl::StatusOr<Body> body = ParseScopedBody({"else", "endfor"}, "for", line, false);
  in_loop_ = in_loop;
  if (!body.ok()) return body.status();
  node->body = *std::move(body);
  if (Take().value == "else") {
    JINJA_ASSIGN(node->else_body, ParseScopedBody({"endfor"}, "for", line));
  }
  return node;
}

bool Parser::TargetHasName(const Expr& target, std::string_view name) {
  if (target.type == ExprType::kName) return target.name == name;
  return std::any_of(target.items.begin(), target.items.end(),
                     [&](const ExprPtr& item) { return TargetHasName(*item, name); });
}

StmtOr Parser::ParseSet(int line) {
  JINJA_ASSIGN(ExprPtr target, ParseTarget({.namespace_target = true}));
  if (SkipOp("=")) {
    auto node = std::make_unique<Stmt>(StmtType::kSet, line);
    node->target = std::move(target);
    JINJA_ASSIGN(node->value, ParseTuple({}));
    return node;
  }
  auto node = std::make_unique<Stmt>(StmtType::kSetBlock, line);
  node->target = std::move(target);
  const size_t begin = unknown_.size();
  JINJA_ASSIGN(node->value, ParseFilters(nullptr, false));
  JINJA_RETURN_IF_ERROR(ReportUnknown(begin, false));
  JINJA_ASSIGN(node->body, ParseScopedBody({"endset"}, "set", line));
  return node;
}

StmtOr Parser::ParseWith(int line) {
  auto node = std::make_unique<Stmt>(StmtType::kWith, line);
  while (Peek().type != TokenType::kBlockEnd) {
    if (!node->assignments.empty()) JINJA_RETURN_IF_ERROR(ExpectOp(","));
    JINJA_ASSIGN(ExprPtr target, ParseTarget({}));
    JINJA_RETURN_IF_ERROR(ExpectOp("="));
    JINJA_ASSIGN(ExprPtr value, ParseExpression());
    node->assignments.emplace_back(std::move(target), std::move(value));
  }
  JINJA_ASSIGN(node->body, ParseScopedBody({"endwith"}, "with", line));
  return node;
}

absl::Status Parser::ParseSignature(MacroDefinition* macro) {
  JINJA_RETURN_IF_ERROR(ExpectOp("("));
  while (!IsOp(")")) {
    if (!macro->parameters.empty()) JINJA_RETURN_IF_ERROR(ExpectOp(","));
    JINJA_ASSIGN(std::string name, ParseNewName());
    if (std::find(macro->parameters.begin(), macro->parameters.end(), name) !=
        macro->parameters.end()) {
      return Error(absl::StrCat("parameter '", name, "' is repeated"));
    }
    if (SkipOp("=")) {
      JINJA_ASSIGN(ExprPtr value, ParseExpression());
      macro->defaults.push_back(std::move(value));
    } else if (!macro->defaults.empty()) {
      return Error(absl::StrCat("parameter '", name, "' without default after one with"));
    }
    macro->parameters.push_back(std::move(name));
  }
  Take();
  return absl::OkStatus();
}

absl::Status Parser::ParseMacroBody(MacroDefinition* macro, std::string_view tag,
                                    std::string_view end, int line) {
  const bool in_loop = std::exchange(in_loop_, false);
  macros_.push_back(macro);
  absl::StatusOr<Body> body = ParseScopedBody({end}, tag, line);
  macros_.pop_back();
  in_loop_ = in_loop;
  if (!body.ok()) return body.status();
  macro->body = *std::move(body);
  const auto declared = [&](std::string_view name) {
    return std::find(macro->parameters.begin(), macro->parameters.end(), name) !=
           macro->parameters.end();
  };
  if (macro->uses_caller && declared("caller")) {
    const auto index = std::find(macro->parameters.begin(), macro->parameters.end(), "caller") -
                       macro->parameters.begin();
    const size_t required = macro->parameters.size() - macro->defaults.size();
    if (static_cast<size_t>(index) < required) {
      return Error("parameter 'caller' must be omitted or have a default", line);
    }
  }
  macro->uses_varargs &= !declared("varargs");
  macro->uses_kwargs &= !declared("kwargs");
  return absl::OkStatus();
}

StmtOr Parser::ParseMacro(int line) {
  auto node = std::make_unique<Stmt>(StmtType::kMacro, line);
  node->macro = std::make_unique<MacroDefinition>();
  JINJA_ASSIGN(node->macro->name, ParseNewName());
  JINJA_RETURN_IF_ERROR(ParseSignature(node->macro.get()));
  JINJA_RETURN_IF_ERROR(ParseMacroBody(node->macro.get(), "macro", "endmacro", line));
  return node;
}

StmtOr Parser::ParseCallBlock(int line) {
  auto node = std::make_unique<Stmt>(StmtType::kCallBlock, line);
  node->macro = std::make_unique<MacroDefinition>();
  if (IsOp("(")) JINJA_RETURN_IF_ERROR(ParseSignature(node->macro.get()));
  JINJA_ASSIGN(node->value, ParseExpression());
  if (node->value->type != ExprType::kCall) return Error("expected a call", line);
  JINJA_RETURN_IF_ERROR(ParseMacroBody(node->macro.get(), "call", "endcall", line));
  return node;
}

StmtOr Parser::ParseFilterBlock(int line) {
  auto node = std::make_unique<Stmt>(StmtType::kFilterBlock, line);
  const size_t begin = unknown_.size();
  JINJA_ASSIGN(node->value, ParseFilters(nullptr, true));
  JINJA_RETURN_IF_ERROR(ReportUnknown(begin, false));
  JINJA_ASSIGN(node->body, ParseScopedBody({"endfilter"}, "filter", line));
  return node;
}

StmtOr Parser::ParseNamedBlock(int line) {
  auto node = std::make_unique<Stmt>(StmtType::kBlock, line);
  JINJA_ASSIGN(node->text, ExpectName());
  if (!block_names_.insert(node->text).second) {
    return Error(absl::StrCat("block '", node->text, "' is defined twice"), line);
  }
  node->scoped = SkipName("scoped");
  if (IsName("required")) return Error("required blocks are not supported", line);
  const bool in_loop = std::exchange(in_loop_, false);
  absl::StatusOr<Body> body = ParseScopedBody({"endblock"}, "block", line);
  in_loop_ = in_loop;
  if (!body.ok()) return body.status();
  node->body = *std::move(body);
  SkipName(node->text);
  return node;
}

StmtOr Parser::ParseAutoescape(int line) {
  auto node = std::make_unique<Stmt>(StmtType::kAutoescape, line);
  JINJA_ASSIGN(node->value, ParseExpression());
  JINJA_ASSIGN(node->body, ParseScopedBody({"endautoescape"}, "autoescape", line));
  return node;
}

StmtOr Parser::ParseGeneration(int line) {
  auto node = std::make_unique<Stmt>(StmtType::kScope, line);
  const bool in_loop = std::exchange(in_loop_, false);
  absl::StatusOr<Body> body = ParseScopedBody({"endgeneration"}, "generation", line);
  in_loop_ = in_loop;
  if (!body.ok()) return body.status();
  node->body = *std::move(body);
  return node;
}

absl::StatusOr<Body> ParseTemplate(std::string_view source) {
  absl::StatusOr<std::vector<Token>> tokens = Tokenize(source);
  if (!tokens.ok()) return tokens.status();
  return Parser(*std::move(tokens)).Run();
}

}  // namespace tandem::jinja
