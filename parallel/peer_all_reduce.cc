#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "parallel/all_gather.h"
#include "parallel/cuda_memory.h"
#include "parallel/device_all_reduce.h"
#include "parallel/device_bytes.h"
#include "parallel/process_id.h"
#include "parallel/timeouts.h"
#include "parallel/tree_program.h"

namespace tandem::parallel {
namespace {

using kernels::cuda::PeerMemory;
using kernels::cuda::TreeProgram;

class PeerAllReduce : public DeviceAllReduce {
 public:
  static absl::StatusOr<std::unique_ptr<DeviceAllReduce>> Make(cudaStream_t stream,
                                                               ControlGroup& ranks,
                                                               std::chrono::milliseconds timeout) {
    std::unique_ptr<PeerAllReduce> made(new PeerAllReduce(stream, timeout));
    // All ranks open each other's memory, or none does.
    Offer mine;
    TANDEM_RETURN_IF_ERROR(AgreeOnStatus(ranks, made->Allocate(ranks, &mine)));
    const std::string process = ThisProcess();
    TANDEM_ASSIGN_OR_RETURN(const std::vector<Offer> offers, AllGather(ranks, mine));
    TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> processes, AllGather(ranks, process));
    std::vector<bool> in_this_process;
    for (const std::string& theirs : processes) in_this_process.push_back(theirs == process);
    if (absl::Status opened = AgreeOnStatus(ranks, made->Open(offers, in_this_process));
        !opened.ok()) {
      made->Close();
      TANDEM_RETURN_IF_ERROR(ranks.Barrier());
      return opened;
    }
    return made;
  }

  ~PeerAllReduce() override { Close(); }

  std::string_view name() const override { return "peer"; }
  int64_t max_floats() const override { return kPeerFloats; }

  ReducePlan Plan(const TreeLayout& layout) override {
    return plans_.Add(layout, MakeTreeProgram(layout));
  }

  absl::Status Enqueue(ReducePlan plan, const float* mine, int64_t count, float* out) override {
    const absl::StatusOr<TreeProgram>& program = plans_[plan];
    TANDEM_RETURN_IF_ERROR(program.status());
    kernels::cuda::OneShotAllReduce(stream_, peers_, *program, mine, count, timeout_ns(), out);
    return absl::OkStatus();
  }

  absl::StatusOr<bool> EnqueueAddRmsNorm(ReducePlan plan, const float* mine,
                                         const kernels::ResidualNorm& norm) override {
    if (!kernels::cuda::OneShotNorms(peers_, norm.tokens, norm.hidden)) return false;
    const absl::StatusOr<TreeProgram>& program = plans_[plan];
    TANDEM_RETURN_IF_ERROR(program.status());
    kernels::cuda::OneShotAllReduceNorm(stream_, peers_, *program, mine, timeout_ns(), norm);
    return true;
  }

  absl::Status Poll() override {
    const unsigned late = *static_cast<const volatile unsigned*>(peers_.late);
    if (late == 0) return absl::OkStatus();
    return NotAnswered(static_cast<int>(late) - 1, peers_.rank, timeout_,
                       "one-shot all-reduce between GPUs");
  }

  void Abort() override {}  // kernels end at their deadline
  void Close() override {
    for (void* memory : opened_) cudaIpcCloseMemHandle(memory);
    opened_.clear();
  }
  void SetTimeout(std::chrono::milliseconds timeout) override { timeout_ = timeout; }

 private:
  PeerAllReduce(cudaStream_t stream, std::chrono::milliseconds timeout)
      : stream_(stream), timeout_(timeout) {}

  uint64_t timeout_ns() const {
    return static_cast<uint64_t>(std::chrono::nanoseconds(timeout_).count());
  }

  // A rank's inbox for the others.
  struct Offer {
    cudaIpcMemHandle_t handle = {};
    void* memory = nullptr;  // and its GPU, for ranks of the same process
    int device = 0;
    cudaUUID_t gpu = {};
    int multiprocessors = 0;
  };

  absl::Status Allocate(const ControlGroup& ranks, Offer* offer) {
    peers_.rank = ranks.rank();
    peers_.size = ranks.size();
    peers_.slot = kPeerFloats / 2;
    if (peers_.size > kernels::cuda::kMaxPeers) {
      return absl::UnimplementedError(absl::StrCat("one-shot all-reduce: found ", peers_.size,
                                                   " ranks, expected at most ",
                                                   kernels::cuda::kMaxPeers));
    }
    TANDEM_ASSIGN_OR_RETURN(inbox_,
                            AllocateOnGpu(2 * peers_.size * peers_.slot * sizeof(uint4), stream_));
    TANDEM_ASSIGN_OR_RETURN(
        state_, AllocateOnGpu(kernels::cuda::kPeerStateWords * sizeof(unsigned), stream_));
    TANDEM_ASSIGN_OR_RETURN(late_, AllocatePinned(sizeof(unsigned)));
    *late_.as<unsigned>() = 0;
    peers_.inbox[peers_.rank] = inbox_.as<uint4>();
    peers_.state = state_.as<unsigned>();
    peers_.late = late_.as<unsigned>();
    offer->memory = inbox_.data();
    TANDEM_RETURN_IF_ERROR(FromCuda(cudaGetDevice(&offer->device), "memory shared between GPUs"));
    cudaDeviceProp properties;
    TANDEM_RETURN_IF_ERROR(FromCuda(cudaGetDeviceProperties(&properties, offer->device),
                                    "memory shared between GPUs"));
    offer->gpu = properties.uuid;
    offer->multiprocessors = properties.multiProcessorCount;
    return FromCuda(cudaIpcGetMemHandle(&offer->handle, inbox_.data()),
                    "memory shared between GPUs");
  }

  // Blocks that each rank may have, the same for all, so that those of all ranks on a GPU find
  // room there at once: a multiprocessor has room for one.
  static int BlocksAtOnce(const std::vector<Offer>& offers) {
    int blocks = std::numeric_limits<int>::max();
    for (const Offer& offer : offers) {
      const auto ranks = std::count_if(offers.begin(), offers.end(), [&](const Offer& other) {
        return std::memcmp(&offer.gpu, &other.gpu, sizeof(offer.gpu)) == 0;
      });
      if (ranks == 1) continue;  // its blocks only wait for those of the same number
      blocks = std::min(blocks, std::max(1, offer.multiprocessors / static_cast<int>(ranks)));
    }
    return blocks;
  }

  absl::Status Open(const std::vector<Offer>& offers, const std::vector<bool>& in_this_process) {
    peers_.max_blocks = BlocksAtOnce(offers);
    for (int r = 0; r < peers_.size; ++r) {
      if (r == peers_.rank) continue;
      const Offer& offer = offers[r];
      void* memory = nullptr;
      cudaError_t error =
          cudaIpcOpenMemHandle(&memory, offer.handle, cudaIpcMemLazyEnablePeerAccess);
      if (error == cudaSuccess) {
        opened_.push_back(memory);
      } else if (in_this_process[r]) {
        // A process cannot open its own memory this way, and need not.
        cudaGetLastError();
        memory = offer.memory;
        error = Reach(offer.device);
      }
      if (error != cudaSuccess) {
        cudaGetLastError();  // reported here
        const absl::Status status = FromCuda(error, "memory of another GPU");
        return absl::Status(status.code(), absl::StrCat(std::string(status.message()), " (rank ",
                                                        peers_.rank, " reaches for rank ", r, ")"));
      }
      peers_.inbox[r] = static_cast<uint4*>(memory);
    }
    return absl::OkStatus();
  }

  // Memory of a GPU in this process.
  static cudaError_t Reach(int device) {
    int own = 0;
    const cudaError_t error = cudaGetDevice(&own);
    if (error != cudaSuccess || own == device) return error;
    const cudaError_t enabled = cudaDeviceEnablePeerAccess(device, 0);
    if (enabled != cudaErrorPeerAccessAlreadyEnabled) return enabled;
    cudaGetLastError();
    return cudaSuccess;
  }

  const cudaStream_t stream_;
  PeerMemory peers_;
  kernels::Buffer inbox_, state_, late_;
  std::vector<void*> opened_;
  std::chrono::milliseconds timeout_;
  ReducePlans<absl::StatusOr<TreeProgram>> plans_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceAllReduce>> MakePeerAllReduce(
    cudaStream_t stream, ControlGroup& ranks, std::chrono::milliseconds timeout) {
  return PeerAllReduce::Make(stream, ranks, timeout);
}

}  // namespace tandem::parallel
