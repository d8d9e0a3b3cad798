// Machines as hwloc describes them in a line; who gets which CPUs.
#include "runtime/rank/cpu_binding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <numeric>
#include <thread>

#include "absl/strings/str_cat.h"

namespace tandem::rank {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<int> Range(int begin, int end) {
  std::vector<int> cpus(end - begin);
  std::iota(cpus.begin(), cpus.end(), begin);
  return cpus;
}

std::vector<Binding> Bind(const std::string& machine, std::vector<RankCpus> ranks,
                          bool bind = true) {
  const auto topology = Topology::Synthetic(machine);
  EXPECT_TRUE(topology.ok()) << topology.status();
  return BindRanks(*topology, ranks, bind);
}

std::vector<Binding> Alike(const std::string& machine, int cpus, int ranks, int threads) {
  return Bind(machine, std::vector<RankCpus>(ranks, {Range(0, cpus), threads, 0}));
}

TEST(BindRanks, OneRankOfTwoThreadsAndTwoRanksOfOne) {
  const auto one = Alike("pack:1 core:2 pu:1", 2, 1, 2);
  EXPECT_THAT(one[0].cpus, ElementsAre(0, 1));
  EXPECT_TRUE(one[0].own_cores);
  const auto two = Alike("pack:1 core:2 pu:1", 2, 2, 1);
  EXPECT_THAT(two[0].cpus, ElementsAre(0));
  EXPECT_THAT(two[1].cpus, ElementsAre(1));
  EXPECT_TRUE(two[0].own_cores);
  EXPECT_THAT(two[1].description, HasSubstr("1 thread on CPUs 1, socket 0"));
}

TEST(BindRanks, ARankASocket) {
  // 2 sockets of 4 cores with 2 CPUs each: socket 1 begins at CPU 8.
  const auto ranks = Alike("pack:2 [numa] core:4 pu:2", 16, 2, 0);
  EXPECT_EQ(ranks[0].threads, 4);
  EXPECT_THAT(ranks[0].cpus, ElementsAre(0, 2, 4, 6));
  EXPECT_THAT(ranks[1].cpus, ElementsAre(8, 10, 12, 14));
  EXPECT_THAT(ranks[1].description, HasSubstr("socket 1"));
}

TEST(BindRanks, ThreeRanksOnTwoSocketsGetAsManyThreads) {
  const auto ranks = Alike("pack:2 [numa] core:4 pu:1", 8, 3, 0);
  EXPECT_THAT(ranks[0].cpus, ElementsAre(0, 1));
  EXPECT_THAT(ranks[1].cpus, ElementsAre(2, 3));
  EXPECT_THAT(ranks[2].cpus, ElementsAre(5, 6));
}

TEST(BindRanks, SecondCpusOfCoresOnlyWhereCoresRunOut) {
  EXPECT_THAT(Alike("pack:1 core:2 pu:2", 4, 1, 2)[0].cpus, ElementsAre(0, 2));
  EXPECT_THAT(Alike("pack:1 core:2 pu:2", 4, 1, 3)[0].cpus, ElementsAre(0, 2, 1));
  const auto ranks = Alike("pack:1 core:2 pu:2", 4, 2, 2);
  EXPECT_THAT(ranks[1].cpus, ElementsAre(2, 3));
}

TEST(BindRanks, MoreThreadsThanCpusAreNotBoundAndDoNotSpin) {
  const auto ranks = Alike("pack:1 core:2 pu:1", 2, 4, 0);
  for (const Binding& rank : ranks) {
    EXPECT_EQ(rank.threads, 1);
    EXPECT_THAT(rank.cpus, IsEmpty());
    EXPECT_FALSE(rank.own_cores);
    EXPECT_THAT(rank.description, HasSubstr("fewer CPUs than threads"));
  }
  EXPECT_FALSE(Alike("pack:1 core:2 pu:1", 2, 2, 2)[0].own_cores);
}

TEST(BindRanks, OnlyCpusThatAreAllowed) {
  // A container with CPUs 5 to 7 of 8.
  const auto ranks = Bind("pack:2 [numa] core:4 pu:1",
                          {{Range(5, 8), 0, 0}, {Range(5, 8), 0, 0}, {Range(5, 8), 0, 0}});
  EXPECT_THAT(ranks[0].cpus, ElementsAre(5));
  EXPECT_THAT(ranks[2].cpus, ElementsAre(7));
}

TEST(BindRanks, GivenCpusAreKept) {
  // As mpirun --map-by slot:PE=2 or srun --cpus-per-task would give them.
  const auto ranks = Bind("pack:1 core:8 pu:1", {{{2, 3}, 0, 0}, {{6, 7}, 0, 0}, {{0, 1}, 1, 0}});
  EXPECT_THAT(ranks[0].cpus, ElementsAre(2, 3));
  EXPECT_THAT(ranks[1].cpus, ElementsAre(6, 7));
  EXPECT_THAT(ranks[2].cpus, ElementsAre(0));
  // As mpirun --bind-to socket gives four ranks: two share each.
  const auto sockets =
      Bind("pack:2 [numa] core:4 pu:1",
           {{Range(0, 4), 0, 0}, {Range(4, 8), 0, 0}, {Range(0, 4), 0, 0}, {Range(4, 8), 0, 0}});
  EXPECT_THAT(sockets[2].cpus, ElementsAre(2, 3));
  EXPECT_THAT(sockets[3].cpus, ElementsAre(6, 7));
  // Overlaps that no rule explains are left to the system.
  const auto mixed = Bind("pack:1 core:4 pu:1", {{Range(0, 4), 1, 0}, {{1}, 1, 0}});
  EXPECT_THAT(mixed[0].cpus, IsEmpty());
  EXPECT_THAT(mixed[1].description, HasSubstr("overlap"));
}

TEST(BindRanks, AQuotaLimitsThreadsAndSpinning) {
  const auto chosen = Bind("pack:1 core:8 pu:1", {{Range(0, 8), 0, 4}, {Range(0, 8), 0, 4}});
  EXPECT_EQ(chosen[0].threads, 2);
  EXPECT_THAT(chosen[1].cpus, ElementsAre(4, 5));
  EXPECT_TRUE(chosen[0].own_cores);
  EXPECT_FALSE(Bind("pack:1 core:8 pu:1", {{Range(0, 8), 8, 4}})[0].own_cores);
}

TEST(BindRanks, NotIfNotWanted) {
  const auto ranks = Bind("pack:1 core:4 pu:1", {{Range(0, 4), 0, 0}, {Range(0, 4), 0, 0}}, false);
  EXPECT_EQ(ranks[0].threads, 2);
  EXPECT_THAT(ranks[0].cpus, IsEmpty());
  EXPECT_TRUE(ranks[0].own_cores);
}

TEST(Topology, RanksThatUseAllMemory) {
  const auto sockets = [](const std::string& machine, std::vector<int> allowed) {
    return Topology::Synthetic(machine)->MemorySockets(allowed);
  };
  EXPECT_EQ(sockets("pack:1 core:8 pu:1", Range(0, 8)), 1);
  EXPECT_EQ(sockets("pack:2 [numa] core:4 pu:1", Range(0, 8)), 2);
  EXPECT_EQ(sockets("pack:2 [numa] core:4 pu:1", Range(0, 4)), 1);
  // Four NUMA nodes in a socket, and a virtual machine that shows every CPU as a socket.
  EXPECT_EQ(sockets("pack:1 numa:4 core:2 pu:1", Range(0, 8)), 1);
  EXPECT_EQ(sockets("[numa] pack:8 core:1 pu:1", Range(0, 8)), 1);
}

TEST(Topology, ThisMachine) {
  const auto topology = Topology::Load();
  ASSERT_TRUE(topology.ok()) << topology.status();
  const std::vector<int> allowed = AllowedCpus();
  int cpus = 0;
  for (const Topology::Core& core : topology->Cores(allowed)) {
    cpus += static_cast<int>(core.cpus.size());
  }
  EXPECT_EQ(cpus, static_cast<int>(allowed.size()));
  // Threads that a bound one starts stay with it.
  std::thread([&] {
    EXPECT_TRUE(BindThisThread(allowed.back()).ok());
    std::vector<int> inherited;
    std::thread([&] { inherited = AllowedCpus(); }).join();
    EXPECT_THAT(inherited, ElementsAre(allowed.back()));
  }).join();
}

TEST(BindThisThread, SaysWhatTheSystemRefuses) {
  const std::vector<int> allowed = AllowedCpus();
  const absl::Status refused = BindThisThread(CPU_SETSIZE - 1);  // no machine has so many
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(refused.message(),
            absl::StrCat("the system refuses CPU ", CPU_SETSIZE - 1, ": Invalid argument"));
  EXPECT_EQ(AllowedCpus(), allowed);
}

TEST(CpuList, Runs) {
  EXPECT_EQ(CpuList({3, 0, 1, 2, 8}), "0-3,8");
  EXPECT_EQ(CpuList({}), "");
}

TEST(CpusOfShareTest, ARunOfCoresEach) {
  const auto topology = Topology::Synthetic("pack:2 numa:1 core:2 pu:2");
  ASSERT_TRUE(topology.ok());
  const std::vector<int> all = {0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_EQ(CpusOfShare(*topology, all, {0, 1}), all);
  EXPECT_EQ(CpusOfShare(*topology, all, {1, 2}), (std::vector<int>{4, 5, 6, 7}));
  EXPECT_EQ(CpusOfShare(*topology, all, {0, 3}), (std::vector<int>{0, 1}));
  EXPECT_EQ(CpusOfShare(*topology, all, {2, 3}), (std::vector<int>{4, 5, 6, 7}));
  // Fewer cores than worlds: none can have its own.
  EXPECT_EQ(CpusOfShare(*topology, {0, 1}, {1, 2}), (std::vector<int>{0, 1}));
}

}  // namespace
}  // namespace tandem::rank
