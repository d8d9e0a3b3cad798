#include "parallel/mpi_communicator.h"

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "parallel/mpi_group.h"

namespace tandem::parallel {

absl::Status FromMpi(int code, const char* what) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  return absl::UnavailableError(absl::StrCat(what, ": ", std::string(text, length)));
}

namespace {

constexpr int kTreeTag = 1;
constexpr int kStepTag = 2;
constexpr int kSliceTag = 3;
constexpr int kGatherTag = 4;
constexpr int kBarrierTag = 5;
constexpr int kBytesTag = 6;

// Up to this many bytes of result an all-reduce sends all partial sums to all
// ranks in one round; above, each rank finishes a slice and the slices are
// gathered, which moves less.
constexpr int64_t kOneRoundBytes = 32 << 10;

// What to do between two looks at something that MPI has no sleeping wait for.
class Backoff {
 public:
  std::chrono::steady_clock::duration waited() const {
    return std::chrono::steady_clock::now() - start_;
  }
  void Pause(std::chrono::microseconds longest) {
    constexpr auto kAwake = std::chrono::microseconds(500);
    if (waited() < kAwake) {
      std::this_thread::yield();
      return;
    }
    std::this_thread::sleep_for(pause_);
    pause_ = std::min(pause_ * 2, longest);
  }

 private:
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::chrono::microseconds pause_{20};
};

// Messages in flight between members, each with the member at its other end.
class Requests {
 public:
  Requests(const MpiGroup& group, std::vector<int> members, int world_rank,
           std::chrono::milliseconds timeout)
      : group_(group), members_(std::move(members)), world_rank_(world_rank), timeout_(timeout) {}

  MPI_Comm communicator() const { return group_.communicator; }

  int size() const { return static_cast<int>(members_.size()); }
  int rank() const {
    const auto own = std::find(members_.begin(), members_.end(), world_rank_);
    TANDEM_CHECK(own != members_.end());
    return static_cast<int>(own - members_.begin());
  }
  int world_rank(int member) const { return members_[member]; }

  void Clear() {
    requests_.clear();
    peers_.clear();
  }
  void Receive(void* to, int64_t count, MPI_Datatype type, int peer, int tag) {
    peers_.push_back(peer);
    MPI_Irecv(to, static_cast<int>(count), type, members_[peer], tag, communicator(),
              &requests_.emplace_back());
  }
  void Send(const void* from, int64_t count, MPI_Datatype type, int peer, int tag) {
    peers_.push_back(peer);
    MPI_Isend(from, static_cast<int>(count), type, members_[peer], tag, communicator(),
              &requests_.emplace_back());
  }

  // Until all are done, or the time is over: UNAVAILABLE then, naming the ranks that keep us
  // waiting.
  absl::Status Wait(const char* what) {
    // The partners of a step are busy with the same step: longer sleeps would delay it.
    TANDEM_ASSIGN_OR_RETURN(const int late, Await(timeout_, std::chrono::microseconds(100), what));
    return late < 0 ? absl::OkStatus() : NotAnswered(late, world_rank_, timeout_, what);
  }

  // The same with the world's patience: DEADLINE_EXCEEDED.
  absl::Status WaitOutsideOfSteps(const char* what) {
    const std::chrono::milliseconds patience = group_.patience;
    TANDEM_ASSIGN_OR_RETURN(const int late, Await(patience, std::chrono::milliseconds(5), what));
    return late < 0 ? absl::OkStatus() : NotCome(late, world_rank_, patience, what);
  }

 private:
  // A rank that is late; -1: all came.
  absl::StatusOr<int> Await(std::chrono::milliseconds timeout,
                            std::chrono::microseconds longest_pause, const char* what) {
    Backoff backoff;
    for (;;) {
      int done = 0;
      TANDEM_RETURN_IF_ERROR(FromMpi(MPI_Testall(static_cast<int>(requests_.size()),
                                                 requests_.data(), &done, MPI_STATUSES_IGNORE),
                                     what));
      if (done) return -1;
      if (timeout.count() > 0 && backoff.waited() > timeout) return Late(what);
      backoff.Pause(longest_pause);
    }
  }

  absl::StatusOr<int> Late(const char* what) {
    for (size_t i = 0; i < requests_.size(); ++i) {
      int done = 0;
      if (requests_[i] == MPI_REQUEST_NULL) continue;
      MPI_Request_get_status(requests_[i], &done, MPI_STATUS_IGNORE);
      if (!done) return members_[peers_[i]];
    }
    return absl::InternalError(absl::StrCat(what, ": the time is over and nothing is missing"));
  }

  const MpiGroup& group_;
  const std::vector<int> members_;
  const int world_rank_;
  const std::chrono::milliseconds timeout_;
  std::vector<MPI_Request> requests_;
  std::vector<int> peers_;
};

class MpiCommunicator : public Communicator {
 public:
  explicit MpiCommunicator(Requests requests)
      : requests_(std::move(requests)), rank_(requests_.rank()), size_(requests_.size()) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  absl::Status AllReduceTree(const TreeLayout& layout, const float* mine, int64_t count,
                             float* out) override {
    if (count == 0) return absl::OkStatus();
    if (count * static_cast<int64_t>(sizeof(float)) <= kOneRoundBytes) {
      return OneRound(layout, mine, count, out);
    }
    return SlicedRounds(layout, mine, count, out);
  }

  absl::Status GatherColumns(const float* mine, int64_t rows, std::span<const int64_t> widths,
                             float* out) override {
    if (rows == 0) return absl::OkStatus();
    requests_.Clear();
    if (rank_ != 0) {
      TANDEM_CHECK(rows * widths[rank_] <= INT_MAX);
      requests_.Send(mine, rows * widths[rank_], MPI_FLOAT, 0, kGatherTag);
      return requests_.Wait("gathering logits");
    }
    int64_t total = 0;
    for (const int64_t width : widths) total += width;
    Reserve(rows * total);
    int64_t column = widths[0];
    for (int r = 1; r < size_; column += widths[r++]) {
      requests_.Receive(gathered_.data() + rows * column, rows * widths[r], MPI_FLOAT, r,
                        kGatherTag);
    }
    TANDEM_RETURN_IF_ERROR(requests_.Wait("gathering logits"));
    column = 0;
    for (int r = 0; r < size_; column += widths[r++]) {
      const float* from = r == 0 ? mine : gathered_.data() + rows * column;
      for (int64_t row = 0; row < rows; ++row) {
        std::memcpy(out + row * total + column, from + row * widths[r], widths[r] * sizeof(float));
      }
    }
    return absl::OkStatus();
  }

  // Each to each, as in a barrier: MPI's own would spin, for ever.
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(const std::string& mine) override {
    int world_size = 0;
    MPI_Comm_size(requests_.communicator(), &world_size);
    TANDEM_CHECK(world_size == size_);
    TANDEM_CHECK(mine.size() <= INT_MAX);
    const auto length = static_cast<int64_t>(mine.size());
    lengths_.assign(size_, 0);
    requests_.Clear();
    for (int step = 1; step < size_; ++step) {
      const int r = (rank_ + step) % size_;
      requests_.Receive(&lengths_[r], 1, MPI_INT64_T, r, kBytesTag);
      requests_.Send(&length, 1, MPI_INT64_T, r, kBytesTag);
    }
    TANDEM_RETURN_IF_ERROR(requests_.WaitOutsideOfSteps("what all ranks tell each other"));
    told_.assign(size_, "");
    told_[rank_] = mine;
    requests_.Clear();
    for (int step = 1; step < size_; ++step) {
      const int r = (rank_ + step) % size_;
      told_[r].resize(lengths_[r]);
      if (lengths_[r] > 0) requests_.Receive(told_[r].data(), lengths_[r], MPI_BYTE, r, kBytesTag);
      if (length > 0) requests_.Send(mine.data(), length, MPI_BYTE, r, kBytesTag);
    }
    TANDEM_RETURN_IF_ERROR(requests_.WaitOutsideOfSteps("what all ranks tell each other"));
    return std::move(told_);
  }

  absl::Status Barrier() override {
    // Each to each: who waits in vain then names the rank at fault, not one that waits too.
    requests_.Clear();
    for (int step = 1; step < size_; ++step) {
      const int r = (rank_ + step) % size_;
      requests_.Receive(nullptr, 0, MPI_BYTE, r, kBarrierTag);
      requests_.Send(nullptr, 0, MPI_BYTE, r, kBarrierTag);
    }
    return requests_.Wait("a sign of life");
  }

 private:
  void Reserve(int64_t floats) {
    if (static_cast<int64_t>(gathered_.size()) < floats) gathered_.resize(floats);
  }

  // Everybody's partial sums to everybody.
  absl::Status OneRound(const TreeLayout& layout, const float* mine, int64_t count, float* out) {
    Reserve(static_cast<int64_t>(layout.nodes.size()) * count);
    requests_.Clear();
    for (int r = 0; r < size_; ++r) {
      float* to = gathered_.data() + layout.rank_begin[r] * count;
      PlaceValues(layout, r, r == rank_ ? mine : to, count, values_);
      if (r != rank_ && layout.node_count(r) > 0) {
        requests_.Receive(to, layout.node_count(r) * count, MPI_FLOAT, r, kTreeTag);
      }
    }
    if (layout.node_count(rank_) > 0) {
      for (int step = 1; step < size_; ++step) {
        requests_.Send(mine, layout.node_count(rank_) * count, MPI_FLOAT, (rank_ + step) % size_,
                       kTreeTag);
      }
    }
    TANDEM_RETURN_IF_ERROR(requests_.Wait("all-reduce"));
    kernels::FinishTree({0, layout.leaves}, layout.nodes, values_, count, out);
    return absl::OkStatus();
  }

  int64_t SliceBegin(int64_t count, int rank) const { return count * rank / size_; }

  // Each rank finishes a slice; the slices go round.
  absl::Status SlicedRounds(const TreeLayout& layout, const float* mine, int64_t count,
                            float* out) {
    const int64_t begin = SliceBegin(count, rank_);
    const int64_t slice = SliceBegin(count, rank_ + 1) - begin;
    Reserve(static_cast<int64_t>(layout.nodes.size()) * slice);
    requests_.Clear();
    PlaceValues(layout, rank_, mine + begin, count, values_);
    for (int r = 0; r < size_; ++r) {
      if (r == rank_) continue;
      float* to = gathered_.data() + layout.rank_begin[r] * slice;
      PlaceValues(layout, r, to, slice, values_);
      for (int64_t i = 0; i < layout.node_count(r); ++i) {
        requests_.Receive(to + i * slice, slice, MPI_FLOAT, r, kTreeTag);
      }
    }
    for (int step = 1; step < size_; ++step) {
      const int r = (rank_ + step) % size_;
      const int64_t to_begin = SliceBegin(count, r);
      const int64_t to_count = SliceBegin(count, r + 1) - to_begin;
      for (int64_t i = 0; i < layout.node_count(rank_); ++i) {
        requests_.Send(mine + i * count + to_begin, to_count, MPI_FLOAT, r, kTreeTag);
      }
    }
    TANDEM_RETURN_IF_ERROR(requests_.Wait("all-reduce"));
    kernels::FinishTree({0, layout.leaves}, layout.nodes, values_, slice, out + begin);
    requests_.Clear();
    for (int step = 1; step < size_; ++step) {
      const int r = (rank_ + step) % size_;
      const int64_t from_begin = SliceBegin(count, r);
      requests_.Receive(out + from_begin, SliceBegin(count, r + 1) - from_begin, MPI_FLOAT, r,
                        kSliceTag);
      requests_.Send(out + begin, slice, MPI_FLOAT, r, kSliceTag);
    }
    return requests_.Wait("all-reduce");
  }

  Requests requests_;
  const int rank_;
  const int size_;
  // Reused by every call; they reach their largest size in the first large step.
  std::vector<float> gathered_;
  std::vector<const float*> values_;
  // Here, since messages may come after we have given up waiting for them.
  std::vector<int64_t> lengths_;
  std::vector<std::string> told_;
};

class MpiStepChannel : public StepChannel {
 public:
  MpiStepChannel(Requests requests, std::chrono::milliseconds silence)
      : requests_(std::move(requests)), silence_(silence) {}

  absl::Status Send(std::span<const std::byte> message) override {
    TANDEM_CHECK(requests_.rank() == 0);
    TANDEM_CHECK(message.size() <= INT_MAX);
    requests_.Clear();
    for (int r = 1; r < requests_.size(); ++r) {
      requests_.Send(message.data(), message.size(), MPI_BYTE, r, kStepTag);
    }
    return requests_.Wait("sending the step plan");
  }

  absl::StatusOr<std::span<const std::byte>> Receive() override {
    // MPI has no sleeping wait. While steps follow each other the next plan is there within
    // microseconds; later each probe that finds nothing doubles the sleep, up to a length that
    // costs an idle rank well under 1 % of a core.
    constexpr std::chrono::microseconds kLongest{5000};
    const int sender = requests_.world_rank(0);
    Backoff backoff;
    MPI_Status status;
    for (;;) {
      int there = 0;
      TANDEM_RETURN_IF_ERROR(
          FromMpi(MPI_Iprobe(sender, kStepTag, requests_.communicator(), &there, &status),
                  "awaiting a plan"));
      if (there) break;
      if (silence_.count() > 0 && backoff.waited() > silence_) {
        return Silent(sender, silence_);
      }
      backoff.Pause(kLongest);
    }
    int bytes = 0;
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    if (static_cast<int>(message_.size()) < bytes) message_.resize(bytes);
    TANDEM_RETURN_IF_ERROR(FromMpi(MPI_Recv(message_.data(), bytes, MPI_BYTE, sender, kStepTag,
                                            requests_.communicator(), MPI_STATUS_IGNORE),
                                   "receiving the step plan"));
    return std::span<const std::byte>(message_.data(), bytes);
  }

 private:
  Requests requests_;
  const std::chrono::milliseconds silence_;
  std::vector<std::byte> message_;
};

}  // namespace

std::unique_ptr<Communicator> MakeMpiCommunicator(const MpiGroup& group, std::vector<int> members,
                                                  int world_rank,
                                                  std::chrono::milliseconds step_timeout) {
  return std::make_unique<MpiCommunicator>(
      Requests(group, std::move(members), world_rank, step_timeout));
}

std::unique_ptr<StepChannel> MakeMpiStepChannel(const MpiGroup& group, std::vector<int> members,
                                                int world_rank, const Timeouts& timeouts) {
  return std::make_unique<MpiStepChannel>(
      Requests(group, std::move(members), world_rank, timeouts.step), timeouts.silence);
}

}  // namespace tandem::parallel
