// Weights of layers that are not all in a backend's memory: what the layer at work needs is there
// when it computes, and the next one's comes meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace tandem::kernels {

class LayerStream {
 public:
  virtual ~LayerStream() = default;

  // The layer is about to compute, what the one before it needs has been issued. Layers come in
  // order, the head as one more after the last, and then the first again. An error is final.
  virtual absl::Status Enter(size_t layer) = 0;

  virtual uint64_t layer_bytes() const = 0;          // of all layers: what comes in a step
  virtual uint64_t present_bytes() const = 0;        // of the backend's memory, at most at once
  virtual uint64_t bytes_read() const { return 0; }  // from files, since the start
};

}  // namespace tandem::kernels
