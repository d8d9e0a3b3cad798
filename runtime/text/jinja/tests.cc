#include "runtime/text/jinja/tests.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/methods.h"

namespace tandem::jinja {
namespace {

constexpr std::string_view kPlain[] = {
    "odd",     "even",    "defined", "undefined", "filter",   "test",     "none",
    "boolean", "false",   "true",    "integer",   "float",    "lower",    "upper",
    "string",  "mapping", "number",  "sequence",  "iterable", "callable", "escaped"};

// Tests with one argument that are comparisons by another name.
constexpr std::pair<std::string_view, std::string_view> kComparisons[] = {
    {"==", "=="},      {"eq", "=="}, {"equalto", "=="}, {"!=", "!="},
    {"ne", "!="},      {">", ">"},   {"gt", ">"},       {"greaterthan", ">"},
    {">=", ">="},      {"ge", ">="}, {"<", "<"},        {"lt", "<"},
    {"lessthan", "<"}, {"<=", "<="}, {"le", "<="},      {"in", "in"}};

absl::StatusOr<bool> Divides(Interpreter& in, const Value& value, const Value& by, Int rest) {
  JINJA_ASSIGN(const Value remainder, in.Binary("%", value, by));
  return Equal(remainder, Value::Integer(rest));
}

}  // namespace

bool TestExists(std::string_view name) {
  return std::find(std::begin(kPlain), std::end(kPlain), name) != std::end(kPlain) ||
         name == "divisibleby" || name == "sameas" ||
         std::any_of(std::begin(kComparisons), std::end(kComparisons),
                     [&](const auto& entry) { return entry.first == name; });
}

absl::StatusOr<bool> ApplyTest(Interpreter& in, std::string_view name, const Value& value,
                               const Arguments& args) {
  for (const auto& [alias, op] : kComparisons) {
    if (alias != name) continue;
    JINJA_ASSIGN(const auto bound, BindArguments(name, args, {op == "in" ? "seq" : "other"}, 1));
    return in.Compare(op, value, *bound[0]);
  }
  if (name == "divisibleby") {
    JINJA_ASSIGN(const auto bound, BindArguments(name, args, {"num"}, 1));
    return Divides(in, value, *bound[0], 0);
  }
  if (name == "sameas") {
    JINJA_ASSIGN(const auto bound, BindArguments(name, args, {"other"}, 1));
    return SameObject(value, *bound[0]);
  }
  if (!TestExists(name)) {
    return TypeError(absl::StrCat("unknown test '", std::string(name), "'"));
  }
  JINJA_RETURN_IF_ERROR(BindArguments(name, args, {}, 0).status());
  if (name == "odd" || name == "even") {
    return Divides(in, value, Value::Integer(2), name == "odd" ? 1 : 0);
  }
  if (name == "defined") return !value.is_undefined();
  if (name == "undefined") return value.is_undefined();
  if (name == "filter") return value.is_string() && FilterExists(value.string());
  if (name == "test") return value.is_string() && TestExists(value.string());
  if (name == "none") return value.is_none();
  if (name == "boolean") return value.is(Kind::kBool);
  if (name == "false") return value.is(Kind::kBool) && !value.bool_value();
  if (name == "true") return value.is(Kind::kBool) && value.bool_value();
  if (name == "integer") return value.is(Kind::kInt);
  if (name == "float") return value.is(Kind::kFloat);
  if (name == "lower" || name == "upper") {
    JINJA_ASSIGN(std::string text, in.Str(value));
    const Method* method = FindStringMethod(name == "lower" ? "islower" : "isupper");
    JINJA_ASSIGN(const Value result, method->function(in, in.String(std::move(text)), {}));
    return Truth(result);
  }
  if (name == "string") return value.is_string();
  if (name == "mapping") return value.is(Kind::kDict);
  if (name == "number") return value.is_number();
  if (name == "sequence") {
    // What has a length and can be subscripted, the undefined value among them.
    return value.is_string() || value.is_sequence() || value.is(Kind::kDict) ||
           value.is(Kind::kRange) || value.is_undefined();
  }
  if (name == "iterable") {
    return value.is_string() || value.is_sequence() || value.is(Kind::kDict) ||
           value.is(Kind::kRange) || value.is(Kind::kView) || value.is(Kind::kIterator) ||
           value.is(Kind::kLoop) || value.is_undefined();
  }
  if (name == "callable") {
    return value.is(Kind::kFunction) || value.is(Kind::kJoiner) || value.is(Kind::kLoop) ||
           value.is_undefined();
  }
  return value.is_markup();  // escaped
}

}  // namespace tandem::jinja
