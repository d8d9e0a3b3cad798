// Layers that come from the host's memory while others compute: the bits of resident ones, on
// emulated streams that do their work late, early, and ahead of each other. A wait that is missing
// shows as other logits in one of the ways.
#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/cuda_backend.h"
#include "parallel/device_communicator.h"
#include "tests/bench/random_model.h"
#include "tests/support/model_world.h"
#include "tests/support/warm_products.h"

namespace tandem {
namespace {

using model::DecoderBytes;
using model::LayersIn;
using testing::Rank;
using testing::Sequence;
using testing::Step;

testing::WorldOptions OnGpus(int tp, bool deterministic, const char* dtype) {
  testing::WorldOptions options = {.tp = tp, .num_blocks = 8, .max_tokens = 32};
  options.weights = *model::WeightRequests::Parse(dtype, 0, "auto");
  options.make_backend = [deterministic] {
    return kernels::MakeCudaBackend({.deterministic = deterministic, .scratch_bytes = 256 << 10});
  };
  options.make_communicator = [deterministic](kernels::Backend& backend,
                                              parallel::Communicator& host) {
    testing::WarmProducts(backend);
    return parallel::MakeDeviceCommunicator(host,
                                            {.stream = kernels::CudaBackend::Of(backend).stream(),
                                             .max_floats = 128 << 10,
                                             .max_gathered = 128 << 10,
                                             .step_timeout = std::chrono::minutes(1),
                                             .deterministic = deterministic,
                                             .way = deterministic ? "peer" : "staged"});
  };
  return options;
}

struct Outcome {
  std::vector<float> logits;        // of all steps
  std::vector<DecoderBytes> bytes;  // by rank
};

// A chunk of prefill, the rest of it beside a second sequence, and decoding of both.
Outcome RunSteps(const std::string& folder, testing::WorldOptions options, LayersIn layers) {
  options.layers = layers;
  options.recorded_sequences = layers == LayersIn::kHost ? 2 : 0;  // which changes nothing
  Outcome outcome;
  outcome.bytes.resize(options.tp);
  const absl::Status status = RunWorld(folder, options, [&](Rank& rank) {
    Sequence first = {.blocks = {0, 1}}, second = {.blocks = {3, 2}};
    for (int32_t i = 0; i < 24; ++i) {
      first.ids.push_back(3 + i * 5 % 60);
      second.ids.push_back(7 + i * 11 % 90);
    }
    std::vector<float> all;
    const auto forward = [&](std::initializer_list<std::pair<Sequence*, int32_t>> takes) {
      Step step = {.max_blocks = 2};
      for (const auto& [sequence, take] : takes) step.Add(*sequence, take);
      const std::vector<float> logits = rank.Forward(step);
      all.insert(all.end(), logits.begin(), logits.end());
    };
    forward({{&first, 15}});
    forward({{&first, 4}, {&second, 18}});
    for (int i = 0; i < 5; ++i) forward({{&first, 1}, {&second, 1}});
    EXPECT_EQ(rank.decoder.recorded_steps(), 0);
    outcome.bytes[rank.index] = rank.decoder.bytes();
    if (rank.index == 0) outcome.logits = all;
  });
  EXPECT_TRUE(status.ok()) << status;
  return outcome;
}

// What a rank of such a world plans to hold.
DecoderBytes Planned(const std::string& path, const testing::WorldOptions& options, int rank,
                     LayersIn layers) {
  const auto folder = *loader::ModelFolder::Open(path);
  const auto config = *loader::ReadConfig(folder);
  const auto checkpoint = *loader::Checkpoint::Open(folder);
  const auto backend = *options.make_backend();
  return model::Decoder::Plan(config, *checkpoint,
                              parallel::ShardPlan::Make(model::ShapeOf(config), options.tp), rank,
                              *backend, {.weights = options.weights, .layers = layers});
}

TEST(CudaHostLayers, GiveTheBitsOfResidentOnes) {
  for (const int layers : {1, 2, 3, 4}) {
    const auto made = bench::RandomModel::Make({.shape = "tiny", .layers = layers});
    ASSERT_TRUE(made.ok()) << made.status();
    for (const int tp : {1, 2}) {
      SCOPED_TRACE(::testing::Message() << layers << " layers at TP " << tp);
      const bool deterministic = layers == 3;
      const auto options = OnGpus(tp, deterministic, layers == 4 ? "int4" : "auto");
      const Outcome resident = RunSteps(made->folder(), options, LayersIn::kMemory);
      const Outcome streamed = RunSteps(made->folder(), options, LayersIn::kHost);
      EXPECT_EQ(streamed.logits, resident.logits);
      for (int rank = 0; rank < tp; ++rank) {
        const DecoderBytes& bytes = streamed.bytes[rank];
        const DecoderBytes planned = Planned(made->folder(), options, rank, LayersIn::kHost);
        EXPECT_EQ(bytes.weights, planned.weights);
        EXPECT_EQ(bytes.streamed, planned.streamed);
        EXPECT_EQ(bytes.present, planned.present);
        // All layers are alike: two of them instead of all.
        EXPECT_EQ(bytes.present, 2 * bytes.streamed / layers);
        EXPECT_EQ(bytes.read(), resident.bytes[rank].weights);
      }
    }
  }
}

// Parts of all kinds: biases stay on the GPU, scales and zero points travel, norms of heads.
TEST(CudaHostLayers, OfEveryFormat) {
  for (const char* name : {"logits/llama_biases", "logits/qwen3_tied", "quantized/ct_int8_zeros",
                           "quantized/fp8_block", "quantized/ct_mixed"}) {
    SCOPED_TRACE(name);
    const std::string folder = SourcePath(std::string("tests/golden/") + name);
    const auto options = OnGpus(2, false, "auto");
    EXPECT_EQ(RunSteps(folder, options, LayersIn::kHost).logits,
              RunSteps(folder, options, LayersIn::kMemory).logits);
  }
}

}  // namespace
}  // namespace tandem
