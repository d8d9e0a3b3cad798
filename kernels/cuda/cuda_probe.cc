#include "kernels/cuda/cuda_probe.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <random>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/matrix_product.h"
#include "kernels/cuda/pinned_memory.h"

namespace tandem::kernels {
namespace {

using Clock = std::chrono::steady_clock;

// Sides of the square products that are timed. The largest is large enough for the fastest GPU; a
// slow one gets a smaller product, so that it ends in time.
constexpr int64_t kSmallestSide = 128;
constexpr int64_t kLargestSide = 8192;
// Of the host's pinned memory.
constexpr size_t kPinnedBytes = 32 << 20;

class CudaProbe : public MachineProbe {
 public:
  explicit CudaProbe(size_t bytes) : bytes_(bytes), pinned_bytes_(std::min(bytes, kPinnedBytes)) {}
  ~CudaProbe() override {
    product_.reset();
    cudaFree(from_);
    cudaFree(to_);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  absl::Status Create(int device) {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
      cudaGetLastError();
      return absl::UnavailableError("device cuda: found no GPU, expected one; see nvidia-smi");
    }
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, device % count) != cudaSuccess) {
      cudaGetLastError();
      return absl::InternalError("GPU: its properties cannot be read");
    }
    if (properties.major < 8) half_ = DType::kF16;
    if (cudaSetDevice(device % count) != cudaSuccess ||
        cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) != cudaSuccess ||
        cudaMalloc(&from_, bytes_) != cudaSuccess || cudaMalloc(&to_, bytes_) != cudaSuccess) {
      cudaGetLastError();
      return absl::ResourceExhaustedError("the GPU has no room for what measures its memory");
    }
    TANDEM_ASSIGN_OR_RETURN(pinned_, cuda::AllocatePinned(pinned_bytes_));
    // As FP32, BF16 or FP16 alike: of either sign, from 1 to 2.
    std::mt19937 random(1);
    for (size_t i = 0; i < pinned_bytes_ / 4; ++i) {
      pinned_.as<uint32_t>()[i] = (static_cast<uint32_t>(random()) & 0x807f807f) | 0x3f803f80;
    }
    for (size_t done = 0; done < bytes_; done += pinned_bytes_) {
      cudaMemcpyAsync(static_cast<char*>(from_) + done, pinned_.data(),
                      std::min(pinned_bytes_, bytes_ - done), cudaMemcpyHostToDevice, stream_);
    }
    if (cudaStreamSynchronize(stream_) != cudaSuccess) {
      return absl::InternalError("GPU: copies to it failed");
    }
    TANDEM_ASSIGN_OR_RETURN(product_, cuda::MakeMatrixProduct(stream_));
    return absl::OkStatus();
  }

  double ReadBandwidth(std::chrono::milliseconds duration) override {
    return Rate(duration, [this] {
      cudaMemcpyAsync(to_, from_, bytes_, cudaMemcpyDeviceToDevice, stream_);
      return 2.0 * static_cast<double>(bytes_);
    });
  }

  double UploadBandwidth(std::chrono::milliseconds duration) override {
    return Rate(duration, [this] {
      cudaMemcpyAsync(to_, pinned_.data(), pinned_bytes_, cudaMemcpyHostToDevice, stream_);
      return static_cast<double>(pinned_bytes_);
    });
  }

  // Products of quantized weights are done in 16 bits, too.
  double PeakArithmetic(DotType type, std::chrono::milliseconds duration) override {
    const DType dtype = type == DotType::kF32 ? DType::kF32 : half_;
    const auto fits =
        [&](int64_t side) {  // two factors in one buffer, the fp32 result in the other
          const auto bytes = static_cast<int64_t>(bytes_);
          return 2 * side * side * static_cast<int64_t>(DTypeSize(dtype)) <= bytes &&
                 side * side * 4 <= bytes;
        };
    int64_t side = kSmallestSide;
    while (!fits(side)) side /= 2;
    while (2 * side <= kLargestSide && fits(2 * side) &&
           8 * kRound * SecondsOf(dtype, side) < std::chrono::duration<double>(duration).count()) {
      side *= 2;
    }
    return Rate(duration, [&] {
      return Multiply(dtype, side)
                 ? 2.0 * static_cast<double>(side) * static_cast<double>(side * side)
                 : 0.0;
    });
  }

  std::string DotInstruction(DotType type) const override {
    if (type == DotType::kF32) return "cuBLASLt FP32";
    return half_ == DType::kF16 ? "cuBLASLt FP16" : "cuBLASLt BF16";
  }

 private:
  static constexpr int kRound = 8;  // parts of the work between two waits for the GPU

  bool Multiply(DType dtype, int64_t side) {
    return product_
        ->Multiply({.dtype = dtype,
                    .rows = side,
                    .columns = side,
                    .tokens = side,
                    .w_stride = side,
                    .y_stride = side},
                   from_, static_cast<char*>(from_) + side * side * DTypeSize(dtype),
                   static_cast<float*>(to_))
        .ok();
  }

  // Of one product, the second of two.
  double SecondsOf(DType dtype, int64_t side) {
    Multiply(dtype, side);
    cudaStreamSynchronize(stream_);
    const Clock::time_point begin = Clock::now();
    Multiply(dtype, side);
    cudaStreamSynchronize(stream_);
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }

  // Work that `once` starts, several times before each wait, so that the GPU never waits for the
  // host.
  template <typename Once>
  double Rate(std::chrono::milliseconds duration, const Once& once) {
    once();
    cudaStreamSynchronize(stream_);
    const Clock::time_point begin = Clock::now();
    double work = 0;
    do {
      for (int i = 0; i < kRound; ++i) work += once();
      cudaStreamSynchronize(stream_);
    } while (Clock::now() - begin < duration);
    return work / std::chrono::duration<double>(Clock::now() - begin).count();
  }

  const size_t bytes_;
  const size_t pinned_bytes_;
  DType half_ = DType::kBF16;  // what the GPU computes with, as CudaBackend does
  Buffer pinned_;
  void* from_ = nullptr;
  void* to_ = nullptr;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<cuda::MatrixProduct> product_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MachineProbe>> MakeCudaProbe(int device, size_t buffer_bytes) {
  auto probe = std::make_unique<CudaProbe>(buffer_bytes);
  TANDEM_RETURN_IF_ERROR(probe->Create(device));
  return probe;
}

}  // namespace tandem::kernels
