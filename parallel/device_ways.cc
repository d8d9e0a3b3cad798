#include "parallel/device_ways.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "parallel/cuda_memory.h"
#include "parallel/stream_wait.h"

namespace tandem::parallel {
namespace {

using Clock = std::chrono::steady_clock;
using Way = DeviceWays::Way;

// How long a rank may keep others waiting in a trial.
constexpr std::chrono::milliseconds kTrialTimeout{5000};
// Sums of so many floats are tried: one token, a batch of decoding, a small and a large prefill.
constexpr int64_t kTriedCounts[] = {4 << 10, 64 << 10, 512 << 10, 2 << 20};
constexpr int kRepeats = 10;

// One trial of a way with one size; all ranks run it at the same time.
class Trial {
 public:
  Trial(cudaStream_t stream, DeviceAllReduce& way, int64_t count, float* mine_on_gpu,
        float* sum_on_gpu)
      : stream_(stream),
        way_(way),
        count_(count),
        mine_on_gpu_(mine_on_gpu),
        sum_on_gpu_(sum_on_gpu) {}

  // As AllReduceRun.
  absl::StatusOr<double> Run(ReducePlan plan, const std::vector<float>& mine, int repeats,
                             std::vector<float>& sum) const {
    const size_t bytes = count_ * sizeof(float);
    TANDEM_RETURN_IF_ERROR(
        FromCuda(cudaMemcpyAsync(mine_on_gpu_, mine.data(), bytes, cudaMemcpyHostToDevice, stream_),
                 "trial of collectives"));
    TANDEM_RETURN_IF_ERROR(
        FromCuda(cudaMemsetAsync(sum_on_gpu_, 0xff, bytes, stream_), "trial of collectives"));
    TANDEM_RETURN_IF_ERROR(Await());
    const Clock::time_point begin = Clock::now();
    for (int i = 0; i < repeats; ++i) {
      TANDEM_RETURN_IF_ERROR(way_.Enqueue(plan, mine_on_gpu_, count_, sum_on_gpu_));
    }
    TANDEM_RETURN_IF_ERROR(Await());
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    TANDEM_RETURN_IF_ERROR(
        FromCuda(cudaMemcpyAsync(sum.data(), sum_on_gpu_, bytes, cudaMemcpyDeviceToHost, stream_),
                 "trial of collectives"));
    TANDEM_RETURN_IF_ERROR(Await());
    return seconds;
  }

 private:
  absl::Status Await() const {
    return AwaitStream(stream_, kTrialTimeout, "work on the GPU", [this] { return way_.Poll(); });
  }

  const cudaStream_t stream_;
  DeviceAllReduce& way_;
  const int64_t count_;
  float* const mine_on_gpu_;
  float* const sum_on_gpu_;
};

class WaysMaker {
 public:
  WaysMaker(Communicator& host, const DeviceCommunicatorOptions& options,
            std::vector<AllReduceTrial>& trials)
      : host_(host),
        ranks_(host.control()),
        options_(options),
        stream_(options.stream),
        trials_(trials) {}

  absl::StatusOr<DeviceWays> Make() {
    AddWays();
    trial_plan_ = ways_.Plan(TreeLayout::OfRanks(ranks_.size()));
    const int64_t most = std::min(options_.max_floats, kTriedCounts[std::size(kTriedCounts) - 1]);
    const auto memory = AllocateOnGpu(2 * most * sizeof(float), stream_);
    TANDEM_RETURN_IF_ERROR(AgreeOnStatus(ranks_, memory.status()));
    auto* const mine = memory->as<float>();
    for (const int64_t tried : kTriedCounts) {
      const int64_t count = std::min(tried, options_.max_floats);
      TANDEM_RETURN_IF_ERROR(ChooseFor(count, mine, mine + most));
      if (count == options_.max_floats) break;
    }
    if (ways_.For(options_.max_floats, options_.max_floats) == nullptr) {
      return NoneWorks(options_.max_floats);
    }
    for (const Way& way : ways_.all()) way->SetTimeout(options_.step_timeout * 8 / 10);
    return std::move(ways_);
  }

 private:
  bool Wanted(std::string_view way) const { return options_.way == "auto" || options_.way == way; }

  // Ways that take messages of any size come last: they are also for sizes that no trial chose a
  // way for. The staged way is the fallback for the others, and the peer way is the fallback for
  // the staged way.
  void AddWays() {
    absl::StatusOr<Way> staged = MakeStagedAllReduce(stream_, host_, options_.max_floats);
    if (Wanted("peer") || !staged.ok()) {
      AddOrReport("peer", MakePeerAllReduce(stream_, ranks_, kTrialTimeout / 2));
    }
    if (Wanted("nccl")) {
      AddOrReport("nccl", MakeNcclAllReduce(stream_, ranks_, options_.deterministic,
                                            options_.nccl_start_timeout));
    }
    AddOrReport("staged", std::move(staged));
  }

  void AddOrReport(const char* name, absl::StatusOr<Way> way) {
    if (way.ok()) {
      ways_.Add(*std::move(way));
    } else {
      trials_.push_back({.way = name, .status = way.status()});
    }
  }

  // Tries all ways for sums of `count` floats and chooses one. mine and sum are on the GPU.
  absl::Status ChooseFor(int64_t count, float* mine, float* sum) {
    DeviceAllReduce* best = nullptr;
    double best_time = 0;
    std::vector<Way>& ways = ways_.all();
    for (auto way = ways.begin(); way != ways.end();) {
      if (count > (*way)->max_floats()) {
        ++way;
        continue;
      }
      TANDEM_ASSIGN_OR_RETURN(const AllReduceTrial trial, Try(**way, count, mine, sum));
      trials_.push_back(trial);
      if (!trial.status.ok()) {
        const absl::Status stopped = Stop(**way);
        if (stopped.ok()) (*way)->Close();
        TANDEM_RETURN_IF_ERROR(AgreeOnStatus(ranks_, stopped));
        ways_.Drop(way);  // now `way` is the next one
        continue;
      }
      // A way that was asked for is preferred to the staged way, its fallback.
      const bool asked = options_.way == (*way)->name();
      if (best == nullptr || (options_.way == "auto" ? trial.microseconds < best_time : asked)) {
        best = way->get();
        best_time = trial.microseconds;
      }
      ++way;
    }
    if (best == nullptr) return NoneWorks(count);
    ways_.Choose(count, best);
    return absl::OkStatus();
  }

  absl::StatusOr<AllReduceTrial> Try(DeviceAllReduce& way, int64_t count, float* mine_on_gpu,
                                     float* sum_on_gpu) {
    const Trial trial(stream_, way, count, mine_on_gpu, sum_on_gpu);
    return TryAllReduce(ranks_, std::string(way.name()), count, kRepeats,
                        [&](const std::vector<float>& mine, int repeats, std::vector<float>& sum) {
                          return trial.Run(trial_plan_, mine, repeats, sum);
                        });
  }

  // Aborts a broken way and waits until the stream is free of it.
  absl::Status Stop(DeviceAllReduce& way) const {
    way.Abort();
    const auto no_error = [] { return absl::OkStatus(); };
    if (AwaitStream(stream_, kTrialTimeout, "work on the GPU", no_error).ok()) {
      return absl::OkStatus();
    }
    return absl::UnavailableError(absl::StrCat("all-reduce '", std::string(way.name()),
                                               "' hangs on the GPU and cannot be given up"));
  }

  // The same error on all ranks.
  absl::Status NoneWorks(int64_t floats) const {
    std::string message =
        absl::StrCat("collectives between GPUs: no way takes sums of ", floats, " floats");
    for (const AllReduceTrial& trial : trials_) {
      if (trial.status.ok()) continue;
      absl::StrAppend(&message, "; ", trial.way, ": ", std::string(trial.status.message()));
    }
    return absl::UnavailableError(message);
  }

  Communicator& host_;
  ControlGroup& ranks_;
  const DeviceCommunicatorOptions& options_;
  const cudaStream_t stream_;
  std::vector<AllReduceTrial>& trials_;
  DeviceWays ways_;
  ReducePlan trial_plan_;
};

}  // namespace

DeviceAllReduce* DeviceWays::For(int64_t count, int64_t floats) const {
  for (const Choice& choice : choices_) {
    if (count <= choice.up_to && floats <= choice.way->max_floats()) return choice.way;
  }
  for (const Way& way : ways_) {
    if (floats <= way->max_floats()) return way.get();
  }
  return nullptr;
}

ReducePlan DeviceWays::Plan(const TreeLayout& layout) {
  ReducePlan plan;
  for (const Way& way : ways_) {
    const ReducePlan of_way = way->Plan(layout);
    TANDEM_CHECK(plan.index < 0 || plan.index == of_way.index);
    plan = of_way;
  }
  return plan;
}

void DeviceWays::Drop(std::vector<Way>::iterator way) {
  std::erase_if(choices_, [&](const Choice& choice) { return choice.way == way->get(); });
  ways_.erase(way);
}

absl::Status DeviceWays::Poll() const {
  for (const Way& way : ways_) TANDEM_RETURN_IF_ERROR(way->Poll());
  return absl::OkStatus();
}

void DeviceWays::Abort() {
  for (const Way& way : ways_) way->Abort();
}

absl::StatusOr<DeviceWays> MakeDeviceWays(Communicator& host,
                                          const DeviceCommunicatorOptions& options,
                                          std::vector<AllReduceTrial>& trials) {
  return WaysMaker(host, options, trials).Make();
}

}  // namespace tandem::parallel
