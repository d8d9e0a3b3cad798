// Emulated streams: queues of work. Work is done when somebody waits for the stream
// (or at once, see options.h). A stream belongs to one thread of the host.
#pragma once

#include <driver_types.h>

#include <functional>

namespace tandem::emulation {

// Adds work to a stream, or to the graph that it captures. The null stream is none:
// work there aborts.
void Enqueue(cudaStream_t stream, std::function<void()> work);

}  // namespace tandem::emulation
