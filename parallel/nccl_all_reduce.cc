#include <cuda_runtime_api.h>
#include <nccl.h>
#include <sched.h>

#include <algorithm>
#include <limits>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "parallel/all_gather.h"
#include "parallel/cuda_memory.h"
#include "parallel/device_all_reduce.h"
#include "parallel/device_bytes.h"
#include "parallel/tree_program.h"

namespace tandem::parallel {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kEndTimeout{5000};

absl::Status FromNccl(ncclResult_t result, ncclComm_t comm, const char* what) {
  if (result == ncclSuccess || result == ncclInProgress) return absl::OkStatus();
  const char* const detail = comm == nullptr ? nullptr : ncclGetLastError(comm);
  cudaGetLastError();  // the error of the runtime that made NCCL fail, if any, is reported here
  return absl::UnavailableError(
      absl::StrCat("NCCL: ", what, ": ", ncclGetErrorString(result),
                   detail == nullptr || *detail == '\0' ? "" : absl::StrCat(" (", detail, ")")));
}

// A communicator of NCCL. Every wait for it has a deadline.
class NcclWorld {
 public:
  static absl::StatusOr<std::unique_ptr<NcclWorld>> Make(ControlGroup& ranks,
                                                         std::chrono::milliseconds start_timeout) {
    std::unique_ptr<NcclWorld> made(new NcclWorld(start_timeout));
    ncclUniqueId id = {};
    absl::Status mine;
    if (ranks.rank() == 0) mine = FromNccl(ncclGetUniqueId(&id), nullptr, "unique id");
    TANDEM_RETURN_IF_ERROR(AgreeOnStatus(ranks, mine));
    TANDEM_ASSIGN_OR_RETURN(const std::vector<ncclUniqueId> ids, AllGather(ranks, id));
    TANDEM_RETURN_IF_ERROR(AgreeOnStatus(ranks, made->Join(ranks, ids[0])));
    TANDEM_RETURN_IF_ERROR(AgreeOnStatus(ranks, made->OpenWindow(ranks.size())));
    return made;
  }

  ~NcclWorld() {
    if (comm_ == nullptr) return;  // aborted, and its window left to NCCL
    if (handle_ != nullptr) ncclCommWindowDeregister(comm_, handle_);
    timeout_ = kEndTimeout;
    if (!FromNccl(ncclCommFinalize(comm_), comm_, "end").ok() || !Settle("end").ok()) {
      Abort();
      return;
    }
    ncclCommDestroy(comm_);
    if (window_ != nullptr) ncclMemFree(window_);
  }

  // For calls from now on; zero: no limit.
  void SetTimeout(std::chrono::milliseconds timeout) { timeout_ = timeout; }

  ncclComm_t comm() const { return comm_; }
  float* window() const { return window_; }  // [size, kNcclWindowFloats]

  // Waits until NCCL has started what was called.
  absl::Status Settle(const char* what) {
    const Clock::time_point deadline = Clock::now() + timeout_;
    for (;;) {
      ncclResult_t state = ncclSuccess;
      TANDEM_RETURN_IF_ERROR(FromNccl(ncclCommGetAsyncError(comm_, &state), comm_, what));
      if (state != ncclInProgress) return FromNccl(state, comm_, what);
      if (timeout_.count() > 0 && Clock::now() > deadline) {
        return absl::UnavailableError(
            absl::StrCat("NCCL: ", what, ": not done after ", timeout_.count(), " ms"));
      }
      sched_yield();
    }
  }

  absl::Status Poll() {
    if (comm_ == nullptr) return absl::AbortedError("NCCL: given up");
    ncclResult_t state = ncclSuccess;
    TANDEM_RETURN_IF_ERROR(FromNccl(ncclCommGetAsyncError(comm_, &state), comm_, "all-reduce"));
    return FromNccl(state, comm_, "all-reduce");
  }

  // Ends kernels that wait for other ranks. NCCL returns from it only when no graph that has its
  // calls is left, and the caller may hold some: so a thread of its own waits, maybe until the
  // process ends. Until it does, NCCL may use the window, which is left to it.
  void Abort() {
    if (comm_ == nullptr) return;
    std::thread([comm = std::exchange(comm_, nullptr)] { ncclCommAbort(comm); }).detach();
  }

 private:
  explicit NcclWorld(std::chrono::milliseconds start_timeout) : timeout_(start_timeout) {}

  absl::Status Join(const ControlGroup& ranks, const ncclUniqueId& id) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    absl::Status joined = FromNccl(
        ncclCommInitRankConfig(&comm_, ranks.size(), id, ranks.rank(), &config), nullptr, "start");
    if (joined.ok()) joined = Settle("start");
    if (!joined.ok()) Abort();
    return joined;
  }

  // Memory at the same place on all ranks, so that NCCL may use its symmetric kernels.
  absl::Status OpenWindow(int size) {
    const size_t bytes = size * kNcclWindowFloats * sizeof(float);
    void* memory = nullptr;
    TANDEM_RETURN_IF_ERROR(FromNccl(ncclMemAlloc(&memory, bytes), comm_, "memory"));
    window_ = static_cast<float*>(memory);
    TANDEM_RETURN_IF_ERROR(
        FromNccl(ncclCommWindowRegister(comm_, window_, bytes, &handle_, NCCL_WIN_COLL_SYMMETRIC),
                 comm_, "symmetric memory"));
    return Settle("symmetric memory");
  }

  std::chrono::milliseconds timeout_;
  ncclComm_t comm_ = nullptr;
  float* window_ = nullptr;
  ncclWindow_t handle_ = nullptr;  // null where the hardware has no symmetric memory
};

class NcclAllReduce : public DeviceAllReduce {
 public:
  NcclAllReduce(cudaStream_t stream, int rank, bool deterministic, std::unique_ptr<NcclWorld> world)
      : stream_(stream), rank_(rank), deterministic_(deterministic), world_(std::move(world)) {}

  std::string_view name() const override { return deterministic_ ? "nccl in order" : "nccl"; }
  int64_t max_floats() const override { return std::numeric_limits<int64_t>::max(); }

  ReducePlan Plan(const TreeLayout& layout) override {
    const int64_t own = layout.node_count(rank_);
    return plans_.Add(layout, {own, std::max<int64_t>(1, layout.max_node_count()),
                               deterministic_ ? MakeTreeProgram(layout) : OwnProgram(own)});
  }

  absl::Status Enqueue(ReducePlan plan, const float* mine, int64_t count, float* out) override {
    TANDEM_RETURN_IF_ERROR(world_->Poll());
    const Planned& planned = plans_[plan];
    if (deterministic_) return InOrder(planned, mine, count, out);
    if (planned.own == 1) return Sum(mine, count, out);
    // Own partial sums become one first.
    if (planned.own == 0) {
      TANDEM_RETURN_IF_ERROR(
          FromCuda(cudaMemsetAsync(out, 0, count * sizeof(float), stream_), "all-reduce"));
    } else {
      TANDEM_RETURN_IF_ERROR(planned.program.status());
      kernels::cuda::FinishTree(stream_, *planned.program, mine, 0, count, out);
    }
    return Sum(out, count, out);
  }

  absl::Status Poll() override { return world_->Poll(); }
  void Abort() override { world_->Abort(); }
  void SetTimeout(std::chrono::milliseconds timeout) override { world_->SetTimeout(timeout); }

 private:
  struct Planned {
    int64_t own = 0;   // partial sums of this rank
    int64_t most = 1;  // and of the rank that has most
    // Of the whole tree where deterministic, else of the own partial sums.
    absl::StatusOr<kernels::cuda::TreeProgram> program;
  };

  // Adds up a rank's own partial sums, in an order of its own.
  static absl::StatusOr<kernels::cuda::TreeProgram> OwnProgram(int64_t nodes) {
    TreeLayout chain;
    chain.leaves = nodes;
    for (int64_t i = 0; i < nodes; ++i) {
      chain.nodes.push_back({i, i + 1});
      chain.place.push_back(i);
    }
    chain.rank_begin = {0, nodes};
    return MakeTreeProgram(chain);
  }

  absl::Status Sum(const float* mine, int64_t count, float* out) {
    TANDEM_RETURN_IF_ERROR(
        FromNccl(ncclAllReduce(mine, out, count, ncclFloat, ncclSum, world_->comm(), stream_),
                 world_->comm(), "all-reduce"));
    return world_->Settle("all-reduce");
  }

  // Every rank gets all partial sums and adds them in the tree's order.
  absl::Status InOrder(const Planned& planned, const float* mine, int64_t count, float* out) {
    TANDEM_RETURN_IF_ERROR(planned.program.status());
    const int64_t most = planned.most;
    const int64_t own = planned.own;
    const int64_t piece = kNcclWindowFloats / most;
    for (int64_t begin = 0; begin < count; begin += piece) {
      const int64_t n = std::min(piece, count - begin);
      float* const slot = world_->window() + rank_ * most * n;
      if (own > 0) {
        TANDEM_RETURN_IF_ERROR(
            FromCuda(cudaMemcpy2DAsync(slot, n * sizeof(float), mine + begin, count * sizeof(float),
                                       n * sizeof(float), own, cudaMemcpyDeviceToDevice, stream_),
                     "all-reduce"));
      }
      TANDEM_RETURN_IF_ERROR(FromNccl(
          ncclAllGather(slot, world_->window(), most * n, ncclFloat, world_->comm(), stream_),
          world_->comm(), "all-gather"));
      TANDEM_RETURN_IF_ERROR(world_->Settle("all-gather"));
      kernels::cuda::FinishTree(stream_, *planned.program, world_->window(), most * n, n,
                                out + begin);
    }
    return absl::OkStatus();
  }

  const cudaStream_t stream_;
  const int rank_;
  const bool deterministic_;
  const std::unique_ptr<NcclWorld> world_;
  ReducePlans<Planned> plans_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceAllReduce>> MakeNcclAllReduce(
    cudaStream_t stream, ControlGroup& ranks, bool deterministic,
    std::chrono::milliseconds start_timeout) {
  TANDEM_ASSIGN_OR_RETURN(auto world, NcclWorld::Make(ranks, start_timeout));
  return std::make_unique<NcclAllReduce>(stream, ranks.rank(), deterministic, std::move(world));
}

}  // namespace tandem::parallel
