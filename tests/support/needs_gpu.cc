// Linked into tests for real GPUs: where no GPU is to be seen, a test ends with the status
// that CTest shows as skipped, since a skip in an environment would count as passed. Kernels are
// loaded at once: one that is loaded when first launched waits for all of the GPU, also for those
// of other ranks that wait for it.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

namespace {

constexpr int kSkipped = 77;  // SKIP_RETURN_CODE in tests/CMakeLists.txt

class NeedsGpu : public ::testing::Environment {
 public:
  void SetUp() override {
    setenv("CUDA_MODULE_LOADING", "EAGER", 1);
    setenv("CUDA_MODULE_DATA_LOADING", "EAGER", 1);
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) return;
    std::puts("[  SKIPPED ] no GPU is to be seen");
    std::exit(kSkipped);
  }
};

const ::testing::Environment* const kRegistered = ::testing::AddGlobalTestEnvironment(new NeedsGpu);

}  // namespace
