// Instruction sets of this CPU, and comparisons of floats by bits, for tests of the CPU backend.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend.h"

namespace tandem::testing {

// The names of all instruction sets that this CPU has, beside "auto" and "ref".
inline std::vector<std::string> InstructionSets() {
  std::vector<std::string> names;
  for (const char* name : {"bf16", "vnni", "avx3", "avx2", "neon"}) {
    if (kernels::MakeCpuBackend(name, {}).ok()) names.push_back(name);
  }
  return names;
}

// Equal bits, and a NaN for every NaN: processors differ in a NaN's bits.
inline ::testing::AssertionResult SameBits(const std::vector<float>& found,
                                           const std::vector<float>& expected) {
  if (found.size() != expected.size()) return ::testing::AssertionFailure() << "sizes differ";
  for (size_t i = 0; i < found.size(); ++i) {
    if (std::isnan(expected[i]) && std::isnan(found[i])) continue;
    if (std::bit_cast<uint32_t>(found[i]) != std::bit_cast<uint32_t>(expected[i])) {
      return ::testing::AssertionFailure()
             << "element " << i << ": found " << found[i] << ", expected " << expected[i];
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace tandem::testing
