#include "parallel/device_communicator.h"

#include <cuda_runtime_api.h>
#include <sched.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "parallel/cuda_memory.h"
#include "parallel/device_all_reduce.h"
#include "parallel/timeouts.h"

namespace tandem::parallel {
namespace {

using Clock = std::chrono::steady_clock;
using Way = std::unique_ptr<DeviceAllReduce>;

// Where a way is tried, a rank may keep others waiting so long.
constexpr std::chrono::milliseconds kTrialTimeout{5000};
// Sums of so many floats are tried: a token, a batch of decoding, a small and a large prefill.
constexpr int64_t kTriedCounts[] = {4 << 10, 64 << 10, 512 << 10, 2 << 20};
constexpr int kRepeats = 10;

// Until all that is queued is done, or `way` has failed or takes too long.
absl::Status AwaitStream(cudaStream_t stream, DeviceAllReduce* way,
                         std::chrono::milliseconds timeout) {
  const Clock::time_point deadline = Clock::now() + timeout;
  for (;;) {
    const cudaError_t state = cudaStreamQuery(stream);
    if (way != nullptr) TANDEM_RETURN_IF_ERROR(way->Poll());
    if (state == cudaSuccess) return FromCuda(cudaGetLastError(), "work on the GPU");
    if (state != cudaErrorNotReady) return FromCuda(state, "work on the GPU");
    if (timeout.count() > 0 && Clock::now() > deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("work on the GPU is not done after ", timeout.count(), " ms"));
    }
    sched_yield();
  }
}

// Gives a way up and waits until the stream is free of it.
absl::Status GiveUp(cudaStream_t stream, DeviceAllReduce& way) {
  way.Abort();
  if (AwaitStream(stream, nullptr, kTrialTimeout).ok()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("all-reduce '", std::string(way.name()),
                                             "' hangs on the GPU and cannot be given up"));
}

// The ways of a world, and which is for what.
class DeviceWays {
 public:
  // The fastest that takes a message of the size; null: none.
  DeviceAllReduce* For(int64_t count, int64_t floats) const {
    for (const Choice& choice : choices_) {
      if (count <= choice.up_to && floats <= choice.way->max_floats()) return choice.way;
    }
    for (const Way& way : ways_) {
      if (floats <= way->max_floats()) return way.get();
    }
    return nullptr;
  }

  void Add(Way way) { ways_.push_back(std::move(way)); }
  std::vector<Way>& all() { return ways_; }

  // Leaves a broken way out; the next one takes its place.
  void Drop(std::vector<Way>::iterator way) {
    std::erase_if(choices_, [&](const Choice& choice) { return choice.way == way->get(); });
    ways_.erase(way);
  }

  // `way` is for sums of up to `count` floats that are not a smaller choice's.
  void Choose(int64_t count, DeviceAllReduce* way) { choices_.push_back({count, way}); }

  absl::Status Poll() const {
    for (const Way& way : ways_) TANDEM_RETURN_IF_ERROR(way->Poll());
    return absl::OkStatus();
  }
  void Abort() {
    for (const Way& way : ways_) way->Abort();
  }

 private:
  struct Choice {
    int64_t up_to;
    DeviceAllReduce* way;
  };
  std::vector<Way> ways_;
  std::vector<Choice> choices_;  // from small to large
};

class DeviceCommunicator : public Communicator {
 public:
  DeviceCommunicator(Communicator& host, const DeviceCommunicatorOptions& options, DeviceWays ways,
                     kernels::Buffer gathered)
      : host_(host),
        stream_(static_cast<cudaStream_t>(options.stream)),
        step_timeout_(options.step_timeout),
        ways_(std::move(ways)),
        gathered_(std::move(gathered)) {}

  int rank() const override { return host_.rank(); }
  int size() const override { return host_.size(); }

  absl::Status AllReduceTree(const TreeLayout& layout, const float* mine, int64_t count,
                             float* out) override {
    TANDEM_RETURN_IF_ERROR(failure_);
    if (count == 0) return absl::OkStatus();
    if (size() == 1) {
      TANDEM_CHECK(layout.nodes.size() <= 1);
      if (layout.nodes.empty()) {  // of no leaves
        return FromCuda(cudaMemsetAsync(out, 0, count * sizeof(float), stream_), "all-reduce");
      }
      return FromCuda(
          cudaMemcpyAsync(out, mine, count * sizeof(float), cudaMemcpyDeviceToDevice, stream_),
          "all-reduce");
    }
    return WayFor(layout, count).Enqueue(layout, mine, count, out);
  }

  absl::Status AllReduceAddRmsNorm(kernels::Backend& backend, const TreeLayout& layout,
                                   const float* mine, const kernels::ResidualNorm& norm,
                                   float* sum) override {
    TANDEM_RETURN_IF_ERROR(failure_);
    const int64_t count = norm.tokens * norm.hidden;
    if (size() > 1 && count > 0) {
      TANDEM_ASSIGN_OR_RETURN(const bool done,
                              WayFor(layout, count).EnqueueAddRmsNorm(layout, mine, norm));
      if (done) return absl::OkStatus();
    }
    return Communicator::AllReduceAddRmsNorm(backend, layout, mine, norm, sum);
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

  absl::StatusOr<std::vector<std::string>> AllGatherBytes(const std::string& mine) override {
    return host_.AllGatherBytes(mine);
  }
  absl::Status Barrier() override { return host_.Barrier(); }

 private:
  DeviceAllReduce& WayFor(const TreeLayout& layout, int64_t count) const {
    DeviceAllReduce* const way =
        ways_.For(count, std::max<int64_t>(1, layout.max_node_count()) * count);
    TANDEM_CHECK(way != nullptr);
    return *way;
  }

  absl::Status AwaitStep() {
    const Clock::time_point deadline = Clock::now() + step_timeout_;
    absl::Status status;
    for (bool done = false; status.ok() && !done;) {
      const cudaError_t state = cudaStreamQuery(stream_);
      status = ways_.Poll();
      if (!status.ok()) break;
      done = state != cudaErrorNotReady;
      if (done) {
        status = FromCuda(state == cudaSuccess ? cudaGetLastError() : state, "a step on the GPU");
      } else if (step_timeout_.count() > 0 && Clock::now() > deadline) {
        // Whoever waits in vain comes here; the host's barrier names the rank that does not.
        status = host_.Barrier();
        if (status.ok()) {
          status = absl::UnavailableError(absl::StrCat("a step on the GPUs is not done after ",
                                                       step_timeout_.count(),
                                                       " ms; all ranks wait for it"));
        }
      } else {
        sched_yield();
      }
    }
    if (!status.ok()) ways_.Abort();
    return status;
  }

  Communicator& host_;
  const cudaStream_t stream_;
  const std::chrono::milliseconds step_timeout_;
  DeviceWays ways_;
  const kernels::Buffer gathered_;  // pinned
  absl::Status failure_;            // final
};

// One way and one size, on all ranks.
absl::StatusOr<AllReduceTrial> Try(Communicator& host, cudaStream_t stream, DeviceAllReduce& way,
                                   int64_t count, float* mine_on_gpu, float* sum_on_gpu) {
  return TryAllReduce(
      host, std::string(way.name()), count, kRepeats,
      [&](const TreeLayout& layout, const std::vector<float>& mine, int repeats,
          std::vector<float>& sum) -> absl::StatusOr<double> {
        const size_t bytes = count * sizeof(float);
        TANDEM_RETURN_IF_ERROR(FromCuda(
            cudaMemcpyAsync(mine_on_gpu, mine.data(), bytes, cudaMemcpyHostToDevice, stream),
            "trial of collectives"));
        TANDEM_RETURN_IF_ERROR(
            FromCuda(cudaMemsetAsync(sum_on_gpu, 0xff, bytes, stream), "trial of collectives"));
        TANDEM_RETURN_IF_ERROR(AwaitStream(stream, &way, kTrialTimeout));
        const Clock::time_point begin = Clock::now();
        for (int i = 0; i < repeats; ++i) {
          TANDEM_RETURN_IF_ERROR(way.Enqueue(layout, mine_on_gpu, count, sum_on_gpu));
        }
        TANDEM_RETURN_IF_ERROR(AwaitStream(stream, &way, kTrialTimeout));
        const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
        TANDEM_RETURN_IF_ERROR(
            FromCuda(cudaMemcpyAsync(sum.data(), sum_on_gpu, bytes, cudaMemcpyDeviceToHost, stream),
                     "trial of collectives"));
        TANDEM_RETURN_IF_ERROR(AwaitStream(stream, &way, kTrialTimeout));
        return seconds;
      });
}

class WaysMaker {
 public:
  WaysMaker(Communicator& host, const DeviceCommunicatorOptions& options,
            std::vector<AllReduceTrial>& trials)
      : host_(host),
        options_(options),
        stream_(static_cast<cudaStream_t>(options.stream)),
        trials_(trials) {}

  absl::StatusOr<DeviceWays> Make() {
    absl::StatusOr<Way> staged = MakeStagedAllReduce(stream_, host_, options_.max_floats);
    // Ways that take messages of any size last: they are for what is left over, too. The staged
    // way is for others' failures, and where it is not there, the peer way is.
    if (Wanted("peer") || !staged.ok()) {
      AddOrTell("peer", MakePeerAllReduce(stream_, host_, kTrialTimeout / 2));
    }
    if (Wanted("nccl")) {
      AddOrTell("nccl", MakeNcclAllReduce(stream_, host_, options_.deterministic,
                                          options_.nccl_start_timeout));
    }
    AddOrTell("staged", std::move(staged));

    const int64_t most = std::min(options_.max_floats, most_count());
    const auto memory = AllocateOnGpu(2 * most * sizeof(float), stream_);
    TANDEM_RETURN_IF_ERROR(AgreeOnStatus(host_, memory.status()));
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
  static int64_t most_count() { return kTriedCounts[std::size(kTriedCounts) - 1]; }

  bool Wanted(std::string_view way) const { return options_.way == "auto" || options_.way == way; }

  void AddOrTell(const char* name, absl::StatusOr<Way> way) {
    if (way.ok()) {
      ways_.Add(*std::move(way));
    } else {
      trials_.push_back({.way = name, .status = way.status()});
    }
  }

  absl::Status ChooseFor(int64_t count, float* mine, float* sum) {
    DeviceAllReduce* best = nullptr;
    double best_time = 0;
    std::vector<Way>& ways = ways_.all();
    for (auto way = ways.begin(); way != ways.end();) {
      if (count > (*way)->max_floats()) {
        ++way;
        continue;
      }
      TANDEM_ASSIGN_OR_RETURN(const AllReduceTrial trial,
                              Try(host_, stream_, **way, count, mine, sum));
      trials_.push_back(trial);
      if (!trial.status.ok()) {
        const absl::Status given_up = GiveUp(stream_, **way);
        if (given_up.ok()) (*way)->Close();
        TANDEM_RETURN_IF_ERROR(AgreeOnStatus(host_, given_up));
        ways_.Drop(way);  // and the next is at its place
        continue;
      }
      // One that was asked for is taken before the staged way, which is for its failures.
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

  // The same on all ranks.
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
  const DeviceCommunicatorOptions& options_;
  const cudaStream_t stream_;
  std::vector<AllReduceTrial>& trials_;
  DeviceWays ways_;
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
        ways, WaysMaker(host, options, trials == nullptr ? own_trials : *trials).Make());
  }
  auto gathered = AllocatePinned(std::max<int64_t>(1, options.max_gathered) * sizeof(float));
  TANDEM_RETURN_IF_ERROR(AgreeOnStatus(host, gathered.status()));
  return std::make_unique<DeviceCommunicator>(host, options, std::move(ways), *std::move(gathered));
}

}  // namespace tandem::parallel
