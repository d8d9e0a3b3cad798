#include "runtime/server/answer_text.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace tandem::server {
namespace {

// Length of the longest end of `text` that begins `stop` without being all of it.
size_t Overlap(std::string_view text, std::string_view stop) {
  for (size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n) {
    if (text.substr(text.size() - n) == stop.substr(0, n)) return n;
  }
  return 0;
}

// `held` as a stop text sees it, and where each of its bytes stands in `held`.
struct Seen {
  std::string text;
  std::vector<size_t> places;
  size_t PlaceOf(size_t at, size_t end) const { return at < places.size() ? places[at] : end; }
};

Seen Visible(const std::string& held, const std::vector<bool>& hidden) {
  Seen seen;
  for (size_t i = 0; i < held.size(); ++i) {
    if (hidden[i]) continue;
    seen.text.push_back(held[i]);
    seen.places.push_back(i);
  }
  return seen;
}

}  // namespace

AnswerText::AnswerText(const tokenizer::Tokenizer& tokenizer, StopTexts stops)
    : tokenizer_(tokenizer),
      decoder_(tokenizer, stops.skip_special_tokens),
      stops_(std::move(stops)) {
  for (const std::string& stop : stops_.texts) {
    sees_special_.push_back(NamesASpecialToken(stop));
    any_sees_special_ = any_sees_special_ || sees_special_.back();
  }
}

bool AnswerText::NamesASpecialToken(const std::string& stop) const {
  for (const tokenizer::AddedToken& token : tokenizer_.added_tokens()) {
    if (token.special && stop.find(token.content) != std::string::npos) return true;
  }
  return false;
}

void AnswerText::Append(std::span<const int32_t> ids, std::string* out) {
  for (const int32_t id : ids) {
    if (stopped_by_.has_value()) return;
    ++tokens_;
    const bool searches = tokens_ > stops_.min_tokens;
    if (searches && any_sees_special_ && stops_.skip_special_tokens && tokenizer_.IsSpecial(id)) {
      hidden_.resize(held_.size());
      held_.append(tokenizer_.SpellingOf(id));
      hidden_.resize(held_.size(), true);
      Release(out);
      continue;
    }
    // A model may have more logits than its tokenizer has tokens; such an id has no text.
    const absl::StatusOr<std::string> text = decoder_.Append(id);
    if (!text.ok() || text->empty()) continue;
    if (!searches) {
      out->append(*text);
      continue;
    }
    held_.append(*text);
    Release(out);
  }
}

void AnswerText::Flush(std::string* out) {
  if (stopped_by_.has_value()) return;
  const std::string rest = decoder_.Flush();
  if (tokens_ <= stops_.min_tokens) {
    out->append(rest);
    return;
  }
  held_.append(rest);
  Release(out);
  ReleaseFirst(held_.size(), out);
}

void AnswerText::ReleaseFirst(size_t size, std::string* out) {
  if (hidden_.empty()) {
    out->append(held_, 0, size);
  } else {
    for (size_t i = 0; i < size; ++i) {
      if (!hidden_[i]) out->push_back(held_[i]);
    }
    hidden_.erase(hidden_.begin(), hidden_.begin() + static_cast<std::ptrdiff_t>(size));
  }
  held_.erase(0, size);
}

void AnswerText::Release(std::string* out) {
  Seen visible;
  if (!hidden_.empty()) {
    hidden_.resize(held_.size());
    visible = Visible(held_, hidden_);
  }
  size_t begin = std::string::npos;  // of the first stop text
  const std::string* found = nullptr;
  size_t keep = held_.size();  // from here on something may become a stop text
  for (size_t i = 0; i < stops_.texts.size(); ++i) {
    const std::string& stop = stops_.texts[i];
    const bool whole = hidden_.empty() || sees_special_[i];
    const std::string& text = whole ? held_ : visible.text;
    const auto place = [&](size_t at) { return whole ? at : visible.PlaceOf(at, held_.size()); };
    if (const size_t at = text.find(stop); at != std::string::npos && place(at) < begin) {
      begin = place(at);
      found = &stop;
    }
    keep = std::min(keep, place(text.size() - Overlap(text, stop)));
  }
  if (found == nullptr) {
    ReleaseFirst(keep, out);
    return;
  }
  stopped_by_ = *found;
  ReleaseFirst(begin, out);
  // Kept whole, with the special tokens in it; of others that stand within nothing.
  if (stops_.include) out->append(*found);
  held_.clear();
  hidden_.clear();
}

}  // namespace tandem::server
