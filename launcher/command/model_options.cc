#include "launcher/command/model_options.h"

#include <CLI/CLI.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "launcher/command/option_checks.h"
#include "runtime/rank/host_list.h"

namespace tandem::launcher {

namespace {

void AddRanks(CLI::App* app, ModelOptions* options) {
  app->add_option("--tp", options->tp,
                  "Tensor-parallel degree: the number of ranks (default: the ranks of the world "
                  "that mpirun or srun started, or one rank per socket)")
      ->check(CLI::Range(1, 4096));
  app->add_option("--hosts", options->hosts,
                  "Hosts to start ranks on, each with its number of slots: node1:2,node2:2 "
                  "(default: this host)")
      ->check([](const std::string& text) {
        return std::string(rank::ParseHosts(text).status().message());
      });
  app->add_option("--threads", options->threads,
                  "Threads per rank (default: the cores of the host, divided among its ranks)")
      ->check(CLI::Range(1, 4096));
  app->add_option("--isa", options->isa,
                  "Instruction set of the CPU kernels: auto, avx2, avx3, vnni, bf16, neon, ref")
      ->capture_default_str();
  app->add_option("--device", options->device,
                  "Device that ranks compute on: cpu, or cuda (one GPU per rank)")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app->add_flag("--deterministic", options->deterministic,
                "On GPUs, compute the same bits at any TP degree and in any batch, which is slower "
                "(CPUs always do)");
}

void AddWeights(CLI::App* app, ModelOptions* options) {
  app->add_option("--dtype", options->dtype,
                  "Weight format, converted while loading: auto (as stored), fp32, fp16, bf16, "
                  "int8, int4; on GPUs also fp8")
      ->capture_default_str();
  app->add_option(
         "--group-size", options->group_size,
         "Columns that share a scale; int8 and int4: 32, 64 or 128 (default: 32); fp8: default 128")
      ->check(CLI::Range(int64_t{1}, kMaxCount));
  app->add_option("--head-dtype", options->head_dtype,
                  "Weight format of the output head (auto: int8 with int8 and int4 weights, as "
                  "stored with fp8)")
      ->capture_default_str();
  app->add_option("--packed-cache", options->packed_cache,
                  "Folder for weights in the kernels' layout: written at the first start, loaded "
                  "at later ones");
  app->add_option("--weights", options->weights,
                  "resident, or stream: layers stay in the file of --packed-cache (for GPUs, in "
                  "host memory), and the next layer is read while one computes")
      ->check(CLI::IsMember({"resident", "stream"}))
      ->capture_default_str();
  app->add_option("--kv-dtype", options->kv_dtype,
                  "Data type of the KV cache: auto, fp32, fp16, bf16, int8")
      ->capture_default_str();
  app->add_option("--shards", options->shards,
                  "How the model is split between ranks: even, auto (by free memory), or one "
                  "weight per rank: 3,3,2")
      ->capture_default_str();
}

void AddLimits(CLI::App* app, ModelOptions* options) {
  app->add_option(
         "--max-model-len", options->max_model_len,
         "Maximum tokens of prompt and answer together (default: the model's limit, or what fits)")
      ->check(CLI::Range(int64_t{2}, kMaxCount));
  app->add_option("--kv-memory", options->kv_memory,
                  "Bytes of KV cache per rank, such as 2GiB (default: the memory that is left)")
      // Before the transform, which would accept a negative size.
      ->check([](const std::string& text) { return RejectNegativeSize(text, "2GiB"); })
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false));
  app->add_option("--max-num-seqs", options->max_num_seqs,
                  "Maximum number of sequences that run at once")
      ->check(CLI::Range(int64_t{1}, kMaxSequences))
      ->capture_default_str();
  app->add_option("--max-batched-tokens", options->max_batched_tokens, "Maximum tokens per step")
      ->check(CLI::Range(int64_t{1}, kMaxCount))
      ->capture_default_str();
  app->add_option("--start-timeout", options->start_timeout,
                  "Seconds that the other ranks wait for a rank to start and load")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
}

void AddCollectives(CLI::App* app, ModelOptions* options) {
  app->add_option_function<std::string>(
         "--bind", [options](const std::string& bind) { options->bind = bind == "auto"; },
         "auto: bind each thread of a rank to its own core; none: bind no thread")
      ->check(CLI::IsMember({"auto", "none"}))
      ->default_str("auto");
  app->add_option("--collectives", options->collectives,
                  "Transport between ranks on CPUs: auto, shm (shared memory within a host), mpi")
      ->check(CLI::IsMember({"auto", "shm", "mpi"}))
      ->capture_default_str();
  const CLI::IsMember ways({"auto", "nccl", "peer", "staged"});
  app->add_option("--gpu-collectives", options->gpu_collectives,
                  "Transport between GPUs: auto (the fastest in a test at start), nccl, peer "
                  "(reads each other's memory, few tokens), staged (through host memory)")
      ->check(ways)
      ->capture_default_str();
  // The name of --gpu-collectives in version 0.1.0; still accepted, not shown in the help.
  app->add_option("--card-collectives", options->gpu_collectives)->check(ways)->group("");
}

}  // namespace

void AddModel(CLI::App* app, std::string* model) {
  app->add_option("MODEL", *model,
                  "Model folder, or the name of a model in the local Hugging Face cache")
      ->required();
}

void AddModelOptions(CLI::App* app, ModelOptions* options) {
  AddModel(app, &options->model);
  AddRanks(app, options);
  AddWeights(app, options);
  AddLimits(app, options);
  AddCollectives(app, options);
  app->callback([options] { CheckModelOptions(*options); });
}

void AddTrace(CLI::App* app, ModelOptions* options) {
  app->add_option("--trace", options->trace_file,
                  "Write a timeline of all ranks to this file, for Perfetto");
}

void AddSpeculate(CLI::App* app, ModelOptions* options, const char* standard) {
  options->speculate = standard;
  app->add_option(
         "--speculate", options->speculate,
         "Compute tokens ahead that followed the same text before: auto (on CPUs, where it "
         "saves time), off, or the most tokens ahead, 1 to 32. No answer depends on it")
      ->check([](const std::string& text) {
        int32_t drafts = 0;
        if (text == "auto" || text == "off" ||
            (absl::SimpleAtoi(text, &drafts) && drafts >= 1 && drafts <= engine::kMostDrafts)) {
          return std::string();
        }
        return absl::StrCat("found ", text, ", expected auto, off or 1 to ", engine::kMostDrafts);
      })
      ->capture_default_str();
}

void CheckModelOptions(const ModelOptions& options) {
  if (options.weights == "stream" && options.device == "cpu" && options.packed_cache.empty()) {
    throw CLI::ValidationError("--weights stream",
                               "found no --packed-cache FOLDER, expected one: weights are streamed "
                               "from its file");
  }
}

namespace {

// On GPUs a step's launches are recorded for one token a sequence: drafts there only when asked
// for.
engine::SpeculationOptions SpeculationOf(const ModelOptions& options) {
  if (options.speculate == "off") return {};
  if (options.speculate == "auto") {
    return {.max_drafts = options.device == "cpu" ? engine::kAutoDrafts : 0, .adaptive = true};
  }
  engine::SpeculationOptions speculation = {.adaptive = false};
  TANDEM_CHECK(absl::SimpleAtoi(options.speculate, &speculation.max_drafts));
  return speculation;
}

}  // namespace

rank::RankOptions RankOptionsOf(const ModelOptions& options) {
  rank::RankOptions rank;
  rank.model = options.model;
  rank.threads = options.threads;
  rank.isa = options.isa;
  rank.device = options.device;
  rank.deterministic = options.deterministic;
  rank.dtype = options.dtype;
  rank.group_size = options.group_size;
  rank.head_dtype = options.head_dtype;
  rank.packed_cache = options.packed_cache;
  rank.stream_weights = options.weights == "stream";
  rank.kv_dtype = options.kv_dtype;
  rank.shards = options.shards;
  rank.max_model_len = options.max_model_len;
  rank.kv_memory = options.kv_memory;
  rank.max_num_seqs = options.max_num_seqs;
  rank.max_batched_tokens = options.max_batched_tokens;
  rank.speculation = SpeculationOf(options);
  rank.bind = options.bind;
  rank.collectives = options.collectives == "shm"   ? parallel::CollectivesChoice::kShm
                     : options.collectives == "mpi" ? parallel::CollectivesChoice::kMpi
                                                    : parallel::CollectivesChoice::kAuto;
  rank.gpu_collectives = options.gpu_collectives;
  return rank;
}

}  // namespace tandem::launcher
