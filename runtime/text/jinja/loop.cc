#include "runtime/text/jinja/loop.h"

#include "absl/strings/str_cat.h"

namespace tandem::jinja {
namespace {

struct ValuesIterator : IteratorObject {
  ValuesIterator(Heap* heap, Values values) : IteratorObject(heap), values(std::move(values)) {
    Charge(this->values.capacity() * sizeof(Value));
  }
  ~ValuesIterator() override { heap->Discard(std::move(values)); }
  absl::StatusOr<bool> Next(Interpreter&, Value* value) override {
    if (at >= values.size()) return false;
    *value = values[at++];
    return true;
  }
  Values values;
  size_t at = 0;
};

// loop.cycle and loop.changed
struct LoopMethod : FunctionObject {
  LoopMethod(Heap* heap, Value loop, bool cycle)
      : FunctionObject(heap), loop(std::move(loop)), cycle(cycle) {}
  ~LoopMethod() override { heap->Discard(std::move(loop)); }
  absl::StatusOr<Value> Call(Interpreter&, const Arguments& arguments) override {
    auto& state = loop.as<LoopObject>();
    if (!arguments.named.empty()) return TypeError("loop methods take no keyword arguments");
    if (!cycle) return state.Changed(arguments);
    if (arguments.positional.empty()) return TypeError("no items for cycling given");
    const Int count = static_cast<Int>(arguments.positional.size());
    return arguments.positional[static_cast<size_t>(state.index0 % count)];
  }
  std::string Describe() const override { return "<bound method of LoopContext>"; }
  Value loop;
  const bool cycle;
};

}  // namespace

Value MakeIterator(Heap& heap, Values values) {
  return heap.Make<ValuesIterator>(Kind::kIterator, std::move(values));
}

FilteredIterator::~FilteredIterator() { heap->Discard(Value(Kind::kIterator, std::move(source))); }

absl::StatusOr<bool> FilteredIterator::Next(Interpreter& interpreter, Value* value) {
  while (source != nullptr) {
    JINJA_RETURN_IF_ERROR(interpreter.Step());
    absl::StatusOr<bool> more = interpreter.Next(*source, value);
    absl::StatusOr<bool> wanted = false;
    if (more.ok() && *more) wanted = keep(*value);
    if (!more.ok() || !*more || !wanted.ok()) {
      heap->Discard(Value(Kind::kIterator, std::move(source)));
      source = nullptr;
      if (!more.ok()) return more.status();
      if (!wanted.ok()) return wanted.status();
      return false;
    }
    if (*wanted) return true;
  }
  return false;
}

MappedIterator::~MappedIterator() { heap->Discard(Value(Kind::kIterator, std::move(source))); }

absl::StatusOr<bool> MappedIterator::Next(Interpreter& interpreter, Value* value) {
  if (source == nullptr) return false;
  JINJA_RETURN_IF_ERROR(interpreter.Step());
  Value item;
  absl::StatusOr<bool> more = interpreter.Next(*source, &item);
  if (more.ok() && *more) {
    absl::StatusOr<Value> converted = convert(item);
    if (converted.ok()) {
      *value = *std::move(converted);
      return true;
    }
    more = converted.status();
  }
  heap->Discard(Value(Kind::kIterator, std::move(source)));
  source = nullptr;
  return more;
}

LoopObject::LoopObject(Heap* heap, Value iterable, const Stmt* stmt, std::shared_ptr<Scope> scope,
                       int depth0)
    : Object(heap),
      iterable(std::move(iterable)),
      stmt(stmt),
      scope(std::move(scope)),
      depth0(depth0) {
  Charge(sizeof(LoopObject));
}

LoopObject::~LoopObject() {
  heap->Discard(std::move(iterable));
  heap->Discard(Value(Kind::kIterator, std::move(iterator)));
  heap->Discard(std::move(current));
  heap->Discard(std::move(before));
  if (after.has_value()) heap->Discard(*std::move(after));
  if (last_changed.has_value()) heap->Discard(*std::move(last_changed));
}

absl::Status LoopObject::Start(Interpreter& interpreter) {
  JINJA_ASSIGN(iterator, interpreter.Iterate(iterable));
  return absl::OkStatus();
}

absl::StatusOr<bool> LoopObject::Peek(Interpreter& interpreter) {
  if (after.has_value()) return true;
  Value next;
  JINJA_ASSIGN(const bool more, interpreter.Next(*iterator, &next));
  if (more) after = std::move(next);
  return more;
}

absl::StatusOr<bool> LoopObject::Advance(Interpreter& interpreter, Value* item) {
  JINJA_ASSIGN(const bool more, Peek(interpreter));
  if (!more) return false;
  *item = *std::exchange(after, std::nullopt);
  ++index0;
  before = std::exchange(current, *item);
  return true;
}

absl::StatusOr<Int> LoopObject::Size(Interpreter& interpreter) {
  if (!length.has_value()) {
    if (iterable.is(Kind::kIterator)) {
      // Its length shows only when it is read to the end.
      Values rest;
      Value item;
      for (;;) {
        JINJA_RETURN_IF_ERROR(interpreter.Step());
        JINJA_ASSIGN(const bool more, interpreter.Next(*iterator, &item));
        if (!more) break;
        rest.push_back(std::move(item));
      }
      length = static_cast<Int>(rest.size()) + index0 + 1 + (after.has_value() ? 1 : 0);
      JINJA_ASSIGN(iterator,
                   interpreter.Iterate(MakeIterator(interpreter.heap(), std::move(rest))));
    } else {
      JINJA_ASSIGN(length, Length(iterable));
    }
  }
  return *length;
}

absl::StatusOr<Value> LoopObject::Changed(const Arguments& arguments) {
  Value now = heap->Tuple(arguments.positional);
  if (last_changed.has_value() && Equal(*last_changed, now)) return Value::Bool(false);
  last_changed = std::move(now);
  return Value::Bool(true);
}

absl::StatusOr<Value> LoopObject::Attribute(Interpreter& interpreter, const Value& self,
                                            std::string_view name, bool* found) {
  *found = true;
  if (name == "index") return Value::Integer(index0 + 1);
  if (name == "index0") return Value::Integer(index0);
  if (name == "first") return Value::Bool(index0 == 0);
  if (name == "depth") return Value::Integer(depth0 + 1);
  if (name == "depth0") return Value::Integer(depth0);
  if (name == "last") {
    JINJA_ASSIGN(const bool more, Peek(interpreter));
    return Value::Bool(!more);
  }
  if (name == "length" || name == "revindex" || name == "revindex0") {
    JINJA_ASSIGN(const Int size, Size(interpreter));
    if (name == "length") return Value::Integer(size);
    return Value::Integer(size - index0 - (name == "revindex0" ? 1 : 0));
  }
  if (name == "previtem") {
    return index0 == 0 ? heap->Undefined("there is no previous item") : before;
  }
  if (name == "nextitem") {
    JINJA_ASSIGN(const bool more, Peek(interpreter));
    return more ? *after : heap->Undefined("there is no next item");
  }
  if (name == "cycle" || name == "changed") {
    return heap->Make<LoopMethod>(Kind::kFunction, self, name == "cycle");
  }
  *found = false;
  return Value();
}

}  // namespace tandem::jinja
