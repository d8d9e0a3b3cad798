// kernels/sampling.h on a GPU: one block of threads for each row. Operations are launched on the
// stream and return at once.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/sampling.h"

namespace tandem::kernels::cuda {

class CudaSampling : public SamplingOps {
 public:
  explicit CudaSampling(cudaStream_t stream) : stream_(stream) {}

  void FindLargest(const SamplingArgs& args) const override;
  void Survey(const SamplingArgs& args) const override;
  void Draw(const SamplingArgs& args) const override;

 private:
  const cudaStream_t stream_;
};

}  // namespace tandem::kernels::cuda
