// What each rank would need, by purpose, for every format and TP degree on given devices, before
// anything is loaded. Loading uses the same arithmetic (Decoder::Plan, with what a kind of device
// holds). recommend.h chooses among the plans.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/device_layout.h"
#include "kernels/kv_cache_view.h"
#include "runtime/loader/model_config.h"
#include "runtime/plan/format.h"
#include "runtime/plan/memory_plan.h"

namespace tandem::plan {

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
  uint64_t embedding_bytes = 0;       // as it is stored (model::EmbeddingBytes)
  Format stored = Format::kBf16;      // nothing more precise is recommended
  std::optional<Format> only;         // nullopt: all formats
  double all_reduce_seconds = 20e-6;  // of one token's activations
  bool stream = false;                // weights stay on disk, or for GPUs in the host's memory
  double stream_bandwidth = 0;        // bytes a second from there to each rank, if `stream`
  uint64_t process_bytes = 0;         // of a rank, before the model
};

struct RankPlan {
  MemoryPlan bytes;
  uint64_t device = 0;  // its memory
  // Bytes left; negative: bytes missing.
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
  int64_t kv_tokens = 0;           // tokens of KV cache that fit on the fullest rank
  double decode_tokens_per_s = 0;  // of one stream at full context
};

// Every format, or request.only, at each TP degree from 1 to the number of devices. Ranks take the
// largest devices first; where these differ, ShardWeightsByMemory divides the model.
std::vector<FormatPlan> PlanAll(const loader::ModelConfig& config, const PlanRequest& request,
                                const kernels::DeviceLayout& device);

}  // namespace tandem::plan
