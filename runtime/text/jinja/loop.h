// Iterators and the `loop` variable.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/text/jinja/interpreter.h"

namespace tandem::jinja {

// Items of another iterator that pass a condition, which may call into the interpreter. The
// condition must hold no reference to what holds this iterator.
struct FilteredIterator : IteratorObject {
  using Keep = std::function<absl::StatusOr<bool>(const Value&)>;
  FilteredIterator(Heap* heap, std::shared_ptr<IteratorObject> source, Keep keep)
      : IteratorObject(heap), source(std::move(source)), keep(std::move(keep)) {}
  absl::StatusOr<bool> Next(Interpreter& interpreter, Value* value) override;
  ~FilteredIterator() override;
  std::shared_ptr<IteratorObject> source;
  const Keep keep;
};

// Items of another iterator, each converted.
struct MappedIterator : IteratorObject {
  using Convert = std::function<absl::StatusOr<Value>(const Value&)>;
  MappedIterator(Heap* heap, std::shared_ptr<IteratorObject> source, Convert convert)
      : IteratorObject(heap), source(std::move(source)), convert(std::move(convert)) {}
  absl::StatusOr<bool> Next(Interpreter& interpreter, Value* value) override;
  ~MappedIterator() override;
  std::shared_ptr<IteratorObject> source;
  const Convert convert;
};

// `loop` inside a for block.
struct LoopObject : Object {
  // `stmt` and `scope` are given for recursive loops only.
  LoopObject(Heap* heap, Value iterable, const Stmt* stmt, std::shared_ptr<Scope> scope,
             int depth0);
  ~LoopObject() override;
  absl::Status Start(Interpreter& interpreter);
  absl::StatusOr<bool> Advance(Interpreter& interpreter, Value* item);
  // loop.name; *found is false if there is no such attribute.
  absl::StatusOr<Value> Attribute(Interpreter& interpreter, const Value& self,
                                  std::string_view name, bool* found);
  absl::StatusOr<Int> Size(Interpreter& interpreter);
  absl::StatusOr<bool> Peek(Interpreter& interpreter);  // true if there is a next item
  absl::StatusOr<Value> Changed(const Arguments& arguments);

  Value iterable;
  const Stmt* const stmt;
  std::shared_ptr<Scope> scope;
  const int depth0;
  std::shared_ptr<IteratorObject> iterator;
  Int index0 = -1;
  std::optional<Int> length;
  std::optional<Value> after, last_changed;
  Value current, before;
};

}  // namespace tandem::jinja
