#include "runtime/text/jinja/interpreter.h"

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/format.h"
#include "runtime/text/jinja/globals.h"
#include "runtime/text/jinja/loop.h"

namespace tandem::jinja {
namespace {

constexpr int kMaxJsonDepth = 150;

constexpr char kRaised[] = "tandem.jinja.raised";

}  // namespace

void Scope::Clear() {
  for (auto& variable : variables) heap->Discard(std::move(variable.second));
  variables.clear();
}

const Value* Scope::FindHere(std::string_view name) const {
  for (const auto& [key, value] : variables) {
    if (key == name) return &value;
  }
  return nullptr;
}

const Value* Scope::Find(std::string_view name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent.get()) {
    if (const Value* value = scope->FindHere(name); value != nullptr) return value;
  }
  return nullptr;
}

void Scope::Set(std::string_view name, Value value) {
  for (auto& [key, old] : variables) {
    if (key == name) {
      old = std::move(value);
      return;
    }
  }
  variables.emplace_back(name, std::move(value));
  Charge(sizeof(variables[0]));
}

absl::Status MakeRaised(std::string_view message) {
  absl::Status status =
      absl::InvalidArgumentError(absl::string_view(message.data(), message.size()));
  status.SetPayload(kRaised, absl::Cord());
  return status;
}

bool IsRaised(const absl::Status& status) { return status.GetPayload(kRaised).has_value(); }

Interpreter::Interpreter(const RenderOptions& options)
    : options_(options), heap_(options.max_memory_bytes) {}

Interpreter::~Interpreter() {
  for (const std::weak_ptr<Scope>& weak : captured_) {
    if (ScopePtr scope = weak.lock(); scope != nullptr) scope->Clear();
  }
  if (root_ != nullptr) root_->Clear();
  root_.reset();
  heap_.ReleaseCycles();
}

absl::Status Interpreter::Deeper::status() const {
  if (interpreter_->depth_ <= interpreter_->options_.max_depth) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("template nests deeper than ", interpreter_->options_.max_depth, " levels"));
}

absl::Status Interpreter::Step(uint64_t count) {
  steps_ += count;
  if (steps_ > options_.max_steps) {
    return absl::ResourceExhaustedError(
        absl::StrCat("template takes more than ", options_.max_steps, " steps"));
  }
  if (heap_.exceeded()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("template needs more than ", options_.max_memory_bytes, " bytes of memory"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Interpreter::Run(const Body& body,
                                             const nlohmann::ordered_json& variables) {
  std::string out;
  out_ = &out;
  root_ = NewScope(nullptr);
  const absl::Status status = [&]() -> absl::Status {
    if (!variables.is_null() && !variables.is_object()) {
      return TypeError("the variables must be a JSON object");
    }
    for (const auto& [name, json] : variables.items()) {
      JINJA_ASSIGN(Value value, FromJson(json));
      root_->Set(name, std::move(value));
    }
    // Sets at the top shadow what was passed in but are kept apart from it: macros and
    // blocks see both.
    return ExecBody(body, root_).status();
  }();
  if (status.ok()) return out;
  if (IsRaised(status)) return absl::Status(status.code(), status.message());
  return absl::Status(status.code(), absl::StrCat("line ", line_, ": ", status.message()));
}

absl::StatusOr<Value> Interpreter::FromJson(const nlohmann::ordered_json& json, int depth) {
  if (depth > kMaxJsonDepth) return TypeError("variables are nested too deeply");
  JINJA_RETURN_IF_ERROR(Step());
  switch (json.type()) {
    case nlohmann::json::value_t::null:
      return Value::None();
    case nlohmann::json::value_t::boolean:
      return Value::Bool(json.get<bool>());
    case nlohmann::json::value_t::number_integer:
      return Value::Integer(json.get<int64_t>());
    case nlohmann::json::value_t::number_unsigned:
      return Value::Integer(json.get<uint64_t>());
    case nlohmann::json::value_t::number_float:
      return Value::Float(json.get<double>());
    case nlohmann::json::value_t::string:
      return String(json.get_ref<const std::string&>());
    case nlohmann::json::value_t::array: {
      Values items;
      items.reserve(json.size());
      for (const auto& item : json) {
        JINJA_ASSIGN(Value value, FromJson(item, depth + 1));
        items.push_back(std::move(value));
      }
      return heap_.List(std::move(items));
    }
    case nlohmann::json::value_t::object: {
      Value dict = heap_.Make<DictObject>(Kind::kDict);
      for (const auto& [key, item] : json.items()) {
        JINJA_ASSIGN(Value value, FromJson(item, depth + 1));
        dict.as<DictObject>().Set(String(key), std::move(value));
      }
      return dict;
    }
    default:
      return TypeError("variables hold something that JSON does not have");
  }
}

absl::Status Interpreter::Write(std::string_view text) {
  if (text.size() > options_.max_output_bytes ||
      out_->size() > options_.max_output_bytes - text.size()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("template writes more than ", options_.max_output_bytes, " bytes"));
  }
  out_->append(text);
  return absl::OkStatus();
}

absl::Status Interpreter::WriteValue(const Value& value) {
  if (autoescape_ && !value.is_markup()) {
    JINJA_ASSIGN(const std::string text, Str(value));
    return Write(EscapeHtml(text));
  }
  if (value.is_string()) return Write(value.string());
  JINJA_ASSIGN(const std::string text, Str(value));
  return Write(text);
}

absl::StatusOr<std::string> Interpreter::Capture(const Body& body, const ScopePtr& scope,
                                                 Flow* flow) {
  std::string text;
  std::string* const outer = std::exchange(out_, &text);
  FlowOr result = ExecBody(body, scope);
  out_ = outer;
  if (!result.ok()) return result.status();
  if (flow != nullptr) *flow = *result;
  return text;
}

Interpreter::FlowOr Interpreter::ExecBody(const Body& body, const ScopePtr& scope) {
  for (const StmtPtr& stmt : body) {
    JINJA_ASSIGN(const Flow flow, Exec(*stmt, scope));
    if (flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

Interpreter::FlowOr Interpreter::Exec(const Stmt& stmt, const ScopePtr& scope) {
  line_ = stmt.line;
  JINJA_RETURN_IF_ERROR(Step());
  switch (stmt.type) {
    case StmtType::kText:
      JINJA_RETURN_IF_ERROR(Write(stmt.text));
      return Flow::kNormal;
    case StmtType::kOutput: {
      JINJA_ASSIGN(const Value value, Eval(*stmt.value, scope));
      JINJA_RETURN_IF_ERROR(WriteValue(value));
      return Flow::kNormal;
    }
    case StmtType::kBreak:
      return Flow::kBreak;
    case StmtType::kContinue:
      return Flow::kContinue;
    default:
      break;
  }
  Deeper deeper(this);
  JINJA_RETURN_IF_ERROR(deeper.status());
  switch (stmt.type) {
    case StmtType::kIf:
      return ExecIf(stmt, scope);
    case StmtType::kFor:
      return ExecFor(stmt, scope);
    case StmtType::kSet:
      return ExecSet(stmt, scope);
    case StmtType::kSetBlock:
      return ExecSetBlock(stmt, scope);
    case StmtType::kWith:
      return ExecWith(stmt, scope);
    case StmtType::kMacro:
      scope->Set(stmt.macro->name, MakeMacro(*stmt.macro, scope));
      return Flow::kNormal;
    case StmtType::kCallBlock:
      return ExecCallBlock(stmt, scope);
    case StmtType::kFilterBlock:
      return ExecFilterBlock(stmt, scope);
    case StmtType::kBlock:
      return ExecBody(stmt.body, NewScope(stmt.scoped ? scope : root_));
    case StmtType::kAutoescape:
      return ExecAutoescape(stmt, scope);
    case StmtType::kScope:
      return ExecBody(stmt.body, NewScope(scope));
    default:
      return Flow::kNormal;
  }
}

Interpreter::FlowOr Interpreter::ExecIf(const Stmt& stmt, const ScopePtr& scope) {
  for (const auto& [condition, body] : stmt.branches) {
    JINJA_ASSIGN(const Value value, Eval(*condition, scope));
    if (Truth(value)) return ExecBody(body, scope);
  }
  return ExecBody(stmt.else_body, scope);
}

Interpreter::FlowOr Interpreter::ExecSet(const Stmt& stmt, const ScopePtr& scope) {
  JINJA_ASSIGN(const Value value, Eval(*stmt.value, scope));
  line_ = stmt.line;
  JINJA_RETURN_IF_ERROR(Assign(*stmt.target, value, scope));
  return Flow::kNormal;
}

Interpreter::FlowOr Interpreter::ExecSetBlock(const Stmt& stmt, const ScopePtr& scope) {
  const ScopePtr inner = NewScope(scope);
  Flow flow = Flow::kNormal;
  JINJA_ASSIGN(std::string text, Capture(stmt.body, inner, &flow));
  if (flow != Flow::kNormal) return flow;
  Value value = heap_.String(std::move(text), autoescape_);
  if (stmt.value != nullptr) {
    const Value input = value;
    JINJA_ASSIGN(value, EvalFilter(*stmt.value, inner, &input));
  }
  JINJA_RETURN_IF_ERROR(Assign(*stmt.target, value, scope));
  return Flow::kNormal;
}

Interpreter::FlowOr Interpreter::ExecWith(const Stmt& stmt, const ScopePtr& scope) {
  const ScopePtr inner = NewScope(scope);
  for (const auto& [target, expr] : stmt.assignments) {
    JINJA_ASSIGN(const Value value, Eval(*expr, scope));
    JINJA_RETURN_IF_ERROR(Assign(*target, value, inner));
  }
  return ExecBody(stmt.body, inner);
}

Interpreter::FlowOr Interpreter::ExecCallBlock(const Stmt& stmt, const ScopePtr& scope) {
  const Value caller = MakeMacro(*stmt.macro, scope);
  JINJA_ASSIGN(const Value value, EvalCall(*stmt.value, scope, &caller));
  JINJA_RETURN_IF_ERROR(WriteValue(value));
  return Flow::kNormal;
}

Interpreter::FlowOr Interpreter::ExecFilterBlock(const Stmt& stmt, const ScopePtr& scope) {
  const ScopePtr inner = NewScope(scope);
  Flow flow = Flow::kNormal;
  JINJA_ASSIGN(std::string text, Capture(stmt.body, inner, &flow));
  if (flow != Flow::kNormal) return flow;
  const Value input = heap_.String(std::move(text), autoescape_);
  JINJA_ASSIGN(const Value value, EvalFilter(*stmt.value, inner, &input));
  JINJA_RETURN_IF_ERROR(WriteValue(value));
  return Flow::kNormal;
}

Interpreter::FlowOr Interpreter::ExecAutoescape(const Stmt& stmt, const ScopePtr& scope) {
  JINJA_ASSIGN(const Value value, Eval(*stmt.value, scope));
  const bool outer = std::exchange(autoescape_, Truth(value));
  FlowOr flow = ExecBody(stmt.body, NewScope(scope));
  autoescape_ = outer;
  return flow;
}

Interpreter::FlowOr Interpreter::ExecFor(const Stmt& stmt, const ScopePtr& scope) {
  JINJA_ASSIGN(const Value iterable, Eval(*stmt.value, scope));
  line_ = stmt.line;
  Flow flow = Flow::kNormal;
  if (!stmt.recursive) {
    JINJA_RETURN_IF_ERROR(ExecLoop(stmt, scope, iterable, 0, &flow));
    return flow;
  }
  JINJA_ASSIGN(const std::string text, RunLoop(stmt, scope, iterable, 0));
  JINJA_RETURN_IF_ERROR(Write(text));
  return flow;
}

absl::StatusOr<std::string> Interpreter::RunLoop(const Stmt& loop, const ScopePtr& scope,
                                                 const Value& iterable, int depth) {
  Deeper deeper(this);
  JINJA_RETURN_IF_ERROR(deeper.status());
  std::string text;
  std::string* const outer = std::exchange(out_, &text);
  Flow flow = Flow::kNormal;
  const absl::Status status = ExecLoop(loop, scope, iterable, depth, &flow);
  out_ = outer;
  if (!status.ok()) return status;
  return text;
}

absl::Status Interpreter::ExecLoop(const Stmt& stmt, const ScopePtr& scope, const Value& iterable,
                                   int depth, Flow* flow) {
  Value source = iterable;
  if (stmt.condition != nullptr) {
    JINJA_ASSIGN(std::shared_ptr<IteratorObject> all, Iterate(iterable));
    const auto keep = [this, &stmt, scope](const Value& item) -> absl::StatusOr<bool> {
      // The condition sees the target but not this loop's `loop`.
      const ScopePtr inner = NewScope(scope);
      JINJA_RETURN_IF_ERROR(Assign(*stmt.target, item, inner));
      JINJA_ASSIGN(const Value value, Eval(*stmt.condition, inner));
      return Truth(value);
    };
    source =
        Value(Kind::kIterator, std::make_shared<FilteredIterator>(&heap_, std::move(all), keep));
  }
  const bool recursive = stmt.recursive;
  auto loop = std::make_shared<LoopObject>(&heap_, source, recursive ? &stmt : nullptr,
                                           recursive ? scope : nullptr, depth);
  if (recursive) captured_.push_back(scope);
  JINJA_RETURN_IF_ERROR(loop->Start(*this));
  const Value loop_value(Kind::kLoop, loop);
  bool any = false;
  for (;;) {
    JINJA_RETURN_IF_ERROR(Step());
    Value item;
    JINJA_ASSIGN(const bool more, loop->Advance(*this, &item));
    if (!more) break;
    const ScopePtr inner = NewScope(scope);
    inner->Set("loop", loop_value);
    line_ = stmt.line;
    JINJA_RETURN_IF_ERROR(Assign(*stmt.target, item, inner));
    JINJA_ASSIGN(const Flow result, ExecBody(stmt.body, inner));
    // Jinja notes that there was an iteration only where the body ends: the else part also
    // runs after nothing but `continue` or a `break` in the first round.
    if (result == Flow::kNormal) any = true;
    if (result == Flow::kBreak) break;
  }
  if (any || stmt.else_body.empty()) return absl::OkStatus();
  JINJA_ASSIGN(*flow, ExecBody(stmt.else_body, NewScope(scope)));
  return absl::OkStatus();
}

absl::Status Interpreter::Assign(const Expr& target, const Value& value, const ScopePtr& scope) {
  switch (target.type) {
    case ExprType::kName:
      scope->Set(target.name, value);
      return absl::OkStatus();
    case ExprType::kNamespaceRef: {
      const Value* space = scope->Find(target.name);
      if (space == nullptr || !space->is(Kind::kNamespace)) {
        return TypeError(absl::StrCat("cannot assign attribute '", target.attribute, "': '",
                                      target.name, "' is not a namespace"));
      }
      auto& attributes = space->as<NamespaceObject>().attributes;
      for (auto& [name, old] : attributes) {
        if (name == target.attribute) {
          old = value;
          return absl::OkStatus();
        }
      }
      attributes.emplace_back(target.attribute, value);
      space->as<NamespaceObject>().Charge(sizeof(attributes[0]));
      return absl::OkStatus();
    }
    case ExprType::kTuple: {
      if (value.is_undefined() && !target.items.empty() && value.object() == nullptr) {
        return UndefinedError(value);
      }
      JINJA_ASSIGN(const Values parts, ToValues(value));
      if (parts.size() != target.items.size()) {
        return TypeError(absl::StrCat("cannot unpack ", parts.size(), " values into ",
                                      target.items.size(), " names"));
      }
      for (size_t i = 0; i < parts.size(); ++i) {
        JINJA_RETURN_IF_ERROR(Assign(*target.items[i], parts[i], scope));
      }
      return absl::OkStatus();
    }
    default:
      return TypeError("cannot assign to this expression");
  }
}

absl::StatusOr<std::string> Interpreter::Str(const Value& value) {
  if (value.is(Kind::kLoop)) {
    auto& loop = value.as<LoopObject>();
    JINJA_ASSIGN(const Int size, loop.Size(*this));
    return absl::StrCat("<LoopContext ", IntToString(loop.index0 + 1), "/", IntToString(size), ">");
  }
  return ::tandem::jinja::Str(value, heap_);
}

}  // namespace tandem::jinja
