// Options of every command that runs a model.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/rank/rank_runtime.h"

namespace CLI {
class App;
}

namespace tandem::launcher {

struct ModelOptions {
  std::string model;  // folder, or name in the local Hugging Face cache
  int tp = 0;         // number of ranks; 0: of the given world, or one per socket
  std::string hosts;  // to start ranks on, as rank::ParseHosts reads them; empty: this host
  int threads = 0;    // per rank; 0: the cores of the host, divided among its ranks
  std::string isa = "auto";
  std::string device = "cpu";  // or cuda
  bool deterministic = false;
  std::string dtype = "auto";  // of weights
  int64_t group_size = 0;      // 0: the format's default
  std::string head_dtype = "auto";
  std::string packed_cache;
  std::string weights = "resident";  // or stream
  std::string kv_dtype = "auto";
  std::string shards = "even";  // even, auto (by free memory), or a weight for each rank
  int64_t max_model_len = 0;    // tokens; 0: the model's limit, or what fits
  uint64_t kv_memory = 0;       // bytes per rank; 0: what is left
  int64_t max_num_seqs = 64;
  int64_t max_batched_tokens = 512;
  // Seconds that the other ranks wait for a rank to start and load.
  double start_timeout = 1800;
  std::string speculate = "off";         // off, auto, or the most drafts; see AddSpeculate
  std::string trace_file;                // only serve, generate and bench; empty: none
  std::string collectives = "auto";      // auto, shm, mpi
  std::string gpu_collectives = "auto";  // auto, nccl, peer, staged
  bool bind = true;                      // bind threads to cores
};

// The positional argument MODEL, required.
void AddModel(CLI::App* app, std::string* model);
// MODEL and all other ModelOptions but --trace. Sets the callback of the app: a command with a
// callback of its own calls CheckModelOptions there.
void AddModelOptions(CLI::App* app, ModelOptions* options);
void AddTrace(CLI::App* app, ModelOptions* options);
// --speculate, for commands that generate; `standard` is its default.
void AddSpeculate(CLI::App* app, ModelOptions* options, const char* standard);

// Throws CLI::ValidationError for options that contradict each other.
void CheckModelOptions(const ModelOptions& options);

rank::RankOptions RankOptionsOf(const ModelOptions& options);

}  // namespace tandem::launcher
