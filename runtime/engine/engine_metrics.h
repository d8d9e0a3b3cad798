// What the engine counts per step, in addition to EngineStats, for the metrics endpoint. The engine's
// thread writes, any other reads: atomics, no lock, and no memory after construction.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "parallel/step_timer.h"
#include "runtime/engine/histogram.h"

namespace tandem::engine {

// Upper bounds of the buckets, vLLM's: dashboards made for one fit the other.
inline constexpr auto kFirstTokenBounds =
    std::to_array<double>({.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                           1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560});  // seconds
inline constexpr auto kTokenBounds = std::to_array<double>(
    {.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80});
inline constexpr auto kRequestBounds = std::to_array<double>(
    {.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680});
inline constexpr auto kStepTokensBounds = std::to_array<double>(
    {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384});  // tokens

struct EngineMetrics {
  using Clock = std::chrono::steady_clock;

  // Of each choice, in seconds; the same values as the load guard gets.
  Histogram first_token{kFirstTokenBounds};  // submit to first token
  Histogram token{kTokenBounds};             // one token to the next
  Histogram queue{kRequestBounds};           // submit to first scheduled
  Histogram step_tokens{kStepTokensBounds};  // computed in a step

  // When all ranks last took part in a step or answered a heartbeat; the epoch: not yet.
  std::atomic<Clock::time_point> ranks_answered{Clock::time_point()};
  // Rank 0's time by part of a step, up to the end of the last one. Without a timer: zeros.
  std::array<std::atomic<double>, parallel::kStepParts> part_seconds{};
};

}  // namespace tandem::engine
