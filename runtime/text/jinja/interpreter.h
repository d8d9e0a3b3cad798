// Walks a parsed template. One Interpreter is one rendering, on one thread.
//
// Errors inside carry no line; Run puts the line in front that was being worked on.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "runtime/text/jinja/ast.h"
#include "runtime/text/jinja/template.h"
#include "runtime/text/jinja/value.h"

namespace tandem::jinja {

// The variables of one block; a name not found is looked up in the block around it.
struct Scope : Object {
  Scope(Heap* heap, std::shared_ptr<Scope> parent) : Object(heap), parent(std::move(parent)) {
    Charge(sizeof(Scope));
  }
  ~Scope() override { Clear(); }
  void Clear();
  const Value* FindHere(std::string_view name) const;
  const Value* Find(std::string_view name) const;
  // `name` must outlive the scope (it is part of the template or of the variables).
  void Set(std::string_view name, Value value);

  std::shared_ptr<Scope> parent;
  std::vector<std::pair<std::string_view, Value>> variables;
};

class Interpreter {
 public:
  explicit Interpreter(const RenderOptions& options);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  absl::StatusOr<std::string> Run(const Body& body, const nlohmann::ordered_json& variables);

  Heap& heap() { return heap_; }
  const RenderOptions& options() const { return options_; }

  // Counts work and looks at the limits.
  absl::Status Step(uint64_t count = 1);

  // Marks that the work goes one level deeper, for as long as it lives.
  class Deeper {
   public:
    explicit Deeper(Interpreter* interpreter) : interpreter_(interpreter) {
      ++interpreter_->depth_;
    }
    ~Deeper() { --interpreter_->depth_; }
    absl::Status status() const;

   private:
    Interpreter* const interpreter_;
  };

  // --- what filters, tests and functions need ---
  absl::StatusOr<std::string> Str(const Value& value);
  Value String(std::string text) { return heap_.String(std::move(text)); }
  // object.name and object[key], each falling back on the other as Jinja does.
  absl::StatusOr<Value> GetAttribute(const Value& object, std::string_view name);
  absl::StatusOr<Value> GetItem(const Value& object, const Value& key);
  // The attribute alone; kind undefined without a reason if there is none.
  absl::StatusOr<Value> FindAttribute(const Value& object, std::string_view name, bool* found);
  absl::StatusOr<Value> Call(const Value& callee, const Arguments& arguments);
  absl::StatusOr<std::shared_ptr<IteratorObject>> Iterate(const Value& value);
  absl::StatusOr<bool> Next(IteratorObject& iterator, Value* value);
  absl::StatusOr<Values> ToValues(const Value& iterable);
  absl::StatusOr<bool> Contains(const Value& container, const Value& item);
  absl::StatusOr<Value> Binary(std::string_view op, const Value& left, const Value& right);
  absl::StatusOr<bool> Compare(std::string_view op, const Value& left, const Value& right);
  absl::StatusOr<Value> FromJson(const nlohmann::ordered_json& json, int depth = 0);
  bool autoescape() const { return autoescape_; }

  absl::StatusOr<std::string> CallMacro(const MacroDefinition& macro,
                                        const std::shared_ptr<Scope>& scope,
                                        const Arguments& arguments);
  absl::StatusOr<std::string> RunLoop(const Stmt& loop, const std::shared_ptr<Scope>& scope,
                                      const Value& iterable, int depth);

 private:
  enum class Flow { kNormal, kBreak, kContinue };
  using FlowOr = absl::StatusOr<Flow>;
  using ScopePtr = std::shared_ptr<Scope>;

  ScopePtr NewScope(ScopePtr parent) { return std::make_shared<Scope>(&heap_, std::move(parent)); }
  absl::Status Write(std::string_view text);
  absl::Status WriteValue(const Value& value);

  FlowOr ExecBody(const Body& body, const ScopePtr& scope);
  FlowOr Exec(const Stmt& stmt, const ScopePtr& scope);
  FlowOr ExecIf(const Stmt& stmt, const ScopePtr& scope);
  FlowOr ExecFor(const Stmt& stmt, const ScopePtr& scope);
  absl::Status ExecLoop(const Stmt& stmt, const ScopePtr& scope, const Value& iterable, int depth,
                        Flow* flow);
  FlowOr ExecSet(const Stmt& stmt, const ScopePtr& scope);
  FlowOr ExecSetBlock(const Stmt& stmt, const ScopePtr& scope);
  FlowOr ExecWith(const Stmt& stmt, const ScopePtr& scope);
  FlowOr ExecCallBlock(const Stmt& stmt, const ScopePtr& scope);
  FlowOr ExecFilterBlock(const Stmt& stmt, const ScopePtr& scope);
  FlowOr ExecAutoescape(const Stmt& stmt, const ScopePtr& scope);
  Value MakeMacro(const MacroDefinition& macro, const ScopePtr& scope);
  // Sets the macro's parameters in the scope of its call.
  absl::Status BindMacro(const MacroDefinition& macro, const Arguments& arguments,
                         const ScopePtr& inner);
  // Runs a body into a string of its own.
  absl::StatusOr<std::string> Capture(const Body& body, const ScopePtr& scope, Flow* flow);
  absl::Status Assign(const Expr& target, const Value& value, const ScopePtr& scope);

  absl::StatusOr<Value> Eval(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalName(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalSlice(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalCall(const Expr& expr, const ScopePtr& scope, const Value* caller);
  // `input` serves a chain of filters over nothing, as blocks have it.
  absl::StatusOr<Value> EvalFilter(const Expr& expr, const ScopePtr& scope, const Value* input);
  absl::StatusOr<Value> EvalTest(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalItems(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalBinary(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalLogic(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalUnary(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalConcat(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalCompare(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Arguments> EvalArguments(const CallArguments* args, const ScopePtr& scope);

  const RenderOptions options_;
  Heap heap_;
  uint64_t steps_ = 0;
  int depth_ = 0;
  int line_ = 1;
  bool autoescape_ = false;
  std::string* out_ = nullptr;
  ScopePtr root_;
  // Scopes that a macro or a loop keeps alive may hold that macro: emptied at the end.
  std::vector<std::weak_ptr<Scope>> captured_;
};

// Arguments matched to parameter names; absent ones are null.
absl::StatusOr<std::vector<const Value*>> BindArguments(
    std::string_view function, const Arguments& arguments,
    std::initializer_list<std::string_view> parameters, size_t required);
// An integer argument, or an error.
absl::StatusOr<Int> IntArgument(const Value& value);
// True if the exception that a template raised itself is what `status` carries.
bool IsRaised(const absl::Status& status);

// Iterators over values known from the start.
Value MakeIterator(Heap& heap, Values values);

}  // namespace tandem::jinja
