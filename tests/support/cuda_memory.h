// A stream and arrays on the GPU, for tests of its kernels.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <vector>

namespace tandem::testing {

class CudaStream {
 public:
  CudaStream() {
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
  }
  CudaStream(const CudaStream&) = delete;
  ~CudaStream() { EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess); }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

template <typename T>
class CudaArray {
 public:
  CudaArray(const CudaStream& stream, size_t size) : stream_(stream), size_(size) {
    void* data = nullptr;
    EXPECT_EQ(cudaMalloc(&data, size * sizeof(T) + 1), cudaSuccess);
    data_ = static_cast<T*>(data);
  }
  CudaArray(const CudaStream& stream, const std::vector<T>& values)
      : CudaArray(stream, values.size()) {
    EXPECT_EQ(cudaMemcpyAsync(data_, values.data(), values.size() * sizeof(T),
                              cudaMemcpyHostToDevice, stream.get()),
              cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
  }
  CudaArray(const CudaArray&) = delete;
  ~CudaArray() {
    EXPECT_EQ(cudaStreamSynchronize(stream_.get()), cudaSuccess);
    EXPECT_EQ(cudaFree(data_), cudaSuccess);
  }
  T* data() const { return data_; }

  // Once the stream's work is done.
  std::vector<T> ToHost() const {
    std::vector<T> values(size_);
    EXPECT_EQ(cudaMemcpyAsync(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost,
                              stream_.get()),
              cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_.get()), cudaSuccess);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
    return values;
  }

 private:
  const CudaStream& stream_;
  size_t size_;
  T* data_ = nullptr;
};

}  // namespace tandem::testing
