// The operations of a decoder step. Pointers are to the backend's memory, unless said otherwise.
//
// Activations are fp32. Every operation defines its order of additions, and all backends of one
// arithmetic family give the same bits. Tests compare cpu with ref for equality; cuda is a family
// of its own (cuda/cuda_backend.h). Any dimension may be zero: a rank may own no head or no leaf.
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/kv_cache_view.h"
#include "kernels/sampling.h"
#include "kernels/weight_store.h"

namespace tandem::kernels {

struct RopeAndCacheArgs {
  int64_t tokens = 0;
  int64_t q_heads = 0;
  int64_t head_dim = 0;
  float* qkv = nullptr;           // [tokens, (q_heads + 2 kv_heads) * head_dim]; q is updated
  const float* q_norm = nullptr;  // [head_dim] or null: RMSNorm of each head before RoPE
  const float* k_norm = nullptr;
  float norm_epsilon = 0;
  const float* cos = nullptr;  // [tokens, head_dim / 2]
  const float* sin = nullptr;
  const int32_t* slot_mapping = nullptr;  // [tokens]
  KvCacheView cache;
};

struct PagedAttentionArgs {
  int64_t tokens = 0;
  int64_t q_heads = 0;
  int64_t head_dim = 0;
  const float* qkv = nullptr;               // q of each token at the row's start
  int64_t qkv_stride = 0;                   // floats between tokens
  const int32_t* positions = nullptr;       // [tokens]; token t attends to [0, position]
  const int32_t* token_sequence = nullptr;  // [tokens], row of block_tables
  const int32_t* block_tables = nullptr;    // [sequences, max_blocks]
  int64_t max_blocks = 0;
  // [q_heads], on the host: local KV head of each local query head, in non-descending order.
  const int32_t* head_to_kv = nullptr;
  float scale = 0;
  KvCacheView cache;
  float* out = nullptr;  // [tokens, q_heads * head_dim]
  // What the host knows of the step. It changes no result, except the last bits on a GPU that is
  // not deterministic. Each of the first single_tokens tokens is the only one of its sequence and
  // sees single_context positions at most.
  int64_t single_tokens = 0;
  int64_t single_context = 0;
};

class Operations {
 public:
  virtual ~Operations() = default;

  // Partial sums y[subtree, tokens, rows] = W x over the shard's leaves, subtrees
  // in order; x is [tokens, columns]. With all leaves there is one subtree, the
  // product itself; bias ([rows] or null) may be given only then, and is added
  // last. Leaves are added along the tree; inside a leaf, from zero, in order:
  //
  // fp32, fp16: sum = fma(w, x, sum), column by column.
  //
  // bfloat16: activations are rounded to it. Columns come in pairs, the odd one
  // first: sum = fma(w[2j], x[2j], fma(w[2j + 1], x[2j + 1], sum)); a last column
  // alone is paired with zeros. Denormal operands and results count as zeros. This
  // is what the dot product of AVX512-BF16 does.
  //
  // With a QuantFormat, activations are quantized on the fly, symmetric to 8 bits,
  // for each token and activation group: gcd(group_size, leaf_size) columns of one
  // leaf; scale = max |x| / 127, code = x times 127 / max |x|, rounded to nearest
  // even (MakeActivationScale in base/math.h). For each group
  // sum = fma(float(dot), weight scale * activation scale, sum), dot being the exact
  // integer product of (code - zero) with the activation's codes.
  virtual void Linear(const LinearWeight& weight, const float* x, int64_t tokens, const float* bias,
                      float* y) = 0;

  // out[t] = row ids[t] of a table [vocab, hidden], widened to fp32. The table and ids are on the
  // host.
  virtual void EmbedTokens(const void* host_table, DType dtype, int64_t hidden, const int32_t* ids,
                           int64_t tokens, float* out) = 0;

  // residual += delta (+ delta_bias) where delta is not null; then
  // out = residual / sqrt(mean(residual^2) + epsilon) * weight. Squares are added
  // in 16 lanes, column j in lane j mod 16, lanes then folded 8, 4, 2, 1.
  // [tokens, hidden] each; weight and delta_bias [hidden].
  virtual void AddRmsNorm(const float* delta, const float* delta_bias, float* residual,
                          const float* weight, float epsilon, int64_t tokens, int64_t hidden,
                          float* out) = 0;

  // cos, sin [tokens, half] of float(position) * inverse_frequencies[i], each
  // times attention_factor.
  virtual void RopeAngles(const int32_t* positions, int64_t tokens,
                          const float* inverse_frequencies, int64_t half, float attention_factor,
                          float* cos, float* sin) = 0;

  // Normalizes (where asked) and rotates q and k, halves paired as rotate_half of
  // Transformers does; writes k and v to the cache's slots, rounded to its dtype.
  // In int8, for each token and KV head: scale = max |x| / 127, code = x times
  // 127 / max |x|, rounded to nearest even (MakeCodeScale, ToCode).
  virtual void RopeAndCache(const RopeAndCacheArgs& args) = 0;

  // Softmax attention of each (token, head) over its cached context. The context
  // is divided into partitions of 256 positions. In a partition, scores are dot
  // products of K with q * scale, exponentials are relative to the partition's
  // maximum, their sum runs in 16 lanes (position mod 16), and values are a dot
  // product of V with the exponentials; partitions are combined in order. Both dot
  // products start at zero and run in order of their columns and positions,
  // according to the cache:
  //   F32, F16  by fused multiply-adds
  //   BF16      q * scale and exponentials rounded to bf16; in pairs (2j, 2j + 1),
  //             the odd one first, by MulAddFlushed
  //   I8        as exact sums of integers: q * scale as codes of 32512, and the
  //             products of exponentials and V's scales as codes of 32767 over the
  //             partition; score = float(sum) * (q's scale * K's), value =
  //             float(sum) * the products' scale
  virtual void PagedAttention(const PagedAttentionArgs& args) = 0;

  // out[t, i] = silu(gate_up[t, i]) * gate_up[t, columns + i].
  virtual void SiluMul(const float* gate_up, int64_t tokens, int64_t columns, float* out) = 0;

  // out[r] = x[indices[r]], rows of `columns`.
  virtual void GatherRows(const float* x, const int32_t* indices, int64_t rows, int64_t columns,
                          float* out) = 0;

  // Operations that choose tokens where the logits lie; null: logits go to the host.
  virtual const SamplingOps* sampling() const { return nullptr; }
};

}  // namespace tandem::kernels
