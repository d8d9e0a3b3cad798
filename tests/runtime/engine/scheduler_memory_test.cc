// Steady decode takes no memory: counts calls of operator new in this program.
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <numeric>

#include "runtime/engine/sampler.h"
#include "runtime/engine/scheduler.h"

namespace {
int64_t allocations = 0;
}

void* operator new(size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace tandem::engine {
namespace {

TEST(SchedulerMemoryTest, SteadyDecodeTakesNone) {
  EngineConfig config;
  config.vocab_size = 1000;
  config.max_model_len = 1024;
  config.num_blocks = 400;
  config.max_num_seqs = 8;
  config.max_batched_tokens = 64;
  Scheduler scheduler(config);
  Sampler sampler(config.vocab_size, {});
  std::vector<float> logits(config.vocab_size);
  for (int32_t i = 0; i < config.vocab_size; ++i) logits[i] = static_cast<float>(i * 7 % 100) / 20;
  const SamplingParams params{.top_p = 0.9f, .repetition_penalty = 1.1f};
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (int i = 0; i < 8; ++i) {
    std::vector<int32_t> prompt(50 + i);
    std::iota(prompt.begin(), prompt.end(), 100 * i);
    sequences.push_back(std::make_unique<Sequence>(i, 0, i + 1, prompt, 1000));
    scheduler.Add(sequences.back().get());
  }
  StepPlan plan;
  std::vector<std::byte> message;
  Sample sample;
  const auto step = [&] {
    scheduler.Schedule(plan);
    plan.Serialize(message);
    scheduler.Complete();
    for (const ScheduledSequence& entry : scheduler.scheduled()) {
      if (entry.logits_row < 0) continue;
      ASSERT_TRUE(sampler
                      .Run({.logits = logits,
                            .params = params,
                            .prompt_ids = entry.sequence->prompt_ids(),
                            .output_ids = entry.sequence->output_ids(),
                            .choice = 0},
                           &sample)
                      .ok());
      entry.sequence->Append(sample.token_id);
    }
  };
  for (int i = 0; i < 40; ++i) step();
  // The plan's arrays grow by doubling here; the engine reserves them at start.
  plan.block_tables.reserve(10000);
  message.reserve(100000);
  const int64_t before = allocations;
  for (int i = 0; i < 300; ++i) step();
  EXPECT_EQ(allocations, before);
  EXPECT_EQ(scheduler.num_running(), 8);
}

}  // namespace
}  // namespace tandem::engine
