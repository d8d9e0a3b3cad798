#include "runtime/model/kv_cache.h"

#include "kernels/base/check.h"
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

void KvCache::Move(kernels::Backend& backend, std::span<const int32_t> moves) const {
  if (buffer_.data() == nullptr) return;
  for (size_t m = 0; m + 1 < moves.size(); m += 2) {
    const int64_t from = moves[m], to = moves[m + 1];
    TANDEM_CHECK(from >= 0 && from < shape_.blocks && to >= 0 && to < shape_.blocks);
    for (int64_t i = 0; i < shape_.layers; ++i) {
      const kernels::KvCacheView view = layer(i);
      const size_t k = view.k_block_bytes(), v = view.v_block_bytes();
      auto* keys = static_cast<std::byte*>(view.k);
      auto* values = static_cast<std::byte*>(view.v);
      backend.Copy(keys + to * k, keys + from * k, k);
      backend.Copy(values + to * v, values + from * v, v);
    }
  }
}

}  // namespace tandem::model
