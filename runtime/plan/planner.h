// What each rank would need, by purpose, for every format and TP degree on given
// devices, and which of them to take; before anything is loaded. The same
// arithmetic as loading uses (Decoder::Plan with what a kind of device holds).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "parallel/shard_plan.h"
#include "runtime/loader/model_config.h"
#include "runtime/model/decoder.h"
#include "runtime/plan/memory_plan.h"

namespace tandem::plan {

// What the collectives hold on a rank, over MPI or shared memory, whichever takes
// more: the partial sums of the largest all-reduce and, on rank 0, the logits.
uint64_t CommunicationBytes(const parallel::ShardPlan& plan, int rank,
                            const model::DecoderOptions& options);

// The longest messages of collectives between GPUs, as DeviceCommunicatorOptions have them.
struct DeviceMessages {
  int64_t max_floats = 0;
  int64_t max_gathered = 0;
};
DeviceMessages DeviceMessagesOf(const parallel::ShardPlan& plan,
                                const model::DecoderOptions& options, bool leaf_sums);

// Adds what a rank on a GPU takes beside weights, KV cache and workspace: its kernels' scratch,
// recorded steps, collectives between GPUs, pinned memory of the host. `bytes` has what is
// streamed.
void AddGpuBytes(const parallel::ShardPlan& plan, const model::DecoderOptions& options,
                 bool leaf_sums, uint64_t scratch, MemoryPlan* bytes);

// Of the KV cache on one rank: one block of model::kBlockSize tokens.
uint64_t KvBlockBytes(const loader::ModelConfig& config, const parallel::ShardPlan& plan, int rank,
                      kernels::KvDType kv_dtype);

enum class Format { kFp32, kBf16, kInt8, kInt4, kFp8 };
inline constexpr Format kFormats[] = {Format::kFp32, Format::kBf16, Format::kInt8, Format::kInt4,
                                      Format::kFp8};
const char* FormatName(Format format);
std::optional<Format> FormatByName(const std::string& name);

// How a matrix is held in a format: INT8 and INT4 in groups of 32 with 16-bit scales, the head in 8
// bits then; FP8 in groups of 128 with FP32 scales, the head in 16 bits. Devices that do not
// multiply FP8 hold it in 16 bits.
model::WeightFormat HeldAs(Format format, bool is_head, const kernels::DeviceLayout& device);

// Bytes of the whole model as files store it, embedding and scales included: FP8
// with an FP32 scale for each 128 x 128 block and a 16-bit head, norms in FP32
// (FP32) or 16 bits. Embedding and head in 8 bits for INT8 and INT4.
uint64_t StorageBytes(const loader::ModelConfig& config, Format format);

struct PlanDevice {
  uint64_t memory = 0;   // bytes
  double bandwidth = 0;  // bytes a second
};

struct PlanRequest {
  std::vector<PlanDevice> devices;
  int64_t context = 0;  // tokens of one stream
  int64_t streams = 1;
  int64_t max_num_seqs = 64;  // as serve has them by default
  int64_t max_batched_tokens = 512;
  kernels::KvDType kv_dtype = kernels::KvDType::kBF16;
  Format stored = Format::kBf16;      // nothing more precise is recommended
  std::optional<Format> only;         // if one is asked for, no other
  double all_reduce_seconds = 20e-6;  // of one token's activations
  bool stream = false;                // weights stay on disk, those of GPUs in the host's memory
  double stream_bandwidth = 0;        // bytes a second and rank from there, where they do
  uint64_t process_bytes = 0;         // of a rank, before the model
};

struct RankPlan {
  MemoryPlan bytes;
  uint64_t device = 0;  // its memory
  // What is left; negative: what is lacking.
  int64_t free() const {
    return static_cast<int64_t>(device) -
           static_cast<int64_t>(bytes.on_gpu ? bytes.gpu() : bytes.host());
  }
};

struct FormatPlan {
  Format format = Format::kBf16;
  int tp = 1;
  std::vector<RankPlan> ranks;
  bool fits = false;
  int64_t kv_tokens = 0;           // that fit on the fullest rank beside the rest
  double decode_tokens_per_s = 0;  // of one stream at full context
};

// Every format, or the one asked for, at TP = 1 to the number of devices of a kind. Ranks take the
// largest devices first; where these differ, shards are as ShardWeightsByMemory has them.
std::vector<FormatPlan> PlanAll(const loader::ModelConfig& config, const PlanRequest& request,
                                const kernels::DeviceLayout& device);

// A rank more must make decoding faster by this factor to be worth a GPU.
inline constexpr double kWorthwhileGain = 1.1;

struct Recommendation {
  std::optional<size_t> choice;  // into the plans; none: nothing fits
  std::string reason;            // one or two sentences
};
// The most precise format that fits, from the stored one on. FP8 is recommended where it is stored
// or asked for alone: INT8 in groups of 32 loses less in as many bytes.
Recommendation Recommend(std::span<const FormatPlan> plans, const PlanRequest& request);

}  // namespace tandem::plan
