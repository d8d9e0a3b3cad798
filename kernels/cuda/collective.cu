// Sums over ranks.
//
// The one-shot all-reduce is bound by latency. Every rank writes its partial sums straight into the
// other ranks' memory: writes to a peer do not wait, reads do. A flag comes with each pair of
// values: the number of the call. Calls alternate between two halves of the inbox. A rank that has
// ended call n has received call n from all ranks, so all ranks have ended call n - 1 and have read
// its half, which call n + 1 overwrites.
#include <cuda_device.h>
#include <cuda_peer.h>

#include "kernels/cuda/collective.h"
#include "kernels/cuda/rms_norm.h"

namespace tandem::kernels::cuda {
namespace {

constexpr int kThreads = 256;
// A block waits for the block of the same index on other ranks, so all blocks must run at once:
// there are at most PeerMemory::max_blocks. The next kernel may not start earlier: its blocks might
// take the place of blocks of another rank on the same GPU.
constexpr int64_t kMaxBlocks = 64;
// For the kernel that normalizes rows, too: each block has one row, in shared memory.
constexpr int kRowThreads = 1024;
constexpr int64_t kMaxRows = 32;
constexpr int64_t kMaxRowFloats = 11 << 10;

struct Pair {
  float first, second;
};

__global__ void FinishTreeKernel(TreeProgram tree, const float* gathered, int64_t rank_stride,
                                 int64_t count, float* out) {
  AwaitPrevious();
  StartNext();
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

// The pair at `from`, once it has this call's flag; false if its rank is late, or if another thread
// has found a late rank.
__device__ bool Await(const uint4* from, unsigned flag, const unsigned* late, uint64_t timeout,
                      Pair& pair) {
  constexpr int kLooks = 256;  // between two readings of the clock
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

// What a rank sends in a call.
struct Message {
  const float* mine = nullptr;  // [own_nodes, count]
  int64_t count = 0;
  int own_nodes = 0;
  unsigned silent = 0;  // a bit for each rank that has no nodes
  uint64_t timeout = 0;

  __device__ int64_t pairs() const { return (count + 1) / 2; }
};

// One call of the kernels below.
struct Call {
  unsigned number;
  int64_t half;  // where this call's half of an inbox begins
};

__device__ Call NextCall(const PeerMemory& peers) {
  const unsigned number = LoadWord(peers.state) + 1;
  return {number, (number & 1) * peers.size * peers.slot};
}

// The last block ends the call for all blocks. Call it after a barrier.
__device__ void EndCall(const PeerMemory& peers, const Call& call) {
  if (threadIdx.x == 0 && TakeTicket(peers.state + 1) == gridDim.x - 1) {
    StoreWord(peers.state + 1, 0);
    StoreWord(peers.state, call.number);
  }
}

// Sends pair j of each own node to all other ranks. A rank without nodes sends zeros, so that the
// others know that it has reached this call.
__device__ void SendPair(const PeerMemory& peers, const Call& call, const Message& message,
                         int64_t j) {
  for (int k = 0; k < (message.own_nodes > 0 ? message.own_nodes : 1); ++k) {
    Pair pair = {0.0f, 0.0f};
    if (message.own_nodes > 0) pair = PairAt(message.mine + k * message.count, j, message.count);
    for (int p = 1; p < peers.size; ++p) {
      const int to = (peers.rank + p) % peers.size;  // not all to one at once
      StoreFlagged(peers.inbox[to] + call.half + peers.rank * peers.slot + k * message.pairs() + j,
                   pair.first, pair.second, call.number);
    }
  }
}

// The tree's pair j, once all ranks have sent theirs; false if a rank is late.
__device__ bool AddUpPair(const PeerMemory& peers, const Call& call, const TreeProgram& tree,
                          const Message& message, int64_t j, Pair& sum) {
  const uint4* const inbox = peers.inbox[peers.rank] + call.half;
  const unsigned* const late = peers.state + 2;
  Pair stack[kMaxTreeDepth];
  stack[0] = {0.0f, 0.0f};
  int height = 0;
  for (int n = 0; n < tree.nodes; ++n) {
    const TreeProgram::Node node = tree.node[n];
    Pair& top = stack[height++];
    if (node.rank == peers.rank) {
      top = PairAt(message.mine + node.index * message.count, j, message.count);
    } else if (!Await(inbox + node.rank * peers.slot + node.index * message.pairs() + j,
                      call.number, late, message.timeout, top)) {
      Tell(peers, node.rank);
      return false;
    }
    for (int m = 0; m < node.merges; ++m) {
      --height;
      stack[height - 1].first += stack[height].first;
      stack[height - 1].second += stack[height].second;
    }
  }
  for (int p = 0; p < peers.size; ++p) {
    Pair sign;
    if ((message.silent >> p & 1) != 0 && p != peers.rank &&
        !Await(inbox + p * peers.slot + j, call.number, late, message.timeout, sign)) {
      Tell(peers, p);
      return false;
    }
  }
  sum = stack[0];
  return true;
}

__global__ void OneShotKernel(PeerMemory peers, TreeProgram tree, Message message, float* out) {
  AwaitPrevious();
  const Call call = NextCall(peers);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t j = first; j < message.pairs(); j += step) SendPair(peers, call, message, j);
  __syncthreads();  // all threads have sent before any of them waits
  const bool good = LoadWord(peers.state + 2) == 0;
  for (int64_t j = first; good && j < message.pairs(); j += step) {
    Pair sum;
    if (!AddUpPair(peers, call, tree, message, j, sum)) break;
    out[2 * j] = sum.first;
    if (2 * j + 1 < message.count) out[2 * j + 1] = sum.second;
  }
  __syncthreads();
  StartNext();
  EndCall(peers, call);
}

// One block for each token: its row is complete before it is normalized, and no block waits for
// another of the same GPU.
__global__ void __launch_bounds__(kRowThreads)
    OneShotNormKernel(PeerMemory peers, TreeProgram tree, Message message, ResidualNorm norm) {
  TANDEM_DYNAMIC_SHARED(float, row);  // [hidden], as added to the residual stream
  TANDEM_SHARED(float, sums, kNormWarps);
  AwaitPrevious();
  const Call call = NextCall(peers);
  const int hidden = static_cast<int>(norm.hidden);
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * hidden;
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < hidden / 2; i += kRowThreads) {
    SendPair(peers, call, message, begin / 2 + i);
  }
  __syncthreads();  // all threads have sent before any of them waits
  float* const residual = norm.residual + begin;
  const bool good = LoadWord(peers.state + 2) == 0;
  for (int i = thread; good && i < hidden / 2; i += kRowThreads) {
    Pair sum;
    if (!AddUpPair(peers, call, tree, message, begin / 2 + i, sum)) break;
    if (norm.delta_bias != nullptr) {
      sum.first += norm.delta_bias[2 * i];
      sum.second += norm.delta_bias[2 * i + 1];
    }
    row[2 * i] = residual[2 * i] + sum.first;
    row[2 * i + 1] = residual[2 * i + 1] + sum.second;
    residual[2 * i] = row[2 * i];
    residual[2 * i + 1] = row[2 * i + 1];
  }
  __syncthreads();
  StartNext();
  EndCall(peers, call);
  if (thread < kNormThreads) {  // whole warps
    float squares = 0;
    for (int j = 4 * thread; j < hidden; j += 4 * kNormThreads) {
      for (int i = 0; i < 4; ++i) squares = fmaf(row[j + i], row[j + i], squares);
    }
    KeepWarpSum(squares, sums);
  }
  __syncthreads();
  const float inverse = InverseRms(sums, hidden, norm.epsilon);
  for (int j = thread; j < hidden; j += kRowThreads) {
    norm.out[begin + j] = row[j] * inverse * norm.weight[j];
  }
}

Message MakeMessage(const PeerMemory& peers, const TreeProgram& tree, const float* mine,
                    int64_t count, uint64_t timeout) {
  Message message = {
      .mine = mine, .count = count, .silent = (1u << peers.size) - 1, .timeout = timeout};
  for (int n = 0; n < tree.nodes; ++n) {
    message.own_nodes += tree.node[n].rank == peers.rank ? 1 : 0;
    message.silent &= ~(1u << tree.node[n].rank);
  }
  return message;
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
  const int64_t most = peers.max_blocks < kMaxBlocks ? peers.max_blocks : kMaxBlocks;
  const int64_t blocks = ((count + 1) / 2 + kThreads - 1) / kThreads;
  Launch({.grid = dim3(static_cast<unsigned>(blocks < most ? blocks : most)),
          .block = dim3(kThreads),
          .stream = stream},
         &OneShotKernel, peers, tree, MakeMessage(peers, tree, mine, count, timeout), out);
}

bool OneShotNorms(const PeerMemory& peers, int64_t tokens, int64_t hidden) {
  return tokens <= kMaxRows && tokens <= peers.max_blocks && hidden % 4 == 0 && hidden > 0 &&
         hidden <= kMaxRowFloats;
}

void OneShotAllReduceNorm(cudaStream_t stream, const PeerMemory& peers, const TreeProgram& tree,
                          const float* mine, uint64_t timeout, const ResidualNorm& norm) {
  if (norm.tokens == 0) return;
  Launch({.grid = dim3(static_cast<unsigned>(norm.tokens)),
          .block = dim3(kRowThreads),
          .shared_bytes = norm.hidden * sizeof(float),
          .stream = stream},
         &OneShotNormKernel, peers, tree,
         MakeMessage(peers, tree, mine, norm.tokens * norm.hidden, timeout), norm);
}

}  // namespace tandem::kernels::cuda
