// A decoding step no larger than those before takes no memory from the heap: on no rank, in no
// layer from the engine's loop to the kernels. Counted by replacing the global allocation functions
// of this program.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <latch>
#include <mutex>
#include <new>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/model_runner.h"
#include "tests/support/model_world.h"

namespace {

std::atomic<int64_t> allocations{0};

void* Count(size_t bytes, size_t alignment) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory =
      alignment <= alignof(std::max_align_t)
          ? std::malloc(bytes)
          : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) std::abort();
  return memory;
}

}  // namespace

void* operator new(size_t bytes) { return Count(bytes, 0); }
void* operator new[](size_t bytes) { return Count(bytes, 0); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  return Count(bytes, static_cast<size_t>(alignment));
}
void* operator new[](size_t bytes, std::align_val_t alignment) {
  return Count(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace tandem {
namespace {

// Allocations of all ranks while four sequences decode.
int64_t CountDecoding(int tp, const engine::SamplingParams& how) {
  parallel::ThreadStepChannel channel(tp);
  int64_t counted = -1;
  const testing::WorldOptions options = {.tp = tp, .num_blocks = 256, .max_tokens = 64};
  const absl::Status status = testing::RunWorld(
      SourcePath("tests/golden/logits/llama_gqa"), options, [&](testing::Rank& rank) {
        const auto end = channel.End(rank.index);
        if (rank.index != 0) {
          EXPECT_TRUE(engine::RunWorker(rank.decoder, *end, rank.control).ok());
          return;
        }
        engine::ModelRunner runner(&rank.decoder, tp > 1 ? end.get() : nullptr, &rank.control);
        engine::EngineConfig config;
        config.vocab_size = static_cast<int32_t>(rank.decoder.config().vocab_size);
        config.max_model_len = 128;
        config.num_blocks = 256;
        config.max_num_seqs = 8;
        config.max_batched_tokens = 64;
        engine::EngineMetrics metrics;  // counting takes nothing either
        engine::EngineHooks hooks;
        hooks.metrics = &metrics;
        auto engine = *engine::Engine::Create(config, &runner, hooks);
        engine->Start();
        // The first round is the warm-up: buffers reach the size of its largest step. 112 tokens
        // fill seven blocks a sequence: taking and publishing blocks is part of it.
        constexpr int kTokens = 112;
        for (int round = 0; round < 2; ++round) {
          std::mutex mutex;
          std::condition_variable finished;
          int done = 0;
          int made[4] = {};
          int64_t begin = -1;
          bool ended = false;
          std::latch submitted(1);  // the first answer must not be over before the last begins
          for (int i = 0; i < 4; ++i) {
            engine::Request request;
            request.prompt_ids = {1 + i, 2, 3 + round};
            request.sampling = how;
            request.sampling.max_tokens = kTokens;
            const auto id = engine->Submit(std::move(request), [&, i](const engine::Event& event) {
              submitted.wait();
              // From where all are decoding, to before the first one ends.
              ++made[i];
              if (begin < 0 && *std::min_element(made, made + 4) == 2) begin = allocations.load();
              if (made[i] == kTokens - 1 && !ended) {
                ended = true;
                counted = allocations.load() - begin;
              }
              if (event.finish == engine::FinishReason::kNone) return true;
              const std::lock_guard lock(mutex);
              ++done;
              finished.notify_all();
              return false;
            });
            EXPECT_TRUE(id.ok()) << id.status();
          }
          submitted.count_down();
          std::unique_lock lock(mutex);
          EXPECT_TRUE(finished.wait_for(lock, std::chrono::minutes(2), [&] { return done == 4; }));
        }
        engine->Stop();
        EXPECT_EQ(metrics.first_token.Read().count, 2 * 4);
        EXPECT_EQ(metrics.queue.Read().count, 2 * 4);
        EXPECT_EQ(metrics.token.Read().count, 2 * 4 * (kTokens - 1));
        EXPECT_TRUE(runner.Shutdown().ok());
      });
  EXPECT_TRUE(status.ok()) << status;
  return counted;
}

TEST(StepAllocation, TheCounterCounts) {
  const int64_t before = allocations.load();
  std::vector<int> vector(100);
  EXPECT_GT(allocations.load(), before) << vector[0];
}

TEST(StepAllocation, DecodingTakesNothing) {
  engine::SamplingParams drawn;
  drawn.temperature = 1.0f;
  drawn.top_k = 40;
  drawn.top_p = 0.9f;
  drawn.ignore_eos = true;
  engine::SamplingParams greedy = drawn;
  greedy.temperature = 0.0f;
  for (const int tp : {1, 3}) {
    EXPECT_EQ(CountDecoding(tp, drawn), 0) << "TP " << tp;
    EXPECT_EQ(CountDecoding(tp, greedy), 0) << "TP " << tp;
  }
}

}  // namespace
}  // namespace tandem
