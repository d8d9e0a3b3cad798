// Measures the host's limits. Read bandwidth: all threads together read a buffer on huge pages that
// is much larger than any cache, each thread a part of its own. Arithmetic: all threads use the
// best instruction for each kind of dot product, on registers alone.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/machine_probe.h"

namespace tandem::kernels {

// Has threads of its own, as many and where a backend made with these options has them. `isa` as
// for MakeCpuBackend. RESOURCE_EXHAUSTED where there is no room for a buffer of buffer_bytes.
absl::StatusOr<std::unique_ptr<MachineProbe>> MakeMachineProbe(const std::string& isa,
                                                               const CpuOptions& options,
                                                               size_t buffer_bytes);

}  // namespace tandem::kernels
