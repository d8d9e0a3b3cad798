// Emulated thread blocks: blocks of a grid run one after another on the calling
// thread, the threads of a block as fibers. A warp runs until all its lanes wait or
// have ended, then the next one does. Shared memory starts as bytes 0xFF (NaN), so
// that what nobody has written shows. A block in which nobody can go on aborts the
// process with what each thread waits for.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>

#include "absl/functional/function_ref.h"

namespace tandem::emulation {

// Runs body once for each thread of each block. A thread that ends without MarkAwaited
// aborts the process.
void RunGrid(dim3 grid, dim3 block, size_t dynamic_shared_bytes, absl::FunctionRef<void()> body);

// Grids that the calling thread has run.
int64_t GridsRun();

// What follows is for body.
const uint3& CurrentThread();
const uint3& CurrentBlock();
const dim3& BlockShape();
const dim3& GridShape();
unsigned CurrentLane();

// The calling thread has waited for the kernel before.
void MarkAwaited();

void SyncThreads();
// The value of lane `source` once all lanes of mask have come; poison, where it
// is not in the mask.
uint64_t WarpExchange(unsigned mask, uint64_t value, unsigned source);
// The values of all 32 lanes once all have come; they stay until the warp's next exchange
// but one.
const uint64_t* WarpGather(uint64_t value);

// A copy of 16 bytes that the current thread starts, and the end of all that it has started.
void StartCopy(void* to, const void* from);
void WaitCopies();

// The block's memory of one declaration, which its identity's address names.
void* Shared(const void* identity, size_t bytes);
void* DynamicShared();

}  // namespace tandem::emulation
