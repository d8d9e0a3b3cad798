// Layers whose weights are in pinned memory of the host. The GPU has room for two: the layer that
// computes, and the next one, which a second stream copies meanwhile.
//
// The host never waits. Count the layers of all steps: layer n has slot n % 2. Its copy starts when
// layer n - 1 is entered and waits for the operations of layer n - 2; its own operations wait for
// the copy. If the number of layers is odd, a layer's slot alternates from step to step; copies
// never pause at the end of a step.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device_memory.h"
#include "kernels/layer_stream.h"

namespace tandem::kernels::cuda {

class HostLayers : public LayerStream {
 public:
  // Operations are issued on `compute` of the device, which outlives this.
  HostLayers(int device, cudaStream_t compute) : device_(device), compute_(compute) {}
  ~HostLayers() override;
  absl::Status Create();

  // Place of a weight.
  struct Home {
    std::byte* host = nullptr;  // zeroed, to be filled before Start
    size_t offset = 0;          // in the slot
  };

  // Weights added from now on belong to the next layer.
  void BeginLayer() { layers_.emplace_back(); }
  absl::StatusOr<Home> Add(size_t bytes);
  size_t slot_bytes() const;  // the largest layer's

  // slots: two buffers of slot_bytes(), whose zeros `compute` may still be writing. Starts to copy
  // the first layer.
  absl::Status Start(std::array<Buffer, 2> slots);

  // The slot of the layer that was entered last; itself at a fixed place.
  std::byte* const* slot() const { return &slot_; }

  absl::Status Enter(size_t layer) override;
  uint64_t layer_bytes() const override;
  uint64_t present_bytes() const override { return 2 * slot_bytes(); }

 private:
  struct Layer {
    std::vector<Buffer> weights;  // pinned; they follow each other in the slot
    size_t bytes = 0;
  };
  // Copies once the operations issued so far are done.
  absl::Status StartCopy(size_t layer, size_t slot);

  const int device_;
  const cudaStream_t compute_;
  cudaStream_t copy_ = nullptr;
  cudaEvent_t computed_ = nullptr;
  std::array<cudaEvent_t, 2> copied_ = {};  // of slots
  std::vector<Layer> layers_;
  std::array<Buffer, 2> slots_;
  std::byte* slot_ = nullptr;
  uint64_t entered_ = 0;
};

}  // namespace tandem::kernels::cuda
