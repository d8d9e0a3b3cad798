#include "runtime/text/jinja/value.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/unicode.h"

namespace tandem::jinja {
namespace {

// Nesting to which values are compared or hashed; Python's own recursion limit is near.
constexpr int kMaxDepth = 200;

void DiscardFrom(Heap* heap, Value value) {
  if (heap != nullptr) heap->Discard(std::move(value));
}

}  // namespace

Object::~Object() {
  if (heap != nullptr) heap->Remove(charged);
}

void Object::Charge(size_t bytes) {
  if (heap == nullptr) return;
  heap->Add(bytes);
  charged += bytes;
}

StringObject::StringObject(Heap* heap, std::string text_in, bool markup)
    : Object(heap), text(std::move(text_in)), markup(markup), ascii(IsAscii(text)) {
  Charge(text.capacity());
  weight = 1 + text.size() / 64;
}

SequenceObject::SequenceObject(Heap* heap, Values items_in)
    : Object(heap), items(std::move(items_in)) {
  Charge(items.capacity() * sizeof(Value));
  for (const Value& item : items) weight += Weight(item);
  if (heap != nullptr) heap->NoteWeight(weight);
}

SequenceObject::~SequenceObject() {
  if (heap != nullptr) heap->Discard(std::move(items));
}

DictObject::~DictObject() {
  for (auto& [key, value] : entries) {
    DiscardFrom(heap, std::move(key));
    DiscardFrom(heap, std::move(value));
  }
}

const Value* DictObject::FindHashed(const Value& key, uint64_t hash) const {
  const auto [begin, end] = index_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    if (Equal(entries[it->second].first, key)) return &entries[it->second].second;
  }
  return nullptr;
}

const Value* DictObject::Find(const Value& key) const { return FindHashed(key, Hash(key)); }

const Value* DictObject::Find(std::string_view key) const {
  const auto [begin, end] = index_.equal_range(std::hash<std::string_view>()(key));
  for (auto it = begin; it != end; ++it) {
    const Value& found = entries[it->second].first;
    if (found.is_string() && found.string() == key) return &entries[it->second].second;
  }
  return nullptr;
}

void DictObject::Set(Value key, Value value) {
  const uint64_t hash = Hash(key);
  if (const Value* old = FindHashed(key, hash); old != nullptr) {
    *const_cast<Value*>(old) = std::move(value);
    return;
  }
  weight += Weight(key) + Weight(value);
  if (heap != nullptr) heap->NoteWeight(weight);
  index_.emplace(hash, entries.size());
  entries.emplace_back(std::move(key), std::move(value));
  Charge(sizeof(entries[0]) + 48);
}

Int RangeObject::size() const {
  if (step > 0) return stop > start ? (stop - start - 1) / step + 1 : 0;
  return start > stop ? (start - stop - 1) / -step + 1 : 0;
}

ViewObject::~ViewObject() { DiscardFrom(heap, std::move(dict)); }

NamespaceObject::~NamespaceObject() {
  for (auto& attribute : attributes) DiscardFrom(heap, std::move(attribute.second));
}

CyclerObject::~CyclerObject() {
  if (heap != nullptr) heap->Discard(std::move(items));
}

JoinerObject::~JoinerObject() { DiscardFrom(heap, std::move(separator)); }

Heap::~Heap() { ReleaseCycles(); }

absl::Status Heap::Check(size_t bytes) const {
  if (bytes > limit_ || used_ > limit_ - bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("template needs more than ", limit_, " bytes of memory"));
  }
  return absl::OkStatus();
}

void Heap::Discard(Value value) {
  std::shared_ptr<Object> object = value.TakeObject();
  if (object == nullptr) return;
  discarded_.push_back(std::move(object));
  if (draining_) return;
  draining_ = true;
  while (!discarded_.empty()) {
    std::shared_ptr<Object> last = std::move(discarded_.back());
    discarded_.pop_back();
    last.reset();
  }
  draining_ = false;
}

void Heap::Discard(Values values) {
  for (Value& value : values) Discard(std::move(value));
}

Value Heap::String(std::string text, bool markup) {
  return Make<StringObject>(Kind::kString, std::move(text), markup);
}
Value Heap::List(Values items) { return Make<SequenceObject>(Kind::kList, std::move(items)); }
Value Heap::Tuple(Values items) { return Make<SequenceObject>(Kind::kTuple, std::move(items)); }
Value Heap::Undefined(std::string message) {
  return Make<UndefinedObject>(Kind::kUndefined, std::move(message));
}

Value Heap::Namespace() {
  Value value = Make<NamespaceObject>(Kind::kNamespace);
  namespaces_.push_back(value.object());
  return value;
}

void Heap::ReleaseCycles() {
  for (const std::weak_ptr<Object>& weak : namespaces_) {
    if (std::shared_ptr<Object> object = weak.lock(); object != nullptr) {
      auto attributes = std::move(static_cast<NamespaceObject&>(*object).attributes);
      for (auto& attribute : attributes) Discard(std::move(attribute.second));
    }
  }
  namespaces_.clear();
}

Value ConstantString(std::string text) {
  return Value(Kind::kString, std::make_shared<StringObject>(nullptr, std::move(text), false));
}

std::string_view TypeName(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return value.is_markup() ? "Markup" : "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kDict:
      return "dict";
    case Kind::kRange:
      return "range";
    case Kind::kView:
      switch (value.as<ViewObject>().view) {
        case ViewKind::kKeys:
          return "dict_keys";
        case ViewKind::kValues:
          return "dict_values";
        case ViewKind::kItems:
          return "dict_items";
      }
      return "dict_items";
    case Kind::kIterator:
      return "generator";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kFunction:
      return "function";
    case Kind::kLoop:
      return "LoopContext";
    case Kind::kCycler:
      return "Cycler";
    case Kind::kJoiner:
      return "Joiner";
  }
  return "object";
}

bool Truth(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return value.int_value() != 0;
    case Kind::kFloat:
      return value.float_value() != 0;
    case Kind::kString:
      return !value.string().empty();
    case Kind::kList:
    case Kind::kTuple:
      return !value.items().empty();
    case Kind::kDict:
      return !value.dict().entries.empty();
    case Kind::kRange:
      return value.as<RangeObject>().size() > 0;
    case Kind::kView:
      return Truth(value.as<ViewObject>().dict);
    default:
      return true;
  }
}

bool IsHashable(const Value& value, int depth) {
  if (value.is(Kind::kList) || value.is(Kind::kDict) || depth > kMaxDepth) return false;
  if (value.is(Kind::kView)) return value.as<ViewObject>().view == ViewKind::kValues;
  if (!value.is(Kind::kTuple)) return true;
  return std::all_of(value.items().begin(), value.items().end(),
                     [&](const Value& item) { return IsHashable(item, depth + 1); });
}

uint64_t Hash(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 1;
    case Kind::kNone:
      return 2;
    case Kind::kBool:
    case Kind::kInt:
    case Kind::kFloat:
      // Equal numbers of different types are the same key.
      return std::hash<double>()(value.number());
    case Kind::kString:
      return std::hash<std::string_view>()(value.string());
    case Kind::kTuple: {
      uint64_t hash = 3;
      for (const Value& item : value.items()) hash = hash * 1000003 + Hash(item);
      return hash;
    }
    default:
      return std::hash<const void*>()(value.object().get());
  }
}

namespace {

bool EqualDicts(const DictObject& a, const DictObject& b, int depth) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.Find(key);
    if (other == nullptr || !Equal(value, *other, depth + 1)) return false;
  }
  return true;
}

bool EqualNumbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return a.int_value() == b.int_value();
  return a.number() == b.number();
}

}  // namespace

bool Equal(const Value& a, const Value& b, int depth) {
  if (depth > kMaxDepth) return false;
  if (a.is_number() && b.is_number()) return EqualNumbers(a, b);
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
      return a.string() == b.string();
    case Kind::kList:
    case Kind::kTuple:
      if (a.object() == b.object()) return true;
      return std::equal(a.items().begin(), a.items().end(), b.items().begin(), b.items().end(),
                        [&](const Value& x, const Value& y) { return Equal(x, y, depth + 1); });
    case Kind::kDict:
      return a.object() == b.object() || EqualDicts(a.dict(), b.dict(), depth);
    case Kind::kRange: {
      const auto& x = a.as<RangeObject>();
      const auto& y = b.as<RangeObject>();
      if (x.size() != y.size()) return false;
      return x.size() == 0 || (x.start == y.start && (x.size() == 1 || x.step == y.step));
    }
    case Kind::kView: {
      const auto& x = a.as<ViewObject>();
      const auto& y = b.as<ViewObject>();
      if (x.view != y.view || x.view == ViewKind::kValues) return a.object() == b.object();
      if (x.view == ViewKind::kItems) return EqualDicts(x.dict.dict(), y.dict.dict(), depth);
      const auto& keys = x.dict.dict().entries;
      return keys.size() == y.dict.dict().entries.size() &&
             std::all_of(keys.begin(), keys.end(), [&](const auto& entry) {
               return y.dict.dict().Find(entry.first) != nullptr;
             });
    }
    default:
      return a.object() == b.object();
  }
}

absl::StatusOr<bool> Less(const Value& a, const Value& b, int depth) {
  if (a.is_undefined()) return UndefinedError(a);
  if (b.is_undefined()) return UndefinedError(b);
  if (a.is_integral() && b.is_integral()) return a.int_value() < b.int_value();
  if (a.is_number() && b.is_number()) return a.number() < b.number();
  if (a.is_string() && b.is_string()) return a.string() < b.string();
  if (a.is_sequence() && a.kind() == b.kind() && depth < kMaxDepth) {
    const Values& x = a.items();
    const Values& y = b.items();
    for (size_t i = 0; i < x.size() && i < y.size(); ++i) {
      if (!Equal(x[i], y[i])) return Less(x[i], y[i], depth + 1);
    }
    return x.size() < y.size();
  }
  return TypeError(absl::StrCat("'", std::string(TypeName(a)), "' and '", std::string(TypeName(b)),
                                "' have no order"));
}

bool SameObject(const Value& a, const Value& b) {
  if (a.kind() != b.kind()) return false;
  if (a.object() != nullptr || b.object() != nullptr) return a.object() == b.object();
  if (a.is(Kind::kFloat)) return false;
  return a.int_value() == b.int_value();
}

absl::StatusOr<Int> Length(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return Int{0};
    case Kind::kString:
      return static_cast<Int>(value.as<StringObject>().ascii ? value.string().size()
                                                             : CodePointCount(value.string()));
    case Kind::kList:
    case Kind::kTuple:
      return static_cast<Int>(value.items().size());
    case Kind::kDict:
      return static_cast<Int>(value.dict().entries.size());
    case Kind::kRange:
      return value.as<RangeObject>().size();
    case Kind::kView:
      return Length(value.as<ViewObject>().dict);
    default:
      return TypeError(
          absl::StrCat("object of type '", std::string(TypeName(value)), "' has no length"));
  }
}

std::string IntToString(Int value) {
  const bool negative = value < 0;
  unsigned __int128 rest = negative ? -static_cast<unsigned __int128>(value) : value;
  std::string digits;
  do {
    digits.push_back(static_cast<char>('0' + static_cast<int>(rest % 10)));
    rest /= 10;
  } while (rest != 0);
  if (negative) digits.push_back('-');
  std::reverse(digits.begin(), digits.end());
  return digits;
}

absl::Status TypeError(std::string_view message) {
  return absl::InvalidArgumentError(absl::string_view(message.data(), message.size()));
}

absl::Status UndefinedError(const Value& value) {
  const bool has_reason = value.object() != nullptr;
  return TypeError(has_reason ? value.as<UndefinedObject>().message : "value is undefined");
}

}  // namespace tandem::jinja
