#include "parallel/device_communicator.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "parallel/cuda_memory.h"
#include "parallel/device_ways.h"
#include "parallel/stream_wait.h"

namespace tandem::parallel {
namespace {

class DeviceCommunicator : public Communicator {
 public:
  DeviceCommunicator(Communicator& host, const DeviceCommunicatorOptions& options, DeviceWays ways,
                     kernels::Buffer gathered)
      : host_(host),
        stream_(options.stream),
        step_timeout_(options.step_timeout),
        ways_(std::move(ways)),
        gathered_(std::move(gathered)) {}

  int rank() const override { return host_.rank(); }
  int size() const override { return host_.size(); }
  ControlGroup& control() override { return host_.control(); }

  ReducePlan PlanReduce(const TreeLayout& layout) override {
    return plans_.Add(layout, {std::max<int64_t>(1, layout.max_node_count()), ways_.Plan(layout)});
  }

  absl::Status AllReduce(ReducePlan plan, const float* mine, int64_t count, float* out) override {
    TANDEM_RETURN_IF_ERROR(failure_);
    if (count == 0) return absl::OkStatus();
    if (size() == 1) return Copy(plan, mine, count, out);
    const Planned& planned = plans_[plan];
    return WayFor(planned, count).Enqueue(planned.of_ways, mine, count, out);
  }

  absl::StatusOr<bool> FusedAllReduceAddRmsNorm(ReducePlan plan, const float* mine,
                                                const kernels::ResidualNorm& norm) override {
    TANDEM_RETURN_IF_ERROR(failure_);
    const int64_t count = norm.tokens * norm.hidden;
    if (size() == 1 || count == 0) return false;
    const Planned& planned = plans_[plan];
    return WayFor(planned, count).EnqueueAddRmsNorm(planned.of_ways, mine, norm);
  }

  absl::Status GatherColumns(const float* mine, int64_t rows, std::span<const int64_t> widths,
                             float* out) override {
    TANDEM_RETURN_IF_ERROR(failure_);
    const size_t bytes = rows * widths[rank()] * sizeof(float);
    TANDEM_CHECK(bytes <= gathered_.bytes());
    if (bytes > 0) {
      TANDEM_RETURN_IF_ERROR(
          FromCuda(cudaMemcpyAsync(gathered_.data(), mine, bytes, cudaMemcpyDeviceToHost, stream_),
                   "gather of logits"));
    }
    TANDEM_RETURN_IF_ERROR(Await());
    return host_.GatherColumns(gathered_.as<float>(), rows, widths, out);
  }

  absl::Status Await() override {
    if (failure_.ok()) failure_ = AwaitStep();
    return failure_;
  }

 private:
  struct Planned {
    int64_t most = 1;    // partial sums of a rank, at least 1
    ReducePlan of_ways;  // DeviceWays::Plan
  };

  DeviceAllReduce& WayFor(const Planned& planned, int64_t count) const {
    DeviceAllReduce* const way = ways_.For(count, planned.most * count);
    TANDEM_CHECK(way != nullptr);
    return *way;
  }

  // The all-reduce of a world of one.
  absl::Status Copy(ReducePlan plan, const float* mine, int64_t count, float* out) const {
    TANDEM_CHECK(plan.nodes <= 1);
    const size_t bytes = count * sizeof(float);
    return FromCuda(plan.nodes == 0  // no leaves
                        ? cudaMemsetAsync(out, 0, bytes, stream_)
                        : cudaMemcpyAsync(out, mine, bytes, cudaMemcpyDeviceToDevice, stream_),
                    "all-reduce");
  }

  absl::Status AwaitStep() {
    absl::Status status =
        AwaitStream(stream_, step_timeout_, "a step on the GPU", [this] { return ways_.Poll(); });
    if (absl::IsDeadlineExceeded(status)) {
      // All ranks that wait in vain come here; the barrier names the rank that does not.
      status = host_.control().Barrier();
      if (status.ok()) {
        status = absl::UnavailableError(absl::StrCat("a step on the GPUs is not done after ",
                                                     step_timeout_.count(),
                                                     " ms; all ranks wait for it"));
      }
    }
    if (!status.ok()) ways_.Abort();
    return status;
  }

  Communicator& host_;
  const cudaStream_t stream_;
  const std::chrono::milliseconds step_timeout_;
  DeviceWays ways_;
  ReducePlans<Planned> plans_;
  const kernels::Buffer gathered_;  // pinned
  absl::Status failure_;            // final
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> MakeDeviceCommunicator(
    Communicator& host, const DeviceCommunicatorOptions& options,
    std::vector<AllReduceTrial>* trials) {
  TANDEM_CHECK(options.stream != nullptr);
  std::vector<AllReduceTrial> own_trials;
  DeviceWays ways;
  if (host.size() > 1) {
    TANDEM_CHECK(options.max_floats > 0);
    TANDEM_ASSIGN_OR_RETURN(
        ways, MakeDeviceWays(host, options, trials == nullptr ? own_trials : *trials));
  }
  auto gathered = AllocatePinned(std::max<int64_t>(1, options.max_gathered) * sizeof(float));
  TANDEM_RETURN_IF_ERROR(AgreeOnStatus(host.control(), gathered.status()));
  return std::make_unique<DeviceCommunicator>(host, options, std::move(ways), *std::move(gathered));
}

}  // namespace tandem::parallel
