// The parsed template. Owned by its Template, never changed after parsing.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/text/jinja/value.h"

namespace tandem::jinja {

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using StmtPtr = std::unique_ptr<Stmt>;
using Body = std::vector<StmtPtr>;

enum class ExprType {
  kConstant,   // constant
  kName,       // name
  kAttribute,  // items[0].name
  kSubscript,  // items[0][items[1]]
  kSlice,      // items[0][items[1]:items[2]:items[3]], absent ones null
  kCall,       // items[0](args)
  kFilter,     // items[0] | name(args); items[0] null in filter blocks
  kTest,       // items[0] is name(args)
  kTuple,
  kList,
  kDict,  // items: key, value, key, value ...
  kNegate,
  kPlus,
  kNot,
  kAnd,
  kOr,
  kBinary,       // name is the operator
  kConcat,       // items joined by ~
  kCompare,      // items[0] operators[0] items[1] operators[1] items[2] ...
  kConditional,  // items: then, condition, else (may be null)
  kNamespaceRef  // name.attribute as the target of a set
};

struct CallArguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star;         // *args
  ExprPtr double_star;  // **kwargs
};

struct Expr {
  Expr(ExprType type, int line) : type(type), line(line) {}
  const ExprType type;
  const int line;
  int depth = 1;  // levels below and including this one
  std::string name;
  std::string attribute;
  Value constant;
  std::vector<ExprPtr> items;
  std::vector<std::string> operators;
  std::unique_ptr<CallArguments> args;
};

enum class StmtType {
  kText,         // text
  kOutput,       // value
  kIf,           // branches, else_body
  kFor,          // target, value, condition, recursive, body, else_body
  kSet,          // target, value
  kSetBlock,     // target, value (filters over null, or null), body
  kWith,         // assignments, body
  kMacro,        // text (name), macro
  kCallBlock,    // value (the call), macro
  kFilterBlock,  // value (filters over null), body
  kBlock,        // text (name), body, scoped
  kAutoescape,   // value, body
  kScope,        // body: {% generation %}
  kBreak,
  kContinue,
};

struct MacroDefinition {
  std::string name;  // empty for a call block
  std::vector<std::string> parameters;
  std::vector<ExprPtr> defaults;  // of the last parameters
  bool uses_caller = false;       // the body reads the implicit names
  bool uses_varargs = false;
  bool uses_kwargs = false;
  Body body;
};

struct Stmt {
  Stmt(StmtType type, int line) : type(type), line(line) {}
  const StmtType type;
  const int line;
  std::string text;
  ExprPtr target, value, condition;
  std::vector<std::pair<ExprPtr, Body>> branches;
  std::vector<std::pair<ExprPtr, ExprPtr>> assignments;
  Body body, else_body;
  bool recursive = false;
  bool scoped = false;
  std::unique_ptr<MacroDefinition> macro;
};

}  // namespace tandem::jinja
