// Sums over ranks.
//
// The one-shot all-reduce is bound by latency: every rank pushes its partial sums straight
// into the others' memory, since writes to a peer do not wait and reads do, and each pair of
// values brings its flag along: the number of the call. Two halves of the inbox alternate. A
// rank that has ended call n has got all of it from everybody, so everybody has ended call
// n - 1 and read its half, which call n + 1 overwrites.
#include <cuda_device.h>
#include <cuda_peer.h>

#include "kernels/cuda/collective.h"

namespace tandem::kernels::cuda {
namespace {

constexpr int kThreads = 256;
// A block waits for the same one of other ranks, so all of them must run at once.
constexpr int64_t kMaxBlocks = 64;

struct Pair {
  float first, second;
};

__global__ void FinishTreeKernel(TreeProgram tree, const float* gathered, int64_t rank_stride,
                                 int64_t count, float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  float stack[kMaxTreeDepth];
  stack[0] = 0;
  int height = 0;
  for (int n = 0; n < tree.nodes; ++n) {
    const TreeProgram::Node node = tree.node[n];
    stack[height++] = gathered[node.rank * rank_stride + node.index * count + i];
    for (int m = 0; m < node.merges; ++m) {
      --height;
      stack[height - 1] += stack[height];
    }
  }
  out[i] = stack[0];
}

// The pair at `from` once it has this call's flag; false where its rank is late, or another
// thread has found one late.
__device__ bool Await(const uint4* from, unsigned flag, const unsigned* late, uint64_t timeout,
                      Pair& pair) {
  constexpr int kLooks = 256;  // from one look at the clock to the next
  uint64_t begin = 0;
  for (int looks = 1;; ++looks) {
    const uint4 words = LoadFlagged(from);
    if (words.y == flag && words.w == flag) {
      pair = {__uint_as_float(words.x), __uint_as_float(words.z)};
      return true;
    }
    if (looks % kLooks == 0) {
      const uint64_t now = Nanoseconds();
      if (begin == 0) begin = now;
      if (LoadWord(late) != 0 || (timeout > 0 && now - begin > timeout)) return false;
    }
    PauseSpin();
  }
}

__device__ Pair PairAt(const float* values, int64_t j, int64_t count) {
  return {values[2 * j], 2 * j + 1 < count ? values[2 * j + 1] : 0.0f};
}

// The first rank that was late.
__device__ void Tell(const PeerMemory& peers, int rank) {
  if (LoadWord(peers.state + 2) != 0) return;
  StoreWord(peers.state + 2, 1u + static_cast<unsigned>(rank));
  StoreWord(peers.late, 1u + static_cast<unsigned>(rank));
}

__global__ void OneShotKernel(PeerMemory peers, TreeProgram tree, int own_nodes, unsigned silent,
                              const float* mine, int64_t count, uint64_t timeout, float* out) {
  const unsigned call = LoadWord(peers.state) + 1;
  unsigned* const late = peers.state + 2;
  const int64_t pairs = (count + 1) / 2;
  const int64_t half = (call & 1) * peers.size * peers.slot;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;

  // Who has none sends zeros, as a sign that it has come so far.
  for (int k = 0; k < (own_nodes > 0 ? own_nodes : 1); ++k) {
    for (int64_t j = first; j < pairs; j += step) {
      Pair pair = {0.0f, 0.0f};
      if (own_nodes > 0) pair = PairAt(mine + k * count, j, count);
      for (int p = 1; p < peers.size; ++p) {
        const int to = (peers.rank + p) % peers.size;  // not all to one at once
        StoreFlagged(peers.inbox[to] + half + peers.rank * peers.slot + k * pairs + j, pair.first,
                     pair.second, call);
      }
    }
  }
  __syncthreads();  // all have sent before anybody waits

  const uint4* const inbox = peers.inbox[peers.rank] + half;
  bool good = LoadWord(late) == 0;
  for (int64_t j = first; good && j < pairs; j += step) {
    Pair stack[kMaxTreeDepth];
    stack[0] = {0.0f, 0.0f};
    int height = 0;
    for (int n = 0; good && n < tree.nodes; ++n) {
      const TreeProgram::Node node = tree.node[n];
      Pair& top = stack[height++];
      if (node.rank == peers.rank) {
        top = PairAt(mine + node.index * count, j, count);
      } else if (!Await(inbox + node.rank * peers.slot + node.index * pairs + j, call, late,
                        timeout, top)) {
        good = false;
        Tell(peers, node.rank);
      }
      for (int m = 0; m < node.merges; ++m) {
        --height;
        stack[height - 1].first += stack[height].first;
        stack[height - 1].second += stack[height].second;
      }
    }
    for (int p = 0; good && p < peers.size; ++p) {
      Pair sign;
      if ((silent >> p & 1) != 0 && p != peers.rank &&
          !Await(inbox + p * peers.slot + j, call, late, timeout, sign)) {
        good = false;
        Tell(peers, p);
      }
    }
    if (!good) break;
    out[2 * j] = stack[0].first;
    if (2 * j + 1 < count) out[2 * j + 1] = stack[0].second;
  }

  __syncthreads();
  if (threadIdx.x == 0 && TakeTicket(peers.state + 1) == gridDim.x - 1) {
    StoreWord(peers.state + 1, 0);
    StoreWord(peers.state, call);
  }
}

}  // namespace

void FinishTree(cudaStream_t stream, const TreeProgram& tree, const float* gathered,
                int64_t rank_stride, int64_t count, float* out) {
  if (count == 0) return;
  Launch({.grid = dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)),
          .block = dim3(kThreads),
          .stream = stream},
         &FinishTreeKernel, tree, gathered, rank_stride, count, out);
}

void OneShotAllReduce(cudaStream_t stream, const PeerMemory& peers, const TreeProgram& tree,
                      const float* mine, int64_t count, uint64_t timeout, float* out) {
  if (count == 0) return;
  int own_nodes = 0;
  unsigned silent = (1u << peers.size) - 1;
  for (int n = 0; n < tree.nodes; ++n) {
    own_nodes += tree.node[n].rank == peers.rank ? 1 : 0;
    silent &= ~(1u << tree.node[n].rank);
  }
  const int64_t blocks = ((count + 1) / 2 + kThreads - 1) / kThreads;
  Launch({.grid = dim3(static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks)),
          .block = dim3(kThreads),
          .stream = stream},
         &OneShotKernel, peers, tree, own_nodes, silent, mine, count, timeout, out);
}

}  // namespace tandem::kernels::cuda
