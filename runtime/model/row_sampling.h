// Summaries of a step's rows of logits (kernels/sampling.h), for logits in a device's memory: rank
// 0's sampler needs these instead of whole rows. Waits for the device once, in the gather. A world
// of several ranks adds two small all-reduces before it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "parallel/communicator.h"
#include "parallel/shard_plan.h"

namespace tandem::model {

// Most floats of a rank in one call of the communicator.
struct SamplingTraffic {
  int64_t reduced = 0;
  int64_t gathered = 0;
};

class RowSampling {
 public:
  // Candidates that each rank lists for a row: about as many together at any degree.
  static int32_t ListSize(const parallel::ShardPlan& plan);
  static SamplingTraffic Traffic(const parallel::ShardPlan& plan, int64_t max_rows);
  // Of the device's memory.
  static size_t Bytes(const parallel::ShardPlan& plan, int64_t max_rows);

  // Backend, communicator and plan outlive it; the backend has sampling(). memory: Bytes() of it.
  RowSampling(kernels::Backend& backend, parallel::Communicator& communicator,
              const parallel::ShardPlan& plan, int64_t max_rows, void* memory);

  // On all ranks alike: surveys the rows whose kind is not kWhole of logits, [rows, own width].
  absl::Status Survey(std::span<const kernels::SampleRequest> requests, const float* logits);

  // On rank 0: a row that was surveyed, by rank. Until the next call.
  std::span<const kernels::RankSurvey> Of(int64_t row);

 private:
  kernels::Backend& backend_;
  parallel::Communicator& communicator_;
  const parallel::ShardPlan& plan_;
  const parallel::ReducePlan sum_;  // one leaf for each rank
  const int64_t max_rows_;
  const int32_t list_size_;
  kernels::SampleRequest* device_requests_ = nullptr;  // [max_rows]
  std::byte* device_results_ = nullptr;                // surveys of the rows, then lists
  uint64_t* range_sums_ = nullptr;                     // [max_rows, kSampleRanges]
  float* share_ = nullptr;                             // [ranks, rows, kWordFloats]
  float* shared_ = nullptr;
  std::vector<kernels::SampleRequest> requests_;  // of the step, with places of lists
  std::vector<int64_t> widths_;                   // [ranks], words of 32 bits of each one's results
  std::vector<std::byte> results_;                // rank 0: all ranks' results
  std::vector<kernels::RankSurvey> of_row_;       // [ranks]
};

}  // namespace tandem::model
