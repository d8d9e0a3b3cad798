// The CPU backend: Highway kernels over a thread pool.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace tandem::kernels {

struct CpuOptions {
  int threads = 1;        // >= 1; results do not depend on it
  std::vector<int> cpus;  // where each thread is bound; empty: nowhere
  bool spin = true;       // threads that wait may spin, where there is a CPU for each
};

// Restricts the process to one instruction set, so that unlike hosts compute
// alike: "auto", "avx2", "avx3" (AVX-512), "vnni" (and its integer dot products),
// "bf16" (and its bfloat16 ones), "neon", "ref" (scalar). INVALID_ARGUMENT for
// another name or one that this CPU lacks. Before any backend is made.
absl::Status PinIsa(const std::string& isa);

// The backend for `isa` as given to PinIsa. CPUs without fused multiply-adds get
// the scalar reference, which has the same bits.
absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const std::string& isa,
                                                        const CpuOptions& options);

// What MakeCpuBackend(isa) computes with: "AVX2", "AVX3+VNNI+BF16", ... or "ref".
std::string IsaInUse(const std::string& isa);

}  // namespace tandem::kernels
