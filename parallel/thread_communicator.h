// Ranks as threads of one process: a whole world in a unit test, or on a machine without MPI.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "parallel/communicator.h"

namespace tandem::parallel {

class ThreadWorld {
 public:
  explicit ThreadWorld(int size) : size_(size), slots_(size), bytes_(size) {}
  int size() const { return size_; }

  // One for each rank, used by one thread. The world must outlive them.
  std::unique_ptr<Communicator> Make(int rank);

  // Every current and later call of any rank returns ABORTED.
  void Abort();

 private:
  friend class ThreadCommunicator;
  friend class ThreadGroup;
  absl::Status Meet();  // all ranks wait for each other

  const int size_;
  std::mutex mutex_;
  std::condition_variable all_here_;
  int arrived_ = 0;
  uint64_t round_ = 0;
  bool aborted_ = false;
  std::vector<const float*> slots_;  // by rank: its data in the current call
  std::vector<std::string> bytes_;
};

}  // namespace tandem::parallel
