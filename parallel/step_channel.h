// Carries each step's plan from rank 0 to all other ranks, one message per step. A waiting rank
// sleeps, so that an idle world uses almost no CPU.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tandem::parallel {

class StepChannel {
 public:
  virtual ~StepChannel() = default;

  // Rank 0: sends the message to every other rank. Returns when the buffer may be reused.
  virtual absl::Status Send(std::span<const std::byte> message) = 0;

  // Other ranks: waits for the next message, valid until the next call.
  virtual absl::StatusOr<std::span<const std::byte>> Receive() = 0;
};

// Ranks as threads.
class ThreadStepChannel {
 public:
  explicit ThreadStepChannel(int size) : received_(size, 0) {}

  // The end of one rank; the channel must outlive it.
  std::unique_ptr<StepChannel> End(int rank);

 private:
  friend class ThreadChannelEnd;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::byte> message_;
  uint64_t sent_ = 0;
  std::vector<uint64_t> received_;  // by rank
};

}  // namespace tandem::parallel
