// An NVIDIA GPU as a Backend. Memory of buffers is the GPU's; operations are
// launched on one stream and return at once.
//
// Arithmetic. Activations are fp32 in memory. Products of few tokens (and all of them
// where `deterministic`) multiply fp32 activations with weights widened exactly, in
// fp32: closer to the exact product than the host's backends, which round or quantize
// activations, so results differ from theirs by those roundings. Products of more
// tokens round activations (and, of many, quantized weights) to BF16, or FP16 where the
// weights are FP16 or the GPU has no BF16, and add in fp32.
//
// Same bits: with `deterministic`, a product's leaves are added along the tree of
// P1 (base/sum_tree.h), and a row's sums do not depend on the rows beside it. Without,
// Linear gives one partial sum for each rank, whatever the leaves (KeepsLeafTree()).
//
// Attention. With `deterministic`, and over FP32 caches, over BF16 ones on GPUs without BF16 and
// for heads wider than 256 always, it is fp32 and a token's result depends on its query and its
// context alone. Otherwise it runs on matrix units: queries and softmax weights are rounded to
// BF16 for a BF16 cache and to FP16 for an FP16 or INT8 one, sums are fp32. The same step on the
// same kind of GPU gives the same bits, but the parts in which a context is added depend on the
// step's tokens and on whether they decode.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/base/check.h"

struct CUstream_st;  // what a cudaStream_t points to

namespace tandem::kernels {

struct CudaOptions {
  int device = 0;  // its number, taken modulo the GPUs there are: ranks may share
  bool deterministic = false;
  // Size of each of three buffers on the GPU that operations work in. Larger operands are worked on
  // in parts.
  size_t scratch_bytes = 64 << 20;
  // Threads that read and lay out weights, the caller's included; and the CPU that each is bound
  // to, or none.
  int load_threads = 1;
  std::vector<int> load_cpus = {};
};

// Memory that a backend holds besides buffers and weights: on the GPU, cuBLASLt's workspace and
// those three buffers; on the host, pinned memory for copies. The driver's own memory comes on top.
inline constexpr size_t kCudaProductBytes = 32
                                            << 20;  // what its fastest kernels for Hopper ask for
constexpr size_t CudaScratchBytes(const CudaOptions& options) {
  return 3 * options.scratch_bytes + kCudaProductBytes;
}
inline constexpr size_t kCudaPinnedBytes = 2 * (8 << 20);

class CudaBackend : public Backend {
 public:
  // The stream on which all operations are launched; it lives as long as the backend.
  virtual CUstream_st* stream() const = 0;

  // `backend` as the CUDA backend that it must be.
  static const CudaBackend& Of(const Backend& backend) {
    const auto* cuda = dynamic_cast<const CudaBackend*>(&backend);
    TANDEM_CHECK(cuda != nullptr);
    return *cuda;
  }
};

// UNAVAILABLE, saying what to do, where the build has no CUDA or the machine no GPU.
absl::StatusOr<std::unique_ptr<CudaBackend>> MakeCudaBackend(const CudaOptions& options);

// The layout of a CUDA backend that is not deterministic; exists in every build.
std::unique_ptr<DeviceLayout> MakeCudaLayout();

}  // namespace tandem::kernels
