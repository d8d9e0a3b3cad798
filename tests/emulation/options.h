// How the emulation runs what leaves it a choice. Faults of kernels and of their
// callers show in some of the ways and hide in others: tests run in all.
#pragma once

namespace tandem::emulation {

struct Options {
  // Threads of a block, and warps, from the last to the first.
  bool reverse = false;
  // Work of a stream, copies among it, is done when it is enqueued; otherwise when
  // somebody waits for it, as late as CUDA allows. So are a kernel's copies to shared memory.
  bool early = false;
};

// From the environment: TANDEM_EMULATION_THREADS=forward|reverse and
// TANDEM_EMULATION_STREAMS=late|early; others abort.
const Options& GetOptions();

}  // namespace tandem::emulation
