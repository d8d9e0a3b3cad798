#include "runtime/engine/logits_hash.h"

#include <xxhash.h>

#include "kernels/base/check.h"

namespace tandem::engine {

LogitsHash::LogitsHash() : state_(XXH64_createState()) {
  TANDEM_CHECK(state_ != nullptr && XXH64_reset(state_.get(), 0) == XXH_OK);
}

void LogitsHash::Update(std::span<const float> logits) {
  TANDEM_CHECK(XXH64_update(state_.get(), logits.data(), logits.size_bytes()) == XXH_OK);
}

uint64_t LogitsHash::Digest() const { return XXH64_digest(state_.get()); }

void LogitsHash::Free::operator()(XXH64_state_s* state) const { XXH64_freeState(state); }

}  // namespace tandem::engine
