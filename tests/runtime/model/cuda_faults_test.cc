// Worlds on emulated GPUs that fail at what they can do without.
#include <gtest/gtest.h>

#include "kernels/cuda/cuda_backend.h"
#include "parallel/device_communicator.h"
#include "tests/emulation/faults.h"
#include "tests/support/model_world.h"

namespace tandem {
namespace {

using testing::Rank;
using testing::Sequence;
using testing::Step;

// Logits of a token after another, of a world of two that was to record steps.
std::vector<float> Logits(bool recorded) {
  testing::WorldOptions options = {.tp = 2, .num_blocks = 64, .max_tokens = 8};
  options.recorded_sequences = 2;
  options.make_backend = [] { return kernels::MakeCudaBackend({.scratch_bytes = 256 << 10}); };
  options.make_communicator = [](kernels::Backend& backend, parallel::Communicator& host) {
    return parallel::MakeDeviceCommunicator(host,
                                            {.stream = kernels::CudaBackend::Of(backend).stream(),
                                             .max_floats = 8 << 10,
                                             .max_gathered = 128 << 10,
                                             .way = "peer"});
  };
  std::vector<float> logits;
  const absl::Status status =
      RunWorld(SourcePath("tests/golden/logits/qwen3_untied"), options, [&](Rank& rank) {
        EXPECT_EQ(rank.decoder.recorded_steps(), recorded ? 2 : 0);
        EXPECT_EQ(rank.decoder.recording_failure().ok(), recorded);
        Sequence sequence = {.ids = {1, 2}, .blocks = {0}};
        for (int i = 0; i < 2; ++i) {
          Step step;
          step.Add(sequence, 1);
          const auto all = rank.Forward(step);
          if (rank.index == 0) logits = all;
        }
        EXPECT_EQ(rank.decoder.replayed_steps(), recorded ? 2 : 0);
      });
  EXPECT_TRUE(status.ok()) << status;
  return logits;
}

TEST(CudaFaults, StepsThatCannotBeRecordedAreIssued) {
  const std::vector<float> recorded = Logits(true);
  emulation::GetFaults().graphs_refused = true;
  EXPECT_EQ(Logits(false), recorded);
  emulation::GetFaults().graphs_refused = false;
}

TEST(CudaFaults, LayersThatCannotBePinnedAreToldOfInOneLine) {
  const auto backend = *kernels::MakeCudaBackend({.scratch_bytes = 256 << 10});
  const kernels::LinearSpec spec = {.rows = 4, .global_columns = 128, .leaves = {0, 1}};
  const auto pack = [&] {
    return backend->PackLinear(spec, [](int64_t, int64_t, std::byte*) { return absl::OkStatus(); })
        .status();
  };
  ASSERT_TRUE(backend->BeginHostLayer().ok());
  ASSERT_TRUE(pack().ok());
  ASSERT_TRUE(backend->BeginHostLayer().ok());
  emulation::GetFaults().pinning_refused = true;
  const absl::Status status = pack();
  emulation::GetFaults().pinning_refused = false;
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("--weights stream: "), std::string::npos) << status;
  EXPECT_NE(status.message().find("more in layer 1; "), std::string::npos) << status;
}

}  // namespace
}  // namespace tandem
