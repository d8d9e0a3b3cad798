#include "parallel/tree_program.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"

namespace tandem::parallel {
namespace {

using kernels::cuda::TreeProgram;

// Pushes the nodes below `node` while `height` values are on the stack. False where the stack would
// get too high.
bool Push(const TreeLayout& layout, kernels::LeafRange node, int height, TreeProgram& program) {
  if (height >= kernels::cuda::kMaxTreeDepth) return false;
  TANDEM_CHECK(program.nodes < static_cast<int>(layout.nodes.size()));
  if (layout.nodes[program.nodes] == node) {
    ++program.nodes;
    return true;
  }
  TANDEM_CHECK(node.size() > 1);
  const int64_t middle = kernels::TreeMiddle(node.begin, node.end);
  if (!Push(layout, {node.begin, middle}, height, program) ||
      !Push(layout, {middle, node.end}, height + 1, program)) {
    return false;
  }
  ++program.node[program.nodes - 1].merges;
  return true;
}

}  // namespace

absl::StatusOr<TreeProgram> MakeTreeProgram(const TreeLayout& layout) {
  TreeProgram program;
  const auto nodes = static_cast<int>(layout.nodes.size());
  bool fits = nodes <= kernels::cuda::kMaxTreeNodes && layout.ranks() <= 256;
  if (fits) {
    for (int rank = 0; rank < layout.ranks(); ++rank) {
      for (int64_t i = 0; i < layout.node_count(rank); ++i) {
        auto& node = program.node[layout.place[layout.rank_begin[rank] + i]];
        node.rank = static_cast<uint8_t>(rank);
        node.index = static_cast<uint8_t>(i);
      }
    }
    if (nodes > 0) fits = Push(layout, {0, layout.leaves}, 0, program);
  }
  if (fits) return program;
  return absl::UnimplementedError(
      absl::StrCat("all-reduce on GPUs: found ", layout.ranks(), " ranks with ", nodes,
                   " partial sums, expected at most ", kernels::cuda::kMaxTreeNodes));
}

}  // namespace tandem::parallel
