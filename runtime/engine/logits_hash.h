// xxh64 over the raw fp32 logits of a choice's sampled positions, in order of positions and, within
// one, of ids: equal hashes mean that the same bits were computed. The state belongs to the
// sequence and is updated at each sampled position; pre-emption samples no position twice, so it
// does not change the hash.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

struct XXH64_state_s;

namespace tandem::engine {

class LogitsHash {
 public:
  LogitsHash();
  void Update(std::span<const float> logits);  // [vocab] of the next position
  uint64_t Digest() const;

 private:
  struct Free {
    void operator()(XXH64_state_s* state) const;
  };
  std::unique_ptr<XXH64_state_s, Free> state_;
};

}  // namespace tandem::engine
