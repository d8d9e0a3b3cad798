// Recordings as CUDA graphs.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "kernels/cuda/cuda_status.h"
#include "kernels/recorder.h"

namespace tandem::kernels::cuda {

class GraphRecorder : public Recorder {
 public:
  // Records and repeats operations of `stream`, which belongs to the device. A failed Replay
  // leaves its error in `errors`. Both outlive this.
  GraphRecorder(int device, cudaStream_t stream, CudaErrors& errors)
      : device_(device), stream_(stream), errors_(errors) {}

  absl::StatusOr<std::unique_ptr<Recording>> Record(
      absl::FunctionRef<absl::Status()> body) override;
  void Replay(const Recording& recording) override;

 private:
  const int device_;
  const cudaStream_t stream_;
  CudaErrors& errors_;
};

}  // namespace tandem::kernels::cuda
