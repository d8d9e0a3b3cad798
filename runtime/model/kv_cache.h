// The paged KV cache of one rank: its own KV heads, every layer. Which block
// belongs to whom is the block manager's business.
#pragma once

#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace tandem::model {

class KvCache {
 public:
  struct Shape {
    int64_t layers = 0;
    int64_t blocks = 0;
    int64_t kv_heads = 0;
    int64_t head_dim = 0;
    kernels::KvDType dtype = kernels::KvDType::kF32;
  };

  // Bytes of K and V of one block over all layers.
  static size_t BlockBytes(const Shape& shape);
  static absl::StatusOr<KvCache> Allocate(kernels::Backend& backend, const Shape& shape);

  kernels::KvCacheView layer(int64_t index) const;
  // Copies blocks of all layers: pairs (from, to), in order.
  void Move(kernels::Backend& backend, std::span<const int32_t> moves) const;
  size_t bytes() const { return buffer_.bytes(); }

 private:
  Shape shape_;
  kernels::Buffer buffer_;  // [layers, (K blocks, V blocks)]
};

}  // namespace tandem::model
