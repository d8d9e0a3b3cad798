// What a device can do at most, measured: the ceilings that speeds are compared with.
#pragma once

#include <chrono>
#include <string>

namespace tandem::kernels {

// Kinds of dot product, by what they multiply; each has one peak.
enum class DotType { kInt8, kBf16, kF32 };

class MachineProbe {
 public:
  virtual ~MachineProbe() = default;

  // Bytes a second that the whole device moves from memory, over about `duration`.
  virtual double ReadBandwidth(std::chrono::milliseconds duration) = 0;

  // Bytes a second from pinned memory of the host to the device's; 0 where they are the same.
  virtual double UploadBandwidth(std::chrono::milliseconds) { return 0; }

  // Operations a second (a multiply-add is two) of the best way to that kind of dot product.
  virtual double PeakArithmetic(DotType type, std::chrono::milliseconds duration) = 0;

  // What reaches that: "vpdpbusd", "vdpbf16ps", "fma", "cuBLASLt BF16", ...
  virtual std::string DotInstruction(DotType type) const = 0;
};

}  // namespace tandem::kernels
