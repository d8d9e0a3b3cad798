// Operations on rows: norms, rotary angles, gates, gathers, conversions. All are bound by memory;
// threads of a warp take neighbouring elements. No kernel counts rows in a grid's y or z, which
// have 65535 blocks at most.
#include <cuda_device.h>

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/rms_norm.h"

namespace tandem::kernels::cuda {
namespace {

constexpr int kThreads = 256;

template <int kWidth>
struct Pack {
  alignas(kWidth * sizeof(float)) float at[kWidth];
};

template <int kWidth>
__device__ Pack<kWidth> Load(const float* address) {
  return *reinterpret_cast<const Pack<kWidth>*>(address);
}
template <int kWidth>
__device__ void Store(float* address, const Pack<kWidth>& pack) {
  *reinterpret_cast<Pack<kWidth>*>(address) = pack;
}

// One block of kNormThreads for each token.
template <int kWidth>
__global__ void AddRmsNormKernel(const float* delta, const float* delta_bias, float* residual,
                                 const float* weight, float epsilon, int64_t hidden, float* out) {
  AwaitPrevious();
  StartNext();
  TANDEM_SHARED(float, sums, kNormWarps);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * hidden;
  const int64_t first = static_cast<int64_t>(threadIdx.x) * kWidth;
  constexpr int64_t kStep = static_cast<int64_t>(kNormThreads) * kWidth;
  float sum = 0;
  for (int64_t j = first; j < hidden; j += kStep) {
    Pack<kWidth> x = Load<kWidth>(residual + row + j);
    if (delta != nullptr) {
      Pack<kWidth> d = Load<kWidth>(delta + row + j);
      if (delta_bias != nullptr) {
        const Pack<kWidth> b = Load<kWidth>(delta_bias + j);
        for (int i = 0; i < kWidth; ++i) d.at[i] += b.at[i];
      }
      for (int i = 0; i < kWidth; ++i) x.at[i] += d.at[i];
      Store<kWidth>(residual + row + j, x);
    }
    for (int i = 0; i < kWidth; ++i) sum = fmaf(x.at[i], x.at[i], sum);
  }
  KeepWarpSum(sum, sums);
  __syncthreads();
  const float inverse = InverseRms(sums, hidden, epsilon);
  for (int64_t j = first; j < hidden; j += kStep) {
    Pack<kWidth> x = Load<kWidth>(residual + row + j);
    const Pack<kWidth> w = Load<kWidth>(weight + j);
    for (int i = 0; i < kWidth; ++i) x.at[i] = x.at[i] * inverse * w.at[i];
    Store<kWidth>(out + row + j, x);
  }
}

__global__ void RopeAnglesKernel(const int32_t* positions, const float* inverse_frequencies,
                                 int64_t half, float attention_factor, float* cos, float* sin) {
  AwaitPrevious();
  StartNext();
  const int64_t t = blockIdx.x;
  for (int64_t i = threadIdx.x; i < half; i += blockDim.x) {
    float s, c;
    sincosf(static_cast<float>(positions[t]) * inverse_frequencies[i], &s, &c);
    cos[t * half + i] = c * attention_factor;
    sin[t * half + i] = s * attention_factor;
  }
}

// This thread's element, where a row has `blocks` blocks of kThreads elements.
struct Place {
  int64_t row, column;
};
__device__ Place PlaceOf(unsigned blocks) {
  return {blockIdx.x / blocks, static_cast<int64_t>(blockIdx.x % blocks) * kThreads + threadIdx.x};
}

__global__ void SiluMulKernel(const float* gate_up, int64_t columns, unsigned blocks, float* out) {
  AwaitPrevious();
  StartNext();
  const auto [t, i] = PlaceOf(blocks);
  if (i >= columns) return;
  const float g = gate_up[t * 2 * columns + i];
  out[t * columns + i] = g / (1.0f + expf(-g)) * gate_up[(t * 2 + 1) * columns + i];
}

__global__ void AddBiasKernel(const float* bias, int64_t columns, unsigned blocks, float* y) {
  AwaitPrevious();
  StartNext();
  const auto [t, i] = PlaceOf(blocks);
  if (i < columns) y[t * columns + i] += bias[i];
}

__global__ void GatherRowsKernel(const float* x, const int32_t* indices, int64_t columns,
                                 float* out) {
  AwaitPrevious();
  StartNext();
  const int64_t r = blockIdx.x;
  const float* row = x + indices[r] * columns;
  for (int64_t i = threadIdx.x; i < columns; i += blockDim.x) out[r * columns + i] = row[i];
}

template <DType kType>
__global__ void WidenKernel(const void* values, int64_t count, float* out) {
  AwaitPrevious();
  StartNext();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) out[i] = Element<kType>(values, i);
}

// Values beyond FP16's range become its largest: an infinity would become NaN in the product.
__device__ uint16_t SaturatedF16Bits(float value) {
  constexpr float kMost = 65504;
  return F16Bits(value > kMost ? kMost : value < -kMost ? -kMost : value);  // NaN stays
}

template <DType kType>
__global__ void NarrowKernel(const float* values, int64_t count, uint16_t* out) {
  AwaitPrevious();
  StartNext();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count)
    out[i] = kType == DType::kF16 ? SaturatedF16Bits(values[i]) : FloatToBf16(values[i]);
}

unsigned Blocks(int64_t count, int64_t per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

}  // namespace

void AddRmsNorm(cudaStream_t stream, const float* delta, const float* delta_bias, float* residual,
                const float* weight, float epsilon, int64_t tokens, int64_t hidden, float* out) {
  if (tokens == 0 || hidden == 0) return;
  const LaunchShape shape = {
      .grid = dim3(static_cast<unsigned>(tokens)), .block = dim3(kNormThreads), .stream = stream};
  Launch(shape, hidden % 4 == 0 ? &AddRmsNormKernel<4> : &AddRmsNormKernel<1>, delta, delta_bias,
         residual, weight, epsilon, hidden, out);
}

void RopeAngles(cudaStream_t stream, const int32_t* positions, int64_t tokens,
                const float* inverse_frequencies, int64_t half, float attention_factor, float* cos,
                float* sin) {
  if (tokens == 0 || half == 0) return;
  Launch({.grid = dim3(static_cast<unsigned>(tokens)), .block = dim3(64), .stream = stream},
         &RopeAnglesKernel, positions, inverse_frequencies, half, attention_factor, cos, sin);
}

void SiluMul(cudaStream_t stream, const float* gate_up, int64_t tokens, int64_t columns,
             float* out) {
  if (tokens == 0 || columns == 0) return;
  const unsigned blocks = Blocks(columns, kThreads);
  Launch({.grid = dim3(blocks * static_cast<unsigned>(tokens)),
          .block = dim3(kThreads),
          .stream = stream},
         &SiluMulKernel, gate_up, columns, blocks, out);
}

void GatherRows(cudaStream_t stream, const float* x, const int32_t* indices, int64_t rows,
                int64_t columns, float* out) {
  if (rows == 0 || columns == 0) return;
  Launch({.grid = dim3(static_cast<unsigned>(rows)), .block = dim3(kThreads), .stream = stream},
         &GatherRowsKernel, x, indices, columns, out);
}

void AddBias(cudaStream_t stream, const float* bias, int64_t tokens, int64_t columns, float* y) {
  if (tokens == 0 || columns == 0) return;
  const unsigned blocks = Blocks(columns, kThreads);
  Launch({.grid = dim3(blocks * static_cast<unsigned>(tokens)),
          .block = dim3(kThreads),
          .stream = stream},
         &AddBiasKernel, bias, columns, blocks, y);
}

void Widen(cudaStream_t stream, const void* values, DType dtype, int64_t count, float* out) {
  if (count == 0) return;
  auto* const kernel = dtype == DType::kF32   ? &WidenKernel<DType::kF32>
                       : dtype == DType::kF16 ? &WidenKernel<DType::kF16>
                                              : &WidenKernel<DType::kBF16>;
  Launch({.grid = dim3(Blocks(count, kThreads)), .block = dim3(kThreads), .stream = stream}, kernel,
         values, count, out);
}

void Narrow(cudaStream_t stream, const float* values, DType dtype, int64_t count, void* out) {
  if (count == 0) return;
  Launch({.grid = dim3(Blocks(count, kThreads)), .block = dim3(kThreads), .stream = stream},
         dtype == DType::kF16 ? &NarrowKernel<DType::kF16> : &NarrowKernel<DType::kBF16>, values,
         count, static_cast<uint16_t*>(out));
}

}  // namespace tandem::kernels::cuda
