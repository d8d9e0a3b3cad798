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
  // Before work of a stream that is waited for, the thread's other streams do all that they may:
  // a stream that lacks a wait for this one is early, this one late.
  bool ahead = false;
};

// From the environment: TANDEM_EMULATION_THREADS=forward|reverse and
// TANDEM_EMULATION_STREAMS=late|early|ahead; others abort.
const Options& GetOptions();

}  // namespace tandem::emulation
