#include <cuda_runtime_api.h>
#include <nccl.h>
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
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
  cudaGetLastError();  // what of the runtime's made NCCL fail, if anything, is told here
  return absl::UnavailableError(
      absl::StrCat("NCCL: ", what, ": ", ncclGetErrorString(result),
                   detail == nullptr || *detail == '\0' ? "" : absl::StrCat(" (", detail, ")")));
}

// A communicator of NCCL's that nothing waits for without a deadline.
class NcclWorld {
 public:
  static absl::StatusOr<std::unique_ptr<NcclWorld>> Make(Communicator& host,
                                                         std::chrono::milliseconds start_timeout) {
    std::unique_ptr<NcclWorld> made(new NcclWorld(start_timeout));
    ncclUniqueId id = {};
    absl::Status mine;
    if (host.rank() == 0) mine = FromNccl(ncclGetUniqueId(&id), nullptr, "unique id");
    TANDEM_RETURN_IF_ERROR(AgreeOnStatus(host, mine));
    TANDEM_ASSIGN_OR_RETURN(
        const std::vector<std::string> ids,
        host.AllGatherBytes(host.rank() == 0
                                ? std::string(reinterpret_cast<const char*>(&id), sizeof(id))
                                : std::string()));
    std::memcpy(&id, ids[0].data(), sizeof(id));
    TANDEM_RETURN_IF_ERROR(AgreeOnStatus(host, made->Join(host, id)));
    TANDEM_RETURN_IF_ERROR(AgreeOnStatus(host, made->OpenWindow(host.size())));
    return made;
  }

  ~NcclWorld() {
    if (comm_ == nullptr) return;  // given up, its window with it
    if (handle_ != nullptr) ncclCommWindowDeregister(comm_, handle_);
    timeout_ = kEndTimeout;
    if (!FromNccl(ncclCommFinalize(comm_), comm_, "end").ok() || !Settle("end").ok()) {
      Abort();
      return;
    }
    ncclCommDestroy(comm_);
    if (window_ != nullptr) ncclMemFree(window_);
  }

  // Of what is called from now on; zero: for ever.
  void SetTimeout(std::chrono::milliseconds timeout) { timeout_ = timeout; }

  ncclComm_t comm() const { return comm_; }
  float* window() const { return window_; }  // [size, kNcclWindowFloats]

  // Until what was called is under way.
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

  absl::Status Join(const Communicator& host, const ncclUniqueId& id) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    absl::Status joined = FromNccl(
        ncclCommInitRankConfig(&comm_, host.size(), id, host.rank(), &config), nullptr, "start");
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

  absl::Status Enqueue(const TreeLayout& layout, const float* mine, int64_t count,
                       float* out) override {
    TANDEM_RETURN_IF_ERROR(world_->Poll());
    if (deterministic_) return InOrder(layout, mine, count, out);
    const int64_t own = layout.node_count(rank_);
    if (own == 1) return Sum(mine, count, out);
    // Own partial sums become one first.
    if (own == 0) {
      TANDEM_RETURN_IF_ERROR(
          FromCuda(cudaMemsetAsync(out, 0, count * sizeof(float), stream_), "all-reduce"));
    } else {
      TANDEM_ASSIGN_OR_RETURN(const kernels::cuda::TreeProgram program, OwnProgram(own));
      kernels::cuda::FinishTree(stream_, program, mine, 0, count, out);
    }
    return Sum(out, count, out);
  }

  absl::Status Poll() override { return world_->Poll(); }
  void Abort() override { world_->Abort(); }
  void SetTimeout(std::chrono::milliseconds timeout) override { world_->SetTimeout(timeout); }

 private:
  static absl::StatusOr<kernels::cuda::TreeProgram> OwnProgram(int64_t nodes) {
    const kernels::LeafRange owned = {0, nodes};
    std::vector<kernels::LeafRange> leaves;
    TreeLayout chain;
    chain.leaves = nodes;
    for (int64_t i = 0; i < nodes; ++i) {
      chain.nodes.push_back({i, i + 1});
      chain.place.push_back(i);
    }
    chain.rank_begin = {0, owned.end};
    return MakeTreeProgram(chain);
  }

  absl::Status Sum(const float* mine, int64_t count, float* out) {
    TANDEM_RETURN_IF_ERROR(
        FromNccl(ncclAllReduce(mine, out, count, ncclFloat, ncclSum, world_->comm(), stream_),
                 world_->comm(), "all-reduce"));
    return world_->Settle("all-reduce");
  }

  // Everybody gets all partial sums and adds them in the tree's order.
  absl::Status InOrder(const TreeLayout& layout, const float* mine, int64_t count, float* out) {
    TANDEM_ASSIGN_OR_RETURN(const kernels::cuda::TreeProgram program, MakeTreeProgram(layout));
    const int64_t most = std::max<int64_t>(1, layout.max_node_count());
    const int64_t own = layout.node_count(rank_);
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
      kernels::cuda::FinishTree(stream_, program, world_->window(), most * n, n, out + begin);
    }
    return absl::OkStatus();
  }

  const cudaStream_t stream_;
  const int rank_;
  const bool deterministic_;
  const std::unique_ptr<NcclWorld> world_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceAllReduce>> MakeNcclAllReduce(
    cudaStream_t stream, Communicator& host, bool deterministic,
    std::chrono::milliseconds start_timeout) {
  TANDEM_ASSIGN_OR_RETURN(auto world, NcclWorld::Make(host, start_timeout));
  return std::make_unique<NcclAllReduce>(stream, host.rank(), deterministic, std::move(world));
}

}  // namespace tandem::parallel
