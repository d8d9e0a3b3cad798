#include "runtime/engine/sequence.h"

#include "kernels/base/check.h"
#include "runtime/engine/block_manager.h"
#include "runtime/model/step_input.h"

namespace tandem::engine {

Sequence::Sequence(RequestId request, int32_t choice, uint64_t arrival,
                   std::span<const int32_t> prompt_ids, int32_t max_total_tokens)
    : request_(request),
      choice_(choice),
      arrival_(arrival),
      prompt_tokens_(static_cast<int32_t>(prompt_ids.size())),
      max_total_tokens_(max_total_tokens),
      num_tokens_(prompt_tokens_),
      tokens_(prompt_ids.begin(), prompt_ids.end()) {
  TANDEM_CHECK(!prompt_ids.empty() && max_total_tokens > prompt_tokens_);
}

int32_t Sequence::num_shareable_tokens() const {
  return (prompt_tokens_ - 1) / model::kBlockSize * model::kBlockSize;
}

void Sequence::Append(int32_t token_id) {
  TANDEM_CHECK(num_tokens() < max_total_tokens_);
  if (num_drafts() > 0 && tokens_[num_tokens_] == token_id) {
    ++num_tokens_;
    return;
  }
  KeepDrafts(0);
  tokens_.push_back(token_id);
  ++num_tokens_;
}

void Sequence::KeepDrafts(int32_t count) {
  if (num_drafts() > count) tokens_.resize(num_tokens_ + count);
}

void Sequence::Reserve() {
  tokens_.reserve(max_total_tokens_);
  block_table.reserve(BlocksFor(max_total_tokens_));
}

}  // namespace tandem::engine
