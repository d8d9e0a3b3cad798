#include "runtime/engine/histogram.h"

#include <algorithm>

#include "kernels/base/check.h"

namespace tandem::engine {

Histogram::Histogram(std::span<const double> bounds)
    : bounds_(bounds.begin(), bounds.end()),
      buckets_(std::make_unique<std::atomic<int64_t>[]>(bounds.size() + 1)) {
  TANDEM_CHECK(std::is_sorted(bounds_.begin(), bounds_.end()));
}

void Histogram::Add(double value) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  buckets_[bucket].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

Histogram::Counts Histogram::Read() const {
  Counts counts;
  counts.bounds = bounds_;
  for (size_t i = 0; i <= bounds_.size(); ++i) {
    counts.buckets.push_back(buckets_[i].load(std::memory_order_relaxed));
    counts.count += counts.buckets.back();
  }
  counts.sum = sum_.load(std::memory_order_relaxed);
  return counts;
}

}  // namespace tandem::engine
