// Speed of the decoder on a GPU (or the CPU), ranks as threads, without MPI and gRPC, on a model
// of random weights that needs no file:
//   decoder_bench --shape 8b --formats bf16,int4 --json results.jsonl
//   decoder_bench --shape 8b --shard 1/4     a rank's share alone, for scripts/tp_model.py
// Bandwidths are compared with copies, arithmetic with large products, both measured in this run.
#include "tests/bench/decoder_bench.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/probe.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_probe.h"
#include "parallel/device_communicator.h"
#include "parallel/thread_communicator.h"
#include "runtime/loader/hf_config.h"
#include "runtime/model/model_tensors.h"
#include "runtime/model/weight_format.h"
#include "tests/bench/random_model.h"

namespace tandem::bench {
namespace {

constexpr int kNoDevice = 77;  // the exit status that CTest shows as skipped

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// The first rank of a world without the others: what it would exchange stays undone.
class LoneShard : public parallel::Communicator {
 public:
  LoneShard(int size, kernels::Backend& backend) : size_(size), backend_(backend), control_(size) {}
  int rank() const override { return 0; }
  int size() const override { return size_; }
  parallel::ControlGroup& control() override { return control_; }
  parallel::ReducePlan PlanReduce(const parallel::TreeLayout&) override { return {0, size_}; }
  absl::Status AllReduce(parallel::ReducePlan, const float*, int64_t, float*) override {
    return absl::OkStatus();
  }
  absl::StatusOr<bool> FusedAllReduceAddRmsNorm(parallel::ReducePlan, const float*,
                                                const kernels::ResidualNorm&) override {
    return false;
  }
  absl::Status GatherColumns(const float* mine, int64_t rows, std::span<const int64_t> widths,
                             float* out) override {
    backend_.CopyToHost(out, mine, rows * widths[0] * sizeof(float));
    backend_.Synchronize();
    return backend_.status();
  }
  absl::Status Await() override { return absl::OkStatus(); }

 private:
  class Control : public parallel::ControlGroup {
   public:
    explicit Control(int size) : size_(size) {}
    int rank() const override { return 0; }
    int size() const override { return size_; }
    absl::StatusOr<std::vector<std::string>> AllGatherBytes(const std::string& mine) override {
      return std::vector<std::string>(size_, mine);
    }
    absl::Status Barrier() override { return absl::OkStatus(); }

   private:
    const int size_;
  };

  const int size_;
  kernels::Backend& backend_;
  Control control_;
};

kernels::DotType DotTypeOf(std::string_view format) {
  return format == "fp32" ? kernels::DotType::kF32 : kernels::DotType::kBf16;
}

absl::StatusOr<Ceilings> MeasureMachine(const BenchOptions& options, std::string_view format) {
  if (!options.Wants("machine")) return Ceilings();
  const size_t bytes = options.probe_bytes;
  absl::StatusOr<std::unique_ptr<kernels::MachineProbe>> probe =
      options.device == "cuda"
          ? kernels::MakeCudaProbe(0, bytes)
          : kernels::MakeMachineProbe("auto", {.threads = options.threads * options.tp}, bytes);
  if (!probe.ok()) return probe.status();
  return Ceilings::Measure(**probe, DotTypeOf(format));
}

absl::StatusOr<std::unique_ptr<kernels::Backend>> MakeBackend(const BenchOptions& options, int rank,
                                                              bool deterministic) {
  if (options.device == "cpu") return kernels::MakeCpuBackend("auto", {.threads = options.threads});
  const int cpus = static_cast<int>(std::thread::hardware_concurrency());
  return kernels::MakeCudaBackend({.device = rank,
                                   .deterministic = deterministic,
                                   .scratch_bytes = static_cast<size_t>(options.scratch_bytes),
                                   .load_threads = std::max(1, cpus / options.tp)});
}

absl::StatusOr<std::unique_ptr<parallel::Communicator>> MakeDeviceWorld(
    const BenchOptions& options, const loader::ModelConfig& config, const parallel::ShardPlan& plan,
    const model::DecoderOptions& decoder, kernels::Backend& backend, parallel::Communicator& host,
    Report* report) {
  const int64_t sums = backend.KeepsLeafTree() ? std::max(plan.attention_tree.max_node_count(),
                                                          plan.ffn_tree.max_node_count())
                                               : 1;
  const int64_t widest = *std::max_element(plan.vocab_widths.begin(), plan.vocab_widths.end());
  std::vector<parallel::AllReduceTrial> trials;
  TANDEM_ASSIGN_OR_RETURN(
      std::unique_ptr<parallel::Communicator> made,
      parallel::MakeDeviceCommunicator(
          host,
          {.stream = kernels::CudaBackend::Of(backend).stream(),
           .max_floats = std::max<int64_t>(1, sums) * decoder.max_tokens * config.hidden_size,
           .max_gathered = decoder.max_rows * widest,
           .step_timeout = std::chrono::minutes(1),
           .deterministic = backend.KeepsLeafTree(),
           .way = options.way},
          &trials));
  for (const parallel::AllReduceTrial& trial : trials) {
    if (report == nullptr) break;
    const std::string status = trial.status.ok() ? "right" : trial.status.ToString();
    report->Add("all-reduce",
                {{"way", trial.way},
                 {"bytes", trial.count * 4},
                 {"time_us", trial.microseconds},
                 {"status", status}},
                absl::StrFormat("%-8s %8d bytes  %8.1f us  %s", trial.way, trial.count * 4,
                                trial.microseconds, status));
  }
  return made;
}

// One rank: loads, measures. `report` on rank 0 alone.
absl::Status RunRank(const BenchOptions& options, const RandomModel& random,
                     const std::string& format, const std::string& mode, const Ceilings& ceilings,
                     parallel::Communicator& world, Report* report) {
  TANDEM_ASSIGN_OR_RETURN(const loader::ModelFolder folder,
                          loader::ModelFolder::Open(random.folder()));
  TANDEM_ASSIGN_OR_RETURN(const loader::ModelConfig config, loader::ReadConfig(folder));
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<loader::Checkpoint> checkpoint,
                          loader::Checkpoint::Open(folder));
  TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<kernels::Backend> backend,
                          MakeBackend(options, world.rank(), mode == "deterministic"));
  if (options.Wants("attention") && report != nullptr && mode == options.modes.front() &&
      format == options.formats.front()) {
    TANDEM_RETURN_IF_ERROR(MeasureAttention(options, config, *backend, ceilings, *report));
  }
  if (!options.Wants("load") && !options.Wants("decode") && !options.Wants("prefill")) {
    return absl::OkStatus();
  }

  const int ranks = options.shard > 0 ? options.shard : options.tp;
  TANDEM_ASSIGN_OR_RETURN(const model::WeightRequests weights,
                          model::WeightRequests::Parse(format, 0, "auto"));
  TANDEM_ASSIGN_OR_RETURN(const kernels::KvDType kv_dtype, ParseKvDType(options.kv_dtype));
  const auto blocks_of = [](int64_t tokens) {
    return (tokens + model::kBlockSize - 1) / model::kBlockSize;
  };
  const int64_t batch = *std::max_element(options.batches.begin(), options.batches.end());
  const int64_t decoding = options.Wants("decode") ? blocks_of(options.context) : 0;
  const int64_t prefill = options.Wants("prefill") ? blocks_of(options.prefill) : 0;
  model::DecoderOptions decoder_options = {.kv_dtype = kv_dtype,
                                           .num_blocks = std::max(batch * decoding, prefill),
                                           .max_tokens = std::max(options.chunk, batch),
                                           .max_rows = batch,
                                           .max_sequences = batch,
                                           .max_blocks = std::max(decoding, prefill),
                                           .recorded_sequences = mode == "graphs" ? batch : 0,
                                           .weights = weights};
  if (mode == "streamed") decoder_options.layers = model::LayersIn::kHost;
  const parallel::ShardPlan plan = parallel::ShardPlan::Make(model::ShapeOf(config), ranks);
  std::unique_ptr<parallel::Communicator> own;
  if (options.shard > 0) {
    own = std::make_unique<LoneShard>(options.shard, *backend);
  } else if (!backend->memory_is_host()) {
    TANDEM_ASSIGN_OR_RETURN(
        own, MakeDeviceWorld(options, config, plan, decoder_options, *backend, world, report));
  }
  parallel::Communicator& communicator = own != nullptr ? *own : world;

  const Clock::time_point begin = Clock::now();
  absl::StatusOr<std::unique_ptr<model::Decoder>> decoder = model::Decoder::Load(
      config, std::move(checkpoint), plan, *backend, communicator, decoder_options);
  TANDEM_RETURN_IF_ERROR(parallel::AgreeOnStatus(communicator.control(), decoder.status()));
  const double seconds = Since(begin);
  const Clock::time_point recording = Clock::now();
  TANDEM_RETURN_IF_ERROR((*decoder)->RecordSteps());
  const double recording_seconds = Since(recording);
  const auto bytes = static_cast<double>((*decoder)->bytes_read());
  if (report != nullptr) {
    const model::DecoderBytes held = (*decoder)->bytes();
    report->Add(
        "load",
        {{"seconds", seconds},
         {"bytes_read", bytes},
         {"bytes_per_s", bytes / seconds},
         {"of_upload",
          ceilings.upload > 0 ? Json(bytes / seconds / ceilings.upload) : Json(nullptr)},
         {"weight_bytes", held.weights},
         {"streamed_bytes", held.streamed},
         {"kv_bytes", held.kv},
         {"workspace_bytes", held.workspace},
         {"recorded_steps", (*decoder)->recorded_steps()},
         {"recorded_bytes", (*decoder)->recorded_bytes()},
         {"recording_seconds", recording_seconds}},
        absl::StrFormat(
            "%.2f s  %.2f GB/s  weights %.2f GB  KV %.2f GB  %d steps recorded in %.2f s", seconds,
            bytes / seconds * 1e-9, static_cast<double>(held.weights) * 1e-9,
            static_cast<double>(held.kv) * 1e-9, (*decoder)->recorded_steps(), recording_seconds));
  }
  const DecoderUnderTest test = {.options = options,
                                 .decoder = **decoder,
                                 .backend = *backend,
                                 .plan = plan,
                                 .rank = world.rank(),
                                 .ceilings = ceilings,
                                 .report = report};
  if (options.Wants("decode")) TANDEM_RETURN_IF_ERROR(MeasureDecode(test));
  if (options.Wants("prefill")) TANDEM_RETURN_IF_ERROR(MeasurePrefill(test));
  return absl::OkStatus();
}

// All ranks of one mode.
absl::Status RunMode(const BenchOptions& options, const RandomModel& random,
                     const std::string& format, const std::string& mode, Report& report) {
  report.Set("mode", mode);
  TANDEM_ASSIGN_OR_RETURN(const Ceilings ceilings, MeasureMachine(options, format));
  if (ceilings.copy > 0) {
    report.Add(
        "machine",
        {{"copy_bytes_per_s", ceilings.copy},
         {"upload_bytes_per_s", ceilings.upload},
         {"product_operations_per_s", ceilings.peak}},
        absl::StrFormat("copy %.1f GB/s  upload %.1f GB/s  product %.1f TFLOP/s",
                        ceilings.copy * 1e-9, ceilings.upload * 1e-9, ceilings.peak * 1e-12));
  }
  parallel::ThreadWorld world(options.tp);
  std::vector<absl::Status> statuses(options.tp);
  std::vector<std::thread> threads;
  for (int r = 0; r < options.tp; ++r) {
    threads.emplace_back([&, r] {
      const std::unique_ptr<parallel::Communicator> host = world.Make(r);
      statuses[r] =
          RunRank(options, random, format, mode, ceilings, *host, r == 0 ? &report : nullptr);
      if (!statuses[r].ok()) world.Abort();
    });
  }
  for (std::thread& thread : threads) thread.join();
  // Of a rank that failed by itself, not because another had.
  absl::Status first;
  for (const absl::Status& status : statuses) {
    if (!status.ok() && (first.ok() || first.code() == absl::StatusCode::kAborted)) first = status;
  }
  return first;
}

absl::Status Run(const BenchOptions& options) {
  // Before a model is made, whether there is a device at all.
  TANDEM_RETURN_IF_ERROR(MakeBackend(options, 0, false).status());
  Report report(options);
  // What an emulation does is no result of a GPU.
  report.Set("device", options.device + TANDEM_BENCH_NOTE);
  report.Set("kv_dtype", options.kv_dtype);
  if (options.layers > 0) report.Set("layers", options.layers);
  report.Set("ranks", options.shard > 0 ? options.shard : options.tp);
  report.Set("alone", options.shard > 0);
  absl::Status first_error;
  for (const std::string& format : options.formats) {
    report.Set("format", format);
    const Clock::time_point begin = Clock::now();
    TANDEM_ASSIGN_OR_RETURN(
        const RandomModel random,
        RandomModel::Make({.shape = options.shape,
                           .layers = options.layers,
                           .dtype = format == "fp16" ? kernels::DType::kF16 : kernels::DType::kBF16,
                           .folder = options.folder}));
    std::printf("%s%s, %s, on %s%s: weights made in %.1f s\n", options.shape.c_str(),
                options.layers > 0 ? absl::StrCat(" of ", options.layers, " layers").c_str() : "",
                format.c_str(), options.device.c_str(), TANDEM_BENCH_NOTE, Since(begin));
    for (const std::string& mode : options.modes) {
      std::printf("-- %s, %s\n", format.c_str(), mode.c_str());
      const absl::Status status = RunMode(options, random, format, mode, report);
      if (status.ok()) continue;
      // The others may do.
      report.Add("error", {{"error", status.ToString()}}, status.ToString());
      if (first_error.ok()) first_error = status;
    }
  }
  return first_error;
}

int Main(int argc, char** argv) {
  const absl::StatusOr<BenchOptions> options = BenchOptions::Parse(argc, argv);
  const absl::Status status = options.ok() ? Run(*options) : options.status();
  if (status.ok()) return 0;
  std::fprintf(stderr, "decoder_bench: %s\n", std::string(status.message()).c_str());
  return status.code() == absl::StatusCode::kUnavailable ? kNoDevice : 1;
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) { return tandem::bench::Main(argc, argv); }
