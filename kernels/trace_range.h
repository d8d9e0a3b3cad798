// A named range for profilers: the operations that the host issues while it lives have its name.
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
