// A range of the host's time, for tools that watch a device: what a backend is asked for inside it
// has its name there.
#pragma once

#include <string>

#include "kernels/backend.h"

namespace tandem::kernels {

class TraceRange {
 public:
  TraceRange(Backend& backend, const std::string& name) : backend_(backend) {
    backend_.PushRange(name.c_str());
  }
  TraceRange(const TraceRange&) = delete;
  ~TraceRange() { backend_.PopRange(); }

 private:
  Backend& backend_;
};

}  // namespace tandem::kernels
