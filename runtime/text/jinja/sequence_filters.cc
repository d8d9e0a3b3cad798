// Filters over lists and mappings.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/loop.h"
#include "runtime/text/jinja/tests.h"
#include "runtime/text/jinja/unicode.h"

namespace tandem::jinja {
namespace {

using Result = absl::StatusOr<Value>;
using Key = std::function<Result(const Value&)>;

// Sorts by keys, in order of first appearance among equals; any comparison may fail.
absl::Status StableSort(Interpreter& in, const Values& keys, bool reverse,
                        std::vector<size_t>* order) {
  std::vector<size_t> buffer(order->size());
  for (size_t width = 1; width < order->size(); width *= 2) {
    for (size_t low = 0; low < order->size(); low += 2 * width) {
      const size_t middle = std::min(low + width, order->size());
      const size_t high = std::min(low + 2 * width, order->size());
      size_t left = low, right = middle;
      for (size_t out = low; out < high; ++out) {
        bool take_right = left >= middle;
        if (!take_right && right < high) {
          const Value& a = keys[(*order)[left]];
          const Value& b = keys[(*order)[right]];
          JINJA_RETURN_IF_ERROR(in.Step(1 + std::min(Weight(a), Weight(b)) / 16));
          JINJA_ASSIGN(take_right, reverse ? Less(a, b) : Less(b, a));
        }
        buffer[out] = (*order)[take_right ? right++ : left++];
      }
    }
    order->swap(buffer);
  }
  return absl::OkStatus();
}

absl::StatusOr<Values> SortBy(Interpreter& in, const Values& items, const Key& key, bool reverse) {
  Values keys;
  std::vector<size_t> order;
  for (const Value& item : items) {
    JINJA_ASSIGN(Value made, key(item));
    keys.push_back(std::move(made));
    order.push_back(order.size());
  }
  JINJA_RETURN_IF_ERROR(StableSort(in, keys, reverse, &order));
  Values sorted;
  for (size_t index : order) sorted.push_back(items[index]);
  return sorted;
}

// "a.b.0" as the steps of a look-up; digits are indices.
Values AttributeParts(Interpreter& in, const Value& attribute) {
  Values parts;
  if (attribute.is_none()) return parts;
  if (!attribute.is_string()) return {attribute};
  std::string_view rest = attribute.string();
  for (;;) {
    const size_t dot = rest.find('.');
    const std::string part(rest.substr(0, dot));
    const bool digits = !part.empty() && part.size() < 10 &&
                        part.find_first_not_of("0123456789") == std::string::npos;
    parts.push_back(digits ? Value::Integer(std::stol(part)) : in.String(part));
    if (dot == std::string_view::npos) return parts;
    rest = rest.substr(dot + 1);
  }
}

Value IgnoreCase(Interpreter& in, const Value& value) {
  return value.is_string() ? in.String(ToLower(value.string())) : value;
}

// Looks an attribute up, optionally with a default for what is undefined on the way.
Key AttributeGetter(Interpreter& in, const Value& attribute, bool fold_case,
                    const Value* fallback = nullptr) {
  const Values parts = AttributeParts(in, attribute);
  const bool has_default = fallback != nullptr && !fallback->is_none();
  const Value otherwise = has_default ? *fallback : Value();
  return [&in, parts, fold_case, has_default, otherwise](const Value& item) -> Result {
    Value value = item;
    for (const Value& part : parts) {
      JINJA_ASSIGN(value, in.GetItem(value, part));
      if (has_default && value.is_undefined()) value = otherwise;
    }
    return fold_case ? IgnoreCase(in, value) : value;
  };
}

bool Flag(const Value* value) { return value != nullptr && Truth(*value); }

Value None(const Value* value) { return value == nullptr ? Value::None() : *value; }

Result Default(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("default", args, {"default_value", "boolean"}, 0));
  if (input.is_undefined() || (Flag(bound[1]) && !Truth(input))) {
    return bound[0] != nullptr ? *bound[0] : in.String("");
  }
  return input;
}

Result LengthFilter(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(BindArguments("length", args, {}, 0).status());
  if (input.is_string()) JINJA_RETURN_IF_ERROR(in.Step(input.string().size() / 64));
  if (input.is(Kind::kLoop)) {
    JINJA_ASSIGN(const Int size, input.as<LoopObject>().Size(in));
    return Value::Integer(size);
  }
  JINJA_ASSIGN(const Int length, Length(input));
  return Value::Integer(length);
}

Result First(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(BindArguments("first", args, {}, 0).status());
  JINJA_ASSIGN(const auto iterator, in.Iterate(input));
  Value value;
  JINJA_ASSIGN(const bool more, in.Next(*iterator, &value));
  return more ? value : in.heap().Undefined("no first item, sequence was empty");
}

Result Last(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(BindArguments("last", args, {}, 0).status());
  if (input.is(Kind::kIterator)) return TypeError("'generator' object is not reversible");
  JINJA_ASSIGN(const Values values, in.ToValues(input));
  return values.empty() ? in.heap().Undefined("no last item, sequence was empty") : values.back();
}

Result List(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(BindArguments("list", args, {}, 0).status());
  JINJA_ASSIGN(Values values, in.ToValues(input));
  return in.heap().List(std::move(values));
}

Result Reverse(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(BindArguments("reverse", args, {}, 0).status());
  if (input.is_string()) {
    std::u32string text = ToCodePoints(input.string());
    std::reverse(text.begin(), text.end());
    return in.heap().String(FromCodePoints(text), input.is_markup());
  }
  JINJA_ASSIGN(Values values, in.ToValues(input));
  std::reverse(values.begin(), values.end());
  if (input.is(Kind::kIterator)) return in.heap().List(std::move(values));
  return MakeIterator(in.heap(), std::move(values));
}

Result Join(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("join", args, {"d", "attribute"}, 0));
  std::string separator;
  if (bound[0] != nullptr) {
    JINJA_ASSIGN(separator, in.Str(*bound[0]));
  }
  Key key = [](const Value& item) -> Result { return item; };
  if (bound[1] != nullptr && !bound[1]->is_none()) key = AttributeGetter(in, *bound[1], false);
  JINJA_ASSIGN(const auto iterator, in.Iterate(input));
  std::string out;
  for (bool first = true;; first = false) {
    JINJA_RETURN_IF_ERROR(in.Step());
    Value item;
    JINJA_ASSIGN(const bool more, in.Next(*iterator, &item));
    if (!more) break;
    JINJA_ASSIGN(const Value value, key(item));
    JINJA_ASSIGN(const std::string piece, in.Str(value));
    if (!first) out += separator;
    out += piece;
    JINJA_RETURN_IF_ERROR(in.heap().Check(out.size()));
  }
  return in.String(std::move(out));
}

Result Items(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(BindArguments("items", args, {}, 0).status());
  if (input.is_undefined()) return MakeIterator(in.heap(), {});
  if (!input.is(Kind::kDict)) return TypeError("can only get item pairs from a mapping");
  Values pairs;
  for (const auto& [key, value] : input.dict().entries) {
    JINJA_RETURN_IF_ERROR(in.Step());
    pairs.push_back(in.heap().Tuple({key, value}));
  }
  return MakeIterator(in.heap(), std::move(pairs));
}

Result DictSort(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound,
               BindArguments("dictsort", args, {"case_sensitive", "by", "reverse"}, 0));
  const bool sensitive = Flag(bound[0]);
  size_t place = 0;
  if (bound[1] != nullptr) {
    if (!bound[1]->is_string() || (bound[1]->string() != "key" && bound[1]->string() != "value")) {
      return TypeError("can only sort by 'key' or 'value'");
    }
    place = bound[1]->string() == "value" ? 1 : 0;
  }
  if (!input.is(Kind::kDict)) return TypeError("needs a mapping");
  JINJA_ASSIGN(const Value pairs, Items(in, input, {}));
  JINJA_ASSIGN(const Values values, in.ToValues(pairs));
  JINJA_ASSIGN(Values sorted, SortBy(
                                  in, values,
                                  [&](const Value& pair) -> Result {
                                    const Value& part = pair.items()[place];
                                    return sensitive ? part : IgnoreCase(in, part);
                                  },
                                  Flag(bound[2])));
  return in.heap().List(std::move(sorted));
}

Result Sort(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound,
               BindArguments("sort", args, {"reverse", "case_sensitive", "attribute"}, 0));
  const bool fold = !Flag(bound[1]);
  std::vector<Key> getters;
  const Value attribute = None(bound[2]);
  if (attribute.is_string()) {
    std::string_view rest = attribute.string();
    for (;;) {
      const size_t comma = rest.find(',');
      getters.push_back(AttributeGetter(in, in.String(std::string(rest.substr(0, comma))), fold));
      if (comma == std::string_view::npos) break;
      rest = rest.substr(comma + 1);
    }
  } else {
    getters.push_back(AttributeGetter(in, attribute, fold));
  }
  JINJA_ASSIGN(const Values values, in.ToValues(input));
  JINJA_ASSIGN(Values sorted, SortBy(
                                  in, values,
                                  [&](const Value& item) -> Result {
                                    Values parts;
                                    for (const Key& getter : getters) {
                                      JINJA_ASSIGN(Value part, getter(item));
                                      parts.push_back(std::move(part));
                                    }
                                    return in.heap().List(std::move(parts));
                                  },
                                  Flag(bound[0])));
  return in.heap().List(std::move(sorted));
}

Result Unique(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("unique", args, {"case_sensitive", "attribute"}, 0));
  const Key key = AttributeGetter(in, None(bound[1]), !Flag(bound[0]));
  JINJA_ASSIGN(const Values values, in.ToValues(input));
  const Value seen = in.heap().Make<DictObject>(Kind::kDict);
  Values kept;
  for (const Value& item : values) {
    JINJA_RETURN_IF_ERROR(in.Step());
    JINJA_ASSIGN(Value made, key(item));
    if (!IsHashable(made)) return TypeError("unhashable item");
    if (seen.dict().Find(made) != nullptr) continue;
    seen.as<DictObject>().Set(std::move(made), Value::None());
    kept.push_back(item);
  }
  return MakeIterator(in.heap(), std::move(kept));
}

Result MinOrMax(Interpreter& in, const Value& input, const Arguments& args, bool max) {
  JINJA_ASSIGN(const auto bound,
               BindArguments(max ? "max" : "min", args, {"case_sensitive", "attribute"}, 0));
  const Key key = AttributeGetter(in, None(bound[1]), !Flag(bound[0]));
  JINJA_ASSIGN(const Values values, in.ToValues(input));
  if (values.empty()) return in.heap().Undefined("no aggregated item, sequence was empty");
  Value best = values[0];
  JINJA_ASSIGN(Value best_key, key(best));
  for (size_t i = 1; i < values.size(); ++i) {
    JINJA_RETURN_IF_ERROR(in.Step());
    JINJA_ASSIGN(Value made, key(values[i]));
    JINJA_ASSIGN(const bool better, max ? Less(best_key, made) : Less(made, best_key));
    if (!better) continue;
    best = values[i];
    best_key = std::move(made);
  }
  return best;
}
Result Min(Interpreter& in, const Value& input, const Arguments& args) {
  return MinOrMax(in, input, args, false);
}
Result Max(Interpreter& in, const Value& input, const Arguments& args) {
  return MinOrMax(in, input, args, true);
}

Result Sum(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("sum", args, {"attribute", "start"}, 0));
  Value total = bound[1] != nullptr ? *bound[1] : Value::Integer(0);
  if (total.is_string()) return TypeError("sum() can't sum strings");
  const Key key = AttributeGetter(in, None(bound[0]), false);
  JINJA_ASSIGN(const Values values, in.ToValues(input));
  for (const Value& item : values) {
    JINJA_RETURN_IF_ERROR(in.Step());
    JINJA_ASSIGN(const Value value, key(item));
    JINJA_ASSIGN(total, in.Binary("+", total, value));
  }
  return total;
}

Result GroupBy(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound,
               BindArguments("groupby", args, {"attribute", "default", "case_sensitive"}, 1));
  const bool sensitive = Flag(bound[2]);
  const Key key = AttributeGetter(in, *bound[0], !sensitive, bound[1]);
  const Key shown = AttributeGetter(in, *bound[0], false, bound[1]);
  JINJA_ASSIGN(const Values values, in.ToValues(input));
  JINJA_ASSIGN(const Values sorted, SortBy(in, values, key, false));
  Values groups, group;
  Value group_key;
  const auto flush = [&]() -> absl::Status {
    if (group.empty()) return absl::OkStatus();
    JINJA_ASSIGN(const Value grouper, shown(group[0]));
    Value pair = in.heap().Tuple({grouper, in.heap().List(std::move(group))});
    pair.as<SequenceObject>().is_group = true;
    groups.push_back(std::move(pair));
    group = Values();
    return absl::OkStatus();
  };
  for (const Value& item : sorted) {
    JINJA_RETURN_IF_ERROR(in.Step());
    JINJA_ASSIGN(Value made, key(item));
    if (!group.empty() && !Equal(made, group_key)) JINJA_RETURN_IF_ERROR(flush());
    group_key = std::move(made);
    group.push_back(item);
  }
  JINJA_RETURN_IF_ERROR(flush());
  return in.heap().List(std::move(groups));
}

Result Batch(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("batch", args, {"linecount", "fill_with"}, 1));
  JINJA_ASSIGN(const Int count, IntArgument(*bound[0]));
  JINJA_ASSIGN(const Values values, in.ToValues(input));
  Values rows, row;
  for (const Value& item : values) {
    JINJA_RETURN_IF_ERROR(in.Step());
    if (static_cast<Int>(row.size()) == count) {
      rows.push_back(in.heap().List(std::move(row)));
      row = Values();
    }
    row.push_back(item);
  }
  if (!row.empty()) {
    if (bound[1] != nullptr && !bound[1]->is_none()) {
      while (static_cast<Int>(row.size()) < count) {
        JINJA_RETURN_IF_ERROR(in.Step());
        JINJA_RETURN_IF_ERROR(in.heap().Check(row.size() * sizeof(Value)));
        row.push_back(*bound[1]);
      }
    }
    rows.push_back(in.heap().List(std::move(row)));
  }
  return MakeIterator(in.heap(), std::move(rows));
}

Result Slice(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("slice", args, {"slices", "fill_with"}, 1));
  JINJA_ASSIGN(const Int slices, IntArgument(*bound[0]));
  JINJA_ASSIGN(const Values values, in.ToValues(input));
  if (slices == 0) return TypeError("division by zero");
  const Int size = static_cast<Int>(values.size());
  const Int each = size / slices, extra = size % slices;
  const bool fill = bound[1] != nullptr && !bound[1]->is_none();
  Values rows;
  Int offset = 0;
  for (Int number = 0; number < slices; ++number) {
    JINJA_RETURN_IF_ERROR(in.Step());
    JINJA_RETURN_IF_ERROR(in.heap().Check(rows.size() * sizeof(Value)));
    const Int start = offset + number * each;
    if (number < extra) ++offset;
    const Int end = offset + (number + 1) * each;
    Values row;
    for (Int i = start; i < end; ++i) row.push_back(values[static_cast<size_t>(i)]);
    if (fill && number >= extra) row.push_back(*bound[1]);
    rows.push_back(in.heap().List(std::move(row)));
  }
  return MakeIterator(in.heap(), std::move(rows));
}

Result Attr(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("attr", args, {"name"}, 1));
  if (input.is_undefined()) return UndefinedError(input);
  if (!bound[0]->is_string()) return TypeError("the name must be a str");
  bool found = false;
  JINJA_ASSIGN(const Value value, in.FindAttribute(input, bound[0]->string(), &found));
  if (found) return value;
  return in.heap().Undefined(absl::StrCat("no attribute '", bound[0]->string(), "'"));
}

Value MakeIter(Interpreter& in, std::shared_ptr<IteratorObject> iterator) {
  (void)in;
  return Value(Kind::kIterator, std::move(iterator));
}

Result Map(Interpreter& in, const Value& input, const Arguments& args) {
  if (!Truth(input)) return MakeIterator(in.heap(), {});
  MappedIterator::Convert convert;
  const bool by_attribute =
      args.positional.empty() &&
      std::any_of(args.named.begin(), args.named.end(),
                  [](const auto& entry) { return entry.first == "attribute"; });
  if (by_attribute) {
    JINJA_ASSIGN(const auto bound, BindArguments("map", args, {"attribute", "default"}, 1));
    convert = AttributeGetter(in, *bound[0], false, bound[1]);
  } else {
    if (args.positional.empty()) return TypeError("requires a filter's name");
    if (!args.positional[0].is_string()) return TypeError("the filter's name must be a str");
    const std::string name = args.positional[0].string();
    Arguments rest = args;
    rest.positional.erase(rest.positional.begin());
    convert = [&in, name, rest](const Value& item) { return ApplyFilter(in, name, item, rest); };
  }
  JINJA_ASSIGN(auto source, in.Iterate(input));
  return MakeIter(
      in, std::make_shared<MappedIterator>(&in.heap(), std::move(source), std::move(convert)));
}

Result SelectItems(Interpreter& in, const Value& input, const Arguments& args, bool attribute,
                   bool wanted) {
  if (!Truth(input)) return MakeIterator(in.heap(), {});
  Arguments rest = args;
  Key key = [](const Value& item) -> Result { return item; };
  if (attribute) {
    if (rest.positional.empty()) return TypeError("requires an attribute's name");
    key = AttributeGetter(in, rest.positional[0], false);
    rest.positional.erase(rest.positional.begin());
  }
  std::string test;
  if (!rest.positional.empty()) {
    if (!rest.positional[0].is_string()) return TypeError("the test's name must be a str");
    test = rest.positional[0].string();
    rest.positional.erase(rest.positional.begin());
  }
  const bool by_truth = args.positional.size() == (attribute ? 1u : 0u);
  const auto keep = [&in, key, test, rest, by_truth,
                     wanted](const Value& item) -> absl::StatusOr<bool> {
    JINJA_ASSIGN(const Value value, key(item));
    if (by_truth) return Truth(value) == wanted;
    JINJA_ASSIGN(const bool holds, ApplyTest(in, test, value, rest));
    return holds == wanted;
  };
  JINJA_ASSIGN(auto source, in.Iterate(input));
  return MakeIter(in, std::make_shared<FilteredIterator>(&in.heap(), std::move(source), keep));
}
Result Select(Interpreter& in, const Value& input, const Arguments& args) {
  return SelectItems(in, input, args, false, true);
}
Result Reject(Interpreter& in, const Value& input, const Arguments& args) {
  return SelectItems(in, input, args, false, false);
}
Result SelectAttr(Interpreter& in, const Value& input, const Arguments& args) {
  return SelectItems(in, input, args, true, true);
}
Result RejectAttr(Interpreter& in, const Value& input, const Arguments& args) {
  return SelectItems(in, input, args, true, false);
}

constexpr Filter kFilters[] = {
    {"attr", Attr},       {"batch", Batch},     {"count", LengthFilter},
    {"d", Default},       {"default", Default}, {"dictsort", DictSort},
    {"first", First},     {"groupby", GroupBy}, {"items", Items},
    {"join", Join},       {"last", Last},       {"length", LengthFilter},
    {"list", List},       {"map", Map},         {"max", Max},
    {"min", Min},         {"reject", Reject},   {"rejectattr", RejectAttr},
    {"reverse", Reverse}, {"select", Select},   {"selectattr", SelectAttr},
    {"slice", Slice},     {"sort", Sort},       {"sum", Sum},
    {"unique", Unique},
};

}  // namespace

const Filter* FindSequenceFilter(std::string_view name) {
  for (const Filter& filter : kFilters) {
    if (filter.name == name) return &filter;
  }
  return nullptr;
}

}  // namespace tandem::jinja
