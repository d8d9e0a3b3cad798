#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "parallel/cuda_memory.h"
#include "parallel/device_all_reduce.h"
#include "parallel/device_bytes.h"
#include "parallel/process_id.h"
#include "parallel/timeouts.h"
#include "parallel/tree_program.h"

namespace tandem::parallel {
namespace {

using kernels::cuda::PeerMemory;

class PeerAllReduce : public DeviceAllReduce {
 public:
  static absl::StatusOr<std::unique_ptr<DeviceAllReduce>> Make(cudaStream_t stream,
                                                               Communicator& host,
                                                               std::chrono::milliseconds timeout) {
    std::unique_ptr<PeerAllReduce> made(new PeerAllReduce(stream, timeout));
    // All ranks open what others have, or nobody does.
    Offer mine;
    TANDEM_RETURN_IF_ERROR(AgreeOnStatus(host, made->Allocate(host, &mine)));
    const std::string process = ThisProcess();
    TANDEM_ASSIGN_OR_RETURN(
        const std::vector<std::string> offers,
        host.AllGatherBytes(std::string(reinterpret_cast<const char*>(&mine), sizeof(mine)) +
                            process));
    if (absl::Status opened = AgreeOnStatus(host, made->Open(offers, process)); !opened.ok()) {
      made->Close();
      TANDEM_RETURN_IF_ERROR(host.Barrier());
      return opened;
    }
    return made;
  }

  ~PeerAllReduce() override { Close(); }

  std::string_view name() const override { return "peer"; }
  int64_t max_floats() const override { return kPeerFloats; }

  absl::Status Enqueue(const TreeLayout& layout, const float* mine, int64_t count,
                       float* out) override {
    TANDEM_ASSIGN_OR_RETURN(const kernels::cuda::TreeProgram program, MakeTreeProgram(layout));
    const auto timeout = std::chrono::nanoseconds(timeout_).count();
    kernels::cuda::OneShotAllReduce(stream_, peers_, program, mine, count,
                                    static_cast<uint64_t>(timeout), out);
    return absl::OkStatus();
  }

  absl::StatusOr<bool> EnqueueAddRmsNorm(const TreeLayout& layout, const float* mine,
                                         const kernels::ResidualNorm& norm) override {
    if (!kernels::cuda::OneShotNorms(peers_, norm.tokens, norm.hidden)) return false;
    TANDEM_ASSIGN_OR_RETURN(const kernels::cuda::TreeProgram program, MakeTreeProgram(layout));
    const auto timeout = std::chrono::nanoseconds(timeout_).count();
    kernels::cuda::OneShotAllReduceNorm(stream_, peers_, program, mine,
                                        static_cast<uint64_t>(timeout), norm);
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

  // A rank's inbox for the others.
  struct Offer {
    cudaIpcMemHandle_t handle = {};
    void* memory = nullptr;  // and its GPU, for ranks of the same process
    int device = 0;
    cudaUUID_t gpu = {};
    int multiprocessors = 0;
  };

  absl::Status Allocate(const Communicator& host, Offer* offer) {
    peers_.rank = host.rank();
    peers_.size = host.size();
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

  static Offer OfferOf(const std::string& bytes) {
    Offer offer;
    std::memcpy(&offer, bytes.data(), sizeof(offer));
    return offer;
  }

  // Blocks that each rank may have, the same for all, so that those of all ranks on a GPU find
  // room there at once: a multiprocessor has room for one.
  static int BlocksAtOnce(const std::vector<std::string>& offers) {
    int blocks = std::numeric_limits<int>::max();
    for (const std::string& mine : offers) {
      const Offer offer = OfferOf(mine);
      const auto ranks = std::count_if(offers.begin(), offers.end(), [&](const std::string& bytes) {
        const Offer other = OfferOf(bytes);
        return std::memcmp(&offer.gpu, &other.gpu, sizeof(offer.gpu)) == 0;
      });
      if (ranks == 1) continue;  // its blocks wait for those of the same number alone
      blocks = std::min(blocks, std::max(1, offer.multiprocessors / static_cast<int>(ranks)));
    }
    return blocks;
  }

  absl::Status Open(const std::vector<std::string>& offers, const std::string& process) {
    peers_.max_blocks = BlocksAtOnce(offers);
    for (int r = 0; r < peers_.size; ++r) {
      if (r == peers_.rank) continue;
      const Offer offer = OfferOf(offers[r]);
      void* memory = nullptr;
      cudaError_t error =
          cudaIpcOpenMemHandle(&memory, offer.handle, cudaIpcMemLazyEnablePeerAccess);
      if (error == cudaSuccess) {
        opened_.push_back(memory);
      } else if (offers[r].substr(sizeof(offer)) == process) {
        // A process cannot open what is its own, and need not.
        cudaGetLastError();
        memory = offer.memory;
        error = Reach(offer.device);
      }
      if (error != cudaSuccess) {
        cudaGetLastError();  // it is told here
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
};

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceAllReduce>> MakePeerAllReduce(
    cudaStream_t stream, Communicator& host, std::chrono::milliseconds timeout) {
  return PeerAllReduce::Make(stream, host, timeout);
}

}  // namespace tandem::parallel
