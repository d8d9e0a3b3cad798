// Paged attention of a step: which kernels compute it.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/gpu_properties.h"
#include "kernels/device_memory.h"
#include "kernels/operations.h"

namespace tandem::kernels::cuda {

// See Operations::PagedAttention, and cuda_backend.h for `deterministic`. partials is scratch of
// any size; with less of it, long contexts are divided among fewer blocks of threads.
void Attend(cudaStream_t stream, const GpuProperties& gpu, bool deterministic,
            const PagedAttentionArgs& args, const Buffer& partials);

}  // namespace tandem::kernels::cuda
