// Shared-memory collectives with ranks as threads, each with a mapping of its own, and as processes
// that die or stop.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <thread>

#include "parallel/host_communicator.h"
#include "parallel/shm_communicator.h"
#include "parallel/thread_communicator.h"
#include "tests/parallel/check_collectives.h"

namespace tandem::parallel {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

void RunRanks(int size, const std::function<void(int)>& body) {
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < size; ++rank) ranks.emplace_back(body, rank);
  for (std::thread& rank : ranks) rank.join();
}

TEST(ShmWorld, CollectivesAtManyDegrees) {
  for (const bool spin : {false, true}) {
    for (const int size : spin ? std::vector<int>{2} : std::vector<int>{2, 3, 4, 7}) {
      ThreadWorld world(size);
      RunRanks(size, [&](int rank) {
        const auto start = world.Make(rank);
        const auto host = ShmHost::Create(start->control(), std::vector<int>(size, 0),
                                          {.slot_bytes = 16 << 10, .spin = spin});
        ASSERT_TRUE(host.ok()) << host.status();
        const auto communicator =
            MakeShmCommunicator(**host, start->control(), milliseconds(20000));
        const auto channel = MakeShmStepChannel(**host, {milliseconds(20000), milliseconds(20000)});
        EXPECT_THAT(CollectivesCheck(*communicator, channel.get()).Run(), IsEmpty());
      });
    }
  }
}

// Hosts as groups of threads: contiguous, in turns, and of unlike sizes.
TEST(ShmWorld, HostsGiveTheSameBits) {
  const std::vector<std::vector<int>> worlds = {{0, 0, 1, 1},   {0, 1, 0, 1}, {0, 1, 1},
                                                {0, 0, 0, 1},   {0, 1, 2},    {0, 1, 0, 2, 1, 0, 2},
                                                {0, 1, 1, 0, 0}};
  for (const std::vector<int>& host_of : worlds) {
    const int size = static_cast<int>(host_of.size());
    const int hosts = 1 + *std::max_element(host_of.begin(), host_of.end());
    ThreadWorld world(size), leaders(hosts);
    ThreadStepChannel leader_channel(hosts);
    RunRanks(size, [&](int rank) {
      const auto all = world.Make(rank);
      const auto host =
          ShmHost::Create(all->control(), host_of, {.slot_bytes = 16 << 10, .spin = false});
      ASSERT_TRUE(host.ok()) << host.status();
      const bool leads = (*host)->local_rank() == 0;
      std::unique_ptr<Communicator> between;
      std::unique_ptr<StepChannel> channel;
      if (leads) {
        between = leaders.Make(host_of[rank]);
        channel = leader_channel.End(host_of[rank]);
      }
      const auto communicator =
          MakeHostCommunicator(**host, host_of, std::move(between), *all, milliseconds(20000));
      const auto plans =
          MakeHostStepChannel(std::move(channel), MakeShmStepChannel(**host, {}), rank == 0);
      EXPECT_THAT(CollectivesCheck(*communicator, plans.get()).Run(), IsEmpty());
    });
  }
}

TEST(TreeLayout, GroupsAddUpWhatTheyOwn) {
  // Four ranks with four leaves each; neighbours share a host.
  const TreeLayout layout =
      TreeLayout::Make(16, std::vector<kernels::LeafRange>{{0, 4}, {4, 8}, {8, 12}, {12, 16}});
  const TreeLayout pairs = layout.Grouped(std::vector<int>{0, 0, 1, 1}, 2);
  EXPECT_EQ(pairs.nodes, (std::vector<kernels::LeafRange>{{0, 8}, {8, 16}}));
  EXPECT_EQ(pairs.rank_begin, (std::vector<int64_t>{0, 1, 2}));
  // Ranks in turns: no host owns two neighbours, and numbers are not in the tree's order.
  const TreeLayout turns = layout.Grouped(std::vector<int>{0, 1, 0, 1}, 2);
  EXPECT_EQ(turns.nodes, layout.nodes);
  EXPECT_EQ(turns.place, (std::vector<int64_t>{0, 2, 1, 3}));
  // One host owns all.
  EXPECT_EQ(layout.Grouped(std::vector<int>(4, 0), 1).nodes,
            (std::vector<kernels::LeafRange>{{0, 16}}));
}

TEST(ShmWorld, AMissingRankIsNamedInTime) {
  ThreadWorld world(3);
  std::vector<absl::Status> found(3);
  RunRanks(3, [&](int rank) {
    const auto start = world.Make(rank);
    const auto host = ShmHost::Create(start->control(), std::vector<int>(3, 0), {});
    ASSERT_TRUE(host.ok());
    const auto communicator = MakeShmCommunicator(**host, start->control(), milliseconds(200));
    if (rank == 1) return;
    const auto before = std::chrono::steady_clock::now();
    found[rank] = communicator->control().Barrier();
    EXPECT_LT(std::chrono::steady_clock::now() - before, milliseconds(10000));
  });
  for (const int rank : {0, 2}) {
    EXPECT_EQ(found[rank].code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(found[rank].message()),
                HasSubstr(absl::StrCat("rank 1 has not answered rank ", rank, " for 200ms")));
  }
}

TEST(ShmWorld, ASilentRankZeroIsNamed) {
  ThreadWorld world(2);
  RunRanks(2, [&](int rank) {
    const auto start = world.Make(rank);
    const auto host = ShmHost::Create(start->control(), std::vector<int>(2, 0), {});
    ASSERT_TRUE(host.ok());
    const auto channel = MakeShmStepChannel(**host, {milliseconds(100), milliseconds(100)});
    if (rank == 1) {
      EXPECT_THAT(std::string(channel->Receive().status().message()),
                  HasSubstr("rank 0 has been silent for 100ms"));
    }
  });
}

TEST(ShmWorld, ARankThatTakesNoPlansIsNamed) {
  ThreadWorld world(2);
  RunRanks(2, [&](int rank) {
    const auto start = world.Make(rank);
    const auto host = ShmHost::Create(start->control(), std::vector<int>(2, 0), {});
    ASSERT_TRUE(host.ok());
    const auto channel = MakeShmStepChannel(**host, {milliseconds(100), milliseconds(100)});
    if (rank == 1) return;
    EXPECT_TRUE(channel->Send({}).ok());
    EXPECT_TRUE(channel->Send({}).ok());
    EXPECT_THAT(std::string(channel->Send({}).message()), HasSubstr("rank 1 has not answered"));
  });
}

// A rank that is killed, or stopped, between exchanges: the others give up and name it.
TEST(ShmWorld, AProcessThatDiesOrStopsIsNamed) {
  for (const int with_signal : {SIGKILL, SIGSTOP}) {
    ShmOptions options;
    auto segment = ShmSegment::Create(1 << 20);
    ASSERT_TRUE(segment.ok());
    ASSERT_TRUE(segment->Allocate(0, 1 << 20).ok());
    auto* flag = reinterpret_cast<ShmFlag*>(segment->data());
    const std::string handle = segment->handle();
    const pid_t child = fork();
    if (child == 0) {
      auto mine = ShmSegment::Open(handle, 1 << 20);
      if (!mine.ok()) _exit(1);
      for (uint32_t i = 1;; ++i) {
        ShmHost::Raise(*reinterpret_cast<ShmFlag*>(mine->data()), i);
        usleep(1000);
      }
    }
    // The only rank of its host can wait for any flag.
    SelfGroup self;
    const auto host = ShmHost::Create(self, std::vector<int>{0}, options);
    ASSERT_TRUE(host.ok());
    ASSERT_TRUE((*host)->Await(*flag, 5, milliseconds(10000)));
    kill(child, with_signal);
    const auto before = std::chrono::steady_clock::now();
    while ((*host)->Await(*flag, flag->value.load() + 1, milliseconds(300))) {
    }
    EXPECT_LT(std::chrono::steady_clock::now() - before, milliseconds(10000));
    kill(child, SIGKILL);
    EXPECT_EQ(waitpid(child, nullptr, 0), child);
  }
}

TEST(ShmSegment, WhatIsNotThereIsRefused) {
  EXPECT_EQ(ShmSegment::Open("/proc/1/fd/9999", 4096).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(ShmSegment::Open("/dev/null", 4096).status().message()),
              HasSubstr("--collectives mpi"));
  auto segment = ShmSegment::Create(4096);
  ASSERT_TRUE(segment.ok());
  ASSERT_TRUE(segment->Allocate(0, 4096).ok());
  EXPECT_EQ(ShmSegment::Open(segment->handle(), 8192).status().code(),
            absl::StatusCode::kFailedPrecondition);
  segment->Seal();
  EXPECT_FALSE(ShmSegment::Open(segment->handle(), 4096).ok());
}

TEST(ShmSegment, TooLittleMemoryIsAnErrorNotASignal) {
  // A limit of file sizes stands for memory that is short: the kernel refuses to make the pages. It
  // holds only where the file grows, so the file is cut before.
  auto segment = ShmSegment::Create(1 << 20);
  ASSERT_TRUE(segment.ok());
  ASSERT_EQ(truncate(segment->handle().c_str(), 0), 0);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {64 << 10, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status = segment->Allocate(0, 1 << 20);
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("1048576 bytes that this rank needs"));
}

}  // namespace
}  // namespace tandem::parallel
