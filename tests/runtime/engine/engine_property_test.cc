// Random requests through random engines against Oracle: the tokens and the
// hash of all logits depend on a request alone, not on batch companions, chunk
// size, block pool, pre-emption, prefix cache, cancels, drafts or what the load guard
// does around it, nor on whether rows of logits come whole or are surveyed by ranks.
#include <gtest/gtest.h>

#include <random>

#include "tests/runtime/engine/fake_executor.h"

namespace tandem::engine {
namespace {

constexpr int32_t kVocab = 40;

Request RandomRequest(std::mt19937& random, int32_t max_prompt, int32_t max_tokens) {
  Request request;
  // Few distinct beginnings, so that prefixes are shared often.
  const auto length = static_cast<int32_t>(1 + random() % max_prompt);
  const auto family = static_cast<int32_t>(random() % 3);
  const auto branch = static_cast<int32_t>(random() % (max_prompt + 8));
  for (int32_t i = 0; i < length; ++i) {
    request.prompt_ids.push_back(i < branch ? (family * 7 + i * i) % kVocab
                                            : static_cast<int32_t>(random() % kVocab));
  }
  SamplingParams& params = request.sampling;
  params.temperature = random() % 3 == 0 ? 0.0f : 1.2f;
  params.top_k = random() % 2 == 0 ? 0 : 10;
  params.top_p = random() % 2 == 0 ? 1.0f : 0.9f;
  params.min_p = random() % 4 == 0 ? 0.1f : 0.0f;
  params.repetition_penalty = random() % 4 == 0 ? 1.2f : 1.0f;
  params.frequency_penalty = random() % 4 == 0 ? 0.3f : 0.0f;
  params.seed = random();
  params.max_tokens = static_cast<int32_t>(1 + random() % max_tokens);
  params.min_tokens = random() % 4 == 0 ? params.max_tokens / 2 : 0;
  params.ignore_eos = random() % 2 == 0;
  params.n = random() % 3 == 0 ? static_cast<int32_t>(1 + random() % 4) : 1;
  params.logits_hash = random() % 2 == 0;
  // Answers that repeat themselves: drafts are often right.
  if (random() % 3 == 0) params.logit_bias = {{7, 60.0f}, {8, 60.0f}};
  params.speculate = static_cast<int32_t>(random() % 6) - 1;
  return request;
}

// `pool` is the number of blocks over what the largest request needs alone.
void RunRound(uint32_t seed, int32_t pool, bool cancels, EngineStats* totals) {
  SCOPED_TRACE(testing::Message() << "seed " << seed << " pool " << pool);
  std::mt19937 random(seed);
  constexpr int32_t kMaxPrompt = 90;
  constexpr int32_t kMaxTokens = 50;
  const int32_t budgets[] = {1, 3, 16, 33, 512};
  EngineConfig config;
  config.vocab_size = kVocab;
  config.max_model_len = random() % 4 == 0 ? 100 : 140;
  config.num_blocks = 9 + pool;
  config.max_num_seqs = static_cast<int32_t>(1 + random() % 12);
  config.max_batched_tokens = budgets[random() % 5];
  config.eos_token_ids = {5};
  config.enable_prefix_cache = random() % 3 != 0;
  switch (random() % 3) {
    case 0:  // acts all the time
      config.load_guard.kv_low = config.load_guard.kv_high = 0.3;
      config.load_guard.fragmentation_low = config.load_guard.fragmentation_high = 0;
      break;
    case 1:  // never acts
      config.load_guard.kv_high = config.load_guard.fragmentation_high = 1;
      break;
    default:
      break;
  }
  config.speculation.max_drafts = random() % 3 == 0 ? 0 : static_cast<int32_t>(1 + random() % 8);
  config.speculation.adaptive = random() % 3 == 0;
  config.max_rows =
      random() % 2 == 0 ? 0 : config.max_num_seqs + static_cast<int32_t>(random() % 20);
  FakeExecutor executor(config);
  if (seed % 2 == 0) {
    const auto cut = static_cast<int32_t>(seed / 2 % (kVocab + 1));
    executor.SurveyWith({0, cut, kVocab}, seed % 4 == 0 ? 4 : 16);
  }
  auto engine = Engine::Create(config, &executor);
  ASSERT_TRUE(engine.ok()) << engine.status();
  (*engine)->Start();

  struct Open {
    Request request;
    std::unique_ptr<Collector> collector;
    RequestId id = 0;
    bool cancelled = false;
  };
  std::vector<Open> open;
  for (int i = 0; i < 30; ++i) {
    Open next;
    next.request = RandomRequest(random, kMaxPrompt, kMaxTokens);
    next.collector = std::make_unique<Collector>(next.request.sampling.n);
    const auto id = (*engine)->Submit(next.request, next.collector->Sink());
    ASSERT_TRUE(id.ok()) << id.status();
    next.id = *id;
    open.push_back(std::move(next));
    if (cancels && random() % 2 == 0) {
      Open& victim = open[random() % open.size()];
      victim.cancelled = true;
      (*engine)->Cancel(victim.id);
    }
    if (random() % 4 == 0) std::this_thread::yield();
  }
  for (Open& each : open) {
    ASSERT_TRUE(each.collector->Wait());
    EXPECT_FALSE(each.collector->event_after_finish());
    for (int32_t c = 0; c < each.request.sampling.n; ++c) {
      const Collector::Choice choice = each.collector->choice(c);
      const Expected expected = Oracle(each.request, c, config);
      EXPECT_EQ(choice.last.completion_tokens, static_cast<int32_t>(choice.tokens.size()));
      if (choice.last.finish == FinishReason::kCancelled) {
        EXPECT_TRUE(each.cancelled);
        // What came before the cancel is right.
        ASSERT_LE(choice.tokens.size(), expected.tokens.size());
        EXPECT_TRUE(
            std::equal(choice.tokens.begin(), choice.tokens.end(), expected.tokens.begin()));
        continue;
      }
      EXPECT_EQ(choice.tokens, expected.tokens);
      EXPECT_EQ(choice.last.finish, expected.finish) << choice.last.status;
      EXPECT_EQ(choice.last.logits_hash, expected.logits_hash);
      EXPECT_LE(choice.last.accepted_draft_tokens, choice.last.draft_tokens);
      EXPECT_EQ(choice.last.prompt_tokens, static_cast<int32_t>(each.request.prompt_ids.size()));
    }
  }
  ASSERT_TRUE(
      Eventually(**engine, [](const EngineStats& stats) { return stats.requests_finished == 30; }));
  const EngineStats stats = (*engine)->Stats();
  EXPECT_EQ(stats.kv_blocks_used, 0);
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 0);
  totals->preemptions += stats.preemptions;
  totals->load_guard.blocks_moved += stats.load_guard.blocks_moved;
  totals->load_guard.batch_reductions += stats.load_guard.batch_reductions;
  totals->load_guard.batch_growths += stats.load_guard.batch_growths;
  totals->cached_prompt_tokens += stats.cached_prompt_tokens;
  totals->draft_tokens += stats.draft_tokens;
  totals->accepted_draft_tokens += stats.accepted_draft_tokens;
}

class EnginePropertyTest : public testing::TestWithParam<bool> {};

TEST_P(EnginePropertyTest, OutputsDependOnTheRequestAlone) {
  EngineStats totals;
  for (uint32_t seed = 0; seed < 40; ++seed) RunRound(seed, 0, GetParam(), &totals);
  for (uint32_t seed = 0; seed < 40; ++seed) RunRound(seed, 6, GetParam(), &totals);
  for (uint32_t seed = 0; seed < 40; ++seed) RunRound(seed, 200, GetParam(), &totals);
  // The rounds would prove little if these never happened.
  EXPECT_GT(totals.preemptions, 20);
  EXPECT_GT(totals.cached_prompt_tokens, 1000);
  EXPECT_GT(totals.accepted_draft_tokens, 1000);
  EXPECT_GT(totals.draft_tokens, totals.accepted_draft_tokens + 1000);
  EXPECT_GT(totals.load_guard.blocks_moved, 1000);
  EXPECT_GT(totals.load_guard.batch_reductions, 100);
  EXPECT_GT(totals.load_guard.batch_growths, 100);
}

INSTANTIATE_TEST_SUITE_P(Cancels, EnginePropertyTest, testing::Bool());

}  // namespace
}  // namespace tandem::engine
