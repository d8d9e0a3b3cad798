#include "parallel/host_communicator.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"

namespace tandem::parallel {
namespace {

// Up to this many bytes only the leader adds up its host's partial sums, which saves an exchange.
constexpr int64_t kLeaderAloneBytes = 32 << 10;

// What a layout means for one host.
struct HostLayout {
  TreeLayout layout;  // of ranks
  TreeLayout hosts;   // of hosts: what each can add up by itself
  struct Sum {        // one of this host's: nodes [begin, end) of the layout add up to it
    kernels::LeafRange node;
    size_t begin = 0;
    size_t end = 0;
  };
  std::vector<Sum> sums;
  int64_t most_rows = 1;  // partial sums that a slot must hold, on any rank of any host
  ReducePlan between;     // of the leaders' communicator, on leaders
};

HostLayout MakeHostLayout(const TreeLayout& layout, std::span<const int> host_of, int host) {
  HostLayout made;
  made.layout = layout;
  const int hosts = 1 + *std::max_element(host_of.begin(), host_of.end());
  made.hosts = layout.Grouped(host_of, hosts);
  for (int64_t i = made.hosts.rank_begin[host]; i < made.hosts.rank_begin[host + 1]; ++i) {
    HostLayout::Sum sum;
    sum.node = made.hosts.nodes[made.hosts.place[i]];
    while (layout.nodes[sum.begin].begin < sum.node.begin) ++sum.begin;
    for (sum.end = sum.begin;
         sum.end < layout.nodes.size() && layout.nodes[sum.end].end <= sum.node.end;) {
      ++sum.end;
    }
    made.sums.push_back(sum);
  }
  made.most_rows = std::max({int64_t{1}, layout.max_node_count(), made.hosts.max_node_count()});
  return made;
}

class HostCommunicator : public Communicator {
 public:
  HostCommunicator(ShmHost& host, std::span<const int> host_of,
                   std::unique_ptr<Communicator> leaders, Communicator& all,
                   std::chrono::milliseconds step_timeout)
      : host_(host),
        host_of_(host_of.begin(), host_of.end()),
        leaders_(std::move(leaders)),
        all_(all),
        member_timeout_(step_timeout * 8 / 10),
        result_timeout_(step_timeout),
        barrier_(host) {
    TANDEM_CHECK((leaders_ != nullptr) == (host.local_rank() == 0));
    TANDEM_CHECK(leaders_ == nullptr || leaders_->rank() == host_of_[all.rank()]);
  }
  int rank() const override { return all_.rank(); }
  int size() const override { return all_.size(); }
  ControlGroup& control() override { return all_.control(); }

  ReducePlan PlanReduce(const TreeLayout& layout) override {
    HostLayout made = MakeHostLayout(layout, host_of_, host_of_[rank()]);
    if (leaders_ != nullptr) made.between = leaders_->PlanReduce(made.hosts);
    return plans_.Add(layout, std::move(made));
  }

  absl::Status AllReduce(ReducePlan reduce_plan, const float* mine, int64_t count,
                         float* out) override {
    const HostLayout& plan = plans_[reduce_plan];
    const int64_t piece = static_cast<int64_t>(host_.slot_bytes() / sizeof(float)) / plan.most_rows;
    TANDEM_CHECK(piece > 0);
    for (int64_t begin = 0; begin < count; begin += piece) {
      TANDEM_RETURN_IF_ERROR(
          ReducePiece(plan, mine, count, begin, std::min(piece, count - begin), out));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<bool> FusedAllReduceAddRmsNorm(ReducePlan, const float*,
                                                const kernels::ResidualNorm&) override {
    return false;
  }

  absl::Status GatherColumns(const float* mine, int64_t rows, std::span<const int64_t> widths,
                             float* out) override {
    return all_.GatherColumns(mine, rows, widths, out);
  }
  absl::Status Await() override { return absl::OkStatus(); }

 private:
  // Elements [first, last) of this host's sums, from the slots of its ranks.
  void AddUp(const HostLayout& plan, int64_t n, int64_t first, int64_t last, float* sums) {
    for (int r = 0; r < host_.local_size(); ++r) {
      const auto* slot = reinterpret_cast<const float*>(host_.rank_slot(r, pieces_));
      PlaceValues(plan.layout, host_.world_rank(r), slot + first, n, values_);
    }
    const std::span<const float* const> values(values_);
    const std::span<const kernels::LeafRange> nodes(plan.layout.nodes);
    for (size_t i = 0; i < plan.sums.size(); ++i) {
      const HostLayout::Sum& sum = plan.sums[i];
      kernels::FinishTree(sum.node, nodes.subspan(sum.begin, sum.end - sum.begin),
                          values.subspan(sum.begin, sum.end - sum.begin), last - first,
                          sums + static_cast<int64_t>(i) * n + first);
    }
  }

  absl::Status ReducePiece(const HostLayout& plan, const float* mine, int64_t count, int64_t begin,
                           int64_t n, float* out) {
    auto* slot = reinterpret_cast<float*>(host_.rank_slot(host_.local_rank(), pieces_));
    for (int64_t i = 0; i < plan.layout.node_count(rank()); ++i) {
      std::memcpy(slot + i * n, mine + i * count + begin, n * sizeof(float));
    }
    auto* sums = reinterpret_cast<float*>(host_.sums_slot(pieces_));
    auto* result = reinterpret_cast<float*>(host_.result_slot(pieces_));
    const bool alone = n * static_cast<int64_t>(sizeof(float)) <= kLeaderAloneBytes;
    barrier_.Arrive();
    if (!alone) {
      TANDEM_RETURN_IF_ERROR(barrier_.AwaitOthers(member_timeout_, "all-reduce"));
      const int64_t ranks = host_.local_size();
      AddUp(plan, n, n * host_.local_rank() / ranks, n * (host_.local_rank() + 1) / ranks, sums);
      barrier_.Arrive();
    }
    if (leaders_ != nullptr) {
      TANDEM_RETURN_IF_ERROR(barrier_.AwaitOthers(member_timeout_, "all-reduce"));
      if (alone) AddUp(plan, n, 0, n, sums);
      TANDEM_RETURN_IF_ERROR(leaders_->AllReduce(plan.between, sums, n, result));
      ShmHost::Raise(host_.result(), ++results_);
    } else if (!host_.Await(host_.result(), ++results_, result_timeout_)) {
      return NotAnswered(host_.world_rank(0), rank(), result_timeout_, "all-reduce");
    }
    std::memcpy(out + begin, result, n * sizeof(float));
    ++pieces_;
    return absl::OkStatus();
  }

  ShmHost& host_;
  const std::vector<int> host_of_;
  const std::unique_ptr<Communicator> leaders_;
  Communicator& all_;
  const std::chrono::milliseconds member_timeout_;
  const std::chrono::milliseconds result_timeout_;
  ShmBarrier barrier_;
  uint64_t pieces_ = 0;   // so far; their parity says which slots
  uint32_t results_ = 0;  // so far
  ReducePlans<HostLayout> plans_;
  std::vector<const float*> values_;
};

class HostStepChannel : public StepChannel {
 public:
  HostStepChannel(std::unique_ptr<StepChannel> leaders, std::unique_ptr<StepChannel> host,
                  bool is_first_rank)
      : leaders_(std::move(leaders)), host_(std::move(host)), is_first_rank_(is_first_rank) {}

  absl::Status Send(std::span<const std::byte> message) override {
    TANDEM_CHECK(is_first_rank_);
    TANDEM_RETURN_IF_ERROR(leaders_->Send(message));
    return host_->Send(message);
  }

  absl::StatusOr<std::span<const std::byte>> Receive() override {
    if (leaders_ == nullptr) return host_->Receive();
    TANDEM_ASSIGN_OR_RETURN(const std::span<const std::byte> message, leaders_->Receive());
    TANDEM_RETURN_IF_ERROR(host_->Send(message));
    return message;
  }

 private:
  const std::unique_ptr<StepChannel> leaders_;
  const std::unique_ptr<StepChannel> host_;
  const bool is_first_rank_;
};

}  // namespace

std::unique_ptr<Communicator> MakeHostCommunicator(ShmHost& host, std::span<const int> host_of,
                                                   std::unique_ptr<Communicator> leaders,
                                                   Communicator& all,
                                                   std::chrono::milliseconds step_timeout) {
  return std::make_unique<HostCommunicator>(host, host_of, std::move(leaders), all, step_timeout);
}

std::chrono::milliseconds LeaderTimeout(std::chrono::milliseconds step_timeout) {
  return step_timeout * 9 / 10;
}

std::unique_ptr<StepChannel> MakeHostStepChannel(std::unique_ptr<StepChannel> leaders,
                                                 std::unique_ptr<StepChannel> host,
                                                 bool is_first_rank) {
  return std::make_unique<HostStepChannel>(std::move(leaders), std::move(host), is_first_rank);
}

}  // namespace tandem::parallel
