// Row-parallel products over ranks as threads: equal bits at every degree.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <thread>

#include "kernels/ref/ref_backend.h"
#include "parallel/all_gather.h"
#include "parallel/all_reduce_trial.h"
#include "parallel/linear.h"
#include "parallel/step_channel.h"
#include "parallel/thread_communicator.h"

namespace tandem::parallel {
namespace {

class MemorySource : public WeightSource {
 public:
  MemorySource(int64_t rows, int64_t columns, uint32_t seed) : rows_(rows), columns_(columns) {
    std::mt19937 random(seed);
    std::normal_distribution<float> value(0, 1);
    for (int64_t i = 0; i < rows * columns; ++i) data_.push_back(value(random));
  }
  kernels::DType dtype() const override { return kernels::DType::kF32; }
  int64_t rows() const override { return rows_; }
  int64_t columns() const override { return columns_; }
  std::string name() const override { return "memory"; }
  absl::Status CopyBlock(Range rows, Range columns, std::byte* dst,
                         size_t dst_stride) const override {
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      std::memcpy(dst + (r - rows.begin) * dst_stride, &data_[r * columns_ + columns.begin],
                  columns.size() * sizeof(float));
    }
    return absl::OkStatus();
  }

 private:
  int64_t rows_, columns_;
  std::vector<float> data_;
};

TEST(ThreadWorld, RowParallelHasTheSameBitsAtAnyDegree) {
  const ModelShape shape = {96, 428, 6, 2, 24, 131};
  const MemorySource weight(shape.hidden, shape.intermediate, 1);
  const int64_t tokens = 3;
  std::mt19937 random(2);
  std::normal_distribution<float> value(0, 1);
  std::vector<float> x(tokens * shape.intermediate);
  for (float& v : x) v = value(random);
  std::vector<float> expected;
  for (int tp = 1; tp <= 16; ++tp) {
    const ShardPlan plan = ShardPlan::Make(shape, tp);
    ThreadWorld world(tp);
    std::vector<std::vector<float>> results(tp);
    std::vector<std::thread> ranks;
    for (int rank = 0; rank < tp; ++rank) {
      ranks.emplace_back([&, rank] {
        const auto backend = kernels::MakeRefBackend();
        const auto communicator = world.Make(rank);
        const RankShard& shard = plan.ranks[rank];
        MemorySource mine = weight;
        const auto layer = *RowParallelLinear::Load(
            *backend, mine, nullptr, FfnLeafSize(shape.intermediate), shard.ffn_leaves);
        std::vector<float> local(tokens * shard.ffn.size() + 1);
        for (int64_t t = 0; t < tokens; ++t) {
          std::memcpy(local.data() + t * shard.ffn.size(),
                      x.data() + t * shape.intermediate + shard.ffn.begin,
                      shard.ffn.size() * sizeof(float));
        }
        std::vector<float> partials(layer.subtrees() * tokens * shape.hidden + 1);
        results[rank].resize(tokens * shape.hidden);
        layer.Forward(*backend, local.data(), tokens, partials.data());
        EXPECT_TRUE(communicator
                        ->AllReduce(communicator->PlanReduce(plan.ffn_tree), partials.data(),
                                    tokens * shape.hidden, results[rank].data())
                        .ok());
      });
    }
    for (std::thread& rank : ranks) rank.join();
    if (tp == 1) expected = results[0];
    for (const auto& result : results) ASSERT_EQ(result, expected) << "TP " << tp;
  }
}

TEST(ThreadWorld, StatusIsAgreedOn) {
  ThreadWorld world(3);
  std::vector<absl::Status> agreed(3);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 3; ++rank) {
    ranks.emplace_back([&, rank] {
      const auto communicator = world.Make(rank);
      EXPECT_TRUE(AgreeOnStatus(communicator->control(), absl::OkStatus()).ok());
      agreed[rank] =
          AgreeOnStatus(communicator->control(),
                        rank == 1 ? absl::NotFoundError("no such file") : absl::OkStatus());
    });
  }
  for (std::thread& rank : ranks) rank.join();
  for (const absl::Status& status : agreed) {
    EXPECT_EQ(status, absl::NotFoundError("rank 1: no such file"));
  }
}

struct Place {
  int64_t node;
  bool first;
  bool operator==(const Place&) const = default;
};

TEST(AllGather, EveryRankGetsEveryValueByRank) {
  ThreadWorld world(3);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 3; ++rank) {
    ranks.emplace_back([&, rank] {
      const auto group = world.Make(rank);
      EXPECT_EQ(*AllGather(group->control(), Place{rank * 10, rank == 0}),
                (std::vector<Place>{{0, true}, {10, false}, {20, false}}));
      EXPECT_EQ(*AllGather(group->control(), rank == 1), (std::vector<bool>{false, true, false}));
      EXPECT_EQ(*AllGather(group->control(), std::string(rank, 'a')),
                (std::vector<std::string>{"", "a", "aa"}));
      EXPECT_EQ(*AllGatherVectors(group->control(), std::vector<int>(rank, rank)),
                (std::vector<std::vector<int>>{{}, {1}, {2, 2}}));
    });
  }
  for (std::thread& rank : ranks) rank.join();
}

TEST(AllGather, ValuesOfAnotherSizeAreAnError) {
  ThreadWorld world(2);
  std::vector<absl::Status> found(2);
  std::thread other([&] {
    const auto group = world.Make(1);
    found[1] = AllGather(group->control(), int64_t{1}).status();
    EXPECT_TRUE(AllGatherVectors(group->control(), std::vector<char>(5)).ok());
  });
  const auto group = world.Make(0);
  found[0] = AllGather(group->control(), int32_t{1}).status();
  EXPECT_EQ(AllGatherVectors(group->control(), std::vector<int>{1}).status().code(),
            absl::StatusCode::kInternal);
  other.join();
  EXPECT_EQ(found[0], absl::InternalError("exchange between ranks: found 8 bytes from rank 1, "
                                          "expected 4"));
  EXPECT_EQ(found[1], absl::InternalError("exchange between ranks: found 4 bytes from rank 0, "
                                          "expected 8"));
}

// A rank that went by its own time, with all digits, might choose another way than the others.
TEST(AllReduceTrial, RanksGoByTheSameTimes) {
  ThreadWorld world(3);
  double microseconds[3] = {};
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 3; ++rank) {
    threads.emplace_back([&, rank] {
      const auto host = world.Make(rank);
      const ReducePlan plan = host->PlanReduce(TreeLayout::OfRanks(3));
      const auto trial = TryAllReduce(host->control(), "way", 4, 1,
                                      [&](const std::vector<float>& mine, int,
                                          std::vector<float>& sum) -> absl::StatusOr<double> {
                                        const absl::Status status =
                                            host->AllReduce(plan, mine.data(), 4, sum.data());
                                        if (!status.ok()) return status;
                                        return rank == 1 ? 0.12345649 : 0.1;
                                      });
      ASSERT_TRUE(trial.ok() && trial->status.ok());
      microseconds[rank] = trial->microseconds;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(microseconds[1], microseconds[0]);
  EXPECT_EQ(microseconds[2], microseconds[0]);
}

TEST(ThreadWorld, AbortEndsEveryWait) {
  ThreadWorld world(2);
  std::thread waiting(
      [&] { EXPECT_EQ(world.Make(0)->control().Barrier().code(), absl::StatusCode::kAborted); });
  world.Abort();
  waiting.join();
}

TEST(ThreadWorld, EveryRankGetsEveryPlanInOrder) {
  ThreadStepChannel channel(3);
  std::vector<std::thread> ranks;
  for (int rank = 1; rank < 3; ++rank) {
    ranks.emplace_back([&, rank] {
      const auto end = channel.End(rank);
      for (int i = 0; i < 100; ++i) {
        const auto message = *end->Receive();
        ASSERT_EQ(message.size(), static_cast<size_t>(i % 7 + 1));
        ASSERT_EQ(std::to_integer<int>(message[0]), i);
      }
    });
  }
  const auto end = channel.End(0);
  for (int i = 0; i < 100; ++i) {
    const std::vector<std::byte> message(i % 7 + 1, static_cast<std::byte>(i));
    ASSERT_TRUE(end->Send(message).ok());
  }
  for (std::thread& rank : ranks) rank.join();
}

}  // namespace
}  // namespace tandem::parallel
