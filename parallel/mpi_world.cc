#include "parallel/mpi_world.h"

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"

namespace tandem::parallel {
namespace {

constexpr int kTreeTag = 1;
constexpr int kStepTag = 2;

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

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(int rank, int size) : rank_(rank), size_(size) {}
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
    int64_t total = 0;
    counts_.clear();
    offsets_.clear();
    for (int64_t width : widths) {
      counts_.push_back(static_cast<int>(rows * width));
      offsets_.push_back(static_cast<int>(rows * total));
      total += width;
    }
    TANDEM_CHECK(rows * total <= INT_MAX);
    if (rank_ == 0) Reserve(rows * total);
    TANDEM_RETURN_IF_ERROR(
        FromMpi(MPI_Gatherv(mine, counts_[rank_], MPI_FLOAT, gathered_.data(), counts_.data(),
                            offsets_.data(), MPI_FLOAT, 0, MPI_COMM_WORLD),
                "gathering logits"));
    if (rank_ != 0) return absl::OkStatus();
    int64_t column = 0;
    for (int r = 0; r < size_; column += widths[r++]) {
      for (int64_t row = 0; row < rows; ++row) {
        std::memcpy(out + row * total + column, gathered_.data() + offsets_[r] + row * widths[r],
                    widths[r] * sizeof(float));
      }
    }
    return absl::OkStatus();
  }

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

  absl::Status Barrier() override { return FromMpi(MPI_Barrier(MPI_COMM_WORLD), "barrier"); }

 private:
  void Reserve(int64_t floats) {
    if (static_cast<int64_t>(gathered_.size()) < floats) gathered_.resize(floats);
  }

  absl::Status OneRound(const TreeLayout& layout, const float* mine, int64_t count, float* out) {
    counts_.clear();
    offsets_.clear();
    for (int r = 0; r < size_; ++r) {
      counts_.push_back(static_cast<int>(layout.node_count(r) * count));
      offsets_.push_back(static_cast<int>(layout.rank_begin[r] * count));
    }
    Reserve(static_cast<int64_t>(layout.nodes.size()) * count);
    TANDEM_RETURN_IF_ERROR(
        FromMpi(MPI_Allgatherv(mine, counts_[rank_], MPI_FLOAT, gathered_.data(), counts_.data(),
                               offsets_.data(), MPI_FLOAT, MPI_COMM_WORLD),
                "all-reduce"));
    values_.clear();
    for (size_t i = 0; i < layout.nodes.size(); ++i) {
      values_.push_back(gathered_.data() + i * count);
    }
    kernels::FinishTree(layout.leaves, layout.nodes, values_, count, out);
    return absl::OkStatus();
  }

  int64_t SliceBegin(int64_t count, int rank) const { return count * rank / size_; }

  absl::Status SlicedRounds(const TreeLayout& layout, const float* mine, int64_t count,
                            float* out) {
    const int64_t begin = SliceBegin(count, rank_);
    const int64_t slice = SliceBegin(count, rank_ + 1) - begin;
    Reserve(static_cast<int64_t>(layout.nodes.size()) * slice);
    requests_.clear();
    values_.clear();
    for (int r = 0; r < size_; ++r) {
      for (int64_t i = 0; i < layout.node_count(r); ++i) {
        if (r == rank_) {
          values_.push_back(mine + i * count + begin);
          continue;
        }
        float* to = gathered_.data() + (layout.rank_begin[r] + i) * slice;
        values_.push_back(to);
        MPI_Irecv(to, static_cast<int>(slice), MPI_FLOAT, r, kTreeTag, MPI_COMM_WORLD,
                  &requests_.emplace_back());
      }
    }
    for (int step = 1; step < size_; ++step) {
      const int r = (rank_ + step) % size_;
      const int64_t to_begin = SliceBegin(count, r);
      const int64_t to_count = SliceBegin(count, r + 1) - to_begin;
      for (int64_t i = 0; i < layout.node_count(rank_); ++i) {
        MPI_Isend(mine + i * count + to_begin, static_cast<int>(to_count), MPI_FLOAT, r, kTreeTag,
                  MPI_COMM_WORLD, &requests_.emplace_back());
      }
    }
    TANDEM_RETURN_IF_ERROR(FromMpi(
        MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE),
        "all-reduce"));
    kernels::FinishTree(layout.leaves, layout.nodes, values_, slice, out + begin);
    counts_.clear();
    offsets_.clear();
    for (int r = 0; r < size_; ++r) {
      offsets_.push_back(static_cast<int>(SliceBegin(count, r)));
      counts_.push_back(static_cast<int>(SliceBegin(count, r + 1) - SliceBegin(count, r)));
    }
    return FromMpi(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, out, counts_.data(),
                                  offsets_.data(), MPI_FLOAT, MPI_COMM_WORLD),
                   "all-reduce");
  }

  const int rank_;
  const int size_;
  // Reused by every call; they reach their largest size in the first large step.
  std::vector<float> gathered_;
  std::vector<const float*> values_;
  std::vector<int> counts_, offsets_;
  std::vector<MPI_Request> requests_;
};

class MpiStepChannel : public StepChannel {
 public:
  MpiStepChannel(int rank, int size) : rank_(rank), size_(size) {}

  absl::Status Send(std::span<const std::byte> message) override {
    TANDEM_CHECK(rank_ == 0);
    TANDEM_CHECK(message.size() <= INT_MAX);
    requests_.clear();
    for (int r = 1; r < size_; ++r) {
      MPI_Isend(message.data(), static_cast<int>(message.size()), MPI_BYTE, r, kStepTag,
                MPI_COMM_WORLD, &requests_.emplace_back());
    }
    return FromMpi(
        MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE),
        "sending the step plan");
  }

  absl::StatusOr<std::span<const std::byte>> Receive() override {
    // MPI has no sleeping wait. While steps follow each other the next plan is
    // there within microseconds; after that each probe that finds nothing doubles
    // the sleep, up to a length that costs an idle rank well under 1 % of a core.
    constexpr auto kAwake = std::chrono::microseconds(500);
    constexpr auto kLongest = std::chrono::microseconds(5000);
    const auto start = std::chrono::steady_clock::now();
    auto pause = std::chrono::microseconds(20);
    MPI_Status status;
    for (;;) {
      int there = 0;
      TANDEM_RETURN_IF_ERROR(
          FromMpi(MPI_Iprobe(0, kStepTag, MPI_COMM_WORLD, &there, &status), "awaiting a plan"));
      if (there) break;
      if (std::chrono::steady_clock::now() - start < kAwake) {
        std::this_thread::yield();
        continue;
      }
      std::this_thread::sleep_for(pause);
      pause = std::min(pause * 2, kLongest);
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
  std::vector<MPI_Request> requests_;
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

std::unique_ptr<Communicator> MpiWorld::MakeCommunicator() {
  if (size_ == 1) return std::make_unique<SelfCommunicator>();
  return std::make_unique<MpiCommunicator>(rank_, size_);
}

std::unique_ptr<StepChannel> MpiWorld::MakeStepChannel() {
  return std::make_unique<MpiStepChannel>(rank_, size_);
}

void MpiWorld::Abort(int exit_code) {
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::abort();  // MPI_Abort does not return
}

}  // namespace tandem::parallel
