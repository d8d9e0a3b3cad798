#include "runtime/model/kv_cache.h"

#include "kernels/base/status_macros.h"

namespace tandem::model {
namespace {

kernels::KvCacheView EmptyView(const KvCache::Shape& shape) {
  return {.dtype = shape.dtype, .kv_heads = shape.kv_heads, .head_dim = shape.head_dim};
}

}  // namespace

size_t KvCache::BlockBytes(const Shape& shape) {
  const kernels::KvCacheView view = EmptyView(shape);
  return shape.layers * (view.k_block_bytes() + view.v_block_bytes());
}

absl::StatusOr<KvCache> KvCache::Allocate(kernels::Backend& backend, const Shape& shape) {
  KvCache cache;
  cache.shape_ = shape;
  TANDEM_ASSIGN_OR_RETURN(cache.buffer_, backend.Allocate(shape.blocks * BlockBytes(shape)));
  return cache;
}

kernels::KvCacheView KvCache::layer(int64_t index) const {
  kernels::KvCacheView view = EmptyView(shape_);
  const size_t k_bytes = shape_.blocks * view.k_block_bytes();
  const size_t v_bytes = shape_.blocks * view.v_block_bytes();
  if (buffer_.data() == nullptr) return view;
  std::byte* base = buffer_.as<std::byte>() + index * (k_bytes + v_bytes);
  view.k = base;
  view.v = base + k_bytes;
  return view;
}

}  // namespace tandem::model
