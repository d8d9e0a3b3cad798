// A device as the rest of the program sees it: its memory, its weights and the operations of a
// decoder step. There is one class for each kind of device (ref: the scalar specification; cpu:
// SIMD; cuda: an NVIDIA GPU). It is built once at start and passed down.
//
// One rank uses a backend from one thread at a time; operations run in the order of the calls.
// Where the backend's memory is the host's, an operation is done when it returns; elsewhere it is
// done after Synchronize.
#pragma once

#include "kernels/device_layout.h"
#include "kernels/device_memory.h"
#include "kernels/operations.h"
#include "kernels/recorder.h"
#include "kernels/weight_store.h"

namespace tandem::kernels {

class Backend : public DeviceLayout, public DeviceMemory, public WeightStore, public Operations {
 public:
  // Null where repeating recorded operations would gain nothing.
  virtual Recorder* recorder() { return nullptr; }

  // Names the operations issued in between for profilers (trace_range.h). Ranges nest. They cost
  // nothing where no profiler listens.
  virtual void PushRange(const char* /*name*/) {}
  virtual void PopRange() {}

  bool SamplesOnDevice() const final { return sampling() != nullptr; }
};

}  // namespace tandem::kernels
