// Host vectors in a backend's memory, for tests of backends whose memory is not the host's.
#pragma once

#include <vector>

#include "kernels/backend.h"

namespace tandem::testing {

template <typename T>
class DeviceArray {
 public:
  DeviceArray(kernels::Backend& backend, const std::vector<T>& values)
      : backend_(backend), size_(values.size()), buffer_(*backend.Allocate(size_ * sizeof(T) + 1)) {
    backend.CopyFromHost(buffer_.data(), values.data(), size_ * sizeof(T));
  }
  DeviceArray(kernels::Backend& backend, size_t size)
      : DeviceArray(backend, std::vector<T>(size)) {}

  T* data() const { return buffer_.as<T>(); }
  std::vector<T> ToHost() const {
    std::vector<T> values(size_);
    backend_.CopyToHost(values.data(), buffer_.data(), size_ * sizeof(T));
    return values;
  }

 private:
  kernels::Backend& backend_;
  size_t size_;
  kernels::Buffer buffer_;
};

}  // namespace tandem::testing
