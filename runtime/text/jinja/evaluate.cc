// Expressions.
#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/format.h"
#include "runtime/text/jinja/globals.h"
#include "runtime/text/jinja/interpreter.h"
#include "runtime/text/jinja/tests.h"
#include "runtime/text/jinja/unicode.h"

namespace tandem::jinja {

absl::StatusOr<Value> Interpreter::Eval(const Expr& expr, const ScopePtr& scope) {
  switch (expr.type) {  // leaves need no accounting of depth
    case ExprType::kConstant:
      return expr.constant;
    case ExprType::kName:
      line_ = expr.line;
      return EvalName(expr, scope);
    default:
      break;
  }
  Deeper deeper(this);
  JINJA_RETURN_IF_ERROR(deeper.status());
  JINJA_RETURN_IF_ERROR(Step());
  switch (expr.type) {
    case ExprType::kAttribute: {
      JINJA_ASSIGN(const Value object, Eval(*expr.items[0], scope));
      line_ = expr.line;
      return GetAttribute(object, expr.name);
    }
    case ExprType::kSubscript: {
      JINJA_ASSIGN(const Value object, Eval(*expr.items[0], scope));
      JINJA_ASSIGN(const Value key, Eval(*expr.items[1], scope));
      line_ = expr.line;
      return GetItem(object, key);
    }
    case ExprType::kSlice:
      return EvalSlice(expr, scope);
    case ExprType::kCall:
      return EvalCall(expr, scope, nullptr);
    case ExprType::kFilter:
      return EvalFilter(expr, scope, nullptr);
    case ExprType::kTest:
      return EvalTest(expr, scope);
    case ExprType::kTuple:
    case ExprType::kList:
    case ExprType::kDict:
      return EvalItems(expr, scope);
    case ExprType::kNegate:
    case ExprType::kPlus:
    case ExprType::kNot:
      return EvalUnary(expr, scope);
    case ExprType::kAnd:
    case ExprType::kOr:
    case ExprType::kConditional:
      return EvalLogic(expr, scope);
    case ExprType::kBinary:
      return EvalBinary(expr, scope);
    case ExprType::kConcat:
      return EvalConcat(expr, scope);
    case ExprType::kCompare:
      return EvalCompare(expr, scope);
    default:
      return TypeError("this expression has no value");
  }
}

absl::StatusOr<Value> Interpreter::EvalName(const Expr& expr, const ScopePtr& scope) {
  if (const Value* value = scope->Find(expr.name); value != nullptr) return *value;
  Value global = FindGlobal(heap_, expr.name);
  if (!global.is_undefined()) return global;
  return heap_.Undefined(absl::StrCat("'", expr.name, "' is undefined"));
}

absl::StatusOr<Value> Interpreter::EvalItems(const Expr& expr, const ScopePtr& scope) {
  Values items;
  items.reserve(expr.items.size());
  for (const ExprPtr& item : expr.items) {
    JINJA_ASSIGN(Value value, Eval(*item, scope));
    items.push_back(std::move(value));
  }
  line_ = expr.line;
  if (expr.type == ExprType::kTuple) return heap_.Tuple(std::move(items));
  if (expr.type == ExprType::kList) return heap_.List(std::move(items));
  Value dict = heap_.Make<DictObject>(Kind::kDict);
  for (size_t i = 0; i + 1 < items.size(); i += 2) {
    if (!IsHashable(items[i])) {
      return TypeError(absl::StrCat("unhashable type: '", std::string(TypeName(items[i])), "'"));
    }
    dict.as<DictObject>().Set(std::move(items[i]), std::move(items[i + 1]));
  }
  return dict;
}

absl::StatusOr<Value> Interpreter::EvalUnary(const Expr& expr, const ScopePtr& scope) {
  JINJA_ASSIGN(const Value value, Eval(*expr.items[0], scope));
  line_ = expr.line;
  if (expr.type == ExprType::kNot) return Value::Bool(!Truth(value));
  const bool negate = expr.type == ExprType::kNegate;
  if (value.is_undefined()) return UndefinedError(value);
  if (value.is(Kind::kFloat)) {
    return Value::Float(negate ? -value.float_value() : value.float_value());
  }
  if (!value.is_integral()) {
    return TypeError(absl::StrCat("bad operand type for unary ", negate ? "-" : "+", ": '",
                                  std::string(TypeName(value)), "'"));
  }
  if (!negate) return Value::Integer(value.int_value());
  return Binary("-", Value::Integer(0), value);
}

absl::StatusOr<Value> Interpreter::EvalLogic(const Expr& expr, const ScopePtr& scope) {
  if (expr.type == ExprType::kConditional) {
    JINJA_ASSIGN(const Value condition, Eval(*expr.items[1], scope));
    if (Truth(condition)) return Eval(*expr.items[0], scope);
    if (expr.items[2] != nullptr) return Eval(*expr.items[2], scope);
    return heap_.Undefined("the inline if-expression was false and has no else");
  }
  JINJA_ASSIGN(Value left, Eval(*expr.items[0], scope));
  if (Truth(left) == (expr.type == ExprType::kOr)) return left;
  return Eval(*expr.items[1], scope);
}

absl::StatusOr<Value> Interpreter::EvalBinary(const Expr& expr, const ScopePtr& scope) {
  JINJA_ASSIGN(const Value left, Eval(*expr.items[0], scope));
  JINJA_ASSIGN(const Value right, Eval(*expr.items[1], scope));
  line_ = expr.line;
  return Binary(expr.name, left, right);
}

absl::StatusOr<Value> Interpreter::EvalConcat(const Expr& expr, const ScopePtr& scope) {
  Values parts;
  bool markup = false;
  for (const ExprPtr& item : expr.items) {
    JINJA_ASSIGN(Value value, Eval(*item, scope));
    markup |= autoescape_ && value.is_markup();
    parts.push_back(std::move(value));
  }
  line_ = expr.line;
  std::string text;
  for (const Value& part : parts) {
    JINJA_ASSIGN(const std::string piece, Str(part));
    JINJA_RETURN_IF_ERROR(heap_.Check(text.size() + piece.size()));
    text += markup && !part.is_markup() ? EscapeHtml(piece) : piece;
  }
  return heap_.String(std::move(text), markup);
}

absl::StatusOr<Value> Interpreter::EvalCompare(const Expr& expr, const ScopePtr& scope) {
  JINJA_ASSIGN(Value left, Eval(*expr.items[0], scope));
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    JINJA_ASSIGN(Value right, Eval(*expr.items[i + 1], scope));
    line_ = expr.line;
    JINJA_ASSIGN(const bool holds, Compare(expr.operators[i], left, right));
    if (!holds) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

absl::StatusOr<Arguments> Interpreter::EvalArguments(const CallArguments* args,
                                                     const ScopePtr& scope) {
  Arguments out;
  if (args == nullptr) return out;
  for (const ExprPtr& expr : args->positional) {
    JINJA_ASSIGN(Value value, Eval(*expr, scope));
    out.positional.push_back(std::move(value));
  }
  if (args->star != nullptr) {
    JINJA_ASSIGN(const Value star, Eval(*args->star, scope));
    JINJA_ASSIGN(Values values, ToValues(star));
    for (Value& value : values) out.positional.push_back(std::move(value));
  }
  for (const auto& [name, expr] : args->named) {
    JINJA_ASSIGN(Value value, Eval(*expr, scope));
    out.named.emplace_back(name, std::move(value));
  }
  if (args->double_star != nullptr) {
    JINJA_ASSIGN(const Value stars, Eval(*args->double_star, scope));
    if (!stars.is(Kind::kDict)) return TypeError("argument after ** must be a mapping");
    for (const auto& [key, value] : stars.dict().entries) {
      if (!key.is_string()) return TypeError("keywords must be strings");
      for (const auto& [name, unused] : out.named) {
        if (name == key.string()) {
          return TypeError(absl::StrCat("got multiple values for keyword argument '", name, "'"));
        }
      }
      out.named.emplace_back(key.string(), value);
    }
  }
  return out;
}

absl::StatusOr<Value> Interpreter::EvalCall(const Expr& expr, const ScopePtr& scope,
                                            const Value* caller) {
  JINJA_ASSIGN(const Value callee, Eval(*expr.items[0], scope));
  JINJA_ASSIGN(Arguments arguments, EvalArguments(expr.args.get(), scope));
  if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
  line_ = expr.line;
  return Call(callee, arguments);
}

absl::StatusOr<Value> Interpreter::EvalFilter(const Expr& expr, const ScopePtr& scope,
                                              const Value* input) {
  Value value;
  if (expr.items[0] != nullptr) {
    // A chain of filters over a block's text has the text at its inner end.
    if (input != nullptr) {
      Deeper deeper(this);
      JINJA_RETURN_IF_ERROR(deeper.status());
      JINJA_ASSIGN(value, EvalFilter(*expr.items[0], scope, input));
    } else {
      JINJA_ASSIGN(value, Eval(*expr.items[0], scope));
    }
  } else if (input != nullptr) {
    value = *input;
  }
  JINJA_ASSIGN(const Arguments arguments, EvalArguments(expr.args.get(), scope));
  line_ = expr.line;
  return ApplyFilter(*this, expr.name, value, arguments);
}

absl::StatusOr<Value> Interpreter::EvalTest(const Expr& expr, const ScopePtr& scope) {
  JINJA_ASSIGN(const Value value, Eval(*expr.items[0], scope));
  JINJA_ASSIGN(const Arguments arguments, EvalArguments(expr.args.get(), scope));
  line_ = expr.line;
  JINJA_ASSIGN(const bool holds, ApplyTest(*this, expr.name, value, arguments));
  return Value::Bool(holds);
}

namespace {

// A bound of a slice: absent and None alike are open.
absl::StatusOr<bool> SliceBound(const Value& value, Int* bound) {
  if (value.is_none()) return false;
  if (value.is_undefined()) return UndefinedError(value);
  if (!value.is_integral()) return TypeError("slice indices must be integers or None");
  *bound = value.int_value();
  return true;
}

struct SliceRange {
  Int start = 0, step = 1, count = 0;
};

// Python's slice.indices.
absl::StatusOr<SliceRange> ResolveSlice(const Value* bounds, Int length) {
  SliceRange out;
  JINJA_ASSIGN(const bool has_step, SliceBound(bounds[2], &out.step));
  if (has_step && out.step == 0) return TypeError("slice step cannot be zero");
  const Int step = out.step;
  const Int low = step > 0 ? 0 : -1;
  const Int high = step > 0 ? length : length - 1;
  const auto clamp = [&](Int index) {
    if (index < 0) index += length;
    return index < low ? low : index > high ? high : index;
  };
  Int start = step > 0 ? low : high, stop = step > 0 ? high : low, bound = 0;
  JINJA_ASSIGN(const bool has_start, SliceBound(bounds[0], &bound));
  if (has_start) start = clamp(bound);
  JINJA_ASSIGN(const bool has_stop, SliceBound(bounds[1], &bound));
  if (has_stop) stop = clamp(bound);
  out.start = start;
  if (step > 0) {
    out.count = stop > start ? (stop - start - 1) / step + 1 : 0;
  } else {
    out.count = start > stop ? (start - stop - 1) / -step + 1 : 0;
  }
  return out;
}

std::string SliceText(const StringObject& object, const SliceRange& range) {
  std::string out;
  const auto count = static_cast<size_t>(range.count);
  if (object.ascii) {
    if (range.step == 1) return object.text.substr(static_cast<size_t>(range.start), count);
    out.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      out.push_back(
          object.text[static_cast<size_t>(range.start + static_cast<Int>(i) * range.step)]);
    }
    return out;
  }
  const std::u32string all = ToCodePoints(object.text);
  for (size_t i = 0; i < count; ++i) {
    AppendUtf8(all[static_cast<size_t>(range.start + static_cast<Int>(i) * range.step)], &out);
  }
  return out;
}

}  // namespace

absl::StatusOr<Value> Interpreter::EvalSlice(const Expr& expr, const ScopePtr& scope) {
  JINJA_ASSIGN(const Value object, Eval(*expr.items[0], scope));
  Value bounds[3] = {Value::None(), Value::None(), Value::None()};
  for (size_t i = 0; i < 3; ++i) {
    if (expr.items[i + 1] == nullptr) continue;
    JINJA_ASSIGN(bounds[i], Eval(*expr.items[i + 1], scope));
  }
  line_ = expr.line;
  if (object.is_undefined()) return UndefinedError(object);
  if (!object.is_string() && !object.is_sequence() && !object.is(Kind::kRange)) {
    return TypeError(absl::StrCat("'", std::string(TypeName(object)), "' cannot be sliced"));
  }
  JINJA_ASSIGN(const Int length, Length(object));
  JINJA_ASSIGN(const SliceRange range, ResolveSlice(bounds, length));
  JINJA_RETURN_IF_ERROR(
      Step(static_cast<uint64_t>(object.is_string() ? length / 64 : range.count)));
  if (object.is_string()) {
    return heap_.String(SliceText(object.as<StringObject>(), range), object.is_markup());
  }
  if (object.is(Kind::kRange)) {
    const auto& source = object.as<RangeObject>();
    const Int start = source.start + range.start * source.step;
    const Int step = source.step * range.step;
    return heap_.Make<RangeObject>(Kind::kRange, start, start + range.count * step, step);
  }
  Values items;
  JINJA_RETURN_IF_ERROR(heap_.Check(static_cast<size_t>(range.count) * sizeof(Value)));
  for (Int i = 0; i < range.count; ++i) {
    items.push_back(object.items()[static_cast<size_t>(range.start + i * range.step)]);
  }
  return object.is(Kind::kList) ? heap_.List(std::move(items)) : heap_.Tuple(std::move(items));
}

}  // namespace tandem::jinja
