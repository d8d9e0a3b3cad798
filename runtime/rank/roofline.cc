#include "runtime/rank/roofline.h"

#include <chrono>
#include <vector>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/cuda_probe.h"
#include "parallel/all_gather.h"
#include "runtime/plan/host_limits.h"
#include "runtime/rank/outcome.h"

namespace tandem::rank {
namespace {

// Of all ranks of a host together: more than the caches of any processor hold.
constexpr size_t kProbeBytes = size_t{512} << 20;
// Of each of two buffers on a GPU: more than its caches hold.
constexpr size_t kGpuProbeBytes = size_t{256} << 20;
constexpr std::chrono::milliseconds kProbeTime{60};

// Whether all ranks are OK. A failed exchange is an error.
absl::StatusOr<bool> AllAgree(parallel::ControlGroup& group, const absl::Status& mine) {
  const absl::Status agreed = AgreeOnStatus(group, mine);
  if (ExchangeTimedOut(agreed)) return agreed;
  return agreed.ok();
}

}  // namespace

kernels::DotType DotTypeOf(const kernels::LinearSpec& spec) {
  if (spec.quant.has_value()) {
    // Floats of 8 bits are widened to multiply.
    return spec.quant->code_type == kernels::CodeType::kFloat8 ? kernels::DotType::kBf16
                                                               : kernels::DotType::kInt8;
  }
  return spec.dtype == kernels::DType::kBF16 ? kernels::DotType::kBf16 : kernels::DotType::kF32;
}

absl::StatusOr<std::unique_ptr<kernels::MachineProbe>> MakeProbe(const RankRuntime& runtime,
                                                                 const std::string& isa) {
  if (runtime.on_gpu()) return kernels::MakeCudaProbe(runtime.local_rank(), kGpuProbeBytes);
  return kernels::MakeMachineProbe(isa,
                                   {.threads = runtime.binding().threads,
                                    .cpus = runtime.binding().cpus,
                                    .spin = runtime.binding().own_cores},
                                   kProbeBytes / static_cast<size_t>(runtime.ranks_on_host()));
}

absl::StatusOr<plan::Ceilings> MeasureCeilings(RankRuntime& runtime, kernels::MachineProbe& probe) {
  parallel::ControlGroup& group = runtime.communicator();
  TANDEM_RETURN_IF_ERROR(group.Barrier());
  const double read = probe.ReadBandwidth(kProbeTime);
  TANDEM_RETURN_IF_ERROR(group.Barrier());
  const double peak = probe.PeakArithmetic(DotTypeOf(runtime.decoder().linear_spec()), kProbeTime);
  double stream = 0;
  if (runtime.layers() == model::LayersIn::kHost) {
    TANDEM_RETURN_IF_ERROR(group.Barrier());
    stream = probe.UploadBandwidth(kProbeTime);
  }
  const plan::Ceilings mine = {.read = read, .peak = peak, .stream = stream};
  TANDEM_ASSIGN_OR_RETURN(const std::vector<plan::Ceilings> all, parallel::AllGather(group, mine));
  plan::Ceilings sum;
  for (const plan::Ceilings& rank : all) {
    sum.read += rank.read;
    sum.peak += rank.peak;
    sum.stream += rank.stream;
  }
  return sum;
}

absl::StatusOr<plan::ModelWork> WorkOf(RankRuntime& runtime) {
  model::Decoder& decoder = runtime.decoder();
  const model::DecoderBytes bytes = decoder.bytes();
  const int64_t kv_tokens = runtime.num_blocks() * model::kBlockSize;
  plan::ModelWork mine;
  mine.weights = static_cast<double>(bytes.read() - decoder.head_bytes());
  mine.head = static_cast<double>(decoder.head_bytes());
  mine.kv_token = static_cast<double>(bytes.kv) / static_cast<double>(kv_tokens);
  mine.streamed = static_cast<double>(bytes.streamed);
  TANDEM_ASSIGN_OR_RETURN(const std::vector<plan::ModelWork> all,
                          parallel::AllGather(runtime.communicator(), mine));
  plan::ModelWork work = plan::OperationsOf(runtime.config());
  for (const plan::ModelWork& rank : all) {
    work.weights += rank.weights;
    work.head += rank.head;
    work.kv_token += rank.kv_token;
    work.streamed += rank.streamed;
  }
  return work;
}

absl::StatusOr<double> SecondsAtCeilings(RankRuntime& runtime, const std::string& isa,
                                         const plan::CountingExecutor* done) {
  parallel::ControlGroup& group = runtime.communicator();
  // The probe's memory is not in the plan. Where memory is scarce, a finished job must not fail for
  // it.
  absl::Status room;
  if (!runtime.on_gpu() && plan::AvailableMemory() < 2 * kProbeBytes) {
    room = absl::ResourceExhaustedError("memory for the probe");
  }
  TANDEM_ASSIGN_OR_RETURN(const bool has_room, AllAgree(group, room));
  if (!has_room) return 0.0;
  auto probe = MakeProbe(runtime, isa);
  TANDEM_ASSIGN_OR_RETURN(const bool has_probe, AllAgree(group, probe.status()));
  if (!has_probe) return 0.0;
  TANDEM_ASSIGN_OR_RETURN(const plan::Ceilings ceilings, MeasureCeilings(runtime, **probe));
  return done == nullptr ? 0.0 : done->SecondsAt(ceilings.read, ceilings.peak, ceilings.stream);
}

}  // namespace tandem::rank
