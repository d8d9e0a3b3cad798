// The part of choosing tokens that is done on the GPU. Each warp of a row's block has a contiguous
// range of columns, so that sums of ranges are known in order of ids. All sums are of integers: the
// order of additions does not matter.
#include <cuda_device.h>

#include <algorithm>

#include "kernels/base/sampling_math.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/sampling.h"

namespace tandem::kernels::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
static_assert(kSampleRanges == kWarps && kMaxListSize <= kThreads);
constexpr int kBinsOfThread = kCandidateBins / kThreads;
constexpr int kBatch = 8;  // loads that a thread has in flight at once

// Passed to kernels by value, so that hosts and GPUs use one table.
struct Exp2Table {
  double at[64];
};

__device__ uint64_t Shuffle(uint64_t value, int lane) {
  const unsigned low = __shfl_sync(kAllLanes, static_cast<unsigned>(value), lane);
  const unsigned high = __shfl_sync(kAllLanes, static_cast<unsigned>(value >> 32), lane);
  return static_cast<uint64_t>(high) << 32 | low;
}

__device__ uint64_t SumWarp(uint64_t value) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int lanes = 16; lanes > 0; lanes /= 2) value += Shuffle(value, lane ^ lanes);
  return value;
}

__device__ uint64_t MaxWarp(uint64_t value) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const uint64_t other = Shuffle(value, lane ^ lanes);
    value = other > value ? other : value;
  }
  return value;
}

// The sum of the values of all threads before this one. `warps` is the block's, [kWarps].
__device__ uint64_t SumBefore(uint64_t value, uint64_t* warps) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  uint64_t sum = value;  // of the warp's lanes up to this one
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const uint64_t other = Shuffle(sum, lane < lanes ? lane : lane - lanes);
    if (lane >= lanes) sum += other;
  }
  if (lane == 31) warps[warp] = sum;
  __syncthreads();
  uint64_t before = sum - value;
  for (int w = 0; w < warp; ++w) before += warps[w];
  return before;
}

__device__ bool HasWeights(SampleKind kind) {
  return kind == SampleKind::kDraw || kind == SampleKind::kNucleus;
}
__device__ bool HasCandidates(SampleKind kind) {
  return kind == SampleKind::kCandidates || kind == SampleKind::kNucleus;
}

// Columns of a warp, a multiple of 32.
__device__ int64_t RangeSize(int64_t width) {
  return ((width + kWarps - 1) / kWarps + 31) / 32 * 32;
}

// Calls body(i, logits[i]) for this lane's columns of the warp's range.
template <typename Body>
__device__ void ForWarpRange(const float* logits, int64_t width, Body body) {
  const int64_t range = RangeSize(width);
  int64_t i = threadIdx.x / 32 * range + threadIdx.x % 32;
  const int64_t end = std::min((threadIdx.x / 32 + 1) * range, width);
  for (; i + (kBatch - 1) * 32 < end; i += kBatch * 32) {
    float batch[kBatch];
    for (int k = 0; k < kBatch; ++k) batch[k] = logits[i + k * 32];
    for (int k = 0; k < kBatch; ++k) body(i + k * 32, batch[k]);
  }
  for (; i < end; i += 32) body(i, logits[i]);
}

// Called by one thread.
__device__ void Send(const SamplingArgs& args, int64_t row, uint64_t word) {
  if (args.ranks == 1) return;
  for (int r = 0; r < args.ranks; ++r) {
    float* const to = args.sent + (r * args.rows + row) * kWordFloats;
    for (int i = 0; i < kWordFloats; ++i) {
      to[i] = r == args.rank ? static_cast<float>(static_cast<unsigned>(word >> (16 * i)) & 0xffffu)
                             : 0.0f;
    }
  }
}

__device__ uint64_t Received(const SamplingArgs& args, int rank, int64_t row, uint64_t own) {
  if (args.ranks == 1) return own;
  const float* const from = args.received + (rank * args.rows + row) * kWordFloats;
  uint64_t word = 0;
  for (int i = 0; i < kWordFloats; ++i) {
    word |= static_cast<uint64_t>(static_cast<unsigned>(from[i])) << (16 * i);
  }
  return word;
}

__device__ uint64_t Weight(float logit, double largest, const SampleRequest& request,
                           const double* table) {
  const double x = (static_cast<double>(logit) - largest) * request.inverse_temperature;
  if (!(x > kNoWeight)) return 0;
  const uint64_t weight = WeightOf(x, table);
  return weight < request.least ? 0 : weight;
}

__global__ void __launch_bounds__(kThreads) FindLargestKernel(SamplingArgs args) {
  TANDEM_SHARED(uint64_t, largest_of, kWarps);
  TANDEM_SHARED(int, valid_of, kWarps);
  AwaitPrevious();
  StartNext();
  const int64_t row = blockIdx.x;
  if (args.requests[row].kind == SampleKind::kWhole) return;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  uint64_t largest = 0;
  int32_t high = INT32_MIN, low = INT32_MAX;
  ForWarpRange(args.logits + row * args.width, args.width, [&](int64_t i, float logit) {
    const int32_t key = OrderedKey(logit);
    low = key < low ? key : low;
    if (largest != 0 && key <= high) return;  // a later id never beats an equal key
    high = key;
    largest = PackToken(key, args.first_id + static_cast<int32_t>(i));
  });
  const bool invalid = largest != 0 && (low < kMinusInfinityKey || high >= kInfinityKey);
  largest = MaxWarp(largest);
  const uint64_t invalid_lanes = SumWarp(invalid ? 1 : 0);
  if (lane == 0) {
    largest_of[warp] = largest;
    valid_of[warp] = invalid_lanes == 0 ? 1 : 0;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  RowSurvey survey;
  for (int w = 0; w < kWarps; ++w) {
    survey.largest = largest_of[w] > survey.largest ? largest_of[w] : survey.largest;
    survey.valid = valid_of[w] == 0 ? 0 : survey.valid;
  }
  args.surveys[row] = survey;
  Send(args, row, survey.largest);
}

__global__ void __launch_bounds__(kThreads) SurveyKernel(SamplingArgs args, Exp2Table exp2) {
  TANDEM_SHARED(double, table, 64);
  TANDEM_SHARED(unsigned, bins, kCandidateBins);
  TANDEM_SHARED(uint64_t, warps, kWarps);
  TANDEM_SHARED(uint64_t, sums, kWarps);
  TANDEM_SHARED(uint64_t, list, kMaxListSize);
  TANDEM_SHARED(int, first_left_out, 1);  // bin
  TANDEM_SHARED(unsigned, listed, 1);
  AwaitPrevious();
  StartNext();
  const int64_t row = blockIdx.x;
  const SampleRequest request = args.requests[row];
  const bool weighs = HasWeights(request.kind), lists = HasCandidates(request.kind);
  if (!weighs && !lists) return;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32, lane = thread % 32;
  uint64_t first = 0;  // of all ranks
  for (int r = 0; r < args.ranks; ++r) {
    const uint64_t of_rank = Received(args, r, row, args.surveys[row].largest);
    first = of_rank > first ? of_rank : first;
  }
  const float largest = PackedLogit(first);
  if (thread < 64) table[thread] = exp2.at[thread];
  for (int b = thread; b < kCandidateBins; b += kThreads) bins[b] = 0;
  if (thread == 0) {
    *first_left_out = kCandidateBins;
    *listed = 0;
  }
  __syncthreads();

  const float* const logits = args.logits + row * args.width;
  uint64_t sum = 0;
  ForWarpRange(logits, args.width, [&](int64_t, float logit) {
    if (weighs) sum += Weight(logit, largest, request, table);
    if (lists) atomicAdd(&bins[CandidateBin(largest, logit)], 1u);
  });
  sum = SumWarp(sum);
  if (lane == 0) {
    sums[warp] = sum;
    if (request.kind == SampleKind::kDraw) args.range_sums[row * kSampleRanges + warp] = sum;
  }
  __syncthreads();

  if (lists) {
    // The bin whose tokens would be too many.
    unsigned own = 0;
    for (int i = 0; i < kBinsOfThread; ++i) own += bins[thread * kBinsOfThread + i];
    const auto most = static_cast<uint64_t>(args.list_size);
    uint64_t before = SumBefore(own, warps);
    for (int i = 0; i < kBinsOfThread; ++i) {
      const int bin = thread * kBinsOfThread + i;
      const uint64_t with = before + bins[bin];
      if (before <= most && with > most) *first_left_out = bin;
      before = with;
    }
    __syncthreads();
    const int bins_listed = *first_left_out;
    ForWarpRange(logits, args.width, [&](int64_t i, float logit) {
      if (CandidateBin(largest, logit) >= bins_listed) return;
      list[atomicAdd(listed, 1u)] =
          PackToken(OrderedKey(logit), args.first_id + static_cast<int32_t>(i));
    });
    __syncthreads();
    // A token's place is the number of tokens before it.
    const int count = static_cast<int>(*listed);
    if (thread < count) {
      const uint64_t token = list[thread];
      int place = 0;
      for (int i = 0; i < count; ++i) place += list[i] > token ? 1 : 0;
      args.lists[static_cast<int64_t>(request.list) * args.list_size + place] = token;
    }
  }
  if (thread != 0) return;
  RowSurvey survey = args.surveys[row];
  survey.largest = first;
  if (weighs) {
    for (int w = 0; w < kWarps; ++w) survey.total += sums[w];
    Send(args, row, survey.total);
  }
  if (lists) {
    survey.candidates = static_cast<int32_t>(*listed);
    survey.complete = *listed == args.width ? 1 : 0;
  }
  args.surveys[row] = survey;
}

__global__ void __launch_bounds__(kThreads) DrawKernel(SamplingArgs args, Exp2Table exp2) {
  TANDEM_SHARED(double, table, 64);
  TANDEM_SHARED(uint64_t, warps, kWarps);
  AwaitPrevious();
  StartNext();
  const int64_t row = blockIdx.x;
  const SampleRequest request = args.requests[row];
  if (request.kind != SampleKind::kDraw) return;
  const int thread = static_cast<int>(threadIdx.x);
  const RowSurvey survey = args.surveys[row];
  uint64_t before = 0, total = 0;  // of the ranks before this one, of all
  for (int r = 0; r < args.ranks; ++r) {
    if (r == args.rank) before = total;
    total += Received(args, r, row, survey.total);
  }
  const uint64_t target = DrawTarget(request.uniform, total);
  if (target < before || target - before >= survey.total) return;
  if (thread < 64) table[thread] = exp2.at[thread];
  __syncthreads();

  // First find the range, then the thread's columns in it, then the column.
  uint64_t rest = target - before;
  int drawn_range = 0;
  while (rest >= args.range_sums[row * kSampleRanges + drawn_range]) {
    rest -= args.range_sums[row * kSampleRanges + drawn_range++];
  }
  const int64_t range = RangeSize(args.width);
  const int64_t own = (range + kThreads - 1) / kThreads;
  const int64_t range_end = std::min((drawn_range + 1) * range, args.width);
  const int64_t begin = std::min(drawn_range * range + thread * own, range_end);
  const int64_t end = std::min(begin + own, range_end);
  const float* const logits = args.logits + row * args.width;
  const double largest = PackedLogit(survey.largest);
  uint64_t sum = 0;
  for (int64_t i = begin; i < end; ++i) sum += Weight(logits[i], largest, request, table);
  const uint64_t smaller = SumBefore(sum, warps);
  if (rest < smaller || rest - smaller >= sum) return;
  rest -= smaller;
  for (int64_t i = begin; i < end; ++i) {
    const uint64_t weight = Weight(logits[i], largest, request, table);
    if (rest < weight) {
      args.surveys[row].drawn = args.first_id + static_cast<int32_t>(i);
      return;
    }
    rest -= weight;
  }
}

Exp2Table MakeTable() {
  Exp2Table table;
  std::copy(std::begin(kExp2Table), std::end(kExp2Table), table.at);
  return table;
}

LaunchShape RowShape(cudaStream_t stream, int64_t rows) {
  return {.grid = dim3(static_cast<unsigned>(rows)), .block = dim3(kThreads), .stream = stream};
}

}  // namespace

void CudaSampling::FindLargest(const SamplingArgs& args) const {
  if (args.rows > 0) Launch(RowShape(stream_, args.rows), &FindLargestKernel, args);
}

void CudaSampling::Survey(const SamplingArgs& args) const {
  if (args.rows > 0) Launch(RowShape(stream_, args.rows), &SurveyKernel, args, MakeTable());
}

void CudaSampling::Draw(const SamplingArgs& args) const {
  if (args.rows > 0) Launch(RowShape(stream_, args.rows), &DrawKernel, args, MakeTable());
}

}  // namespace tandem::kernels::cuda
