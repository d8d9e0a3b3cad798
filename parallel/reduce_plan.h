// What a communicator has prepared for the all-reduces of one TreeLayout, as a handle.
#pragma once

#include <cstdint>
#include <deque>
#include <utility>

#include "kernels/base/check.h"
#include "parallel/tree_layout.h"

namespace tandem::parallel {

// Made by Communicator::PlanReduce, for that communicator alone.
struct ReducePlan {
  int index = -1;     // among the communicator's plans
  int64_t nodes = 0;  // partial sums of all ranks
};

// The plans of one communicator, each with what it has prepared. Addresses stay valid.
template <typename Prepared>
class ReducePlans {
 public:
  ReducePlan Add(const TreeLayout& layout, Prepared prepared) {
    prepared_.push_back(std::move(prepared));
    return {static_cast<int>(prepared_.size()) - 1, static_cast<int64_t>(layout.nodes.size())};
  }
  Prepared& operator[](ReducePlan plan) {
    TANDEM_CHECK(plan.index >= 0 && plan.index < static_cast<int>(prepared_.size()));
    return prepared_[plan.index];
  }

 private:
  std::deque<Prepared> prepared_;
};

}  // namespace tandem::parallel
