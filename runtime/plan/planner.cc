#include "runtime/plan/planner.h"

#include <algorithm>
#include <limits>

#include "kernels/cuda/cuda_backend.h"
#include "parallel/shard_plan.h"
#include "runtime/model/decoder.h"
#include "runtime/model/kv_cache.h"
#include "runtime/model/model_tensors.h"
#include "runtime/plan/rank_bytes.h"

namespace tandem::plan {
namespace {

// What the driver takes of a GPU for each process: its context, the code of kernels.
constexpr uint64_t kGpuDriverBytes = uint64_t{512} << 20;

// Seconds of a step beside memory traffic and collectives: scheduling, sampling, kernel launches.
constexpr double kStepOverhead = 0.15e-3;

int64_t Ceil(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

// Decoder::Plan with every matrix in this format.
model::DecoderBytes PlanDecoder(const loader::ModelConfig& config, Format format,
                                const parallel::ShardPlan& shards, int rank,
                                const kernels::DeviceLayout& device,
                                const model::DecoderOptions& options) {
  const std::string head = model::HeadModule(config).name;
  return model::Decoder::Plan(
      config,
      [&](const model::Module& module) { return HeldAs(format, module.name == head, device); },
      shards, rank, device, options);
}

// The devices of the ranks at this TP degree: the largest ones.
std::vector<PlanDevice> Largest(std::vector<PlanDevice> devices, int tp) {
  std::stable_sort(devices.begin(), devices.end(),
                   [](const PlanDevice& a, const PlanDevice& b) { return a.memory > b.memory; });
  devices.resize(tp);
  return devices;
}

// Seconds to decode one token of one stream at full context: the slowest rank reads its weights and
// its KV cache once, and the ranks exchange twice a layer.
double DecodeSeconds(const loader::ModelConfig& config, const PlanRequest& request,
                     const std::vector<PlanDevice>& devices, const FormatPlan& plan,
                     const parallel::ShardPlan& shards) {
  double read = 0;
  for (int r = 0; r < plan.tp; ++r) {
    const uint64_t kv = Ceil(request.context, model::kBlockSize) *
                        KvBlockBytes(config, shards, r, request.kv_dtype);
    const MemoryPlan& bytes = plan.ranks[r].bytes;
    double seconds = static_cast<double>(bytes.read() + kv) / devices[r].bandwidth;
    // Streaming and products overlap.
    if (request.stream) {
      seconds = std::max(seconds, static_cast<double>(bytes.streamed) / request.stream_bandwidth);
    }
    read = std::max(read, seconds);
  }
  const double exchange = plan.tp == 1 ? 0 : 2.0 * config.num_layers * request.all_reduce_seconds;
  return read + exchange + kStepOverhead;
}

// How a planned rank's decoder would be set up.
model::DecoderOptions DecoderOptionsOf(const PlanRequest& request, bool gpus) {
  const int64_t sequence_blocks = Ceil(request.context, model::kBlockSize);
  // Every row of logits and every sequence has a token in the step.
  const int64_t sequences =
      std::min(request.max_batched_tokens, std::max(request.max_num_seqs, request.streams));
  return {.kv_dtype = request.kv_dtype,
          .num_blocks = sequence_blocks * request.streams,
          .max_tokens = request.max_batched_tokens,
          .max_rows = sequences,
          .max_sequences = sequences,
          .max_blocks = sequence_blocks,
          .recorded_sequences = gpus ? request.max_num_seqs : 0,
          .layers = model::LayersOf(request.stream, gpus)};
}

// Tokens of KV cache that fit on a rank beside the rest. block: bytes of one KV block; 0: the rank
// has no KV head.
int64_t KvTokens(const RankPlan& rank, uint64_t block) {
  const int64_t for_kv = rank.free() + static_cast<int64_t>(rank.bytes.kv);
  if (for_kv < 0) return 0;
  if (block == 0) return std::numeric_limits<int64_t>::max();
  return for_kv / static_cast<int64_t>(block) * model::kBlockSize;
}

FormatPlan PlanOne(const loader::ModelConfig& config, const PlanRequest& request, Format format,
                   int tp, const kernels::DeviceLayout& device) {
  const std::vector<PlanDevice> devices = Largest(request.devices, tp);
  std::vector<uint64_t> memory;
  for (const PlanDevice& each : devices) memory.push_back(each.memory);
  const parallel::ShardPlan shards =
      parallel::ShardPlan::Make(model::ShapeOf(config), ShardWeightsByMemory(memory));
  const bool gpus = !device.memory_is_host();
  model::DecoderOptions options = DecoderOptionsOf(request, gpus);
  FormatPlan plan = {.format = format, .tp = tp, .fits = true};
  plan.kv_tokens = std::numeric_limits<int64_t>::max();
  for (int r = 0; r < tp; ++r) {
    // The ranks of one host.
    options.embedding = {.part = r, .parts = tp, .stored_bytes = request.embedding_bytes};
    const model::DecoderBytes bytes = PlanDecoder(config, format, shards, r, device, options);
    RankPlan rank;
    rank.device = devices[r].memory;
    rank.bytes.weights = bytes.weights;
    rank.bytes.embedding = bytes.embedding;
    rank.bytes.streamed = bytes.streamed;
    rank.bytes.present = bytes.present;
    rank.bytes.kv = bytes.kv;
    rank.bytes.workspace = bytes.workspace;
    rank.bytes.communication = CommunicationBytes(shards, r, options);
    rank.bytes.process = request.process_bytes;
    if (gpus) {
      AddGpuBytes(shards, options, device.KeepsLeafTree(),
                  kernels::CudaScratchBytes({}) + kGpuDriverBytes, &rank.bytes);
    }
    plan.fits = plan.fits && rank.free() >= 0;
    plan.kv_tokens =
        std::min(plan.kv_tokens, KvTokens(rank, KvBlockBytes(config, shards, r, request.kv_dtype)));
    plan.ranks.push_back(rank);
  }
  plan.decode_tokens_per_s = 1.0 / DecodeSeconds(config, request, devices, plan, shards);
  return plan;
}

}  // namespace

std::vector<FormatPlan> PlanAll(const loader::ModelConfig& config, const PlanRequest& request,
                                const kernels::DeviceLayout& device) {
  std::vector<FormatPlan> plans;
  for (const Format format : kFormats) {
    if (request.only.value_or(format) != format) continue;
    for (int tp = 1; tp <= static_cast<int>(request.devices.size()); ++tp) {
      plans.push_back(PlanOne(config, request, format, tp, device));
    }
  }
  return plans;
}

}  // namespace tandem::plan
