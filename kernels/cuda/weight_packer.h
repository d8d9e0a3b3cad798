// Fills a weight with the rows of a source: on the GPU through pinned buffers, or in the host's
// memory, where its layer is streamed from. Several threads read and lay out rows: one thread is
// slower than the link to the GPU.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cuda/cuda_weight.h"
#include "kernels/cuda/pinned_upload.h"

namespace tandem::kernels::cuda {

class WeightPacker {
 public:
  // The weight's bytes, zero at first. One of the two is set.
  struct Place {
    std::byte* gpu = nullptr;
    std::byte* host = nullptr;
  };

  // upload outlives it. Threads as ThreadPool has them; they sleep while there is nothing to do.
  WeightPacker(PinnedUpload& upload, int threads, std::vector<int> cpus)
      : upload_(upload), pool_(threads, std::move(cpus), /*spin=*/false) {}

  // to_half: BF16 elements become FP16.
  absl::Status Pack(const CudaLinearWeight& weight, Place place, bool to_half, RowReader read_rows);
  absl::Status PackQuantized(const CudaLinearWeight& weight, Place place,
                             QuantizedRowReader read_rows);
  // The leaves' tree, for a weight that has one.
  absl::Status PackTree(const CudaLinearWeight& weight, Place place);

  // To the GPU; src may change when it returns.
  absl::Status Copy(std::byte* dst, const void* src, size_t bytes);

 private:
  // Makes rows [begin, end) as they lie on the GPU, on one of the pool's threads.
  using Fill =
      absl::FunctionRef<absl::Status(int thread, int64_t begin, int64_t end, std::byte* dst)>;
  absl::Status FillRows(const WeightLayout& layout, Place place, Fill fill);
  // The first error in the rows' order.
  absl::Status FillInParallel(int64_t begin, int64_t end, int64_t row_bytes, std::byte* dst,
                              Fill fill);
  absl::Status Put(Place place, size_t offset, const void* src, size_t bytes);

  PinnedUpload& upload_;
  ThreadPool pool_;
};

}  // namespace tandem::kernels::cuda
