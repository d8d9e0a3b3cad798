// Collectives between GPUs, ranks as threads.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <thread>

#include "absl/strings/str_join.h"
#include "kernels/cuda/cuda_backend.h"
#include "parallel/device_bytes.h"
#include "parallel/device_communicator.h"
#include "parallel/thread_communicator.h"
#include "tests/emulation/block.h"
#include "tests/emulation/faults.h"
#include "tests/parallel/check_collectives.h"
#include "tests/support/cuda_memory.h"
#include "tests/support/random_values.h"

namespace tandem::parallel {
namespace {

using testing::CudaArray;
using testing::CudaStream;

constexpr int64_t kMaxFloats = 220000;  // of 43 leaves, the longest messages

// Those that must give the tree's sums, and what else must be right.
const char* const kWays[] = {"staged", "peer", "nccl"};

// Copies the arguments of a caller with host memory to the GPU and results back.
class FromHostMemory : public Communicator {
 public:
  FromHostMemory(const CudaStream& stream, Communicator& inner) : stream_(stream), inner_(inner) {}
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  ControlGroup& control() override { return inner_.control(); }
  ReducePlan PlanReduce(const TreeLayout& layout) override {
    return plans_.Add(layout, {layout.node_count(rank()), inner_.PlanReduce(layout)});
  }
  absl::Status AllReduce(ReducePlan plan, const float* mine, int64_t count, float* out) override {
    const auto& [nodes, of_inner] = plans_[plan];
    const CudaArray<float> own(stream_, std::vector<float>(mine, mine + nodes * count));
    const CudaArray<float> sum(stream_, count);
    absl::Status status = inner_.AllReduce(of_inner, own.data(), count, sum.data());
    if (!status.ok()) return status;
    const std::vector<int64_t> none(size(), 0);
    status = inner_.GatherColumns(nullptr, 0, none, nullptr);
    if (!status.ok()) return status;
    const std::vector<float> found = sum.ToHost();
    std::memcpy(out, found.data(), count * sizeof(float));
    return absl::OkStatus();
  }
  absl::StatusOr<bool> FusedAllReduceAddRmsNorm(ReducePlan, const float*,
                                                const kernels::ResidualNorm&) override {
    return false;
  }
  absl::Status GatherColumns(const float* mine, int64_t rows, std::span<const int64_t> widths,
                             float* out) override {
    const CudaArray<float> own(stream_, std::vector<float>(mine, mine + rows * widths[rank()]));
    return inner_.GatherColumns(own.data(), rows, widths, out);
  }
  absl::Status Await() override { return inner_.Await(); }

 private:
  struct Planned {
    int64_t nodes;  // of this rank
    ReducePlan of_inner;
  };
  const CudaStream& stream_;
  Communicator& inner_;
  ReducePlans<Planned> plans_;
};

// Runs `rank` on each rank of a world, with its stream and its device communicator.
void RunRanks(int size, DeviceCommunicatorOptions options,
              const std::function<void(const CudaStream&, Communicator&, Communicator&)>& rank) {
  ThreadWorld world(size);
  std::vector<std::thread> ranks;
  for (int r = 0; r < size; ++r) {
    ranks.emplace_back([&, r, options]() mutable {
      const CudaStream stream;
      options.stream = stream.get();
      if (options.max_floats == 0) options.max_floats = 4096;
      options.max_gathered = 30000;
      const auto host = world.Make(r);
      auto made = MakeDeviceCommunicator(*host, options);
      ASSERT_TRUE(made.ok()) << made.status();
      rank(stream, *host, **made);
      EXPECT_TRUE(host->control().Barrier().ok());  // nobody leaves while others use his memory
    });
  }
  for (std::thread& r : ranks) r.join();
}

TEST(DeviceWorld, CollectivesAreThoseOfTheHost) {
  for (const char* way : kWays) {
    for (const int size : {1, 2, 3}) {
      RunRanks(size, {.max_floats = kMaxFloats, .deterministic = true, .way = way},
               [&](const CudaStream& stream, Communicator&, Communicator& communicator) {
                 FromHostMemory adapted(stream, communicator);
                 const auto problems = CollectivesCheck(adapted, nullptr).Run();
                 EXPECT_TRUE(problems.empty()) << way << ": " << absl::StrJoin(problems, "\n");
               });
    }
  }
}

// Partial sums of a world of `size` ranks, the last of which has no leaves, added up on the GPUs
// and, for whole numbers, known.
void AddUnevenLeaves(const CudaStream& stream, Communicator& communicator, int64_t count) {
  const int size = communicator.size(), rank = communicator.rank();
  const int64_t leaves = 7;
  std::vector<kernels::LeafRange> owned;
  for (int r = 0; r < size; ++r) {
    owned.push_back({leaves * r / (size - 1), std::min(leaves, leaves * (r + 1) / (size - 1))});
  }
  owned.back() = {leaves, leaves};
  const TreeLayout layout = TreeLayout::Make(leaves, owned);
  const std::vector<float> values(layout.node_count(rank) * count, static_cast<float>(rank + 1));
  CudaArray<float> mine(stream, values), sum(stream, count);
  float expected = 0;
  for (int r = 0; r < size; ++r) {
    expected += static_cast<float>((r + 1) * layout.node_count(r));
  }
  const ReducePlan plan = communicator.PlanReduce(layout);
  for (int round = 0; round < 5; ++round) {
    ASSERT_TRUE(communicator.AllReduce(plan, mine.data(), count, sum.data()).ok());
  }
  const std::vector<int64_t> none(size, 0);
  ASSERT_TRUE(communicator.GatherColumns(nullptr, 0, none, nullptr).ok());
  for (const float value : sum.ToHost()) ASSERT_EQ(value, expected);
}

TEST(DeviceWorld, RanksWithoutLeavesTakePart) {
  for (const bool deterministic : {false, true}) {
    for (const char* way : kWays) {
      SCOPED_TRACE(way);
      RunRanks(3, {.deterministic = deterministic, .way = way},
               [&](const CudaStream& stream, Communicator&, Communicator& communicator) {
                 AddUnevenLeaves(stream, communicator, 301);
               });
    }
  }
}

// Two all-reduces in a graph, the second one of the first one's result.
TEST(DeviceWorld, GraphsReplayAllReduces) {
  const int64_t count = 96;
  for (const char* way : kWays)
    RunRanks(3, {.way = way},
             [&](const CudaStream& stream, Communicator&, Communicator& communicator) {
               const int rank = communicator.rank();
               const ReducePlan plan = communicator.PlanReduce(TreeLayout::OfRanks(3));
               CudaArray<float> mine(stream, count), sum(stream, count), twice(stream, count);
               ASSERT_EQ(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal),
                         cudaSuccess);
               EXPECT_TRUE(communicator.AllReduce(plan, mine.data(), count, sum.data()).ok());
               EXPECT_TRUE(communicator.AllReduce(plan, sum.data(), count, twice.data()).ok());
               cudaGraph_t graph;
               ASSERT_EQ(cudaStreamEndCapture(stream.get(), &graph), cudaSuccess);
               cudaGraphExec_t exec;
               ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
               for (int round = 1; round < 5; ++round) {
                 const std::vector<float> values(count, static_cast<float>(round * (rank + 1)));
                 ASSERT_EQ(cudaMemcpyAsync(mine.data(), values.data(), count * sizeof(float),
                                           cudaMemcpyHostToDevice, stream.get()),
                           cudaSuccess);
                 ASSERT_EQ(cudaGraphLaunch(exec, stream.get()), cudaSuccess);
                 const std::vector<int64_t> widths(3, count);
                 std::vector<float> all(3 * count);
                 EXPECT_TRUE(communicator.GatherColumns(twice.data(), 1, widths, all.data()).ok());
                 if (rank > 0) continue;
                 for (const float value : all) ASSERT_EQ(value, static_cast<float>(18 * round));
               }
               EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
               EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
             });
}

// NCCL's own end waits for the graphs that have its calls, and who awaits a step holds them.
TEST(DeviceWorld, HangsInAGraphAreToldWhileItIsThere) {
  RunRanks(2, {.step_timeout = std::chrono::milliseconds(300), .way = "nccl"},
           [&](const CudaStream& stream, Communicator& host, Communicator& communicator) {
             const int64_t count = 96;
             const CudaArray<float> mine(stream, count), sum(stream, count);
             const ReducePlan plan = communicator.PlanReduce(TreeLayout::OfRanks(2));
             ASSERT_EQ(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal),
                       cudaSuccess);
             EXPECT_TRUE(communicator.AllReduce(plan, mine.data(), count, sum.data()).ok());
             cudaGraph_t graph;
             ASSERT_EQ(cudaStreamEndCapture(stream.get(), &graph), cudaSuccess);
             cudaGraphExec_t exec;
             ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
             EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
             EXPECT_TRUE(host.control().Barrier().ok());  // nobody is in a trial
             emulation::GetFaults().nccl_never_ends = true;
             ASSERT_EQ(cudaGraphLaunch(exec, stream.get()), cudaSuccess);
             EXPECT_EQ(communicator.Await().code(), absl::StatusCode::kUnavailable);
             EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
           });
  emulation::GetFaults().nccl_never_ends = false;
}

// What a step does between two layers, on one rank: rows of `tokens` tokens are added up, added to
// the residual stream and normed. The residual stream, then the normed rows.
std::vector<float> AddUpAndNorm(kernels::Backend& backend, Communicator& communicator,
                                const TreeLayout& layout, int64_t tokens, int64_t hidden,
                                bool biased, bool in_one) {
  const int64_t count = tokens * hidden;
  const auto upload = [&](const std::vector<float>& values) {
    auto buffer = *backend.Allocate(values.size() * sizeof(float) + 1);
    backend.CopyFromHost(buffer.data(), values.data(), values.size() * sizeof(float));
    return buffer;
  };
  const int rank = communicator.rank();
  const auto mine = upload(
      testing::RandomFloats(layout.node_count(rank) * count, 10 + static_cast<uint32_t>(rank)));
  const auto both = upload(testing::RandomFloats(2 * count, 1));
  const auto bias = upload(testing::RandomFloats(hidden, 2));
  const auto weight = upload(testing::RandomFloats(hidden, 3));
  const auto sum = upload(std::vector<float>(count));
  const kernels::ResidualNorm norm = {.delta_bias = biased ? bias.as<float>() : nullptr,
                                      .residual = both.as<float>(),
                                      .weight = weight.as<float>(),
                                      .epsilon = 1e-5f,
                                      .tokens = tokens,
                                      .hidden = hidden,
                                      .out = both.as<float>() + count};
  const ReducePlan plan = communicator.PlanReduce(layout);
  for (int round = 0; round < 3; ++round) {
    if (in_one) {
      EXPECT_TRUE(
          AllReduceAddRmsNorm(communicator, backend, plan, mine.as<float>(), norm, sum.as<float>())
              .ok());
    } else {
      EXPECT_TRUE(communicator.AllReduce(plan, mine.as<float>(), count, sum.as<float>()).ok());
      backend.AddRmsNorm(sum.as<float>(), norm.delta_bias, norm.residual, norm.weight, norm.epsilon,
                         tokens, hidden, norm.out);
    }
  }
  EXPECT_TRUE(communicator.Await().ok());
  std::vector<float> found(2 * count);
  backend.CopyToHost(found.data(), both.data(), found.size() * sizeof(float));
  return found;
}

TEST(DeviceWorld, NormsInTheAllReducesKernelHaveItsBits) {
  struct Shape {
    int64_t tokens, hidden;
    bool biased, fits;
  };
  const Shape shapes[] = {{1, 1028, false, true}, {3, 2052, true, true}, {32, 64, true, true},
                          {33, 64, false, false}, {2, 102, true, false}, {1, 4096, true, true}};
  // On one GPU, which has four multiprocessors here, each has a part of them for its blocks.
  for (const auto& [size, one_gpu] : {std::pair(2, false), {3, false}, {4, false}, {2, true}}) {
    emulation::GetFaults().one_gpu = one_gpu;
    ThreadWorld world(size);
    std::vector<std::thread> ranks;
    for (int r = 0; r < size; ++r) {
      ranks.emplace_back([&, r, size, one_gpu] {
        const auto backend = *kernels::MakeCudaBackend({.scratch_bytes = 64 << 10});
        const auto host = world.Make(r);
        const auto made = MakeDeviceCommunicator(*host, {.stream = backend->stream(),
                                                         .max_floats = 16 << 10,
                                                         .max_gathered = 1,
                                                         .deterministic = true,
                                                         .way = "peer"});
        ASSERT_TRUE(made.ok()) << made.status();
        // Uneven, and one rank has none.
        std::vector<kernels::LeafRange> owned;
        for (int p = 0; p + 1 < size; ++p) {
          owned.push_back({5 * p / (size - 1), 5 * (p + 1) / (size - 1)});
        }
        owned.push_back({5, 5});
        const TreeLayout layout = TreeLayout::Make(5, owned);
        for (const Shape& shape : shapes) {
          const auto run = [&](bool in_one) {
            return AddUpAndNorm(*backend, **made, layout, shape.tokens, shape.hidden, shape.biased,
                                in_one);
          };
          const int64_t begin = emulation::GridsRun();
          const auto two = run(false);
          const int64_t middle = emulation::GridsRun();
          EXPECT_EQ(run(true), two) << size << " ranks, " << shape.tokens << " x " << shape.hidden;
          const int64_t grids = emulation::GridsRun() - middle;
          const bool fits = shape.fits && (!one_gpu || shape.tokens <= 4 / size);
          EXPECT_EQ(grids, fits ? (middle - begin) / 2 : middle - begin);
        }
        EXPECT_TRUE(host->control().Barrier().ok());
      });
    }
    for (std::thread& rank : ranks) rank.join();
  }
  emulation::GetFaults().one_gpu = false;
}

uint64_t FreeOnGpu() {
  size_t free = 0, total = 0;
  EXPECT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  return free;
}

// All ranks are on one GPU here.
TEST(DeviceWorld, HoldsOfTheGpuWhatIsPlanned) {
  const uint64_t before = FreeOnGpu();
  RunRanks(3, {}, [&](const CudaStream&, Communicator& host, Communicator&) {
    EXPECT_TRUE(host.control().Barrier().ok());
    // The trial's buffers are gone, and NCCL holds nothing of its own here.
    const uint64_t planned = 3 * (DeviceCommunicatorBytes(3, 4096, 30000).gpu - kNcclOwnBytes);
    EXPECT_GE(before - FreeOnGpu(), planned);
    EXPECT_LE(before - FreeOnGpu(), planned + (64 << 10));
    EXPECT_TRUE(host.control().Barrier().ok());
  });
  EXPECT_EQ(FreeOnGpu(), before);
}

TEST(DeviceWorld, ErrorsOfQueuedAllReducesComeWithTheGather) {
  ThreadWorld world(2);
  std::vector<std::thread> ranks;
  std::atomic<int> made_by = 0;
  for (int r = 0; r < 2; ++r) {
    ranks.emplace_back([&, r] {
      const CudaStream stream;
      const auto host = world.Make(r);
      auto made = MakeDeviceCommunicator(
          *host, {.stream = stream.get(), .max_floats = 8, .max_gathered = 8, .way = "staged"});
      ASSERT_TRUE(made.ok()) << made.status();
      ++made_by;
      while (made_by < 2) std::this_thread::yield();
      world.Abort();
      const ReducePlan plan = (*made)->PlanReduce(TreeLayout::OfRanks(2));
      CudaArray<float> mine(stream, std::vector<float>(8)), sum(stream, 8);
      const std::vector<int64_t> widths(2, 4);
      std::vector<float> out(8);
      EXPECT_TRUE((*made)->AllReduce(plan, mine.data(), 8, sum.data()).ok());
      EXPECT_EQ((*made)->GatherColumns(sum.data(), 1, widths, out.data()).code(),
                absl::StatusCode::kAborted);
      // It is final.
      EXPECT_EQ((*made)->AllReduce(plan, mine.data(), 8, sum.data()).code(),
                absl::StatusCode::kAborted);
    });
  }
  for (std::thread& rank : ranks) rank.join();
}

// What the trials of a world of two say of `way`, and the communicator that they lead to.
struct Verdict {
  absl::Status status;  // its last trial
  bool usable = false;  // the world, in spite of it
};

Verdict TryFaulty(const std::string& way, DeviceCommunicatorOptions options = {}) {
  options.max_floats = 2048;
  options.max_gathered = 1;
  Verdict verdicts[2];
  ThreadWorld world(2);
  std::vector<std::thread> ranks;
  for (int r = 0; r < 2; ++r) {
    ranks.emplace_back([&, r, options]() mutable {
      const CudaStream stream;
      options.stream = stream.get();
      const auto host = world.Make(r);
      std::vector<AllReduceTrial> trials;
      const auto made = MakeDeviceCommunicator(*host, options, &trials);
      ASSERT_TRUE(made.ok()) << made.status();
      for (const AllReduceTrial& trial : trials) {
        if (trial.way == way) verdicts[r].status = trial.status;
        EXPECT_TRUE(trial.way == way || trial.way != "staged" || trial.status.ok()) << trial.status;
      }
      FromHostMemory adapted(stream, **made);
      std::vector<float> one = {static_cast<float>(r + 1)}, sum(1);
      const ReducePlan plan = adapted.PlanReduce(TreeLayout::OfRanks(2));
      verdicts[r].usable = adapted.AllReduce(plan, one.data(), 1, sum.data()).ok() && sum[0] == 3;
      EXPECT_TRUE(host->control().Barrier().ok());
    });
  }
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(verdicts[0].status, verdicts[1].status);
  EXPECT_EQ(verdicts[0].usable, verdicts[1].usable);
  return verdicts[0];
}

struct Fault {
  explicit Fault(std::atomic<bool>& flag) : flag_(flag) { flag_ = true; }
  ~Fault() { flag_ = false; }
  std::atomic<bool>& flag_;
};

TEST(DeviceWorld, WaysThatWorkAreTried) {
  for (const char* way : kWays) {
    const Verdict verdict = TryFaulty(way);
    EXPECT_TRUE(verdict.status.ok()) << way << ": " << verdict.status;
    EXPECT_TRUE(verdict.usable);
  }
}

TEST(DeviceWorld, RanksOfOneProcessReachEachOther) {
  const Fault fault(emulation::GetFaults().ipc_refused);
  const Verdict verdict = TryFaulty("peer");
  EXPECT_TRUE(verdict.status.ok()) << verdict.status;
  EXPECT_TRUE(verdict.usable);
}

// What is left of its error with the runtime is not the next one's.
TEST(DeviceWorld, WaysAreTriedAfterOneThatIsNotThere) {
  const Fault fault(emulation::GetFaults().ipc_unsupported);
  EXPECT_EQ(TryFaulty("peer").status.code(), absl::StatusCode::kUnavailable);
  const Verdict verdict = TryFaulty("nccl");
  EXPECT_TRUE(verdict.status.ok()) << verdict.status;
  EXPECT_TRUE(verdict.usable);
}

// Where the driver may run what the staged way does on the host for one rank after the other.
TEST(DeviceWorld, ThreadsOnOneGpuTakeThePeerWayForTheStagedOne) {
  const Fault fault(emulation::GetFaults().one_gpu);
  const Verdict verdict = TryFaulty("staged", {.way = "staged"});
  EXPECT_EQ(verdict.status.code(), absl::StatusCode::kUnimplemented) << verdict.status;
  EXPECT_NE(verdict.status.message().find("ranks 0 and 1 are threads of one process on one GPU"),
            std::string_view::npos)
      << verdict.status;
  EXPECT_TRUE(verdict.usable);
}

TEST(DeviceWorld, MessagesThatNoWayTakesAreToldAtTheStart) {
  const Fault fault(emulation::GetFaults().one_gpu);
  ThreadWorld world(2);
  std::vector<std::thread> ranks;
  for (int r = 0; r < 2; ++r) {
    ranks.emplace_back([&, r] {
      const CudaStream stream;
      const auto host = world.Make(r);
      const absl::Status status =
          MakeDeviceCommunicator(
              *host, {.stream = stream.get(), .max_floats = kPeerFloats + 1, .way = "staged"})
              .status();
      EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
      EXPECT_NE(status.message().find("no way takes sums of 131073 floats; staged: "),
                std::string_view::npos)
          << status;
    });
  }
  for (std::thread& rank : ranks) rank.join();
}

TEST(DeviceWorld, LostWritesBetweenGpusAreFoundInTime) {
  const Fault fault(emulation::GetFaults().peer_writes_lost);
  const int freed = emulation::FreedWhileOpen();
  const Verdict verdict = TryFaulty("peer");
  EXPECT_EQ(verdict.status.code(), absl::StatusCode::kUnavailable) << verdict.status;
  EXPECT_NE(verdict.status.message().find("rank 1 has not answered rank 0"), std::string_view::npos)
      << verdict.status;
  EXPECT_TRUE(verdict.usable);
  // Ranks let go of each other's memory before it is freed.
  EXPECT_EQ(emulation::FreedWhileOpen(), freed);
}

TEST(DeviceWorld, WrongSumsAreFound) {
  const Fault fault(emulation::GetFaults().nccl_sums_wrong);
  const Verdict verdict = TryFaulty("nccl");
  EXPECT_EQ(verdict.status.code(), absl::StatusCode::kDataLoss) << verdict.status;
  EXPECT_TRUE(verdict.usable);
}

TEST(DeviceWorld, HangsAreGivenUp) {
  const Fault fault(emulation::GetFaults().nccl_never_ends);
  const Verdict verdict = TryFaulty("nccl");
  EXPECT_FALSE(verdict.status.ok());
  EXPECT_TRUE(verdict.usable);
}

TEST(DeviceWorld, AStartThatHangsIsGivenUp) {
  const Fault fault(emulation::GetFaults().nccl_never_starts);
  const Verdict verdict = TryFaulty("nccl", {.nccl_start_timeout = std::chrono::milliseconds(200)});
  EXPECT_EQ(verdict.status.message(), "NCCL: start: not done after 200 ms");
  EXPECT_TRUE(verdict.usable);
}

}  // namespace
}  // namespace tandem::parallel
