#include "parallel/shm_host.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/check.h"
#include "kernels/base/spin.h"
#include "kernels/base/status_macros.h"

namespace tandem::parallel {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kPage = 4096;

// Longer than ranks of one step are apart as a rule, so that they need no system call; short
// against the time between two signs of life.
constexpr std::chrono::microseconds kSpin{300};

size_t RoundUp(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

bool Reached(uint32_t value, uint32_t target) { return static_cast<int32_t>(value - target) >= 0; }

// Between processes: FUTEX_PRIVATE_FLAG would mean this process's own memory.
void FutexWait(std::atomic<uint32_t>& word, uint32_t seen, Clock::duration longest) {
  const auto nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(longest).count();
  const timespec time{nanoseconds / 1'000'000'000, nanoseconds % 1'000'000'000};
  syscall(SYS_futex, &word, FUTEX_WAIT, seen, &time, nullptr, 0);
}

void FutexWakeAll(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

}  // namespace

absl::StatusOr<ShmSegment> ShareSegment(ControlGroup& start, std::span<const int> members,
                                        size_t bytes, size_t token_at) {
  // The first rank of the host creates the memory. The others open it by its handle and check a
  // random token.
  const bool leads = members[0] == start.rank();
  ShmSegment segment;
  std::string handle, token;
  absl::Status mine = [&]() -> absl::Status {
    if (!leads) return absl::OkStatus();
    TANDEM_ASSIGN_OR_RETURN(segment, ShmSegment::Create(bytes));
    TANDEM_RETURN_IF_ERROR(segment.Allocate(token_at, std::min(kPage, bytes - token_at)));
    std::random_device random;
    token =
        absl::StrCat(absl::Hex(random(), absl::kZeroPad8), absl::Hex(random(), absl::kZeroPad8));
    std::memcpy(segment.data() + token_at, token.data(), token.size());
    handle = segment.handle();
    return absl::OkStatus();
  }();
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                          start.AllGatherBytes(absl::StrCat(handle, " ", token)));
  if (mine.ok()) {
    mine = [&]() -> absl::Status {
      const std::vector<std::string> leader = absl::StrSplit(all[members[0]], ' ');
      if (leads || leader[0].empty()) return absl::OkStatus();  // its own error is reported below
      TANDEM_ASSIGN_OR_RETURN(segment, ShmSegment::Open(leader[0], bytes));
      if (std::memcmp(segment.data() + token_at, leader[1].data(), leader[1].size()) != 0) {
        return absl::FailedPreconditionError(
            "shared memory: this rank sees another than its host's first rank does; choose "
            "--collectives mpi");
      }
      return absl::OkStatus();
    }();
  }
  TANDEM_RETURN_IF_ERROR(AgreeOnStatus(start, mine));
  return segment;
}

size_t ShmHost::FlagBytes(int local_size) {
  return RoundUp((2 * local_size + 2) * sizeof(ShmFlag));
}

size_t ShmHost::SlotOffset(int local_size, size_t slot_bytes, int index) {
  return FlagBytes(local_size) + 2 * index * slot_bytes;
}

ShmHost::ShmHost(std::vector<int> members, int local_rank, const ShmOptions& options,
                 ShmSegment segment)
    : members_(std::move(members)),
      local_rank_(local_rank),
      slot_bytes_(RoundUp(options.slot_bytes)),
      spin_(options.spin),
      segment_(std::move(segment)),
      slots_(segment_.data() + SlotOffset(local_size(), slot_bytes_, 0)) {}

absl::StatusOr<std::unique_ptr<ShmHost>> ShmHost::Create(ControlGroup& start,
                                                         std::span<const int> host_of,
                                                         const ShmOptions& options) {
  TANDEM_CHECK(static_cast<int>(host_of.size()) == start.size());
  std::vector<int> members;
  int local_rank = 0;
  for (int r = 0; r < start.size(); ++r) {
    if (host_of[r] != host_of[start.rank()]) continue;
    if (r == start.rank()) local_rank = static_cast<int>(members.size());
    members.push_back(r);
  }
  const int local_size = static_cast<int>(members.size());
  const size_t slot_bytes = RoundUp(options.slot_bytes);
  const size_t bytes = SlotOffset(local_size, slot_bytes, local_size + kSharedSlots);

  // The token is in a slot that no rank writes before all have looked.
  TANDEM_ASSIGN_OR_RETURN(
      ShmSegment segment,
      ShareSegment(start, members, bytes, SlotOffset(local_size, slot_bytes, local_size)));
  absl::Status mine =
      segment.Allocate(SlotOffset(local_size, slot_bytes, local_rank), 2 * slot_bytes);
  if (mine.ok() && local_rank == 0) {
    mine = segment.Allocate(SlotOffset(local_size, slot_bytes, local_size),
                            2 * kSharedSlots * slot_bytes);
  }
  if (mine.ok() && local_rank == 0) mine = segment.Allocate(0, FlagBytes(local_size));
  TANDEM_RETURN_IF_ERROR(AgreeOnStatus(start, mine));
  segment.Seal();
  return std::unique_ptr<ShmHost>(
      new ShmHost(std::move(members), local_rank, options, std::move(segment)));
}

void ShmHost::Raise(ShmFlag& flag, uint32_t value) {
  // Both operations are sequentially consistent: either the waiter sees the value, or this rank
  // sees the sleeper.
  flag.value.store(value, std::memory_order_seq_cst);
  if (flag.sleepers.load(std::memory_order_seq_cst) > 0) FutexWakeAll(flag.value);
}

bool ShmHost::Await(ShmFlag& flag, uint32_t value, std::chrono::milliseconds timeout) const {
  if (Reached(flag.value.load(std::memory_order_acquire), value)) return true;
  const Clock::time_point start = Clock::now();
  for (int round = 1; spin_; ++round) {
    kernels::SpinPause();
    if (Reached(flag.value.load(std::memory_order_acquire), value)) return true;
    if (round % 64 == 0 && Clock::now() - start > kSpin) break;
  }
  for (;;) {
    const Clock::duration left = timeout.count() == 0 ? Clock::duration(std::chrono::hours(1))
                                                      : start + timeout - Clock::now();
    flag.sleepers.fetch_add(1, std::memory_order_seq_cst);
    const uint32_t seen = flag.value.load(std::memory_order_seq_cst);
    const bool reached = Reached(seen, value);
    if (!reached && left > Clock::duration::zero()) FutexWait(flag.value, seen, left);
    flag.sleepers.fetch_sub(1, std::memory_order_seq_cst);
    if (reached || Reached(flag.value.load(std::memory_order_acquire), value)) return true;
    if (timeout.count() > 0 && Clock::now() - start >= timeout) return false;
  }
}

absl::Status ShmBarrier::AwaitOthers(std::chrono::milliseconds timeout, const char* what) const {
  const int size = host_.local_size();
  const int rank = host_.local_rank();
  for (int step = 1; step < size; ++step) {
    const int r = (rank + step) % size;
    if (!host_.Await(host_.arrived(r), met_, timeout)) {
      return NotAnswered(host_.world_rank(r), host_.world_rank(rank), timeout, what);
    }
  }
  return absl::OkStatus();
}

}  // namespace tandem::parallel
