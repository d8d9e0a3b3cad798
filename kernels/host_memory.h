// Page-aligned, zeroed host memory that goes back to the system when freed.
#pragma once

#include "absl/status/statusor.h"
#include "kernels/device_memory.h"

namespace tandem::kernels {

// kHuge asks for huge pages from 2 MiB on: fewer TLB misses, but the first byte
// written takes 2 MiB. kSmall takes only the pages that are written.
enum class Pages { kHuge, kSmall };

// RESOURCE_EXHAUSTED when the system refuses.
absl::StatusOr<Buffer> AllocateHost(size_t bytes, Pages pages = Pages::kHuge);

}  // namespace tandem::kernels
