#include "kernels/cuda/attention_launch.h"

#include <algorithm>

#include "kernels/base/check.h"
#include "kernels/cuda/attention.h"

namespace tandem::kernels::cuda {
namespace {

// The kernels count tokens in a grid's y and z, which have at most this many blocks.
constexpr int64_t kMostTokensAtOnce = 65535;

AttentionArgs ArgsOf(const PagedAttentionArgs& args) {
  AttentionArgs all = {.tokens = args.tokens,
                       .q_heads = static_cast<int>(args.q_heads),
                       .head_dim = static_cast<int>(args.head_dim),
                       .qkv = args.qkv,
                       .qkv_stride = args.qkv_stride,
                       .positions = args.positions,
                       .token_sequence = args.token_sequence,
                       .block_tables = args.block_tables,
                       .max_blocks = args.max_blocks,
                       .scale = args.scale,
                       .cache = args.cache,
                       .out = args.out};
  TANDEM_CHECK(args.cache.kv_heads <= kMaxKvHeads);
  for (int64_t h = 0; h < args.q_heads; ++h) {
    TANDEM_CHECK(h == 0 || args.head_to_kv[h] >= args.head_to_kv[h - 1]);
    ++all.first_head[args.head_to_kv[h] + 1];
  }
  for (int64_t h = 0; h < args.cache.kv_heads; ++h) all.first_head[h + 1] += all.first_head[h];
  return all;
}

// Tokens [begin, end).
AttentionArgs Part(const AttentionArgs& all, int64_t begin, int64_t end) {
  AttentionArgs part = all;
  part.tokens = end - begin;
  part.qkv += begin * all.qkv_stride;
  part.positions += begin;
  part.token_sequence += begin;
  part.out += begin * all.q_heads * all.head_dim;
  return part;
}

// Adds partition by partition in one order.
void AttendInOrder(cudaStream_t stream, const GpuProperties& gpu, const AttentionArgs& all,
                   const PagedAttentionArgs& args, const Buffer& partials) {
  int64_t done = 0;
  const int partitions = static_cast<int>((args.single_context + kPartition - 1) / kPartition);
  const int64_t token_bytes = PartialBytes(1, all.q_heads, all.head_dim, partitions);
  const int64_t at_once =
      token_bytes == 0
          ? 0
          : std::min(kMostTokensAtOnce, static_cast<int64_t>(partials.bytes()) / token_bytes);
  while (at_once > 0 && done < args.single_tokens) {
    const int64_t end = std::min(done + at_once, args.single_tokens);
    DecodeAttention(stream, Part(all, done, end), partitions, gpu.multiprocessors,
                    partials.as<float>());
    done = end;
  }
  for (; done < args.tokens; done += kMostTokensAtOnce) {
    PrefillAttention(stream, Part(all, done, std::min(done + kMostTokensAtOnce, args.tokens)));
  }
}

}  // namespace

void Attend(cudaStream_t stream, const GpuProperties& gpu, bool deterministic,
            const PagedAttentionArgs& args, const Buffer& partials) {
  if (args.q_heads == 0) return;
  const AttentionArgs all = ArgsOf(args);
  if (!deterministic && MatrixAttentionTakes(args.cache, gpu.has_bf16)) {
    const auto attend = [&](int64_t begin, int64_t end, bool single) {
      for (int64_t t = begin; t < end; t += kMostTokensAtOnce) {
        MatrixAttention(stream, Part(all, t, std::min(t + kMostTokensAtOnce, end)), single,
                        gpu.multiprocessors, partials.as<float>(), partials.bytes());
      }
    };
    attend(0, args.single_tokens, true);
    attend(args.single_tokens, args.tokens, false);
    return;
  }
  AttendInOrder(stream, gpu, all, args, partials);
}

}  // namespace tandem::kernels::cuda
