// How Generate calls ended. The calls count with atomics; the metrics endpoint reads. A call counts
// once, when its end is decided.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "runtime/engine/engine_metrics.h"
#include "runtime/engine/histogram.h"

namespace tandem::server {

// Tokens of a request.
inline constexpr auto kRequestTokensBounds =
    std::to_array<double>({1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000,
                           50000, 100000, 200000, 500000, 1000000});

struct RequestMetrics {
  // Complete answers: all choices stopped by a token or text, or some choice reached its length.
  std::atomic<int64_t> stopped{0};
  std::atomic<int64_t> cut{0};
  // The others, by gRPC's status code.
  std::array<std::atomic<int64_t>, 17> failures{};

  // Of complete answers.
  engine::Histogram seconds{engine::kRequestBounds};  // the call's arrival to its last token
  engine::Histogram prompt_tokens{kRequestTokensBounds};
  engine::Histogram generated_tokens{kRequestTokensBounds};  // of all choices
};

}  // namespace tandem::server
