// Measures the limits of a device, with which speeds are compared.
#pragma once

#include <chrono>
#include <string>

namespace tandem::kernels {

// Kinds of dot product, by what they multiply; each has one peak.
enum class DotType { kInt8, kBf16, kF32 };

class MachineProbe {
 public:
  virtual ~MachineProbe() = default;

  // Bytes per second that the whole device moves from memory, measured for about `duration`.
  virtual double ReadBandwidth(std::chrono::milliseconds duration) = 0;

  // Bytes per second from pinned memory of the host to the device's; 0 where they are the same.
  virtual double UploadBandwidth(std::chrono::milliseconds) { return 0; }

  // Operations per second (a multiply-add is two) of the fastest dot product of that kind.
  virtual double PeakArithmetic(DotType type, std::chrono::milliseconds duration) = 0;

  // The instruction or library that reaches it: "vpdpbusd", "vdpbf16ps", "fma", "cuBLASLt BF16",
  // ...
  virtual std::string DotInstruction(DotType type) const = 0;
};

}  // namespace tandem::kernels
