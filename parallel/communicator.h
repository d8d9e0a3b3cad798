// Collectives of one TP world. Built eagerly at start and handed to the layers;
// all ranks make the same calls in the same order. Steps and bytes of each:
// docs/collectives.md.
//
// Values are in the memory of the rank's backend (GatherColumns' result alone is on the
// host), and calls take their turn after its operations: communicators of the host serve
// backends whose memory is the host's, device_communicator.h's the others.
//
// A Status that is not OK is final: the world cannot go on.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/base/sum_tree.h"
#include "kernels/residual_norm.h"
#include "parallel/control_group.h"

namespace tandem::parallel {

// Who holds which partial sums of a row-parallel product: nodes of the sum tree
// over [0, leaves) that together cover it. A rank's own are laid out in their
// order, ranks one after the other: those of rank r are the numbers
// [rank_begin[r], rank_begin[r + 1]).
struct TreeLayout {
  int64_t leaves = 0;
  std::vector<kernels::LeafRange> nodes;  // in the tree's order
  std::vector<int64_t> rank_begin;        // [size + 1]
  std::vector<int64_t> place;             // of number i among the nodes

  // owned[r] are rank r's leaves; together they cover [0, leaves) in order.
  static TreeLayout Make(int64_t leaves, std::span<const kernels::LeafRange> owned);
  // Of one leaf a rank.
  static TreeLayout OfRanks(int ranks);

  // The same where all ranks of a group add up what they can before: groups
  // take the place of ranks. group_of[rank] is in [0, groups).
  TreeLayout Grouped(std::span<const int> group_of, int groups) const;

  int ranks() const { return static_cast<int>(rank_begin.size()) - 1; }
  int64_t node_count(int rank) const { return rank_begin[rank + 1] - rank_begin[rank]; }
  int64_t max_node_count() const;
  bool operator==(const TreeLayout&) const = default;
};

// values[place of number i] = what number i of the rank is, rows of `count`
// from `first` on.
void PlaceValues(const TreeLayout& layout, int rank, const float* first, int64_t count,
                 std::vector<const float*>& values);

class Communicator : public ControlGroup {
 public:
  // The one all-reduce: mine is [node_count(rank), count], this rank's partial
  // sums; every rank gets the tree's root, [count], in the same bits.
  virtual absl::Status AllReduceTree(const TreeLayout& layout, const float* mine, int64_t count,
                                     float* out) = 0;

  // The same of [tokens, hidden], then Backend::AddRmsNorm with the root as delta, in the same bits
  // as one after the other. sum, [tokens, hidden], is scratch; it may be `mine` in a world of one.
  virtual absl::Status AllReduceAddRmsNorm(kernels::Backend& backend, const TreeLayout& layout,
                                           const float* mine, const kernels::ResidualNorm& norm,
                                           float* sum);

  // Rank 0 gets [rows, sum of widths]: rank r's columns come from its mine,
  // [rows, widths[r]]. out is used on rank 0 alone.
  virtual absl::Status GatherColumns(const float* mine, int64_t rows,
                                     std::span<const int64_t> widths, float* out) = 0;

  // Until all-reduces that were only queued are done, on this rank, with the deadline of a
  // step; their error. Not collective.
  virtual absl::Status Await() { return absl::OkStatus(); }
};

// A world of one: a copy.
class SelfCommunicator : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  absl::Status AllReduceTree(const TreeLayout& layout, const float* mine, int64_t count,
                             float* out) override;
  absl::Status GatherColumns(const float* mine, int64_t rows, std::span<const int64_t> widths,
                             float* out) override;
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(const std::string& mine) override;
  absl::Status Barrier() override { return absl::OkStatus(); }
};

}  // namespace tandem::parallel
