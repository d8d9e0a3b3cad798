// Where a rank's time goes, by part of a step. The code that runs a step enters one part after the
// other, so every moment from the first part to now belongs to exactly one part, and the parts add
// up to the wall time. Made on demand and passed down; a null pointer is a timer that is off.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string_view>
#include <vector>

namespace tandem::parallel {

// A norm belongs to the product that follows it. The all-reduce includes the wait for other ranks.
enum class StepPart : uint8_t {
  kIdle,        // no work, or waiting for rank 0's plan
  kScheduling,  // requests, the plan, sending it to the ranks
  kEmbedding,   // embedding rows, rotary angles
  kQkv,
  kAttention,  // rotation, KV write, attention
  kOutput,
  kFfn,
  kAllReduce,
  kHead,  // with the gather of logits
  kSampling,
};
inline constexpr int kStepParts = 10;

// As it is written in JSON: "idle", "qkv", "all_reduce", ...
std::string_view StepPartName(StepPart part);

class StepTimer {
 public:
  using Clock = std::chrono::steady_clock;
  using Seconds = std::array<double, kStepParts>;

  // One uninterrupted time in a part.
  struct Slice {
    int64_t begin_ns = 0;  // of Clock
    uint32_t duration_ns = 0;
    StepPart part = StepPart::kIdle;
    uint32_t step = 0;  // forward steps that began before it or with it
  };

  // Keeps the last max_slices slices for a trace; 0: only totals. Allocates all its memory here.
  explicit StepTimer(size_t max_slices = 0);

  // From now on time belongs to `part`. Not thread-safe.
  void Enter(StepPart part);
  // Counts a forward step that begins here.
  void BeginStep() { ++step_; }
  StepPart part() const { return part_; }

  // By part; the current part until now.
  Seconds Totals() const;
  // Oldest first, without the current one.
  std::vector<Slice> Slices() const;

 private:
  void Keep(Clock::time_point end);

  StepPart part_ = StepPart::kIdle;
  uint32_t step_ = 0;
  Clock::time_point entered_;
  std::array<int64_t, kStepParts> totals_ns_{};
  std::vector<Slice> ring_;
  uint64_t kept_ = 0;
};

// For a timer that may be off.
inline void EnterPart(StepTimer* timer, StepPart part) {
  if (timer != nullptr) timer->Enter(part);
}

}  // namespace tandem::parallel
