#include "parallel/shm_communicator.h"

#include <algorithm>
#include <cstring>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"

namespace tandem::parallel {
namespace {

// Up to this many bytes of result every rank finishes the whole tree: one exchange of flags.
constexpr int64_t kOneRoundBytes = 32 << 10;

// As many lines fit beside others into a first-level cache.
constexpr int64_t kOwnedFloats = (16 << 10) / sizeof(float);

// Fetches another rank's lines for reading and for overwriting them later, in one transfer.
void PrefetchOwned(const float* data, int64_t count) {
  constexpr int64_t kLine = 64 / sizeof(float);
  for (int64_t i = 0; i < count; i += kLine) {
#if defined(__x86_64__)
    asm volatile("prefetchw %0" : : "m"(data[i]));
#else
    __builtin_prefetch(data + i, /*rw=*/1);
#endif
  }
}

// Bytes go over `start`, since ranks load at their own pace; a barrier meets in the shared memory,
// in turn with the collectives of steps.
class ShmGroup : public ControlGroup {
 public:
  ShmGroup(ControlGroup& start, ShmBarrier& barrier, std::chrono::milliseconds timeout)
      : start_(start), barrier_(barrier), timeout_(timeout) {}
  int rank() const override { return start_.rank(); }
  int size() const override { return start_.size(); }
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(const std::string& mine) override {
    return start_.AllGatherBytes(mine);
  }
  absl::Status Barrier() override { return barrier_.Meet(timeout_, "a sign of life"); }

 private:
  ControlGroup& start_;
  ShmBarrier& barrier_;
  const std::chrono::milliseconds timeout_;
};

class ShmCommunicator : public Communicator {
 public:
  ShmCommunicator(ShmHost& host, ControlGroup& start, std::chrono::milliseconds timeout)
      : host_(host), timeout_(timeout), barrier_(host), control_(start, barrier_, timeout) {
    TANDEM_CHECK(host.local_size() == start.size());
  }
  int rank() const override { return host_.local_rank(); }
  int size() const override { return host_.local_size(); }
  ControlGroup& control() override { return control_; }

  ReducePlan PlanReduce(const TreeLayout& layout) override {
    const int64_t piece = slot_floats() / std::max<int64_t>(1, layout.max_node_count());
    TANDEM_CHECK(piece > 0);
    return plans_.Add(layout, {layout, piece, SlicesReadLess(layout)});
  }

  absl::Status AllReduce(ReducePlan plan, const float* mine, int64_t count, float* out) override {
    const auto& [layout, piece, slices_read_less] = plans_[plan];
    const bool one_round =
        count * static_cast<int64_t>(sizeof(float)) <= kOneRoundBytes || !slices_read_less;
    for (int64_t begin = 0; begin < count; begin += piece) {
      TANDEM_RETURN_IF_ERROR(
          ReducePiece(layout, mine, count, begin, std::min(piece, count - begin), one_round, out));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<bool> FusedAllReduceAddRmsNorm(ReducePlan, const float*,
                                                const kernels::ResidualNorm&) override {
    return false;
  }

  absl::Status GatherColumns(const float* mine, int64_t rows, std::span<const int64_t> widths,
                             float* out) override {
    int64_t total = 0, longest = 0;
    for (const int64_t width : widths) {
      total += width;
      longest = std::max(longest, rows * width);
    }
    const int64_t own = rows * widths[rank()];
    for (int64_t begin = 0; begin < longest; begin += slot_floats(), ++pieces_) {
      if (rank() != 0 && begin < own) {
        std::memcpy(Slot(rank()), mine + begin,
                    std::min(slot_floats(), own - begin) * sizeof(float));
      }
      TANDEM_RETURN_IF_ERROR(barrier_.Meet(timeout_, "gathering logits"));
      int64_t column = 0;
      for (int r = 0; rank() == 0 && r < size(); column += widths[r++]) {
        // The piece is a run of the rank's [rows, width]: its rows go to their places in out.
        const float* from = r == 0 ? mine + begin : Slot(r);
        const int64_t end = std::min(begin + slot_floats(), rows * widths[r]);
        for (int64_t i = begin; i < end;) {
          const int64_t row = i / widths[r], first = i % widths[r];
          const int64_t n = std::min(widths[r] - first, end - i);
          std::memcpy(out + row * total + column + first, from + (i - begin), n * sizeof(float));
          i += n;
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status Await() override { return absl::OkStatus(); }

 private:
  struct Planned {
    TreeLayout layout;
    int64_t piece = 0;              // floats of the sum that go through the slots at once
    bool slices_read_less = false;  // else each rank finishes the whole tree
  };

  int64_t slot_floats() const { return static_cast<int64_t>(host_.slot_bytes() / sizeof(float)); }
  // Where the rank writes this piece. Two ranks swap their slots from piece to piece: each writes
  // what it has just read, whose cache lines it then owns already (see PrefetchOwned).
  float* Slot(int rank) const {
    if (size() == 2) {
      return reinterpret_cast<float*>(host_.rank_slot((rank + pieces_) % 2, /*piece=*/0));
    }
    return reinterpret_cast<float*>(host_.rank_slot(rank, pieces_));
  }

  // Elements that a rank reads for one of the result: of P partial sums P (N - 1) / N where it
  // finishes the tree itself; with slices an Nth of that, and the result.
  bool SlicesReadLess(const TreeLayout& layout) const {
    const auto partials = static_cast<int64_t>(layout.nodes.size());
    const int64_t n = size();
    return partials * (n - 1) * (n - 1) > n * n;
  }

  absl::Status ReducePiece(const TreeLayout& layout, const float* mine, int64_t count,
                           int64_t begin, int64_t n, bool one_round, float* out) {
    float* slot = Slot(rank());
    for (int64_t i = 0; i < layout.node_count(rank()); ++i) {
      std::memcpy(slot + i * n, mine + i * count + begin, n * sizeof(float));
    }
    barrier_.Arrive();
    for (int r = 0; r < size(); ++r) PlaceValues(layout, r, Slot(r), n, values_);
    // The own ones are nearer where they come from.
    PlaceValues(layout, rank(), mine + begin, count, values_);
    TANDEM_RETURN_IF_ERROR(barrier_.AwaitOthers(timeout_, "all-reduce"));
    if (size() == 2) {
      const int other = 1 - rank();
      PrefetchOwned(Slot(other), std::min(layout.node_count(other) * n, kOwnedFloats));
    }
    const kernels::LeafRange root = {0, layout.leaves};
    if (one_round) {
      kernels::FinishTree(root, layout.nodes, values_, n, out + begin);
    } else {
      const int64_t first = n * rank() / size();
      const int64_t last = n * (rank() + 1) / size();
      for (const float*& value : values_) value += first;
      auto* result = reinterpret_cast<float*>(host_.result_slot(pieces_));
      kernels::FinishTree(root, layout.nodes, values_, last - first, result + first);
      TANDEM_RETURN_IF_ERROR(barrier_.Meet(timeout_, "all-reduce"));
      std::memcpy(out + begin, result, n * sizeof(float));
    }
    ++pieces_;
    return absl::OkStatus();
  }

  ShmHost& host_;
  const std::chrono::milliseconds timeout_;
  ShmBarrier barrier_;
  ShmGroup control_;
  ReducePlans<Planned> plans_;
  uint64_t pieces_ = 0;  // so far; their parity says which slots
  std::vector<const float*> values_;
};

class ShmStepChannel : public StepChannel {
 public:
  ShmStepChannel(ShmHost& host, const Timeouts& timeouts) : host_(host), timeouts_(timeouts) {}

  absl::Status Send(std::span<const std::byte> message) override {
    TANDEM_CHECK(host_.local_rank() == 0);
    size_t begin = 0;
    do {
      const size_t n = std::min(message.size() - begin, PieceBytes());
      // The slot's last piece, two before this one, must have been taken by all.
      for (int r = 1; r < host_.local_size(); ++r) {
        if (!host_.Await(host_.taken(r), pieces_ - 1, timeouts_.step)) {
          return NotAnswered(host_.world_rank(r), host_.world_rank(0), timeouts_.step,
                             "taking the step plan");
        }
      }
      std::byte* slot = host_.plan_slot(pieces_);
      const uint64_t header[2] = {message.size(), n};
      std::memcpy(slot, header, sizeof(header));
      if (n > 0) std::memcpy(slot + sizeof(header), message.data() + begin, n);
      ShmHost::Raise(host_.plan(), ++pieces_);
      begin += n;
    } while (begin < message.size());
    return absl::OkStatus();
  }

  absl::StatusOr<std::span<const std::byte>> Receive() override {
    message_.clear();
    for (auto timeout = timeouts_.silence;; timeout = timeouts_.step) {
      if (!host_.Await(host_.plan(), pieces_ + 1, timeout)) {
        return Silent(host_.world_rank(0), timeout);
      }
      const std::byte* slot = host_.plan_slot(pieces_);
      uint64_t header[2];
      std::memcpy(header, slot, sizeof(header));
      TANDEM_CHECK(header[1] <= PieceBytes());
      message_.insert(message_.end(), slot + sizeof(header), slot + sizeof(header) + header[1]);
      ShmHost::Raise(host_.taken(host_.local_rank()), ++pieces_);
      if (message_.size() >= header[0]) return std::span<const std::byte>(message_);
    }
  }

 private:
  size_t PieceBytes() const { return host_.slot_bytes() - 2 * sizeof(uint64_t); }

  ShmHost& host_;
  const Timeouts timeouts_;
  uint32_t pieces_ = 0;
  std::vector<std::byte> message_;
};

}  // namespace

std::unique_ptr<Communicator> MakeShmCommunicator(ShmHost& host, ControlGroup& start,
                                                  std::chrono::milliseconds step_timeout) {
  return std::make_unique<ShmCommunicator>(host, start, step_timeout);
}

std::unique_ptr<StepChannel> MakeShmStepChannel(ShmHost& host, const Timeouts& timeouts) {
  return std::make_unique<ShmStepChannel>(host, timeouts);
}

}  // namespace tandem::parallel
