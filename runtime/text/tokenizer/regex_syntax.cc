#include "runtime/text/tokenizer/regex_syntax.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/json_field.h"
#include "kernels/base/status_macros.h"

namespace tandem::tokenizer {
namespace {

// General categories mean the same to both, and so do the binary properties that are listed;
// every other name is looked up as a script.
constexpr std::array<std::string_view, 38> kCategories = {
    "Any", "C",  "Cc", "Cf", "Cn", "Co", "Cs", "L",  "Ll", "Lm", "Lo", "Lt", "Lu",
    "M",   "Mc", "Me", "Mn", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Pe", "Pf",
    "Pi",  "Po", "Ps", "S",  "Sc", "Sk", "Sm", "So", "Z",  "Zl", "Zp", "Zs"};
constexpr std::array<std::string_view, 4> kBinaryProperties = {"Alphabetic", "Lowercase",
                                                               "Uppercase", "White_Space"};
// Oniguruma's word characters.
constexpr std::string_view kWordClass = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
// Escapes that mean the same in and outside classes.
constexpr std::array<std::pair<char, std::string_view>, 5> kEscapes = {{{'s', "\\p{White_Space}"},
                                                                        {'S', "\\P{White_Space}"},
                                                                        {'d', "\\p{Nd}"},
                                                                        {'D', "\\P{Nd}"},
                                                                        {'v', "\\x{0B}"}}};
constexpr int kMaxClassDepth = 20;
// The group openers that both read alike; (?i and (?-i are handled apart.
constexpr std::array<std::string_view, 6> kGroups = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '\\') {
        TANDEM_RETURN_IF_ERROR(Escape(/*in_class=*/false));
      } else if (c == '[') {
        TANDEM_RETURN_IF_ERROR(Class());
      } else if (c == '(') {
        TANDEM_RETURN_IF_ERROR(Group());
      } else if (c == '{') {
        TANDEM_RETURN_IF_ERROR(Interval());
      } else {
        Copy(1);
      }
    }
    return std::move(out_);
  }

 private:
  // A class, or an operand of && in one.
  struct Union {
    std::string flat;                 // as PCRE2 writes it between brackets
    std::string nested;               // likewise, of classes inside
    std::vector<std::string> others;  // patterns of one character each
    bool empty() const { return flat.empty() && nested.empty() && others.empty(); }
    bool is_flat() const { return others.empty(); }
    std::string Flat() const {
      const bool starts_with_sign = flat.starts_with('^') || flat.starts_with('-');
      return absl::StrCat(nested, starts_with_sign ? "\\" : "", flat);
    }
    std::string Pattern() const {
      std::vector<std::string> parts = others;
      if (!flat.empty() || !nested.empty()) parts.insert(parts.begin(), "[" + Flat() + "]");
      return parts.size() == 1 ? parts[0] : absl::StrCat("(?:", absl::StrJoin(parts, "|"), ")");
    }
  };
  struct ParsedClass {
    std::string flat;     // empty: it cannot be written between brackets
    std::string pattern;  // of one character
  };

  bool StartsWith(std::string_view prefix) const { return in_.substr(at_).starts_with(prefix); }

  void Copy(size_t bytes) {
    sink_->append(in_.substr(at_, bytes));
    at_ += bytes;
  }

  void Replace(size_t bytes, std::string_view with) {
    sink_->append(with);
    at_ += bytes;
  }

  absl::Status Refuse(size_t bytes, std::string_view expected) const {
    return absl::InvalidArgumentError(absl::StrCat("found ", json::Quoted(in_.substr(at_, bytes)),
                                                   " at byte ", at_, " of the pattern, expected ",
                                                   std::string(expected)));
  }

  absl::Status Escape(bool in_class) {
    if (at_ + 1 >= in_.size()) return Refuse(1, "a character after the backslash");
    const char c = in_[at_ + 1];
    for (const auto& [letter, with] : kEscapes) {
      if (letter != c) continue;
      Replace(2, with);
      return absl::OkStatus();
    }
    switch (c) {
      case 'w':
      case 'W':
        return Set(in_class, Word(), /*negated=*/c == 'W');
      case 'h':
      case 'H':
        return Set(in_class, "0-9A-Fa-f", /*negated=*/c == 'H');
      case 'b':
        Replace(2, in_class ? std::string("\\b") : Boundary());
        return absl::OkStatus();
      case 'B':
        if (in_class) break;
        Replace(2, absl::StrCat("(?!", Boundary(), ")"));
        return absl::OkStatus();
      case 'R':
        if (in_class) break;
        Replace(2, "(?>\\r\\n|[\\n-\\r\\x{85}\\x{2028}\\x{2029}])");
        return absl::OkStatus();
      case 'p':
      case 'P':
        return Property();
      case 'x':
      case 'u':
        return Hexadecimal();
      case 't':
      case 'n':
      case 'r':
      case 'f':
      case 'a':
      case 'e':
        Copy(2);
        return absl::OkStatus();
      case 'A':
      case 'z':
      case 'Z':
        if (in_class) break;
        Copy(2);
        return absl::OkStatus();
      default:
        break;
    }
    if (absl::ascii_isalnum(c)) return Refuse(2, "an escape that Oniguruma and PCRE2 read alike");
    Copy(2);  // an escaped punctuation mark, or the first byte of a longer character
    return absl::OkStatus();
  }

  static std::string Word() { return std::string(kWordClass); }

  // Between a word character and another one, or an end.
  static std::string Boundary() {
    const std::string word = absl::StrCat("[", Word(), "]");
    return absl::StrCat("(?:(?<=", word, ")(?!", word, ")|(?<!", word, ")(?=", word, "))");
  }

  // Two bytes for what is, or is not, in `flat`. A class cannot hold a complement of several parts.
  absl::Status Set(bool in_class, const std::string& flat, bool negated) {
    if (in_class && negated) {
      union_->others.push_back(absl::StrCat("[^", flat, "]"));
      at_ += 2;
    } else {
      Replace(2, in_class ? flat : absl::StrCat(negated ? "[^" : "[", flat, "]"));
    }
    return absl::OkStatus();
  }

  // \p{Name}, \p{^Name}, \P{Name}
  absl::Status Property() {
    const size_t close = in_.find('}', at_);
    if (at_ + 2 >= in_.size() || in_[at_ + 2] != '{' || close == in_.npos) {
      return Refuse(3, "\\p{NAME}");
    }
    std::string_view name = in_.substr(at_ + 3, close - at_ - 3);
    bool negated = in_[at_ + 1] == 'P';
    if (name.starts_with('^')) {
      negated = !negated;
      name.remove_prefix(1);
    }
    const bool plain = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
      return absl::ascii_isalpha(c) || c == '_';
    });
    if (!plain) return Refuse(close + 1 - at_, "the name of a category, property or script");
    const auto is_in = [name](const auto& names) {
      return std::find(names.begin(), names.end(), name) != names.end();
    };
    const bool is_script = !is_in(kCategories) && !is_in(kBinaryProperties);
    Replace(close + 1 - at_, absl::StrCat(negated ? "\\P{" : "\\p{", is_script ? "sc:" : "",
                                          std::string(name), "}"));
    return absl::OkStatus();
  }

  // \xHH, \x{H...}, \uHHHH
  absl::Status Hexadecimal() {
    size_t begin = at_ + 2;
    const bool braces = in_[at_ + 1] == 'x' && begin < in_.size() && in_[begin] == '{';
    if (braces) ++begin;
    const size_t wanted = braces ? 8 : in_[at_ + 1] == 'x' ? 2 : 4;
    size_t end = begin;
    while (end < in_.size() && end - begin < wanted && absl::ascii_isxdigit(in_[end])) ++end;
    const bool complete =
        braces ? end > begin && end < in_.size() && in_[end] == '}' : end - begin == wanted;
    if (!complete) return Refuse(end - at_, "\\xHH, \\x{H} or \\uHHHH");
    const std::string_view digits = in_.substr(begin, end - begin);
    // Oniguruma takes \x80 and up as raw bytes of the encoding, not as characters.
    if (!braces && wanted == 2 && digits[0] >= '8') return Refuse(4, "\\x{H} for U+0080 and up");
    Replace(end + (braces ? 1 : 0) - at_, absl::StrCat("\\x{", std::string(digits), "}"));
    return absl::OkStatus();
  }

  absl::Status Class() {
    TANDEM_ASSIGN_OR_RETURN(const ParsedClass parsed, ParseClass());
    out_.append(parsed.pattern);
    return absl::OkStatus();
  }

  // From "[" to its "]". PCRE2 has neither classes in classes nor &&: those become patterns of one
  // character that look ahead.
  absl::StatusOr<ParsedClass> ParseClass() {
    if (++class_depth_ > kMaxClassDepth) return Refuse(1, "classes nested less deeply");
    std::string* const outer_sink = sink_;
    Union* const outer_union = union_;
    ++at_;
    const bool negated = StartsWith("^");
    if (negated) ++at_;
    // Here the two differ, or warn and guess.
    if (StartsWith("]")) return Refuse(1, "\\] as the first character of a class");
    std::vector<std::string> operands;  // of &&, but the last
    Union last;
    sink_ = &last.flat;
    union_ = &last;
    while (at_ < in_.size() && in_[at_] != ']') {
      if (StartsWith("[:")) return Refuse(2, "\\p{NAME} in place of a bracket [:name:]");
      if (in_[at_] == '[') {
        TANDEM_ASSIGN_OR_RETURN(ParsedClass inner, ParseClass());
        if (CanJoin(inner.flat)) {
          last.nested += inner.flat;
        } else {
          last.others.push_back(std::move(inner.pattern));
        }
      } else if (StartsWith("&&")) {
        if (last.empty()) return Refuse(2, "a class before &&");
        operands.push_back(last.Pattern());
        last = Union();
        at_ += 2;
      } else if (in_[at_] == '\\') {
        TANDEM_RETURN_IF_ERROR(Escape(/*in_class=*/true));
      } else {
        Copy(1);
      }
    }
    if (at_ == in_.size()) return Refuse(0, "] at the end of the class");
    if (last.empty()) return Refuse(1, "a class that is not empty");
    ++at_;
    sink_ = outer_sink;
    union_ = outer_union;
    --class_depth_;
    return Finish(operands, last, negated);
  }

  // Between brackets, after and before others.
  static bool CanJoin(std::string_view flat) {
    return !flat.empty() && !flat.starts_with('^') && !flat.starts_with('-') &&
           !flat.ends_with('-');
  }

  static ParsedClass Finish(const std::vector<std::string>& operands, const Union& last,
                            bool negated) {
    if (operands.empty() && last.is_flat()) {
      if (negated) return {"", absl::StrCat("[^", last.Flat(), "]")};
      return {last.Flat(), absl::StrCat("[", last.Flat(), "]")};
    }
    std::string pattern = last.Pattern();
    if (!operands.empty()) {
      pattern = absl::StrCat("(?:(?=", absl::StrJoin(operands, ")(?="), ")", pattern, ")");
    }
    if (negated) pattern = absl::StrCat("(?:(?!", pattern, ")(?s:.))");
    return {"", std::move(pattern)};
  }

  absl::Status Group() {
    if (StartsWith("(*")) return Refuse(2, "no verbs");
    if (!StartsWith("(?")) {
      Copy(1);
      return absl::OkStatus();
    }
    for (const std::string_view opener : kGroups) {
      if (!StartsWith(opener)) continue;
      Copy(opener.size());
      return absl::OkStatus();
    }
    for (const std::string_view opener : {"(?i:", "(?-i:"}) {
      if (!StartsWith(opener)) continue;
      Copy(opener.size());
      return absl::OkStatus();
    }
    for (const std::string_view opener : {"(?i)", "(?-i)"}) {
      if (!StartsWith(opener)) continue;
      // To Oniguruma a|(?i)b|c is a|(?i:b|c): what follows is one group, which would change how
      // an alternative to the left is read. Only at the very start do the two agree.
      if (at_ != 0) return Refuse(opener.size(), "(?i) at the start of the pattern only");
      Copy(opener.size());
      return absl::OkStatus();
    }
    return Refuse(3, "one of ( (?: (?= (?! (?<= (?<! (?> (?i: (?-i:");
  }

  // {n}, {n,}, {n,m}; anything else that begins with a brace is a literal to both.
  absl::Status Interval() {
    const auto digits = [this](size_t from) {
      size_t end = from;
      while (end < in_.size() && absl::ascii_isdigit(in_[end])) ++end;
      return end;
    };
    const size_t low_end = digits(at_ + 1);
    size_t end = low_end;
    const bool has_comma = end < in_.size() && in_[end] == ',';
    if (has_comma) end = digits(end + 1);
    const bool closed = end < in_.size() && in_[end] == '}';
    if (low_end == at_ + 1) {
      if (has_comma && closed && end > low_end + 1) return Refuse(end + 1 - at_, "{0,n}");
      Copy(1);
      return absl::OkStatus();
    }
    if (!closed) {
      Copy(1);
      return absl::OkStatus();
    }
    Copy(end + 1 - at_);
    if (StartsWith("+") || (StartsWith("?") && !has_comma)) {
      // Possessive and lazy to PCRE2; to Oniguruma a second repeat.
      return Refuse(1, "no + or ? after {n}");
    }
    return absl::OkStatus();
  }

  std::string_view in_;
  size_t at_ = 0;
  std::string out_;
  std::string* sink_ = &out_;  // where what is read goes: the pattern, or the class
  Union* union_ = nullptr;     // of that class
  int class_depth_ = 0;
};

}  // namespace

absl::StatusOr<std::string> ToPcre2(std::string_view pattern) { return Translator(pattern).Run(); }

}  // namespace tandem::tokenizer
