// The probe measures a shared machine: only what holds on any is asked for.
#include "kernels/cpu/probe.h"

#include <gtest/gtest.h>

#include "kernels/cpu/cpu_backend.h"

namespace tandem::kernels {
namespace {

using std::chrono::milliseconds;

TEST(MachineProbe, MeasuresWithinReason) {
  auto probe = MakeMachineProbe("auto", {.threads = 2}, 64 << 20);
  ASSERT_TRUE(probe.ok()) << probe.status();
  const double read = (*probe)->ReadBandwidth(milliseconds(20));
  RecordProperty("read_gbps", std::to_string(read * 1e-9));
  EXPECT_GT(read, 1e8);
  EXPECT_LT(read, 1e13);
  for (const DotType type : {DotType::kInt8, DotType::kBf16, DotType::kF32}) {
    const double peak = (*probe)->PeakArithmetic(type, milliseconds(20));
    EXPECT_GT(peak, 1e8) << (*probe)->DotInstruction(type);
    EXPECT_LT(peak, 1e15) << (*probe)->DotInstruction(type);
    std::printf("%s: %.1f G/s\n", (*probe)->DotInstruction(type).c_str(), peak * 1e-9);
  }
  std::printf("read: %.1f GB/s\n", read * 1e-9);
}

// A pinned instruction set is measured with its own instructions.
TEST(MachineProbe, FollowsTheInstructionSet) {
  const auto probe = MakeMachineProbe("avx2", {.threads = 1}, 1 << 20);
  ASSERT_TRUE(probe.ok());
  EXPECT_EQ((*probe)->DotInstruction(DotType::kInt8), "16-bit multiply-add");
  EXPECT_EQ((*probe)->DotInstruction(DotType::kBf16), "fp32 fma");
  EXPECT_EQ((*probe)->DotInstruction(DotType::kF32), "fp32 fma");
}

TEST(MachineProbe, RefusesWhatIsNotThere) {
  EXPECT_EQ(MakeMachineProbe("auto", {.threads = 1}, size_t{1} << 50).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace tandem::kernels
