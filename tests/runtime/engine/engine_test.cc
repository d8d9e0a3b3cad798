#include "runtime/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <future>

#include "tests/runtime/engine/fake_executor.h"
#include "tests/support/idle_cpu.h"

namespace tandem::engine {
namespace {

using ::testing::HasSubstr;

EngineConfig Config() {
  EngineConfig config;
  config.vocab_size = 40;
  config.max_model_len = 200;
  config.num_blocks = 64;
  config.max_num_seqs = 8;
  config.max_batched_tokens = 64;
  config.eos_token_ids = {5};
  return config;
}

Request Prompt(int32_t length, SamplingParams params = {.max_tokens = 8, .ignore_eos = true}) {
  Request request;
  for (int32_t i = 0; i < length; ++i) request.prompt_ids.push_back((i * 7 + length) % 40);
  request.sampling = std::move(params);
  return request;
}

// A wait that takes longer has failed.
constexpr std::chrono::seconds kLimit(60);

// Lets steps through one by one, so that tests act between them.
class Gate {
 public:
  std::function<absl::Status(const StepPlan&)> Hook() {
    return [this](const StepPlan&) {
      std::unique_lock lock(mutex_);
      ++arrived_;
      changed_.notify_all();
      if (!changed_.wait_for(lock, kLimit, [this] { return open_ || passes_ > 0; })) {
        return absl::DeadlineExceededError("the test did not let the step pass");
      }
      if (!open_) --passes_;
      return absl::OkStatus();
    };
  }
  void WaitForStep(int count) {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, kLimit, [&] { return arrived_ >= count; }));
  }
  void Pass() {
    std::lock_guard lock(mutex_);
    ++passes_;
    changed_.notify_all();
  }
  void Open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0;
  int passes_ = 0;
  bool open_ = false;
};

class EngineTest : public ::testing::Test {
 protected:
  void Make(EngineConfig config = Config(), EngineHooks hooks = {}, bool start = true) {
    config_ = config;
    executor_ = std::make_unique<FakeExecutor>(config);
    auto engine = Engine::Create(config, executor_.get(), std::move(hooks));
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    if (start) engine_->Start();
  }
  RequestId Submit(const Request& request, Collector& collector) {
    const auto id = engine_->Submit(request, collector.Sink());
    EXPECT_TRUE(id.ok()) << id.status();
    return id.ok() ? *id : 0;
  }

  EngineConfig config_;
  std::unique_ptr<FakeExecutor> executor_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineTest, OneRequestFromSubmitToLastEvent) {
  Make();
  const Request request = Prompt(20);
  Collector collector(1);
  Submit(request, collector);
  ASSERT_TRUE(collector.Wait());
  const auto choice = collector.choice();
  EXPECT_EQ(choice.tokens, Oracle(request, 0, config_).tokens);
  EXPECT_EQ(choice.events, 8);
  EXPECT_EQ(choice.last.finish, FinishReason::kLength);
  EXPECT_FALSE(choice.last.ended_by_token);
  EXPECT_EQ(choice.last.prompt_tokens, 20);
  EXPECT_EQ(choice.last.completion_tokens, 8);
  EXPECT_EQ(choice.last.cached_prompt_tokens, 0);
  EXPECT_GE(choice.last.timings.queue_seconds, 0);
  EXPECT_GT(choice.last.timings.prefill_seconds, 0);
  EXPECT_GT(choice.last.timings.decode_seconds, 0);
  ASSERT_TRUE(Eventually(*engine_, [](const auto& s) { return s.requests_finished == 1; }));
  const EngineStats stats = engine_->Stats();
  EXPECT_EQ(stats.kv_blocks_total, 64);
  EXPECT_EQ(stats.kv_blocks_used, 0);
  EXPECT_EQ(stats.steps, 8);
  EXPECT_EQ(stats.prompt_tokens, 20);
  EXPECT_EQ(stats.generated_tokens, 8);
}

TEST_F(EngineTest, StopTokensEndAChoiceAndAreInItsEvent) {
  Make();
  const Request probe = Prompt(20);
  const std::vector<int32_t> tokens = Oracle(probe, 0, config_).tokens;
  Request request = probe;
  request.sampling.stop_token_ids = {tokens[2]};
  Collector collector(1);
  Submit(request, collector);
  ASSERT_TRUE(collector.Wait());
  const auto choice = collector.choice();
  EXPECT_EQ(choice.last.finish, FinishReason::kStop);
  EXPECT_TRUE(choice.last.ended_by_token);
  EXPECT_EQ(choice.tokens.back(), tokens[2]);
  EXPECT_LE(choice.tokens.size(), 3u);
}

TEST_F(EngineTest, AFullContextIsLength) {
  Make();
  Request request = Prompt(195, {.max_tokens = 100, .ignore_eos = true});
  Collector collector(1);
  Submit(request, collector);
  ASSERT_TRUE(collector.Wait());
  EXPECT_EQ(collector.choice().last.finish, FinishReason::kLength);
  EXPECT_EQ(collector.choice().tokens.size(), 5u);
}

TEST_F(EngineTest, BadRequestsAreRefusedAtSubmit) {
  EngineConfig config = Config();
  config.num_blocks = 4;
  config.max_queue = 10;
  Make(config);
  const auto code = [&](Request request) {
    return engine_->Submit(std::move(request), [](const Event&) { return true; }).status().code();
  };
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code(Prompt(0)), kBad);
  EXPECT_EQ(code(Prompt(200)), kBad);
  Request request = Prompt(3);
  request.prompt_ids[1] = 40;
  EXPECT_EQ(code(request), kBad);
  request.prompt_ids[1] = -1;
  EXPECT_EQ(code(request), kBad);
  EXPECT_EQ(code(Prompt(3, {.top_p = 0.0f})), kBad);
  EXPECT_EQ(code(Prompt(3, {.n = 11})), kBad);
  EXPECT_EQ(code(Prompt(3, {.n = INT32_MAX})), kBad);
  // 4 blocks hold 64 tokens; the 65th is sampled and never stored.
  EXPECT_EQ(code(Prompt(60, {.max_tokens = 5})), absl::StatusCode::kOk);
  EXPECT_EQ(code(Prompt(60, {.max_tokens = 6})), kBad);
  EXPECT_EQ(code(Prompt(60, {.max_tokens = INT32_MAX})), kBad);
}

TEST_F(EngineTest, BadConfigsNameTheirField) {
  FakeExecutor executor(Config());
  const auto message = [&](auto change) {
    EngineConfig config = Config();
    change(config);
    const auto engine = Engine::Create(config, &executor);
    return std::string(engine.status().message());
  };
  EXPECT_THAT(message([](auto& c) { c.vocab_size = 0; }), HasSubstr("vocab_size"));
  EXPECT_THAT(message([](auto& c) { c.vocab_size = 1 << 20; }), HasSubstr("vocab_size"));
  EXPECT_THAT(message([](auto& c) { c.max_model_len = 1; }), HasSubstr("max_model_len"));
  EXPECT_THAT(message([](auto& c) { c.num_blocks = 0; }), HasSubstr("num_blocks"));
  EXPECT_THAT(message([](auto& c) { c.num_blocks = INT32_MAX; }), HasSubstr("num_blocks"));
  EXPECT_THAT(message([](auto& c) { c.max_num_seqs = 0; }), HasSubstr("max_num_seqs"));
  EXPECT_THAT(message([](auto& c) { c.max_batched_tokens = 0; }), HasSubstr("max_batched_tokens"));
  EXPECT_THAT(message([](auto& c) { c.max_queue = 0; }), HasSubstr("max_queue"));
}

TEST_F(EngineTest, AFullQueueRefusesAndRecovers) {
  EngineConfig config = Config();
  config.max_queue = 3;
  Make(config, {}, /*start=*/false);
  Collector a(2), b(1), c(2);
  Submit(Prompt(5, {.max_tokens = 2, .n = 2}), a);
  Submit(Prompt(6), b);
  EXPECT_EQ(engine_->Submit(Prompt(7), c.Sink()).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(engine_->Stats().waiting, 3);
  engine_->Start();
  ASSERT_TRUE(a.Wait());
  ASSERT_TRUE(b.Wait());
  ASSERT_TRUE(Eventually(*engine_, [](const auto& s) { return s.requests_finished == 2; }));
  Submit(Prompt(7, {.max_tokens = 2, .n = 2}), c);
  EXPECT_TRUE(c.Wait());
}

TEST_F(EngineTest, TheCacheServesAPromptButItsLastToken) {
  Make();
  const Request request = Prompt(48);  // three full blocks: the last is computed anew
  for (const int32_t cached : {0, 32}) {
    Collector collector(1);
    Submit(request, collector);
    ASSERT_TRUE(collector.Wait());
    EXPECT_EQ(collector.choice().last.cached_prompt_tokens, cached);
    EXPECT_EQ(collector.choice().tokens, Oracle(request, 0, config_).tokens);
  }
  ASSERT_TRUE(Eventually(*engine_, [](const auto& s) { return s.requests_finished == 2; }));
  EXPECT_EQ(engine_->Stats().cached_prompt_tokens, 32);
  EXPECT_EQ(engine_->Stats().prompt_tokens, 48 + 16);
}

TEST_F(EngineTest, ChoicesShareThePromptWithAndWithoutCache) {
  for (const bool cache : {true, false}) {
    EngineConfig config = Config();
    config.enable_prefix_cache = cache;
    Make(config, {}, /*start=*/false);
    const Request request = Prompt(100, {.max_tokens = 20, .ignore_eos = true, .n = 4});
    Collector collector(4);
    Submit(request, collector);
    engine_->Start();
    ASSERT_TRUE(collector.Wait());
    for (int32_t c = 0; c < 4; ++c) {
      EXPECT_EQ(collector.choice(c).tokens, Oracle(request, c, config_).tokens);
      EXPECT_EQ(collector.choice(c).last.cached_prompt_tokens, c == 0 ? 0 : 96);
    }
    EXPECT_NE(collector.choice(0).tokens, collector.choice(1).tokens);
    ASSERT_TRUE(Eventually(*engine_, [](const auto& s) { return s.requests_finished == 1; }));
    EXPECT_EQ(engine_->Stats().prompt_tokens, 100 + 3 * 4);
    engine_.reset();
  }
}

TEST_F(EngineTest, CancelEndsBeforeTheNextStep) {
  Make(Config(), {}, /*start=*/false);
  Gate gate;
  executor_->before_step = gate.Hook();
  engine_->Start();
  Collector running(1), other(1);
  const RequestId id = Submit(Prompt(20), running);
  gate.WaitForStep(1);
  gate.Pass();
  gate.WaitForStep(2);
  Submit(Prompt(21), other);
  engine_->Cancel(id);
  engine_->Cancel(id + 77);  // unknown
  gate.Open();
  ASSERT_TRUE(running.Wait());
  ASSERT_TRUE(other.Wait());
  const auto choice = running.choice();
  EXPECT_EQ(choice.last.finish, FinishReason::kCancelled);
  EXPECT_TRUE(choice.last.status.ok());
  EXPECT_TRUE(choice.last.token_ids.empty());
  EXPECT_EQ(choice.tokens.size(), 2u);  // the second step was under way
  EXPECT_EQ(other.choice().last.finish, FinishReason::kLength);
  engine_->Cancel(id);  // finished
}

TEST_F(EngineTest, TheSinkEndsItsChoice) {
  Make();
  Request request = Prompt(20, {.max_tokens = 50, .ignore_eos = true, .n = 2});
  Collector collector(2);
  collector.more = [](const Event& event) { return event.choice == 1; };
  Submit(request, collector);
  ASSERT_TRUE(collector.Wait());
  EXPECT_EQ(collector.choice(0).events, 1);
  EXPECT_EQ(collector.choice(1).tokens.size(), 50u);
  EXPECT_FALSE(collector.event_after_finish());
  EXPECT_TRUE(Eventually(
      *engine_, [](const auto& s) { return s.requests_finished == 1 && s.kv_blocks_used == 0; }));
}

TEST_F(EngineTest, DeadlinesEndQueuedAndRunningRequests) {
  EngineConfig config = Config();
  config.max_num_seqs = 1;
  Make(config, {}, /*start=*/false);
  Gate gate;
  executor_->before_step = gate.Hook();
  Request running = Prompt(20, {.max_tokens = 100, .ignore_eos = true});
  Request queued = Prompt(21);
  Request late = Prompt(22);
  const auto soon = Clock::now() + std::chrono::milliseconds(1500);
  running.deadline = soon;
  queued.deadline = soon;
  late.deadline = Clock::now() + std::chrono::hours(1);
  Request past = Prompt(23);
  past.deadline = Clock::now() - std::chrono::seconds(1);
  Collector a(1), b(1), c(1), d(1);
  Submit(running, a);
  Submit(queued, b);
  Submit(late, c);
  Submit(past, d);
  engine_->Start();
  ASSERT_TRUE(d.Wait());  // before any step
  EXPECT_EQ(d.choice().last.status.code(), absl::StatusCode::kDeadlineExceeded);
  gate.WaitForStep(1);
  gate.Pass();
  gate.WaitForStep(2);
  std::this_thread::sleep_until(soon);
  gate.Open();
  ASSERT_TRUE(a.Wait());
  ASSERT_TRUE(b.Wait());
  ASSERT_TRUE(c.Wait());
  for (Collector* each : {&a, &b}) {
    EXPECT_EQ(each->choice().last.finish, FinishReason::kError);
    EXPECT_EQ(each->choice().last.status.code(), absl::StatusCode::kDeadlineExceeded);
  }
  EXPECT_EQ(a.choice().tokens.size(), 2u);
  EXPECT_EQ(a.choice().last.completion_tokens, 2);
  EXPECT_EQ(b.choice().tokens.size(), 0u);
  EXPECT_GT(b.choice().last.timings.queue_seconds, 0.1);
  EXPECT_EQ(c.choice().last.finish, FinishReason::kLength);
}

TEST_F(EngineTest, AnExecutorsErrorIsFinal) {
  std::atomic<int> failures = 0;
  EngineHooks hooks;
  hooks.on_failure = [&](const absl::Status&) { ++failures; };
  EngineConfig config = Config();
  config.max_num_seqs = 1;
  Make(config, hooks, /*start=*/false);
  executor_->before_step = [](const StepPlan& plan) {
    return plan.sequence_number == 3 ? absl::InternalError("rank 2 died") : absl::OkStatus();
  };
  Collector a(2), b(1), c(1);
  Submit(Prompt(20, {.max_tokens = 8, .ignore_eos = true, .n = 2}), a);
  Submit(Prompt(21), b);
  engine_->Start();
  ASSERT_TRUE(a.Wait());
  ASSERT_TRUE(b.Wait());
  for (const auto& choice : {a.choice(0), a.choice(1), b.choice(0)}) {
    EXPECT_EQ(choice.last.finish, FinishReason::kError);
    EXPECT_EQ(choice.last.status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(choice.last.status.message()), HasSubstr("rank 2 died"));
  }
  EXPECT_EQ(a.choice(0).tokens.size(), 3u);
  const auto refused = engine_->Submit(Prompt(5), c.Sink());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("rank 2 died"));
  EXPECT_EQ(engine_->Failure().code(), absl::StatusCode::kInternal);
  engine_->Stop();
  EXPECT_EQ(failures, 1);
  EXPECT_EQ(engine_->Stats().kv_blocks_used, 0);
  EXPECT_TRUE(engine_->Drain(Clock::now()).ok());  // nothing is open
}

class EngineSurveyTest : public EngineTest, public ::testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(, EngineSurveyTest, ::testing::Bool());

TEST_P(EngineSurveyTest, NanLogitsEndTheirChoiceOnly) {
  Make(Config(), {}, /*start=*/false);
  if (GetParam()) executor_->SurveyWith({0, 20, 40}, 8);
  const Request bad = Prompt(20);
  const Request good = Prompt(33);
  executor_->nan_token = bad.prompt_ids.back();
  ASSERT_NE(bad.prompt_ids.back(), good.prompt_ids.back());
  Collector a(1), b(1);
  Submit(bad, a);
  Submit(good, b);
  engine_->Start();
  ASSERT_TRUE(a.Wait());
  ASSERT_TRUE(b.Wait());
  EXPECT_EQ(a.choice().last.finish, FinishReason::kError);
  EXPECT_EQ(a.choice().last.status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(a.choice().last.status.message()), HasSubstr("NAN_LOGITS"));
  EXPECT_TRUE(engine_->Failure().ok());
}

TEST_F(EngineTest, SurveyedRowsGiveTheSameTokens) {
  Make(Config(), {}, /*start=*/false);
  executor_->SurveyWith({0, 11, 12, 40}, 6);
  const SamplingParams all[] = {
      {.temperature = 0},
      {.temperature = 1},
      {.temperature = 0.6f, .top_p = 0.95f},  // wider than the candidates, at times
      {.temperature = 0.3f, .top_p = 0.5f},
      {.temperature = 0.6f, .top_k = 5, .top_p = 0.95f},
      {.temperature = 1, .top_k = 20},  // more than are listed
      {.temperature = 1, .min_p = 0.2f},
      {.temperature = 0, .frequency_penalty = 1.0f},
  };
  std::vector<Request> requests;
  std::vector<std::unique_ptr<Collector>> collectors;
  for (const SamplingParams& params : all) {
    Request request = Prompt(3 + static_cast<int32_t>(requests.size()), params);
    request.sampling.max_tokens = 40;
    request.sampling.ignore_eos = true;
    request.sampling.seed = 5;
    collectors.push_back(std::make_unique<Collector>(1));
    Submit(request, *collectors.back());
    requests.push_back(std::move(request));
  }
  engine_->Start();
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSERT_TRUE(collectors[i]->Wait());
    EXPECT_EQ(collectors[i]->choice().tokens, Oracle(requests[i], 0, config_).tokens) << i;
  }
  engine_->Stop();
  EXPECT_EQ(executor_->surveyed_rows, 6 * 40);
  EXPECT_GT(executor_->fetched_rows, 0);
  EXPECT_LE(executor_->fetched_rows, 2 * 40);
}

TEST_F(EngineTest, LogprobsComeWithTheirTokens) {
  Make();
  Request request = Prompt(20, {.max_tokens = 4, .ignore_eos = true, .logprobs = 3});
  Collector collector(1);
  collector.more = [](const Event& event) {
    EXPECT_EQ(event.token_ids.size(), 1u);
    EXPECT_EQ(event.chosen_logprobs.size(), 1u);
    EXPECT_EQ(event.chosen_logprobs[0].token_id, event.token_ids[0]);
    EXPECT_LT(event.chosen_logprobs[0].logprob, 0.0f);
    EXPECT_EQ(event.top_logprobs.size(), 1u);
    EXPECT_EQ(event.top_logprobs[0].size(), 3u);
    return true;
  };
  Submit(request, collector);
  ASSERT_TRUE(collector.Wait());
  EXPECT_EQ(collector.choice().last.top_logprobs[0].size(), 3u);
}

TEST_F(EngineTest, DrainWaitsForOpenRequestsAndRefusesNewOnes) {
  Make(Config(), {}, /*start=*/false);
  Gate gate;
  executor_->before_step = gate.Hook();
  engine_->Start();
  Collector a(1), b(1);
  Submit(Prompt(20), a);
  gate.WaitForStep(1);
  auto drained = std::async(
      std::launch::async, [&] { return engine_->Drain(Clock::now() + std::chrono::seconds(60)); });
  // The drain begins at its own time; until then the queue may also fill up.
  absl::Status refused;
  const auto limit = Clock::now() + kLimit;
  while (refused.code() != absl::StatusCode::kUnavailable && Clock::now() < limit) {
    refused =
        engine_->Submit(Prompt(5, {.max_tokens = 1}), [](const Event&) { return true; }).status();
    std::this_thread::yield();
  }
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  gate.Open();
  EXPECT_TRUE(drained.get().ok());
  EXPECT_EQ(a.choice().last.finish, FinishReason::kLength);
  EXPECT_EQ(a.choice().tokens.size(), 8u);
}

TEST_F(EngineTest, DrainsDeadlineEndsWhatIsOpen) {
  Make(Config(), {}, /*start=*/false);
  Gate gate;
  executor_->before_step = gate.Hook();
  engine_->Start();
  Collector a(1);
  Submit(Prompt(20), a);
  gate.WaitForStep(1);
  EXPECT_EQ(engine_->Drain(Clock::now() + std::chrono::milliseconds(20)).code(),
            absl::StatusCode::kDeadlineExceeded);
  gate.Open();
  ASSERT_TRUE(a.Wait());
  EXPECT_EQ(a.choice().last.finish, FinishReason::kError);
  EXPECT_EQ(a.choice().last.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(a.choice().tokens.size(), 1u);
}

TEST_F(EngineTest, StopEndsOpenRequests) {
  Make(Config(), {}, /*start=*/false);
  Gate gate;
  executor_->before_step = gate.Hook();
  engine_->Start();
  Collector a(1), never_started(1);
  Submit(Prompt(20), a);
  gate.WaitForStep(1);
  auto stopped = std::async(std::launch::async, [&] { engine_->Stop(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  gate.Open();
  ASSERT_EQ(stopped.wait_for(kLimit), std::future_status::ready);
  ASSERT_TRUE(a.Wait());
  engine_->Stop();

  Make(Config(), {}, /*start=*/false);
  Submit(Prompt(20), never_started);
  engine_->Stop();
  ASSERT_TRUE(never_started.Wait());
  EXPECT_EQ(never_started.choice().last.status.code(), absl::StatusCode::kUnavailable);
}

TEST_F(EngineTest, IdleHookTicksOnlyWhenIdleAndItsErrorIsFinal) {
  std::atomic<int> ticks = 0;
  std::promise<absl::Status> failed;
  EngineHooks hooks;
  hooks.idle_interval = std::chrono::milliseconds(5);
  hooks.on_idle = [&] {
    return ++ticks < 4 ? absl::OkStatus() : absl::DeadlineExceededError("rank 1 is silent");
  };
  hooks.on_failure = [&](const absl::Status& status) { failed.set_value(status); };
  Make(Config(), hooks);
  std::future<absl::Status> failure = failed.get_future();
  ASSERT_EQ(failure.wait_for(kLimit), std::future_status::ready);
  EXPECT_EQ(failure.get().message(), "rank 1 is silent");
  EXPECT_EQ(ticks, 4);
  EXPECT_EQ(engine_->Submit(Prompt(5), [](const Event&) { return true; }).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(EngineTest, AnIdleEngineUsesNoCpu) {
  Make();
  EXPECT_LT(testing::IdleCpuSeconds(std::chrono::milliseconds(500)), 0.01);
}

TEST_F(EngineTest, ManyThreadsSubmitAndCancel) {
  EngineConfig config = Config();
  config.num_blocks = 20;
  Make(config);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 25; ++i) {
        const Request request = Prompt(1 + (t * 25 + i) % 70);
        Collector collector(1);
        const auto id = engine_->Submit(request, collector.Sink());
        if (!id.ok()) {
          ++wrong;
          continue;
        }
        if (i % 3 == 0) engine_->Cancel(*id);
        engine_->Stats();
        if (!collector.Wait()) ++wrong;
        const auto choice = collector.choice();
        if (choice.last.finish == FinishReason::kLength &&
            choice.tokens != Oracle(request, 0, config_).tokens) {
          ++wrong;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_TRUE(Eventually(
      *engine_, [](const auto& s) { return s.requests_finished == 100 && s.kv_blocks_used == 0; }));
}

TEST(EngineResume, GoesOnFromTokensThatAnEarlierRunMade) {
  const EngineConfig config = Config();
  SamplingParams params = {
      .temperature = 0.8f, .repetition_penalty = 1.3f, .seed = 11, .max_tokens = 30};
  for (int32_t first_choice : {0, 2}) {
    Request whole = Prompt(19, params);
    whole.first_choice = first_choice;
    const Expected expected = Oracle(whole, first_choice, config);
    for (size_t known = 0; known < expected.tokens.size(); ++known) {
      FakeExecutor executor(config);
      auto engine = *Engine::Create(config, &executor);
      Request rest = whole;
      rest.output_ids.assign(expected.tokens.begin(),
                             expected.tokens.begin() + static_cast<ptrdiff_t>(known));
      Collector collector(1);
      ASSERT_TRUE(engine->Submit(rest, collector.Sink()).ok());
      engine->Start();
      ASSERT_TRUE(collector.Wait());
      const std::vector<int32_t> made = collector.choice().tokens;
      EXPECT_EQ(made, std::vector<int32_t>(expected.tokens.begin() + static_cast<ptrdiff_t>(known),
                                           expected.tokens.end()));
      EXPECT_EQ(collector.choice().last.finish, expected.finish);
      EXPECT_EQ(collector.choice().last.completion_tokens,
                static_cast<int32_t>(expected.tokens.size()));
    }
  }
}

TEST(EngineResume, RefusesWhatCannotGoOn) {
  const EngineConfig config = Config();
  FakeExecutor executor(config);
  auto engine = *Engine::Create(config, &executor);
  const auto sink = [](const Event&) { return true; };
  Request request = Prompt(4);
  request.output_ids.assign(8, 1);  // all of max_tokens
  EXPECT_EQ(engine->Submit(request, sink).status().code(), absl::StatusCode::kInvalidArgument);
  request.output_ids = {40};
  EXPECT_EQ(engine->Submit(request, sink).status().code(), absl::StatusCode::kInvalidArgument);
  request.output_ids = {1};
  request.sampling.n = 2;
  EXPECT_EQ(engine->Submit(request, sink).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tandem::engine
