// What the hardware can do at most, as measured.
#pragma once

namespace tandem::plan {

// Bytes and operations a second of all ranks together.
struct Ceilings {
  double read = 0;
  double peak = 0;
  double stream = 0;  // of weights from the host's memory to GPUs; 0: none, or not measured
};

}  // namespace tandem::plan
