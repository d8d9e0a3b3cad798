// Linked into tests for real cards: skips them all where no card is to be seen.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

namespace {

class NeedsCard : public ::testing::Environment {
 public:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no card";
  }
};

const ::testing::Environment* const kRegistered =
    ::testing::AddGlobalTestEnvironment(new NeedsCard);

}  // namespace
