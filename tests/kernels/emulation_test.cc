// The emulation itself: it must find the faults that it is there for.
#include <cuda_async.h>
#include <cuda_device.h>
#include <cuda_matrix.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <random>

#include "kernels/base/math.h"
#include "tests/emulation/options.h"
#include "tests/support/cuda_memory.h"

namespace tandem {
namespace {

using kernels::cuda::AwaitPrevious;
using kernels::cuda::Launch;
using kernels::cuda::LaunchShape;
using testing::CudaArray;
using testing::CudaStream;

LaunchShape OneBlock(const CudaStream& stream, unsigned threads) {
  return {.grid = dim3(1), .block = dim3(threads), .stream = stream.get()};
}

// Each thread reads what the thread `ahead` of it wrote.
template <bool kBarrier>
void Neighbour(int ahead, float* out) {
  AwaitPrevious();
  TANDEM_SHARED(float, values, 64);
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (kBarrier) __syncthreads();
  out[threadIdx.x] = values[(threadIdx.x + ahead) % 64];
}

TEST(Emulation, BarriersMakeWritesSeen) {
  CudaStream stream;
  CudaArray<float> out(stream, 64);
  Launch(OneBlock(stream, 64), &Neighbour<true>, 1, out.data());
  const auto values = out.ToHost();
  for (int i = 0; i < 64; ++i) EXPECT_EQ(values[i], (i + 1) % 64);
}

TEST(Emulation, MissingBarriersGiveNan) {
  CudaStream stream;
  CudaArray<float> out(stream, 64);
  Launch(OneBlock(stream, 64), &Neighbour<false>, 1, out.data());
  int poisoned = 0;
  for (const float value : out.ToHost()) poisoned += std::isnan(value) ? 1 : 0;
  EXPECT_GT(poisoned, 0);
}

void Reverse(uint32_t* out) {
  AwaitPrevious();
  out[threadIdx.x] = __shfl_sync(0xffffffffu, threadIdx.x, static_cast<int>(31 - threadIdx.x));
}

TEST(Emulation, LanesExchange) {
  CudaStream stream;
  CudaArray<uint32_t> out(stream, 32);
  Launch(OneBlock(stream, 32), &Reverse, out.data());
  const auto values = out.ToHost();
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(values[i], 31 - i);
}

constexpr int kTileRows = 16, kTileColumns = 8, kTileDepth = 16;

// a [16, 16], b [16, 8] of BF16, sum [16, 8], all row-major.
void MultiplyMatrices(const uint16_t* a, const uint16_t* b, float* sum) {
  AwaitPrevious();
  const int g = static_cast<int>(threadIdx.x) / 4, i = static_cast<int>(threadIdx.x) % 4;
  const auto pair = [](uint16_t low, uint16_t high) {
    return static_cast<unsigned>(high) << 16 | low;
  };
  unsigned a_words[4], b_words[2];
  for (int w = 0; w < 4; ++w) {
    const uint16_t* const at = a + (g + w % 2 * 8) * kTileDepth + 2 * i + w / 2 * 8;
    a_words[w] = pair(at[0], at[1]);
  }
  for (int w = 0; w < 2; ++w) {
    const uint16_t* const at = b + (2 * i + w * 8) * kTileColumns + g;
    b_words[w] = pair(at[0], at[kTileColumns]);
  }
  float tile[4];
  for (int s = 0; s < 4; ++s) tile[s] = sum[(g + s / 2 * 8) * kTileColumns + 2 * i + s % 2];
  kernels::cuda::MultiplyTiles<kernels::DType::kBF16>(a_words, b_words, tile);
  for (int s = 0; s < 4; ++s) sum[(g + s / 2 * 8) * kTileColumns + 2 * i + s % 2] = tile[s];
}

TEST(Emulation, MatrixUnitsMultiplyTiles) {
  std::mt19937 random(1);
  const auto small = [&] { return static_cast<float>(static_cast<int>(random() % 17) - 8); };
  std::vector<uint16_t> a, b;
  std::vector<float> sum;
  for (int j = 0; j < kTileRows * kTileDepth; ++j) a.push_back(kernels::FloatToBf16(small()));
  for (int j = 0; j < kTileDepth * kTileColumns; ++j) b.push_back(kernels::FloatToBf16(small()));
  for (int j = 0; j < kTileRows * kTileColumns; ++j) sum.push_back(small());
  CudaStream stream;
  CudaArray<uint16_t> a_there(stream, a), b_there(stream, b);
  CudaArray<float> sum_there(stream, sum);
  Launch(OneBlock(stream, 32), &MultiplyMatrices, a_there.data(), b_there.data(), sum_there.data());
  const auto result = sum_there.ToHost();
  for (int r = 0; r < kTileRows; ++r) {
    for (int c = 0; c < kTileColumns; ++c) {
      float expected = sum[r * kTileColumns + c];
      for (int k = 0; k < kTileDepth; ++k) {
        expected += kernels::Bf16ToFloat(a[r * kTileDepth + k]) *
                    kernels::Bf16ToFloat(b[k * kTileColumns + c]);
      }
      EXPECT_EQ(result[r * kTileColumns + c], expected) << r << ", " << c;
    }
  }
}

// Each thread copies four words; the threads read each other's.
template <bool kWait>
void CopyRows(const uint32_t* from, uint32_t* out) {
  AwaitPrevious();
  TANDEM_SHARED(uint4, words, 64);
  kernels::cuda::StartCopy(&words[threadIdx.x], from + 4 * threadIdx.x);
  if (kWait) kernels::cuda::WaitCopies();
  __syncthreads();
  out[threadIdx.x] = words[63 - threadIdx.x].y;
  kernels::cuda::WaitCopies();
}

TEST(Emulation, CopiesComeWhenTheyAreWaitedFor) {
  std::vector<uint32_t> values(256);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint32_t>(i);
  CudaStream stream;
  CudaArray<uint32_t> from(stream, values), out(stream, 64);
  Launch(OneBlock(stream, 64), &CopyRows<true>, from.data(), out.data());
  const auto waited = out.ToHost();
  for (uint32_t i = 0; i < 64; ++i) EXPECT_EQ(waited[i], 4 * (63 - i) + 1);
  // Late or at once, as streams are.
  Launch(OneBlock(stream, 64), &CopyRows<false>, from.data(), out.data());
  EXPECT_EQ(out.ToHost() == waited, emulation::GetOptions().early);
}

void Diverged() {
  AwaitPrevious();
  if (threadIdx.x < 7) __syncwarp();
}

TEST(Emulation, DivergedExchangesAreReported) {
  EXPECT_DEATH(
      {
        CudaStream stream;
        Launch(OneBlock(stream, 32), &Diverged);
        cudaStreamSynchronize(stream.get());
      },
      "thread 3: at a warp's exchange");
}

void DoesNotAwait() {}

TEST(Emulation, ThreadsThatDoNotAwaitThePreviousKernelAreReported) {
  EXPECT_DEATH(
      {
        CudaStream stream;
        Launch(OneBlock(stream, 32), &DoesNotAwait);
        cudaStreamSynchronize(stream.get());
      },
      "ended without AwaitPrevious");
}

TEST(Emulation, DeviceMemoryStartsPoisoned) {
  CudaStream stream;
  CudaArray<float> out(stream, 4);
  for (const float value : out.ToHost()) EXPECT_TRUE(std::isnan(value));
}

void AddOne(int* value) {
  AwaitPrevious();
  *value += 1;
}

TEST(Emulation, GraphsReplayWhatWasCaptured) {
  CudaStream stream;
  CudaArray<int> value(stream, std::vector<int>{5});
  ASSERT_EQ(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), cudaSuccess);
  Launch(OneBlock(stream, 1), &AddOne, value.data());
  // Nothing may wait inside.
  EXPECT_NE(cudaStreamSynchronize(stream.get()), cudaSuccess);
  EXPECT_NE(cudaGetLastError(), cudaSuccess);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream.get(), &graph), cudaSuccess);
  EXPECT_EQ(value.ToHost()[0], 5);
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(cudaGraphLaunch(exec, stream.get()), cudaSuccess);
  EXPECT_EQ(value.ToHost()[0], 8);
  ASSERT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  ASSERT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

TEST(Emulation, EventsOrderStreams) {
  CudaStream first, second;
  CudaArray<int> value(first, std::vector<int>{1});
  cudaEvent_t done = nullptr;
  ASSERT_EQ(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), cudaSuccess);
  Launch(OneBlock(first, 1), &AddOne, value.data());
  ASSERT_EQ(cudaEventRecord(done, first.get()), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(second.get(), done, 0), cudaSuccess);
  int found = 0;
  ASSERT_EQ(
      cudaMemcpyAsync(&found, value.data(), sizeof(found), cudaMemcpyDeviceToHost, second.get()),
      cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(second.get()), cudaSuccess);
  EXPECT_EQ(found, 2);
  ASSERT_EQ(cudaEventDestroy(done), cudaSuccess);
}

// A wait is for what was recorded before it, also where the event is recorded again.
TEST(Emulation, EventsAreRecordedAgain) {
  CudaStream first, second;
  CudaArray<int> value(first, std::vector<int>{1});
  cudaEvent_t done = nullptr;
  ASSERT_EQ(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), cudaSuccess);
  int found[3] = {};
  for (int& copy : found) {
    Launch(OneBlock(first, 1), &AddOne, value.data());
    ASSERT_EQ(cudaEventRecord(done, first.get()), cudaSuccess);
    ASSERT_EQ(cudaStreamWaitEvent(second.get(), done, 0), cudaSuccess);
    ASSERT_EQ(
        cudaMemcpyAsync(&copy, value.data(), sizeof(copy), cudaMemcpyDeviceToHost, second.get()),
        cudaSuccess);
  }
  ASSERT_EQ(cudaEventDestroy(done), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(second.get()), cudaSuccess);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(found[i], i + 2);
}

}  // namespace
}  // namespace tandem
