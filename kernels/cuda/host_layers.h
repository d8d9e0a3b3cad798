// Layers whose weights lie in pinned memory of the host: the GPU has room for two, one that
// computes and the next one, which is copied meanwhile by a stream of its own.
//
// Nothing waits on the host. Layer n of all layers of all steps has slot n % 2: it is copied there
// once layer n - 1 has been entered, on a stream that waits for the operations of layer n - 2, and
// its own operations wait for that copy. The slot of a layer so differs between steps where their
// number is odd, and copies never pause at a step's end.
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

  // Where a weight lies.
  struct Home {
    std::byte* host = nullptr;  // zeroed, to be filled before Start
    size_t offset = 0;          // in the slot
  };

  // The next layer's weights follow.
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
  // Once what is issued so far has been done.
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
