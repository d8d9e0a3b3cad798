// Promise P1: the logits of a sequence depend on weights and tokens alone. All
// comparisons are for equality.
#include <gtest/gtest.h>

#include <random>

#include "tests/support/model_world.h"

namespace tandem {
namespace {

using testing::Rank;
using testing::RunWorld;
using testing::Sequence;
using testing::Step;
using testing::WorldOptions;

constexpr const char* kModels[] = {"llama_gqa", "llama_ffn_172", "qwen3_untied", "llama_mqa",
                                   "llama_biases"};
constexpr int32_t kLength = 50;

std::vector<int32_t> Tokens(uint32_t seed, int32_t vocab) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(kLength);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % vocab);
  return ids;
}

Sequence MakeSequence(uint32_t seed, int32_t vocab, int32_t first_block) {
  Sequence sequence = {.ids = Tokens(seed, vocab)};
  // Blocks in no order, as a block manager hands them out.
  for (int32_t b = 0; b < 4; ++b) sequence.blocks.push_back(first_block + (b * 3 + 2) % 4);
  return sequence;
}

// Last logits of sequence 1 after all its tokens.
using Scenario = std::function<std::vector<float>(Rank&)>;

std::vector<float> Alone(Rank& rank) {
  Sequence sequence = MakeSequence(1, rank.decoder.config().vocab_size, 0);
  Step step;
  step.Add(sequence, kLength);
  return rank.Forward(step);
}

std::vector<float> TokenByToken(Rank& rank) {
  Sequence sequence = MakeSequence(1, rank.decoder.config().vocab_size, 8);
  std::vector<float> logits;
  for (int32_t i = 0; i < kLength; ++i) {
    Step step;
    step.Add(sequence, 1);
    logits = rank.Forward(step);
  }
  return logits;
}

// Prefilled in chunks of 7 among others that move at their own paces.
std::vector<float> InCompany(Rank& rank) {
  const int32_t vocab = rank.decoder.config().vocab_size;
  Sequence mine = MakeSequence(1, vocab, 20);
  std::vector<Sequence> others;
  for (int32_t s = 0; s < 5; ++s) others.push_back(MakeSequence(10 + s, vocab, 30 + 4 * s));
  std::vector<float> logits;
  for (int32_t round = 0; mine.computed < kLength; ++round) {
    Step step;
    size_t my_row = 0;
    for (int32_t s = 0; s < 5; ++s) {
      const int32_t take = std::min((round + s) % 4, kLength - others[s].computed);
      if (take > 0) step.Add(others[s], take);
      if (s == 2) {
        my_row = step.rows.size();
        step.Add(mine, std::min(7, kLength - mine.computed));
      }
    }
    const std::vector<float> all = rank.Forward(step);
    logits.assign(all.begin() + my_row * vocab, all.begin() + (my_row + 1) * vocab);
  }
  return logits;
}

std::vector<float> LogitsOf(const std::string& model, const WorldOptions& options,
                            const Scenario& scenario) {
  std::vector<float> logits;
  const absl::Status status =
      RunWorld(SourcePath("tests/golden/logits/" + model), options, [&](Rank& rank) {
        std::vector<float> mine = scenario(rank);
        if (rank.index == 0) logits = std::move(mine);
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_FALSE(logits.empty());
  return logits;
}

TEST(SameBits, AtEveryDegreeThreadCountAndComposition) {
  for (const char* model : kModels) {
    const std::vector<float> expected = LogitsOf(model, {.tp = 1}, Alone);
    for (int tp : {1, 2, 3, 4, 5, 6, 7, 8, 11}) {
      EXPECT_EQ(LogitsOf(model, {.tp = tp}, Alone), expected) << model << " TP " << tp;
      EXPECT_EQ(LogitsOf(model, {.tp = tp}, InCompany), expected)
          << model << " in company, TP " << tp;
    }
    for (int tp : {1, 3}) {
      EXPECT_EQ(LogitsOf(model, {.tp = tp}, TokenByToken), expected) << model << " by token";
      EXPECT_EQ(LogitsOf(model, {.tp = tp, .threads = 3}, InCompany), expected)
          << model << " threads";
    }
    EXPECT_EQ(LogitsOf(model, {.tp = 2, .isa = "ref"}, InCompany), expected) << model << " scalar";
  }
}

TEST(SameBits, WithANarrowCache) {
  using kernels::KvDType;
  for (KvDType kv : {KvDType::kF16, KvDType::kBF16, KvDType::kI8}) {
    const std::vector<float> expected = LogitsOf("llama_gqa", {.kv_dtype = kv}, Alone);
    for (int tp : {2, 3, 8}) {
      EXPECT_EQ(LogitsOf("llama_gqa", {.tp = tp, .kv_dtype = kv}, InCompany), expected);
      EXPECT_EQ(LogitsOf("llama_gqa", {.tp = tp, .kv_dtype = kv}, TokenByToken), expected);
      EXPECT_EQ(LogitsOf("llama_gqa", {.tp = tp, .threads = 3, .kv_dtype = kv}, InCompany),
                expected);
    }
  }
}

// Promise P2: bytes read and held are the rank's own.
TEST(OwnShard, BytesAreAsPlanned) {
  for (const char* model : kModels) {
    for (int tp : {1, 2, 3, 5}) {
      std::vector<uint64_t> read(tp), weights(tp), embedding(tp);
      const absl::Status status = RunWorld(SourcePath("tests/golden/logits/" + std::string(model)),
                                           {.tp = tp}, [&](Rank& rank) {
                                             read[rank.index] = rank.decoder.bytes_read();
                                             weights[rank.index] = rank.decoder.bytes().weights;
                                             embedding[rank.index] = rank.decoder.bytes().embedding;
                                           });
      ASSERT_TRUE(status.ok()) << status;
      const auto folder =
          *loader::ModelFolder::Open(SourcePath("tests/golden/logits/" + std::string(model)));
      const auto config = *loader::ReadConfig(folder);
      const auto checkpoint = *loader::Checkpoint::Open(folder);
      const auto plan = parallel::ShardPlan::Make(model::ShapeOf(config), tp);
      const auto backend = *kernels::MakeCpuBackend("auto", {.threads = 1});
      for (int r = 0; r < tp; ++r) {
        const model::DecoderBytes bytes =
            model::Decoder::Plan(config, *checkpoint, plan, r, *backend,
                                 {.num_blocks = 256,
                                  .max_tokens = 1024,
                                  .max_rows = 64,
                                  .embedding = {.part = r, .parts = tp}});
        EXPECT_EQ(bytes.weights, weights[r]) << model << " rank " << r << " of " << tp;
        // Packing pads rows to 16 and widens vectors to fp32, so no more than the
        // plan is ever read.
        EXPECT_EQ(bytes.embedding, embedding[r]) << model << " rank " << r << " of " << tp;
        EXPECT_LE(read[r], bytes.weights + bytes.embedding)
            << model << " rank " << r << " of " << tp;
        EXPECT_GT(read[r], 0u);
      }
    }
  }
}

}  // namespace
}  // namespace tandem
