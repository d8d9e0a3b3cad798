// Tells the processor that a loop waits: it saves power and leaves the core to the other
// hyper-thread.
#pragma once

#include <thread>

namespace tandem::kernels {

inline void SpinPause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace tandem::kernels
