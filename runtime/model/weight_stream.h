// Weights that stay in a packed file. While a layer computes, a thread reads the next layer and
// releases the memory of the layer before. The head counts as the last layer; the first follows it.
//
// Results are the same as with weights in memory. Every page is checked against its digest each
// time that it is read: if somebody changes or cuts the file, or its disk fails, Enter returns
// DATA_LOSS.
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
#include "runtime/loader/packed_file.h"

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
  // Each layer is a list of ranges of the file, which outlives this object and has an image: a byte
  // of the file appears at its offset there. The thread starts to read the first layer. It may use
  // `cpus`; if that is empty, the caller's.
  WeightStream(const loader::PackedFile& file, const std::vector<std::vector<FileRange>>& layers,
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

  const loader::PackedFile& file_;
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
