// The whole engine over ranks that compute on (emulated) GPUs: choosing tokens on the GPUs
// gives those that whole rows of logits give, at every degree and with all settings in one batch.
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <random>

#include "kernels/cuda/cuda_backend.h"
#include "parallel/device_communicator.h"
#include "parallel/step_channel.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/model_runner.h"
#include "tests/support/model_world.h"
#include "tests/support/warm_products.h"

namespace tandem {
namespace {

using engine::SamplingParams;
using Tokens = std::vector<std::vector<int32_t>>;  // of each request

std::vector<engine::Request> Requests(int32_t vocab) {
  const SamplingParams all[] = {
      {.temperature = 0},
      {.temperature = 0.6f, .top_p = 0.95f},
      {.temperature = 0.6f, .top_p = 0.9f},
      {.temperature = 1},
      {.temperature = 0.6f, .top_k = 20, .top_p = 0.95f},
      {.temperature = 1, .min_p = 0.02f},
      {.temperature = 5, .top_p = 0.999f},  // more than are listed
      {.temperature = 1, .top_k = 100},
      {.temperature = 0, .repetition_penalty = 1.3f},
      {.temperature = 0.7f, .logprobs = 2},
      {.temperature = 1, .logit_bias = {{3, 2.0f}}},
      {.temperature = 1, .top_k = 1},
  };
  std::mt19937 random(5);
  std::vector<engine::Request> requests;
  for (const SamplingParams& params : all) {
    engine::Request request;
    const size_t length = 1 + random() % 20;
    for (size_t i = 0; i < length; ++i) {
      request.prompt_ids.push_back(static_cast<int32_t>(random() % vocab));
    }
    request.sampling = params;
    request.sampling.seed = 40 + requests.size();
    request.sampling.max_tokens = 8;
    requests.push_back(std::move(request));
  }
  return requests;
}

// Passes plans on and counts; hides the surveys where rows are to come whole, else all but the
// first candidates: a small vocabulary would be listed whole.
class Executor : public engine::StepExecutor, private engine::RowSurveys {
 public:
  Executor(engine::StepExecutor& inner, bool surveys) : inner_(inner), surveys_(surveys) {}
  absl::Status Execute(const engine::StepPlan& plan, std::span<float> logits) override {
    for (const kernels::SampleRequest& request : plan.sampling) {
      surveyed += request.kind != kernels::SampleKind::kWhole ? 1 : 0;
    }
    return inner_.Execute(plan, logits);
  }
  engine::RowSurveys* surveys() override { return surveys_ ? this : nullptr; }

  int64_t surveyed = 0, fetched = 0;

 private:
  static constexpr size_t kCandidates = 24;
  int32_t candidates() const override { return kCandidates; }
  std::span<const kernels::RankSurvey> Of(int32_t row) override {
    const auto all = inner_.surveys()->Of(row);
    ranks_.assign(all.begin(), all.end());
    cut_.resize(all.size());
    for (size_t r = 0; r < all.size(); ++r) {
      if (all[r].candidates.size() <= kCandidates) continue;
      cut_[r] = *all[r].survey;
      cut_[r].complete = 0;
      ranks_[r] = {&cut_[r], all[r].candidates.first(kCandidates)};
    }
    return ranks_;
  }
  absl::Status FetchRows(std::span<const int32_t> rows, std::span<float> logits) override {
    fetched += static_cast<int64_t>(rows.size());
    return inner_.surveys()->FetchRows(rows, logits);
  }

  engine::StepExecutor& inner_;
  const bool surveys_;
  std::vector<kernels::RankSurvey> ranks_;
  std::vector<kernels::RowSurvey> cut_;
};

struct Setting {
  int tp = 1;
  std::string way = "staged";
  bool surveys = true;
  int64_t recorded_sequences = 0;
};

Tokens Serve(const Setting& setting) {
  Tokens tokens;
  parallel::ThreadStepChannel channel(setting.tp);
  testing::WorldOptions options = {.tp = setting.tp,
                                   .num_blocks = 64,
                                   .max_tokens = 128,
                                   .recorded_sequences = setting.recorded_sequences};
  options.make_backend = [] {
    return kernels::MakeCudaBackend({.deterministic = true, .scratch_bytes = 256 << 10});
  };
  options.make_communicator = [&](kernels::Backend& backend, parallel::Communicator& host) {
    testing::WarmProducts(backend);
    return parallel::MakeDeviceCommunicator(host,
                                            {.stream = kernels::CudaBackend::Of(backend).stream(),
                                             .max_floats = 128 << 10,
                                             .max_gathered = 128 << 10,
                                             .step_timeout = std::chrono::minutes(1),
                                             .deterministic = true,
                                             .way = setting.way});
  };
  const absl::Status status = testing::RunWorld(
      SourcePath("tests/golden/logits/qwen3_untied"), options, [&](testing::Rank& rank) {
        // Before any step there is no row.
        EXPECT_EQ(rank.decoder.GatherRows(std::vector<int32_t>{0}, nullptr).code(),
                  absl::StatusCode::kInternal);
        const auto end = channel.End(rank.index);
        if (rank.index != 0) {
          EXPECT_TRUE(engine::RunWorker(rank.decoder, *end, rank.control).ok());
          return;
        }
        engine::ModelRunner runner(&rank.decoder, setting.tp > 1 ? end.get() : nullptr,
                                   &rank.control);
        Executor executor(runner, setting.surveys);
        engine::EngineConfig config;
        config.vocab_size = static_cast<int32_t>(rank.decoder.config().vocab_size);
        config.max_model_len = 64;
        config.num_blocks = 64;
        config.max_num_seqs = 16;
        config.max_batched_tokens = 32;
        auto engine = *engine::Engine::Create(config, &executor);
        const std::vector<engine::Request> requests = Requests(config.vocab_size);
        tokens.resize(requests.size());
        std::mutex mutex;
        std::condition_variable finished;
        size_t done = 0;
        for (size_t i = 0; i < requests.size(); ++i) {
          const auto id = engine->Submit(requests[i], [&, i](const engine::Event& event) {
            tokens[i].insert(tokens[i].end(), event.token_ids.begin(), event.token_ids.end());
            if (event.finish == engine::FinishReason::kNone) return true;
            EXPECT_EQ(event.finish, engine::FinishReason::kLength) << event.status;
            const std::lock_guard lock(mutex);
            ++done;
            finished.notify_all();
            return true;
          });
          EXPECT_TRUE(id.ok()) << id.status();
        }
        engine->Start();
        {
          std::unique_lock lock(mutex);
          EXPECT_TRUE(finished.wait_for(lock, std::chrono::minutes(5),
                                        [&] { return done == requests.size(); }));
        }
        engine->Stop();
        if (setting.surveys) {
          EXPECT_EQ(executor.surveyed, 8 * 8);
          EXPECT_GT(executor.fetched, 0);
          EXPECT_LT(executor.fetched, 4 * 8);
        } else {
          EXPECT_EQ(executor.surveyed, 0);
        }
        EXPECT_TRUE(runner.Shutdown().ok());
      });
  EXPECT_TRUE(status.ok()) << status;
  return tokens;
}

TEST(CudaEngine, SurveyedRowsGiveTheTokensOfWholeOnes) {
  const Tokens whole = Serve({.surveys = false});
  EXPECT_EQ(Serve({.recorded_sequences = 16}), whole);
  EXPECT_EQ(Serve({.tp = 2, .way = "staged"}), whole);
  EXPECT_EQ(Serve({.tp = 2, .way = "nccl"}), whole);
  EXPECT_EQ(Serve({.tp = 3, .way = "peer"}), whole);
}

}  // namespace
}  // namespace tandem
