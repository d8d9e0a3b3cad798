// Linear products on a GPU: which kernel multiplies how many tokens.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/cuda_weight.h"
#include "kernels/cuda/gpu_properties.h"
#include "kernels/cuda/matrix_product.h"
#include "kernels/device_memory.h"

namespace tandem::kernels::cuda {

// Buffers that operations work in, of one size.
struct Scratch {
  Buffer partials;  // attention's partitions; LinearTiles' splits
  Buffer narrow;    // activations rounded for the matrix units; embedding rows as stored
  Buffer widened;   // rows of a quantized weight
  size_t bytes() const { return narrow.bytes(); }
};

class LinearProduct {
 public:
  // All references outlive this; errors of products go to `errors`.
  LinearProduct(cudaStream_t stream, const GpuProperties& gpu, bool deterministic,
                MatrixProduct& product, const Scratch& scratch, CudaErrors& errors)
      : stream_(stream),
        gpu_(gpu),
        deterministic_(deterministic),
        product_(product),
        scratch_(scratch),
        errors_(errors) {}

  // See Operations::Linear.
  void Multiply(const CudaLinearWeight& weight, const float* x, int64_t tokens, const float* bias,
                float* y);

 private:
  // By LinearTiles.
  void MultiplySome(const CudaLinearWeight& weight, const float* x, int64_t tokens,
                    const float* bias, float* y);
  // By cuBLASLt.
  void MultiplyMany(const CudaLinearWeight& weight, const float* x, int64_t tokens,
                    const float* bias, float* y);

  // Type of the activations that the matrix units get.
  DType ProductType(const WeightLayout& layout) const;
  // Whether a row of activations or of a widened weight fits the scratch.
  bool FitsScratch(const WeightLayout& layout) const;
  // Whether cuBLASLt takes the weight: rows start and end on 16 bytes and fit the scratch.
  bool TakenByLibrary(const WeightLayout& layout) const;

  const cudaStream_t stream_;
  const GpuProperties gpu_;
  const bool deterministic_;
  MatrixProduct& product_;
  const Scratch& scratch_;
  CudaErrors& errors_;
};

}  // namespace tandem::kernels::cuda
