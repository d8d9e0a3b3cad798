// Arithmetic with Python's rules.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/format.h"
#include "runtime/text/jinja/interpreter.h"

namespace tandem::jinja {
namespace {

absl::Status TooLarge() { return TypeError("integer is too large"); }

constexpr Int kMaxInt = ~(Int{1} << 127);

// Without __builtin_mul_overflow, which needs a library function that not every compiler's
// run time has for this type.
bool Multiply(Int a, Int b, Int* out) {
  const Int small = Int{1} << 62;
  if (a > -small && a < small && b > -small && b < small) {
    *out = a * b;
    return true;
  }
  if (a == 0 || b == 0) {
    *out = 0;
    return true;
  }
  const Int abs_a = a < 0 ? -a : a;
  const Int abs_b = b < 0 ? -b : b;
  if (abs_a <= 0 || abs_b <= 0 || abs_a > kMaxInt / abs_b) return false;
  *out = a * b;
  return true;
}

bool Add(Int a, Int b, Int* out) {
  if (b > 0 ? a > kMaxInt - b : a < -kMaxInt - b) return false;
  *out = a + b;
  return true;
}

Int FloorDivide(Int a, Int b) {
  const Int quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

double FloatModulo(double a, double b) {
  double remainder = std::fmod(a, b);
  if (remainder != 0) {
    if ((b < 0) != (remainder < 0)) remainder += b;
  } else {
    remainder = std::copysign(0.0, b);
  }
  return remainder;
}

// As Python rounds it: from the remainder, not from the rounded quotient.
double FloatFloorDivide(double a, double b) {
  double remainder = std::fmod(a, b);
  double quotient = (a - remainder) / b;
  if (remainder != 0 && (b < 0) != (remainder < 0)) quotient -= 1;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double floor = std::floor(quotient);
  return quotient - floor > 0.5 ? floor + 1 : floor;
}

absl::StatusOr<Value> Power(const Value& left, const Value& right) {
  if (left.is_integral() && right.is_integral() && right.int_value() >= 0) {
    Int base = left.int_value(), exponent = right.int_value(), result = 1;
    if (base >= -1 && base <= 1 && exponent > 1) exponent = 2 + exponent % 2;
    while (exponent > 0) {
      if (exponent % 2 == 1 && !Multiply(result, base, &result)) return TooLarge();
      exponent /= 2;
      if (exponent > 0 && !Multiply(base, base, &base)) return TooLarge();
    }
    return Value::Integer(result);
  }
  const double base = left.number(), exponent = right.number();
  if (base == 0 && exponent < 0) return TypeError("0.0 cannot be raised to a negative power");
  if (base < 0 && exponent != std::floor(exponent) && std::isfinite(exponent) &&
      std::isfinite(base)) {
    return TypeError("a power that is a complex number is not supported");
  }
  const double result = std::pow(base, exponent);
  if (std::isinf(result) && std::isfinite(base) && std::isfinite(exponent)) {
    return TypeError("numerical result out of range");
  }
  return Value::Float(result);
}

absl::StatusOr<Value> IntArithmetic(std::string_view op, Int a, Int b) {
  Int result = 0;
  if (op == "+")
    return Add(a, b, &result) ? absl::StatusOr<Value>(Value::Integer(result)) : TooLarge();
  if (op == "-") {
    if (b < -kMaxInt || !Add(a, -b, &result)) return TooLarge();
    return Value::Integer(result);
  }
  if (op == "*")
    return Multiply(a, b, &result) ? absl::StatusOr<Value>(Value::Integer(result)) : TooLarge();
  if (b == 0) return TypeError("division by zero");
  if (op == "/") {
    return Value::Float(
        static_cast<double>(static_cast<long double>(a) / static_cast<long double>(b)));
  }
  if (b == -1) {
    if (a < -kMaxInt) return TooLarge();
    return Value::Integer(op == "//" ? -a : 0);
  }
  if (op == "//") return Value::Integer(FloorDivide(a, b));
  return Value::Integer(a - FloorDivide(a, b) * b);
}

absl::StatusOr<Value> FloatArithmetic(std::string_view op, double a, double b) {
  if (op == "+") return Value::Float(a + b);
  if (op == "-") return Value::Float(a - b);
  if (op == "*") return Value::Float(a * b);
  if (b == 0) return TypeError("float division by zero");
  if (op == "/") return Value::Float(a / b);
  if (op == "//") return Value::Float(FloatFloorDivide(a, b));
  return Value::Float(FloatModulo(a, b));
}

absl::StatusOr<Value> Repeat(Interpreter& interpreter, const Value& value, Int count) {
  Heap& heap = interpreter.heap();
  const size_t size =
      value.is_string() ? value.string().size() : value.items().size() * sizeof(Value);
  if (count < 0 || size == 0) count = 0;
  if (count > 0) {
    if (count > (Int{1} << 40)) JINJA_RETURN_IF_ERROR(heap.Check(SIZE_MAX));
    const auto bytes = static_cast<unsigned __int128>(size) * static_cast<uint64_t>(count);
    JINJA_RETURN_IF_ERROR(
        heap.Check(bytes > (SIZE_MAX >> 2) ? SIZE_MAX : static_cast<size_t>(bytes)));
    JINJA_RETURN_IF_ERROR(interpreter.Step(static_cast<uint64_t>(bytes / 256)));
  }
  if (value.is_string()) {
    std::string out;
    out.reserve(size * static_cast<size_t>(count));
    for (Int i = 0; i < count; ++i) out += value.string();
    return heap.String(std::move(out), value.is_markup());
  }
  Values out;
  out.reserve(value.items().size() * static_cast<size_t>(count));
  for (Int i = 0; i < count; ++i) {
    out.insert(out.end(), value.items().begin(), value.items().end());
  }
  return value.is(Kind::kList) ? heap.List(std::move(out)) : heap.Tuple(std::move(out));
}

absl::StatusOr<Value> Join(Interpreter& interpreter, const Value& left, const Value& right) {
  Heap& heap = interpreter.heap();
  if (left.is_string()) {
    const bool markup = left.is_markup() || right.is_markup();
    const auto piece = [&](const Value& value) {
      return markup && !value.is_markup() ? EscapeHtml(value.string()) : value.string();
    };
    JINJA_RETURN_IF_ERROR(heap.Check(left.string().size() + right.string().size()));
    JINJA_RETURN_IF_ERROR(interpreter.Step((left.string().size() + right.string().size()) / 1024));
    return heap.String(markup ? piece(left) + piece(right) : left.string() + right.string(),
                       markup);
  }
  JINJA_RETURN_IF_ERROR(heap.Check((left.items().size() + right.items().size()) * sizeof(Value)));
  JINJA_RETURN_IF_ERROR(interpreter.Step((left.items().size() + right.items().size()) / 16));
  Values items = left.items();
  items.insert(items.end(), right.items().begin(), right.items().end());
  return left.is(Kind::kList) ? heap.List(std::move(items)) : heap.Tuple(std::move(items));
}

}  // namespace

absl::StatusOr<Value> Interpreter::Binary(std::string_view op, const Value& left,
                                          const Value& right) {
  // str.__mod__ comes before the undefined value's refusal.
  if (op == "%" && left.is_string()) {
    JINJA_ASSIGN(std::string text, PercentFormat(left.string(), right, heap_));
    return heap_.String(std::move(text), left.is_markup());
  }
  if (left.is_undefined()) return UndefinedError(left);
  if (right.is_undefined()) return UndefinedError(right);
  if (left.is_number() && right.is_number()) {
    if (op == "**") return Power(left, right);
    if (left.is_integral() && right.is_integral()) {
      return IntArithmetic(op, left.int_value(), right.int_value());
    }
    return FloatArithmetic(op, left.number(), right.number());
  }
  if (op == "*") {
    if ((left.is_string() || left.is_sequence()) && right.is_integral()) {
      return Repeat(*this, left, right.int_value());
    }
    if ((right.is_string() || right.is_sequence()) && left.is_integral()) {
      return Repeat(*this, right, left.int_value());
    }
  }
  if (op == "+" && left.kind() == right.kind() && (left.is_string() || left.is_sequence())) {
    return Join(*this, left, right);
  }
  return TypeError(absl::StrCat("unsupported operand type(s) for ", std::string(op), ": '",
                                std::string(TypeName(left)), "' and '",
                                std::string(TypeName(right)), "'"));
}

}  // namespace tandem::jinja
