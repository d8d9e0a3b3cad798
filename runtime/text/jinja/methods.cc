#include "runtime/text/jinja/methods.h"

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/format.h"

namespace tandem::jinja {
namespace {

using Result = absl::StatusOr<Value>;

Result DictView(Interpreter& in, const Value& self, const Arguments& args, ViewKind view) {
  JINJA_RETURN_IF_ERROR(BindArguments("dict view", args, {}, 0).status());
  return in.heap().Make<ViewObject>(Kind::kView, self, view);
}
Result DictKeys(Interpreter& in, const Value& self, const Arguments& args) {
  return DictView(in, self, args, ViewKind::kKeys);
}
Result DictValues(Interpreter& in, const Value& self, const Arguments& args) {
  return DictView(in, self, args, ViewKind::kValues);
}
Result DictItems(Interpreter& in, const Value& self, const Arguments& args) {
  return DictView(in, self, args, ViewKind::kItems);
}
Result DictGet(Interpreter&, const Value& self, const Arguments& args) {
  if (!args.named.empty()) return TypeError("dict.get() takes no keyword arguments");
  JINJA_ASSIGN(const auto bound, BindArguments("get", args, {"key", "default"}, 1));
  if (!IsHashable(*bound[0])) return TypeError("unhashable key");
  if (const Value* found = self.dict().Find(*bound[0]); found != nullptr) return *found;
  return bound[1] != nullptr ? *bound[1] : Value::None();
}
Result DictCopy(Interpreter& in, const Value& self, const Arguments&) {
  Value copy = in.heap().Make<DictObject>(Kind::kDict);
  for (const auto& [key, value] : self.dict().entries) {
    JINJA_RETURN_IF_ERROR(in.Step());
    copy.as<DictObject>().Set(key, value);
  }
  return copy;
}

Result SequenceIndex(Interpreter& in, const Value& self, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("index", args, {"value", "start", "stop"}, 1));
  const Values& items = self.items();
  Int start = 0, stop = static_cast<Int>(items.size());
  for (int i = 1; i <= 2; ++i) {
    if (bound[i] == nullptr) continue;
    JINJA_ASSIGN(Int place, IntArgument(*bound[i]));
    if (place < 0) place = std::max<Int>(0, place + static_cast<Int>(items.size()));
    (i == 1 ? start : stop) = std::min(place, static_cast<Int>(items.size()));
  }
  for (Int i = start; i < stop; ++i) {
    JINJA_RETURN_IF_ERROR(in.Step());
    if (Equal(items[static_cast<size_t>(i)], *bound[0])) return Value::Integer(i);
  }
  return TypeError("value is not in the list");
}
Result SequenceCount(Interpreter& in, const Value& self, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("count", args, {"value"}, 1));
  Int count = 0;
  for (const Value& item : self.items()) {
    JINJA_RETURN_IF_ERROR(in.Step());
    if (Equal(item, *bound[0])) ++count;
  }
  return Value::Integer(count);
}
Result ListCopy(Interpreter& in, const Value& self, const Arguments&) {
  JINJA_RETURN_IF_ERROR(in.Step(self.items().size()));
  return in.heap().List(self.items());
}

Result RangeIndex(Interpreter& in, const Value& self, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("index", args, {"value"}, 1));
  JINJA_ASSIGN(const bool inside, in.Contains(self, *bound[0]));
  if (!inside) return TypeError("value is not in range");
  const auto& range = self.as<RangeObject>();
  const Int wanted =
      bound[0]->is_integral() ? bound[0]->int_value() : static_cast<Int>(bound[0]->float_value());
  return Value::Integer((wanted - range.start) / range.step);
}
Result RangeCount(Interpreter& in, const Value& self, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("count", args, {"value"}, 1));
  JINJA_ASSIGN(const bool inside, in.Contains(self, *bound[0]));
  return Value::Integer(inside ? 1 : 0);
}

Result CyclerNext(Interpreter&, const Value& self, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(BindArguments("next", args, {}, 0).status());
  auto& cycler = self.as<CyclerObject>();
  const Value value = cycler.items[cycler.position];
  cycler.position = (cycler.position + 1) % cycler.items.size();
  return value;
}
Result CyclerReset(Interpreter&, const Value& self, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(BindArguments("reset", args, {}, 0).status());
  self.as<CyclerObject>().position = 0;
  return Value::None();
}

Result FloatIsInteger(Interpreter&, const Value& self, const Arguments&) {
  const double value = self.float_value();
  return Value::Bool(value - value == 0 && value == __builtin_floor(value));
}
Result BitLength(Interpreter&, const Value& self, const Arguments&) {
  Int bits = 0;
  for (Int rest = self.int_value() < 0 ? -self.int_value() : self.int_value(); rest > 0;
       rest /= 2) {
    ++bits;
  }
  return Value::Integer(bits);
}
Result Itself(Interpreter&, const Value& self, const Arguments&) {
  return self.is(Kind::kBool) ? Value::Integer(self.int_value()) : self;
}

constexpr Method kDictMethods[] = {
    {"keys", DictKeys},  {"values", DictValues},  {"items", DictItems}, {"get", DictGet},
    {"copy", DictCopy},  {"pop", nullptr},        {"popitem", nullptr}, {"clear", nullptr},
    {"update", nullptr}, {"setdefault", nullptr},
};
constexpr Method kListMethods[] = {
    {"index", SequenceIndex}, {"count", SequenceCount}, {"copy", ListCopy},   {"append", nullptr},
    {"extend", nullptr},      {"insert", nullptr},      {"remove", nullptr},  {"pop", nullptr},
    {"clear", nullptr},       {"sort", nullptr},        {"reverse", nullptr},
};
constexpr Method kTupleMethods[] = {{"index", SequenceIndex}, {"count", SequenceCount}};
constexpr Method kRangeMethods[] = {{"index", RangeIndex}, {"count", RangeCount}};
constexpr Method kCyclerMethods[] = {{"next", CyclerNext}, {"reset", CyclerReset}};
constexpr Method kFloatMethods[] = {{"is_integer", FloatIsInteger}, {"conjugate", Itself}};
constexpr Method kIntMethods[] = {{"bit_length", BitLength}, {"conjugate", Itself}};

template <size_t N>
const Method* Find(const Method (&methods)[N], std::string_view name) {
  for (const Method& method : methods) {
    if (method.name == name) return &method;
  }
  return nullptr;
}

}  // namespace

const Method* FindMethod(const Value& self, std::string_view name) {
  switch (self.kind()) {
    case Kind::kString:
      return FindStringMethod(name);
    case Kind::kDict:
      return Find(kDictMethods, name);
    case Kind::kList:
      return Find(kListMethods, name);
    case Kind::kTuple:
      return Find(kTupleMethods, name);
    case Kind::kRange:
      return Find(kRangeMethods, name);
    case Kind::kCycler:
      return Find(kCyclerMethods, name);
    case Kind::kFloat:
      return Find(kFloatMethods, name);
    case Kind::kInt:
    case Kind::kBool:
      return Find(kIntMethods, name);
    default:
      return nullptr;
  }
}

}  // namespace tandem::jinja
