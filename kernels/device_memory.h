// Memory of a device, copies between it and the host, and waiting for the device's work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tandem::kernels {

// Owns memory, 64-byte aligned and zeroed when allocated.
class Buffer {
 public:
  using Deleter = void (*)(void* data, size_t bytes);

  Buffer() = default;
  Buffer(void* data, size_t bytes, Deleter deleter)
      : data_(data), bytes_(bytes), deleter_(deleter) {}
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(deleter_, other.deleter_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) deleter_(data_, bytes_);
  }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
  Deleter deleter_ = nullptr;
};

// Use of a device's own memory, in bytes.
struct DeviceMemoryUse {
  uint64_t free = 0;
  uint64_t scratch = 0;  // what the backend holds besides buffers and weights
  std::string id;        // the same for all ranks of one host that use the device
};

class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;

  // RESOURCE_EXHAUSTED where there is no room.
  virtual absl::StatusOr<Buffer> Allocate(size_t bytes) = 0;
  virtual void CopyFromHost(void* dst, const void* src, size_t bytes) = 0;
  virtual void CopyToHost(void* dst, const void* src, size_t bytes) = 0;
  // Between two places of the device that do not overlap.
  virtual void Copy(void* dst, const void* src, size_t bytes) = 0;
  // Returns when all operations called so far are done.
  virtual void Synchronize() = 0;
  // The device's first error. It is known after Synchronize and never goes away.
  virtual absl::Status status() const { return absl::OkStatus(); }
  // Set where the device's memory is not the host's.
  virtual std::optional<DeviceMemoryUse> device_memory() const { return std::nullopt; }
};

}  // namespace tandem::kernels
