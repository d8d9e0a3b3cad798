// Sums over ranks on GPUs, in the order of the sum tree (base/sum_tree.h). Each function
// launches on `stream` and returns; pointers are the GPU's unless said otherwise.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/residual_norm.h"

namespace tandem::kernels::cuda {

constexpr int kMaxPeers = 16;
constexpr int kMaxTreeNodes = 128;
constexpr int kMaxTreeDepth = 16;

// How a kernel adds the ranks' partial sums: in the tree's order, each is pushed onto a stack, and
// then the top two are added `merges` times.
struct TreeProgram {
  struct Node {
    uint8_t rank = 0;
    uint8_t index = 0;  // among the rank's own
    uint8_t merges = 0;
  };
  int32_t nodes = 0;
  Node node[kMaxTreeNodes];
};

// out [count] = the tree's root; a node's values are gathered[rank * rank_stride + index *
// count], [count]. No nodes: zeros.
void FinishTree(cudaStream_t stream, const TreeProgram& tree, const float* gathered,
                int64_t rank_stride, int64_t count, float* out);

// Memory of all ranks of a one-shot all-reduce, as one of them sees it.
struct PeerMemory {
  int rank = 0;
  int size = 0;
  int64_t slot = 0;    // pairs of floats that a rank may send in one call
  int max_blocks = 1;  // of a rank, that run at once beside those of other ranks on its GPU
  uint4* inbox[kMaxPeers] = {};  // rank's memory, opened here: [2, size, slot]; zeros at first
  unsigned* state = nullptr;     // own: calls so far, blocks that have ended, 1 + late rank
  unsigned* late = nullptr;      // pinned memory of the host: 1 + the rank that was late
};

constexpr int kPeerStateWords = 3;

// Every rank writes its partial sums, mine [own nodes, count], into the other ranks' inboxes
// and adds the values in its own. If a rank is late by `timeout` nanoseconds (0: no
// limit), `late` names it, and sums are meaningless from then on. Can be replayed in graphs.
void OneShotAllReduce(cudaStream_t stream, const PeerMemory& peers, const TreeProgram& tree,
                      const float* mine, int64_t count, uint64_t timeout, float* out);

// Whether OneShotAllReduceNorm takes rows of the shape: few, and each fits shared memory.
bool OneShotNorms(const PeerMemory& peers, int64_t tokens, int64_t hidden);

// OneShotAllReduce of [tokens, hidden] and AddRmsNorm of its sum in one kernel; the bits are
// those of the two.
void OneShotAllReduceNorm(cudaStream_t stream, const PeerMemory& peers, const TreeProgram& tree,
                          const float* mine, uint64_t timeout, const ResidualNorm& norm);

}  // namespace tandem::kernels::cuda
