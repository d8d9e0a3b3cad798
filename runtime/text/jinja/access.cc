// Attributes, items, calls and iteration: how values answer to Jinja.
#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/loop.h"
#include "runtime/text/jinja/methods.h"
#include "runtime/text/jinja/unicode.h"

namespace tandem::jinja {
namespace {

struct SequenceIterator : IteratorObject {  // over a list or a tuple, or a dict's entries
  SequenceIterator(Heap* heap, Value source) : IteratorObject(heap), source(std::move(source)) {}
  ~SequenceIterator() override { heap->Discard(std::move(source)); }
  absl::StatusOr<bool> Next(Interpreter&, Value* value) override {
    const Values& items = source.items();
    if (at >= items.size()) return false;
    *value = items[at++];
    return true;
  }
  Value source;
  size_t at = 0;
};

struct DictIterator : IteratorObject {
  DictIterator(Heap* heap, Value dict, ViewKind view)
      : IteratorObject(heap), dict(std::move(dict)), view(view) {}
  ~DictIterator() override { heap->Discard(std::move(dict)); }
  absl::StatusOr<bool> Next(Interpreter&, Value* value) override {
    const auto& entries = dict.dict().entries;
    if (at >= entries.size()) return false;
    const auto& [key, mapped] = entries[at++];
    *value = view == ViewKind::kKeys     ? key
             : view == ViewKind::kValues ? mapped
                                         : heap->Tuple({key, mapped});
    return true;
  }
  Value dict;
  const ViewKind view;
  size_t at = 0;
};

struct StringIterator : IteratorObject {
  StringIterator(Heap* heap, Value source) : IteratorObject(heap), source(std::move(source)) {}
  ~StringIterator() override { heap->Discard(std::move(source)); }
  absl::StatusOr<bool> Next(Interpreter&, Value* value) override {
    const std::string& text = source.string();
    if (at >= text.size()) return false;
    const size_t begin = at;
    DecodeUtf8(text, &at);
    *value = heap->String(text.substr(begin, at - begin));
    return true;
  }
  Value source;
  size_t at = 0;
};

struct RangeIterator : IteratorObject {
  RangeIterator(Heap* heap, Value source) : IteratorObject(heap), source(std::move(source)) {}
  absl::StatusOr<bool> Next(Interpreter&, Value* value) override {
    const auto& range = source.as<RangeObject>();
    if (at >= range.size()) return false;
    *value = range.at(at++);
    return true;
  }
  Value source;
  Int at = 0;
};

struct LoopIterator : IteratorObject {  // what is left of a running loop, with its `loop`
  LoopIterator(Heap* heap, Value loop) : IteratorObject(heap), loop(std::move(loop)) {}
  ~LoopIterator() override { heap->Discard(std::move(loop)); }
  absl::StatusOr<bool> Next(Interpreter& interpreter, Value* value) override {
    Value item;
    JINJA_ASSIGN(const bool more, loop.as<LoopObject>().Advance(interpreter, &item));
    if (more) *value = heap->Tuple({item, loop});
    return more;
  }
  Value loop;
};

struct MethodObject : FunctionObject {
  MethodObject(Heap* heap, Value self, const Method* method)
      : FunctionObject(heap), self(std::move(self)), method(method) {}
  ~MethodObject() override { heap->Discard(std::move(self)); }
  absl::StatusOr<Value> Call(Interpreter& interpreter, const Arguments& arguments) override {
    const Value held = self;
    return method->function(interpreter, held, arguments);
  }
  std::string Describe() const override {
    return absl::StrCat("<built-in method ", std::string(method->name), " of ",
                        std::string(TypeName(self)), " object>");
  }
  Value self;
  const Method* const method;
};

absl::StatusOr<Value> NumberAttribute(const Value& object, std::string_view name, bool* found) {
  *found = true;
  if (name == "real") {
    return object.is(Kind::kFloat) ? object : Value::Integer(object.int_value());
  }
  if (name == "imag") {
    return object.is(Kind::kFloat) ? Value::Float(0) : Value::Integer(0);
  }
  if (object.is_integral() && name == "numerator") return Value::Integer(object.int_value());
  if (object.is_integral() && name == "denominator") return Value::Integer(1);
  *found = false;
  return Value();
}

}  // namespace

absl::StatusOr<Value> Interpreter::FindAttribute(const Value& object, std::string_view name,
                                                 bool* found) {
  *found = true;
  switch (object.kind()) {
    case Kind::kNamespace:
      for (const auto& [key, value] : object.as<NamespaceObject>().attributes) {
        if (key == name) return value;
      }
      *found = false;
      return Value();
    case Kind::kLoop:
      return object.as<LoopObject>().Attribute(*this, object, name, found);
    case Kind::kFunction: {
      const Value* value = object.as<FunctionObject>().Attribute(name);
      *found = value != nullptr;
      return *found ? *value : Value();
    }
    case Kind::kBool:
    case Kind::kInt:
    case Kind::kFloat: {
      JINJA_ASSIGN(Value value, NumberAttribute(object, name, found));
      if (*found) return value;
      break;
    }
    case Kind::kTuple:
      if (object.as<SequenceObject>().is_group && (name == "grouper" || name == "list")) {
        *found = true;
        return object.items()[name == "grouper" ? 0 : 1];
      }
      break;
    case Kind::kRange: {
      const auto& range = object.as<RangeObject>();
      if (name == "start") return Value::Integer(range.start);
      if (name == "stop") return Value::Integer(range.stop);
      if (name == "step") return Value::Integer(range.step);
      break;
    }
    case Kind::kCycler: {
      auto& cycler = object.as<CyclerObject>();
      if (name == "current") return cycler.items[cycler.position];
      if (name == "pos") return Value::Integer(static_cast<Int>(cycler.position));
      if (name == "items") return heap_.Tuple(cycler.items);
      break;
    }
    case Kind::kJoiner:
      if (name == "sep") return object.as<JoinerObject>().separator;
      if (name == "used") return Value::Bool(object.as<JoinerObject>().used);
      break;
    default:
      break;
  }
  *found = true;
  const Method* method = FindMethod(object, name);
  if (method == nullptr) {
    *found = false;
    return Value();
  }
  if (method->function == nullptr) {
    return heap_.Undefined(absl::StrCat("access to attribute '", std::string(name), "' of '",
                                        std::string(TypeName(object)), "' object is unsafe"));
  }
  return heap_.Make<MethodObject>(Kind::kFunction, object, method);
}

namespace {

// obj[key] alone. *found is false where Python raises a LookupError or a TypeError.
absl::StatusOr<Value> Subscript(Heap& heap, const Value& object, const Value& key, bool* found) {
  *found = false;
  switch (object.kind()) {
    case Kind::kDict: {
      if (!IsHashable(key)) return Value();
      const Value* value = object.dict().Find(key);
      *found = value != nullptr;
      return *found ? *value : Value();
    }
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange: {
      if (!key.is_integral()) return Value();
      JINJA_ASSIGN(const Int length, Length(object));
      Int index = key.int_value();
      if (index < 0) index += length;
      if (index < 0 || index >= length) return Value();
      *found = true;
      const auto at = static_cast<size_t>(index);
      if (object.is(Kind::kRange)) return object.as<RangeObject>().at(index);
      if (object.is_sequence()) return object.items()[at];
      const auto& string = object.as<StringObject>();
      if (string.ascii) return heap.String(string.text.substr(at, 1), string.markup);
      const size_t begin = ByteOffset(string.text, at);
      size_t end = begin;
      DecodeUtf8(string.text, &end);
      return heap.String(string.text.substr(begin, end - begin), string.markup);
    }
    default:
      return Value();
  }
}

}  // namespace

absl::StatusOr<Value> Interpreter::GetAttribute(const Value& object, std::string_view name) {
  if (object.is_undefined()) return UndefinedError(object);
  bool found = false;
  JINJA_ASSIGN(Value value, FindAttribute(object, name, &found));
  if (found) return value;
  if (object.is(Kind::kDict)) {
    if (const Value* item = object.dict().Find(name); item != nullptr) return *item;
  }
  return heap_.Undefined(absl::StrCat("'", std::string(TypeName(object)),
                                      " object' has no attribute '", std::string(name), "'"));
}

absl::StatusOr<Value> Interpreter::GetItem(const Value& object, const Value& key) {
  if (object.is_undefined()) return UndefinedError(object);
  if (object.is_string() && !object.as<StringObject>().ascii) {
    JINJA_RETURN_IF_ERROR(Step(object.string().size() / 64));
  }
  bool found = false;
  JINJA_ASSIGN(Value value, Subscript(heap_, object, key, &found));
  if (found) return value;
  if (key.is_string()) {
    JINJA_ASSIGN(value, FindAttribute(object, key.string(), &found));
    if (found) return value;
    return heap_.Undefined(absl::StrCat("'", std::string(TypeName(object)),
                                        " object' has no attribute '", key.string(), "'"));
  }
  return heap_.Undefined(absl::StrCat(std::string(TypeName(object)), " object has no element of a ",
                                      std::string(TypeName(key))));
}

absl::StatusOr<Value> Interpreter::Call(const Value& callee, const Arguments& arguments) {
  JINJA_RETURN_IF_ERROR(Step());
  switch (callee.kind()) {
    case Kind::kUndefined:
      return UndefinedError(callee);
    case Kind::kFunction: {
      const std::shared_ptr<Object> held = callee.object();
      return static_cast<FunctionObject&>(*held).Call(*this, arguments);
    }
    case Kind::kJoiner: {
      auto& joiner = callee.as<JoinerObject>();
      if (std::exchange(joiner.used, true)) return joiner.separator;
      return String("");
    }
    case Kind::kLoop: {
      const std::shared_ptr<Object> held = callee.object();
      auto& loop = static_cast<LoopObject&>(*held);
      if (loop.stmt == nullptr) {
        return TypeError("the loop must have the 'recursive' marker to be called");
      }
      JINJA_ASSIGN(const auto bound, BindArguments("loop", arguments, {"iterable"}, 1));
      JINJA_ASSIGN(std::string text, RunLoop(*loop.stmt, loop.scope, *bound[0], loop.depth0 + 1));
      return String(std::move(text));
    }
    default:
      return TypeError(
          absl::StrCat("'", std::string(TypeName(callee)), "' object is not callable"));
  }
}

absl::StatusOr<std::shared_ptr<IteratorObject>> Interpreter::Iterate(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return std::static_pointer_cast<IteratorObject>(MakeIterator(heap_, {}).object());
    case Kind::kList:
    case Kind::kTuple:
      return std::make_shared<SequenceIterator>(&heap_, value);
    case Kind::kDict:
      return std::make_shared<DictIterator>(&heap_, value, ViewKind::kKeys);
    case Kind::kView: {
      const auto& view = value.as<ViewObject>();
      return std::make_shared<DictIterator>(&heap_, view.dict, view.view);
    }
    case Kind::kString:
      return std::make_shared<StringIterator>(&heap_, value);
    case Kind::kRange:
      return std::make_shared<RangeIterator>(&heap_, value);
    case Kind::kIterator:
      return std::static_pointer_cast<IteratorObject>(value.object());
    case Kind::kLoop:
      return std::make_shared<LoopIterator>(&heap_, value);
    default:
      return TypeError(absl::StrCat("'", std::string(TypeName(value)), "' object is not iterable"));
  }
}

absl::StatusOr<bool> Interpreter::Next(IteratorObject& iterator, Value* value) {
  Deeper deeper(this);
  JINJA_RETURN_IF_ERROR(deeper.status());
  return iterator.Next(*this, value);
}

absl::StatusOr<Values> Interpreter::ToValues(const Value& iterable) {
  if (iterable.is_sequence()) {
    JINJA_RETURN_IF_ERROR(Step(iterable.items().size()));
    return iterable.items();
  }
  JINJA_ASSIGN(const std::shared_ptr<IteratorObject> iterator, Iterate(iterable));
  Values values;
  for (;;) {
    JINJA_RETURN_IF_ERROR(Step());
    // The values are not yet part of a list that the heap would count.
    JINJA_RETURN_IF_ERROR(heap_.Check(values.capacity() * sizeof(Value)));
    Value value;
    JINJA_ASSIGN(const bool more, Next(*iterator, &value));
    if (!more) return values;
    values.push_back(std::move(value));
  }
}

absl::StatusOr<bool> Interpreter::Contains(const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::kString:
      if (!item.is_string()) {
        if (item.is_undefined()) return TypeError(std::string(UndefinedError(item).message()));
        return TypeError(absl::StrCat("'in <string>' requires string as left operand, not ",
                                      std::string(TypeName(item))));
      }
      JINJA_RETURN_IF_ERROR(Step(container.string().size() / 64));
      return container.string().find(item.string()) != std::string::npos;
    case Kind::kDict:
    case Kind::kView: {
      const bool is_dict = container.is(Kind::kDict);
      if (!is_dict && container.as<ViewObject>().view != ViewKind::kKeys) break;
      if (!IsHashable(item)) {
        return TypeError(absl::StrCat("unhashable type: '", std::string(TypeName(item)), "'"));
      }
      const Value& dict = is_dict ? container : container.as<ViewObject>().dict;
      return dict.dict().Find(item) != nullptr;
    }
    case Kind::kRange: {
      const auto& range = container.as<RangeObject>();
      if (!item.is_number()) return false;
      const Int wanted =
          item.is_integral()
              ? item.int_value()
              : static_cast<Int>(item.float_value() > 1e30 || item.float_value() < -1e30 ||
                                         item.float_value() != item.float_value()
                                     ? 0
                                     : item.float_value());
      if (!item.is_integral() && static_cast<double>(wanted) != item.float_value()) return false;
      const Int size = range.size();
      if (size == 0) return false;
      const Int offset = wanted - range.start;
      return offset % range.step == 0 && offset / range.step >= 0 && offset / range.step < size;
    }
    default:
      break;
  }
  JINJA_ASSIGN(const std::shared_ptr<IteratorObject> iterator, Iterate(container));
  for (;;) {
    Value value;
    JINJA_ASSIGN(const bool more, Next(*iterator, &value));
    if (!more) return false;
    JINJA_RETURN_IF_ERROR(Step(1 + std::min(Weight(value), Weight(item)) / 16));
    if (SameObject(value, item) || Equal(value, item)) return true;
  }
}

absl::StatusOr<bool> Interpreter::Compare(std::string_view op, const Value& left,
                                          const Value& right) {
  JINJA_RETURN_IF_ERROR(Step(std::min(Weight(left), Weight(right)) / 16));
  if (op == "==") return Equal(left, right);
  if (op == "!=") return !Equal(left, right);
  if (op == "in") return Contains(right, left);
  if (op == "not in") {
    JINJA_ASSIGN(const bool contained, Contains(right, left));
    return !contained;
  }
  if (op == "<") return Less(left, right);
  if (op == ">") return Less(right, left);
  const bool less_equal = op == "<=";
  JINJA_ASSIGN(const bool less, less_equal ? Less(left, right) : Less(right, left));
  return less || Equal(left, right);
}

absl::StatusOr<std::vector<const Value*>> BindArguments(
    std::string_view function, const Arguments& arguments,
    std::initializer_list<std::string_view> parameters, size_t required) {
  std::vector<const Value*> bound(parameters.size(), nullptr);
  const std::string label(function);
  if (arguments.positional.size() > bound.size()) {
    return TypeError(absl::StrCat(label, "() takes at most ", bound.size(), " argument(s), got ",
                                  arguments.positional.size()));
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) bound[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto found = std::find(parameters.begin(), parameters.end(), name);
    if (found == parameters.end()) {
      return TypeError(absl::StrCat(label, "() has no argument '", name, "'"));
    }
    const auto index = static_cast<size_t>(found - parameters.begin());
    if (bound[index] != nullptr) {
      return TypeError(absl::StrCat(label, "() got argument '", name, "' twice"));
    }
    bound[index] = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (bound[i] != nullptr) continue;
    return TypeError(
        absl::StrCat(label, "() needs argument '", std::string(parameters.begin()[i]), "'"));
  }
  return bound;
}

absl::StatusOr<Int> IntArgument(const Value& value) {
  if (value.is_undefined()) return UndefinedError(value);
  if (value.is_integral()) return value.int_value();
  return TypeError(absl::StrCat("'", std::string(TypeName(value)), "' object is not an integer"));
}

}  // namespace tandem::jinja
