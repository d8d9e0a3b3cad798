#include "runtime/server/answer_text.h"

#include <algorithm>
#include <string_view>

namespace tandem::server {
namespace {

// Length of the longest end of `text` that begins `stop` without being all of it.
size_t Overlap(std::string_view text, std::string_view stop) {
  for (size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n) {
    if (text.substr(text.size() - n) == stop.substr(0, n)) return n;
  }
  return 0;
}

}  // namespace

void AnswerText::Append(std::span<const int32_t> ids, std::string* out) {
  for (const int32_t id : ids) {
    if (stopped_by_.has_value()) return;
    ++tokens_;
    // A model may have more logits than its tokenizer has tokens; such an id has no text.
    const absl::StatusOr<std::string> text = decoder_.Append(id);
    if (!text.ok() || text->empty()) continue;
    if (tokens_ <= stops_.min_tokens) {
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
  out->append(held_);
  held_.clear();
}

void AnswerText::Release(std::string* out) {
  size_t begin = std::string::npos;
  const std::string* found = nullptr;
  size_t hold = 0;
  for (const std::string& stop : stops_.texts) {
    const size_t at = held_.find(stop);
    if (at < begin) {
      begin = at;
      found = &stop;
    }
    hold = std::max(hold, Overlap(held_, stop));
  }
  if (found != nullptr) {
    stopped_by_ = *found;
    out->append(held_, 0, begin + (stops_.include ? found->size() : 0));
    held_.clear();
    return;
  }
  out->append(held_, 0, held_.size() - hold);
  held_.erase(0, held_.size() - hold);
}

}  // namespace tandem::server
