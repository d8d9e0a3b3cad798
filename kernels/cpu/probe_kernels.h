// The loops of the machine probe. Each runs on one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace tandem::kernels::cpu {

// A loop on registers: does `rounds` rounds and returns a value, so that the compiler cannot remove
// them.
struct PeakLoop {
  uint64_t (*run)(uint64_t rounds) = nullptr;
  double operations = 0;  // of a round
  const char* name = "";  // of the instruction
};

struct ProbeKernels {
  PeakLoop fma;          // fp32 multiply-adds
  PeakLoop widened_dot;  // products of 16-bit integers, added in pairs to 32 bits
  // Reads [data, data + bytes), bytes a multiple of 1024, from first to last.
  uint64_t (*read)(const std::byte* data, size_t bytes) = nullptr;
};
// target: InstructionSet::target.
ProbeKernels ProbeKernelsOf(int64_t target);

// 8-bit and bfloat16 dot products; run is null where the processor lacks them.
PeakLoop ByteDotLoop();
PeakLoop Bf16DotLoop();

}  // namespace tandem::kernels::cpu
