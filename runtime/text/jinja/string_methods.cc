// Methods of str.
#include <algorithm>
#include <functional>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/format.h"
#include "runtime/text/jinja/methods.h"
#include "runtime/text/jinja/unicode.h"

namespace tandem::jinja {
namespace {

using Result = absl::StatusOr<Value>;

absl::StatusOr<std::string_view> Text(const Value& value) {
  if (value.is_undefined()) return UndefinedError(value);
  if (value.is_string()) return std::string_view(value.string());
  return TypeError(absl::StrCat("expected a str, got '", std::string(TypeName(value)), "'"));
}

Value Make(Interpreter& in, const Value& self, std::string text) {
  return in.heap().String(std::move(text), self.is_markup());
}

absl::Status NoArguments(std::string_view name, const Arguments& args) {
  return BindArguments(name, args, {}, 0).status();
}

// --- letters ---
template <std::string (*convert)(std::string_view)>
Result Convert(Interpreter& in, const Value& self, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(NoArguments("str method", args));
  JINJA_RETURN_IF_ERROR(in.Step(self.string().size() / 64));
  return Make(in, self, convert(self.string()));
}

// True if there is a character and all satisfy the predicate.
template <bool (*predicate)(char32_t)>
Result All(Interpreter& in, const Value& self, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(NoArguments("str method", args));
  JINJA_RETURN_IF_ERROR(in.Step(self.string().size() / 64));
  const std::string& text = self.string();
  for (size_t pos = 0; pos < text.size();) {
    if (!predicate(DecodeUtf8(text, &pos))) return Value::Bool(false);
  }
  return Value::Bool(!text.empty());
}

Result IsAsciiText(Interpreter&, const Value& self, const Arguments&) {
  return Value::Bool(self.as<StringObject>().ascii);
}
Result IsPrintableText(Interpreter& in, const Value& self, const Arguments& args) {
  if (self.string().empty()) return Value::Bool(true);
  return All<IsPrintable>(in, self, args);
}
Result IsIdentifier(Interpreter&, const Value& self, const Arguments&) {
  const std::string& text = self.string();
  for (size_t pos = 0; pos < text.size();) {
    const bool first = pos == 0;
    const char32_t c = DecodeUtf8(text, &pos);
    if (c != '_' && !IsAlpha(c) && (first || !IsAlnum(c))) return Value::Bool(false);
  }
  return Value::Bool(!text.empty());
}
Result HasCase(const Value& self, bool (*wanted)(char32_t), bool (*other)(char32_t)) {
  bool any = false;
  const std::string& text = self.string();
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = DecodeUtf8(text, &pos);
    if (other(c) || IsTitle(c)) return Value::Bool(false);
    any |= wanted(c);
  }
  return Value::Bool(any);
}
Result IsLowerText(Interpreter&, const Value& self, const Arguments&) {
  return HasCase(self, IsLower, IsUpper);
}
Result IsUpperText(Interpreter&, const Value& self, const Arguments&) {
  return HasCase(self, IsUpper, IsLower);
}
Result IsTitleText(Interpreter&, const Value& self, const Arguments&) {
  bool any = false, after_cased = false;
  const std::string& text = self.string();
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = DecodeUtf8(text, &pos);
    if (IsUpper(c) || IsTitle(c)) {
      if (after_cased) return Value::Bool(false);
      after_cased = any = true;
    } else if (IsLower(c)) {
      if (!after_cased) return Value::Bool(false);
      any = true;
    } else {
      after_cased = false;
    }
  }
  return Value::Bool(any);
}

// --- stripping ---
Result StripSides(Interpreter& in, const Value& self, const Arguments& args, bool left,
                  bool right) {
  if (!args.named.empty()) return TypeError("str.strip() takes no keyword arguments");
  JINJA_ASSIGN(const auto bound, BindArguments("strip", args, {"chars"}, 0));
  const Value* chars = bound[0];
  if (chars != nullptr && chars->is_none()) chars = nullptr;
  if (chars != nullptr) JINJA_RETURN_IF_ERROR(Text(*chars).status());
  JINJA_RETURN_IF_ERROR(in.Step(self.string().size() / 64));
  return Make(in, self, StripChars(self.string(), chars, left, right));
}
Result Strip(Interpreter& in, const Value& self, const Arguments& args) {
  return StripSides(in, self, args, true, true);
}
Result LStrip(Interpreter& in, const Value& self, const Arguments& args) {
  return StripSides(in, self, args, true, false);
}
Result RStrip(Interpreter& in, const Value& self, const Arguments& args) {
  return StripSides(in, self, args, false, true);
}
Result RemovePrefix(Interpreter& in, const Value& self, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("removeprefix", args, {"prefix"}, 1));
  JINJA_ASSIGN(const std::string_view prefix, Text(*bound[0]));
  const std::string& text = self.string();
  return Make(in, self, text.starts_with(prefix) ? text.substr(prefix.size()) : text);
}
Result RemoveSuffix(Interpreter& in, const Value& self, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("removesuffix", args, {"suffix"}, 1));
  JINJA_ASSIGN(const std::string_view suffix, Text(*bound[0]));
  const std::string& text = self.string();
  return Make(in, self,
              text.ends_with(suffix) ? text.substr(0, text.size() - suffix.size()) : text);
}

// --- searching: optional start and end count code points ---
struct Window {
  std::string_view text;
  size_t begin = 0;   // bytes before it
  Int first = 0;      // code points before it
  bool valid = true;  // false if start is behind the end
};

absl::StatusOr<Window> SearchWindow(const Value& self, const Value* start, const Value* end) {
  Window window;
  window.text = self.string();
  if (start == nullptr && end == nullptr) return window;
  JINJA_ASSIGN(const Int length, Length(self));
  Int bounds[2] = {0, length};
  const Value* given[2] = {start, end};
  for (int i = 0; i < 2; ++i) {
    if (given[i] == nullptr || given[i]->is_none()) continue;
    JINJA_ASSIGN(bounds[i], IntArgument(*given[i]));
    if (bounds[i] < 0) bounds[i] = std::max<Int>(0, bounds[i] + length);
  }
  if (bounds[0] > length) window.valid = false;
  bounds[1] = std::min(bounds[1], length);
  if (bounds[0] > bounds[1]) {
    window.valid = false;
    bounds[0] = bounds[1];
  }
  window.first = bounds[0];
  window.begin = ByteOffset(window.text, static_cast<size_t>(bounds[0]));
  const size_t stop = ByteOffset(window.text, static_cast<size_t>(bounds[1]));
  window.text = window.text.substr(window.begin, stop - window.begin);
  return window;
}

Result FindIn(Interpreter& in, const Value& self, const Arguments& args, bool last, bool must) {
  if (!args.named.empty()) return TypeError("str.find() takes no keyword arguments");
  JINJA_ASSIGN(const auto bound, BindArguments("find", args, {"sub", "start", "end"}, 1));
  JINJA_ASSIGN(const std::string_view wanted, Text(*bound[0]));
  JINJA_ASSIGN(const Window window, SearchWindow(self, bound[1], bound[2]));
  JINJA_RETURN_IF_ERROR(in.Step(self.string().size() / 64));
  size_t at = std::string_view::npos;
  if (window.valid) at = last ? window.text.rfind(wanted) : window.text.find(wanted);
  if (at == std::string_view::npos) {
    if (must) return TypeError("substring not found");
    return Value::Integer(-1);
  }
  return Value::Integer(window.first + static_cast<Int>(CodePointCount(window.text.substr(0, at))));
}
Result Find(Interpreter& in, const Value& self, const Arguments& args) {
  return FindIn(in, self, args, false, false);
}
Result RFind(Interpreter& in, const Value& self, const Arguments& args) {
  return FindIn(in, self, args, true, false);
}
Result Index(Interpreter& in, const Value& self, const Arguments& args) {
  return FindIn(in, self, args, false, true);
}
Result RIndex(Interpreter& in, const Value& self, const Arguments& args) {
  return FindIn(in, self, args, true, true);
}
Result Count(Interpreter& in, const Value& self, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("count", args, {"sub", "start", "end"}, 1));
  JINJA_ASSIGN(const std::string_view wanted, Text(*bound[0]));
  JINJA_ASSIGN(const Window window, SearchWindow(self, bound[1], bound[2]));
  JINJA_RETURN_IF_ERROR(in.Step(self.string().size() / 64));
  if (!window.valid) return Value::Integer(0);
  if (wanted.empty()) {
    return Value::Integer(static_cast<Int>(CodePointCount(window.text)) + 1);
  }
  Int count = 0;
  for (size_t at = 0; (at = window.text.find(wanted, at)) != std::string_view::npos;) {
    ++count;
    at += wanted.size();
  }
  return Value::Integer(count);
}

Result StartsOrEnds(const Value& self, const Arguments& args, bool starts) {
  if (!args.named.empty()) return TypeError("str.startswith() takes no keyword arguments");
  JINJA_ASSIGN(const auto bound, BindArguments("startswith", args, {"prefix", "start", "end"}, 1));
  JINJA_ASSIGN(const Window window, SearchWindow(self, bound[1], bound[2]));
  const auto matches = [&](std::string_view part) {
    return window.valid && (starts ? window.text.starts_with(part) : window.text.ends_with(part));
  };
  if (bound[0]->is(Kind::kTuple)) {
    for (const Value& item : bound[0]->items()) {
      JINJA_ASSIGN(const std::string_view part, Text(item));
      if (matches(part)) return Value::Bool(true);
    }
    return Value::Bool(false);
  }
  JINJA_ASSIGN(const std::string_view part, Text(*bound[0]));
  return Value::Bool(matches(part));
}
Result StartsWith(Interpreter&, const Value& self, const Arguments& args) {
  return StartsOrEnds(self, args, true);
}
Result EndsWith(Interpreter&, const Value& self, const Arguments& args) {
  return StartsOrEnds(self, args, false);
}

// --- splitting and joining ---
Result SplitText(Interpreter& in, const Value& self, const Arguments& args, bool from_right) {
  JINJA_ASSIGN(const auto bound, BindArguments("split", args, {"sep", "maxsplit"}, 0));
  Int limit = -1;
  if (bound[1] != nullptr) {
    JINJA_ASSIGN(limit, IntArgument(*bound[1]));
  }
  const std::string_view text = self.string();
  // rsplit on white space looks through what is left for every word.
  JINJA_RETURN_IF_ERROR(in.Step(text.size() / 16));
  std::vector<std::string_view> parts;
  if (bound[0] == nullptr || bound[0]->is_none()) {
    if (from_right && limit < 0) from_right = false;
    if (from_right)
      JINJA_RETURN_IF_ERROR(
          in.Step(static_cast<uint64_t>(std::min<Int>(limit, static_cast<Int>(text.size())) *
                                        static_cast<Int>(text.size() / 64))));
    parts = SplitSpace(text, limit, from_right);
  } else {
    JINJA_ASSIGN(const std::string_view separator, Text(*bound[0]));
    if (separator.empty()) return TypeError("empty separator");
    std::string_view rest = text;
    while (limit != 0) {
      const size_t at = from_right ? rest.rfind(separator) : rest.find(separator);
      if (at == std::string_view::npos) break;
      const std::string_view behind = rest.substr(at + separator.size());
      parts.push_back(from_right ? behind : rest.substr(0, at));
      rest = from_right ? rest.substr(0, at) : behind;
      --limit;
    }
    parts.push_back(rest);
    if (from_right) std::reverse(parts.begin(), parts.end());
  }
  JINJA_RETURN_IF_ERROR(
      in.heap().Check(parts.size() * (sizeof(Value) + sizeof(StringObject)) + text.size()));
  Values values;
  for (std::string_view part : parts) values.push_back(Make(in, self, std::string(part)));
  return in.heap().List(std::move(values));
}
Result Split(Interpreter& in, const Value& self, const Arguments& args) {
  return SplitText(in, self, args, false);
}
Result RSplit(Interpreter& in, const Value& self, const Arguments& args) {
  return SplitText(in, self, args, true);
}
Result SplitLinesMethod(Interpreter& in, const Value& self, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("splitlines", args, {"keepends"}, 0));
  JINJA_RETURN_IF_ERROR(in.Step(self.string().size() / 16));
  Values values;
  for (std::string& line : SplitLines(self.string(), bound[0] != nullptr && Truth(*bound[0]))) {
    values.push_back(Make(in, self, std::move(line)));
  }
  return in.heap().List(std::move(values));
}
Result PartitionText(Interpreter& in, const Value& self, const Arguments& args, bool last) {
  JINJA_ASSIGN(const auto bound, BindArguments("partition", args, {"sep"}, 1));
  JINJA_ASSIGN(const std::string_view separator, Text(*bound[0]));
  if (separator.empty()) return TypeError("empty separator");
  const std::string& text = self.string();
  const size_t at = last ? text.rfind(separator) : text.find(separator);
  std::string parts[3];
  if (at == std::string::npos) {
    parts[last ? 2 : 0] = text;
  } else {
    parts[0] = text.substr(0, at);
    parts[1] = std::string(separator);
    parts[2] = text.substr(at + separator.size());
  }
  Values values;
  for (std::string& part : parts) values.push_back(Make(in, self, std::move(part)));
  return in.heap().Tuple(std::move(values));
}
Result Partition(Interpreter& in, const Value& self, const Arguments& args) {
  return PartitionText(in, self, args, false);
}
Result RPartition(Interpreter& in, const Value& self, const Arguments& args) {
  return PartitionText(in, self, args, true);
}
Result Join(Interpreter& in, const Value& self, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("join", args, {"iterable"}, 1));
  JINJA_ASSIGN(const Values values, in.ToValues(*bound[0]));
  std::string out;
  for (size_t i = 0; i < values.size(); ++i) {
    if (!values[i].is_string()) {
      return TypeError(absl::StrCat("sequence item ", i, ": expected str instance, ",
                                    std::string(TypeName(values[i])), " found"));
    }
    if (i > 0) out += self.string();
    out += values[i].string();
    JINJA_RETURN_IF_ERROR(in.heap().Check(out.size()));
  }
  return Make(in, self, std::move(out));
}
Result Replace(Interpreter& in, const Value& self, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("replace", args, {"old", "new", "count"}, 2));
  if (!args.named.empty()) return TypeError("str.replace() takes no keyword arguments");
  JINJA_ASSIGN(const std::string_view from, Text(*bound[0]));
  JINJA_ASSIGN(const std::string_view to, Text(*bound[1]));
  Int count = -1;
  if (bound[2] != nullptr) {
    JINJA_ASSIGN(count, IntArgument(*bound[2]));
  }
  JINJA_ASSIGN(std::string text, ReplaceAll(in, self.string(), from, to, count));
  return Make(in, self, std::move(text));
}
Result ExpandTabs(Interpreter& in, const Value& self, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("expandtabs", args, {"tabsize"}, 0));
  Int size = 8;
  if (bound[0] != nullptr) {
    JINJA_ASSIGN(size, IntArgument(*bound[0]));
  }
  if (size > 10000) return TypeError("tab size is too large");
  std::string out;
  Int column = 0;
  const std::string& text = self.string();
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = DecodeUtf8(text, &pos);
    if (c == '\t') {
      const Int fill = size > 0 ? size - column % size : 0;
      out.append(static_cast<size_t>(fill), ' ');
      JINJA_RETURN_IF_ERROR(in.heap().Check(out.size()));
      column += fill;
    } else {
      AppendUtf8(c, &out);
      column = c == '\n' || c == '\r' ? 0 : column + 1;
    }
  }
  return Make(in, self, std::move(out));
}

// --- padding ---
Result Pad(Interpreter& in, const Value& self, const Arguments& args, char align) {
  JINJA_ASSIGN(const auto bound, BindArguments("ljust", args, {"width", "fillchar"}, 1));
  JINJA_ASSIGN(const Int width, IntArgument(*bound[0]));
  std::string fill = " ";
  if (bound[1] != nullptr) {
    JINJA_ASSIGN(const std::string_view given, Text(*bound[1]));
    if (CodePointCount(given) != 1) return TypeError("the fill must be exactly one character");
    fill = std::string(given);
  }
  JINJA_ASSIGN(const Int length, Length(self));
  if (width <= length) return self;
  const Int pad = width - length;
  if (pad > (Int{1} << 40)) JINJA_RETURN_IF_ERROR(in.heap().Check(SIZE_MAX));
  JINJA_RETURN_IF_ERROR(in.heap().Check(static_cast<size_t>(pad) * fill.size()));
  // str.center puts the odd blank to the left when the width is odd.
  const Int left = align == '<' ? 0 : align == '>' ? pad : pad / 2 + (pad & width & 1);
  std::string out;
  for (Int i = 0; i < left; ++i) out += fill;
  out += self.string();
  for (Int i = left; i < pad; ++i) out += fill;
  return Make(in, self, std::move(out));
}
Result LJust(Interpreter& in, const Value& self, const Arguments& args) {
  return Pad(in, self, args, '<');
}
Result RJust(Interpreter& in, const Value& self, const Arguments& args) {
  return Pad(in, self, args, '>');
}
Result Center(Interpreter& in, const Value& self, const Arguments& args) {
  return Pad(in, self, args, '^');
}
Result ZFill(Interpreter& in, const Value& self, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("zfill", args, {"width"}, 1));
  JINJA_ASSIGN(const Int width, IntArgument(*bound[0]));
  JINJA_ASSIGN(const Int length, Length(self));
  if (width <= length) return self;
  if (width > (Int{1} << 40)) JINJA_RETURN_IF_ERROR(in.heap().Check(SIZE_MAX));
  JINJA_RETURN_IF_ERROR(in.heap().Check(static_cast<size_t>(width)));
  std::string out = self.string();
  const bool sign = !out.empty() && (out[0] == '+' || out[0] == '-');
  out.insert(sign ? 1 : 0, static_cast<size_t>(width - length), '0');
  return Make(in, self, std::move(out));
}

Result Format(Interpreter& in, const Value& self, const Arguments& args) {
  return FormatString(in, self.string(), args);
}
Result FormatMap(Interpreter& in, const Value& self, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("format_map", args, {"mapping"}, 1));
  if (!bound[0]->is(Kind::kDict)) return TypeError("format_map() needs a mapping");
  Arguments named;
  for (const auto& [key, value] : bound[0]->dict().entries) {
    if (key.is_string()) named.named.emplace_back(key.string(), value);
  }
  return FormatString(in, self.string(), named);
}
Result Unsupported(Interpreter&, const Value&, const Arguments&) {
  return TypeError("this str method is not supported in chat templates");
}

constexpr Method kMethods[] = {
    {"upper", Convert<ToUpper>},
    {"lower", Convert<ToLower>},
    {"title", Convert<ToTitle>},
    {"capitalize", Convert<Capitalize>},
    {"swapcase", Convert<SwapCase>},
    {"casefold", Convert<CaseFold>},
    {"isalpha", All<IsAlpha>},
    {"isalnum", All<IsAlnum>},
    {"isdigit", All<IsDigit>},
    {"isdecimal", All<IsDecimal>},
    {"isnumeric", All<IsNumeric>},
    {"isspace", All<IsSpace>},
    {"isprintable", IsPrintableText},
    {"isascii", IsAsciiText},
    {"isidentifier", IsIdentifier},
    {"islower", IsLowerText},
    {"isupper", IsUpperText},
    {"istitle", IsTitleText},
    {"strip", Strip},
    {"lstrip", LStrip},
    {"rstrip", RStrip},
    {"removeprefix", RemovePrefix},
    {"removesuffix", RemoveSuffix},
    {"find", Find},
    {"rfind", RFind},
    {"index", Index},
    {"rindex", RIndex},
    {"count", Count},
    {"startswith", StartsWith},
    {"endswith", EndsWith},
    {"split", Split},
    {"rsplit", RSplit},
    {"splitlines", SplitLinesMethod},
    {"partition", Partition},
    {"rpartition", RPartition},
    {"join", Join},
    {"replace", Replace},
    {"expandtabs", ExpandTabs},
    {"ljust", LJust},
    {"rjust", RJust},
    {"center", Center},
    {"zfill", ZFill},
    {"format", Format},
    {"format_map", FormatMap},
    {"encode", Unsupported},
    {"translate", Unsupported},
    {"maketrans", Unsupported},
};

}  // namespace

const Method* FindStringMethod(std::string_view name) {
  for (const Method& method : kMethods) {
    if (method.name == name) return &method;
  }
  return nullptr;
}

}  // namespace tandem::jinja
