// The whole engine over a real model and ranks as threads: what a request gets does not depend on
// the degree, its company, pre-emption, chunks, drafts or the prefix cache. Hashes of logits,
// compared for equality.
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <random>

#include "parallel/step_channel.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/model_runner.h"
#include "tests/support/model_world.h"

namespace tandem {
namespace {

struct Answer {
  std::vector<int32_t> ids;
  uint64_t hash = 0;
  bool operator==(const Answer&) const = default;
};

struct Setting {
  int tp = 1;
  int32_t num_blocks = 256;
  int32_t max_num_seqs = 16;
  int32_t max_batched_tokens = 512;
  bool prefix_cache = true;
  int32_t drafts = 0;
  kernels::KvDType kv_dtype = kernels::KvDType::kF32;
  engine::LoadGuardOptions watch;
  engine::EngineStats stats;  // out
};

std::vector<engine::Request> Requests(int32_t vocab) {
  std::mt19937 random(3);
  std::vector<int32_t> shared(34);
  for (int32_t& id : shared) id = static_cast<int32_t>(random() % vocab);
  std::vector<engine::Request> requests;
  for (int i = 0; i < 10; ++i) {
    engine::Request request;
    if (i % 3 == 0) request.prompt_ids = shared;  // something for the prefix cache
    const size_t more = 1 + random() % 14;
    for (size_t t = 0; t < more; ++t) {
      request.prompt_ids.push_back(static_cast<int32_t>(random() % vocab));
    }
    request.sampling.temperature = i % 2 == 0 ? 0.0f : 1.0f;
    request.sampling.seed = 100 + i;
    request.sampling.max_tokens = 30 + i * 5;
    request.sampling.logits_hash = true;
    requests.push_back(std::move(request));
  }
  return requests;
}

// Runs the requests, all at once or one after the other, over one world.
std::vector<Answer> Serve(Setting& setting, bool together) {
  std::vector<Answer> answers;
  parallel::ThreadStepChannel channel(setting.tp);
  const testing::WorldOptions options = {.tp = setting.tp,
                                         .kv_dtype = setting.kv_dtype,
                                         .num_blocks = setting.num_blocks,
                                         .max_tokens = 512};
  const absl::Status status = testing::RunWorld(
      SourcePath("tests/golden/logits/llama_gqa"), options, [&](testing::Rank& rank) {
        const auto end = channel.End(rank.index);
        if (rank.index != 0) {
          EXPECT_TRUE(engine::RunWorker(rank.decoder, *end, rank.control).ok());
          return;
        }
        engine::ModelRunner runner(&rank.decoder, setting.tp > 1 ? end.get() : nullptr,
                                   &rank.control);
        engine::EngineConfig config;
        config.vocab_size = static_cast<int32_t>(rank.decoder.config().vocab_size);
        config.max_model_len = 128;
        config.num_blocks = setting.num_blocks;
        config.max_num_seqs = setting.max_num_seqs;
        config.max_batched_tokens = setting.max_batched_tokens;
        config.enable_prefix_cache = setting.prefix_cache;
        config.load_guard = setting.watch;
        config.speculation = {.max_drafts = setting.drafts, .adaptive = false};
        auto engine = *engine::Engine::Create(config, &runner);
        const std::vector<engine::Request> requests = Requests(config.vocab_size);
        answers.resize(requests.size());
        std::mutex mutex;
        std::condition_variable finished;
        size_t done = 0;
        const auto submit = [&](size_t i) {
          const auto id = engine->Submit(requests[i], [&, i](const engine::Event& event) {
            Answer& answer = answers[i];
            answer.ids.insert(answer.ids.end(), event.token_ids.begin(), event.token_ids.end());
            if (event.finish == engine::FinishReason::kNone) return true;
            EXPECT_EQ(event.finish, engine::FinishReason::kLength);
            answer.hash = event.logits_hash;
            const std::lock_guard lock(mutex);
            ++done;
            finished.notify_all();
            return true;
          });
          EXPECT_TRUE(id.ok()) << id.status();
        };
        const auto wait_for = [&](size_t count) {
          std::unique_lock lock(mutex);
          EXPECT_TRUE(
              finished.wait_for(lock, std::chrono::minutes(2), [&] { return done == count; }));
        };
        if (together) {
          for (size_t i = 0; i < requests.size(); ++i) submit(i);
          engine->Start();
          wait_for(requests.size());
        } else {
          engine->Start();
          for (size_t i = 0; i < requests.size(); ++i) {
            submit(i);
            wait_for(i + 1);
          }
        }
        engine->Stop();
        setting.stats = engine->Stats();
        EXPECT_TRUE(runner.Shutdown().ok());
      });
  EXPECT_TRUE(status.ok()) << status;
  return answers;
}

// An INT8 cache rounds what it keeps: only if a token's codes depend on that token alone are blocks
// that another request, or the same one before its pre-emption, has filled as good as new ones.
class EngineWorld : public ::testing::TestWithParam<kernels::KvDType> {};

TEST_P(EngineWorld, AnswersDependOnTheRequestAlone) {
  const kernels::KvDType kv = GetParam();
  Setting alone = {.prefix_cache = false, .kv_dtype = kv};
  const std::vector<Answer> expected = Serve(alone, /*together=*/false);
  for (const Answer& answer : expected) EXPECT_NE(answer.hash, 0u);
  Setting settings[] = {
      {},
      {.tp = 3},
      {.tp = 2, .max_batched_tokens = 16},
      {.tp = 5, .max_num_seqs = 3, .max_batched_tokens = 7},
      {.tp = 4, .prefix_cache = false},
  };
  for (Setting& setting : settings) {
    setting.kv_dtype = kv;
    EXPECT_EQ(Serve(setting, true), expected) << "TP " << setting.tp;
  }
  for (const bool prefix_cache : {true, false}) {
    Setting tight = {.tp = 3,
                     .num_blocks = 13,
                     .prefix_cache = prefix_cache,
                     .drafts = prefix_cache ? 0 : 3,
                     .kv_dtype = kv};
    EXPECT_EQ(Serve(tight, true), expected);
    EXPECT_GT(tight.stats.preemptions, 0);
  }
  // Drafts, in all rows that are left and in a few.
  int64_t accepted = 0, wrong = 0;
  for (const int tp : {1, 2, 5}) {
    Setting drafted = {
        .tp = tp, .max_num_seqs = tp == 2 ? 4 : 16, .drafts = 2 * tp, .kv_dtype = kv};
    EXPECT_EQ(Serve(drafted, tp != 1), expected) << "TP " << tp;
    accepted += drafted.stats.accepted_draft_tokens;
    wrong += drafted.stats.draft_tokens - drafted.stats.accepted_draft_tokens;
  }
  EXPECT_GT(accepted, 0);
  EXPECT_GT(wrong, 0);
  // The load guard moves blocks and sequences about.
  for (const int tp : {1, 3}) {
    Setting watched = {
        .tp = tp,
        .num_blocks = 24,
        .prefix_cache = tp == 1,
        .kv_dtype = kv,
        .watch = {
            .kv_low = 0.5, .kv_high = 0.7, .fragmentation_low = 0, .fragmentation_high = 0.01}};
    EXPECT_EQ(Serve(watched, true), expected) << "TP " << tp;
    EXPECT_GT(watched.stats.load_guard.batch_reductions, 0);
    EXPECT_GT(watched.stats.load_guard.blocks_moved, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Caches, EngineWorld,
                         ::testing::Values(kernels::KvDType::kF32, kernels::KvDType::kI8),
                         [](const auto& info) {
                           return std::string(kernels::KvDTypeName(info.param));
                         });

}  // namespace
}  // namespace tandem
