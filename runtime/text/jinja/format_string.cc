// str.format.
#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/format.h"
#include "runtime/text/jinja/methods.h"
#include "runtime/text/jinja/unicode.h"

namespace tandem::jinja {
namespace {

using Result = absl::StatusOr<Value>;

// {} {0} {name} {x.attribute} {x[item]} with !s, !r and a specification.
class Formatter {
 public:
  Formatter(Interpreter& in, const Arguments& arguments) : in_(in), arguments_(arguments) {}

  absl::StatusOr<std::string> Run(std::string_view format, int depth) {
    if (depth > 1) return TypeError("max string recursion exceeded");
    std::string out;
    for (size_t pos = 0; pos < format.size();) {
      const char c = format[pos++];
      if (c != '{' && c != '}') {
        out.push_back(c);
        continue;
      }
      if (pos < format.size() && format[pos] == c) {
        out.push_back(c);
        ++pos;
        continue;
      }
      if (c == '}') return TypeError("single '}' encountered in format string");
      size_t end = pos;
      int open = 1;
      for (; end < format.size(); ++end) {
        if (format[end] == '{') ++open;
        if (format[end] == '}' && --open == 0) break;
      }
      if (open != 0) return TypeError("expected '}' before end of string");
      JINJA_ASSIGN(const std::string piece, Field(format.substr(pos, end - pos), depth));
      out += piece;
      JINJA_RETURN_IF_ERROR(in_.heap().Check(out.size()));
      pos = end + 1;
    }
    return out;
  }

 private:
  absl::StatusOr<std::string> Field(std::string_view field, int depth) {
    size_t name_end = 0;
    for (bool bracket = false; name_end < field.size(); ++name_end) {
      const char c = field[name_end];
      if (c == '[') bracket = true;
      if (c == ']') bracket = false;
      if (!bracket && (c == '!' || c == ':')) break;
    }
    JINJA_ASSIGN(Value value, Lookup(field.substr(0, name_end)));
    std::string_view rest = field.substr(name_end);
    if (!rest.empty() && rest[0] == '!') {
      if (rest.size() < 2 || (rest.size() > 2 && rest[2] != ':')) {
        return TypeError("expected ':' after conversion specifier");
      }
      std::string text;
      if (rest[1] == 's') {
        JINJA_ASSIGN(text, in_.Str(value));
      } else if (rest[1] == 'r' || rest[1] == 'a') {
        JINJA_ASSIGN(text, Repr(value, in_.heap()));
      } else {
        return TypeError("unknown conversion specifier");
      }
      value = in_.String(std::move(text));
      rest = rest.substr(2);
    }
    std::string spec;
    if (!rest.empty()) {
      JINJA_ASSIGN(spec, Run(rest.substr(1), depth + 1));
    }
    return FormatWithSpec(value, spec, in_.heap());
  }

  static bool IsNumber(std::string_view text) {
    return !text.empty() && text.size() < 10 &&
           std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  }

  Result Lookup(std::string_view name) {
    const size_t first_end = std::min(name.find_first_of(".["), name.size());
    const std::string first(name.substr(0, first_end));
    Value value;
    if (first.empty() || IsNumber(first)) {
      const bool automatic = first.empty();
      if (numbering_ != 0 && (numbering_ == 1) != automatic) {
        return TypeError("cannot mix automatic field numbering and field numbers");
      }
      numbering_ = automatic ? 1 : 2;
      const size_t index = automatic ? next_++ : static_cast<size_t>(std::stoul(first));
      if (index >= arguments_.positional.size()) {
        return TypeError("replacement index out of range for positional arguments");
      }
      value = arguments_.positional[index];
    } else {
      bool found = false;
      for (const auto& [key, named] : arguments_.named) {
        if (key != first) continue;
        value = named;
        found = true;
      }
      if (!found) return TypeError(absl::StrCat("format field '", first, "' is missing"));
    }
    std::string_view rest = name.substr(first_end);
    while (!rest.empty()) {
      if (rest[0] == '.') {
        const size_t end = std::min(rest.find_first_of(".[", 1), rest.size());
        if (end == 1) return TypeError("empty attribute in format string");
        JINJA_ASSIGN(value, in_.GetAttribute(value, rest.substr(1, end - 1)));
        rest = rest.substr(end);
      } else if (rest[0] == '[') {
        const size_t end = rest.find(']');
        if (end == std::string_view::npos || end == 1) {
          return TypeError("bad item in format string");
        }
        const std::string key(rest.substr(1, end - 1));
        JINJA_ASSIGN(
            value,
            in_.GetItem(value, IsNumber(key) ? Value::Integer(static_cast<Int>(std::stoul(key)))
                                             : in_.String(key)));
        rest = rest.substr(end + 1);
      } else {
        return TypeError("only '.' or '[' may follow ']' in format field specifier");
      }
    }
    return value;
  }

  Interpreter& in_;
  const Arguments& arguments_;
  size_t next_ = 0;
  int numbering_ = 0;  // 1: automatic, 2: by number
};

}  // namespace

absl::StatusOr<Value> FormatString(Interpreter& in, std::string_view format,
                                   const Arguments& arguments) {
  JINJA_ASSIGN(std::string text, Formatter(in, arguments).Run(format, 0));
  return in.String(std::move(text));
}

}  // namespace tandem::jinja
