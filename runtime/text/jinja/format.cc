#include "runtime/text/jinja/format.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/unicode.h"

namespace tandem::jinja {
namespace {

constexpr int kMaxDepth = 200;

absl::Status TooDeep() { return absl::InvalidArgumentError("value is nested too deeply"); }

void AppendHex(uint32_t code, int digits, std::string* out) {
  for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) {
    out->push_back("0123456789abcdef"[(code >> shift) & 15]);
  }
}

void AppendStringRepr(std::string_view text, std::string* out) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const bool has_double = text.find('"') != std::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  out->push_back(quote);
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t c = DecodeUtf8(text, &pos);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out->push_back('\\');
      out->push_back(static_cast<char>(c));
    } else if (c == '\n') {
      *out += "\\n";
    } else if (c == '\r') {
      *out += "\\r";
    } else if (c == '\t') {
      *out += "\\t";
    } else if (c >= ' ' && c < 0x7F) {
      out->push_back(static_cast<char>(c));
    } else if (c >= 0x80 && IsPrintable(c)) {
      out->append(text.substr(begin, pos - begin));
    } else if (c < 0x100) {
      *out += "\\x";
      AppendHex(c, 2, out);
    } else if (c < 0x10000) {
      *out += "\\u";
      AppendHex(c, 4, out);
    } else {
      *out += "\\U";
      AppendHex(c, 8, out);
    }
  }
  out->push_back(quote);
}

absl::Status AppendItems(const Values& items, const Heap& heap, std::string* out, int depth) {
  bool first = true;
  for (const Value& item : items) {
    if (!first) *out += ", ";
    first = false;
    JINJA_RETURN_IF_ERROR(AppendRepr(item, heap, out, depth + 1));
  }
  return absl::OkStatus();
}

absl::Status AppendDict(const DictObject& dict, const Heap& heap, std::string* out, int depth) {
  out->push_back('{');
  bool first = true;
  for (const auto& [key, value] : dict.entries) {
    if (!first) *out += ", ";
    first = false;
    JINJA_RETURN_IF_ERROR(AppendRepr(key, heap, out, depth + 1));
    *out += ": ";
    JINJA_RETURN_IF_ERROR(AppendRepr(value, heap, out, depth + 1));
  }
  out->push_back('}');
  return absl::OkStatus();
}

absl::Status AppendView(const ViewObject& view, const Heap& heap, std::string* out, int depth) {
  *out += view.view == ViewKind::kKeys     ? "dict_keys(["
          : view.view == ViewKind::kValues ? "dict_values(["
                                           : "dict_items([";
  bool first = true;
  for (const auto& [key, value] : view.dict.dict().entries) {
    if (!first) *out += ", ";
    first = false;
    if (view.view == ViewKind::kItems) out->push_back('(');
    if (view.view != ViewKind::kValues) {
      JINJA_RETURN_IF_ERROR(AppendRepr(key, heap, out, depth + 1));
    }
    if (view.view == ViewKind::kItems) *out += ", ";
    if (view.view != ViewKind::kKeys) {
      JINJA_RETURN_IF_ERROR(AppendRepr(value, heap, out, depth + 1));
    }
    if (view.view == ViewKind::kItems) out->push_back(')');
  }
  *out += "])";
  return absl::OkStatus();
}

absl::Status AppendNamespace(const NamespaceObject& space, const Heap& heap, std::string* out,
                             int depth) {
  *out += "<Namespace {";
  if (depth > 0) {  // it may hold itself
    *out += "...";
  } else {
    bool first = true;
    for (const auto& [name, value] : space.attributes) {
      if (!first) *out += ", ";
      first = false;
      AppendStringRepr(name, out);
      *out += ": ";
      JINJA_RETURN_IF_ERROR(AppendRepr(value, heap, out, depth + 1));
    }
  }
  *out += "}>";
  return absl::OkStatus();
}

}  // namespace

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  const std::string_view text(buffer, static_cast<size_t>(end - buffer));
  const size_t e = text.find('e');
  std::string digits;
  std::string out;
  for (char c : text.substr(0, e)) {
    if (c == '-') {
      out.push_back('-');
    } else if (c != '.') {
      digits.push_back(c);
    }
  }
  int exponent = 0;
  const std::string_view exponent_text = text.substr(text[e + 1] == '+' ? e + 2 : e + 1);
  std::from_chars(exponent_text.data(), exponent_text.data() + exponent_text.size(), exponent);
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (digits.size() > 1) absl::StrAppend(&out, ".", digits.substr(1));
    absl::StrAppend(&out, exponent < 0 ? "e-" : "e+", std::abs(exponent) < 10 ? "0" : "",
                    std::abs(exponent));
    return out;
  }
  if (exponent < 0) {
    absl::StrAppend(&out, "0.", std::string(static_cast<size_t>(-exponent - 1), '0'), digits);
    return out;
  }
  const size_t whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) {
    absl::StrAppend(&out, digits, std::string(whole - digits.size(), '0'), ".0");
  } else {
    absl::StrAppend(&out, digits.substr(0, whole), ".", digits.substr(whole));
  }
  return out;
}

std::string FloatFixed(double value, int precision) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::string out(static_cast<size_t>(precision) + 400, '\0');
  const auto result = std::to_chars(out.data(), out.data() + out.size(), value,
                                    std::chars_format::fixed, precision);
  out.resize(static_cast<size_t>(result.ptr - out.data()));
  return out;
}

absl::Status AppendRepr(const Value& value, const Heap& heap, std::string* out, int depth) {
  if (depth > kMaxDepth) return TooDeep();
  if (out->size() > 4096) JINJA_RETURN_IF_ERROR(heap.Check(out->size()));
  switch (value.kind()) {
    case Kind::kUndefined:
      *out += "Undefined";
      return absl::OkStatus();
    case Kind::kNone:
      *out += "None";
      return absl::OkStatus();
    case Kind::kBool:
      *out += value.bool_value() ? "True" : "False";
      return absl::OkStatus();
    case Kind::kInt:
      *out += IntToString(value.int_value());
      return absl::OkStatus();
    case Kind::kFloat:
      *out += FloatRepr(value.float_value());
      return absl::OkStatus();
    case Kind::kString:
      if (value.is_markup()) *out += "Markup(";
      AppendStringRepr(value.string(), out);
      if (value.is_markup()) *out += ")";
      return absl::OkStatus();
    case Kind::kList:
      *out += "[";
      JINJA_RETURN_IF_ERROR(AppendItems(value.items(), heap, out, depth));
      *out += "]";
      return absl::OkStatus();
    case Kind::kTuple:
      *out += "(";
      JINJA_RETURN_IF_ERROR(AppendItems(value.items(), heap, out, depth));
      *out += value.items().size() == 1 ? ",)" : ")";
      return absl::OkStatus();
    case Kind::kDict:
      return AppendDict(value.dict(), heap, out, depth);
    case Kind::kRange: {
      const auto& range = value.as<RangeObject>();
      absl::StrAppend(out, "range(", IntToString(range.start), ", ", IntToString(range.stop));
      if (range.step != 1) absl::StrAppend(out, ", ", IntToString(range.step));
      *out += ")";
      return absl::OkStatus();
    }
    case Kind::kView:
      return AppendView(value.as<ViewObject>(), heap, out, depth);
    case Kind::kNamespace:
      return AppendNamespace(value.as<NamespaceObject>(), heap, out, depth);
    case Kind::kFunction:
      *out += value.as<FunctionObject>().Describe();
      return absl::OkStatus();
    case Kind::kIterator:
    case Kind::kLoop:
    case Kind::kCycler:
    case Kind::kJoiner:
      absl::StrAppend(out, "<", std::string(TypeName(value)), " object>");
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Repr(const Value& value, const Heap& heap) {
  std::string out;
  JINJA_RETURN_IF_ERROR(AppendRepr(value, heap, &out));
  return out;
}

absl::StatusOr<std::string> Str(const Value& value, const Heap& heap) {
  if (value.is_string()) return value.string();
  if (value.is_undefined()) return std::string();
  return Repr(value, heap);
}

namespace {

void AppendJsonString(std::string_view text, bool ensure_ascii, std::string* out) {
  out->push_back('"');
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t c = DecodeUtf8(text, &pos);
    const std::string_view kEscaped = "\"\\\n\r\t\f\b";
    const size_t escaped = c < 0x80 ? kEscaped.find(static_cast<char>(c)) : std::string_view::npos;
    if (escaped != std::string_view::npos) {
      out->push_back('\\');
      out->push_back("\"\\nrtfb"[escaped]);
    } else if (c < 0x20 || (ensure_ascii && c >= 0x7F && c < 0x10000)) {
      *out += "\\u";
      AppendHex(c, 4, out);
    } else if (ensure_ascii && c >= 0x10000) {
      *out += "\\u";
      AppendHex(0xD800 + ((c - 0x10000) >> 10), 4, out);
      *out += "\\u";
      AppendHex(0xDC00 + ((c - 0x10000) & 0x3FF), 4, out);
    } else {
      out->append(text.substr(begin, pos - begin));
    }
  }
  out->push_back('"');
}

std::string JsonFloat(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return FloatRepr(value);
}

class JsonWriter {
 public:
  JsonWriter(const JsonOptions& options, const Heap& heap, std::string* out)
      : options_(options), heap_(heap), out_(out) {}

  absl::Status Write(const Value& value, int depth) {
    if (depth > kMaxDepth) return TooDeep();
    if (out_->size() > 4096) JINJA_RETURN_IF_ERROR(heap_.Check(out_->size()));
    switch (value.kind()) {
      case Kind::kNone:
        *out_ += "null";
        return absl::OkStatus();
      case Kind::kBool:
        *out_ += value.bool_value() ? "true" : "false";
        return absl::OkStatus();
      case Kind::kInt:
        *out_ += IntToString(value.int_value());
        return absl::OkStatus();
      case Kind::kFloat:
        *out_ += JsonFloat(value.float_value());
        return absl::OkStatus();
      case Kind::kString:
        AppendJsonString(value.string(), options_.ensure_ascii, out_);
        return absl::OkStatus();
      case Kind::kList:
      case Kind::kTuple:
        return WriteArray(value.items(), depth);
      case Kind::kDict:
        return WriteObject(value.dict(), depth);
      default:
        return TypeError(absl::StrCat("object of type '", std::string(TypeName(value)),
                                      "' is not JSON serializable"));
    }
  }

 private:
  void NewLine(int depth) {
    if (!options_.indent.has_value()) return;
    out_->push_back('\n');
    for (int i = 0; i < depth; ++i) *out_ += *options_.indent;
  }

  absl::Status WriteArray(const Values& items, int depth) {
    if (items.empty()) {
      *out_ += "[]";
      return absl::OkStatus();
    }
    out_->push_back('[');
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) *out_ += options_.item_separator;
      NewLine(depth + 1);
      JINJA_RETURN_IF_ERROR(Write(items[i], depth + 1));
    }
    NewLine(depth);
    out_->push_back(']');
    return absl::OkStatus();
  }

  absl::Status WriteKey(const Value& key) {
    switch (key.kind()) {
      case Kind::kString:
        AppendJsonString(key.string(), options_.ensure_ascii, out_);
        return absl::OkStatus();
      case Kind::kNone:
      case Kind::kBool:
      case Kind::kInt:
      case Kind::kFloat:
        out_->push_back('"');
        JINJA_RETURN_IF_ERROR(Write(key, 0));
        out_->push_back('"');
        return absl::OkStatus();
      default:
        return TypeError(absl::StrCat("keys must be str, int, float, bool or None, not ",
                                      std::string(TypeName(key))));
    }
  }

  absl::Status WriteObject(const DictObject& dict, int depth) {
    if (dict.entries.empty()) {
      *out_ += "{}";
      return absl::OkStatus();
    }
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (options_.sort_keys) {
      for (const auto* entry : entries) {
        if (!entry->first.is_string() && entries.size() > 1 &&
            !(entry->first.is_number() && entries[0]->first.is_number())) {
          return TypeError("keys of unlike types have no order");
        }
        if (entry->first.is_string() != entries[0]->first.is_string()) {
          return TypeError("keys of unlike types have no order");
        }
      }
      std::stable_sort(entries.begin(), entries.end(), [](const auto* a, const auto* b) {
        if (a->first.is_string()) return a->first.string() < b->first.string();
        return a->first.number() < b->first.number();
      });
    }
    out_->push_back('{');
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) *out_ += options_.item_separator;
      NewLine(depth + 1);
      JINJA_RETURN_IF_ERROR(WriteKey(entries[i]->first));
      *out_ += options_.key_separator;
      JINJA_RETURN_IF_ERROR(Write(entries[i]->second, depth + 1));
    }
    NewLine(depth);
    out_->push_back('}');
    return absl::OkStatus();
  }

  const JsonOptions& options_;
  const Heap& heap_;
  std::string* const out_;
};

}  // namespace

absl::StatusOr<std::string> JsonDumps(const Value& value, const JsonOptions& options,
                                      const Heap& heap) {
  std::string out;
  JINJA_RETURN_IF_ERROR(JsonWriter(options, heap, &out).Write(value, 0));
  return out;
}

std::string EscapeHtml(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out.push_back(c);
    }
  }
  return out;
}

}  // namespace tandem::jinja
