#include "runtime/model/weight_stream.h"

#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"

namespace tandem::model {
namespace {

constexpr uint64_t kPage = loader::kPackedPage;

// The kernel is asked to read so many requests ahead: enough for a disk's queue.
constexpr uint64_t kRequest = 2 << 20;
constexpr size_t kRequestsAhead = 8;

}  // namespace

std::vector<FileRange> WholePages(std::vector<FileRange> ranges) {
  std::erase_if(ranges, [](const FileRange& range) { return range.size() == 0; });
  std::sort(ranges.begin(), ranges.end(),
            [](const FileRange& a, const FileRange& b) { return a.begin < b.begin; });
  std::vector<FileRange> pages;
  for (const FileRange& range : ranges) {
    const uint64_t begin = range.begin / kPage * kPage;
    const uint64_t end = (range.end + kPage - 1) / kPage * kPage;
    if (!pages.empty() && begin <= pages.back().end) {
      pages.back().end = std::max(pages.back().end, end);
    } else {
      pages.push_back({begin, end});
    }
  }
  return pages;
}

uint64_t LargestPair(std::span<const uint64_t> layer_bytes) {
  uint64_t most = 0;
  for (size_t i = 0; i < layer_bytes.size(); ++i) {
    most = std::max(most, layer_bytes[i] + layer_bytes[(i + 1) % layer_bytes.size()]);
  }
  return most;
}

WeightStream::WeightStream(const loader::PackedFile& file,
                           const std::vector<std::vector<FileRange>>& layers, std::vector<int> cpus)
    : file_(file), cpus_(std::move(cpus)) {
  TANDEM_CHECK(layers.size() >= 2 && file.image() != nullptr);
  std::vector<uint64_t> bytes;
  for (const std::vector<FileRange>& layer : layers) {
    layers_.push_back(WholePages(layer));
    bytes.push_back(0);
    for (const FileRange& range : layers_.back()) bytes.back() += range.size();
    layer_bytes_ += bytes.back();
  }
  present_bytes_ = LargestPair(bytes);
  thread_ = std::thread([this] { Run(); });
}

WeightStream::~WeightStream() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

absl::Status WeightStream::Enter(size_t layer) {
  std::unique_lock lock(mutex_);
  TANDEM_CHECK(entered_ % layers_.size() == layer);
  ++entered_;
  changed_.notify_all();
  changed_.wait(lock, [this] { return read_ >= entered_ || !status_.ok(); });
  return read_ >= entered_ ? absl::OkStatus() : status_;
}

void WeightStream::Run() {
  // The caller may be bound to the core on which it computes.
  if (!cpus_.empty()) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (const int cpu : cpus_) CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof(set), &set);  // on failure the thread is only slower
  }
  for (;;) {
    uint64_t next;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || read_ <= entered_; });
      if (stopping_) return;
      next = read_;
    }
    // The layer before this one has begun, so the one before that is done.
    if (next >= 2 && layers_.size() > 2) {
      for (const FileRange& range : layers_[(next - 2) % layers_.size()]) {
        madvise(file_.image() + range.begin, range.size(), MADV_DONTNEED);
      }
    }
    const absl::Status status = Read(layers_[next % layers_.size()]);
    {
      const std::lock_guard lock(mutex_);
      if (status.ok()) ++read_;
      status_ = status;
    }
    changed_.notify_all();
    if (!status.ok()) return;
  }
}

absl::Status WeightStream::Read(const std::vector<FileRange>& layer) {
  std::vector<FileRange> requests;
  for (const FileRange& range : layer) {
    for (uint64_t at = range.begin; at < range.end; at += kRequest) {
      requests.push_back({at, std::min(at + kRequest, range.end)});
    }
  }
  size_t asked = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    for (; asked < std::min(i + kRequestsAhead, requests.size()); ++asked) {
      file_.Prefetch(requests[asked].begin, requests[asked].size());
    }
    TANDEM_RETURN_IF_ERROR(
        file_.ReadPages(requests[i].begin, requests[i].end, file_.image() + requests[i].begin));
    bytes_read_.fetch_add(requests[i].size(), std::memory_order_relaxed);
  }
  return absl::OkStatus();
}

}  // namespace tandem::model
