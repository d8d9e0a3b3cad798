// Weights of layers that do not all fit a backend's memory: the weights of a layer are there when
// it computes, and those of the next layer are loaded meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace tandem::kernels {

class LayerStream {
 public:
  virtual ~LayerStream() = default;

  // Call it before the layer's operations are issued, and after those of the layer before. Layers
  // come in order; the head counts as one more after the last, and then the first comes again. An
  // error is final.
  virtual absl::Status Enter(size_t layer) = 0;

  virtual uint64_t layer_bytes() const = 0;          // of all layers: loaded in each step
  virtual uint64_t present_bytes() const = 0;        // largest use of the backend's memory
  virtual uint64_t bytes_read() const { return 0; }  // from files, since the start
};

}  // namespace tandem::kernels
