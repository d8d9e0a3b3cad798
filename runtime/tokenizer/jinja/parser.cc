#include "runtime/tokenizer/jinja/parser.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "runtime/tokenizer/jinja/filters.h"
#include "runtime/tokenizer/jinja/lexer.h"
#include "runtime/tokenizer/jinja/tests.h"

namespace tandem::jinja {
namespace {

// Python, which compiles Jinja2's templates, gives up at 100 to 200 levels itself.
constexpr int kMaxExprNesting = 100;
constexpr int kMaxExprDepth = 300;
constexpr int kMaxBlockNesting = 60;

// Where a run of statements ends: the tags that close it.
using EndTags = std::vector<std::string_view>;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  absl::StatusOr<Body> Run() { return ParseBody({}, "", 1); }

 private:
  using ExprOr = absl::StatusOr<ExprPtr>;
  using StmtOr = absl::StatusOr<StmtPtr>;

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
  ExprOr ParseExpression(bool with_conditional = true) {
    Nesting nesting(&expr_nesting_);
    if (expr_nesting_ > kMaxExprNesting) return Error("expression is nested too deeply");
    return with_conditional ? ParseConditional() : ParseOr();
  }

  ExprOr ParseConditional() {
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

  ExprOr ParseOr() {
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

  ExprOr ParseAnd() {
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

  ExprOr ParseNot() {
    if (!IsName("not")) return ParseCompare();
    Nesting nesting(&expr_nesting_);
    if (expr_nesting_ > kMaxExprNesting) return Error("expression is nested too deeply");
    ExprPtr node = Make(ExprType::kNot, Take().line);
    JINJA_ASSIGN(ExprPtr operand, ParseNot());
    JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(operand)));
    return node;
  }

  ExprOr ParseCompare() {
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

  ExprOr ParseSum() {
    JINJA_ASSIGN(ExprPtr left, ParseConcat());
    while (IsOp("+") || IsOp("-")) {
      JINJA_ASSIGN(left, ParseBinaryRest(std::move(left), &Parser::ParseConcat));
    }
    return left;
  }

  ExprOr ParseConcat() {
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

  ExprOr ParseProduct() {
    JINJA_ASSIGN(ExprPtr left, ParsePower());
    while (IsOp("*") || IsOp("/") || IsOp("//") || IsOp("%")) {
      JINJA_ASSIGN(left, ParseBinaryRest(std::move(left), &Parser::ParsePower));
    }
    return left;
  }

  ExprOr ParsePower() {
    JINJA_ASSIGN(ExprPtr left, ParseUnary());
    while (IsOp("**")) {
      JINJA_ASSIGN(left, ParseBinaryRest(std::move(left), &Parser::ParseUnaryWithFilters));
    }
    return left;
  }

  ExprOr ParseUnaryWithFilters() { return ParseUnary(true); }

  ExprOr ParseBinaryRest(ExprPtr left, ExprOr (Parser::*parse_right)()) {
    const Token& op = Take();
    ExprPtr node = Make(ExprType::kBinary, op.line);
    node->name = op.value;
    JINJA_ASSIGN(ExprPtr right, (this->*parse_right)());
    JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(left)));
    JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(right)));
    return node;
  }

  ExprOr ParseUnary(bool with_filters = true) {
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

  ExprOr ParsePrimary(bool namespace_target) {
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

  ExprOr ParseName(const Token& token, bool namespace_target) {
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

  absl::StatusOr<Value> ParseNumber(const Token& token) {
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

  ExprOr ParseList() {
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

  ExprOr ParseDict() {
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

  struct TupleRules {
    bool in_parentheses = false;    // an empty tuple is allowed
    bool targets = false;           // only names (and literals, refused later)
    bool namespace_target = false;  // ns.name too
    bool with_conditional = true;
    std::string_view end_name = {};  // a name that ends it
  };

  ExprOr ParseTuple(const TupleRules& rules) {
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

  ExprOr ParsePostfix(ExprPtr node) {
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

  ExprOr ParseFiltersAndTests(ExprPtr node) {
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

  ExprOr ParseSubscript(ExprPtr object) {
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

  // At the first colon of a slice; the object comes later.
  ExprOr ParseSliceRest(ExprPtr start, int line) {
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

  // (args) of a call, filter or test, into node->args.
  absl::Status ParseArguments(Expr* node) {
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

  ExprOr ParseCall(ExprPtr callee) {
    ExprPtr node = Make(ExprType::kCall, Peek().line);
    JINJA_RETURN_IF_ERROR(Adopt(node.get(), std::move(callee)));
    JINJA_RETURN_IF_ERROR(ParseArguments(node.get()));
    return node;
  }

  absl::StatusOr<std::string> ParseDottedName() {
    JINJA_ASSIGN(std::string name, ExpectName());
    while (SkipOp(".")) {
      JINJA_ASSIGN(std::string part, ExpectName());
      absl::StrAppend(&name, ".", part);
    }
    return name;
  }

  // Filters over `node` (null: over what a block renders). `inline_start`: the first one has
  // no "|" before it.
  ExprOr ParseFilters(ExprPtr node, bool inline_start) {
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

  ExprOr ParseTest(ExprPtr operand) {
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

  // --- statements ---

  absl::Status CheckTarget(const Expr& target) const {
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

  ExprOr ParseTarget(TupleRules rules) {
    rules.targets = true;
    JINJA_ASSIGN(ExprPtr target, ParseTuple(rules));
    JINJA_RETURN_IF_ERROR(CheckTarget(*target));
    return target;
  }

  static bool IsConstantName(std::string_view name) {
    return name == "true" || name == "True" || name == "false" || name == "False" ||
           name == "none" || name == "None";
  }

  absl::StatusOr<std::string> ParseNewName() {
    JINJA_ASSIGN(std::string name, ExpectName());
    if (IsConstantName(name)) return Error(absl::StrCat("cannot assign to '", name, "'"));
    return name;
  }

  // Unknown filters and tests are errors at once, except where Jinja2 leaves them for run
  // time: inside `if`, down to the next block with a scope of its own.
  absl::Status ReportUnknown(size_t begin, bool soft) {
    if (unknown_.size() <= begin) return absl::OkStatus();
    const absl::Status first = unknown_[begin];
    unknown_.resize(begin);
    return soft ? absl::OkStatus() : first;
  }

  // Statements up to one of `ends`, which stays the current token. At the top `ends` is
  // empty and the template's end is the end.
  absl::StatusOr<Body> ParseBody(const EndTags& ends, std::string_view tag, int opened) {
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

  // "%}" and the body behind it; the closing tag's name is taken only if `take_end`.
  absl::StatusOr<Body> ParseBlockBody(const EndTags& ends, std::string_view tag, int opened,
                                      bool take_end = true) {
    SkipOp(":");
    JINJA_RETURN_IF_ERROR(ExpectType(TokenType::kBlockEnd, "'%}'"));
    JINJA_ASSIGN(Body body, ParseBody(ends, tag, opened));
    if (take_end) Take();
    return body;
  }

  // The body of a block with a scope of its own.
  absl::StatusOr<Body> ParseScopedBody(const EndTags& ends, std::string_view tag, int opened,
                                       bool take_end = true) {
    const bool soft = std::exchange(soft_, false);
    absl::StatusOr<Body> body = ParseBlockBody(ends, tag, opened, take_end);
    soft_ = soft;
    return body;
  }

  absl::StatusOr<Body> ParseStatement(const EndTags& ends, std::string_view outer, int opened) {
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
        return std::make_unique<Stmt>(name == "break" ? StmtType::kBreak : StmtType::kContinue,
                                      line);
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

  StmtOr ParseIf(int line) {
    auto node = std::make_unique<Stmt>(StmtType::kIf, line);
    const bool soft = std::exchange(soft_, true);
    absl::Status status = ParseIfBranches(node.get(), line);
    soft_ = soft;
    if (!status.ok()) return status;
    return node;
  }

  absl::Status ParseIfBranches(Stmt* node, int line) {
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

  StmtOr ParseFor(int line) {
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

  static bool TargetHasName(const Expr& target, std::string_view name) {
    if (target.type == ExprType::kName) return target.name == name;
    return std::any_of(target.items.begin(), target.items.end(),
                       [&](const ExprPtr& item) { return TargetHasName(*item, name); });
  }

  StmtOr ParseSet(int line) {
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

  StmtOr ParseWith(int line) {
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

  absl::Status ParseSignature(MacroDefinition* macro) {
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

  absl::Status ParseMacroBody(MacroDefinition* macro, std::string_view tag, std::string_view end,
                              int line) {
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

  StmtOr ParseMacro(int line) {
    auto node = std::make_unique<Stmt>(StmtType::kMacro, line);
    node->macro = std::make_unique<MacroDefinition>();
    JINJA_ASSIGN(node->macro->name, ParseNewName());
    JINJA_RETURN_IF_ERROR(ParseSignature(node->macro.get()));
    JINJA_RETURN_IF_ERROR(ParseMacroBody(node->macro.get(), "macro", "endmacro", line));
    return node;
  }

  StmtOr ParseCallBlock(int line) {
    auto node = std::make_unique<Stmt>(StmtType::kCallBlock, line);
    node->macro = std::make_unique<MacroDefinition>();
    if (IsOp("(")) JINJA_RETURN_IF_ERROR(ParseSignature(node->macro.get()));
    JINJA_ASSIGN(node->value, ParseExpression());
    if (node->value->type != ExprType::kCall) return Error("expected a call", line);
    JINJA_RETURN_IF_ERROR(ParseMacroBody(node->macro.get(), "call", "endcall", line));
    return node;
  }

  StmtOr ParseFilterBlock(int line) {
    auto node = std::make_unique<Stmt>(StmtType::kFilterBlock, line);
    const size_t begin = unknown_.size();
    JINJA_ASSIGN(node->value, ParseFilters(nullptr, true));
    JINJA_RETURN_IF_ERROR(ReportUnknown(begin, false));
    JINJA_ASSIGN(node->body, ParseScopedBody({"endfilter"}, "filter", line));
    return node;
  }

  StmtOr ParseNamedBlock(int line) {
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

  StmtOr ParseAutoescape(int line) {
    auto node = std::make_unique<Stmt>(StmtType::kAutoescape, line);
    JINJA_ASSIGN(node->value, ParseExpression());
    JINJA_ASSIGN(node->body, ParseScopedBody({"endautoescape"}, "autoescape", line));
    return node;
  }

  StmtOr ParseGeneration(int line) {
    auto node = std::make_unique<Stmt>(StmtType::kScope, line);
    const bool in_loop = std::exchange(in_loop_, false);
    absl::StatusOr<Body> body = ParseScopedBody({"endgeneration"}, "generation", line);
    in_loop_ = in_loop;
    if (!body.ok()) return body.status();
    node->body = *std::move(body);
    return node;
  }

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

}  // namespace

absl::StatusOr<Body> ParseTemplate(std::string_view source) {
  absl::StatusOr<std::vector<Token>> tokens = Tokenize(source);
  if (!tokens.ok()) return tokens.status();
  return Parser(*std::move(tokens)).Run();
}

}  // namespace tandem::jinja
