#include "runtime/plan/planner.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/check.h"
#include "kernels/cuda/cuda_backend.h"
#include "parallel/device_bytes.h"
#include "parallel/shm_host.h"
#include "runtime/model/kv_cache.h"
#include "runtime/model/model_tensors.h"
#include "runtime/model/row_sampling.h"

namespace tandem::plan {
namespace {

// What MPI itself allocates when it first exchanges with a rank of the host.
constexpr uint64_t kMpiBytesPerPeer = 64 << 10;

// What the driver takes of a GPU for a process: its context, the code of kernels.
constexpr uint64_t kGpuDriverBytes = uint64_t{512} << 20;

// Of a step, beside memory traffic and collectives: scheduling, sampling, starts
// of kernels.
constexpr double kStepOverhead = 0.15e-3;

constexpr int64_t kQuantGroup = 32;
constexpr int64_t kFp8Block = 128;

int64_t Ceil(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

// Decoder::Plan with every matrix of the format.
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

// Devices of the ranks at a TP degree: the largest.
std::vector<PlanDevice> Largest(std::vector<PlanDevice> devices, int tp) {
  std::stable_sort(devices.begin(), devices.end(),
                   [](const PlanDevice& a, const PlanDevice& b) { return a.memory > b.memory; });
  devices.resize(tp);
  return devices;
}

// Seconds to decode a token of one stream at full context: the slowest rank reads
// its weights and keys and values once, and ranks exchange twice a layer.
double DecodeSeconds(const loader::ModelConfig& config, const PlanRequest& request,
                     const std::vector<PlanDevice>& devices, const FormatPlan& plan,
                     const parallel::ShardPlan& shards) {
  double read = 0;
  for (int r = 0; r < plan.tp; ++r) {
    const uint64_t kv = Ceil(request.context, model::kBlockSize) *
                        KvBlockBytes(config, shards, r, request.kv_dtype);
    const MemoryPlan& bytes = plan.ranks[r].bytes;
    double seconds = static_cast<double>(bytes.read() + kv) / devices[r].bandwidth;
    // The stream and the products work side by side.
    if (request.stream) {
      seconds = std::max(seconds, static_cast<double>(bytes.streamed) / request.stream_bandwidth);
    }
    read = std::max(read, seconds);
  }
  const double exchange = plan.tp == 1 ? 0 : 2.0 * config.num_layers * request.all_reduce_seconds;
  return read + exchange + kStepOverhead;
}

FormatPlan PlanOne(const loader::ModelConfig& config, const PlanRequest& request, Format format,
                   int tp, const kernels::DeviceLayout& device) {
  const std::vector<PlanDevice> devices = Largest(request.devices, tp);
  std::vector<uint64_t> memory;
  for (const PlanDevice& each : devices) memory.push_back(each.memory);
  const parallel::ShardPlan shards =
      parallel::ShardPlan::Make(model::ShapeOf(config), ShardWeightsByMemory(memory));
  const bool gpus = !device.memory_is_host();
  const int64_t sequence_blocks = Ceil(request.context, model::kBlockSize);
  // A row or a sequence of a step has a token of it at least.
  const int64_t sequences =
      std::min(request.max_batched_tokens, std::max(request.max_num_seqs, request.streams));
  const model::DecoderOptions options = {.kv_dtype = request.kv_dtype,
                                         .num_blocks = sequence_blocks * request.streams,
                                         .max_tokens = request.max_batched_tokens,
                                         .max_rows = sequences,
                                         .max_sequences = sequences,
                                         .max_blocks = sequence_blocks,
                                         .recorded_sequences = gpus ? request.max_num_seqs : 0,
                                         .layers = model::LayersOf(request.stream, gpus)};
  FormatPlan plan = {.format = format, .tp = tp, .fits = true};
  plan.kv_tokens = std::numeric_limits<int64_t>::max();
  for (int r = 0; r < tp; ++r) {
    const model::DecoderBytes bytes = PlanDecoder(config, format, shards, r, device, options);
    RankPlan rank;
    rank.device = devices[r].memory;
    rank.bytes.weights = bytes.weights;
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
    const uint64_t block = KvBlockBytes(config, shards, r, request.kv_dtype);
    const int64_t for_kv = rank.free() + static_cast<int64_t>(rank.bytes.kv);
    if (block > 0) {
      plan.kv_tokens =
          std::min(plan.kv_tokens,
                   std::max<int64_t>(0, for_kv) / static_cast<int64_t>(block) * model::kBlockSize);
    } else if (for_kv < 0) {
      plan.kv_tokens = 0;
    }
    plan.ranks.push_back(rank);
  }
  plan.decode_tokens_per_s = 1.0 / DecodeSeconds(config, request, devices, plan, shards);
  return plan;
}

std::string Names(const FormatPlan& plan) {
  const bool unpacked = plan.format == Format::kFp8 && !plan.ranks[0].bytes.on_gpu;
  return absl::StrCat(FormatName(plan.format), unpacked ? " (held in 16 bits on CPUs)" : "",
                      " at TP = ", plan.tp);
}

// What may be recommended, the most precise first.
std::vector<Format> Candidates(const PlanRequest& request) {
  if (request.only) return {*request.only};
  if (request.stored == Format::kFp8) return {Format::kFp8, Format::kInt8, Format::kInt4};
  std::vector<Format> formats;
  for (const Format format : {Format::kFp32, Format::kBf16, Format::kInt8, Format::kInt4}) {
    if (format >= request.stored) formats.push_back(format);
  }
  return formats;
}

// Shared slots that a rank sees (parallel/shm_host.h), as far as all-reduces of so many floats fill
// them: it maps those of all ranks.
uint64_t SharedSlotBytes(const parallel::ShardPlan& plan, uint64_t floats) {
  const uint64_t slot = parallel::ShmOptions().slot_bytes;
  uint64_t bytes = 2 * std::min(slot, floats * sizeof(float));  // results
  for (int r = 0; r < plan.tp; ++r) {
    const uint64_t rows = std::max(plan.attention_tree.node_count(r), plan.ffn_tree.node_count(r));
    bytes += 2 * std::min(slot, rows * floats * sizeof(float));
  }
  return bytes;
}

}  // namespace

uint64_t CommunicationBytes(const parallel::ShardPlan& plan, int rank,
                            const model::DecoderOptions& options) {
  uint64_t bytes = 0;
  if (plan.tp > 1) {
    const uint64_t nodes = std::max(plan.attention_tree.nodes.size(), plan.ffn_tree.nodes.size());
    const uint64_t floats = options.max_tokens * plan.shape.hidden;
    const uint64_t over_mpi =
        nodes * std::max<uint64_t>(floats / plan.tp + 1, 8 << 10) * sizeof(float);
    bytes = std::max(over_mpi, SharedSlotBytes(plan, floats)) + (plan.tp - 1) * kMpiBytesPerPeer;
  }
  if (rank == 0) {
    const uint64_t copies = plan.tp > 1 ? 2 : 1;
    bytes += copies * options.max_rows * plan.shape.vocab * sizeof(float);
  }
  return bytes;
}

DeviceMessages DeviceMessagesOf(const parallel::ShardPlan& plan,
                                const model::DecoderOptions& options, bool leaf_sums) {
  int64_t sums = 1;  // of a rank, in one all-reduce
  if (leaf_sums) {
    sums = std::max({sums, plan.attention_tree.max_node_count(), plan.ffn_tree.max_node_count()});
  }
  const model::SamplingTraffic sampling = model::RowSampling::Traffic(plan, options.max_rows);
  const int64_t widest = *std::max_element(plan.vocab_widths.begin(), plan.vocab_widths.end());
  return {.max_floats = std::max(sums * options.max_tokens * plan.shape.hidden, sampling.reduced),
          .max_gathered = std::max(options.max_rows * widest, sampling.gathered)};
}

void AddGpuBytes(const parallel::ShardPlan& plan, const model::DecoderOptions& options,
                 bool leaf_sums, uint64_t scratch, MemoryPlan* bytes) {
  const DeviceMessages messages = DeviceMessagesOf(plan, options, leaf_sums);
  const parallel::DeviceBytes collectives =
      parallel::DeviceCommunicatorBytes(plan.tp, messages.max_floats, messages.max_gathered);
  bytes->on_gpu = true;
  bytes->scratch = scratch;
  bytes->graphs = options.records() ? options.recording.bytes : 0;
  bytes->collectives = collectives.gpu;
  bytes->pinned = collectives.pinned + kernels::kCudaPinnedBytes + bytes->streamed;
}

uint64_t KvBlockBytes(const loader::ModelConfig& config, const parallel::ShardPlan& plan, int rank,
                      kernels::KvDType kv_dtype) {
  return model::KvCache::BlockBytes({.layers = config.num_layers,
                                     .kv_heads = plan.ranks[rank].kv_heads.size(),
                                     .head_dim = config.head_dim,
                                     .dtype = kv_dtype});
}

const char* FormatName(Format format) {
  switch (format) {
    case Format::kFp32:
      return "fp32";
    case Format::kBf16:
      return "bf16";
    case Format::kInt8:
      return "int8";
    case Format::kInt4:
      return "int4";
    case Format::kFp8:
      return "fp8";
  }
  TANDEM_CHECK(false);
}

std::optional<Format> FormatByName(const std::string& name) {
  for (const Format format : kFormats) {
    if (name == FormatName(format)) return format;
  }
  return std::nullopt;
}

model::WeightFormat HeldAs(Format format, bool is_head, const kernels::DeviceLayout& device) {
  using kernels::DType;
  const auto quantized = [](int bits) {
    return model::WeightFormat{
        DType::kBF16,
        kernels::QuantFormat{.bits = bits, .group_size = kQuantGroup, .scale_dtype = DType::kF16}};
  };
  switch (format) {
    case Format::kFp32:
      return model::WeightFormat{DType::kF32};
    case Format::kBf16:
      return model::WeightFormat{DType::kBF16};
    case Format::kInt8:
      return quantized(8);
    case Format::kInt4:
      return quantized(is_head ? 8 : 4);
    case Format::kFp8: {
      const kernels::QuantFormat floats = {.bits = 8,
                                           .group_size = kFp8Block,
                                           .scale_dtype = DType::kF32,
                                           .code_type = kernels::CodeType::kFloat8};
      if (is_head || !device.SupportsFormat(floats)) return model::WeightFormat{DType::kBF16};
      return model::WeightFormat{DType::kBF16, floats};
    }
  }
  TANDEM_CHECK(false);
}

uint64_t StorageBytes(const loader::ModelConfig& config, Format format) {
  uint64_t bytes = 0;
  const uint64_t float_bytes = format == Format::kFp32 ? 4 : 2;
  const std::string embedding = std::string(model::kEmbedding) + ".weight";
  const std::string head = std::string(model::kHead) + ".weight";
  for (const loader::ExpectedTensor& tensor : model::ExpectedTensors(config, nullptr)) {
    const uint64_t elements =
        std::accumulate(tensor.shape.begin(), tensor.shape.end(), uint64_t{1}, std::multiplies<>());
    const bool table = tensor.name == embedding || tensor.name == head;
    if (tensor.shape.size() < 2 || format == Format::kFp32 || format == Format::kBf16) {
      bytes += elements * float_bytes;
    } else if (format == Format::kFp8) {
      bytes += table ? elements * 2
                     : elements + Ceil(tensor.shape[0], kFp8Block) *
                                      Ceil(tensor.shape[1], kFp8Block) * sizeof(float);
    } else {
      const uint64_t bits = format == Format::kInt4 && !table ? 4 : 8;
      bytes += elements * bits / 8;
      bytes += tensor.shape[0] * Ceil(tensor.shape[1], kQuantGroup) * 2;  // scales
    }
  }
  return bytes;
}

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

Recommendation Recommend(std::span<const FormatPlan> plans, const PlanRequest& request) {
  std::string passed_over;  // more precise formats that fit nowhere
  for (const Format format : Candidates(request)) {
    const FormatPlan* chosen = nullptr;
    const FormatPlan* slower = nullptr;   // a smaller degree that fits too
    const FormatPlan* no_gain = nullptr;  // the first larger one that is refused
    for (const FormatPlan& plan : plans) {
      if (plan.format != format || !plan.fits) continue;
      if (chosen == nullptr) {
        chosen = &plan;
      } else if (plan.decode_tokens_per_s >= kWorthwhileGain * chosen->decode_tokens_per_s) {
        slower = chosen;
        chosen = &plan;
        no_gain = nullptr;
      } else if (no_gain == nullptr) {
        no_gain = &plan;
      }
    }
    if (chosen == nullptr) {
      absl::StrAppend(&passed_over, passed_over.empty() ? "" : ", ", FormatName(format));
      continue;
    }
    std::string reason = absl::StrCat(Names(*chosen), ": ");
    if (!passed_over.empty()) {
      absl::StrAppend(&reason, "the most precise format that fits (", passed_over,
                      " at no degree)");
    } else if (format == request.stored) {
      absl::StrAppend(&reason, "the format that is stored fits, and a smaller one loses precision");
    } else {
      absl::StrAppend(&reason, "it fits");
    }
    if (slower != nullptr) {
      absl::StrAppendFormat(&reason, "; %.2f times as fast as TP = %d",
                            chosen->decode_tokens_per_s / slower->decode_tokens_per_s, slower->tp);
    } else if (chosen->tp > 1) {
      absl::StrAppend(&reason, "; fewer ranks do not hold it");
    }
    if (no_gain != nullptr) {
      absl::StrAppendFormat(
          &reason,
          "; TP = %d is refused: the model predicts %.2f times the speed, under %.1f, so "
          "replicas use the devices better",
          no_gain->tp, no_gain->decode_tokens_per_s / chosen->decode_tokens_per_s, kWorthwhileGain);
    }
    return {static_cast<size_t>(chosen - plans.data()), reason};
  }
  int64_t least = std::numeric_limits<int64_t>::max();
  const FormatPlan* nearest = nullptr;
  for (const FormatPlan& plan : plans) {
    int64_t lacking = 0;
    for (const RankPlan& rank : plan.ranks) lacking = std::max(lacking, -rank.free());
    if (lacking < least) {
      least = lacking;
      nearest = &plan;
    }
  }
  if (nearest == nullptr) return {std::nullopt, "nothing was planned"};
  return {std::nullopt,
          absl::StrFormat("nothing fits: the nearest, %s, lacks %.2f GiB on its fullest rank; "
                          "take a shorter context, fewer streams or more memory",
                          Names(*nearest), static_cast<double>(least) / (1 << 30))};
}

}  // namespace tandem::plan
