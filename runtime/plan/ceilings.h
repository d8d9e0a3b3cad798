// The measured limits of the hardware.
#pragma once

namespace tandem::plan {

// Of all ranks together, for each second.
struct Ceilings {
  double read = 0;    // bytes read from memory
  double peak = 0;    // operations
  double stream = 0;  // bytes of weights from the host's memory to GPUs; 0: none, or not measured
};

}  // namespace tandem::plan
