// The memory that the ranks of one host share. Each rank has a slot that only it writes, and flags
// that say how far it has come. A waiting rank spins briefly and then sleeps on a futex, so that an
// idle world uses no CPU. Every wait has a deadline and names the rank that is late.
//
// Messages longer than a slot are sent in pieces. Slots alternate from piece to piece: a flag
// raised for piece k says that the rank is done with piece k - 1. So a rank that has seen all flags
// of piece k - 1 may overwrite what it wrote for piece k - 2. (Two ranks need only one slot each,
// shm_communicator.cc.)
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/control_group.h"
#include "parallel/shm_segment.h"
#include "parallel/timeouts.h"

namespace tandem::parallel {

// A number that one rank raises and others wait for. It may wrap. It has two cache lines of its
// own, since prefetchers fetch pairs of lines.
struct alignas(128) ShmFlag {
  std::atomic<uint32_t> value;
  std::atomic<uint32_t> sleepers;
};
static_assert(std::atomic<uint32_t>::is_always_lock_free);

struct ShmOptions {
  // A rank has two slots of so many bytes: 1 MiB together. Rounded up to pages.
  size_t slot_bytes = 512 << 10;
  // Whether each rank has cores of its own. Otherwise waiting ranks sleep at once.
  bool spin = true;
};

// Collective over `start`: one segment of `bytes` bytes for each host, the same for all its ranks,
// which are members[0], members[1], ... The page at `token_at` has pages and scratch in it, the
// rest has none. Errors as of ShmHost::Create; all ranks get the same one. Not sealed.
absl::StatusOr<ShmSegment> ShareSegment(ControlGroup& start, std::span<const int> members,
                                        size_t bytes, size_t token_at);

class ShmHost {
 public:
  // Collective over `start`, the whole world. host_of[rank] numbers the hosts; each host gets
  // memory of its own. All ranks get the same error: RESOURCE_EXHAUSTED where memory is short,
  // FAILED_PRECONDITION where ranks of a host do not see the same memory (in different containers).
  static absl::StatusOr<std::unique_ptr<ShmHost>> Create(ControlGroup& start,
                                                         std::span<const int> host_of,
                                                         const ShmOptions& options);

  // Local ranks keep the order of the world's ranks; local rank 0 is the host's leader.
  int local_rank() const { return local_rank_; }
  int local_size() const { return static_cast<int>(members_.size()); }
  int world_rank(int local_rank) const { return members_[local_rank]; }
  size_t slot_bytes() const { return slot_bytes_; }

  // What each rank allocates for itself; the leader allocates the shared slots too.
  static size_t RankBytes(size_t slot_bytes) { return 2 * slot_bytes; }

  // Each is raised by one rank: arrived and taken by the local rank, plan and result by the leader.
  ShmFlag& arrived(int local_rank) const { return flags()[local_rank]; }
  ShmFlag& taken(int local_rank) const { return flags()[local_size() + local_rank]; }
  ShmFlag& plan() const { return flags()[2 * local_size()]; }
  ShmFlag& result() const { return flags()[2 * local_size() + 1]; }

  // There are two of each, by parity of the piece.
  std::byte* rank_slot(int local_rank, uint64_t piece) const { return slot(local_rank, piece); }
  std::byte* result_slot(uint64_t piece) const { return slot(local_size(), piece); }
  std::byte* sums_slot(uint64_t piece) const { return slot(local_size() + 1, piece); }
  std::byte* plan_slot(uint64_t piece) const { return slot(local_size() + 2, piece); }

  static void Raise(ShmFlag& flag, uint32_t value);

  // Waits until the flag has reached `value`. False when the timeout (zero: none) is over.
  bool Await(ShmFlag& flag, uint32_t value, std::chrono::milliseconds timeout) const;

 private:
  ShmHost(std::vector<int> members, int local_rank, const ShmOptions& options, ShmSegment segment);

  static constexpr int kSharedSlots = 3;
  static size_t FlagBytes(int local_size);
  static size_t SlotOffset(int local_size, size_t slot_bytes, int index);
  ShmFlag* flags() const { return reinterpret_cast<ShmFlag*>(segment_.data()); }
  std::byte* slot(int index, uint64_t piece) const {
    return slots_ + (2 * index + piece % 2) * slot_bytes_;
  }

  const std::vector<int> members_;  // world ranks of the local ranks
  const int local_rank_;
  const size_t slot_bytes_;
  const bool spin_;
  ShmSegment segment_;
  std::byte* slots_;
};

// Lets all ranks of a host wait for each other. One for each host, used by one thread of each rank.
class ShmBarrier {
 public:
  explicit ShmBarrier(ShmHost& host) : host_(host) {}

  // Says that this rank has come.
  void Arrive() { ShmHost::Raise(host_.arrived(host_.local_rank()), ++met_); }
  // Waits until all others have come as often as this rank. UNAVAILABLE names a rank that has not.
  absl::Status AwaitOthers(std::chrono::milliseconds timeout, const char* what) const;

  absl::Status Meet(std::chrono::milliseconds timeout, const char* what) {
    Arrive();
    return AwaitOthers(timeout, what);
  }

 private:
  ShmHost& host_;
  uint32_t met_ = 0;
};

}  // namespace tandem::parallel
