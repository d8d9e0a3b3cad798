#include <cuda_runtime_api.h>

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "parallel/all_gather.h"
#include "parallel/cuda_memory.h"
#include "parallel/device_all_reduce.h"
#include "parallel/process_id.h"

namespace tandem::parallel {
namespace {

class StagedAllReduce : public DeviceAllReduce {
 public:
  StagedAllReduce(cudaStream_t stream, Communicator& host, int64_t max_floats, kernels::Buffer mine,
                  kernels::Buffer sum)
      : stream_(stream),
        host_(host),
        max_floats_(max_floats),
        mine_(std::move(mine)),
        sum_(std::move(sum)) {}

  std::string_view name() const override { return "staged"; }
  int64_t max_floats() const override { return max_floats_; }

  ReducePlan Plan(const TreeLayout& layout) override {
    return plans_.Add(layout, {layout.node_count(host_.rank()), host_.PlanReduce(layout), {}});
  }

  // The buffers are used in the stream's order: by one call after the other.
  absl::Status Enqueue(ReducePlan plan, const float* mine, int64_t count, float* out) override {
    const int64_t floats = plans_[plan].own * count;
    TANDEM_CHECK(floats <= max_floats_ && count <= max_floats_);
    if (floats > 0) {
      TANDEM_RETURN_IF_ERROR(FromCuda(cudaMemcpyAsync(mine_.data(), mine, floats * sizeof(float),
                                                      cudaMemcpyDeviceToHost, stream_),
                                      "staged all-reduce"));
    }
    TANDEM_RETURN_IF_ERROR(FromCuda(
        cudaLaunchHostFunc(
            stream_, [](void* call) { static_cast<Call*>(call)->Run(); }, CallOf(plan, count)),
        "staged all-reduce"));
    return FromCuda(
        cudaMemcpyAsync(out, sum_.data(), count * sizeof(float), cudaMemcpyHostToDevice, stream_),
        "staged all-reduce");
  }

  absl::Status Poll() override {
    const std::lock_guard lock(mutex_);
    return status_;
  }

  // Waits have the host communicator's deadlines; what comes after the one that is under way
  // does not start.
  void Abort() override {
    const std::lock_guard lock(mutex_);
    if (status_.ok()) status_ = absl::AbortedError("staged all-reduce: given up");
  }

 private:
  // What the stream does on the host; graphs keep pointers to it.
  struct Call {
    StagedAllReduce* owner;
    ReducePlan plan;  // of the host's communicator
    int64_t count;

    void Run() const {
      if (!owner->Poll().ok()) return;
      const absl::Status status =
          owner->host_.AllReduce(plan, owner->mine_.as<float>(), count, owner->sum_.as<float>());
      const std::lock_guard lock(owner->mutex_);
      if (owner->status_.ok()) owner->status_ = status;
    }
  };
  struct Planned {
    int64_t own = 0;  // partial sums of this rank
    ReducePlan on_host;
    std::map<int64_t, Call> calls;  // by count
  };

  Call* CallOf(ReducePlan plan, int64_t count) {
    Planned& planned = plans_[plan];
    return &planned.calls.try_emplace(count, Call{this, planned.on_host, count}).first->second;
  }

  const cudaStream_t stream_;
  Communicator& host_;
  const int64_t max_floats_;
  const kernels::Buffer mine_, sum_;  // pinned
  ReducePlans<Planned> plans_;
  std::mutex mutex_;
  absl::Status status_;
};

// Fails on all ranks where two ranks of one process have the same GPU.
absl::Status CheckGpus(ControlGroup& ranks) {
  int device = 0;
  TANDEM_RETURN_IF_ERROR(
      AgreeOnStatus(ranks, FromCuda(cudaGetDevice(&device), "staged all-reduce")));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> gpus,
                          AllGather(ranks, absl::StrCat(ThisProcess(), " ", device)));
  std::map<std::string, int> rank_of;
  for (int r = 0; r < ranks.size(); ++r) {
    const auto [first, is_new] = rank_of.try_emplace(gpus[r], r);
    if (is_new) continue;
    return absl::UnimplementedError(
        absl::StrCat("ranks ", first->second, " and ", r,
                     " are threads of one process on one GPU, expected a process or a GPU each"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceAllReduce>> MakeStagedAllReduce(cudaStream_t stream,
                                                                     Communicator& host,
                                                                     int64_t max_floats) {
  TANDEM_RETURN_IF_ERROR(CheckGpus(host.control()));
  const size_t bytes = static_cast<size_t>(max_floats) * sizeof(float);
  absl::StatusOr<kernels::Buffer> mine = AllocatePinned(bytes), sum = AllocatePinned(bytes);
  TANDEM_RETURN_IF_ERROR(AgreeOnStatus(host.control(), mine.ok() ? sum.status() : mine.status()));
  return std::make_unique<StagedAllReduce>(stream, host, max_floats, *std::move(mine),
                                           *std::move(sum));
}

}  // namespace tandem::parallel
