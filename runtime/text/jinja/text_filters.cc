// Filters that make text.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/format.h"
#include "runtime/text/jinja/methods.h"
#include "runtime/text/jinja/unicode.h"

namespace tandem::jinja {
namespace {

using Result = absl::StatusOr<Value>;

// soft_str(value): markup stays markup.
absl::StatusOr<Value> Soft(Interpreter& in, const Value& value) {
  if (value.is_string()) return value;
  JINJA_ASSIGN(std::string text, in.Str(value));
  return in.String(std::move(text));
}

Result ByMethod(Interpreter& in, const Value& input, const Arguments& args,
                std::string_view method) {
  JINJA_ASSIGN(const Value text, Soft(in, input));
  return FindStringMethod(method)->function(in, text, args);
}
Result Upper(Interpreter& in, const Value& input, const Arguments& args) {
  return ByMethod(in, input, args, "upper");
}
Result Lower(Interpreter& in, const Value& input, const Arguments& args) {
  return ByMethod(in, input, args, "lower");
}
Result CapitalizeFilter(Interpreter& in, const Value& input, const Arguments& args) {
  return ByMethod(in, input, args, "capitalize");
}
Result Trim(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("trim", args, {"chars"}, 0));
  Arguments plain;
  if (bound[0] != nullptr) plain.positional.push_back(*bound[0]);
  return ByMethod(in, input, plain, "strip");
}
Result Center(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("center", args, {"width"}, 0));
  Arguments plain;
  plain.positional.push_back(bound[0] != nullptr ? *bound[0] : Value::Integer(80));
  return ByMethod(in, input, plain, "center");
}

Result Title(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(BindArguments("title", args, {}, 0).status());
  JINJA_ASSIGN(const std::string text, in.Str(input));
  JINJA_RETURN_IF_ERROR(in.Step(text.size() / 16));
  std::string out;
  bool first = true;
  size_t rest = 0;  // where the word's letters after its first begin
  const auto flush = [&](size_t end) {
    if (!first) out += ToLower(std::string_view(text).substr(rest, end - rest));
  };
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t c = DecodeUtf8(text, &pos);
    if (c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || IsSpace(c)) {
      flush(begin);
      out += text.substr(begin, pos - begin);
      first = true;
    } else if (first) {
      out += ToUpper(std::string_view(text).substr(begin, pos - begin));
      first = false;
      rest = pos;
    }
  }
  flush(text.size());
  return in.String(std::move(out));
}

Result StringFilter(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(BindArguments("string", args, {}, 0).status());
  return Soft(in, input);
}

Result Escape(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(BindArguments("escape", args, {}, 0).status());
  if (input.is_markup()) return input;
  JINJA_ASSIGN(const std::string text, in.Str(input));
  return in.heap().String(EscapeHtml(text), true);
}
Result ForceEscape(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(BindArguments("forceescape", args, {}, 0).status());
  JINJA_ASSIGN(const std::string text, in.Str(input));
  return in.heap().String(EscapeHtml(text), true);
}
Result Safe(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(BindArguments("safe", args, {}, 0).status());
  JINJA_ASSIGN(std::string text, in.Str(input));
  return in.heap().String(std::move(text), true);
}

Result StripTags(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(BindArguments("striptags", args, {}, 0).status());
  JINJA_ASSIGN(std::string text, in.Str(input));
  for (const auto& [open, close] : {std::pair<std::string_view, std::string_view>("<!--", "-->"),
                                    std::pair<std::string_view, std::string_view>("<", ">")}) {
    std::string kept;
    size_t pos = 0;
    for (;;) {
      const size_t begin = text.find(open, pos);
      const size_t end = begin == std::string::npos ? begin : text.find(close, begin);
      if (end == std::string::npos) break;
      kept += text.substr(pos, begin - pos);
      pos = end + close.size();
    }
    text = kept + text.substr(pos);
  }
  // Adjacent white space becomes one blank, entities become their characters.
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    if (IsSpace(DecodeUtf8(text, &pos))) {
      if (!out.empty() && out.back() != ' ') out += ' ';
    } else {
      out += text.substr(begin, pos - begin);
    }
  }
  if (!out.empty() && out.back() == ' ') out.pop_back();
  constexpr std::pair<std::string_view, std::string_view> kEntities[] = {
      {"&lt;", "<"},  {"&gt;", ">"},        {"&quot;", "\""}, {"&#34;", "\""},
      {"&#39;", "'"}, {"&nbsp;", "\u00a0"}, {"&amp;", "&"}};
  for (const auto& [from, to] : kEntities) {
    JINJA_ASSIGN(out, ReplaceAll(in, out, from, to, -1));
  }
  return in.String(std::move(out));
}

Result Replace(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("replace", args, {"old", "new", "count"}, 2));
  JINJA_ASSIGN(const std::string text, in.Str(input));
  JINJA_ASSIGN(const std::string from, in.Str(*bound[0]));
  JINJA_ASSIGN(const std::string to, in.Str(*bound[1]));
  Int count = -1;
  if (bound[2] != nullptr && !bound[2]->is_none()) {
    JINJA_ASSIGN(count, IntArgument(*bound[2]));
  }
  JINJA_ASSIGN(std::string out, ReplaceAll(in, text, from, to, count));
  return in.String(std::move(out));
}

Result FormatFilter(Interpreter& in, const Value& input, const Arguments& args) {
  if (!args.positional.empty() && !args.named.empty()) {
    return TypeError("cannot take positional and keyword arguments at the same time");
  }
  JINJA_ASSIGN(const Value text, Soft(in, input));
  Value values;
  if (!args.named.empty()) {
    values = in.heap().Make<DictObject>(Kind::kDict);
    for (const auto& [name, value] : args.named) {
      values.as<DictObject>().Set(in.String(name), value);
    }
  } else {
    values = in.heap().Tuple(args.positional);
  }
  return in.Binary("%", text, values);
}

Result Indent(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("indent", args, {"width", "first", "blank"}, 0));
  JINJA_ASSIGN(const std::string text, TextOf(input));
  std::string indention(4, ' ');
  if (bound[0] != nullptr && bound[0]->is_string()) {
    indention = bound[0]->string();
  } else if (bound[0] != nullptr) {
    JINJA_ASSIGN(const Int width, IntArgument(*bound[0]));
    if (width > (1 << 20)) JINJA_RETURN_IF_ERROR(in.heap().Check(SIZE_MAX));
    indention = std::string(static_cast<size_t>(std::max<Int>(0, width)), ' ');
  }
  const bool first = bound[1] != nullptr && Truth(*bound[1]);
  const bool blank = bound[2] != nullptr && Truth(*bound[2]);
  JINJA_RETURN_IF_ERROR(in.Step(text.size() / 16));
  std::string out = first ? indention : "";
  const std::vector<std::string> lines = SplitLines(text + "\n", false);
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) {
      out += '\n';
      if (blank || !lines[i].empty()) out += indention;
    }
    out += lines[i];
    JINJA_RETURN_IF_ERROR(in.heap().Check(out.size()));
  }
  return in.heap().String(std::move(out), input.is_markup());
}

Result Truncate(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound,
               BindArguments("truncate", args, {"length", "killwords", "end", "leeway"}, 0));
  Int length = 255, leeway = 5;
  if (bound[0] != nullptr) {
    JINJA_ASSIGN(length, IntArgument(*bound[0]));
  }
  if (bound[3] != nullptr && !bound[3]->is_none()) {
    JINJA_ASSIGN(leeway, IntArgument(*bound[3]));
  }
  std::string end = "...";
  if (bound[2] != nullptr) {
    JINJA_ASSIGN(end, TextOf(*bound[2]));
  }
  const Int end_length = static_cast<Int>(CodePointCount(end));
  if (length < end_length) return TypeError("length is less than that of the end mark");
  if (leeway < 0) return TypeError("leeway is negative");
  JINJA_ASSIGN(const Int size, Length(input));
  if (size <= length + leeway) return input;
  JINJA_ASSIGN(const std::string text, TextOf(input));
  std::string kept = text.substr(0, ByteOffset(text, static_cast<size_t>(length - end_length)));
  if (bound[1] == nullptr || !Truth(*bound[1])) {
    const size_t blank = kept.rfind(' ');
    if (blank != std::string::npos) kept.resize(blank);
  }
  return in.String(kept + end);
}

Result WordCount(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(BindArguments("wordcount", args, {}, 0).status());
  JINJA_ASSIGN(const std::string text, in.Str(input));
  Int count = 0;
  bool inside = false;
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = DecodeUtf8(text, &pos);
    const bool word = c == '_' || IsAlnum(c);
    if (word && !inside) ++count;
    inside = word;
  }
  return Value::Integer(count);
}

// Splits one line into lines of at most `width`, at blanks where possible. Words with hyphens may
// be split after a hyphen.
std::vector<std::string> WrapLine(std::u32string_view line, size_t width, bool break_long,
                                  bool break_hyphens) {
  std::vector<std::u32string> chunks;
  for (size_t pos = 0; pos < line.size();) {
    size_t end = pos;
    const auto blank = [](char32_t c) { return (c >= 9 && c <= 13) || c == ' '; };
    const bool space = blank(line[pos]);
    while (end < line.size() && blank(line[end]) == space) {
      ++end;
      const bool letters = end < line.size() && end - pos >= 2 && end + 1 < line.size() &&
                           IsAlpha(line[end - 2]) && IsAlpha(line[end]);
      if (!space && break_hyphens && line[end - 1] == '-' && letters && IsAlpha(line[end + 1])) {
        break;
      }
    }
    chunks.emplace_back(line.substr(pos, end - pos));
    pos = end;
  }
  std::vector<std::string> lines;
  std::reverse(chunks.begin(), chunks.end());
  const auto is_blank = [](const std::u32string& chunk) {
    return StripLeft(FromCodePoints(chunk)).empty();
  };
  while (!chunks.empty()) {
    std::vector<std::u32string> current;
    size_t length = 0;
    if (!lines.empty() && is_blank(chunks.back())) chunks.pop_back();
    while (!chunks.empty() && length + chunks.back().size() <= width) {
      length += chunks.back().size();
      current.push_back(std::move(chunks.back()));
      chunks.pop_back();
    }
    if (!chunks.empty() && chunks.back().size() > width) {
      const size_t room = width > length ? width - length : 0;
      if (break_long) {
        size_t cut = std::max<size_t>(room, width < 1 ? 1 : room);
        std::u32string& chunk = chunks.back();
        if (break_hyphens && chunk.size() > cut && cut > 0) {
          const size_t hyphen = chunk.rfind(U'-', cut - 1);
          if (hyphen != std::u32string::npos && hyphen > 0 &&
              chunk.substr(0, hyphen).find_first_not_of(U'-') != std::u32string::npos) {
            cut = hyphen + 1;
          }
        }
        current.push_back(chunk.substr(0, cut));
        chunk.erase(0, cut);
      } else if (current.empty()) {
        current.push_back(std::move(chunks.back()));
        chunks.pop_back();
      }
    }
    if (!current.empty() && is_blank(current.back())) current.pop_back();
    std::string text;
    for (const std::u32string& chunk : current) text += FromCodePoints(chunk);
    if (!current.empty()) lines.push_back(std::move(text));
  }
  return lines;
}

Result WordWrap(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound,
               BindArguments("wordwrap", args,
                             {"width", "break_long_words", "wrapstring", "break_on_hyphens"}, 0));
  JINJA_ASSIGN(const std::string text, TextOf(input));
  Int width = 79;
  if (bound[0] != nullptr) {
    JINJA_ASSIGN(width, IntArgument(*bound[0]));
  }
  if (width <= 0) return TypeError("width must be positive");
  width = std::min<Int>(width, 1 << 30);
  std::string wrap = "\n";
  if (bound[2] != nullptr && !bound[2]->is_none()) {
    JINJA_ASSIGN(wrap, TextOf(*bound[2]));
  }
  const bool break_long = bound[1] == nullptr || Truth(*bound[1]);
  const bool hyphens = bound[3] == nullptr || Truth(*bound[3]);
  JINJA_RETURN_IF_ERROR(in.Step(text.size()));
  std::string out;
  bool first = true;
  for (const std::string& line : SplitLines(text, false)) {
    std::vector<std::string> wrapped =
        WrapLine(ToCodePoints(line), static_cast<size_t>(width), break_long, hyphens);
    if (wrapped.empty()) wrapped.emplace_back();
    for (const std::string& piece : wrapped) {
      if (!first) out += wrap;
      first = false;
      out += piece;
      JINJA_RETURN_IF_ERROR(in.heap().Check(out.size()));
    }
  }
  return in.String(std::move(out));
}

std::string Quote(std::string_view text, bool query) {
  std::string out;
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (byte < 0x80 && IsAlnum(byte)) || c == '_' || c == '.' || c == '-' ||
                       c == '~' || (c == '/' && !query);
    if (plain) {
      out += c;
    } else if (query && c == ' ') {
      out += '+';
    } else {
      absl::StrAppend(&out, "%", std::string(1, "0123456789ABCDEF"[byte >> 4]),
                      std::string(1, "0123456789ABCDEF"[byte & 15]));
    }
  }
  return out;
}

Result UrlEncode(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(BindArguments("urlencode", args, {}, 0).status());
  if (input.is_string() || input.is_number() || input.is_none()) {
    JINJA_ASSIGN(const std::string text, in.Str(input));
    return in.String(Quote(text, false));
  }
  Value pairs = input;
  if (input.is(Kind::kDict)) {
    pairs = in.heap().Make<ViewObject>(Kind::kView, input, ViewKind::kItems);
  }
  JINJA_ASSIGN(const Values items, in.ToValues(pairs));
  std::string out;
  for (const Value& item : items) {
    JINJA_ASSIGN(const Values parts, in.ToValues(item));
    if (parts.size() != 2) return TypeError("needs pairs of key and value");
    JINJA_ASSIGN(const std::string key, in.Str(parts[0]));
    JINJA_ASSIGN(const std::string value, in.Str(parts[1]));
    if (!out.empty()) out += '&';
    absl::StrAppend(&out, Quote(key, true), "=", Quote(value, true));
  }
  return in.String(std::move(out));
}

Result XmlAttr(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("xmlattr", args, {"autospace"}, 0));
  if (!input.is(Kind::kDict)) return TypeError("needs a mapping");
  std::string out;
  for (const auto& [key, value] : input.dict().entries) {
    if (value.is_none() || value.is_undefined()) continue;
    JINJA_ASSIGN(const std::string name, TextOf(key));
    if (name.find_first_of(" \t\n\r\f\v/>=") != std::string::npos) {
      return TypeError("invalid character in attribute name");
    }
    JINJA_ASSIGN(const std::string text, in.Str(value));
    if (!out.empty()) out += ' ';
    absl::StrAppend(&out, EscapeHtml(name), "=\"", value.is_markup() ? text : EscapeHtml(text),
                    "\"");
  }
  if (!out.empty() && (bound[0] == nullptr || Truth(*bound[0]))) out.insert(0, " ");
  return in.String(std::move(out));
}

Result ToJson(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(
      const auto bound,
      BindArguments("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"}, 0));
  JsonOptions options;
  options.ensure_ascii = bound[0] != nullptr && Truth(*bound[0]);
  options.sort_keys = bound[3] != nullptr && Truth(*bound[3]);
  if (bound[1] != nullptr && !bound[1]->is_none()) {
    if (bound[1]->is_string()) {
      options.indent = bound[1]->string();
    } else {
      JINJA_ASSIGN(const Int width, IntArgument(*bound[1]));
      if (width > 1000) return TypeError("indent is too large");
      options.indent = std::string(static_cast<size_t>(std::max<Int>(0, width)), ' ');
    }
    options.item_separator = ",";
  }
  if (bound[2] != nullptr && !bound[2]->is_none()) {
    JINJA_ASSIGN(const Values pair, in.ToValues(*bound[2]));
    if (pair.size() != 2) return TypeError("separators must be a pair");
    JINJA_ASSIGN(options.item_separator, TextOf(pair[0]));
    JINJA_ASSIGN(options.key_separator, TextOf(pair[1]));
  }
  JINJA_RETURN_IF_ERROR(in.Step(Weight(input)));
  JINJA_ASSIGN(std::string text, JsonDumps(input, options, in.heap()));
  return in.String(std::move(text));
}

Result PPrint(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(BindArguments("pprint", args, {}, 0).status());
  JINJA_ASSIGN(std::string text, Repr(input, in.heap()));
  return in.String(std::move(text));
}

Result Refused(Interpreter&, const Value&, const Arguments&) {
  return TypeError("is not supported in chat templates");
}

constexpr Filter kFilters[] = {
    {"capitalize", CapitalizeFilter},
    {"center", Center},
    {"e", Escape},
    {"escape", Escape},
    {"forceescape", ForceEscape},
    {"format", FormatFilter},
    {"indent", Indent},
    {"lower", Lower},
    {"pprint", PPrint},
    {"random", Refused},
    {"replace", Replace},
    {"safe", Safe},
    {"string", StringFilter},
    {"striptags", StripTags},
    {"title", Title},
    {"tojson", ToJson},
    {"trim", Trim},
    {"truncate", Truncate},
    {"upper", Upper},
    {"urlencode", UrlEncode},
    {"urlize", Refused},
    {"wordcount", WordCount},
    {"wordwrap", WordWrap},
    {"xmlattr", XmlAttr},
};

}  // namespace

const Filter* FindTextFilter(std::string_view name) {
  for (const Filter& filter : kFilters) {
    if (filter.name == name) return &filter;
  }
  return nullptr;
}

}  // namespace tandem::jinja
