// Emulated streams: queues of work. Work is done when somebody waits for the stream
// (or at once, see options.h). A stream belongs to one thread of the host.
#pragma once

#include <driver_types.h>

#include <functional>

namespace tandem::emulation {

// Adds work to a stream, or to the graph that it captures. The null stream is none:
// work there aborts.
void Enqueue(cudaStream_t stream, std::function<void()> work);

// Work that may have to wait for other ranks: false as long as it does; then it is called
// again, so that who looks at the stream can give up.
using Work = std::function<bool()>;
void EnqueueWaiting(cudaStream_t stream, Work work);

// Whether what is added goes to a graph.
bool IsCapturing(cudaStream_t stream);

}  // namespace tandem::emulation
