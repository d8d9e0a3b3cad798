// What this machine can do at most, measured: the ceilings that speeds are compared with.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/cpu/cpu_backend.h"

namespace tandem::kernels {

// Kinds of dot product, by what they multiply; each has one peak.
enum class DotType { kInt8, kBf16, kF32 };

class MachineProbe {
 public:
  virtual ~MachineProbe() = default;

  // Bytes a second that all threads together read from memory: each reads its own stretch of a
  // buffer on huge pages, much larger than any cache, again and again for about `duration`.
  virtual double ReadBandwidth(std::chrono::milliseconds duration) = 0;

  // Operations a second (a multiply-add is two) of the best instruction for that kind of dot
  // product, on registers alone, all threads together.
  virtual double PeakArithmetic(DotType type, std::chrono::milliseconds duration) = 0;

  // Name of that instruction: "vpdpbusd", "vdpbf16ps", "fma", ...
  virtual std::string DotInstruction(DotType type) const = 0;
};

// Has threads of its own, as many and where a backend made with these options has them. `isa` as
// given to PinIsa, which has been called. RESOURCE_EXHAUSTED where there is no room for a buffer of
// buffer_bytes.
absl::StatusOr<std::unique_ptr<MachineProbe>> MakeMachineProbe(const std::string& isa,
                                                               const CpuOptions& options,
                                                               size_t buffer_bytes);

}  // namespace tandem::kernels
