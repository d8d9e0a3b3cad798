// Macros: how they are called, and what a template sees of them.
#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/interpreter.h"

namespace tandem::jinja {
namespace {

// A macro with the scope it was defined in.
struct MacroObject : FunctionObject {
  MacroObject(Heap* heap, const MacroDefinition* macro, std::shared_ptr<Scope> scope)
      : FunctionObject(heap), macro(macro), scope(std::move(scope)) {
    name = ConstantString(macro->name);
    Values parameters;
    for (const std::string& parameter : macro->parameters) {
      parameters.push_back(ConstantString(parameter));
    }
    parameter_names = heap->Tuple(std::move(parameters));
    for (bool used : {macro->uses_kwargs, macro->uses_varargs, macro->uses_caller}) {
      flags.push_back(Value::Bool(used));
    }
  }
  absl::StatusOr<Value> Call(Interpreter& interpreter, const Arguments& arguments) override {
    // Everything the call needs is held here: the macro may be rebound while it runs.
    const std::shared_ptr<Scope> held = scope;
    JINJA_ASSIGN(std::string text, interpreter.CallMacro(*macro, held, arguments));
    return interpreter.String(std::move(text));
  }
  std::string Describe() const override {
    return macro->name.empty() ? "<Macro anonymous>" : absl::StrCat("<Macro '", macro->name, "'>");
  }
  const Value* Attribute(std::string_view attribute) const override {
    if (attribute == "name") return &name;
    if (attribute == "arguments") return &parameter_names;
    if (attribute == "catch_kwargs") return &flags[0];
    if (attribute == "catch_varargs") return &flags[1];
    if (attribute == "caller") return &flags[2];
    return nullptr;
  }
  const MacroDefinition* const macro;
  const std::shared_ptr<Scope> scope;
  Value name, parameter_names;
  Values flags;
};

// The arguments of a call; a named one can be taken once.
class MacroArguments {
 public:
  explicit MacroArguments(const Arguments& arguments)
      : arguments_(arguments), taken_(arguments.named.size(), false) {}

  const Values& positional() const { return arguments_.positional; }

  // Null if there is none left of that name.
  const Value* Take(std::string_view name) {
    for (size_t i = 0; i < taken_.size(); ++i) {
      if (taken_[i] || arguments_.named[i].first != name) continue;
      taken_[i] = true;
      return &arguments_.named[i].second;
    }
    return nullptr;
  }

  // Named arguments that were not taken.
  std::vector<std::pair<std::string_view, const Value*>> Rest() const {
    std::vector<std::pair<std::string_view, const Value*>> rest;
    for (size_t i = 0; i < taken_.size(); ++i) {
      if (!taken_[i]) rest.emplace_back(arguments_.named[i].first, &arguments_.named[i].second);
    }
    return rest;
  }

 private:
  const Arguments& arguments_;
  std::vector<bool> taken_;
};

// kwargs and varargs: what is left when every parameter has its argument. An error where the macro
// uses neither.
absl::Status BindRest(Interpreter& interpreter, const MacroDefinition& macro,
                      const MacroArguments& arguments, Scope& inner) {
  const std::string label =
      macro.name.empty() ? "anonymous macro" : absl::StrCat("macro '", macro.name, "'");
  const auto rest = arguments.Rest();
  if (macro.uses_kwargs) {
    Value dict = interpreter.heap().Make<DictObject>(Kind::kDict);
    for (const auto& [name, value] : rest) {
      dict.as<DictObject>().Set(interpreter.String(std::string(name)), *value);
    }
    inner.Set("kwargs", std::move(dict));
  } else if (!rest.empty()) {
    return TypeError(
        absl::StrCat(label, " takes no keyword argument '", std::string(rest.front().first), "'"));
  }
  const size_t count = macro.parameters.size();
  if (macro.uses_varargs) {
    Values more;
    for (size_t i = count; i < arguments.positional().size(); ++i) {
      more.push_back(arguments.positional()[i]);
    }
    inner.Set("varargs", interpreter.heap().Tuple(std::move(more)));
  } else if (arguments.positional().size() > count) {
    return TypeError(absl::StrCat(label, " takes not more than ", count, " argument(s)"));
  }
  return absl::OkStatus();
}

}  // namespace

Value Interpreter::MakeMacro(const MacroDefinition& macro, const ScopePtr& scope) {
  captured_.push_back(scope);
  return heap_.Make<MacroObject>(Kind::kFunction, &macro, scope);
}

absl::Status Interpreter::BindMacro(const MacroDefinition& macro, const Arguments& arguments,
                                    const ScopePtr& inner) {
  const size_t count = macro.parameters.size();
  MacroArguments left(arguments);
  bool has_caller_parameter = false;
  std::vector<const Value*> given(count, nullptr);
  for (size_t i = 0; i < count; ++i) {
    given[i] =
        i < arguments.positional.size() ? &arguments.positional[i] : left.Take(macro.parameters[i]);
    has_caller_parameter |= macro.parameters[i] == "caller";
  }
  if (macro.uses_caller && !has_caller_parameter) {
    const Value* caller = left.Take("caller");
    inner->Set("caller", caller != nullptr && !caller->is_none()
                             ? *caller
                             : heap_.Undefined("no caller defined"));
  }
  JINJA_RETURN_IF_ERROR(BindRest(*this, macro, left, *inner));
  // Defaults are evaluated in order and see the parameters before them.
  const size_t required = count - macro.defaults.size();
  for (size_t i = 0; i < count; ++i) {
    const std::string& name = macro.parameters[i];
    if (given[i] != nullptr) {
      inner->Set(name, *given[i]);
    } else if (i >= required) {
      JINJA_ASSIGN(Value value, Eval(*macro.defaults[i - required], inner));
      inner->Set(name, std::move(value));
    } else {
      inner->Set(name, heap_.Undefined(absl::StrCat("parameter '", name, "' was not provided")));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Interpreter::CallMacro(const MacroDefinition& macro,
                                                   const std::shared_ptr<Scope>& scope,
                                                   const Arguments& arguments) {
  Deeper deeper(this);
  JINJA_RETURN_IF_ERROR(deeper.status());
  const ScopePtr inner = NewScope(scope);
  JINJA_RETURN_IF_ERROR(BindMacro(macro, arguments, inner));
  // Inside a macro output is escaped only as the whole template says: not at all.
  const bool escape = std::exchange(autoescape_, false);
  absl::StatusOr<std::string> text = Capture(macro.body, inner, nullptr);
  autoescape_ = escape;
  return text;
}

}  // namespace tandem::jinja
