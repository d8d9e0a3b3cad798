// What measures a GPU's ceilings.
#include "kernels/cuda/cuda_probe.h"

#include <gtest/gtest.h>

namespace tandem::kernels {
namespace {

TEST(CudaProbe, MeasuresAndNamesCeilings) {
  const auto probe = MakeCudaProbe(0, 4 << 10);
  ASSERT_TRUE(probe.ok()) << probe.status();
  const std::chrono::milliseconds moment(1);
  EXPECT_GT((*probe)->ReadBandwidth(moment), 0);
  EXPECT_GT((*probe)->UploadBandwidth(moment), 0);
  for (const DotType type : {DotType::kInt8, DotType::kBf16, DotType::kF32}) {
    EXPECT_GT((*probe)->PeakArithmetic(type, moment), 0);
  }
  EXPECT_EQ((*probe)->DotInstruction(DotType::kBf16), "cuBLASLt BF16");
}

}  // namespace
}  // namespace tandem::kernels
