// The parser behind ParseTemplate: expressions are in parse_expressions.cc, what follows their
// operands in parse_postfix.cc, statements in parser.cc.
#pragma once

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/ast.h"
#include "runtime/text/jinja/lexer.h"

namespace tandem::jinja {

// Python, which compiles Jinja2's templates, gives up at 100 to 200 levels itself.
inline constexpr int kMaxExprNesting = 100;
inline constexpr int kMaxExprDepth = 300;
inline constexpr int kMaxBlockNesting = 60;

// The tags that end a body of statements.
using EndTags = std::vector<std::string_view>;

using ExprOr = absl::StatusOr<ExprPtr>;
using StmtOr = absl::StatusOr<StmtPtr>;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  absl::StatusOr<Body> Run() { return ParseBody({}, "", 1); }

 private:
  // --- tokens ---
  const Token& Peek(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  const Token& Take() {
    const Token& token = Peek();
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool IsOp(std::string_view op, size_t ahead = 0) const {
    return Peek(ahead).type == TokenType::kOperator && Peek(ahead).value == op;
  }
  bool IsName(std::string_view name, size_t ahead = 0) const {
    return Peek(ahead).type == TokenType::kName && Peek(ahead).value == name;
  }
  bool SkipOp(std::string_view op) { return IsOp(op) && (Take(), true); }
  bool SkipName(std::string_view name) { return IsName(name) && (Take(), true); }
  absl::Status Error(std::string_view message, int line = 0) const {
    return absl::InvalidArgumentError(
        absl::StrCat("line ", line == 0 ? Peek().line : line, ": ", std::string(message)));
  }
  static std::string Describe(const Token& token) {
    switch (token.type) {
      case TokenType::kEnd:
        return "end of template";
      case TokenType::kData:
        return "text";
      case TokenType::kVariableBegin:
        return "'{{'";
      case TokenType::kVariableEnd:
        return "'}}'";
      case TokenType::kBlockBegin:
        return "'{%'";
      case TokenType::kBlockEnd:
        return "'%}'";
      case TokenType::kString:
        return "a string";
      default:
        return absl::StrCat("'", token.value, "'");
    }
  }
  absl::Status Expected(std::string_view what) const {
    return Error(absl::StrCat("expected ", std::string(what), ", found ", Describe(Peek())));
  }
  absl::Status ExpectOp(std::string_view op) {
    if (SkipOp(op)) return absl::OkStatus();
    return Expected(absl::StrCat("'", std::string(op), "'"));
  }
  absl::StatusOr<std::string> ExpectName() {
    if (Peek().type != TokenType::kName) return Expected("a name");
    return Take().value;
  }
  absl::Status ExpectType(TokenType type, std::string_view what) {
    if (Peek().type != type) return Expected(what);
    Take();
    return absl::OkStatus();
  }

  // --- nodes ---
  static ExprPtr Make(ExprType type, int line) { return std::make_unique<Expr>(type, line); }

  // Adds a child and keeps count of the levels below: a chain such as a.b.c or x + y + z is
  // parsed in a loop but walked by recursion.
  absl::Status Adopt(Expr* parent, ExprPtr child) {
    if (child != nullptr) parent->depth = std::max(parent->depth, child->depth + 1);
    parent->items.push_back(std::move(child));
    if (parent->depth > kMaxExprDepth) return Error("expression is nested too deeply");
    return absl::OkStatus();
  }

  struct Nesting {
    explicit Nesting(int* count) : count(count) { ++*count; }
    ~Nesting() { --*count; }
    int* count;
  };

  // --- expressions, from loosest to tightest ---
  ExprOr ParseExpression(bool with_conditional = true);
  ExprOr ParseConditional();
  ExprOr ParseOr();
  ExprOr ParseAnd();
  ExprOr ParseNot();
  ExprOr ParseCompare();
  ExprOr ParseSum();
  ExprOr ParseConcat();
  ExprOr ParseProduct();
  ExprOr ParsePower();
  ExprOr ParseUnaryWithFilters() { return ParseUnary(true); }
  ExprOr ParseBinaryRest(ExprPtr left, ExprOr (Parser::*parse_right)());
  ExprOr ParseUnary(bool with_filters = true);
  ExprOr ParsePrimary(bool namespace_target);
  ExprOr ParseName(const Token& token, bool namespace_target);
  absl::StatusOr<Value> ParseNumber(const Token& token);
  ExprOr ParseList();
  ExprOr ParseDict();

  struct TupleRules {
    bool in_parentheses = false;    // an empty tuple is allowed
    bool targets = false;           // only names (and literals, refused later)
    bool namespace_target = false;  // ns.name too
    bool with_conditional = true;
    std::string_view end_name = {};  // a name that ends it
  };

  ExprOr ParseTuple(const TupleRules& rules);
  ExprOr ParsePostfix(ExprPtr node);
  ExprOr ParseFiltersAndTests(ExprPtr node);
  ExprOr ParseSubscript(ExprPtr object);
  // At the first colon of a slice; the object comes later.
  ExprOr ParseSliceRest(ExprPtr start, int line);
  // (args) of a call, filter or test, into node->args.
  absl::Status ParseArguments(Expr* node);
  ExprOr ParseCall(ExprPtr callee);
  absl::StatusOr<std::string> ParseDottedName();
  // Filters over `node` (null: over what a block renders). `inline_start`: the first one has
  // no "|" before it.
  ExprOr ParseFilters(ExprPtr node, bool inline_start);
  ExprOr ParseTest(ExprPtr operand);

  // --- statements ---
  absl::Status CheckTarget(const Expr& target) const;
  ExprOr ParseTarget(TupleRules rules);
  static bool IsConstantName(std::string_view name);
  absl::StatusOr<std::string> ParseNewName();
  // Unknown filters and tests are errors at once, except where Jinja2 leaves them for run
  // time: inside `if`, down to the next block with a scope of its own.
  absl::Status ReportUnknown(size_t begin, bool soft);
  // Statements up to one of `ends`, which stays the current token. At the top `ends` is
  // empty and the template's end is the end.
  absl::StatusOr<Body> ParseBody(const EndTags& ends, std::string_view tag, int opened);
  // "%}" and the body behind it; the closing tag's name is taken only if `take_end`.
  absl::StatusOr<Body> ParseBlockBody(const EndTags& ends, std::string_view tag, int opened,
                                      bool take_end = true);
  // The body of a block with a scope of its own.
  absl::StatusOr<Body> ParseScopedBody(const EndTags& ends, std::string_view tag, int opened,
                                       bool take_end = true);
  absl::StatusOr<Body> ParseStatement(const EndTags& ends, std::string_view outer, int opened);
  StmtOr ParseIf(int line);
  absl::Status ParseIfBranches(Stmt* node, int line);
  StmtOr ParseFor(int line);
  static bool TargetHasName(const Expr& target, std::string_view name);
  StmtOr ParseSet(int line);
  StmtOr ParseWith(int line);
  absl::Status ParseSignature(MacroDefinition* macro);
  absl::Status ParseMacroBody(MacroDefinition* macro, std::string_view tag, std::string_view end,
                              int line);
  StmtOr ParseMacro(int line);
  StmtOr ParseCallBlock(int line);
  StmtOr ParseFilterBlock(int line);
  StmtOr ParseNamedBlock(int line);
  StmtOr ParseAutoescape(int line);
  StmtOr ParseGeneration(int line);

  const std::vector<Token> tokens_;
  size_t at_ = 0;
  int expr_nesting_ = 0;
  int block_nesting_ = 0;
  bool soft_ = false;
  bool in_loop_ = false;
  std::vector<absl::Status> unknown_;  // filters and tests not found, not yet reported
  std::vector<MacroDefinition*> macros_;
  std::set<std::string> block_names_;
};

}  // namespace tandem::jinja
