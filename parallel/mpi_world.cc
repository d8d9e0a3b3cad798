#include "parallel/mpi_world.h"

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstring>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"

namespace tandem::parallel {
namespace {

constexpr int kTreeTag = 1;
constexpr int kStepTag = 2;
constexpr int kSliceTag = 3;
constexpr int kGatherTag = 4;
constexpr int kBarrierTag = 5;

// Up to this many bytes of result an all-reduce sends all partial sums to all
// ranks in one round; above, each rank finishes a slice and the slices are
// gathered, which moves less.
constexpr int64_t kOneRoundBytes = 32 << 10;

absl::Status FromMpi(int code, const char* what) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  return absl::UnavailableError(absl::StrCat(what, ": ", std::string(text, length)));
}

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

// Requests in flight, each with the rank at its other end.
class Requests {
 public:
  Requests(int rank, std::chrono::milliseconds timeout) : rank_(rank), timeout_(timeout) {}

  void Clear() {
    requests_.clear();
    peers_.clear();
  }
  void Receive(void* to, int64_t count, MPI_Datatype type, int peer, int tag) {
    peers_.push_back(peer);
    MPI_Irecv(to, static_cast<int>(count), type, peer, tag, MPI_COMM_WORLD,
              &requests_.emplace_back());
  }
  void Send(const void* from, int64_t count, MPI_Datatype type, int peer, int tag) {
    peers_.push_back(peer);
    MPI_Isend(from, static_cast<int>(count), type, peer, tag, MPI_COMM_WORLD,
              &requests_.emplace_back());
  }

  // Until all are done, or the time is over: UNAVAILABLE then, naming the ranks that keep us
  // waiting.
  absl::Status Wait(const char* what) {
    Backoff backoff;
    for (;;) {
      int done = 0;
      TANDEM_RETURN_IF_ERROR(FromMpi(MPI_Testall(static_cast<int>(requests_.size()),
                                                 requests_.data(), &done, MPI_STATUSES_IGNORE),
                                     what));
      if (done) return absl::OkStatus();
      if (timeout_.count() > 0 && backoff.waited() > timeout_) return Late(what);
      backoff.Pause(kLongestPause);
    }
  }

 private:
  // The partners of a step are busy with the same step: longer sleeps would delay it.
  static constexpr std::chrono::microseconds kLongestPause{100};

  absl::Status Late(const char* what) {
    std::set<int> late;
    for (size_t i = 0; i < requests_.size(); ++i) {
      int done = 0;
      if (requests_[i] != MPI_REQUEST_NULL) {
        MPI_Request_get_status(requests_[i], &done, MPI_STATUS_IGNORE);
        if (!done) late.insert(peers_[i]);
      }
    }
    return absl::UnavailableError(
        absl::StrCat(late.size() == 1 ? "rank " : "ranks ", absl::StrJoin(late, ", "),
                     late.size() == 1 ? " has" : " have", " not answered rank ", rank_, " for ",
                     absl::FormatDuration(absl::FromChrono(timeout_)), " (", what, ")"));
  }

  const int rank_;
  const std::chrono::milliseconds timeout_;
  std::vector<MPI_Request> requests_;
  std::vector<int> peers_;
};

// All exchanges of a step are point to point: a collective of MPI would neither end at a deadline
// nor say whom it waits for.
class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(int rank, int size, std::chrono::milliseconds timeout)
      : rank_(rank), size_(size), requests_(rank, timeout) {}
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

  // Ranks load at their own pace: no deadline here.
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(const std::string& mine) override {
    const int length = static_cast<int>(mine.size());
    std::vector<int> lengths(size_), offsets(size_);
    TANDEM_RETURN_IF_ERROR(
        FromMpi(MPI_Allgather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, MPI_COMM_WORLD),
                "gathering lengths"));
    int total = 0;
    for (int r = 0; r < size_; ++r) {
      offsets[r] = total;
      total += lengths[r];
    }
    std::string all(total, '\0');
    TANDEM_RETURN_IF_ERROR(
        FromMpi(MPI_Allgatherv(mine.data(), length, MPI_BYTE, all.data(), lengths.data(),
                               offsets.data(), MPI_BYTE, MPI_COMM_WORLD),
                "gathering bytes"));
    std::vector<std::string> out;
    for (int r = 0; r < size_; ++r) out.push_back(all.substr(offsets[r], lengths[r]));
    return out;
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
    values_.clear();
    for (int r = 0; r < size_; ++r) {
      float* to = gathered_.data() + layout.rank_begin[r] * count;
      for (int64_t i = 0; i < layout.node_count(r); ++i) {
        values_.push_back((r == rank_ ? mine : to) + i * count);
      }
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
    kernels::FinishTree(layout.leaves, layout.nodes, values_, count, out);
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
    values_.clear();
    for (int r = 0; r < size_; ++r) {
      for (int64_t i = 0; i < layout.node_count(r); ++i) {
        if (r == rank_) {
          values_.push_back(mine + i * count + begin);
          continue;
        }
        float* to = gathered_.data() + (layout.rank_begin[r] + i) * slice;
        values_.push_back(to);
        requests_.Receive(to, slice, MPI_FLOAT, r, kTreeTag);
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
    kernels::FinishTree(layout.leaves, layout.nodes, values_, slice, out + begin);
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

  const int rank_;
  const int size_;
  // Reused by every call; they reach their largest size in the first large step.
  std::vector<float> gathered_;
  std::vector<const float*> values_;
  Requests requests_;
};

class MpiStepChannel : public StepChannel {
 public:
  MpiStepChannel(int rank, int size, const MpiTimeouts& timeouts)
      : rank_(rank), size_(size), silence_(timeouts.silence), requests_(rank, timeouts.step) {}

  absl::Status Send(std::span<const std::byte> message) override {
    TANDEM_CHECK(rank_ == 0);
    TANDEM_CHECK(message.size() <= INT_MAX);
    requests_.Clear();
    for (int r = 1; r < size_; ++r) {
      requests_.Send(message.data(), message.size(), MPI_BYTE, r, kStepTag);
    }
    return requests_.Wait("sending the step plan");
  }

  absl::StatusOr<std::span<const std::byte>> Receive() override {
    // MPI has no sleeping wait. While steps follow each other the next plan is there within
    // microseconds; later each probe that finds nothing doubles the sleep, up to a length that
    // costs an idle rank well under 1 % of a core.
    constexpr std::chrono::microseconds kLongest{5000};
    Backoff backoff;
    MPI_Status status;
    for (;;) {
      int there = 0;
      TANDEM_RETURN_IF_ERROR(
          FromMpi(MPI_Iprobe(0, kStepTag, MPI_COMM_WORLD, &there, &status), "awaiting a plan"));
      if (there) break;
      if (silence_.count() > 0 && backoff.waited() > silence_) {
        return absl::UnavailableError(absl::StrCat("rank 0 has been silent for ",
                                                   absl::FormatDuration(absl::FromChrono(silence_)),
                                                   " (awaiting a plan)"));
      }
      backoff.Pause(kLongest);
    }
    int bytes = 0;
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    if (static_cast<int>(message_.size()) < bytes) message_.resize(bytes);
    TANDEM_RETURN_IF_ERROR(FromMpi(
        MPI_Recv(message_.data(), bytes, MPI_BYTE, 0, kStepTag, MPI_COMM_WORLD, MPI_STATUS_IGNORE),
        "receiving the step plan"));
    return std::span<const std::byte>(message_.data(), bytes);
  }

 private:
  const int rank_;
  const int size_;
  const std::chrono::milliseconds silence_;
  Requests requests_;
  std::vector<std::byte> message_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MpiWorld>> MpiWorld::Start() {
  int provided = 0;
  TANDEM_RETURN_IF_ERROR(
      FromMpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI start"));
  if (provided < MPI_THREAD_SERIALIZED) {
    return absl::FailedPreconditionError(
        "MPI start: this MPI library offers no serialized threads");
  }
  // Errors come back as codes, so that they can be told in one line.
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  std::unique_ptr<MpiWorld> world(new MpiWorld);
  MPI_Comm_rank(MPI_COMM_WORLD, &world->rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &world->size_);
  MPI_Comm host;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
  MPI_Comm_size(host, &world->local_size_);
  MPI_Comm_free(&host);
  return world;
}

MpiWorld::~MpiWorld() { MPI_Finalize(); }

std::unique_ptr<Communicator> MpiWorld::MakeCommunicator(const MpiTimeouts& timeouts) {
  if (size_ == 1) return std::make_unique<SelfCommunicator>();
  return std::make_unique<MpiCommunicator>(rank_, size_, timeouts.step);
}

std::unique_ptr<StepChannel> MpiWorld::MakeStepChannel(const MpiTimeouts& timeouts) {
  return std::make_unique<MpiStepChannel>(rank_, size_, timeouts);
}

void MpiWorld::Abort(int exit_code) {
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::abort();  // MPI_Abort does not return
}

}  // namespace tandem::parallel
