#include "kernels/base/json.h"

#include <algorithm>
#include <cstddef>
#include <exception>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace tandem::json {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxQuotedBytes = 64;
constexpr size_t kMaxDetailBytes = 200;

absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }

// Printable and short, whatever the file holds.
std::string Quoted(std::string_view text) {
  const bool cut = text.size() > kMaxQuotedBytes;
  return absl::StrCat("\"", absl::CHexEscape(ToAbsl(text.substr(0, kMaxQuotedBytes))),
                      cut ? "...\"" : "\"");
}

// Reads chars and notes how far the parser has come: the SAX interface gives a position with
// syntax errors only.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, const char** reached) : at_(at), reached_(reached) {}
  const char& operator*() const { return *at_; }
  CountingIterator& operator++() {
    *reached_ = ++at_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator old = *this;
    ++*this;
    return old;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** reached_;
};

// Builds the DOM. `open_` points into `root_`: containers grow only at the innermost open one,
// so the addresses of the others stay.
class DomBuilder {
 public:
  DomBuilder(const char* begin, const char* const* reached, int max_depth)
      : begin_(begin), reached_(reached), max_depth_(max_depth) {}

  bool null() { return Add(nullptr); }
  bool boolean(bool value) { return Add(value); }
  bool number_integer(Json::number_integer_t value) { return Add(value); }
  bool number_unsigned(Json::number_unsigned_t value) { return Add(value); }
  bool number_float(Json::number_float_t value, const std::string&) { return Add(value); }
  bool string(std::string& value) { return Add(std::move(value)); }
  bool binary(Json::binary_t&) { return Fail("binary value"); }
  bool start_object(size_t) { return Open(Json::value_t::object); }
  bool start_array(size_t) { return Open(Json::value_t::array); }
  bool end_object() { return Close(); }
  bool end_array() { return Close(); }

  bool key(std::string& name) {
    auto [entry, is_new] =
        open_.back()->get_ref<Json::object_t&>().try_emplace(std::move(name), nullptr);
    if (!is_new) return Fail(absl::StrCat("key ", Quoted(entry->first), " appears twice"));
    slot_ = &entry->second;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) {
    // "[json.exception...] parse error at line L, column C: WHAT; last read: '...'; expected E".
    // What was read is left out: it is of any length and need not be UTF-8.
    const std::string_view full = error.what();
    std::string_view what = full;
    for (const std::string_view start : {"] ", "column ", ": "}) {
      if (const size_t at = what.find(start); at != what.npos)
        what.remove_prefix(at + start.size());
    }
    what = what.substr(
        0, std::min({what.find("; last read"), what.find("; expected "), kMaxDetailBytes}));
    std::string_view expected;
    if (const size_t at = full.rfind("; expected "); at != full.npos) expected = full.substr(at);
    const auto printable = [](unsigned char c) { return c >= 0x20 && c < 0x7f; };
    if (expected.size() > kMaxDetailBytes ||
        !std::all_of(expected.begin(), expected.end(), printable)) {
      expected = {};  // the end of what was read, not nlohmann's words
    }
    message_ = absl::StrCat("byte ", position == 0 ? 0 : position - 1, ": ", ToAbsl(what),
                            ToAbsl(expected));
    return false;
  }

  Json TakeRoot() { return std::move(root_); }
  const std::string& message() const { return message_; }

 private:
  bool Fail(const std::string& what) {
    const std::ptrdiff_t offset = *reached_ - begin_;
    message_ = absl::StrCat("byte ", offset > 0 ? offset - 1 : 0, ": ", what);
    return false;
  }

  template <typename T>
  Json* Place(T&& value) {
    if (open_.empty()) return &(root_ = Json(std::forward<T>(value)));
    if (open_.back()->is_array()) {
      return &open_.back()->get_ref<Json::array_t&>().emplace_back(std::forward<T>(value));
    }
    return &(*slot_ = Json(std::forward<T>(value)));
  }

  template <typename T>
  bool Add(T&& value) {
    Place(std::forward<T>(value));
    return true;
  }

  bool Open(Json::value_t kind) {
    if (static_cast<int>(open_.size()) >= max_depth_) {
      return Fail(absl::StrCat("nested deeper than ", max_depth_, " levels"));
    }
    open_.push_back(Place(kind));
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  const char* begin_;
  const char* const* reached_;
  int max_depth_;
  Json root_;
  Json* slot_ = nullptr;     // where the value after the last key goes
  std::vector<Json*> open_;  // outermost first
  std::string message_;
};

// Follows `path` from the outermost object on and collects the last one's keys.
class KeyCollector {
 public:
  explicit KeyCollector(std::initializer_list<std::string_view> path) : path_(path) {}

  bool null() { return Skip(); }
  bool boolean(bool) { return Skip(); }
  bool number_integer(Json::number_integer_t) { return Skip(); }
  bool number_unsigned(Json::number_unsigned_t) { return Skip(); }
  bool number_float(Json::number_float_t, const std::string&) { return Skip(); }
  bool string(std::string&) { return Skip(); }
  bool binary(Json::binary_t&) { return Skip(); }
  bool start_array(size_t) {
    ++depth_;
    return Skip();
  }
  bool end_array() { return Leave(); }
  bool start_object(size_t) {
    ++depth_;
    if (std::exchange(on_path_, false)) ++followed_;
    return true;
  }
  // False ends the parse: the object is complete, and no other has its path.
  bool end_object() { return Leave() && depth_ >= followed_; }
  bool key(std::string& name) {
    if (depth_ != followed_) return true;
    if (followed_ > path_.size()) {
      keys_.push_back(std::move(name));
    } else {
      on_path_ = name == path_[followed_ - 1];
    }
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) { return false; }

  std::vector<std::string> TakeKeys() { return std::move(keys_); }

 private:
  bool Skip() {
    on_path_ = false;
    return true;
  }
  bool Leave() {
    --depth_;
    return true;
  }

  const std::vector<std::string_view> path_;
  size_t depth_ = 0;     // of open containers
  size_t followed_ = 0;  // of them, objects on the path
  bool on_path_ = true;  // whether the next value is the next object on it
  std::vector<std::string> keys_;
};

}  // namespace

std::vector<std::string> KeysInOrder(std::string_view text,
                                     std::initializer_list<std::string_view> path) {
  KeyCollector collector(path);
  Json::sax_parse(text.begin(), text.end(), &collector);
  return collector.TakeKeys();
}

absl::StatusOr<nlohmann::json> Parse(std::string_view text, std::string_view name, int max_depth) {
  const char* reached = text.data();
  DomBuilder builder(text.data(), &reached, max_depth);
  try {
    const char* end = text.data() + text.size();
    if (Json::sax_parse(CountingIterator(text.data(), &reached), CountingIterator(end, &reached),
                        &builder)) {
      // nlohmann takes a NUL for the end and looks no further. JSON has none, not even in strings.
      const size_t nul = text.find('\0');
      if (nul == text.npos) return builder.TakeRoot();
      return absl::InvalidArgumentError(absl::StrCat(
          ToAbsl(name), ": byte ", nul, ": found a NUL, expected the end of the text"));
    }
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat(ToAbsl(name), ": out of memory while parsing JSON"));
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(ToAbsl(name), ": ", error.what()));
  }
  return absl::InvalidArgumentError(absl::StrCat(ToAbsl(name), ": ", builder.message()));
}

}  // namespace tandem::json
