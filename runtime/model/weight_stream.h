// Weights that stay in a mapped file. While a layer computes, a thread reads the next layer and
// releases the pages of the layer before. The head counts as the last layer; the first follows it.
//
// Results are the same as with weights in memory: only the place of the pages differs. If the file
// is truncated while it is read, Enter returns DATA_LOSS in most cases (MappedFile::Populate);
// otherwise the process gets a SIGBUS, as with any mapped file.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "kernels/layer_stream.h"
#include "runtime/loader/mapped_file.h"

namespace tandem::model {

// Bytes [begin, end) of a file.
struct FileRange {
  uint64_t begin = 0, end = 0;
  uint64_t size() const { return end - begin; }
  bool operator==(const FileRange&) const = default;
};

// The pages that the ranges touch, in order, each once.
std::vector<FileRange> WholePages(std::vector<FileRange> ranges);

// The most bytes that a layer and the one after it take together; the first follows the last.
uint64_t LargestPair(std::span<const uint64_t> layer_bytes);

class WeightStream : public kernels::LayerStream {
 public:
  // Each layer is a list of ranges of the file, which outlives this object. The thread starts to
  // read the first layer. It may use `cpus`; if that is empty, the caller's.
  WeightStream(const loader::MappedFile& file, const std::vector<std::vector<FileRange>>& layers,
               std::vector<int> cpus);
  ~WeightStream() override;

  // Called when the layer before this one has computed: waits until this one is present. DATA_LOSS
  // if it could not be read, and then for every later layer.
  absl::Status Enter(size_t layer) override;

  // In whole pages.
  uint64_t layer_bytes() const override { return layer_bytes_; }
  uint64_t present_bytes() const override { return present_bytes_; }
  uint64_t bytes_read() const override { return bytes_read_.load(std::memory_order_relaxed); }

 private:
  void Run();
  absl::Status Read(const std::vector<FileRange>& layer);

  const loader::MappedFile& file_;
  std::vector<std::vector<FileRange>> layers_;  // whole pages
  const std::vector<int> cpus_;
  uint64_t layer_bytes_ = 0, present_bytes_ = 0;
  std::atomic<uint64_t> bytes_read_{0};

  std::mutex mutex_;
  std::condition_variable changed_;
  // Since the start, over all steps; layer i of a step is number steps * layers + i.
  uint64_t entered_ = 0, read_ = 0;
  bool stopping_ = false;
  absl::Status status_;
  std::thread thread_;  // last: it uses the others
};

}  // namespace tandem::model
