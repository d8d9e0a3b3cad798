#include "runtime/text/jinja/globals.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/time.h"
#include "runtime/text/jinja/interpreter.h"

namespace tandem::jinja {
namespace {

using Result = absl::StatusOr<Value>;
using Function = Result (*)(Interpreter&, const Arguments&);

struct GlobalObject : FunctionObject {
  GlobalObject(Heap* heap, std::string_view name, Function function)
      : FunctionObject(heap), name(name), function(function) {}
  Result Call(Interpreter& interpreter, const Arguments& arguments) override {
    return function(interpreter, arguments);
  }
  std::string Describe() const override {
    return absl::StrCat("<function ", std::string(name), ">");
  }
  const std::string_view name;
  const Function function;
};

constexpr Int kMaxRange = 100000;  // the sandbox's own bound

Result Range(Interpreter& in, const Arguments& args) {
  if (!args.named.empty()) return TypeError("range() takes no keyword arguments");
  if (args.positional.empty() || args.positional.size() > 3) {
    return TypeError("range() takes 1 to 3 arguments");
  }
  Int parts[3] = {0, 0, 1};
  for (size_t i = 0; i < args.positional.size(); ++i) {
    JINJA_ASSIGN(parts[i], IntArgument(args.positional[i]));
    if (parts[i] > (Int{1} << 100) || parts[i] < -(Int{1} << 100)) {
      return TypeError("range() argument is too large");
    }
  }
  if (args.positional.size() == 1) std::swap(parts[0], parts[1]);
  if (parts[2] == 0) return TypeError("range() arg 3 must not be zero");
  Value range = in.heap().Make<RangeObject>(Kind::kRange, parts[0], parts[1], parts[2]);
  if (range.as<RangeObject>().size() > kMaxRange) {
    return TypeError(absl::StrCat("range is too big: more than ", IntToString(kMaxRange)));
  }
  return range;
}

// dict(...) and the attributes of namespace(...): a mapping or pairs, then keywords.
absl::Status FillDict(Interpreter& in, const Arguments& args, DictObject* dict) {
  if (args.positional.size() > 1) return TypeError("dict expected at most 1 argument");
  if (!args.positional.empty()) {
    const Value& source = args.positional[0];
    if (source.is(Kind::kDict)) {
      JINJA_RETURN_IF_ERROR(in.Step(source.dict().entries.size()));
      for (const auto& [key, value] : source.dict().entries) dict->Set(key, value);
    } else {
      JINJA_ASSIGN(const Values pairs, in.ToValues(source));
      for (const Value& pair : pairs) {
        JINJA_ASSIGN(const Values parts, in.ToValues(pair));
        if (parts.size() != 2) return TypeError("dict needs pairs of key and value");
        if (!IsHashable(parts[0])) return TypeError("unhashable key");
        dict->Set(parts[0], parts[1]);
      }
    }
  }
  for (const auto& [name, value] : args.named) dict->Set(in.String(name), value);
  return absl::OkStatus();
}

Result Dict(Interpreter& in, const Arguments& args) {
  Value dict = in.heap().Make<DictObject>(Kind::kDict);
  JINJA_RETURN_IF_ERROR(FillDict(in, args, &dict.as<DictObject>()));
  return dict;
}

Result Namespace(Interpreter& in, const Arguments& args) {
  JINJA_ASSIGN(const Value dict, Dict(in, args));
  Value space = in.heap().Namespace();
  auto& attributes = space.as<NamespaceObject>().attributes;
  for (const auto& [key, value] : dict.dict().entries) {
    if (key.is_string()) attributes.emplace_back(key.string(), value);
  }
  return space;
}

Result Cycler(Interpreter& in, const Arguments& args) {
  if (!args.named.empty()) return TypeError("cycler() takes no keyword arguments");
  if (args.positional.empty()) return TypeError("at least one item has to be provided");
  return in.heap().Make<CyclerObject>(Kind::kCycler, args.positional);
}

Result Joiner(Interpreter& in, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("joiner", args, {"sep"}, 0));
  return in.heap().Make<JoinerObject>(Kind::kJoiner,
                                      bound[0] != nullptr ? *bound[0] : in.String(", "));
}

Result Lipsum(Interpreter&, const Arguments&) {
  return TypeError("lipsum() is not supported: its text is random");
}

Result RaiseException(Interpreter& in, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("raise_exception", args, {"message"}, 1));
  JINJA_ASSIGN(const std::string message, in.Str(*bound[0]));
  return MakeRaised(message);
}

Result StrftimeNow(Interpreter& in, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("strftime_now", args, {"format"}, 1));
  if (!bound[0]->is_string()) return TypeError("strftime_now() needs a str");
  const std::string& format = bound[0]->string();
  if (format.size() > 4096) return TypeError("strftime_now(): the format is too long");
  std::string plain;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] == '%' && i + 1 < format.size()) {
      const char directive = format[++i];
      if (directive == 'f') {
        const int64_t micros = absl::ToUnixMicros(in.options().now) % 1'000'000;
        std::string digits = absl::StrCat(micros < 0 ? micros + 1'000'000 : micros);
        plain += std::string(6 - digits.size(), '0') + digits;
      } else if (directive == 'E') {
        plain += "%%E";  // has a meaning of its own in the library used here
      } else {
        plain += {'%', directive};
      }
    } else {
      plain += format[i];
    }
  }
  return in.String(absl::FormatTime(plain, in.options().now, in.options().time_zone));
}

constexpr std::pair<std::string_view, Function> kGlobals[] = {
    {"range", Range},
    {"dict", Dict},
    {"namespace", Namespace},
    {"cycler", Cycler},
    {"joiner", Joiner},
    {"lipsum", Lipsum},
    {"raise_exception", RaiseException},
    {"strftime_now", StrftimeNow},
};

}  // namespace

Value FindGlobal(Heap& heap, std::string_view name) {
  for (const auto& [key, function] : kGlobals) {
    if (key == name) return heap.Make<GlobalObject>(Kind::kFunction, key, function);
  }
  return Value();
}

}  // namespace tandem::jinja
