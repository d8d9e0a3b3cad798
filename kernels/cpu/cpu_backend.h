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
  std::vector<int> cpus;  // the CPU that each thread is bound to; empty: threads are not bound
  bool spin = true;       // waiting threads may spin, if there is a CPU for each
};

// The backend for an instruction set, so that unlike hosts can compute alike: "auto" (the best
// one of this CPU), "avx2", "avx3" (AVX-512), "vnni" (and its integer dot products), "bf16" (and
// its bfloat16 ones), "neon", "ref" (scalar). INVALID_ARGUMENT for another name and for a set that
// this CPU lacks. CPUs without fused multiply-adds get the scalar reference for "auto"; it has the
// same bits.
absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const std::string& isa,
                                                        const CpuOptions& options);

// What MakeCpuBackend(isa) computes with: "AVX2", "AVX3+VNNI+BF16", ... or "ref".
std::string IsaInUse(const std::string& isa);

}  // namespace tandem::kernels
