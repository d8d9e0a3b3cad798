// The values that a template works on: Python's, as far as a template can see.
//
// A Value is a small handle; strings, lists and everything larger are shared, counted
// objects. Objects made during a rendering belong to that rendering's Heap, which bounds how
// much memory is alive at a time, and must not outlive it. Constants of a parsed template
// have no Heap; they never change and may be read by several threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define JINJA_CONCAT_(a, b) a##b
#define JINJA_CONCAT(a, b) JINJA_CONCAT_(a, b)
#define JINJA_ASSIGN_IMPL(result, lhs, expr) \
  auto result = (expr);                      \
  if (!result.ok()) return result.status();  \
  lhs = *std::move(result)
// lhs = value of the absl::StatusOr `expr`, or return its error.
#define JINJA_ASSIGN(lhs, expr) JINJA_ASSIGN_IMPL(JINJA_CONCAT(status_or_, __LINE__), lhs, expr)
#define JINJA_RETURN_IF_ERROR(expr)                                   \
  do {                                                                \
    if (absl::Status status_ = (expr); !status_.ok()) return status_; \
  } while (false)

namespace tandem::jinja {

// Wide enough for every integer that JSON can carry; what does not fit is an error, where
// Python would go on.
using Int = __int128;

class Heap;
class Interpreter;
struct Object;
struct StringObject;
struct SequenceObject;
struct DictObject;

enum class Kind : uint8_t {
  kUndefined,  // object: UndefinedObject with the reason, or none
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kRange,
  kView,      // dict.keys(), values(), items()
  kIterator,  // generators of filters such as map: read once
  kNamespace,
  kFunction,  // globals, bound methods, macros: anything only callable
  kLoop,
  kCycler,
  kJoiner,
};

class Value {
 public:
  Value() = default;
  static Value None() { return Value(Kind::kNone); }
  static Value Bool(bool b) {
    Value v(Kind::kBool);
    v.int_ = b ? 1 : 0;
    return v;
  }
  static Value Integer(Int i) {
    Value v(Kind::kInt);
    v.int_ = i;
    return v;
  }
  static Value Float(double d) {
    Value v(Kind::kFloat);
    v.float_ = d;
    return v;
  }
  Value(Kind kind, std::shared_ptr<Object> object) : kind_(kind), object_(std::move(object)) {}

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_undefined() const { return kind_ == Kind::kUndefined; }
  bool is_none() const { return kind_ == Kind::kNone; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_sequence() const { return kind_ == Kind::kList || kind_ == Kind::kTuple; }
  // Python's bool is an int.
  bool is_integral() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }
  bool is_number() const { return is_integral() || kind_ == Kind::kFloat; }

  bool bool_value() const { return int_ != 0; }
  Int int_value() const { return int_; }
  double float_value() const { return float_; }
  double number() const { return is(Kind::kFloat) ? float_ : static_cast<double>(int_); }

  // The object's parts; the kind must be right.
  const std::string& string() const;
  bool is_markup() const;
  const std::vector<Value>& items() const;
  const DictObject& dict() const;
  template <typename T>
  T& as() const {
    return *static_cast<T*>(object_.get());
  }
  const std::shared_ptr<Object>& object() const { return object_; }
  std::shared_ptr<Object> TakeObject() { return std::move(object_); }

 private:
  explicit Value(Kind kind) : kind_(kind) {}

  Kind kind_ = Kind::kUndefined;
  union {
    Int int_ = 0;
    double float_;
  };
  std::shared_ptr<Object> object_;
};

using Values = std::vector<Value>;

// Arguments of a call, keywords in order.
struct Arguments {
  Values positional;
  std::vector<std::pair<std::string, Value>> named;
};

struct Object {
  explicit Object(Heap* heap) : heap(heap) {}
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  virtual ~Object();

  void Charge(size_t bytes);  // adds to what this object counts for in its heap

  Heap* const heap;  // null: a constant of the template
  size_t charged = 0;
  // How many values a walk through this one meets. A template can double it with every list
  // that holds the same list twice, at no cost in memory, so it is bounded on its own.
  uint64_t weight = 1;
};

struct UndefinedObject : Object {
  UndefinedObject(Heap* heap, std::string message) : Object(heap), message(std::move(message)) {}
  const std::string message;  // what using it reports
};

struct StringObject : Object {
  StringObject(Heap* heap, std::string text, bool markup);
  const std::string text;
  const bool markup;  // Markup: already escaped
  const bool ascii;
};

struct SequenceObject : Object {
  SequenceObject(Heap* heap, Values items);
  ~SequenceObject() override;
  Values items;
  bool is_group = false;  // groupby's (grouper, list), a tuple with named parts
};

struct DictObject : Object {
  explicit DictObject(Heap* heap) : Object(heap) {}
  ~DictObject() override;
  // Keys must be hashable.
  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;
  void Set(Value key, Value value);

  std::vector<std::pair<Value, Value>> entries;  // in order of insertion

 private:
  const Value* FindHashed(const Value& key, uint64_t hash) const;
  std::unordered_multimap<uint64_t, size_t> index_;  // of the key's hash
};

struct RangeObject : Object {
  RangeObject(Heap* heap, Int start, Int stop, Int step)
      : Object(heap), start(start), stop(stop), step(step) {}
  Int size() const;
  Value at(Int index) const { return Value::Integer(start + index * step); }
  const Int start, stop, step;
};

enum class ViewKind { kKeys, kValues, kItems };

struct ViewObject : Object {
  ViewObject(Heap* heap, Value dict, ViewKind view)
      : Object(heap), dict(std::move(dict)), view(view) {}
  ~ViewObject() override;
  Value dict;
  const ViewKind view;
};

// Something that yields values one by one and is then spent.
struct IteratorObject : Object {
  using Object::Object;
  // False at the end. Once it returned false or an error it does so for ever.
  virtual absl::StatusOr<bool> Next(Interpreter& interpreter, Value* value) = 0;
};

struct NamespaceObject : Object {
  explicit NamespaceObject(Heap* heap) : Object(heap) {}
  ~NamespaceObject() override;
  std::vector<std::pair<std::string, Value>> attributes;
};

struct FunctionObject : Object {
  using Object::Object;
  virtual absl::StatusOr<Value> Call(Interpreter& interpreter, const Arguments& arguments) = 0;
  virtual std::string Describe() const = 0;  // as Python prints it
  virtual const Value* Attribute(std::string_view) const { return nullptr; }
};

struct CyclerObject : Object {
  CyclerObject(Heap* heap, Values items) : Object(heap), items(std::move(items)) {}
  ~CyclerObject() override;
  Values items;
  size_t position = 0;
};

struct JoinerObject : Object {
  JoinerObject(Heap* heap, Value separator) : Object(heap), separator(std::move(separator)) {}
  ~JoinerObject() override;
  Value separator;
  bool used = false;
};

// Counts the bytes that a rendering's objects hold and takes them apart without recursion,
// so that no nesting that a template builds can exhaust the stack.
class Heap {
 public:
  explicit Heap(size_t limit) : limit_(limit) {}
  ~Heap();
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  // Error if `bytes` more would pass the limit: asked before anything whose size a template
  // can choose. Smaller things are only counted, and the interpreter looks between steps.
  absl::Status Check(size_t bytes) const;
  bool exceeded() const { return used_ > limit_ || overweight_; }
  void NoteWeight(uint64_t weight) { overweight_ |= weight > kMaxWeight; }
  void Add(size_t bytes) { used_ += bytes; }
  void Remove(size_t bytes) { used_ -= bytes; }
  void Discard(Value value);
  void Discard(Values values);

  Value String(std::string text, bool markup = false);
  Value List(Values items);
  Value Tuple(Values items);
  Value Undefined(std::string message);
  template <typename T, typename... Args>
  Value Make(Kind kind, Args&&... args) {
    auto object = std::make_shared<T>(this, std::forward<Args>(args)...);
    object->Charge(sizeof(T));
    return Value(kind, std::move(object));
  }

  // Namespaces may hold themselves; they are emptied when the rendering ends.
  Value Namespace();
  void ReleaseCycles();

 private:
  static constexpr uint64_t kMaxWeight = 10'000'000;

  const size_t limit_;
  size_t used_ = 0;
  bool overweight_ = false;
  bool draining_ = false;
  std::vector<std::shared_ptr<Object>> discarded_;
  std::vector<std::weak_ptr<Object>> namespaces_;
};

// A string constant of a template (no heap).
Value ConstantString(std::string text);

inline const std::string& Value::string() const { return as<StringObject>().text; }
inline bool Value::is_markup() const { return is_string() && as<StringObject>().markup; }
inline const std::vector<Value>& Value::items() const { return as<SequenceObject>().items; }
inline const DictObject& Value::dict() const { return as<DictObject>(); }

// Python's name of the value's type, for messages.
std::string_view TypeName(const Value& value);
bool Truth(const Value& value);
inline uint64_t Weight(const Value& value) {
  return value.object() == nullptr ? 1 : value.object()->weight;
}
bool IsHashable(const Value& value, int depth = 0);
uint64_t Hash(const Value& value);
// Python's ==. Parts nested deeper than a fixed bound count as unequal.
bool Equal(const Value& a, const Value& b, int depth = 0);
// Python's <; an error for types without an order.
absl::StatusOr<bool> Less(const Value& a, const Value& b, int depth = 0);
bool SameObject(const Value& a, const Value& b);  // Python's `is`
// len(), or an error.
absl::StatusOr<Int> Length(const Value& value);
std::string IntToString(Int value);

absl::Status TypeError(std::string_view message);
// Error to return where an undefined value was used.
absl::Status UndefinedError(const Value& value);

}  // namespace tandem::jinja
