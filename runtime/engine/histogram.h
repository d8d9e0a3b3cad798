// Counts of values by size, as Prometheus expects them. Any thread may add and any may read,
// without locks. Only construction and Read take memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace tandem::engine {

class Histogram {
 public:
  // `bounds` ascend; a value counts in the bucket of the first bound that it does not exceed, or
  // in a last one beyond them all.
  explicit Histogram(std::span<const double> bounds);

  void Add(double value);

  struct Counts {
    std::vector<double> bounds;
    std::vector<int64_t> buckets;  // [bounds + 1], each alone
    int64_t count = 0;             // of all buckets
    double sum = 0;                // of the values; may differ from the buckets by one value
  };
  Counts Read() const;

 private:
  const std::vector<double> bounds_;
  const std::unique_ptr<std::atomic<int64_t>[]> buckets_;
  std::atomic<double> sum_{0};
};

}  // namespace tandem::engine
