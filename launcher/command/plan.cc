#include "launcher/command/plan.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "launcher/command/model_options.h"
#include "launcher/command/option_checks.h"
#include "launcher/command/output.h"
#include "launcher/command/plan_report.h"
#include "runtime/loader/checkpoint.h"
#include "runtime/loader/hf_config.h"
#include "runtime/loader/model_folder.h"
#include "runtime/model/model_tensors.h"
#include "runtime/plan/device_list.h"
#include "runtime/plan/planner.h"
#include "runtime/plan/rank_bytes.h"
#include "runtime/plan/recommend.h"
#include "runtime/rank/exit_code.h"
#include "runtime/rank/rank_runtime.h"

namespace tandem::launcher {
namespace {

// Memory of a rank of `serve` without its model: program, libraries, MPI, gRPC, tokenizer.
constexpr uint64_t kProcessBytes = uint64_t{64} << 20;

// Tokens per stream, unless the model's limit is lower.
constexpr int64_t kDefaultContext = 8192;

// GB/s per rank at which weights are streamed: to a GPU from pinned memory over PCIe 4, from a
// disk.
constexpr double kHostBandwidth = 20, kDiskBandwidth = 2;

// The most that --devices can name: 256 devices of 2^50 bytes (device_list.h).
constexpr double kMostCacheBytes = 0x1p58;

// Byte counts have 64 bits: a cache that is too large must not overflow into one that fits.
absl::Status CheckCache(const loader::ModelConfig& config, const plan::PlanRequest& request) {
  const auto shards = parallel::ShardPlan::Make(model::ShapeOf(config), 1);
  const double blocks = std::ceil(static_cast<double>(request.context) / model::kBlockSize) *
                        static_cast<double>(request.streams);
  if (blocks * static_cast<double>(plan::KvBlockBytes(config, shards, 0, request.kv_dtype)) <=
      kMostCacheBytes) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "--context, --streams: found ", request.streams, " streams of ", request.context,
      " tokens, whose KV cache takes over 2^58 bytes, more than any --devices have; expected "
      "less"));
}

}  // namespace

CLI::App* AddPlan(CLI::App& parent, PlanOptions* options) {
  CLI::App* app = parent.add_subcommand(
      "plan", "Show what fits on which devices, and how fast; reads config.json and headers only");
  AddModel(app, &options->model);
  app->add_option("--devices", options->devices, "Memory of the devices: 2x24GiB,1x16GiB")
      ->required();
  app->add_option("--device", options->device, "What the devices are: cpu (sockets) or cuda (GPUs)")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app->add_option("--bandwidth", options->bandwidth,
                  "Memory bandwidth in GB/s: one value, or one per group of devices")
      ->delimiter(',')
      ->check(CLI::Range(0.001, 1e6))
      ->capture_default_str();
  app->add_option("--all-reduce-us", options->all_reduce_us,
                  "Microseconds that an all-reduce of one token takes")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app->add_option("--weights", options->weights,
                  "resident, or stream: layers stay on disk (for GPUs, in host memory)")
      ->check(CLI::IsMember({"resident", "stream"}))
      ->capture_default_str();
  app->add_option("--stream-bandwidth", options->stream_bandwidth,
                  "GB/s at which a rank reads streamed weights (default: 2, a disk; with cuda 20)")
      ->check(CLI::Range(0.001, 1e6));
  app->add_option("--context", options->context,
                  "Tokens of each stream (default: 8192, or the model's limit if lower)")
      ->check(CLI::Range(int64_t{1}, kMaxCount));
  app->add_option("--streams", options->streams, "Number of streams at once")
      ->check(CLI::Range(int64_t{1}, int64_t{1000000}))
      ->capture_default_str();
  app->add_option("--kv-dtype", options->kv_dtype,
                  "Data type of the KV cache: auto, fp32, fp16, bf16, int8")
      ->capture_default_str();
  app->add_option("--format", options->format,
                  "Plan only this format: fp32, bf16, int8, int4 or fp8");
  app->add_option("--tp", options->tp, "Plan only this TP degree")->check(CLI::Range(1, 4096));
  app->add_flag("--json", options->json, "Print a JSON list");
  app->add_option("--plot", options->plot, "Write a chart to this file, SVG");
  return app;
}

absl::StatusOr<int> RunPlan(const PlanOptions& options, char** /*argv*/) {
  plan::PlanRequest request;
  TANDEM_ASSIGN_OR_RETURN(request.devices, plan::ParseDevices(options.devices, options.bandwidth));
  if (!options.format.empty()) {
    request.only = plan::FormatByName(options.format);
    if (!request.only.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("--format: found '", options.format,
                                                     "', expected fp32, bf16, int8, int4 or fp8"));
    }
  }
  if (options.tp > static_cast<int>(request.devices.size())) {
    return absl::InvalidArgumentError(absl::StrCat("--tp: found ", options.tp,
                                                   ", expected at most ", request.devices.size(),
                                                   ", the number of --devices"));
  }

  TANDEM_ASSIGN_OR_RETURN(const loader::ModelFolder folder,
                          loader::ModelFolder::Open(options.model));
  TANDEM_ASSIGN_OR_RETURN(const loader::ModelConfig config, loader::ReadConfig(folder));
  TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<loader::Checkpoint> checkpoint,
                          loader::Checkpoint::Open(folder));
  TANDEM_RETURN_IF_ERROR(model::CheckTensors(config, *checkpoint));
  const model::Module gate =
      model::LayerMatrix(config, 0, model::MatrixRole::kGateUp).modules.front();
  const model::WeightFormat stored = model::StoredFormat(config, *checkpoint, gate);
  if (stored.quant && stored.quant->code_type == kernels::CodeType::kFloat8) {
    request.stored = plan::Format::kFp8;
  } else if (stored.quant) {
    request.stored = stored.quant->bits == 4 ? plan::Format::kInt4 : plan::Format::kInt8;
  } else {
    request.stored =
        stored.dtype == kernels::DType::kF32 ? plan::Format::kFp32 : plan::Format::kBf16;
  }
  const model::WeightFormat embedding =
      model::StoredFormat(config, *checkpoint, model::EmbeddingModule(config));
  request.embedding_bytes = model::EmbeddingBytes(config, *checkpoint);
  TANDEM_ASSIGN_OR_RETURN(
      request.kv_dtype,
      rank::KvDType(options.kv_dtype, embedding.quant ? config.dtype : embedding.dtype));
  if (options.context > config.max_position_embeddings) {
    return absl::InvalidArgumentError(
        absl::StrCat("--context: found ", options.context, ", expected at most ",
                     config.max_position_embeddings, ", the model's max_position_embeddings"));
  }
  request.context = options.context > 0 ? options.context
                                        : std::min(kDefaultContext, config.max_position_embeddings);
  request.streams = options.streams;
  request.all_reduce_seconds = options.all_reduce_us * 1e-6;
  request.process_bytes = kProcessBytes;
  request.stream = options.weights == "stream";
  const bool gpus = options.device == "cuda";
  request.stream_bandwidth =
      options.stream_bandwidth.value_or(gpus ? kHostBandwidth : kDiskBandwidth) * 1e9;
  TANDEM_RETURN_IF_ERROR(CheckCache(config, request));

  std::unique_ptr<kernels::DeviceLayout> device = kernels::MakeCudaLayout();
  if (!gpus) {
    TANDEM_ASSIGN_OR_RETURN(device, kernels::MakeCpuBackend("auto", {.threads = 1}));
  }
  std::vector<plan::FormatPlan> plans = plan::PlanAll(config, request, *device);
  std::erase_if(
      plans, [&](const plan::FormatPlan& plan) { return options.tp > 0 && plan.tp != options.tp; });
  const plan::Recommendation recommendation = plan::Recommend(plans, request);
  if (!options.plot.empty()) {
    TANDEM_RETURN_IF_ERROR(WriteFile("--plot", options.plot, PlanChart(plans, recommendation)));
  }
  TANDEM_RETURN_IF_ERROR(WriteStdout(
      options.json ? PlanJson(plans) + "\n" : PlanTable(config, request, plans, recommendation)));
  return recommendation.choice.has_value() ? 0 : rank::kExitUnavailable;
}

}  // namespace tandem::launcher
