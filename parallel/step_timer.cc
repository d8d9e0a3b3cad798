#include "parallel/step_timer.h"

#include <algorithm>
#include <limits>

#include "kernels/base/check.h"

namespace tandem::parallel {

std::string_view StepPartName(StepPart part) {
  static constexpr std::string_view kNames[kStepParts] = {
      "idle",   "scheduling", "embedding",  "qkv",  "attention",
      "output", "ffn",        "all_reduce", "head", "sampling"};
  const auto index = static_cast<size_t>(part);
  TANDEM_CHECK(index < kStepParts);
  return kNames[index];
}

StepTimer::StepTimer(size_t max_slices) : entered_(Clock::now()), ring_(max_slices) {}

void StepTimer::Enter(StepPart part) {
  if (part == part_) return;
  const Clock::time_point now = Clock::now();
  totals_ns_[static_cast<size_t>(part_)] +=
      std::chrono::duration_cast<std::chrono::nanoseconds>(now - entered_).count();
  if (!ring_.empty()) Keep(now);
  part_ = part;
  entered_ = now;
}

void StepTimer::Keep(Clock::time_point end) {
  const auto nanoseconds = [](auto duration) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
  };
  // Four seconds and more only happen to an idle rank: the trace shows the last of it.
  const int64_t duration =
      std::min<int64_t>(nanoseconds(end - entered_), std::numeric_limits<uint32_t>::max());
  ring_[kept_++ % ring_.size()] = {.begin_ns = nanoseconds(end.time_since_epoch()) - duration,
                                   .duration_ns = static_cast<uint32_t>(duration),
                                   .part = part_,
                                   .step = step_};
}

StepTimer::Seconds StepTimer::Totals() const {
  Seconds seconds;
  for (size_t i = 0; i < kStepParts; ++i) seconds[i] = static_cast<double>(totals_ns_[i]) * 1e-9;
  seconds[static_cast<size_t>(part_)] +=
      std::chrono::duration<double>(Clock::now() - entered_).count();
  return seconds;
}

std::vector<StepTimer::Slice> StepTimer::Slices() const {
  if (ring_.empty()) return {};
  std::vector<Slice> slices;
  const uint64_t count = std::min<uint64_t>(kept_, ring_.size());
  slices.reserve(count);
  for (uint64_t i = kept_ - count; i < kept_; ++i) slices.push_back(ring_[i % ring_.size()]);
  return slices;
}

}  // namespace tandem::parallel
